//! Limits: how much of a device may be reserved, and who is told when it is much or too much.

use std::sync::Arc;

use super::Allocator;
use crate::callbacks::{CallbackId, Pressure, Watermark};
use crate::config::Config;
use crate::device::Device;
use crate::driver::{DeviceId, Driver};
use crate::error::{InvalidDevice, OutOfMemory};

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

    /// Counts bytes of the device that the program took from it by other ways as reserved, so that
    /// the limit holds for both together. False, and nothing counted, if the limit forbids them.
    pub fn account(&self, device: DeviceId, bytes: u64) -> Result<bool, InvalidDevice> {
        let device = self.device(device)?;
        let fits = device.take(bytes);
        self.tell_reserved(device);
        Ok(fits)
    }

    /// Counts bytes as reserved no more that were counted by [`Allocator::account`]; not more than
    /// those.
    pub fn unaccount(&self, device: DeviceId, bytes: u64) -> Result<(), InvalidDevice> {
        let device = self.device(device)?;
        device.put_down(bytes);
        self.tell_reserved(device);
        Ok(())
    }

    /// Bytes that the allocator holds of the device, and those that it was told of.
    pub fn reserved_bytes(&self, device: DeviceId) -> Result<u64, InvalidDevice> {
        Ok(self.device(device)?.reserved())
    }

    /// Tells the pressure callbacks how much of the device is reserved now.
    pub(super) fn tell_reserved(&self, device: &Device) {
        self.callbacks.reserved_is(device.id, device.reserved(), device.limit_or_total());
    }

    /// Registers a callback for when the bytes reserved of a device pass a soft watermark on the
    /// way up. It is called once per passing, with no lock held, by the thread that allocates.
    pub fn on_pressure(
        &self,
        device: DeviceId,
        watermark: Watermark,
        call: impl Fn(&Pressure) + Send + Sync + 'static,
    ) -> Result<CallbackId, InvalidDevice> {
        let known = self.device(device)?;
        let (reserved, limit) = (known.reserved(), known.limit_or_total());
        Ok(self.callbacks.on_pressure(device, watermark, reserved, limit, Arc::new(call)))
    }

    /// Registers a callback for when the bytes reserved of a device pass the configured
    /// `soft_limit` on the way up, like [`Allocator::on_pressure`]. None, and nothing registered,
    /// if no such limit is configured.
    pub fn on_soft_limit(
        &self,
        device: DeviceId,
        call: impl Fn(&Pressure) + Send + Sync + 'static,
    ) -> Result<Option<CallbackId>, InvalidDevice> {
        let limit = self.config.soft_limit.map(Watermark::Bytes);
        limit.map(|limit| self.on_pressure(device, limit, call)).transpose()
    }

    /// Registers a callback for when a request is about to fail for lack of memory. It may free
    /// blocks of this allocator, or memory of others; if it returns true the request is tried
    /// again, at most `oom_retries` times. Called with no lock held.
    pub fn on_out_of_memory(
        &self,
        call: impl Fn(&OutOfMemory) -> bool + Send + Sync + 'static,
    ) -> CallbackId {
        self.callbacks.on_oom(Arc::new(call))
    }

    /// Forgets a callback; false if it is not known.
    pub fn remove_callback(&self, id: CallbackId) -> bool {
        self.callbacks.remove(id)
    }
}
