//! The device that a trace is replayed on, and what can go wrong there.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, StreamId};
use drystone_sim::{ConfigError, Costs, MAX_DEVICES, SimConfig, SimDriver};
use drystone_trace::Trace;

use crate::policy::{Needs, PolicySpec};

/// The most streams of a trace that can be replayed; a real job has tens.
pub const MAX_STREAMS: u32 = 1 << 16;

/// Where a trace is replayed.
#[derive(Clone)]
pub enum Target {
    /// On a simulated device, whose clock follows the trace. Time that the policy spends in driver
    /// calls and waits delays all later events.
    Sim(SimTarget),
    /// On any other driver, as fast as it goes: the trace's times are not waited for.
    Real(RealTarget),
}

impl Target {
    /// What a policy is replayed on here: a bound on a device where nothing takes time, with as
    /// much memory; all others on this one, if it is what they need.
    pub(crate) fn for_policy(&self, policy: &PolicySpec) -> Result<Target, ReplayError> {
        match (policy.info.needs, self) {
            (Needs::RealDevice, Target::Sim(_)) => {
                Err(ReplayError::NotModelled(policy.to_string()))
            }
            (Needs::Nothing, Target::Sim(target)) => {
                Ok(Target::Sim(SimTarget::for_bounds(target.capacity)))
            }
            (Needs::Nothing, Target::Real(target)) => {
                let whole = target.driver.device_memory(DeviceId(0)).map(|memory| memory.total);
                let capacity = target.capacity.or(whole.ok());
                let capacity = capacity.unwrap_or(SimTarget::default().capacity);
                Ok(Target::Sim(SimTarget::for_bounds(capacity)))
            }
            _ => Ok(self.clone()),
        }
    }

    /// The same with this many bytes of memory on each device.
    pub(crate) fn with_capacity(&self, capacity: u64) -> Target {
        match self {
            Target::Sim(target) => Target::Sim(SimTarget { capacity, ..target.clone() }),
            Target::Real(target) => {
                Target::Real(RealTarget { capacity: Some(capacity), ..target.clone() })
            }
        }
    }
}

/// A simulated device; each device of a trace gets one like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimTarget {
    /// Bytes of memory. Default: 80 GiB.
    pub capacity: u64,
    /// Nanoseconds from the submission of work to its completion. Default: 5 ms.
    pub host_lead_ns: u64,
    /// What driver calls cost.
    pub costs: CostModel,
    /// Whether each block is stamped by its stream when it is handed out, and read by it before it
    /// is freed. Then a policy that lends memory which is in use, or takes its mapping away, is
    /// found out ([`ReplayError::Bug`]); some fifteen times as slow. Default: no.
    pub stamps: bool,
}

impl Default for SimTarget {
    fn default() -> Self {
        SimTarget {
            capacity: 80 << 30,
            host_lead_ns: 5_000_000,
            costs: CostModel::default(),
            stamps: false,
        }
    }
}

impl SimTarget {
    /// A device of `capacity` bytes on which nothing takes time, and no work is done: for bounds.
    fn for_bounds(capacity: u64) -> Self {
        SimTarget { capacity, host_lead_ns: 0, costs: CostModel::Zero, stamps: false }
    }

    /// The device for a trace, at time 0.
    pub(crate) fn driver(&self, trace: &Trace) -> Result<SimDriver, ReplayError> {
        check(trace, MAX_DEVICES as u32, MAX_STREAMS)?;
        let config = SimConfig::default()
            .devices(trace.devices as usize)
            .capacity(self.capacity)
            .host_lead_ns(self.host_lead_ns)
            .costs(self.costs.costs());
        Ok(SimDriver::new(config)?)
    }
}

/// Which measured costs driver calls have on the simulated device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CostModel {
    /// Those measured while kernels keep the device busy, as in a training loop.
    #[default]
    Busy,
    /// Those measured on an otherwise idle device.
    Idle,
    /// None at all: what a bound is charged, which makes calls only to be measured.
    Zero,
}

impl CostModel {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            CostModel::Busy => "busy",
            CostModel::Idle => "idle",
            CostModel::Zero => "zero",
        }
    }

    fn costs(self) -> Costs {
        match self {
            CostModel::Busy => Costs::busy(),
            CostModel::Idle => Costs::idle(),
            CostModel::Zero => Costs::zero(),
        }
    }
}

/// One device of a driver that is not simulated.
#[derive(Clone)]
pub struct RealTarget {
    /// What to call it in results.
    pub name: String,
    /// The driver; device 0 of it is used.
    pub driver: Arc<dyn Driver>,
    /// The driver's streams for those of the trace, by number; at least as many.
    pub streams: Vec<StreamId>,
    /// The most bytes that a policy may hold, if that is to be less than the device has.
    pub capacity: Option<u64>,
}

impl RealTarget {
    pub(crate) fn check(&self, trace: &Trace) -> Result<(), ReplayError> {
        check(trace, 1, self.streams.len() as u32)
    }
}

fn check(trace: &Trace, devices: u32, streams: u32) -> Result<(), ReplayError> {
    if trace.devices > devices {
        let (needs, has) = (trace.devices, devices);
        return Err(ReplayError::TooManyDevices { needs, has });
    }
    if trace.streams > streams {
        let (needs, has) = (trace.streams, streams);
        return Err(ReplayError::TooManyStreams { needs, has });
    }
    Ok(())
}

/// Why a replay has no result. Running out of memory is a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The trace has more devices than the target.
    #[error("the trace uses {needs} devices, and there can be {has} here")]
    TooManyDevices {
        /// Of the trace.
        needs: u32,
        /// Of the target.
        has: u32,
    },
    /// The trace has more streams than the target.
    #[error("the trace uses {needs} streams, and there can be {has} here")]
    TooManyStreams {
        /// Of the trace.
        needs: u32,
        /// Of the target.
        has: u32,
    },
    /// The simulated device cannot be.
    #[error("no such simulated device: {0}")]
    Sim(#[from] ConfigError),
    /// The policy measures what is part of a real device, and this is the simulated one.
    #[error("{0} is measured on a real device only: give one, as in --device cuda:0")]
    NotModelled(String),
    /// The policy could not be made.
    #[error("{policy} could not start: {why}")]
    Start {
        /// The policy.
        policy: String,
        /// In its own words.
        why: String,
    },
    /// The policy failed at an event for another reason than memory.
    #[error("{policy} failed at event {event}: {why}")]
    Failed {
        /// The policy.
        policy: String,
        /// The event's index, from 0.
        event: usize,
        /// In the policy's own words.
        why: String,
    },
    /// The policy left something behind or misused the device: it is wrong, not its input.
    #[error("a bug in {policy}, please report it with the trace: {what}")]
    Bug {
        /// The policy.
        policy: String,
        /// What was found at the end.
        what: String,
    },
}
