//! Something for each device that was used, in policies whose devices know their own blocks.

use drystone_core::{DeviceId, DriverError};

use super::no_block;

/// One `T` for each device that was met, in the order in which they were met.
#[derive(Debug)]
pub(in crate::policy) struct Devices<T>(Vec<(DeviceId, T)>);

impl<T> Default for Devices<T> {
    fn default() -> Self {
        Devices(Vec::new())
    }
}

impl<T> Devices<T> {
    /// The device's; it is made at the first time.
    pub(in crate::policy) fn get(
        &mut self,
        device: DeviceId,
        make: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<&mut T, DriverError> {
        let place = match self.0.iter().position(|(known, _)| *known == device) {
            Some(place) => place,
            None => {
                self.0.push((device, make()?));
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[place].1)
    }

    /// All.
    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, own)| own)
    }

    /// Takes a block back: the devices are asked one after the other whether it is theirs.
    pub(in crate::policy) fn free(
        &mut self,
        address: u64,
        mut free: impl FnMut(&mut T, u64) -> Result<bool, DriverError>,
    ) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        for (_, own) in &mut self.0 {
            if free(own, address).map_err(|error| error.to_string())? {
                return Ok(());
            }
        }
        Err(no_block(address))
    }
}
