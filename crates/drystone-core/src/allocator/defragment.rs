//! Defragmentation on demand.

use super::Allocator;
use crate::device::Device;
use crate::driver::{DeviceId, Driver};
use crate::error::PoolError;

/// What [`Allocator::defragment`] is to do with memory that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defragment {
    /// It comes together, so that the next large request finds it without a driver call.
    Gather,
    /// It goes back to the device.
    GiveBack,
}

/// What a defragmentation did. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defragmented {
    /// Free memory that was mapped elsewhere.
    pub gathered: u64,
    /// The largest run of free bytes of any stream and pool before.
    pub largest_before: u64,
    /// And after.
    pub largest_after: u64,
    /// Memory that went back to the device.
    pub given_back: u64,
}

impl<D: Driver> Allocator<D> {
    /// Brings what is free on a device into order. Waits on the host for the streams that freed
    /// blocks still wait for, so that these are free first, and for work that uses addresses which
    /// are in the way. Does nothing while a stream capture is
    /// underway.
    ///
    /// [`Defragment::Gather`]: for each stream of each pool, all handles of which no byte is in use
    /// are mapped side by side, beside free memory that cannot move where there is some; no byte is
    /// copied, and the streams do not wait. The largest free run is then the sum of these handles
    /// and of what adjoins. Pinned pages and those of captured graphs stay. With
    /// [`Backing::Malloc`] free memory cannot move, and this is as the other:
    ///
    /// [`Defragment::GiveBack`]: handles of which no byte is in use, and idle segments, go back to
    /// the device, as with [`Allocator::empty_cache`]; only that this one does not wait for blocks
    /// that are still pending, which keep their memory.
    ///
    /// An error of the driver ends it; what was done until then stays done.
    ///
    /// [`Backing::Malloc`]: crate::config::Backing::Malloc
    pub fn defragment(
        &self,
        device: DeviceId,
        what: Defragment,
    ) -> Result<Defragmented, PoolError> {
        let device = self.device(device)?;
        let mut done = Defragmented { largest_before: largest(device), ..Defragmented::default() };
        if !device.is_capturing() {
            self.settle_all(device);
            self.wait_for_pending(device)?;
            match (what, &device.pages) {
                (Defragment::Gather, Some(_)) => done.gathered = self.compact(device)?,
                _ => done.given_back = self.release_cached(device, None)?,
            }
        }
        done.largest_after = largest(device);
        Ok(done)
    }
}

/// The largest run of free bytes of any stream and pool on the device itself.
pub(super) fn largest(device: &Device) -> u64 {
    let heaps = device.totals.heaps().into_iter();
    let largest = heaps.map(|(_, heap)| {
        let mut core = heap.lock();
        if core.spills() { 0 } else { core.largest_free() }
    });
    largest.max().unwrap_or(0)
}
