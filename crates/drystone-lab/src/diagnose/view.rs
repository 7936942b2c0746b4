//! What one device of a run was asked for. Requests that failed are put in as blocks that come and
//! go at once: what meets them as well would have saved the run.

use std::collections::BTreeMap;

use drystone_trace::{Event, NO_BLOCK, Op, Run, StackId, Trace};
use rustc_hash::FxHashMap;

use super::{Failure, limits};

/// PyTorch's granule: blocks are multiples of it.
const GRANULE: u64 = 512;
/// The most memory that a simulated device has addresses for; what claims more is not believed.
pub(super) const MOST_CAPACITY: u64 = 1 << 40;

/// The bytes of a block for a request.
pub(super) fn rounded(size: u64) -> u64 {
    size.next_multiple_of(GRANULE)
}

/// A failed request, and where in [`View::trace`] it stands as an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) event: usize,
    pub(super) told: Failure,
}

/// A moment at which so much was live.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peak {
    /// The index of the allocation that made it.
    pub(super) event: usize,
    /// Rounded.
    pub(crate) bytes: u64,
}

/// What was there when a request failed.
struct Before {
    live: u64,
    reserved: Option<u64>,
    /// When the recording began.
    start: u64,
    /// The pool of the request before it on its stream: a recording does not say its own.
    pool: u32,
}

/// One device of a run.
pub(crate) struct View<'a> {
    pub(super) run: &'a Run,
    pub(super) device: u32,
    /// The events of the device, with failed requests as blocks.
    pub(crate) trace: Trace,
    pub(crate) capacity: Option<u64>,
    /// The most that a limit let the program hold, about, where a refused request shows one.
    pub(super) limit: Option<u64>,
    /// What others on the device left to the program, where a failure shows that they hold much.
    pub(super) beside: Option<u64>,
    /// What was said about the capacity, whatever the recording shows.
    pub(super) said: Option<u64>,
    /// The last request that failed in the recording.
    pub(super) failure: Option<Failed>,
    pub(crate) peak: Peak,
    /// Who asked for the blocks that stand for failed requests: those after the run's own.
    failed: Vec<StackId>,
}

impl<'a> View<'a> {
    pub(crate) fn of(run: &'a Run, device: u32, said: Option<u64>) -> Self {
        let before = &run.trace.events[..run.trace.prelude];
        let prelude = before.iter().filter(|event| event.device == device).count();
        // Without its events, of which there may be millions.
        let trace = Trace {
            name: run.trace.name.clone(),
            events: Vec::new(),
            blocks: run.trace.blocks,
            streams: run.trace.streams,
            devices: run.trace.devices,
            prelude,
            block_pools: run.trace.block_pools.clone(),
            dropped: Default::default(),
        };
        let mut view = View {
            run,
            device,
            trace,
            capacity: said,
            limit: None,
            beside: None,
            said,
            failure: None,
            peak: Peak::default(),
            failed: Vec::new(),
        };
        view.fill();
        let available = view.failure.and_then(|failed| failed.available());
        view.capacity = said.or(available).filter(|bytes| (1..=MOST_CAPACITY).contains(bytes));
        let allowed = view.failure.and_then(|failed| limits::allowed(&failed.told));
        view.beside = limits::beside(&view);
        view.limit = allowed.filter(|&bytes| view.capacity.is_some_and(|all| bytes < all));
        view
    }

    fn fill(&mut self) {
        let mut reserved = held_before(self.run, self.device);
        let start = self.run.trace.events.first().map_or(0, |event| event.t_us);
        let mut live = 0u64;
        // What each stream's last request was of.
        let mut pools = FxHashMap::default();
        for (index, event) in self.run.trace.events.iter().enumerate() {
            if event.device != self.device {
                continue;
            }
            match event.op {
                Op::OutOfMemory => {
                    let pool = pools.get(&event.stream).copied().unwrap_or(0);
                    self.fail(index, event, Before { live, reserved, start, pool });
                }
                Op::Alloc => {
                    live = live.saturating_add(rounded(event.size));
                    if !self.run.trace.block_pools.is_empty() {
                        pools.insert(event.stream, self.run.trace.pool_of(event.id));
                    }
                }
                Op::FreeCompleted => live = live.saturating_sub(rounded(event.size)),
                _ => reserved = reserved.and_then(|now| after(now, event)),
            }
            let (op, at) = (event.op, self.trace.events.len());
            if op == Op::Alloc && live > self.peak.bytes {
                self.peak = Peak { event: at, bytes: live };
            }
            if op != Op::OutOfMemory {
                self.trace.events.push(*event);
            }
        }
    }

    /// The pools that a failed request may have been of, where there are private ones: beside that of the
    /// request before it, one that has nothing yet, or the default one.
    pub(super) fn other_pools(&self, event: usize) -> Vec<u32> {
        let assumed = self.trace.pool_of(self.trace.events[event].id);
        match self.run.trace.pools() {
            1 => Vec::new(),
            fresh => [fresh, 0].into_iter().filter(|&pool| pool != assumed).collect(),
        }
    }

