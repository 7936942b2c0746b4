//! The Python frames of the blocks in a page, where the recording has them.

use std::collections::HashMap;

use drystone_trace::{Run, StackId};
use serde::Serialize;

use super::columns::packed;
use super::moments::Life;

/// The most frames of a stack that a page has, innermost first.
const DEPTH: usize = 24;

/// Names once, frames by the numbers of their names, stacks by the numbers of their frames.
#[derive(Default, Serialize)]
struct Table<'a> {
    names: Vec<&'a str>,
    /// File, line, function.
    frames: Vec<(usize, u32, usize)>,
    /// Innermost first.
    stacks: Vec<Vec<usize>>,
    /// The stack of each block.
    blocks: Vec<usize>,
}

/// The stacks of the blocks as text of a page; none if nothing was recorded.
pub(super) fn stacks(run: &Run, shown: &[Life]) -> Option<String> {
    if run.stacks.is_empty() {
        return None;
    }
    let mut table = Table::default();
    let (mut names, mut frames, mut known) = (HashMap::new(), HashMap::new(), HashMap::new());
    for life in shown {
        let id: StackId = run.stack_of_block(life.id);
        let number = *known.entry(id).or_insert_with(|| {
            let mut name = |text| number(&mut names, &mut table.names, text);
            let stack = run.stacks.frames(id).take(DEPTH).map(|frame| {
                let frame = (name(frame.filename), frame.line, name(frame.name));
                number(&mut frames, &mut table.frames, frame)
            });
            let stack = stack.collect();
            table.stacks.push(stack);
            table.stacks.len() - 1
        });
        table.blocks.push(number);
    }
    serde_json::to_vec(&table).ok().map(|json| packed(&json))
}

/// The number of a thing in a table, where it is put if it is new.
fn number<T: Copy + Eq + std::hash::Hash>(
    numbers: &mut HashMap<T, usize>,
    table: &mut Vec<T>,
    thing: T,
) -> usize {
    *numbers.entry(thing).or_insert_with(|| {
        table.push(thing);
        table.len() - 1
    })
}
