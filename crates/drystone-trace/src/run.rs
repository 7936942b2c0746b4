//! A trace with what its recording says beside it: settings, stacks, the segments at the end.

use crate::event::Trace;
use crate::snapshot::{Frame, Segment, StackId, Stacks};

/// All that is known of a recorded run. What a format does not have is empty: a CSV has the trace
/// only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What the program asked for.
    pub trace: Trace,
    /// The recording allocator's settings as text; inner tables are flattened, as in
    /// `roundup_power2_divisions.256`.
    pub settings: Vec<(String, String)>,
    /// The Python and C++ frames that the others refer to.
    pub stacks: Stacks,
    /// Who asked for each block, by block number; empty where no stack was recorded.
    pub block_stacks: Vec<StackId>,
    /// The requests that could not be met and of which more is known, in order.
    pub out_of_memory: Vec<OutOfMemory>,
    /// The recording allocator's segments when the recording ended.
    pub segments: Vec<Segment>,
}

/// What is known of an [`Op::OutOfMemory`](crate::Op::OutOfMemory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Its place in [`Trace::events`].
    pub event: usize,
    /// Bytes that the device had free.
    pub device_free: u64,
    /// Who asked.
    pub stack: StackId,
}

impl Run {
    /// The frames of who asked for a block, innermost first; none where they are not known.
    pub fn frames_of_block(&self, block: u32) -> impl Iterator<Item = Frame<'_>> {
        self.stacks.frames(self.stack_of_block(block))
    }

    /// The number of the stack of who asked for a block; the empty one where it is not known.
    pub fn stack_of_block(&self, block: u32) -> StackId {
        self.block_stacks.get(block as usize).copied().unwrap_or_default()
    }
}

impl From<Trace> for Run {
    fn from(trace: Trace) -> Self {
        Run {
            trace,
            settings: Vec::new(),
            stacks: Stacks::default(),
            block_stacks: Vec::new(),
            out_of_memory: Vec::new(),
            segments: Vec::new(),
        }
    }
}
