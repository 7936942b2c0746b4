//! The small or the large memory of a stream: what is free, where handles are mapped, and moving them.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, StreamId};

use crate::policy::parts::{Event, FreeList, Mapped, Span};

/// Addresses that a pool reserves, as a multiple of the device's memory.
const ADDRESSES: u64 = 4;

/// The small or the large memory of a stream.
pub(super) struct Pool {
    device: DeviceId,
    stream: StreamId,
    handle: u64,
    free: FreeList,
    /// Addresses below the tail at which nothing is mapped.
    holes: FreeList,
    /// Where nothing was mapped yet, and where the pool's addresses end.
    tail: u64,
    end: u64,
    mapped: Mapped,
}

impl Pool {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        device: DeviceId,
        stream: StreamId,
        handle: u64,
    ) -> Result<Self, DriverError> {
        let page = driver.page_bytes(device)?;
        let handle = handle.next_multiple_of(page);
        let total = driver.device_memory(device)?.total;
        let mut mapped = Mapped::new(Arc::clone(driver), device);
        let bytes = (total * ADDRESSES).next_multiple_of(handle);
        let tail = mapped.reserve(bytes)?;
        let (free, holes) = (FreeList::default(), FreeList::default());
        Ok(Pool { device, stream, handle, free, holes, tail, end: tail + bytes, mapped })
    }

    /// Takes the smallest free block that fits, cut.
    pub(super) fn take(&mut self, bytes: u64) -> Option<u64> {
        let mut span = self.free.best_fit(bytes)?;
        if let Some(rest) = span.cut(bytes) {
            self.free.insert(rest);
        }
        Some(span.address)
    }

    pub(super) fn give(&mut self, address: u64, bytes: u64) {
        self.free.insert(Span { address, bytes, head: false });
    }

    /// Maps new handles for all of a request.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<u64, DriverError> {
        let (address, all) = (self.tail, bytes.next_multiple_of(self.handle));
        if self.end - address < all {
            return Err(no_addresses());
        }
        if let Err(error) = self.mapped.back(address, all, self.handle) {
            // Mappings that stay behind are passed by.
            self.tail = self.mapped.strip(address, all, self.handle);
            return Err(error);
        }
        self.tail = address + all;
        if all > bytes {
            self.give(address + bytes, all - bytes);
        }
        Ok(address)
    }

    /// Whether free memory would do if it lay together.
    pub(super) fn is_fragmented(&self, bytes: u64) -> bool {
        self.free.largest() < bytes && self.free.iter().map(|span| span.bytes).sum::<u64>() >= bytes
    }

    /// Addresses of handles that lie whole in free blocks, the lowest, as many as `bytes` take.
    fn sources(&self, bytes: u64) -> Vec<u64> {
        let whole = self.free.iter().flat_map(|span| {
            // All handles are mapped at multiples of their size from the pool's start on.
            let first = self.end - (self.end - span.address) / self.handle * self.handle;
            let end = span.address + span.bytes;
            (first..end).step_by(self.handle as usize).filter(move |at| at + self.handle <= end)
        });
        whole.take(bytes.div_ceil(self.handle) as usize).collect()
    }

    /// Makes one free block out of free handles; how many were remapped.
    pub(super) fn compact(
        &mut self,
        driver: &Arc<dyn Driver>,
        bytes: u64,
    ) -> Result<u64, DriverError> {
        let sources = self.sources(bytes);
        let all = sources.len() as u64 * self.handle;
        let event = Event::new(driver, self.device)?;
        event.record(self.stream)?;
        if !event.is_done()? {
            event.wait()?;
        }
        let target = if self.end - self.tail >= all {
            self.tail += all;
            self.tail - all
        } else {
            let mut hole = self.holes.best_fit(all).ok_or_else(no_addresses)?;
            if let Some(rest) = hole.cut(all) {
                self.holes.insert(rest);
            }
            hole.address
        };
        for (index, &source) in sources.iter().enumerate() {
            let to = target + index as u64 * self.handle;
            if let Err(error) = self.remap(source, to) {
                // What has arrived is as free as it was; the rest of the target is a hole.
                let rest = all - (to + self.handle - target);
                if rest > 0 {
                    self.hole(to + self.handle, rest);
                }
                return Err(error);
            }
        }
        Ok(sources.len() as u64)
    }

    fn hole(&mut self, address: u64, bytes: u64) {
        self.holes.insert(Span { address, bytes, head: false });
    }

    /// Moves a free handle from one address to another one, at which nothing is mapped.
    fn remap(&mut self, from: u64, to: u64) -> Result<(), DriverError> {
        let Some(handle) = self.mapped.handle_at(from) else { return Ok(()) };
        if let Err(error) = self.mapped.unmap(from, self.handle) {
            self.hole(to, self.handle);
            return Err(error);
        }
        self.free.carve(from, self.handle);
        self.hole(from, self.handle);
        if let Err(error) = self.mapped.map(to, handle) {
            self.hole(to, self.handle);
            self.mapped.release_loose();
            return Err(error);
        }
        if let Err(error) = self.mapped.access(to, self.handle) {
            if self.mapped.unmap(to, self.handle).is_ok() {
                self.hole(to, self.handle);
                self.mapped.release_loose();
            }
            return Err(error);
        }
        self.give(to, self.handle);
        Ok(())
    }
}

/// A pool has used all addresses that it reserved.
pub(super) fn no_addresses() -> DriverError {
    DriverError {
        call: DriverCall::AddressReserve,
        kind: DriverErrorKind::OutOfMemory,
        code: 0,
        detail: "the pool's addresses are exhausted".to_owned(),
    }
}
