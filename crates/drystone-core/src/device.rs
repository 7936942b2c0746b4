//! What the allocator knows of one device: its pools, its limit, its streams' tickets, its totals.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::driver::{DeviceId, HandleKind, StreamId};
use crate::pages::PageStore;
use crate::pool::{Pool, PoolId, Purpose};
use crate::stats::Stat;
use crate::stats::totals::Totals;
use crate::ticket::{Ticker, Tickers};

/// Which streams' requests a begun pool serves.
pub(crate) type StreamFilter = Arc<dyn Fn(StreamId) -> bool + Send + Sync>;

/// A pool that was begun and not ended.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) pool: Arc<Pool>,
    pub(crate) purpose: Purpose,
    pub(crate) filter: StreamFilter,
}

/// A statistic that is rare enough for a lock.
#[derive(Debug, Default)]
pub(crate) struct SlowStat(Mutex<Stat>);

impl SlowStat {
    pub(crate) fn up(&self) {
        self.up_to(1, u64::MAX);
    }
    /// Blocks and segments that came before they were counted are not counted when they go.
    pub(crate) fn down(&self) {
        let mut stat = self.0.lock();
        if stat.current > 0 {
            stat.current -= 1;
            stat.freed += 1;
        }
    }
    /// Adds `by` if it stays within `limit`; false, and nothing added, if not.
    fn up_to(&self, by: u64, limit: u64) -> bool {
        let mut stat = self.0.lock();
        let sum = stat.current.saturating_add(by);
        if sum > limit {
            return false;
        }
        stat.current = sum;
        stat.allocated += by;
        stat.peak = stat.peak.max(sum);
        true
    }
    fn down_by(&self, by: u64) {
        let mut stat = self.0.lock();
        stat.current -= by;
        stat.freed += by;
    }
    pub(crate) fn get(&self) -> Stat {
        *self.0.lock()
    }
    pub(crate) fn reset_peak(&self) {
        let mut stat = self.0.lock();
        stat.peak = stat.current;
    }
    pub(crate) fn reset_accumulated(&self) {
        let mut stat = self.0.lock();
        (stat.allocated, stat.freed) = (0, 0);
    }
}

/// Events of a device that are counted once in a while.
#[derive(Debug, Default)]
pub(crate) struct DeviceCounters {
    pub(crate) alloc_retries: AtomicU64,
    pub(crate) ooms: AtomicU64,
    pub(crate) sync_all_streams: AtomicU64,
    pub(crate) device_alloc: AtomicU64,
    pub(crate) device_free: AtomicU64,
    pub(crate) borrowed: AtomicU64,
    pub(crate) adopted: AtomicU64,
    pub(crate) spills: AtomicU64,
    /// Nanoseconds spent on trading segments in.
    pub(crate) trade_ns: AtomicU64,
    pub(crate) oversize_allocations: SlowStat,
    pub(crate) oversize_segments: SlowStat,
}

/// One device of the allocator.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// Bytes the device has.
    pub(crate) total: u64,
    /// Bytes held of the device, and asked for at this moment.
    reserved: AtomicU64,
    /// Bytes among them that the program took itself.
    taken: AtomicU64,
    /// The most that may be reserved; `u64::MAX` for no limit.
    limit: AtomicU64,
    /// Bytes of the host held for this device.
    pub(crate) spilled: SlowStat,
    /// The most of those; 0 for none.
    pub(crate) spill_limit: u64,
    pub(crate) default_pool: Arc<Pool>,
    private_pools: RwLock<HashMap<PoolId, Arc<Pool>>>,
    scopes: RwLock<Vec<Scope>>,
    /// How many scopes and ended streams there are, and one more while settings are changed, so that
    /// the fast path need not look.
    exceptions: AtomicU32,
    retuned: AtomicBool,
    captures: AtomicU32,
    /// Read while the driver is asked what it forbids in a capture; written while one begins.
    asking: RwLock<()>,
    pub(crate) tickers: Tickers,
    pub(crate) totals: Totals,
    pub(crate) counters: DeviceCounters,
    /// The book of pages, where memory is mapped and not taken in segments.
    pub(crate) pages: Option<Mutex<PageStore>>,
    /// The devices that may use its pages, itself first. Changed under the lock of the pages.
    accessors: RwLock<Vec<DeviceId>>,
}

/// No limit.
const UNLIMITED: u64 = u64::MAX;

impl Device {
    pub(crate) fn new(id: DeviceId, total: u64, maps: bool, spill_limit: u64) -> Self {
        Device {
            id,
            total,
            reserved: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            limit: AtomicU64::new(UNLIMITED),
            spilled: SlowStat::default(),
            spill_limit,
            default_pool: Arc::new(Pool::new(PoolId::DEFAULT)),
            private_pools: RwLock::new(HashMap::new()),
            scopes: RwLock::new(Vec::new()),
            exceptions: AtomicU32::new(0),
            retuned: AtomicBool::new(false),
            captures: AtomicU32::new(0),
            asking: RwLock::new(()),
            tickers: Tickers::new(id),
            totals: Totals::new(),
            counters: DeviceCounters::default(),
            pages: maps.then(Mutex::default),
            accessors: RwLock::new(vec![id]),
        }
    }

