//! A heap: the segments and blocks of one (device, pool, stream), behind one lock.
//!
//! Threads on different streams use different heaps and do not meet. Everything here is arithmetic
//! over addresses: no driver is called, so the lock is held for nanoseconds.

mod check;
mod fit;
mod give;
mod holes;
mod marks;
mod movable;
mod park;
mod pending;
mod pins;
mod recall;
mod segments;
mod strand;
mod valley;

use std::sync::Arc;

use spin::mutex::{SpinMutex, SpinMutexGuard};

pub(crate) use fit::{Extent, Fit, SplitRule};
pub(crate) use give::{Given, Located};
pub(crate) use holes::{FreeRun, Pages};
use recall::Recalled;
pub(crate) use segments::{IdleSegment, Segment};
pub(crate) use strand::Spot;

use crate::bins::Bins;
use crate::block::{BlockIndex, Blocks};
use crate::driver::{DeviceId, StreamId};
use crate::pool::PoolId;
use crate::stats::counters::{HeapCounters, Split};
use crate::stats::totals::Thresholds;
use crate::ticket::Ticker;
use crate::units::{GRANULE, GRANULE_SHIFT, Kind};

/// Whose memory a heap holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeapKey {
    pub(crate) device: DeviceId,
    pub(crate) pool: PoolId,
    pub(crate) stream: StreamId,
}

/// How a thread waits for a heap's lock. The lock is a spin lock because it is held for some ten
/// nanoseconds and its release is a plain store: a parking lock's release is a second atomic
/// exchange, 5 ns of the 25 that an allocation and its free may take together. A holder that lost
/// its processor is not spun at for long.
pub(crate) struct SpinThenYield;

