//! A simulated CUDA device: the [`Driver`](drystone_core::driver::Driver) contract on a virtual
//! clock, with costs, streams that lag behind the host, injected faults, and a watch for misuse.
//!
//! ```
//! use drystone_core::driver::{DeviceId, Driver, StreamId};
//! use drystone_sim::{Access, SimConfig, SimDriver};
//!
//! let sim = SimDriver::new(SimConfig::default().capacity(1 << 30))?;
//! let device = DeviceId(0);
//! let address = sim.segment_alloc(device, 2 << 20).unwrap();
//! sim.launch(device, StreamId(7), &[(address, 4096)], Access::Write)?;
//! sim.device_synchronize(device).unwrap(); // Without this line the next one is a misuse.
//! sim.segment_free(device, address).unwrap();
//! assert!(sim.finish().is_clean());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is simplified, so that nobody has to find out:
//!
//! * The host is one thread as far as order goes: what any thread has waited for is known to all.
//!   The virtual clock is one as well: a wait of one thread moves the time of all.
//! * Stream 0 is a stream like the others; it does not wait for them as CUDA's legacy default
//!   stream does.
//! * Order is watched among the streams of one device. Work on memory that another device has mapped
//!   is checked for access, and by the clock against unmapping under it, but not for races.
//! * Each device has host memory of its own for the handles that want it.
//! * An exported name lasts as long as a handle to the memory does, where CUDA's file descriptor
//!   would keep the memory alive.
//! * A segment takes from the device the bytes asked for, not rounded to pages.
//! * Work is what [`SimDriver::launch`] submits. A replay of a trace without kernels keeps its
//!   streams busy with `launch(device, stream, &[], ..)`; a stream without work is never behind.

#![forbid(unsafe_code)]

mod address;
mod clock;
mod config;
pub mod contract;
mod costs;
mod device;
mod driver;
mod event;
mod fault;
mod interval;
mod mapping;
mod memory;
mod misuse;
mod order;
mod physical;
mod report;
mod rng;
mod sim;
mod stream;
mod touch;
mod uses;
mod vmm;
mod work;

pub use clock::{CallStats, SimStats};
pub use config::{ConfigError, DeviceConfig, MAX_ADDRESSES, MAX_DEVICES, OnMisuse, SimConfig};
pub use costs::{Costs, SizeCost};
pub use fault::FaultPlan;
pub use misuse::{Access, Misuse, RangeFault};
pub use report::{LeakedEvent, LeakedHandle, LeakedMapping, LeakedRange, LeakedSegment, Report};
pub use sim::{SimDriver, Usage};
