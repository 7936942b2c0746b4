//! Peaks over several heaps, without a shared write on the fast path.
//!
//! The peak of a sum is not the sum of peaks, and heaps have locks of their own. So one heap at a
//! time holds the device's *lease*: thresholds that say how far its own counters may rise, the
//! other heaps standing still, before a peak of the device or of its pool is passed. While it
//! keeps the lease, an operation costs a comparison. Another heap that operates takes the lease
//! and sums up anew. When two threads keep taking it from each other they would meet at every
//! operation; then a heap takes it only every [`GUEST_OPERATIONS`] operations, or for a large
//! block, so that peaks are exact for programs whose operations are ordered, and otherwise short
//! by at most that many small blocks per stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};

use super::counters::{Hot, SPLIT_BLOCKS, Values};
use super::{MemoryStats, Metric, Stat};
use crate::heap::Heap;
use crate::pool::PoolId;
use crate::units::Kind;

/// Operations that a heap does at most without the lease while threads contend for it.
const GUEST_OPERATIONS: u32 = 32;

/// Nobody holds the lease.
const NOBODY: u64 = u64::MAX;

/// For each hot quantity the metrics that it moves while no block is pending.
const MOVED: [&[Metric]; 5] = [
    &[Metric::Allocation, Metric::Active],
    &[Metric::AllocatedBytes, Metric::ActiveBytes],
    &[Metric::RequestedBytes],
    &[Metric::InactiveSplit],
    &[Metric::InactiveSplitBytes],
];

/// What a heap's hot quantities may reach before a peak is passed. Kept under the heap's lock.
#[derive(Debug)]
pub(crate) struct Thresholds {
    /// The pool that the heap serves.
    pool: PoolId,
    kinds: [Hot; 2],
    all: Hot,
    /// What the kind of the last operation may reach as long as the other kind stands still.
    now: Hot,
    last: Kind,
    guest: u32,
}

impl Thresholds {
    /// Thresholds that are passed at once, for a heap that serves this pool.
    pub(crate) fn new(pool: PoolId) -> Self {
        let (kinds, all, now) = ([[0; 5]; 2], [0; 5], [0; 5]);
        Thresholds { pool, kinds, all, now, last: Kind::Small, guest: 0 }
    }

    /// Lets the next operation pass them whatever it does: a block became pending, so that the
    /// hot quantities alone do not say how many blocks are active.
    pub(crate) fn distrust(&mut self) {
        *self = Thresholds { guest: self.guest, ..Thresholds::new(self.pool) };
    }

    /// Sets the thresholds of the last operation's kind.
    fn turn_to(&mut self, kind: Kind, heap: &Heap) {
        let beside = heap.counters.of(other(kind));
        self.last = kind;
        self.now = std::array::from_fn(|i| {
            self.kinds[kind as usize][i].min(self.all[i].saturating_sub(beside.now(i)))
        });
    }
}

/// By small, large, and both together.
type Levels = [Values; 3];

#[derive(Clone, Copy, Debug, Default)]
struct Scope {
    peak: Levels,
    /// What heaps that are no more had taken off in their time.
    retired: Levels,
    /// [`Levels`] of all taken off ever, at the last reset of the accumulated figures.
    freed_base: Levels,
    /// Likewise of all added ever.
    allocated_base: Levels,
}

/// The sums and peaks of one device.
pub(crate) struct Totals {
    /// The heap that holds the lease, and the thread that took it: `heap << 32 | thread`.
    lease: AtomicU64,
    /// The heaps of the device, each with the pool it serves.
    heaps: RwLock<Vec<(PoolId, Arc<Heap>)>>,
    scopes: Mutex<Scopes>,
}

#[derive(Default)]
struct Scopes {
    device: Scope,
    pools: HashMap<PoolId, Scope>,
}

/// A small number for this thread, never 0.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static MINE: u64 = NEXT.fetch_add(1, Relaxed) & 0xffff_ffff);
    MINE.try_with(|mine| *mine).unwrap_or(0)
}

impl Totals {
    pub(crate) fn new() -> Self {
        Totals {
            lease: AtomicU64::new(NOBODY),
            heaps: RwLock::new(Vec::new()),
            scopes: Mutex::new(Scopes::default()),
        }
    }

    /// Counts a heap in from now on.
    pub(crate) fn add_heap(&self, pool: PoolId, heap: Arc<Heap>) {
        self.heaps.write().push((pool, heap));
        self.lease.store(NOBODY, Relaxed);
    }

