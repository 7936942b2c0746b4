//! From a snapshot to a trace: the rings merged by time, and before them the blocks that were live
//! when the rings began.
//!
//! A ring forgets its oldest entries, so that it begins in the middle of things. A block was live
//! before it if the first thing the ring says of its address is a free, or if the ring says nothing
//! of it and the segments have it in use at the end. Such blocks become allocations at time 0, by
//! address: how and when they came about is not known.

use std::collections::HashSet;

use crate::builder::{BlockKey, Builder, Recorded};
use crate::dropped::{Dropped, Oddity};
use crate::error::{Position, TraceError};
use crate::event::{Op, Trace};
use crate::limits::{Budget, Exceeded, Limits};
use crate::run::{OutOfMemory, Run};
use crate::snapshot::pools::Pools;
use crate::snapshot::{Action, BlockState, Segment, Snapshot, SnapshotBlock, StackId, TraceEntry};

impl Snapshot {
    /// The snapshot's events as a trace called `name`, with the blocks that were live before as its
    /// [`prelude`](Trace::prelude). Times count from the first event. A block's pool is the one that
    /// its entry says, as in histories of Drystone; else that of the segment at the end that covers its
    /// address, if it was there already; otherwise, and so for memory that was given back since, it
    /// counts to the default pool.
    ///
    /// # Errors
    /// [`TraceError::Limit`] where the trace would pass `limits`.
    pub fn to_trace(&self, name: &str, limits: &Limits) -> Result<Trace, TraceError> {
        self.to_trace_with_stacks(name, limits).map(|(trace, _)| trace)
    }

    /// As [`to_trace`](Self::to_trace), with the stack of each block's allocation, by block number.
    /// A block of the prelude has the stack that the segments know, or the empty one.
    ///
    /// # Errors
    /// As [`to_trace`](Self::to_trace).
    pub fn to_trace_with_stacks(
        &self,
        name: &str,
        limits: &Limits,
    ) -> Result<(Trace, Vec<StackId>), TraceError> {
        self.merged(name, limits).map(|merged| (merged.trace, merged.stacks))
    }

    /// The snapshot as a run called `name`: its trace, and all else that it knows.
    ///
    /// # Errors
    /// As [`to_trace`](Self::to_trace).
    pub fn into_run(self, name: &str, limits: &Limits) -> Result<Run, TraceError> {
        let Merged { trace, stacks, out_of_memory } = self.merged(name, limits)?;
        let Snapshot { segments, settings, stacks: all, .. } = self;
        let block_stacks = if all.is_empty() { Vec::new() } else { stacks };
        Ok(Run { trace, settings, stacks: all, block_stacks, out_of_memory, segments })
    }

    fn merged(&self, name: &str, limits: &Limits) -> Result<Merged, TraceError> {
        let mut budget = Budget::new(limits);
        let too_much = |exceeded: Exceeded| exceeded.at(Position::Whole);
        let before = self.live_before(&mut budget).map_err(too_much)?;
        let pools = Pools::of(self, &mut budget).map_err(too_much)?;
        let mut dropped = Dropped::default();
        let order = self.by_time(&mut dropped, &mut budget).map_err(too_much)?;
        // An id for each block, and what is compared at the end.
        let blocks: usize = self.segments.iter().map(|segment| segment.blocks.len()).sum();
        let ids = 4 * (order.len() + before.len()) as u64;
        budget.charge(ids + SET_ENTRY_BYTES * blocks as u64).map_err(too_much)?;
        let mut builder = Builder::within(limits, budget);
        dropped.findings().iter().for_each(|&finding| builder.add(finding));
        let (mut stacks, mut out_of_memory) = (Vec::new(), Vec::new());
        for block in &before {
            let pool = self.pool_of(block, &pools);
            builder.push(Recorded { pool, ..block.event(Op::Alloc) }, block.found)?;
            stacks.push(block.stack);
        }
        let start = self.start();
        for (device, ring) in (0..).zip(&self.device_traces) {
            for (index, entry) in (0..).zip(&ring[..self.prelude_of(device)]) {
                stacks.push(entry.stack);
                let found = Position::Entry { device, index };
                let pool = pools.of_entry(entry, device, index);
                let event = Recorded { pool, ..recorded(entry, Op::Alloc, device, start) };
                builder.push(event, found)?;
            }
        }
        let prelude = builder.len();
        for block in before.iter().filter(|block| block.requested) {
            builder.push(block.event(Op::FreeRequested), block.found)?;
        }
        for Place { time_us, device, index } in order {
            let entry = &self.device_traces[device as usize][index as usize];
            let found = Position::Entry { device, index: u64::from(index) };
            let Some(op) = op_of(entry.action) else {
                builder.note(Oddity::UnknownAction, found);
                continue;
            };
            let TraceEntry { addr, stack, .. } = *entry;
            let mut pool = 0;
            match op {
                Op::Alloc => {
                    stacks.push(stack);
                    pool = pools.of_entry(entry, device, u64::from(index));
                }
                Op::OutOfMemory => {
                    let event = builder.len();
                    out_of_memory.push(OutOfMemory { event, device_free: addr, stack });
                }
                _ => {}
            }
            let entry = TraceEntry { time_us, ..*entry };
            builder.push(Recorded { pool, ..recorded(&entry, op, device, start) }, found)?;
        }
        self.compare_ends(&mut builder);
        Ok(Merged { trace: builder.finish(name, prelude), stacks, out_of_memory })
    }

