//! Call stacks, each kept once: a snapshot repeats few stacks in very many entries.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::{Budget, Exceeded};

/// The number of a stack in [`Stacks`]; the default is the empty stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(u32);

impl StackId {
    /// The number itself.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn from_number(number: u32) -> Self {
        StackId(number)
    }
}

/// A line of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame<'a> {
    /// The source file, as recorded.
    pub filename: &'a str,
    /// The line in it, from 1; 0 if it is not known.
    pub line: u32,
    /// The function.
    pub name: &'a str,
}

/// A frame by the numbers of its strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RawFrame {
    pub(crate) filename: u32,
    pub(crate) name: u32,
    pub(crate) line: u32,
}

/// All stacks of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks {
    strings: Vec<Arc<str>>,
    frames: Vec<RawFrame>,
    /// The frames of all stacks, one after the other.
    members: Vec<u32>,
    /// Where each stack ends in `members`; the empty stack, number 0, is not in here.
    ends: Vec<u32>,
}

impl Stacks {
    /// The frames of a stack, innermost first; none for a number of another snapshot.
    pub fn frames(&self, id: StackId) -> impl Iterator<Item = Frame<'_>> {
        self.members(id).iter().map(|&frame| {
            let RawFrame { filename, name, line } = self.frames[frame as usize];
            Frame {
                filename: &self.strings[filename as usize],
                line,
                name: &self.strings[name as usize],
            }
        })
    }

    /// How many different stacks there are, the empty one included.
    pub fn len(&self) -> usize {
        self.ends.len() + 1
    }

    /// Whether no entry has a stack.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The tables themselves: strings, frames, and how many stacks there are but for the empty one.
    pub(crate) fn tables(&self) -> (&[Arc<str>], &[RawFrame], usize) {
        (&self.strings, &self.frames, self.ends.len())
    }

    pub(crate) fn push_string(&mut self, text: &str, budget: &mut Budget) -> Result<(), Exceeded> {
        budget.charge(text.len() as u64 + STRING_BYTES)?;
        budget.push(&mut self.strings, text.into())
    }

    /// Appends a frame; false if it names a string that is not there.
    pub(crate) fn push_frame(
        &mut self,
        frame: RawFrame,
        budget: &mut Budget,
    ) -> Result<bool, Exceeded> {
        let strings = self.strings.len();
        if frame.filename as usize >= strings || frame.name as usize >= strings {
            return Ok(false);
        }
        budget.push(&mut self.frames, frame)?;
        Ok(true)
    }

    /// Appends a stack; false if it has no frames, or names one that is not there.
    pub(crate) fn push_stack(
        &mut self,
        frames: &[u32],
        budget: &mut Budget,
    ) -> Result<bool, Exceeded> {
        let end = u32::try_from(self.members.len() + frames.len()).ok();
        let known = frames.iter().all(|&frame| (frame as usize) < self.frames.len());
        let Some(end) = end.filter(|_| known && !frames.is_empty()) else { return Ok(false) };
        budget.reserve(&mut self.members, frames.len())?;
        self.members.extend_from_slice(frames);
        budget.push(&mut self.ends, end)?;
        Ok(true)
    }

    /// The numbers of a stack's frames, innermost first.
    pub(crate) fn members(&self, id: StackId) -> &[u32] {
        let Some(index) = (id.0 as usize).checked_sub(1) else { return &[] };
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.members[start as usize..end as usize]
    }
}

/// What a string takes beside its text: the counts of an [`Arc`].
const STRING_BYTES: u64 = 16;

/// Finds equal strings, frames and stacks while a snapshot is read.
#[derive(Debug, Default)]
pub(super) struct Interner {
    stacks: Stacks,
    strings: HashMap<Arc<str>, u32>,
    frames: HashMap<(u32, u32, u32), u32>,
    ids: HashMap<Box<[u32]>, StackId>,
}

/// What an entry in the tables takes beside its content, about.
const ENTRY_BYTES: u64 = 96;

impl Interner {
    /// The number of a frame.
    pub(super) fn frame(&mut self, frame: Frame<'_>, budget: &mut Budget) -> Result<u32, Exceeded> {
        let filename = self.string(frame.filename, budget)?;
        let name = self.string(frame.name, budget)?;
        let key = (filename, name, frame.line);
        if let Some(&number) = self.frames.get(&key) {
            return Ok(number);
        }
        budget.charge(ENTRY_BYTES)?;
        let number = self.stacks.frames.len() as u32;
        self.stacks.frames.push(RawFrame { filename, name, line: frame.line });
        self.frames.insert(key, number);
        Ok(number)
    }

    /// The number of the stack of these frames.
    pub(super) fn stack(
        &mut self,
        frames: &[u32],
        budget: &mut Budget,
    ) -> Result<StackId, Exceeded> {
        if frames.is_empty() {
            return Ok(StackId::default());
        }
        if let Some(&id) = self.ids.get(frames) {
            return Ok(id);
        }
        budget.charge(ENTRY_BYTES + 4 * frames.len() as u64)?;
        budget.reserve(&mut self.stacks.members, frames.len())?;
        self.stacks.members.extend_from_slice(frames);
        self.stacks.ends.push(self.stacks.members.len() as u32);
        let id = StackId(self.stacks.ends.len() as u32);
        self.ids.insert(frames.into(), id);
        Ok(id)
    }

    pub(super) fn finish(self) -> Stacks {
        self.stacks
    }

    fn string(&mut self, text: &str, budget: &mut Budget) -> Result<u32, Exceeded> {
        if let Some(&number) = self.strings.get(text) {
            return Ok(number);
        }
        budget.charge(ENTRY_BYTES + text.len() as u64)?;
        let text: Arc<str> = text.into();
        let number = self.stacks.strings.len() as u32;
        self.stacks.strings.push(Arc::clone(&text));
        self.strings.insert(text, number);
        Ok(number)
    }
}
