//! Access from other devices: pages that kernels and copies of a peer may use in place.

use super::Allocator;
use crate::driver::{DeviceId, Driver};
use crate::error::ShareError;

impl<D: Driver> Allocator<D> {
    /// Lets work of `peer` use the memory of `device`: what is mapped now and what will be. Calling it
    /// again does nothing. Segments of [`Backing::Malloc`] are not the allocator's to open: there it
    /// does nothing, and the caller enables the access between the devices' contexts. Errors: an
    /// unknown device; the driver's, if the devices cannot reach each other.
    ///
    /// [`Backing::Malloc`]: crate::config::Backing::Malloc
    pub fn enable_peer_access(&self, device: DeviceId, peer: DeviceId) -> Result<(), ShareError> {
        let device = self.device(device)?;
        self.device(peer)?;
        let Some(store) = &device.pages else { return Ok(()) };
        // What is mapped meanwhile waits for the lock, and then knows of the peer.
        let store = store.lock();
        let mut accessors = device.accessors();
        if accessors.contains(&peer) {
            return Ok(());
        }
        accessors.push(peer);
        for (address, bytes) in store.mapped() {
            self.driver.set_access(device.id, address, bytes, &accessors)?;
        }
        device.set_accessors(accessors);
        Ok(())
    }
}