    /// When the first entry was made.
    fn start(&self) -> u64 {
        let firsts = self.device_traces.iter().filter_map(|ring| ring.first());
        firsts.map(|entry| entry.time_us).min().unwrap_or(0)
    }

    /// How many of a ring's first entries are its [`prelude`](Snapshot::prelude): allocations all.
    fn prelude_of(&self, device: u32) -> usize {
        let Some(ring) = self.device_traces.get(device as usize) else { return 0 };
        let stated = self.prelude.get(device as usize).copied().unwrap_or(0);
        let most = usize::try_from(stated).unwrap_or(usize::MAX);
        ring.iter().take(most).take_while(|entry| entry.action == Action::Alloc).count()
    }

    /// The blocks that were live before the rings began, by device and address.
    fn live_before(&self, budget: &mut Budget) -> Result<Vec<Before>, Exceeded> {
        let mut known = HashSet::new();
        let mut before = Vec::new();
        for (device, ring) in (0..).zip(&self.device_traces) {
            for (index, entry) in (0..).zip(ring) {
                let is_free = match op_of(entry.action) {
                    Some(op) if op.has_block() => op != Op::Alloc,
                    _ => continue,
                };
                let key = key_of(device, entry.addr);
                // Only the first entry of an address says what was before.
                if !known.insert(key) {
                    continue;
                }
                budget.charge(SET_ENTRY_BYTES)?;
                if is_free {
                    let found = Position::Entry { device, index };
                    budget.push(&mut before, Before::freed(key, entry, found))?;
                }
            }
        }
        for (index, segment, block) in self.blocks_in_use() {
            let key = key_of(segment.device, block.address);
            if known.insert(key) {
                budget.charge(SET_ENTRY_BYTES)?;
                let found = Position::Segment(index);
                budget.push(&mut before, Before::in_use(key, segment, block, found))?;
            }
        }
        before.sort_unstable_by_key(|block| block.key);
        Ok(before)
    }

    /// The pool of a block that was live before: of its segment, or what the entry of its free says or
    /// of where it was then.
    fn pool_of(&self, block: &Before, pools: &Pools) -> u64 {
        match block.found {
            Position::Entry { device, index } => {
                let entry = &self.device_traces[device as usize][index as usize];
                pools.of_entry(entry, device, index)
            }
            Position::Segment(index) => pools.of_segment(&self.segments[index as usize]),
            _ => 0,
        }
    }

    /// Segment by segment, each with its number.
    fn blocks_in_use(&self) -> impl Iterator<Item = (u64, &Segment, &SnapshotBlock)> {
        (0..).zip(&self.segments).flat_map(|(index, segment)| {
            let in_use = segment.blocks.iter().filter(|b| b.state != BlockState::Inactive);
            in_use.map(move |block| (index, segment, block))
        })
    }

