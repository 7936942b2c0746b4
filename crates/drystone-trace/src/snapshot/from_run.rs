//! From a run to a snapshot: a trace has no addresses, so that they are made up.

use std::collections::BTreeMap;

use crate::error::TraceError;
use crate::event::{Op, Trace};
use crate::run::Run;
use crate::snapshot::layout::{Arena, rounded};
use crate::snapshot::{
    Action, BlockState, EntryPool, EntryPools, Segment, SegmentType, Snapshot, SnapshotBlock,
    StackId, TraceEntry,
};

/// Where the first arena begins: about where CUDA's addresses do.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
/// Arenas begin at multiples of this.
const PAGE: u64 = 2 << 20;
/// All arenas end below this: torch's viewer takes addresses for signed numbers.
const MOST_ADDRESSES: u64 = 1 << 62;

/// One (device, stream, pool), which has one arena and at the end one segment.
type Place = (u32, u32, u32);

impl Run {
    /// The run as a snapshot that torch's viewer opens. Where blocks lay was not recorded: the blocks of
    /// each device, stream and pool get addresses by best fit in one segment of their own. The segments and
    /// segment events of the recording allocator, which are about other addresses, are left out.
    ///
    /// # Errors
    /// [`TraceError::NoRoom`] where the blocks need more than 2^62 bytes of addresses.
    pub fn to_snapshot(&self) -> Result<Snapshot, TraceError> {
        let trace = &self.trace;
        let mut layout = Layout::of(trace)?;
        layout.place_arenas()?;
        let mut prelude = vec![0; trace.devices as usize];
        let mut device_traces = vec![Vec::new(); trace.devices as usize];
        let mut refused = self.out_of_memory.iter().peekable();
        for (index, event) in trace.events.iter().enumerate() {
            let known = refused.next_if(|refused| refused.event == index);
            let (addr, stack) = match event.op {
                Op::Alloc => (layout.address(event.id), self.stack_of_block(event.id)),
                Op::FreeRequested | Op::FreeCompleted => {
                    (layout.address(event.id), StackId::default())
                }
                Op::OutOfMemory => {
                    known.map_or((0, StackId::default()), |known| (known.device_free, known.stack))
                }
                _ => (0, StackId::default()),
            };
            let Some(action) = action_of(event.op) else { continue };
            // A free is in the ring that its block is in, whatever device it names.
            let device = if event.op.has_block() { layout.device(event.id) } else { event.device };
            device_traces[device as usize].push(TraceEntry {
                action,
                addr,
                size: event.size,
                stream: u64::from(event.stream),
                time_us: event.t_us,
                stack,
                // The segments say it: each is of one pool all the while.
                pool: EntryPool::default(),
            });
            if index < trace.prelude {
                prelude[device as usize] += 1;
            }
        }
        Ok(Snapshot {
            segments: layout.segments(|block| self.stack_of_block(block)),
            device_traces,
            settings: self.settings.clone(),
            stacks: self.stacks.clone(),
            prelude: if trace.prelude == 0 { Vec::new() } else { prelude },
            entry_pools: EntryPools::default(),
        })
    }

    /// How many events [`to_snapshot`](Self::to_snapshot) leaves out.
    pub fn left_out_of_snapshot(&self) -> u64 {
        self.trace.events.iter().filter(|event| action_of(event.op).is_none()).count() as u64
    }
}

/// What an event is in a ring; none for those of segments.
fn action_of(op: Op) -> Option<Action> {
    match op {
        Op::Alloc => Some(Action::Alloc),
        Op::FreeRequested => Some(Action::FreeRequested),
        Op::FreeCompleted => Some(Action::FreeCompleted),
        Op::OutOfMemory => Some(Action::OutOfMemory),
        Op::Snapshot => Some(Action::Snapshot),
        Op::SegmentAlloc | Op::SegmentFree | Op::SegmentMap | Op::SegmentUnmap => None,
    }
}

/// A block's place.
#[derive(Clone, Copy)]
struct Placed {
    arena: Place,
    offset: u64,
    size: u64,
    /// `None` once it is free.
    state: Option<BlockState>,
}

