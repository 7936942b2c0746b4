//! Requests: the fast path of an allocation.

use std::sync::Arc;

use super::{Allocator, Request};
use crate::device::Device;
use crate::driver::{DeviceId, Driver, StreamId};
use crate::error::AllocError;
use crate::heap::{Extent, Fit, Heap, Located, Locked};
use crate::pool::{Held, Pool};
use crate::units::{GRANULE, MAX_ALIGN, MAX_REQUEST};

impl<D: Driver> Allocator<D> {
    /// Hands out `size` bytes of `device`, aligned to 512, to be used on `stream` first: the
    /// address. 0 bytes give the null address, which [`Allocator::free`] accepts.
    #[inline]
    pub fn allocate(
        &self,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, AllocError> {
        self.serve(Request { size, align: GRANULE, device, stream })
    }

    /// Hands out memory as the request says: the address.
    pub fn allocate_request(&self, request: Request) -> Result<u64, AllocError> {
        self.serve(request)
    }

    #[inline(always)]
    pub(super) fn serve(&self, request: Request) -> Result<u64, AllocError> {
        let device = self.device(request.device)?;
        if !request.align.is_power_of_two() || request.align > MAX_ALIGN {
            return Err(AllocError::BadAlignment { align: request.align });
        }
        if request.size == 0 {
            return Ok(0);
        }
        if request.size > MAX_REQUEST {
            return Err(self.too_large(device, &request));
        }
        if device.has_exceptions() {
            return self.serve_routed(device, &request);
        }
        self.serve_from(device, &device.default_pool, &request)
    }

    /// Serves a request while pools are begun, streams have ended or settings were changed.
    #[cold]
    fn serve_routed(&self, device: &Device, request: &Request) -> Result<u64, AllocError> {
        device.stream_is_used(request.stream);
        let routed = device.route(request.stream);
        let pool = routed.as_ref().unwrap_or(&device.default_pool);
        if device.is_retuned() || pool.is_unsplit() {
            return self.serve_by_other_rules(device, pool, request);
        }
        self.serve_from(device, pool, request)
    }

    /// Serves a request whose block is not what the configuration says.
    #[cold]
    fn serve_by_other_rules(
        &self,
        device: &Device,
        pool: &Arc<Pool>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        let fit = self.fit_in(pool, request.size, request.align);
        if let Some(Held { heap, term }) = pool.heap(request.stream) {
            let mut core = self.lock_and_look(device, heap);
            if core.is_term(*term)
                && let Some(handed) = heap.allocate(&mut core, &fit, true)
            {
                return Ok(self.handed_out(device, heap, core, handed));
            }
        }
        self.allocate_slowly(device, pool, request)
    }

    /// Locks a heap for a request; where it is time to look at its pending blocks, that comes first, so
    /// that the request may get one.
    #[inline(always)]
    fn lock_and_look<'h>(&self, device: &Device, heap: &'h Heap) -> Locked<'h> {
        let mut core = heap.lock();
        if core.has_pending() && core.looks_at_pending() {
            drop(core);
            self.settle(device, heap);
            core = heap.lock();
        }
        core
    }

    /// Serves a request out of a pool. What is inlined ends with the parked block.
    #[inline(always)]
    fn serve_from(
        &self,
        device: &Device,
        pool: &Arc<Pool>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        let size = self.policy.extent(request.size, request.align);
        if let Some(Held { heap, term }) = pool.heap(request.stream) {
            let mut core = self.lock_and_look(device, heap);
            if core.is_term(*term) {
                if request.align == GRANULE
                    && let Some(handed) = heap.reuse(&mut core, size, request.size)
                {
                    return Ok(self.handed_out(device, heap, core, handed));
                }
                if let Some(address) = self.serve_filed(device, heap, core, size, request) {
                    return Ok(address);
                }
            }
        }
        self.allocate_slowly(device, pool, request)
    }

    /// Serves a request out of the bins of a heap, whose parked block was looked at.
    #[inline(never)]
    fn serve_filed(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        size: Extent,
        request: &Request,
    ) -> Option<u64> {
        let fit = self.policy.fit_of(size, request.size, request.align);
        if core.remaps(size.kind) {
            return self.serve_in_arena(device, heap, core, &fit);
        }
        let handed = heap.allocate_filed(&mut core, &fit)?;
        Some(self.handed_out(device, heap, core, handed))
    }

    /// Likewise a large request, out of the arenas of a heap.
    #[inline(never)]
    fn serve_in_arena(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        fit: &Fit,
    ) -> Option<u64> {
        let handed = heap.allocate_in_arena(&mut core, fit, true)?;
        Some(self.handed_out(device, heap, core, handed))
    }

    /// What follows once a block is handed out: its address.
    #[inline(always)]
    fn handed_out(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        handed: Located,
    ) -> u64 {
        device.totals.after_allocation(heap, &mut core.thresholds, handed.kind);
        self.note_allocation(device, &core, handed);
        handed.address
    }
}
