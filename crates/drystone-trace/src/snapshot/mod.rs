//! torch's memory snapshot, as plain types.

mod actions;
mod decode;
mod entry_pools;
mod from_run;
mod keys;
mod layout;
mod pools;
mod stacks;
mod to_trace;
mod view;
mod write;

use crate::error::TraceError;
use crate::input::Input;
use crate::limits::{Budget, Limits};
use crate::{json, pickle};

pub use entry_pools::{EntryPool, EntryPools};
pub(crate) use stacks::RawFrame;
pub use stacks::{Frame, StackId, Stacks};

/// What `torch.cuda.memory._dump_snapshot` wrote: the allocator's segments at that time, and the
/// ring of the last events of each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The segments, in the order of the file.
    pub segments: Vec<Segment>,
    /// The events of each device, oldest first; the index is the device.
    pub device_traces: Vec<Vec<TraceEntry>>,
    /// The allocator's settings as text; inner tables are flattened, as in
    /// `roundup_power2_divisions.256`.
    pub settings: Vec<(String, String)>,
    /// The Python and C++ frames that segments, blocks and entries refer to.
    pub stacks: Stacks,
    /// How many of the first entries of each device's ring are allocations of blocks that were live
    /// before: those that [`Run::to_snapshot`](crate::Run::to_snapshot) puts there. Empty for torch's
    /// own snapshots.
    pub prelude: Vec<u64>,
    /// The pools that entries name themselves; empty for torch's own snapshots.
    pub entry_pools: EntryPools,
}

/// Memory that the allocator took from the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The device.
    pub device: u32,
    /// Where it begins.
    pub address: u64,
    /// Bytes.
    pub total_size: u64,
    /// Bytes in blocks that the program holds.
    pub allocated_size: u64,
    /// The same and bytes in blocks that wait for other streams.
    pub active_size: u64,
    /// Bytes that the program asked for in those blocks.
    pub requested_size: u64,
    /// The stream it belongs to, by torch's number (a handle); 0 is the default one.
    pub stream: u64,
    /// Which of the allocator's pools it serves.
    pub segment_type: SegmentType,
    /// The private pool it belongs to; (0, 0) is the default one.
    pub segment_pool_id: (u64, u64),
    /// Whether it is an expandable segment.
    pub is_expandable: bool,
    /// Its blocks by address; together they are the segment.
    pub blocks: Vec<SnapshotBlock>,
    /// Who caused it to be taken.
    pub stack: StackId,
}

/// Whether a segment serves requests up to 1 MiB or larger ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SegmentType {
    /// Requests up to 1 MiB.
    Small,
    /// Larger ones; also where the snapshot does not say.
    #[default]
    Large,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBlock {
    /// Where it begins.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that the program asked for; of an inactive block the last request, which says nothing.
    pub requested_size: u64,
    /// Whether it is in use.
    pub state: BlockState,
    /// Who asked for it.
    pub stack: StackId,
}

/// Whether a block is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// The program holds it.
    Allocated,
    /// Freed, but other streams may still use it.
    PendingFree,
    /// Free.
    #[default]
    Inactive,
}

/// What an entry of a ring says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// A block was handed out.
    Alloc,
    /// A block was given back.
    FreeRequested,
    /// No stream uses a freed block any more.
    FreeCompleted,
    /// A segment was taken from the device.
    SegmentAlloc,
    /// A segment was given back to the device.
    SegmentFree,
    /// Memory was mapped into an expandable segment.
    SegmentMap,
    /// Memory of an expandable segment was unmapped.
    SegmentUnmap,
    /// A snapshot was taken.
    Snapshot,
    /// A request could not be met.
    OutOfMemory,
    /// An action that this version does not know.
    Unknown,
}

/// An entry of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// What happened.
    pub action: Action,
    /// The block's or segment's address; for [`Action::OutOfMemory`] the bytes free on the device.
    pub addr: u64,
    /// Bytes: of a block what the program asked for.
    pub size: u64,
    /// The stream, by torch's number (a handle); 0 is the default one.
    pub stream: u64,
    /// Microseconds since 1970; 0 in old snapshots, which have no times.
    pub time_us: u64,
    /// Who did it; empty if it was not recorded.
    pub stack: StackId,
    /// The pool of the block or segment, by its number in [`Snapshot::entry_pools`]: said by the
    /// histories that Drystone records.
    pub pool: EntryPool,
}

const _: () = assert!(size_of::<TraceEntry>() <= 40, "millions of entries are held at once");

/// The strings of a snapshot's text are found by 32-bit offsets.
const MOST_TEXT_BYTES: u64 = u32::MAX as u64;

impl Snapshot {
    /// Reads a snapshot, a pickle or JSON; with it the limits for what is made of it.
    pub(crate) fn read(
        input: Input<'_>,
        limits: &Limits,
    ) -> Result<(Snapshot, Limits), TraceError> {
        let mut budget = Budget::new(limits);
        let read = if json::is_json(input.head()) { json::read } else { pickle::read };
        let text = input.read_all(&mut budget, MOST_TEXT_BYTES)?;
        budget.seen(text.len() as u64);
        let (arena, top) = read(&text, limits, &mut budget)?;
        let without = budget.used();
        let snapshot = decode::decode(&arena, top, limits, &mut budget)?;
        let left = budget.left(budget.used() - without);
        Ok((snapshot, left))
    }
}