impl spin::RelaxStrategy for SpinThenYield {
    fn relax() {
        for _ in 0..32 {
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

/// How often a heap has been given to somebody.
pub(crate) type Term = u64;

/// One heap; see the module text.
pub(crate) struct Heap {
    /// Its index in the registry.
    pub(crate) id: u32,
    /// Written only under the lock.
    pub(crate) counters: HeapCounters,
    core: SpinMutex<HeapCore, SpinThenYield>,
}

/// What the heap's lock protects.
pub(crate) struct HeapCore {
    /// Whose memory this is; none while the heap waits for another use.
    pub(crate) key: Option<HeapKey>,
    /// Counts the uses of the heap: whoever found it under another term has to look again.
    term: Term,
    /// Whether graphs have used its memory whose last launches no ticket covers.
    sealed: bool,
    /// Whether its memory is the host's: not counted as reserved, and for no requests but those that
    /// spill.
    spills: bool,
    /// The tickets of the heap's own stream; none exactly when `key` is none.
    ticker: Option<Arc<Ticker>>,
    blocks: Blocks,
    bins: [Bins; 2],
    segments: Vec<Option<Segment>>,
    vacant_segments: Vec<u32>,
    /// How many of the segments are arenas.
    arenas: u32,
    valley: valley::Valley,
    recall: recall::Recall,
    /// The recorded streams of used and pending blocks; [`crate::block::Block::uses`] points here.
    uses: Vec<Vec<Arc<Ticker>>>,
    vacant_uses: Vec<u32>,
    pending: Vec<pending::Pending>,
    split: [Split; 2],
    parked: [park::Parked; 2],
    /// Counts what changes which blocks are neighbours: each that is filed or unfiled.
    shape: u64,
    /// Allocations so far: the clock by which idle segments age.
    tick: u64,
    /// Segments that are one free block.
    idle: u32,
    /// Segments that are on their way out and may come back: the heap stays theirs.
    away: u32,
    /// Allocations since the pending blocks were last looked at.
    unlooked: u32,
    pub(crate) thresholds: Thresholds,
}

/// The heap locked: what [`Heap::lock`] gives.
pub(crate) type Locked<'a> = SpinMutexGuard<'a, HeapCore, SpinThenYield>;

impl Heap {
    /// A heap that is nobody's yet.
    pub(crate) fn new(id: u32) -> Self {
        Heap { id, counters: HeapCounters::default(), core: SpinMutex::new(HeapCore::new()) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        self.core.lock()
    }

    /// Hands out the best fitting free block, counted. None if nothing fits. A request that `insists`
    /// on the place that it had the time before gets none either where pages are missing there, nor in a
    /// valley: the slow path may bring them back.
    pub(crate) fn allocate(
        &self,
        core: &mut HeapCore,
        fit: &Fit,
        insists: bool,
    ) -> Option<Located> {
        let size = Extent { kind: fit.kind, units: fit.units };
        if fit.align == GRANULE
            && let Some(handed) = self.reuse(core, size, fit.requested)
        {
            return Some(handed);
        }
        if core.remaps(fit.kind) {
            return self.allocate_in_arena(core, fit, insists);
        }
        self.allocate_filed(core, fit)
    }

    /// Hands out the parked block if it has exactly this size, counted.
    #[inline(always)]
    pub(crate) fn reuse(
        &self,
        core: &mut HeapCore,
        size: Extent,
        requested: u64,
    ) -> Option<Located> {
        let (index, address) = core.take_parked(size)?;
        // First this: the processor waits where it reads at once what was written in parts just now.
        if core.remaps(size.kind) {
            core.note_place(index);
        }
        core.tick += 1;
        core.blocks[index].set_used(requested);
        let Extent { kind, units } = size;
        let bytes = u64::from(units) << GRANULE_SHIFT;
        self.counters.of(kind).allocated(bytes, requested, core.split_of(kind));
        Some(Located { index, kind, address, bytes, requested })
    }

    /// Hands out the best fitting block in the bins, counted: not in arenas of large blocks.
    #[inline(always)]
    pub(crate) fn allocate_filed(&self, core: &mut HeapCore, fit: &Fit) -> Option<Located> {
        let index = core.find(fit)?;
        Some(self.hand_out(core, index, fit))
    }

    /// Hands out a large block of an arena where it belongs, counted. A request that `insists` on its
    /// place: see [`Heap::allocate`].
    pub(crate) fn allocate_in_arena(
        &self,
        core: &mut HeapCore,
        fit: &Fit,
        insists: bool,
    ) -> Option<Located> {
        let fit = &fit.in_arena();
        // In the slow path nobody would look for the way home again, and this may be its last try.
        if insists && core.sees_valley(&self.counters) {
            return None;
        }
        let recalled =
            if fit.align == GRANULE { core.recalled(fit.units) } else { Recalled::Nothing };
        let before = match recalled {
            Recalled::Free(index, skip) => Some((index, skip)),
            Recalled::Away if insists => return None,
            Recalled::Away | Recalled::Nothing => None,
        };
        let (index, skip) = core.find_place(fit, before, &self.counters)?;
        let (index, address) = core.carve(index, fit, skip);
        core.note_place(index);
        Some(self.count(core, index, address, fit))
    }

    /// Hands out a part of the free block `index`, which is large enough, counted.
    #[inline(always)]
    pub(crate) fn hand_out(&self, core: &mut HeapCore, index: BlockIndex, fit: &Fit) -> Located {
        let (index, address) = core.carve(index, fit, 0);
        self.count(core, index, address, fit)
    }

    /// Hands out a block at a granule of an arena, counted. None if that is not free any more.
    pub(crate) fn hand_out_at(
        &self,
        core: &mut HeapCore,
        arena: u32,
        start: u32,
        fit: &Fit,
    ) -> Option<Located> {
        let run = core.run_at(arena, start)?;
        let skip = start - run.offset;
        if run.units - skip < fit.units_to_find() {
            return None;
        }
        let fit = &fit.in_arena();
        let (index, address) = core.carve(run.block, fit, skip);
        if fit.kind == Kind::Large {
            core.note_place(index);
        }
        Some(self.count(core, index, address, fit))
    }

    #[inline(always)]
    fn count(&self, core: &HeapCore, index: BlockIndex, address: u64, fit: &Fit) -> Located {
        let Fit { kind, requested, .. } = *fit;
        let bytes = core.blocks[index].bytes();
        self.counters.of(kind).allocated(bytes, requested, core.split_of(kind));
        Located { index, kind, address, bytes, requested }
    }
}

impl HeapCore {
    fn new() -> Self {
        HeapCore {
            key: None,
            term: 0,
            sealed: false,
            spills: false,
            ticker: None,
            blocks: Blocks::new(),
            bins: [Bins::new(), Bins::new()],
            segments: Vec::new(),
            vacant_segments: Vec::new(),
            arenas: 0,
            valley: valley::Valley::default(),
            recall: recall::Recall::default(),
            uses: Vec::new(),
            vacant_uses: Vec::new(),
            pending: Vec::new(),
            split: [Split::default(); 2],
            parked: [park::Parked::default(); 2],
            shape: 0,
            tick: 0,
            idle: 0,
            away: 0,
            unlooked: 0,
            thresholds: Thresholds::new(PoolId::DEFAULT),
        }
    }

    /// Gives an empty heap to a (device, pool, stream), for a term.
    pub(crate) fn assign(&mut self, key: HeapKey, ticker: Arc<Ticker>) -> Term {
        debug_assert!(self.is_empty());
        let term = self.term + 1;
        let thresholds = Thresholds::new(key.pool);
        let ticker = Some(ticker);
        *self = HeapCore { key: Some(key), term, ticker, thresholds, ..HeapCore::new() };
        term
    }

    /// Likewise, for memory of the host.
    pub(crate) fn assign_spills(&mut self, key: HeapKey, ticker: Arc<Ticker>) -> Term {
        let term = self.assign(key, ticker);
        self.spills = true;
        term
    }

    /// Whether its memory is the host's.
    pub(crate) fn spills(&self) -> bool {
        self.spills
    }

    /// Takes an empty heap from its owner, with all the memory that it used for itself.
    pub(crate) fn retire(&mut self) {
        debug_assert!(self.is_empty());
        *self = HeapCore { term: self.term + 1, ..HeapCore::new() };
    }

    /// Ends the term, with memory in the heap that graphs have used on streams of which no ticket
    /// knows: nothing is handed out or lent of it before the device was waited for.
    pub(crate) fn seal(&mut self) {
        self.term += 1;
        self.sealed = true;
    }

    /// Whether only the driver may have the heap's memory now.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The term, if it is sealed.
    pub(crate) fn sealed_term(&self) -> Option<Term> {
        self.sealed.then_some(self.term)
    }

    /// The device has done what was submitted to it before the heap was sealed for this term.
    pub(crate) fn unseal(&mut self, term: Term) {
        self.sealed &= self.term != term;
    }

    /// Whether it is a heap of this pool now.
    pub(crate) fn serves(&self, device: DeviceId, pool: PoolId) -> bool {
        self.key.is_some_and(|key| key.device == device && key.pool == pool)
    }

    /// Whether it holds no segment, and none of its is on the way out.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.len() == self.vacant_segments.len() && self.away == 0
    }

    /// Whose memory this is, while the heap is somebody's, as it is while it holds a block.
    #[inline]
    pub(crate) fn key(&self) -> &HeapKey {
        self.key.as_ref().expect("a heap with blocks is somebody's")
    }

    /// How often it has been given to somebody.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// Whether it is still given to whom it was when the caller found it.
    #[inline]
    pub(crate) fn is_term(&self, term: Term) -> bool {
        self.term == term
    }

    /// Whether blocks of a kind are placed in arenas, with regard to their pages.
    #[inline(always)]
    pub(crate) fn remaps(&self, kind: Kind) -> bool {
        kind == Kind::Large && self.arenas > 0
    }

    /// The free blocks of a kind that are a part of their segment.
    #[inline]
    pub(crate) fn split_of(&self, kind: Kind) -> Split {
        self.split[kind as usize]
    }

    /// The largest free block of either kind, in bytes.
    pub(crate) fn largest_free(&mut self) -> u64 {
        self.unpark_all();
        let largest = self.bins.iter().map(|bins| bins.largest(self.blocks.as_slice())).max();
        u64::from(largest.unwrap_or(0)) << crate::units::GRANULE_SHIFT
    }

    fn segment(&self, index: u32) -> &Segment {
        self.segments[index as usize].as_ref().expect("a block's segment is held")
    }

    fn segment_mut(&mut self, index: u32) -> &mut Segment {
        self.segments[index as usize].as_mut().expect("a block's segment is held")
    }

    /// Puts a free block that is in no bin into its bin.
    #[inline]
    fn file(&mut self, index: BlockIndex, kind: Kind) {
        self.shape += 1;
        let block = &self.blocks[index];
        if block.prev != 0 || block.next != 0 {
            let split = &mut self.split[kind as usize];
            split.blocks += 1;
            split.bytes += block.bytes();
        } else {
            self.became_idle(block.segment());
        }
        self.bins[kind as usize].insert(self.blocks.records(), index);
    }

    /// Notes that a segment is one free block now.
    fn became_idle(&mut self, segment: u32) {
        let tick = self.tick;
        let stamp = self.ticker.as_ref().map_or(0, |ticker| ticker.stamp());
        let segment = self.segment_mut(segment);
        segment.idle_since = tick;
        segment.idle_stamp = stamp;
        self.idle += 1;
    }

    /// Takes a free block out of its bin.
    #[inline]
    fn unfile(&mut self, index: BlockIndex, kind: Kind) {
        self.shape += 1;
        let block = &self.blocks[index];
        if block.prev != 0 || block.next != 0 {
            let split = &mut self.split[kind as usize];
            split.blocks -= 1;
            split.bytes -= block.bytes();
        } else {
            self.idle -= 1;
        }
        self.bins[kind as usize].remove(self.blocks.records(), index);
    }
}
