//! `pytorch` and `pytorch-expandable`: PyTorch's native caching allocator, without and with
//! `expandable_segments:True`.
//!
//! They follow PyTorch 2.11 as its documentation describes it ("Memory management" and "Optimizing
//! memory usage with PYTORCH_ALLOC_CONF" in the notes on CUDA semantics) and as its release behaves:
//! the tests replay what that release did block for block, under all options.
//!
//! Private pools are those of captured graphs: they are kept until the end, and while one serves, nothing
//! is given back.
//!
//! Left out, since no trace has them: free-memory callbacks, pools to be used at out of memory, and
//! access from other devices. `record_stream` needs nothing here: a
//! replay frees a block when its other streams are done with it, which is when PyTorch finds its
//! events done. The message at out of memory does not name other processes, whom a trace
//! does not know either.
//!
//! | file | what it holds |
//! |---|---|
//! | `settings` | the options, and how requests are rounded by them |
//! | `blocks` | blocks, their neighbours, and the free ones of a pool by size |
//! | `device` | a request and a free on one device, in PyTorch's order of attempts |
//! | `release` | giving cached memory back: garbage collection, what is oversize, everything |
//! | `expandable` | segments that grow: their addresses, handles and mappings |
//! | `refusal` | PyTorch's words at out of memory |

mod blocks;
mod device;
mod expandable;
mod refusal;
mod release;
mod settings;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::{Needs, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};
use device::Device;
use settings::Settings;

pub(super) const NATIVE: PolicyInfo = PolicyInfo {
    name: "pytorch",
    summary: "PyTorch's caching allocator, on segments from cudaMalloc",
    needs: Needs::Device,
    options: || settings::OPTIONS.to_vec(),
    prepare: |options| prepare(options, false),
};

pub(super) const EXPANDABLE: PolicyInfo = PolicyInfo {
    name: "pytorch-expandable",
    summary: "PyTorch's caching allocator with expandable_segments:True",
    needs: Needs::Device,
    options: || settings::OPTIONS.to_vec(),
    prepare: |options| prepare(options, true),
};

fn prepare(options: &PolicyOptions, expandable: bool) -> Result<PolicyMaker, String> {
    let settings = Settings::new(options, expandable)?;
    Ok(Arc::new(move |driver: Arc<dyn Driver>| {
        let device = |id| Device::new(Arc::clone(&driver), DeviceId(id), settings.clone());
        let devices: Vec<_> = (0..driver.device_count()).map(device).collect();
        Ok(Box::new(PyTorch { devices, live: FxHashMap::default() }) as Box<dyn Policy>)
    }))
}

/// Why a request was not met.
enum Failed {
    /// PyTorch has tried everything.
    OutOfMemory(Box<str>),
    /// A driver call failed, which PyTorch passes on at once.
    Driver(DriverError),
}

impl From<DriverError> for Failed {
    fn from(error: DriverError) -> Self {
        Failed::Driver(error)
    }
}

struct PyTorch {
    devices: Vec<Device>,
    /// Where the block that was handed out at an address is: its device and its number there.
    live: FxHashMap<u64, (u32, u32)>,
}

impl Policy for PyTorch {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        self.allocate_in(0, size, device, stream)
    }

    fn allocate_in(
        &mut self,
        pool: u32,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let Some(chosen) = self.devices.get_mut(device.0 as usize) else {
            return Err(Refusal::Broken(format!("there is no {device}").into()));
        };
        let (address, block) = chosen.allocate(pool, size, stream).map_err(refused)?;
        self.live.insert(address, (device.0, block));
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let Some((device, block)) = self.live.remove(&address) else {
            return Err(format!("invalid device pointer: {address:#x}"));
        };
        self.devices[device as usize].free(block);
        Ok(())
    }

    fn empty_cache(&mut self) -> Result<bool, Refusal> {
        for device in &mut self.devices {
            device.release_all().map_err(|error| refused(error.into()))?;
        }
        Ok(true)
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        let &(device, block) = self.live.get(&address)?;
        Some(self.devices[device as usize].block_bytes(block))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let sum = |of: fn(&Device) -> u64| self.devices.iter().map(of).sum();
        vec![
            ("retries", sum(|device| device.counts.retries)),
            ("ooms", sum(|device| device.counts.ooms)),
            ("syncs", sum(|device| device.counts.syncs)),
            ("segments", sum(Device::segments)),
            ("device_allocs", sum(|device| device.counts.device_allocs)),
            ("device_frees", sum(|device| device.counts.device_frees)),
        ]
    }
}

#[cold]
fn refused(why: Failed) -> Refusal {
    match why {
        Failed::OutOfMemory(message) => Refusal::OutOfMemory(message),
        // No memory for a segment is met before; what is left are addresses, which PyTorch does
        // not expect to run out of.
        Failed::Driver(error) if error.kind == DriverErrorKind::OutOfMemory => {
            Refusal::OutOfMemory(format!("CUDA driver error: out of memory ({error})").into())
        }
        Failed::Driver(error) => Refusal::Broken(error.to_string().into()),
    }
}
