//! The device of a replay, from what the command line says.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::{Context, Result};
use drystone_core::{DeviceId, Driver, StreamId};
use drystone_cuda::CudaDriver;
use drystone_lab::{RealTarget, SimTarget, Target};
use drystone_trace::Trace;

use crate::args::Options;
use crate::table;
use crate::values::DeviceName;

/// A device, opened once for all replays of a command.
pub(crate) enum Device {
    Sim(SimTarget),
    Cuda(Cuda),
}

/// A CUDA device, and the streams that were made on it.
pub(crate) struct Cuda {
    driver: Arc<CudaDriver>,
    name: String,
    capacity: Option<u64>,
    streams: RefCell<Vec<StreamId>>,
}

impl Device {
    pub(crate) fn open(options: &Options) -> Result<Device> {
        match options.device {
            DeviceName::Sim => {
                let mut target = SimTarget {
                    host_lead_ns: options.host_lead,
                    costs: options.costs.into(),
                    ..SimTarget::default()
                };
                target.capacity = options.capacity.unwrap_or(target.capacity);
                Ok(Device::Sim(target))
            }
            DeviceName::Cuda(ordinal) => {
                let failed = || format!("cannot use cuda:{ordinal} (--device sim needs no GPU)");
                let driver = CudaDriver::with_devices(&[ordinal]).with_context(failed)?;
                let name = driver.device_name(DeviceId(0)).with_context(failed)?;
                // The first call makes the context, 100 ms that are no policy's.
                driver.device_memory(DeviceId(0)).with_context(failed)?;
                Ok(Device::Cuda(Cuda {
                    driver: Arc::new(driver),
                    name: format!("cuda:{ordinal} ({name})"),
                    capacity: options.capacity,
                    streams: RefCell::new(vec![StreamId(0)]),
                }))
            }
        }
    }

    /// What the replays of the trace run on.
    pub(crate) fn target(&self, trace: &Trace) -> Result<Target> {
        match self {
            Device::Sim(target) => Ok(Target::Sim(target.clone())),
            Device::Cuda(cuda) => {
                let mut streams = cuda.streams.borrow_mut();
                while streams.len() < trace.streams as usize {
                    let stream = cuda.driver.create_stream(DeviceId(0));
                    streams.push(stream.context("cannot make a stream for each of the trace's")?);
                }
                Ok(Target::Real(RealTarget {
                    name: cuda.name.clone(),
                    driver: Arc::clone(&cuda.driver) as _,
                    streams: streams.clone(),
                    capacity: cuda.capacity,
                }))
            }
        }
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Device::Sim(target) => format!(
                "a simulated device of {}, {} ahead of its work, {} costs",
                drystone_core::config::format_bytes(target.capacity),
                table::time(target.host_lead_ns as f64 / 1_000.0),
                target.costs.name(),
            ),
            Device::Cuda(cuda) => cuda.name.clone(),
        }
    }
}