    /// Says of which pool the request of that event was: the one said before.
    pub(super) fn ask_in(&mut self, pool: u32, event: usize) -> u32 {
        let block = self.trace.events[event].id;
        let before = self.trace.pool_of(block);
        self.trace.set_pool(block, pool);
        before
    }

    /// Puts a failed request in as a block.
    fn fail(&mut self, index: usize, event: &Event, before: Before) {
        let id = self.trace.blocks;
        if id == NO_BLOCK - 1 {
            return;
        }
        let Before { live, reserved, start, pool } = before;
        self.trace.blocks += 1;
        self.trace.set_pool(id, pool);
        let all = &self.run.out_of_memory;
        let known = all.binary_search_by_key(&index, |known| known.event).ok().map(|at| all[at]);
        self.failed.push(known.map(|known| known.stack).unwrap_or_default());
        // It stays, so that what was given back for it is known as that.
        self.trace.events.push(*event);
        let at = self.trace.events.len();
        let told = Failure {
            recorded: true,
            t_us: event.t_us - start,
            asked: event.size,
            live,
            reserved,
            device_free: known.map(|known| known.device_free),
        };
        self.failure = Some(Failed { event: at, told });
        let with = live.saturating_add(rounded(event.size));
        if with > self.peak.bytes {
            self.peak = Peak { event: at, bytes: with };
        }
        for op in [Op::Alloc, Op::FreeRequested, Op::FreeCompleted] {
            self.trace.events.push(Event { op, id, ..*event });
        }
    }

    /// Whether more was needed at once, with the request that failed, than there is.
    pub(super) fn exceeds(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.peak.bytes > capacity)
    }

    /// Whether anything was asked for while the recording ran, beside requests that failed.
    pub(crate) fn has_history(&self) -> bool {
        let recorded = self.run.trace.events[self.run.trace.prelude..].iter();
        recorded.filter(|event| event.device == self.device).any(|event| event.op == Op::Alloc)
    }

    /// Whether nothing was asked for after the request that failed.
    pub(super) fn asks_no_more(&self) -> bool {
        let after = self.failure.map(|failed| &self.trace.events[failed.event + 1..]);
        after.is_some_and(|after| after.iter().all(|event| event.op != Op::Alloc))
    }

    /// Whether the recording has nothing after the request that failed.
    pub(super) fn ends_there(&self) -> bool {
        // Three events stand for the request itself.
        self.failure.is_some_and(|failed| self.trace.events.len() == failed.event + 3)
    }

    /// Who asked for a block.
    pub(super) fn stack_of(&self, block: u32) -> StackId {
        let failed = block.checked_sub(self.run.trace.blocks).map(|n| self.failed[n as usize]);
        failed.unwrap_or_else(|| self.run.stack_of_block(block))
    }

    /// The bytes that are live before the event of that index, rounded.
    pub(super) fn live_before(&self, event: usize) -> u64 {
        self.trace.events[..event].iter().fold(0u64, |live, event| match event.op {
            Op::Alloc => live.saturating_add(rounded(event.size)),
            Op::FreeCompleted => live.saturating_sub(rounded(event.size)),
            _ => live,
        })
    }

    /// The blocks that are live after the event of that index: numbers and sizes.
    pub(super) fn live_after(&self, event: usize) -> Vec<(u32, u64)> {
        let mut sizes = BTreeMap::new();
        for event in self.trace.events.iter().take(event + 1) {
            match event.op {
                Op::Alloc => {
                    sizes.insert(event.id, event.size);
                }
                Op::FreeCompleted => {
                    sizes.remove(&event.id);
                }
                _ => {}
            }
        }
        sizes.into_iter().collect()
    }
}

impl Failed {
    /// What the program could have had: what it held and what was free.
    pub(super) fn available(&self) -> Option<u64> {
        Some(self.told.device_free?.saturating_add(self.told.reserved?))
    }
}

/// What is held after an event of the recorded allocator's own; none where it gives back more than
/// it had, so that what it had is not known.
fn after(now: u64, event: &Event) -> Option<u64> {
    match event.op {
        Op::SegmentAlloc | Op::SegmentMap => now.checked_add(event.size),
        Op::SegmentFree | Op::SegmentUnmap => now.checked_sub(event.size),
        _ => Some(now),
    }
}

/// What the recorded allocator held when the recording began: what it held at the end, less what it
/// took. None where the recording does not say.
pub(super) fn held_before(run: &Run, device: u32) -> Option<u64> {
    let (mut took, mut gave, mut any) = (0u128, 0u128, false);
    for event in run.trace.events.iter().filter(|event| event.device == device) {
        match event.op {
            Op::SegmentAlloc | Op::SegmentMap => took += u128::from(event.size),
            Op::SegmentFree | Op::SegmentUnmap => gave += u128::from(event.size),
            _ => continue,
        }
        any = true;
    }
    if run.segments.is_empty() {
        return (any && run.trace.prelude == 0).then_some(0);
    }
    let segments = run.segments.iter().filter(|segment| segment.device == device);
    let end: u128 = segments.map(|segment| u128::from(segment.total_size)).sum();
    (end + gave).checked_sub(took).and_then(|bytes| u64::try_from(bytes).ok())
}
