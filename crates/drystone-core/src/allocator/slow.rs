//! The slow path: a request that the cache cannot serve, step by step, cheapest first.
//!
//! 1. Pending blocks whose streams have passed become free.
//! 2. Garbage collection, where it is configured.
//! 3. An idle segment of another stream that the host knows to have passed.
//! 4. A window of pages (`remap`); or, without pages, a new segment, paid for with idle ones that were
//!    too small where too much is reserved.
//!
//! If the device or the limit refuses it, and no capture is underway (with pages likewise, in
//! `remap`):
//!
//! 5. Memory of other streams, which this stream then waits for on the GPU.
//! 6. Enough idle segments given back (only where `max_split_size` is set).
//! 7. The host waits for pending blocks.
//! 8. The whole cache given back.
//! 9. For a large request on pages, memory of the host, where that is configured.
//! 10. A free block of a pool that serves others before they fail.
//! 11. The application's callbacks; while they report progress, from 1 again.
//!
//! Each step leaves a consistent allocator whatever the driver answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Allocator, Request};
use crate::block::BlockIndex;
use crate::config::CrossStream;
use crate::device::Device;
use crate::driver::{Driver, DriverError, DriverErrorKind};
use crate::error::{AllocError, OutOfMemory};
use crate::heap::{Fit, Heap, HeapCore, HeapKey, Segment, Term};
use crate::history::Action;
use crate::pool::{Held, Pool, PoolId};
use crate::stats::Metric;
use crate::table::Place;
use crate::units::Kind;

/// Why no new segment could be had.
pub(super) enum NoSegment {
    /// The device has no room for it, or the limit forbids it.
    Full,
    /// The driver failed otherwise.
    Failed(DriverError),
    /// The heap was retired in the meantime.
    Retired,
}

/// A request on its way through the slow path.
pub(super) struct Quest<'a> {
    pub(super) device: &'a Device,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) heap: Arc<Heap>,
    /// The heap's term; when it is over, the request begins again.
    pub(super) term: Term,
    pub(super) fit: &'a Fit,
    pub(super) request: &'a Request,
}

impl<D: Driver> Allocator<D> {
    #[cold]
    #[inline(never)]
    pub(super) fn allocate_slowly(
        &self,
        device: &Device,
        pool: &Arc<Pool>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        let fit = &self.fit_in(pool, request.size, request.align);
        let mut tries = 0;
        loop {
            let Held { heap, term } = self.heap(device, pool, request.stream)?;
            let quest = Quest { device, pool, heap, term, fit, request };
            match self.seek(&quest) {
                Ok(address) => return Ok(address),
                Err(NoSegment::Failed(error)) => return Err(error.into()),
                // A pool is retired only when nobody holds it: a request may still be on its way
                // to it. It begins again with a fresh heap.
                Err(NoSegment::Retired) => {}
                Err(NoSegment::Full) => {
                    match self.borrow_on_oom(&quest) {
                        Ok(Some(address)) => return Ok(address),
                        Err(NoSegment::Failed(error)) => return Err(error.into()),
                        _ => {}
                    }
                    let error = self.out_of_memory(&quest);
                    if tries < self.policy.oom_retries && self.callbacks.out_of_memory(&error) {
                        tries += 1;
                        continue;
                    }
                    device.counters.ooms.fetch_add(1, Ordering::Relaxed);
                    if self.history.is_on() {
                        let key =
                            HeapKey { device: device.id, pool: pool.id, stream: request.stream };
                        self.note(Action::Oom, &key, error.device_free, error.asked);
                    }
                    return Err(AllocError::OutOfMemory(Box::new(error)));
                }
            }
        }
    }