    /// The devices that may use its pages.
    pub(crate) fn accessors(&self) -> Vec<DeviceId> {
        self.accessors.read().clone()
    }

    pub(crate) fn set_accessors(&self, accessors: Vec<DeviceId>) {
        *self.accessors.write() = accessors;
    }

    /// Bytes held of the device.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// The limit in bytes, if there is one.
    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Acquire)).filter(|&limit| limit != UNLIMITED)
    }

    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Release);
    }

    /// Counts bytes as held before they are asked for, so that no two threads pass the limit
    /// together. False, and nothing counted, if the limit forbids it.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Ordering::Acquire);
        let fits = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= limit);
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Counts bytes as held that the program took itself. False, and nothing counted, if the limit
    /// forbids it.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let fits = self.reserve(bytes);
        if fits {
            self.taken.fetch_add(bytes, Ordering::AcqRel);
        }
        fits
    }

    /// Counts bytes as held no more of those; not more than there are.
    pub(crate) fn put_down(&self, bytes: u64) {
        let left = |taken: u64| Some(taken.saturating_sub(bytes));
        if let Ok(taken) = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, left) {
            self.unreserve(bytes.min(taken));
        }
    }

    /// Bytes that the program took itself.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Bytes held for the allocator's own blocks: what is to be compared with the live bytes.
    pub(crate) fn own(&self) -> u64 {
        self.reserved().saturating_sub(self.taken())
    }

    /// Counts bytes as held no more.
    pub(crate) fn unreserve(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Counts bytes of a handle as held before it is made. False, and nothing counted, if the limit
    /// on memory of its kind forbids it.
    pub(crate) fn hold(&self, kind: HandleKind, bytes: u64) -> bool {
        match kind {
            HandleKind::Host => self.spilled.up_to(bytes, self.spill_limit),
            _ => self.reserve(bytes),
        }
    }

    /// Counts bytes of a handle as held no more.
    pub(crate) fn unhold(&self, kind: HandleKind, bytes: u64) {
        match kind {
            HandleKind::Host => self.spilled.down_by(bytes),
            _ => self.unreserve(bytes),
        }
    }

    /// Whether a stream capture is underway: nothing may be waited for, asked about or given back.
    pub(crate) fn is_capturing(&self) -> bool {
        self.captures.load(Ordering::Acquire) > 0
    }

    /// Keeps captures from beginning, for what they forbid; none if one is underway or about to
    /// begin. To be held by a thread once, and without calling the application.
    pub(crate) fn outside_captures(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.asking.try_read().filter(|_| !self.is_capturing())
    }

    /// Whether any pool was begun, any stream ended and did not begin again, or settings were changed.
    #[inline]
    pub(crate) fn has_exceptions(&self) -> bool {
        self.exceptions.load(Ordering::Acquire) > 0
    }

    /// Notes that a stream has ended, all of whose work is done: nobody asks the driver about it.
    pub(crate) fn stream_ended(&self, ticker: &Ticker) {
        if ticker.end() {
            self.exceptions.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Notes that work on a stream is to come; it may be another one of the name.
    #[inline]
    pub(crate) fn stream_is_used(&self, stream: StreamId) {
        if self.has_exceptions() && self.tickers.begin(stream) {
            self.exceptions.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The pool begun last whose filter wants this stream.
    #[cold]
    pub(crate) fn route(&self, stream: StreamId) -> Option<Arc<Pool>> {
        // The filters are the caller's code: run without the lock.
        let scopes = self.scopes.read().clone();
        scopes.into_iter().rev().find(|scope| (scope.filter)(stream)).map(|scope| scope.pool)
    }

    /// The pool of this name; the default one too.
    pub(crate) fn pool(&self, id: PoolId) -> Option<Arc<Pool>> {
        if id == PoolId::DEFAULT {
            return Some(Arc::clone(&self.default_pool));
        }
        self.private_pools.read().get(&id).cloned()
    }

    /// Whether the memory that the pool caches must stay, for the replays of a captured graph.
    pub(crate) fn is_kept_for_replay(&self, id: PoolId) -> bool {
        id != PoolId::DEFAULT && self.pool(id).is_some_and(|pool| pool.is_kept_for_replay())
    }

    /// Whether each block of the pool is to have memory of its own.
    pub(crate) fn is_unsplit(&self, id: PoolId) -> bool {
        id != PoolId::DEFAULT && self.pool(id).is_some_and(|pool| pool.is_unsplit())
    }

    /// Says whether settings are others than at the beginning: then requests look. One at a time.
    pub(crate) fn set_retuned(&self, retuned: bool) {
        match (self.retuned.swap(retuned, Ordering::AcqRel), retuned) {
            (false, true) => self.exceptions.fetch_add(1, Ordering::AcqRel),
            (true, false) => self.exceptions.fetch_sub(1, Ordering::AcqRel),
            _ => 0,
        };
    }

    pub(crate) fn is_retuned(&self) -> bool {
        self.retuned.load(Ordering::Acquire)
    }

    /// Gives a hold on a pool back. False if there is none.
    pub(crate) fn release_hold(&self, pool: &Pool) -> bool {
        let mut sealed = false;
        loop {
            let scopes = self.scopes.read();
            let captures = |scope: &Scope| scope.purpose == Purpose::Capture;
            let begun = scopes.iter().any(|scope| scope.pool.id == pool.id && captures(scope));
            let mut holding = pool.holding.lock();
            // The graphs go with the last hold, but their last launches may still be running, on
            // any stream. While the pool is begun for one, nothing is lent; its end seals it.
            if holding.captured && holding.uses == 1 && !begun && !sealed {
                drop(holding);
                drop(scopes);
                self.seal(pool.id);
                sealed = true;
                continue;
            }
            let Some(uses) = holding.uses.checked_sub(1) else { return false };
            holding.uses = uses;
            holding.captured &= uses > 0;
            return true;
        }
    }

    /// Lets no memory that a pool holds now be used again before the device was waited for.
    fn seal(&self, id: PoolId) {
        for (_, heap) in self.totals.heaps().into_iter().filter(|(pool, _)| *pool == id) {
            let mut core = heap.lock();
            if core.serves(self.id, id) {
                core.seal();
            }
        }
    }

    /// At the allocator's end: no graph over its memory is launched any more.
    pub(crate) fn forget_graphs(&self) {
        for pool in self.private_pools.read().values() {
            pool.holding.lock().captured = false;
        }
    }

    /// Whether nobody holds the pool, or it is forgotten: what it caches may go to others. Never so
    /// for the default pool.
    pub(crate) fn is_orphaned(&self, id: PoolId) -> bool {
        self.pool(id).is_none_or(|pool| pool.is_released())
    }

    /// The limit in bytes, or the device's memory where none is set.
    pub(crate) fn limit_or_total(&self) -> u64 {
        self.limit().unwrap_or(self.total)
    }

    /// Holds a pool once more, made on first use.
    pub(crate) fn retain_pool(&self, id: PoolId) -> Arc<Pool> {
        let mut pools = self.private_pools.write();
        let pool = pools.entry(id).or_insert_with(|| Arc::new(Pool::new(id)));
        pool.holding.lock().uses += 1;
        Arc::clone(pool)
    }

    /// The private pools that nobody holds any more.
    pub(crate) fn released_pools(&self) -> Vec<Arc<Pool>> {
        self.private_pools.read().values().filter(|pool| pool.is_released()).cloned().collect()
    }

    /// Forgets a private pool if nobody holds it and it is not begun. True if it did.
    pub(crate) fn forget_pool(&self, id: PoolId) -> bool {
        let mut pools = self.private_pools.write();
        let released = pools.get(&id).is_some_and(|pool| pool.is_released());
        let begun = self.scopes.read().iter().any(|scope| scope.pool.id == id);
        released && !begun && pools.remove(&id).is_some()
    }

    /// Begins a scope. False if the pool has one.
    pub(crate) fn begin(&self, scope: Scope) -> bool {
        let capture = scope.purpose == Purpose::Capture;
        // What captures forbid is over before one begins.
        let _quiet = capture.then(|| self.asking.write());
        let mut scopes = self.scopes.write();
        if scopes.iter().any(|other| other.pool.id == scope.pool.id) {
            return false;
        }
        if scope.purpose == Purpose::Capture {
            scope.pool.holding.lock().captured = true;
            self.captures.fetch_add(1, Ordering::AcqRel);
        }
        self.exceptions.fetch_add(1, Ordering::AcqRel);
        scopes.push(scope);
        true
    }

    /// Ends a pool's scope. False if it has none.
    pub(crate) fn end(&self, id: PoolId) -> bool {
        let mut scopes = self.scopes.write();
        let Some(at) = scopes.iter().position(|scope| scope.pool.id == id) else {
            return false;
        };
        let scope = scopes.remove(at);
        if scope.purpose == Purpose::Capture {
            // Released and held again while it was begun, it is a graph's all the same.
            let mut holding = scope.pool.holding.lock();
            holding.captured |= holding.uses > 0;
            let released = holding.uses == 0;
            drop(holding);
            if released {
                self.seal(id);
            }
            self.captures.fetch_sub(1, Ordering::AcqRel);
        }
        self.exceptions.fetch_sub(1, Ordering::AcqRel);
        // The filter is the caller's: dropped without the lock.
        drop(scopes);
        drop(scope);
        true
    }
}
