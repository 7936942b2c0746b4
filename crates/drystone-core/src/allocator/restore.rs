//! A block at a certain address: how torch's graph trees bring a pool back to a state it once had.

use super::Allocator;
use crate::driver::{DeviceId, Driver};
use crate::error::AllocError;
use crate::pool::PoolId;
use crate::units::{GRANULE, MAX_REQUEST};

impl<D: Driver> Allocator<D> {
    /// Hands out `size` bytes at exactly `address`, which is to be free memory of this pool. Who has
    /// freed every block of a captured pool can hand out the same blocks again where they were, since
    /// the memory of such a pool stays. Errors: [`AllocError::NotFree`] if the bytes are used, have no
    /// memory behind them, or belong to others; an unknown device.
    pub fn allocate_at(
        &self,
        address: u64,
        size: u64,
        device: DeviceId,
        pool: PoolId,
    ) -> Result<(), AllocError> {
        let device = self.device(device)?;
        let not_free = || AllocError::NotFree { address, size, pool };
        if size == 0 || size > MAX_REQUEST || !address.is_multiple_of(GRANULE) {
            return Err(not_free());
        }
        let mut fit = self.fit(size, GRANULE);
        if device.is_unsplit(pool) {
            fit = self.policy.whole(&fit);
        }
        let place = self.table.find(address).ok_or_else(not_free)?;
        let heap = self.heaps.get(place.heap).ok_or_else(not_free)?;
        self.settle(device, heap);
        let mut core = heap.lock();
        if !core.serves(device.id, pool) || core.is_sealed() {
            return Err(not_free());
        }
        let handed =
            heap.hand_out_exactly(&mut core, place.segment, address, &fit).ok_or_else(not_free)?;
        device.stream_is_used(core.key().stream);
        device.totals.after_allocation(heap, &mut core.thresholds, fit.kind);
        self.note_allocation(device, &core, handed);
        Ok(())
    }
}
