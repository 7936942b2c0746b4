//! The simulated driver: how it is made, and what a test or a replay steers and reads.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use drystone_core::driver::{DeviceId, DeviceMemory, DriverCall, DriverError, DriverErrorKind};
use parking_lot::Mutex;

use crate::clock::{Clock, SimStats};
use crate::config::{ConfigError, SimConfig};
use crate::device::{Call, Device, Env, Refusal};
use crate::fault::{FaultPlan, Faults};
use crate::misuse::{Misuse, MisuseLog};
use crate::report::Report;

/// A simulated CUDA driver; see the crate's text for what it simplifies.
///
/// Share it with the allocator under test through an [`Arc`](std::sync::Arc). Each device has a
/// lock of its own; [`now_ns`](drystone_core::driver::Driver::now_ns) and the functions that move
/// the clock take none.
#[derive(Debug)]
pub struct SimDriver {
    pub(crate) env: Env,
    pub(crate) log: MisuseLog,
    /// Bytes of addresses that each device can reserve.
    pub(crate) share: u64,
    devices: Vec<Mutex<Device>>,
    faults: Faults,
}

/// What a device has given out, read without a driver call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Free and total bytes, as `device_memory` would say.
    pub memory: DeviceMemory,
    /// Bytes in segments and in handles to memory of the device.
    pub taken: u64,
    /// The most bytes that were ever taken at once.
    pub peak_taken: u64,
    /// Segments that live.
    pub segments: usize,
    /// Handles that live, of any kind.
    pub handles: usize,
    /// Mappings that live, aliases included.
    pub mappings: usize,
    /// Bytes of reserved addresses.
    pub addresses: u64,
    /// Bytes in handles to memory of the host.
    pub host_taken: u64,
    /// Events that live.
    pub events: usize,
}

impl SimDriver {
    /// Makes the devices, at time 0.
    pub fn new(config: SimConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let share = config.share();
        let device = |index| Mutex::new(Device::new(DeviceId(index), &config));
        let devices = (0..config.devices.len() as u32).map(device).collect();
        Ok(SimDriver {
            env: Env {
                clock: Clock::default(),
                costs: config.costs,
                host_lead_ns: AtomicU64::new(config.host_lead_ns),
            },
            log: MisuseLog::new(config.on_misuse),
            share,
            devices,
            faults: Faults::new(config.faults),
        })
    }

    /// Moves the clock on by `ns`: the program computes on the host.
    pub fn advance(&self, ns: u64) {
        self.env.clock.advance(ns);
    }

    /// Moves the clock on to `ns`, for replays; it never goes back.
    pub fn advance_to(&self, ns: u64) {
        self.env.clock.advance_to(ns);
    }

    /// Sets how long after its submission work completes, in nanoseconds, for work to come.
    pub fn set_host_lead_ns(&self, ns: u64) {
        self.env.host_lead_ns.store(ns, Relaxed);
    }

    /// Sets the bytes that other processes hold on a device; more than there is leaves 0 free. It
    /// does nothing for a device that does not exist.
    pub fn set_held_by_others(&self, device: DeviceId, bytes: u64) {
        if let Some(device) = self.device(device) {
            device.lock().memory.held_by_others = bytes;
        }
    }

    /// Replaces the faults to come; its rules count calls from now.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.faults.set(plan);
    }

    /// How many faults were injected since the start.
    pub fn faults_injected(&self) -> u64 {
        self.faults.injected()
    }

    /// The counters of calls and times, summed over all devices.
    pub fn stats(&self) -> SimStats {
        let mut stats = SimStats::default();
        self.devices.iter().for_each(|device| stats.add(&device.lock().stats));
        stats
    }

    /// What a device has given out; none for a device that does not exist.
    pub fn usage(&self, device: DeviceId) -> Option<Usage> {
        let device = self.device(device)?.lock();
        Some(Usage {
            memory: device.memory.info(),
            taken: device.memory.taken,
            peak_taken: device.memory.peak_taken,
            segments: device.memory.segments.len(),
            handles: device.physical.count(),
            mappings: device.mappings.mapped.len(),
            addresses: device.mappings.reserved,
            host_taken: device.memory.host_taken,
            events: device.events.live_count(),
        })
    }

    /// The misuses so far; only the first 4096 of more.
    pub fn misuses(&self) -> Vec<Misuse> {
        self.log.kept()
    }

    /// The misuses so far, and what would be leaked if the run ended here.
    pub fn finish(&self) -> Report {
        let mut report = Report {
            misuses: self.log.kept(),
            misuse_count: self.log.count(),
            ..Report::default()
        };
        self.devices.iter().for_each(|device| report.add_leaks(&device.lock()));
        report
    }

    pub(crate) fn count(&self) -> usize {
        self.devices.len()
    }

    pub(crate) fn device(&self, device: DeviceId) -> Option<&Mutex<Device>> {
        self.devices.get(device.0 as usize)
    }

    /// The frame of every driver call: the device, the fault that may strike, the counters, the
    /// error, and the misuses, which are logged when the lock is released.
    pub(crate) fn call<T>(
        &self,
        kind: DriverCall,
        device: DeviceId,
        body: impl FnOnce(&mut Device, &mut Call<'_>) -> Result<T, Refusal>,
    ) -> Result<T, DriverError> {
        let mut call = Call::new(kind, &self.env);
        let result = match self.device(device) {
            None => {
                call.found.push(Misuse::UnknownDevice { device });
                Err(Refusal::new(DriverErrorKind::InvalidDevice, "no such device"))
            }
            Some(device) => {
                let mut device = device.lock();
                let result = match self.faults.draw(kind) {
                    Some(error) => {
                        if error == DriverErrorKind::OutOfMemory {
                            call.spend(self.env.costs.out_of_memory(kind));
                        }
                        Err(Refusal::new(error, "injected fault"))
                    }
                    None => body(&mut device, &mut call),
                };
                device.stats.note(kind, result.is_err(), call.spent);
                result
            }
        };
        self.log.add(&call.found);
        // No codes of its own: those of the common rules say it all.
        result.map_err(|Refusal { kind: error, detail }| DriverError {
            call: kind,
            kind: error,
            code: 0,
            detail: detail.to_owned(),
        })
    }
}
