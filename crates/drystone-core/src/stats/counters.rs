//! The counters of one heap: written only under the heap's lock, readable by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Metric;
use crate::units::Kind;

/// One value per [`Metric`].
pub(crate) type Values = [u64; Metric::COUNT];

/// A counter with one writer at a time: plain loads and stores, no read-modify-write.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
    #[inline]
    fn add(&self, value: u64) {
        self.set(self.get().wrapping_add(value));
    }
    #[inline]
    fn sub(&self, value: u64) {
        self.set(self.get().wrapping_sub(value));
    }
}

/// A quantity that goes up and down: what was ever added, and what was ever taken off. One store
/// each way.
#[derive(Debug, Default)]
struct Flow {
    added: Counter,
    taken: Counter,
}

impl Flow {
    #[inline(always)]
    fn up(&self, by: u64) {
        self.added.add(by);
    }
    #[inline(always)]
    fn down(&self, by: u64) {
        self.taken.add(by);
    }
    #[inline(always)]
    fn now(&self) -> u64 {
        self.added.get().wrapping_sub(self.taken.get())
    }
    /// Follows a quantity that is kept elsewhere.
    #[inline(always)]
    fn follow(&self, now: u64) {
        let change = now.wrapping_sub(self.now());
        if (change as i64) < 0 {
            self.taken.add(change.wrapping_neg());
        } else {
            self.added.add(change);
        }
    }
    fn clear(&self) {
        self.added.set(0);
        self.taken.set(0);
    }
}

/// Free blocks that are a part of their segment: kept by the heap as it files and takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

/// The quantities that change without a driver call, in the order of their [`Flow`]s.
const BLOCKS: usize = 0;
const BYTES: usize = 1;
const REQUESTED: usize = 2;
pub(crate) const SPLIT_BLOCKS: usize = 3;
const SPLIT_BYTES: usize = 4;

/// What those are now, or may become.
pub(crate) type Hot = [u64; 5];

/// The counters of one heap and kind. Active blocks are the allocated and the pending ones.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    hot: [Flow; 5],
    segments: Flow,
    reserved: Flow,
    pending_blocks: Counter,
    pending_bytes: Counter,
}

impl Counters {
    /// A block was handed out.
    #[inline(always)]
    pub(crate) fn allocated(&self, bytes: u64, requested: u64, split: Split) {
        self.hot[BLOCKS].up(1);
        self.hot[BYTES].up(bytes);
        self.hot[REQUESTED].up(requested);
        self.follow_split(split);
    }

    /// A block came back and is reusable.
    #[inline(always)]
    pub(crate) fn freed(&self, bytes: u64, requested: u64, split: Split) {
        self.hot[BLOCKS].down(1);
        self.hot[BYTES].down(bytes);
        self.hot[REQUESTED].down(requested);
        self.follow_split(split);
    }

    /// A block that came back at once counts as neither handed out nor freed.
    pub(crate) fn was_not_handed_out(&self, bytes: u64, requested: u64) {
        for (i, by) in [(BLOCKS, 1), (BYTES, bytes), (REQUESTED, requested)] {
            self.hot[i].added.sub(by);
            self.hot[i].taken.sub(by);
        }
    }

    /// A block came back but waits for a recorded stream.
    pub(crate) fn became_pending(&self, bytes: u64) {
        self.hot[BLOCKS].down(1);
        self.hot[BYTES].down(bytes);
        self.pending_blocks.add(1);
        self.pending_bytes.add(bytes);
    }

    /// A pending block is reusable.
    pub(crate) fn pending_done(&self, bytes: u64, requested: u64, split: Split) {
        self.pending_blocks.sub(1);
        self.pending_bytes.sub(bytes);
        self.hot[REQUESTED].down(requested);
        self.follow_split(split);
    }

    #[inline(always)]
    fn follow_split(&self, split: Split) {
        self.hot[SPLIT_BLOCKS].follow(split.blocks);
        self.hot[SPLIT_BYTES].follow(split.bytes);
    }

    /// One of the quantities that change without a driver call. Active blocks are not among them: they
    /// are the blocks here as long as none is pending.
    #[inline(always)]
    pub(crate) fn now(&self, i: usize) -> u64 {
        self.hot[i].now()
    }

    /// Whether a block is pending.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        self.pending_blocks.get() != 0
    }

    /// A segment came in, from the driver or from another heap.
    pub(crate) fn segment_in(&self, bytes: u64) {
        self.segments.up(1);
        self.reserved.up(bytes);
    }

    /// A segment went out, to the driver or to another heap: as if it had never come in.
    pub(crate) fn segment_out(&self, bytes: u64) {
        self.segments.added.sub(1);
        self.reserved.added.sub(bytes);
    }

    /// The driver has taken a segment back that went out before.
    pub(crate) fn segment_freed(&self, bytes: u64) {
        self.segment_in(bytes);
        self.segments.down(1);
        self.reserved.down(bytes);
    }

    /// Pages came to an arena, from the driver or from another one.
    pub(crate) fn pages_in(&self, bytes: u64, split: Split) {
        self.reserved.up(bytes);
        self.follow_split(split);
    }

    /// Pages left an arena, to the driver or to another one: as if they had never come.
    pub(crate) fn pages_out(&self, bytes: u64, split: Split) {
        self.reserved.added.sub(bytes);
        self.follow_split(split);
    }

    /// The driver has taken pages back that left an arena before.
    pub(crate) fn pages_freed(&self, bytes: u64) {
        self.reserved.up(bytes);
        self.reserved.down(bytes);
    }

    /// Every metric now.
    pub(crate) fn current(&self) -> Values {
        let [blocks, bytes, requested, split_blocks, split_bytes] =
            std::array::from_fn(|i| self.now(i));
        [
            blocks,
            bytes,
            blocks.wrapping_add(self.pending_blocks.get()),
            bytes.wrapping_add(self.pending_bytes.get()),
            requested,
            split_blocks,
            split_bytes,
            self.segments.now(),
            self.reserved.now(),
        ]
    }

    /// What was ever taken off each metric.
    pub(crate) fn freed_ever(&self) -> Values {
        let [blocks, bytes, requested, split_blocks, split_bytes] =
            std::array::from_fn(|i| self.hot[i].taken.get());
        [
            blocks,
            bytes,
            blocks.wrapping_sub(self.pending_blocks.get()),
            bytes.wrapping_sub(self.pending_bytes.get()),
            requested,
            split_blocks,
            split_bytes,
            self.segments.taken.get(),
            self.reserved.taken.get(),
        ]
    }

    fn clear(&self) {
        self.hot.iter().chain([&self.segments, &self.reserved]).for_each(Flow::clear);
        self.pending_blocks.set(0);
        self.pending_bytes.set(0);
    }
}

/// The counters of one heap, by kind.
#[derive(Debug, Default)]
pub(crate) struct HeapCounters([Counters; 2]);

impl HeapCounters {
    #[inline]
    pub(crate) fn of(&self, kind: Kind) -> &Counters {
        &self.0[kind as usize]
    }

    /// Starts from nothing, for a heap that gets another stream or pool.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(Counters::clear);
    }
}