/// Where all blocks lie.
struct Layout {
    arenas: BTreeMap<Place, Arena>,
    starts: BTreeMap<Place, u64>,
    blocks: Vec<Placed>,
}

impl Layout {
    fn of(trace: &Trace) -> Result<Layout, TraceError> {
        let mut arenas: BTreeMap<Place, Arena> = BTreeMap::new();
        let mut placed: Vec<Placed> = Vec::with_capacity(trace.blocks as usize);
        for event in &trace.events {
            match event.op {
                Op::Alloc => {
                    let arena = (event.device, event.stream, trace.pool_of(event.id));
                    let place = arenas.entry(arena).or_default();
                    let offset =
                        place.place(event.size, MOST_ADDRESSES).ok_or(TraceError::NoRoom)?;
                    let state = Some(BlockState::Allocated);
                    placed.push(Placed { arena, offset, size: event.size, state });
                }
                Op::FreeRequested => {
                    placed[event.id as usize].state = Some(BlockState::PendingFree);
                }
                Op::FreeCompleted => {
                    let block = &mut placed[event.id as usize];
                    block.state = None;
                    // The arena has been there since the block was placed.
                    arenas.entry(block.arena).or_default().free(block.offset, block.size);
                }
                _ => {}
            }
        }
        Ok(Layout { arenas, starts: BTreeMap::new(), blocks: placed })
    }

    /// One after the other.
    fn place_arenas(&mut self) -> Result<(), TraceError> {
        let mut next = FIRST_ADDRESS;
        for (&place, arena) in &self.arenas {
            self.starts.insert(place, next);
            let end = next.checked_add(arena.end().next_multiple_of(PAGE));
            next = end.filter(|&end| end <= MOST_ADDRESSES).ok_or(TraceError::NoRoom)?;
        }
        Ok(())
    }

    fn address(&self, block: u32) -> u64 {
        let block = &self.blocks[block as usize];
        self.starts[&block.arena] + block.offset
    }

    fn device(&self, block: u32) -> u32 {
        self.blocks[block as usize].arena.0
    }

    /// The arenas as segments with their blocks at the end; `stack_of` says who asked for a block.
    fn segments(&self, stack_of: impl Fn(u32) -> StackId) -> Vec<Segment> {
        let mut segments: BTreeMap<Place, Segment> = BTreeMap::new();
        for (&place, arena) in &self.arenas {
            let (device, stream, pool) = place;
            let segment = Segment {
                device,
                address: self.starts[&place],
                total_size: arena.end().next_multiple_of(PAGE),
                allocated_size: 0,
                active_size: 0,
                requested_size: 0,
                stream: u64::from(stream),
                segment_type: SegmentType::Large,
                segment_pool_id: (0, u64::from(pool)),
                is_expandable: true,
                blocks: Vec::new(),
                stack: StackId::default(),
            };
            segments.insert(place, segment);
        }
        for (number, block) in (0..).zip(&self.blocks) {
            let (Some(state), Some(segment)) = (block.state, segments.get_mut(&block.arena)) else {
                continue;
            };
            let size = rounded(block.size);
            segment.allocated_size += if state == BlockState::Allocated { size } else { 0 };
            segment.active_size += size;
            segment.requested_size += block.size;
            segment.blocks.push(SnapshotBlock {
                address: segment.address + block.offset,
                size,
                requested_size: block.size,
                state,
                stack: stack_of(number),
            });
        }
        segments.into_values().map(filled).collect()
    }
}

/// With a free block for each gap.
fn filled(mut segment: Segment) -> Segment {
    let mut used = std::mem::take(&mut segment.blocks);
    used.sort_by_key(|block| block.address);
    let end = segment.address + segment.total_size;
    let mut next = segment.address;
    let gap = |from: u64, to: u64| SnapshotBlock {
        address: from,
        size: to - from,
        requested_size: 0,
        state: BlockState::Inactive,
        stack: StackId::default(),
    };
    for block in used {
        if block.address > next {
            segment.blocks.push(gap(next, block.address));
        }
        next = block.address + block.size;
        segment.blocks.push(block);
    }
    if next < end {
        segment.blocks.push(gap(next, end));
    }
    segment
}
