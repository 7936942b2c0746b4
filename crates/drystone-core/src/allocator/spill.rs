//! Spilling: large blocks in memory of the host, once the device has no more.
//!
//! Such blocks live in heaps of their own, one for each (pool, stream) that spills, which serve no
//! other requests: what is free there waits for its stream and goes back to the host. So the rest
//! of the allocator deals with memory of the device only.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Allocator;
use super::remap::Sources;
use super::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{Driver, DriverError};
use crate::heap::{Heap, HeapKey};
use crate::pool::{Held, PoolId};
use crate::stats::Metric;
use crate::units::Kind;

impl<D: Driver> Allocator<D> {
    /// The last step for a large request: memory of the host, up to the configured limit.
    pub(super) fn spill(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, pool, fit, request, .. } = *quest;
        let kept = pool.is_kept_for_replay() || device.is_capturing();
        if device.spill_limit == 0 || fit.kind == Kind::Small || kept {
            return Err(NoSegment::Full);
        }
        let key = HeapKey { device: device.id, pool: pool.id, stream: request.stream };
        let Held { heap, term } = self.spill_heap(device, key).ok_or(NoSegment::Full)?;
        let address = self.seek_pages(&Quest { heap, term, ..*quest }, Sources::New)?;
        device.counters.spills.fetch_add(1, Ordering::Relaxed);
        if let Some(store) = &device.pages {
            // The block may lie where one was free before.
            store.lock().keep_left(|_| false);
        }
        Ok(address)
    }

    /// The heap that spills for a stream of a pool, made if there is none. None if there are too
    /// many heaps.
    fn spill_heap(&self, device: &Device, key: HeapKey) -> Option<Held> {
        // Two threads are not to make one each.
        let _pages = device.pages.as_ref()?.lock();
        for heap in self.spill_heaps(device, |pool| pool == key.pool) {
            let core = heap.lock();
            if core.key == Some(key) {
                let term = core.term();
                drop(core);
                return Some(Held { heap, term });
            }
        }
        let heap = self.heaps.take().ok()?;
        let term = heap.lock().assign_spills(key, device.tickers.of(key.stream));
        device.totals.add_heap(key.pool, Arc::clone(&heap));
        Some(Held { heap, term })
    }

    /// The heaps of these pools that spill.
    pub(super) fn spill_heaps(
        &self,
        device: &Device,
        wanted: impl Fn(PoolId) -> bool,
    ) -> Vec<Arc<Heap>> {
        let heaps = device.totals.heaps().into_iter().filter(|(id, heap)| {
            let spills = || {
                let core = heap.lock();
                core.spills() && core.serves(device.id, *id) && !core.is_sealed()
            };
            wanted(*id) && spills()
        });
        heaps.map(|(_, heap)| heap).collect()
    }

    /// Bytes of the blocks that lie in memory of the host.
    pub(super) fn spilled_live(&self, device: &Device) -> u64 {
        let heaps = self.spill_heaps(device, |_| true);
        let live = |heap: &Arc<Heap>| {
            heap.counters.of(Kind::Large).current()[Metric::ActiveBytes as usize]
        };
        heaps.iter().map(live).sum()
    }

    /// Gives memory of the host back that is free, and whose stream is known to have passed the
    /// time when that was first seen. Waits for nothing. A failure is not the request's: it is
    /// logged.
    pub(super) fn unspill(&self, device: &Device) {
        if device.spilled.get().current == 0 {
            return;
        }
        let heaps = self.spill_heaps(device, |_| true);
        heaps.iter().for_each(|heap| self.settle(device, heap));
        let (Some(store), Some(_awake)) = (&device.pages, device.outside_captures()) else {
            return;
        };
        let mut store = store.lock();
        let mut free_now = HashSet::new();
        for heap in &heaps {
            let Some(ticker) = heap.lock().ticker().cloned() else { continue };
            let (events, now) = (&device.tickers.events, ticker.stamp());
            let free = self.free_handles_of(&store, heap).into_iter();
            let free: Vec<_> = free.map(|handle| (handle, store.left_at(handle, now))).collect();
            let Some(last) = free.iter().map(|&(_, stamp)| stamp).max() else { continue };
            free_now.extend(free.iter().map(|&(handle, _)| handle));
            let mut result = ticker
                .request(&self.driver, events, last)
                .and_then(|()| ticker.poll(&self.driver, events));
            for (handle, stamp) in free {
                if ticker.has_passed(stamp) {
                    let gone = self.evict_passed(&mut store, device, handle);
                    result = result.and(gone.map(drop));
                }
            }
            if let Err(error) = result {
                tracing::warn!(%error, "memory of the host could not be given back");
            }
        }
        store.keep_left(|handle| free_now.contains(&handle));
    }

    /// Gives all memory of the host back that is free in these pools, and waits on the host for the
    /// streams that used it. Bytes of the device that could be given back only now.
    pub(super) fn release_spilled(
        &self,
        device: &Device,
        wanted: impl Fn(PoolId) -> bool,
    ) -> Result<u64, DriverError> {
        let heaps = self.spill_heaps(device, wanted);
        if heaps.is_empty() {
            return Ok(0);
        }
        self.release_heaps(device, &heaps, u64::MAX)
    }
}