    /// Steps 1 to 8.
    fn seek(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, ref heap, .. } = *quest;
        let capturing = device.is_capturing();
        self.go_home(quest);
        if let Some(address) = self.return_to_place(quest) {
            return Ok(address);
        }
        // First as it is: a stream that overflowed its pool's table always comes this way.
        if let Some(address) = self.take_cached(quest)? {
            return Ok(address);
        }
        if !capturing {
            self.unspill(device);
            self.settle(device, heap);
            if let Some(address) = self.take_cached(quest)? {
                return Ok(address);
            }
            self.collect_garbage(device);
            if self.policy.cross_stream != CrossStream::Off
                && let Some(address) = self.adopt_passed(quest)?
            {
                return Ok(address);
            }
            self.trade_in(quest);
        }
        if device.pages.is_some() {
            return match self.seek_pages(quest, self.sources(quest)) {
                Err(NoSegment::Full) if !capturing => self.seek_pages_under_pressure(quest),
                other => other,
            };
        }
        match self.grow(quest) {
            Err(NoSegment::Full) if !capturing => self.seek_under_pressure(quest),
            other => other,
        }
    }

    /// Steps 5 to 8.
    fn seek_under_pressure(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, ref heap, fit, .. } = *quest;
        if self.policy.cross_stream == CrossStream::Wait
            && let Some(address) = self.borrow_waiting(quest)?
        {
            return Ok(address);
        }
        if self.max_split_size().is_some() {
            let least = self.policy.least_segment(fit);
            if self.release_enough(device, least).map_err(NoSegment::Failed)? {
                match self.grow(quest) {
                    Err(NoSegment::Full) => {}
                    other => return other,
                }
            }
        }
        let waited = self.wait_for_pending(device).unwrap_or_else(|error| {
            // What could be waited for is free now; a broken device fails the next step.
            tracing::warn!(%error, "cannot wait for every stream");
            true
        });
        if waited {
            self.settle(device, heap);
            if let Some(address) = self.take_cached(quest)? {
                return Ok(address);
            }
            // What was pending in other heaps can be lent now.
            if self.policy.cross_stream == CrossStream::Wait
                && let Some(address) = self.borrow_waiting(quest)?
            {
                return Ok(address);
            }
        }
        self.release_cached(device, None).map_err(NoSegment::Failed)?;
        device.counters.alloc_retries.fetch_add(1, Ordering::Relaxed);
        self.grow(quest)
    }

    /// A free block of the heap itself.
    pub(super) fn take_cached(&self, quest: &Quest<'_>) -> Result<Option<u64>, NoSegment> {
        let Quest { device, ref heap, term, fit, .. } = *quest;
        let mut core = heap.lock();
        if !core.is_term(term) {
            return Err(NoSegment::Retired);
        }
        let Some(handed) = heap.allocate(&mut core, fit, false) else {
            return Ok(None);
        };
        device.totals.after_allocation(heap, &mut core.thresholds, fit.kind);
        self.note_allocation(device, &core, handed);
        Ok(Some(handed.address))
    }

    /// Step 4: a new segment, and the block out of it.
    fn grow(&self, quest: &Quest<'_>) -> Result<u64, NoSegment> {
        let Quest { device, fit, .. } = *quest;
        let held = quest.heap.counters.of(fit.kind).current()[Metric::ReservedBytes as usize];
        let least = self.policy.least_segment(fit);
        let wanted = self.in_force(|policy| policy.segment(fit, held));
        let (base, bytes) = match self.take_segment(device, wanted) {
            // Rather a segment of just the size than none.
            Err(NoSegment::Full) if least < wanted => (self.take_segment(device, least)?, least),
            other => (other?, wanted),
        };
        let address = self.settle_segment(quest, Segment::new(base, bytes, fit.kind))?;
        self.tell_reserved(device);
        Ok(address)
    }

    /// Asks the driver for memory, within the limit.
    fn take_segment(&self, device: &Device, bytes: u64) -> Result<u64, NoSegment> {
        if !device.reserve(bytes) {
            return Err(NoSegment::Full);
        }
        match self.driver.segment_alloc(device.id, bytes) {
            Ok(base) => {
                device.counters.device_alloc.fetch_add(1, Ordering::Relaxed);
                if self.is_oversize(bytes) {
                    device.counters.oversize_segments.up();
                }
                Ok(base)
            }
            Err(error) => {
                device.unreserve(bytes);
                match error.kind {
                    DriverErrorKind::OutOfMemory => Err(NoSegment::Full),
                    _ => Err(NoSegment::Failed(error)),
                }
            }
        }
    }

    /// Whether a segment or block counts as oversize.
    pub(super) fn is_oversize(&self, bytes: u64) -> bool {
        self.max_split_size().is_some_and(|size| bytes >= size)
    }

    /// Enters a segment that is nobody's into the heap, and hands a block of it out.
    fn settle_segment(&self, quest: &Quest<'_>, segment: Segment) -> Result<u64, NoSegment> {
        let Quest { device, ref heap, term, fit, .. } = *quest;
        let mut core = heap.lock();
        if !core.is_term(term) {
            drop(core);
            self.give_to_driver(device, &segment).map_err(NoSegment::Failed)?;
            return Err(NoSegment::Retired);
        }
        let (base, bytes) = (segment.base, segment.bytes());
        let block = self.enter(heap, &mut core, segment);
        if self.history.is_on()
            && let Some(key) = &core.key
        {
            self.note(Action::SegmentAlloc, key, base, bytes);
        }
        let handed = heap.hand_out(&mut core, block, fit);
        device.totals.sum_up(heap, &mut core.thresholds);
        self.note_allocation(device, &core, handed);
        Ok(handed.address)
    }

    /// Enters a segment that is nobody's into a heap and the address table: its one block.
    pub(super) fn enter(&self, heap: &Heap, core: &mut HeapCore, segment: Segment) -> BlockIndex {
        let (base, bytes) = (segment.base, segment.bytes());
        let (at, block) = heap.take_in(core, segment);
        self.table.insert(base, bytes, Place { heap: heap.id, segment: at });
        block
    }

    /// Frees the pending blocks of a heap whose streams have passed, asking the driver how far the
    /// streams have come. Does nothing while a capture is underway.
    pub(super) fn settle(&self, device: &Device, heap: &Heap) {
        let Some(awake) = device.outside_captures() else { return };
        let waits = heap.lock().waits();
        let events = &device.tickers.events;
        for wait in waits {
            let asked = wait
                .ticker
                .request(&self.driver, events, wait.stamp)
                .and_then(|()| wait.ticker.poll(&self.driver, events));
            if let Err(error) = asked {
                // The blocks stay pending; whoever needs them next asks again.
                tracing::warn!(%error, "cannot tell how far {} has come", wait.ticker.stream);
            }
        }
        drop(awake);
        self.settle_known(device, heap);
    }

    /// Frees the pending blocks of a heap whose streams are known to have passed.
    pub(super) fn settle_known(&self, device: &Device, heap: &Heap) {
        let mut core = heap.lock();
        let Some(key) = core.key.filter(|key| key.device == device.id) else { return };
        if !core.has_pending() {
            return;
        }
        let note = self.history.is_on();
        heap.settle_pending(&mut core, |address, requested| {
            if note {
                self.note(Action::FreeCompleted, &key, address, requested);
            }
        });
        for kind in Kind::ALL {
            device.totals.after_free(heap, &mut core.thresholds, kind);
        }
    }

    /// A request that no device could serve. Who is told when memory is out is told, but there is no
    /// other try.
    #[cold]
    pub(super) fn too_large(&self, device: &Device, request: &Request) -> AllocError {
        let pool = device.default_pool.id;
        self.callbacks.out_of_memory(&self.figures(device, pool, request, request.size));
        device.counters.ooms.fetch_add(1, Ordering::Relaxed);
        AllocError::TooLarge { size: request.size }
    }

    /// The figures of a request that cannot be served.
    fn out_of_memory(&self, quest: &Quest<'_>) -> OutOfMemory {
        let Quest { device, pool, fit, request, .. } = *quest;
        self.figures(device, pool.id, request, self.policy.least_segment(fit))
    }

    /// The figures of a request that cannot be served, for which a segment of so many bytes was
    /// wanted.
    fn figures(
        &self,
        device: &Device,
        pool: PoolId,
        request: &Request,
        segment: u64,
    ) -> OutOfMemory {
        // Without the figures the error is still one.
        let memory = self.driver.device_memory(device.id).unwrap_or_default();
        OutOfMemory {
            device: device.id,
            stream: request.stream,
            pool,
            asked: request.size,
            segment,
            live: device.totals.stats(None).all(Metric::ActiveBytes).current,
            reserved: device.reserved(),
            device_free: memory.free,
            device_total: memory.total,
            limit: device.limit(),
            largest_free: super::defragment::largest(device),
            spilled: self.spilled_live(device),
            capturing: device.is_capturing(),
        }
    }
}
