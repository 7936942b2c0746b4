//! Memory from `cudaMalloc`, which goes back to the driver at the latest when this is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError};

/// The segments that a policy holds, by address.
pub(in crate::policy) struct Segments {
    driver: Arc<dyn Driver>,
    held: BTreeMap<u64, (DeviceId, u64)>,
}

impl Segments {
    /// None yet.
    pub(in crate::policy) fn new(driver: Arc<dyn Driver>) -> Self {
        Segments { driver, held: BTreeMap::new() }
    }

    /// The driver that they come from.
    pub(in crate::policy) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// `cudaMalloc`.
    pub(in crate::policy) fn take(
        &mut self,
        device: DeviceId,
        bytes: u64,
    ) -> Result<u64, DriverError> {
        let address = self.driver.segment_alloc(device, bytes)?;
        self.held.insert(address, (device, bytes));
        Ok(address)
    }

    /// `cudaFree`, of a segment that is held: waits for all running work of the device. The
    /// contract has the caller say so, hence the call before.
    pub(in crate::policy) fn give(&mut self, address: u64) -> Result<(), DriverError> {
        let Some(&(device, _)) = self.held.get(&address) else { return Ok(()) };
        self.driver.device_synchronize(device)?;
        self.driver.segment_free(device, address)?;
        self.held.remove(&address);
        Ok(())
    }

    /// Bytes of the segment that starts at an address.
    pub(in crate::policy) fn bytes_of(&self, address: u64) -> Option<u64> {
        self.held.get(&address).map(|&(_, bytes)| bytes)
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for address in self.held.keys().copied().collect::<Vec<_>>() {
            // What a driver does not take back now, it never will; the replay finds it out.
            let _ = self.give(address);
        }
    }
}
