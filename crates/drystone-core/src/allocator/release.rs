//! Giving memory back to the driver: idle segments, handles without a live byte, and what must be
//! waited for first.
//!
//! Segments leave their heaps first, so nobody can use them; then the device is waited for once;
//! then the driver takes them. If it refuses, they go back to where they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Allocator;
use super::slow::Quest;
use crate::device::Device;
use crate::driver::{DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, StreamId};
use crate::error::{AllocError, PoolError};
use crate::heap::{Heap, HeapKey, IdleSegment, Segment};
use crate::history::Action;
use crate::policy::{TRADE_TIME_FREE_NS, TRADE_TIME_PART};
use crate::pool::PoolId;
use crate::stats::Metric;
use crate::units::Kind;

/// An idle segment, and the heap it is in.
struct Candidate {
    heap: Arc<Heap>,
    idle: IdleSegment,
}

impl<D: Driver> Allocator<D> {
    /// Gives back what holds no live byte: idle segments and handles of the default pool and of pools
    /// that nobody holds. Waits for the device if there are segments, and for the streams that used
    /// the handles last. Bytes given back.
    pub fn empty_cache(&self, device: DeviceId) -> Result<u64, PoolError> {
        let device = self.device(device)?;
        self.settle_all(device);
        let waits = &device.counters.sync_all_streams;
        let before = waits.load(Ordering::Relaxed);
        let released = self.release_cached(device, None)?;
        // As torch counts: a call is one, however many streams there were to wait for.
        waits.store(before + 1, Ordering::Relaxed);
        Ok(released)
    }

    /// Likewise every idle segment and handle of one pool, held or not. A pool that a captured graph holds
    /// is refused: replays use its memory even where no block is live.
    pub fn empty_pool_cache(&self, device: DeviceId, pool: PoolId) -> Result<u64, PoolError> {
        let device = self.device(device)?;
        let unknown = PoolError::Unknown { device: device.id, pool };
        if device.pool(pool).ok_or(unknown)?.is_kept_for_replay() {
            return Err(PoolError::Captured { device: device.id, pool });
        }
        self.settle_all(device);
        Ok(self.release_cached(device, Some(pool))?)
    }

    pub(super) fn settle_all(&self, device: &Device) {
        for (_, heap) in device.totals.heaps() {
            self.settle(device, &heap);
        }
    }

    /// Gives idle segments back: of one pool, or of all from which it may be taken. Does nothing
    /// while a capture is underway.
    pub(super) fn release_cached(
        &self,
        device: &Device,
        pool: Option<PoolId>,
    ) -> Result<u64, DriverError> {
        let wanted = |id| match pool {
            Some(pool) => id == pool,
            None => self.may_release(device, id),
        };
        let segments = self.release(device, self.candidates(device, wanted))?;
        self.unseal(device)?;
        let pages = self.release_pages(device, wanted, u64::MAX);
        let spilled = self.release_spilled(device, wanted);
        self.tell_reserved(device);
        let (pages, spilled) = (pages?, spilled?);
        self.retire_released_pools(device);
        Ok(segments + pages + spilled)
    }

    /// Whether memory cached by a pool may be taken from it: it is the default pool's, or nobody
    /// holds the pool.
    pub(super) fn may_release(&self, device: &Device, id: PoolId) -> bool {
        id == PoolId::DEFAULT || device.is_orphaned(id)
    }

    /// Idle segments of the pools that `wanted` names; none while a capture is underway.
    fn candidates(&self, device: &Device, wanted: impl Fn(PoolId) -> bool) -> Vec<Candidate> {
        if device.is_capturing() {
            return Vec::new();
        }
        let heaps = device.totals.heaps().into_iter().filter(|(id, _)| wanted(*id));
        heaps
            .flat_map(|(id, heap)| {
                let mut core = heap.lock();
                let serves = core.serves(device.id, id);
                let idle = if serves { core.idle_segments() } else { Vec::new() };
                drop(core);
                idle.into_iter().map(move |idle| Candidate { heap: Arc::clone(&heap), idle })
            })
            .collect()
    }

    /// Gives the candidates that are still idle back: bytes given back.
    fn release(&self, device: &Device, candidates: Vec<Candidate>) -> Result<u64, DriverError> {
        let Some(awake) = device.outside_captures() else { return Ok(0) };
        let mut leaving: Vec<(Arc<Heap>, Segment)> = Vec::new();
        for Candidate { heap, idle } in candidates {
            if let Some(segment) = self.detach(device, &heap, &idle) {
                leaving.push((heap, segment));
            }
        }
        if leaving.is_empty() {
            return Ok(0);
        }
        let mut result = self.synchronize(device);
        let mut released = 0;
        // Large segments first: they are what a waiting request needs.
        leaving.sort_by_key(|(_, segment)| std::cmp::Reverse(segment.bytes()));
        for (heap, segment) in leaving {
            if result.is_ok() {
                let key = heap.lock().key;
                result = self.give_to_driver(device, &segment);
                if result.is_ok() {
                    released += segment.bytes();
                    self.account_release(&heap, key, &segment);
                    continue;
                }
            }
            self.put_back(&heap, segment);
        }
        drop(awake);
        self.tell_reserved(device);
        result.map(|()| released)
    }

