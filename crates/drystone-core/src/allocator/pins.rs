//! Pins: blocks whose memory stays where it is, for those who know it by more than its address.

use super::Allocator;
use crate::driver::Driver;
use crate::error::PointerError;

impl<D: Driver> Allocator<D> {
    /// Keeps the memory of the live block at `pointer` as it is until [`Allocator::unpin`]: for
    /// ranges that are registered (NCCL, RDMA) or exported (IPC), which break when other memory
    /// appears under their addresses, or theirs under others.
    ///
    /// The pages under the block, or with [`Backing::Malloc`] its whole segment, are not mapped
    /// elsewhere, nor unmapped, nor given back, nor let to another stream for good, also after the
    /// block was freed. The allocator goes on to use in place what is free there. Pins are counted:
    /// each needs an unpinning. What is pinned when the allocator is dropped stays with the device.
    ///
    /// The null address is accepted and means nothing.
    ///
    /// [`Backing::Malloc`]: crate::config::Backing::Malloc
    pub fn pin(&self, pointer: u64) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        let (_, mut core, block) = self.locate_any(pointer)?;
        core.pin(&block);
        Ok(())
    }

    /// Takes one pin away, by the address that was pinned, whether or not the block is still live.
    /// If a larger block was pinned at the same address in the meantime, its memory stays until
    /// the last pin of that address goes. [`PointerError::NotPinned`] if there is none.
    pub fn unpin(&self, pointer: u64) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        // What is pinned stays in its place, so one look is enough.
        let place = self.table.find(pointer);
        let heap = place.and_then(|place| Some((self.heaps.get(place.heap)?, place.segment)));
        let unpinned = heap.and_then(|(heap, at)| heap.lock().unpin(at, pointer));
        unpinned.unwrap_or(Err(PointerError::Foreign { pointer }))
    }
}
