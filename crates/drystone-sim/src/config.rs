//! How a simulated driver is set up.

use drystone_core::driver::StreamId;

use crate::address::PAGE;
use crate::costs::Costs;
use crate::fault::FaultPlan;

/// The most devices one driver can have: each has 1 TiB of addresses for segments.
pub const MAX_DEVICES: usize = 16;

/// The most addresses that can be reserved, in bytes: 64 TiB, as much as an H100 grants.
pub const MAX_ADDRESSES: u64 = 64 << 40;

/// Whether a misuse is written down or stops the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMisuse {
    /// It is kept for [`SimDriver::misuses`](crate::SimDriver::misuses) and the final report.
    #[default]
    Record,
    /// The call that commits it panics, with no lock held: for tests, where the backtrace helps.
    Panic,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Bytes of memory, more than 0. Default: 80 GiB.
    pub capacity: u64,
    /// Bytes that other processes hold at first. Default: 0.
    pub held_by_others: u64,
    /// Whether it can reserve addresses, make handles and map them. Default: yes.
    pub vmm: bool,
    /// Bytes of host memory that handles of [`HandleKind::Host`] can take. Default: 1 TiB.
    ///
    /// [`HandleKind::Host`]: drystone_core::driver::HandleKind::Host
    pub host_capacity: u64,
    /// The streams that exist beside stream 0; `None`, the default, lets any stream come into
    /// being when it is first named.
    pub streams: Option<Vec<StreamId>>,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        DeviceConfig {
            capacity: 80 << 30,
            held_by_others: 0,
            vmm: true,
            host_capacity: 1 << 40,
            streams: None,
        }
    }
}

/// A simulated driver: its devices, its costs, and how strict it is.
///
/// Start from the default and change fields, or chain the methods of the same names.
#[derive(Clone, Debug, PartialEq)]
pub struct SimConfig {
    /// The devices, 1 to [`MAX_DEVICES`]. Default: one.
    pub devices: Vec<DeviceConfig>,
    /// Nanoseconds from the submission of work to its completion, if nothing earlier holds it up.
    /// Default: 5 ms.
    pub host_lead_ns: u64,
    /// The cost of each call. Default: [`Costs::busy`].
    pub costs: Costs,
    /// The faults to inject, counted from the start. Default: none.
    pub faults: FaultPlan,
    /// What a misuse does. Default: it is recorded.
    pub on_misuse: OnMisuse,
    /// With a seed: segments lie at odd multiples of 512 bytes, small and large ones mixed, some
    /// directly after one another. `None`, the default: as CUDA places them, from 2 MiB on
    /// aligned to 2 MiB.
    pub scatter: Option<u64>,
    /// Bytes of addresses that can be reserved, shared out evenly among the devices. Default:
    /// [`MAX_ADDRESSES`], which is the most.
    pub addresses: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            devices: vec![DeviceConfig::default()],
            host_lead_ns: 5_000_000,
            costs: Costs::default(),
            faults: FaultPlan::new(),
            on_misuse: OnMisuse::default(),
            scatter: None,
            addresses: MAX_ADDRESSES,
        }
    }
}

impl SimConfig {
    /// Makes it `count` devices, each like the first one.
    pub fn devices(mut self, count: usize) -> Self {
        let like = self.devices.first().cloned().unwrap_or_default();
        self.devices = vec![like; count];
        self
    }

    /// Gives every device `bytes` of memory.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.devices.iter_mut().for_each(|device| device.capacity = bytes);
        self
    }

    /// Sets whether devices can reserve addresses, make handles and map them.
    pub fn vmm(mut self, vmm: bool) -> Self {
        self.devices.iter_mut().for_each(|device| device.vmm = vmm);
        self
    }

    /// Gives every device `bytes` of host memory for its handles.
    pub fn host_capacity(mut self, bytes: u64) -> Self {
        self.devices.iter_mut().for_each(|device| device.host_capacity = bytes);
        self
    }

    /// Sets the bytes of addresses that all devices together can reserve.
    pub fn addresses(mut self, bytes: u64) -> Self {
        self.addresses = bytes;
        self
    }

    /// Sets how long after its submission work completes, in nanoseconds.
    pub fn host_lead_ns(mut self, ns: u64) -> Self {
        self.host_lead_ns = ns;
        self
    }

    /// Sets the costs.
    pub fn costs(mut self, costs: Costs) -> Self {
        self.costs = costs;
        self
    }

    /// Sets the faults to inject.
    pub fn faults(mut self, faults: FaultPlan) -> Self {
        self.faults = faults;
        self
    }

    /// Sets what a misuse does.
    pub fn on_misuse(mut self, on_misuse: OnMisuse) -> Self {
        self.on_misuse = on_misuse;
        self
    }

    /// Scatters the addresses of segments by this seed.
    pub fn scatter(mut self, seed: u64) -> Self {
        self.scatter = Some(seed);
        self
    }

    /// Bytes of addresses that one device can reserve.
    pub(crate) fn share(&self) -> u64 {
        self.addresses / self.devices.len() as u64 / PAGE * PAGE
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.devices.is_empty() || self.devices.len() > MAX_DEVICES {
            return Err(ConfigError::Devices(self.devices.len()));
        }
        if self.addresses > MAX_ADDRESSES {
            return Err(ConfigError::Addresses(self.addresses));
        }
        match self.devices.iter().position(|device| device.capacity == 0) {
            Some(index) => Err(ConfigError::NoMemory(index)),
            None => Ok(()),
        }
    }
}

/// Why a [`SimConfig`] makes no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No device, or too many.
    #[error("{0} devices; a simulated driver has 1 to {MAX_DEVICES}")]
    Devices(usize),
    /// A device without memory, by index.
    #[error("device {0} has no memory")]
    NoMemory(usize),
    /// More addresses than there are, in bytes.
    #[error("{0} bytes of addresses; there are at most {MAX_ADDRESSES}")]
    Addresses(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_configurations_are_refused() {
        let with = |count| SimConfig::default().devices(count).validate();
        assert_eq!(with(0), Err(ConfigError::Devices(0)));
        assert_eq!(with(MAX_DEVICES), Ok(()));
        assert_eq!(with(MAX_DEVICES + 1), Err(ConfigError::Devices(MAX_DEVICES + 1)));
        let mut config = SimConfig::default().devices(2);
        config.devices[1].capacity = 0;
        assert_eq!(config.validate(), Err(ConfigError::NoMemory(1)));
        let config = SimConfig::default().addresses(MAX_ADDRESSES + 1);
        assert_eq!(config.validate(), Err(ConfigError::Addresses(MAX_ADDRESSES + 1)));
    }
}