    fn account_release(&self, heap: &Heap, key: Option<HeapKey>, segment: &Segment) {
        let mut core = heap.lock();
        heap.counters.of(segment.kind).segment_freed(segment.bytes());
        core.came_to_rest();
        drop(core);
        if self.history.is_on()
            && let Some(key) = key
        {
            self.note(Action::SegmentFree, &key, segment.base, segment.bytes());
        }
    }

    /// Lets the driver take a segment that is in no heap.
    pub(super) fn give_to_driver(
        &self,
        device: &Device,
        segment: &Segment,
    ) -> Result<(), DriverError> {
        self.driver.segment_free(device.id, segment.base)?;
        device.unreserve(segment.bytes());
        device.counters.device_free.fetch_add(1, Ordering::Relaxed);
        if self.is_oversize(segment.bytes()) {
            device.counters.oversize_segments.down();
        }
        Ok(())
    }

    fn synchronize(&self, device: &Device) -> Result<(), DriverError> {
        device.counters.sync_all_streams.fetch_add(1, Ordering::Relaxed);
        self.driver.device_synchronize(device.id)
    }

    /// Step 6 of the slow path, torch's rule for `max_split_size`: the smallest idle segment that
    /// makes room for the request, else the largest ones until there is enough. True if so.
    pub(super) fn release_enough(&self, device: &Device, needed: u64) -> Result<bool, DriverError> {
        let key = needed.max(self.max_split_size().unwrap_or(0));
        let mut idle = self.candidates(device, |id| self.may_release(device, id));
        idle.retain(|candidate| {
            candidate.idle.kind == Kind::Large && self.is_oversize(candidate.idle.bytes)
        });
        idle.sort_by_key(|candidate| candidate.idle.bytes);
        if let Some(at) = idle.iter().position(|candidate| candidate.idle.bytes >= key) {
            let one = idle.swap_remove(at);
            return Ok(self.release(device, vec![one])? >= needed);
        }
        let (mut chosen, mut sum) = (Vec::new(), 0);
        while sum < key
            && let Some(candidate) = idle.pop()
        {
            sum += candidate.idle.bytes;
            chosen.push(candidate);
        }
        Ok(sum >= key && self.release(device, chosen)? >= needed)
    }

    /// Step 2, torch's rule for `garbage_collection_threshold`: once more than that part of the
    /// limit is reserved, idle large segments of at least average age go, round after round, until
    /// it is less. Of pages, handles without a live byte go. Only where a limit is set. A failure is
    /// not the request's: it is logged.
    pub(super) fn collect_garbage(&self, device: &Device) {
        let threshold = self.in_force(|policy| policy.garbage_collection_threshold);
        let Some(limit) = device.limit().filter(|_| threshold > 0.0) else { return };
        let allowed = (limit as f64 * threshold) as u64;
        let mut excess = device.reserved().saturating_sub(allowed);
        if excess == 0 {
            return;
        }
        let default = |id| id == PoolId::DEFAULT;
        if let Err(error) = self.release_pages(device, default, excess) {
            tracing::warn!(%error, "garbage collection could not give pages back");
        }
        let mut idle = self.candidates(device, default);
        idle.retain(|candidate| candidate.idle.kind == Kind::Large);
        let mut chosen = Vec::new();
        while excess > 0 && !idle.is_empty() {
            let ages: u64 = idle.iter().map(|candidate| candidate.idle.age).sum();
            let mean = ages / idle.len() as u64;
            idle.retain_mut(|candidate| {
                let goes = excess > 0 && candidate.idle.age >= mean;
                if goes {
                    excess = excess.saturating_sub(candidate.idle.bytes);
                    let heap = Arc::clone(&candidate.heap);
                    chosen.push(Candidate { heap, idle: candidate.idle.clone() });
                }
                !goes
            });
        }
        if let Err(error) = self.release(device, chosen) {
            tracing::warn!(%error, "garbage collection could not give memory back");
        }
    }

    /// Before step 4: if a new segment would put more than the slack above the peak of live bytes
    /// in reserve, the pool's idle large segments, each too small for this request, go back first.
    /// A time budget keeps a workload that takes and trades in turns from paying for it forever.
    /// A failure is not the request's: it is logged.
    pub(super) fn trade_in(&self, quest: &Quest<'_>) {
        let Quest { device, pool, fit, .. } = *quest;
        if device.pages.is_some() || fit.kind == Kind::Small || pool.is_kept_for_replay() {
            return;
        }
        let live = device.totals.stats(None).all(Metric::ActiveBytes);
        let needed = self.policy.least_segment(fit);
        let peak = live.peak.max(live.current + needed);
        if device.own() + needed <= self.policy.allowed_reserve(peak) {
            return;
        }
        let start = self.driver.now_ns();
        let spent = device.counters.trade_ns.load(Ordering::Relaxed);
        let budget = TRADE_TIME_FREE_NS + start.saturating_sub(self.made_at_ns) / TRADE_TIME_PART;
        if spent >= budget {
            return;
        }
        let mut idle = self.candidates(device, |id| id == pool.id);
        idle.retain(|candidate| candidate.idle.kind == Kind::Large);
        if let Err(error) = self.release(device, idle) {
            tracing::warn!(%error, "idle segments could not be traded in");
        }
        let took = self.driver.now_ns().saturating_sub(start);
        device.counters.trade_ns.fetch_add(took, Ordering::Relaxed);
    }