    /// Stops counting an empty heap; what it had taken off stays in the sums.
    pub(crate) fn retire_heap(&self, heap: &Heap, pool: PoolId) {
        // In this order, as everywhere: the sums are read under the lock of the scopes.
        let mut scopes = self.scopes.lock();
        let mut heaps = self.heaps.write();
        let freed = levels(Kind::ALL.map(|kind| heap.counters.of(kind).freed_ever()));
        add(&mut scopes.device.retired, &freed);
        if let Some(scope) = scopes.pools.get_mut(&pool) {
            add(&mut scope.retired, &freed);
        }
        heaps.retain(|(_, other)| other.id != heap.id);
        self.lease.store(NOBODY, Relaxed);
    }

    /// Counts a segment that went from a pool to another one as taken off the first. The device
    /// still has it.
    pub(crate) fn segment_left(&self, pool: PoolId, kind: Kind, bytes: u64) {
        if let Some(scope) = self.scopes.lock().pools.get_mut(&pool) {
            for level in [kind as usize, 2] {
                scope.retired[level][Metric::Segment as usize] += 1;
                scope.retired[level][Metric::ReservedBytes as usize] += bytes;
            }
        }
    }

    /// Counts pages that went to another heap, or to the other kind, as taken off where they were.
    /// The device still has them.
    pub(crate) fn pages_left(&self, from: (PoolId, Kind), to: (PoolId, Kind), bytes: u64) {
        let (reserved, kind) = (Metric::ReservedBytes as usize, from.1 as usize);
        let (leaves_pool, leaves_kind) = (from.0 != to.0, from.1 != to.1);
        if !leaves_pool && !leaves_kind {
            return;
        }
        let scopes = &mut *self.scopes.lock();
        if leaves_kind {
            scopes.device.retired[kind][reserved] += bytes;
        }
        if let Some(scope) = scopes.pools.get_mut(&from.0) {
            scope.retired[kind][reserved] += bytes;
            scope.retired[2][reserved] += if leaves_pool { bytes } else { 0 };
        }
    }

    /// Forgets a pool that is no more.
    pub(crate) fn retire_pool(&self, pool: PoolId) {
        self.scopes.lock().pools.remove(&pool);
    }

    /// The heaps of the device, each with the pool it serves.
    pub(crate) fn heaps(&self) -> Vec<(PoolId, Arc<Heap>)> {
        self.heaps.read().clone()
    }

    /// After an allocation of `heap`, under its lock: raises the peaks that it passed.
    #[inline(always)]
    pub(crate) fn after_allocation(&self, heap: &Heap, limits: &mut Thresholds, kind: Kind) {
        self.after::<0>(heap, limits, kind);
    }

    /// After a free of `heap`, under its lock: likewise. Only split blocks can have become more.
    #[inline(always)]
    pub(crate) fn after_free(&self, heap: &Heap, limits: &mut Thresholds, kind: Kind) {
        self.after::<SPLIT_BLOCKS>(heap, limits, kind);
    }

    /// Looks at the hot quantities from `FIRST` on.
    #[inline(always)]
    fn after<const FIRST: usize>(&self, heap: &Heap, limits: &mut Thresholds, kind: Kind) {
        if self.lease.load(Relaxed) >> 32 != u64::from(heap.id) {
            return self.without_lease(heap, limits, kind);
        }
        if limits.last != kind {
            limits.turn_to(kind, heap);
        }
        let this = heap.counters.of(kind);
        // A quantity has passed its threshold if the difference is negative: one sign bit for all.
        let mut signs = 0;
        for i in FIRST..limits.now.len() {
            signs |= limits.now[i].wrapping_sub(this.now(i));
        }
        if (signs as i64) < 0 {
            self.sum_up(heap, limits);
        }
    }

    #[cold]
    fn without_lease(&self, heap: &Heap, limits: &mut Thresholds, kind: Kind) {
        let holder = self.lease.load(Relaxed);
        let contended = holder != NOBODY && holder & 0xffff_ffff != thread_number();
        if contended && kind == Kind::Small && limits.guest < GUEST_OPERATIONS {
            limits.guest += 1;
        } else {
            self.sum_up(heap, limits);
        }
    }

