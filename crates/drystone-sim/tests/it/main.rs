//! The simulated device as its users see it.

mod alias;
mod broken;
mod calls;
mod capture;
mod contract;
mod faults;
mod misuse;
mod order;
mod space;
mod stamps;
mod streams;
mod timing;
mod vmm;

use drystone_core::driver::{DeviceId, StreamId};
use drystone_sim::{Costs, SimConfig, SimDriver};

const D0: DeviceId = DeviceId(0);
const D1: DeviceId = DeviceId(1);
const NO_DEVICE: DeviceId = DeviceId(2);
const A: StreamId = StreamId(0xa);
const B: StreamId = StreamId(0xb);
const C: StreamId = StreamId(0xc);
const MIB: u64 = 1 << 20;

/// Two devices whose calls cost nothing, with work that takes 1000 ns.
fn config() -> SimConfig {
    SimConfig::default().devices(2).costs(Costs::zero()).host_lead_ns(1000)
}

fn sim() -> SimDriver {
    SimDriver::new(config()).unwrap()
}