    /// Waits for the last launches of graphs whose pools were released, after which others may
    /// have their memory. True if there was any.
    fn unseal(&self, device: &Device) -> Result<bool, DriverError> {
        let heaps = device.totals.heaps().into_iter();
        let sealed: Vec<_> = heaps
            .filter_map(|(_, heap)| {
                let term = heap.lock().sealed_term()?;
                Some((heap, term))
            })
            .collect();
        let Some(_awake) = device.outside_captures().filter(|_| !sealed.is_empty()) else {
            return Ok(false);
        };
        self.synchronize(device)?;
        for (heap, term) in sealed {
            heap.lock().unseal(term);
        }
        Ok(true)
    }

    /// Step 7: the host waits for all pending blocks of the device, and for launches that no ticket
    /// covers. True if there were any.
    pub(super) fn wait_for_pending(&self, device: &Device) -> Result<bool, DriverError> {
        let (mut any, mut waited) = (self.unseal(device)?, false);
        let mut failed = None;
        for (_, heap) in device.totals.heaps() {
            let waits = {
                let core = heap.lock();
                // Their streams may be known to have passed already.
                any |= core.has_pending();
                core.waits()
            };
            for wait in waits {
                let Some(_awake) = device.outside_captures() else { return Ok(any) };
                waited = true;
                // One stream that cannot be waited for does not keep the others' blocks pending.
                let done = wait.ticker.wait(&self.driver, &device.tickers.events, wait.stamp);
                failed = failed.or(done.err());
            }
            self.settle_known(device, &heap);
        }
        if waited {
            device.counters.sync_all_streams.fetch_add(1, Ordering::Relaxed);
        }
        failed.map_or(Ok(any), Err)
    }

    /// Says that a stream is about to be destroyed: waits for the work submitted to it, so that
    /// what was freed on it or waits for it can go to others, also if the driver gives the
    /// stream's name to another one later. Nothing may be submitted to the stream afterwards, and
    /// its live blocks should have been freed before. The driver is not asked about the stream any
    /// more until the name is used again: by a request, or recorded on a block. Not in a capture.
    pub fn stream_ends(&self, device: DeviceId, stream: StreamId) -> Result<(), AllocError> {
        let device = self.device(device)?;
        let ticker = device.tickers.of(stream);
        let Some(awake) = device.outside_captures() else {
            return Err(AllocError::Driver(DriverError {
                call: DriverCall::EventSynchronize,
                kind: DriverErrorKind::NotPermitted,
                code: 0,
                detail: "a stream capture is underway".into(),
            }));
        };
        ticker.wait(&self.driver, &device.tickers.events, ticker.stamp())?;
        drop(awake);
        device.stream_ended(&ticker);
        for (_, heap) in device.totals.heaps() {
            self.settle_known(device, &heap);
        }
        Ok(())
    }

    /// Takes the heaps of pools that nobody holds, and that hold nothing, for other uses.
    pub(super) fn retire_released_pools(&self, device: &Device) {
        for pool in device.released_pools() {
            let heaps = || device.totals.heaps().into_iter().filter(|(id, _)| *id == pool.id);
            let empty = heaps().all(|(_, heap)| heap.lock().is_empty());
            if !empty || !device.forget_pool(pool.id) {
                continue;
            }
            for (id, heap) in heaps() {
                let mut core = heap.lock();
                // A request may have filled it since; then it stays, an orphan whose memory
                // others may adopt. Or another thread has retired it already.
                if core.serves(device.id, id) && core.is_empty() {
                    device.totals.retire_heap(&heap, id);
                    core.retire();
                    heap.counters.clear();
                    drop(core);
                    self.heaps.give(heap.id);
                }
            }
            device.totals.retire_pool(pool.id);
        }
    }

    /// At the allocator's end: every idle segment of every pool, and every event.
    pub(super) fn release_everything(&self, device: &Device) -> Result<(), DriverError> {
        device.forget_graphs();
        // What fails does not keep the rest from going back.
        let capturing = device.is_capturing();
        let waited = if capturing { Ok(false) } else { self.wait_for_pending(device) };
        let segments = self.release(device, self.candidates(device, |_| true));
        let released = segments.and(self.release_pages(device, |_| true, u64::MAX));
        let released = released.and(self.release_spilled(device, |_| true));
        let live = device.totals.stats(None).all(Metric::ActiveBytes).current;
        if live > 0 {
            tracing::warn!(live, device = device.id.0, "live blocks stay with the device");
        }
        let destroyed = device.tickers.destroy_events(&self.driver);
        waited.and(released).and(destroyed)
    }
}