    /// Takes the lease, raises the peaks to the present sums, and sets the thresholds. Under the
    /// heap's lock.
    #[cold]
    pub(crate) fn sum_up(&self, heap: &Heap, limits: &mut Thresholds) {
        let pool = limits.pool;
        limits.guest = 0;
        let mut scopes = self.scopes.lock();
        self.lease.store(u64::from(heap.id) << 32 | thread_number(), Relaxed);
        let (device, in_pool) = self.sums(Some(pool));
        raise(&mut scopes.device.peak, &device);
        let scope = scopes.pools.entry(pool).or_default();
        raise(&mut scope.peak, &in_pool);
        let pool_peak = scope.peak;
        let own = own(heap);
        let room = |level: usize| -> Hot {
            MOVED.map(|metrics| {
                let rooms = metrics.iter().map(|&metric| {
                    let m = metric as usize;
                    let in_device = scopes.device.peak[level][m].saturating_sub(device[level][m]);
                    let in_pool = pool_peak[level][m].saturating_sub(in_pool[level][m]);
                    own[level][m] + in_device.min(in_pool)
                });
                rooms.min().unwrap_or(0)
            })
        };
        let pending = Kind::ALL.iter().any(|&kind| heap.counters.of(kind).has_pending());
        if pending {
            limits.distrust();
        } else {
            limits.kinds = [room(0), room(1)];
            limits.all = room(2);
            limits.turn_to(limits.last, heap);
        }
    }

    /// The present sums over the device and over one pool of it.
    fn sums(&self, pool: Option<PoolId>) -> (Levels, Levels) {
        let (mut device, mut in_pool) = (Levels::default(), Levels::default());
        for (its_pool, heap) in self.heaps.read().iter() {
            let own = own(heap);
            add(&mut device, &own);
            if Some(*its_pool) == pool {
                add(&mut in_pool, &own);
            }
        }
        (device, in_pool)
    }

    /// The statistics of the device, or of one pool of it.
    pub(crate) fn stats(&self, pool: Option<PoolId>) -> MemoryStats {
        let scopes = self.scopes.lock();
        let (device, in_pool) = self.sums(pool);
        let (scope, current) = match pool {
            None => (scopes.device, device),
            Some(pool) => (scopes.pools.get(&pool).copied().unwrap_or_default(), in_pool),
        };
        let freed = self.freed_ever(&scope, pool);
        let stat = |level: usize| {
            std::array::from_fn(|m| Stat {
                current: current[level][m],
                peak: scope.peak[level][m].max(current[level][m]),
                allocated: current[level][m]
                    .wrapping_add(freed[level][m])
                    .wrapping_sub(scope.allocated_base[level][m]),
                freed: freed[level][m].wrapping_sub(scope.freed_base[level][m]),
            })
        };
        MemoryStats { small: stat(0), large: stat(1), all: stat(2) }
    }

    fn freed_ever(&self, scope: &Scope, pool: Option<PoolId>) -> Levels {
        let mut freed = scope.retired;
        for (its_pool, heap) in self.heaps.read().iter() {
            if pool.is_none_or(|pool| *its_pool == pool) {
                add(&mut freed, &levels(Kind::ALL.map(|k| heap.counters.of(k).freed_ever())));
            }
        }
        freed
    }

    /// Lets every peak start again from what is now.
    pub(crate) fn reset_peaks(&self) {
        let mut scopes = self.scopes.lock();
        scopes.device.peak = self.sums(None).0;
        for (&pool, scope) in &mut scopes.pools {
            scope.peak = self.sums(Some(pool)).1;
        }
        self.lease.store(NOBODY, Relaxed);
    }

    /// Lets every accumulated figure start again from 0.
    pub(crate) fn reset_accumulated(&self) {
        let mut scopes = self.scopes.lock();
        let device = scopes.device;
        self.rebase(&mut scopes.device, &device, None);
        for (&pool, scope) in &mut scopes.pools {
            let before = *scope;
            self.rebase(scope, &before, Some(pool));
        }
    }

    fn rebase(&self, scope: &mut Scope, before: &Scope, pool: Option<PoolId>) {
        let (device, in_pool) = self.sums(pool);
        scope.freed_base = self.freed_ever(before, pool);
        scope.allocated_base = if pool.is_none() { device } else { in_pool };
        add(&mut scope.allocated_base, &scope.freed_base);
    }
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Small => Kind::Large,
        Kind::Large => Kind::Small,
    }
}

fn own(heap: &Heap) -> Levels {
    levels(Kind::ALL.map(|kind| heap.counters.of(kind).current()))
}

fn levels([small, large]: [Values; 2]) -> Levels {
    [small, large, std::array::from_fn(|m| small[m].wrapping_add(large[m]))]
}

fn add(sum: &mut Levels, levels: &Levels) {
    for (sum, values) in sum.iter_mut().zip(levels) {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = sum.wrapping_add(*value);
        }
    }
}

fn raise(peak: &mut Levels, levels: &Levels) {
    for (peak, values) in peak.iter_mut().zip(levels) {
        for (peak, value) in peak.iter_mut().zip(values) {
            *peak = (*peak).max(*value);
        }
    }
}
