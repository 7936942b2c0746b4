//! Limits: how much of a device may be reserved.

use super::Allocator;
use crate::config::Config;
use crate::driver::{DeviceId, Driver};
use crate::error::InvalidDevice;

/// The limit in bytes that a configuration sets for a device of `total` bytes.
pub(super) fn configured(config: &Config, total: u64) -> Option<u64> {
    let fraction = config.memory_fraction.map(|fraction| of(total, fraction));
    match (config.limit, fraction) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A part of a device's memory, in bytes.
fn of(total: u64, fraction: f64) -> u64 {
    (total as f64 * fraction) as u64
}

impl<D: Driver> Allocator<D> {
    /// Lets at most `limit` bytes of the device be reserved from now on; none is no limit. What is
    /// held above it stays held, but nothing is added.
    pub fn set_limit(&self, device: DeviceId, limit: Option<u64>) -> Result<(), InvalidDevice> {
        self.device(device)?.set_limit(limit);
        Ok(())
    }

    /// Lets at most this part of the device's memory be reserved from now on: 0 to 1, where values
    /// outside count as the nearer end, and 1 still excludes more than the device has.
    pub fn set_memory_fraction(
        &self,
        device: DeviceId,
        fraction: f64,
    ) -> Result<(), InvalidDevice> {
        let device = self.device(device)?;
        device.set_limit(Some(of(device.total, fraction.clamp(0.0, 1.0))));
        Ok(())
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self, device: DeviceId) -> Result<Option<u64>, InvalidDevice> {
        Ok(self.device(device)?.limit())
    }

    /// Bytes that the allocator holds of the device.
    pub fn reserved_bytes(&self, device: DeviceId) -> Result<u64, InvalidDevice> {
        Ok(self.device(device)?.reserved())
    }
}
