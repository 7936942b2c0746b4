//! Who holds blocks: sums by the Python frame that asked for them.

use std::collections::HashMap;

use drystone_trace::{Run, StackId};
use serde::Serialize;

use super::view::View;

/// The most holders that are told of.
const MOST: usize = 6;

/// Blocks from one place in the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// File, line and function of the innermost frame that is not PyTorch's own; none if the
    /// recording has no frames.
    pub frame: Option<String>,
    /// Bytes that were asked for, of all its blocks.
    pub bytes: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The largest of them.
    pub largest: u64,
}

/// The holders of blocks, given by number and size: largest sum first.
pub(super) fn holders(view: &View<'_>, blocks: &[(u32, u64)]) -> Vec<Holder> {
    let run = view.run;
    let mut by_stack: HashMap<StackId, Holder> = HashMap::new();
    for &(block, size) in blocks {
        let holder = by_stack.entry(view.stack_of(block)).or_default();
        holder.add(size, 1, size);
    }
    holders_of(run, by_stack)
}

/// The holders of blocks, given by the stack that asked for them: largest sum first.
pub(super) fn holders_of(run: &Run, by_stack: HashMap<StackId, Holder>) -> Vec<Holder> {
    let mut by_frame: HashMap<Option<String>, Holder> = HashMap::new();
    for (stack, sum) in by_stack {
        let frame = frame(run, stack);
        let holder = by_frame.entry(frame.clone()).or_default();
        holder.frame = frame;
        holder.add(sum.bytes, sum.blocks, sum.largest);
    }
    let mut all: Vec<_> = by_frame.into_values().filter(|holder| holder.bytes > 0).collect();
    all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.frame.cmp(&b.frame)));
    all.truncate(MOST);
    all
}

impl Holder {
    pub(super) fn add(&mut self, bytes: u64, blocks: u64, largest: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.blocks += blocks;
        self.largest = self.largest.max(largest);
    }
}

/// The innermost Python frame of the program itself, or else the innermost one at all.
pub(super) fn frame(run: &Run, stack: StackId) -> Option<String> {
    let python = |file: &str| file.ends_with(".py");
    let library = |file: &str| {
        file.starts_with("torch/") || file.contains("/torch/") || file.contains("-packages/")
    };
    let frames = || run.stacks.frames(stack);
    let own = frames().find(|frame| python(frame.filename) && !library(frame.filename));
    let found = own.or_else(|| frames().find(|f| python(f.filename))).or_else(|| frames().next());
    found.map(|frame| format!("{}:{} {}", frame.filename, frame.line, frame.name))
}