    /// The entries of all rings by time. A ring's own order is kept: where its time goes back, that
    /// is noted, and the time before is taken.
    fn by_time(&self, dropped: &mut Dropped, budget: &mut Budget) -> Result<Vec<Place>, Exceeded> {
        let mut order = Vec::new();
        budget.reserve(&mut order, self.device_traces.iter().map(Vec::len).sum())?;
        for (device, ring) in (0..).zip(&self.device_traces) {
            let (mut last, prelude) = (0, self.prelude_of(device));
            for (index, entry) in (0..).zip(ring) {
                if entry.time_us < last {
                    let found = Position::Entry { device, index: u64::from(index) };
                    dropped.note(Oddity::TimeWentBack, found);
                }
                last = last.max(entry.time_us);
                if index as usize >= prelude {
                    order.push(Place { time_us: last, device, index });
                }
            }
        }
        order.sort_unstable_by_key(|place| (place.time_us, place.device, place.index));
        Ok(order)
    }

    /// Notes where the rings' end and the segments disagree.
    fn compare_ends(&self, builder: &mut Builder) {
        if self.segments.is_empty() {
            return;
        }
        let mut in_use = HashSet::new();
        for (index, segment, block) in self.blocks_in_use() {
            let key = key_of(segment.device, block.address);
            in_use.insert(key);
            if builder.is_live(key) == Some(false) {
                builder.note(Oddity::InUseAfterFree, Position::Segment(index));
            }
        }
        let missing = builder.live_keys().filter(|key| !in_use.contains(key)).count();
        for _ in 0..missing {
            builder.note(Oddity::MissingFromSegments, Position::Whole);
        }
    }
}

/// What a set takes at most for each key: 17 bytes with the control byte, up to 2.3 times that after it
/// has doubled, and the old half while it does.
const SET_ENTRY_BYTES: u64 = 58;

/// What the rings say, merged.
struct Merged {
    trace: Trace,
    /// By block number.
    stacks: Vec<StackId>,
    out_of_memory: Vec<OutOfMemory>,
}

/// An entry's place in the rings, and its time.
struct Place {
    time_us: u64,
    device: u32,
    index: u32,
}

/// A block that was live before the rings began.
struct Before {
    key: BlockKey,
    size: u64,
    stream: u64,
    stack: StackId,
    /// Its free was requested before, too.
    requested: bool,
    found: Position,
}

impl Before {
    fn freed(key: BlockKey, entry: &TraceEntry, found: Position) -> Self {
        Before {
            key,
            size: entry.size,
            stream: entry.stream,
            // The entry's stack is who freed it.
            stack: StackId::default(),
            requested: entry.action == Action::FreeCompleted,
            found,
        }
    }

    fn in_use(key: BlockKey, segment: &Segment, block: &SnapshotBlock, found: Position) -> Self {
        Before {
            key,
            size: block.requested_size,
            stream: segment.stream,
            stack: block.stack,
            requested: block.state == BlockState::PendingFree,
            found,
        }
    }

    fn event(&self, op: Op) -> Recorded {
        let device = self.key.0 - 1;
        let Before { key, size, stream, .. } = *self;
        Recorded { t_us: 0, op, key: Some(key), size, stream, device, pool: 0 }
    }
}

fn recorded(entry: &TraceEntry, op: Op, device: u32, start: u64) -> Recorded {
    let TraceEntry { addr, size, stream, time_us, .. } = *entry;
    let key = op.has_block().then_some(key_of(device, addr));
    let t_us = time_us.saturating_sub(start);
    Recorded { t_us, op, key, size, stream, device, pool: 0 }
}

fn key_of(device: u32, address: u64) -> BlockKey {
    (device + 1, address)
}

fn op_of(action: Action) -> Option<Op> {
    Some(match action {
        Action::Alloc => Op::Alloc,
        Action::FreeRequested => Op::FreeRequested,
        Action::FreeCompleted => Op::FreeCompleted,
        Action::SegmentAlloc => Op::SegmentAlloc,
        Action::SegmentFree => Op::SegmentFree,
        Action::SegmentMap => Op::SegmentMap,
        Action::SegmentUnmap => Op::SegmentUnmap,
        Action::Snapshot => Op::Snapshot,
        Action::OutOfMemory => Op::OutOfMemory,
        Action::Unknown => return None,
    })
}
