//! The Drystone policy lab: replays traces through allocation policies and measures them.
//!
//! # The nouns
//!
//! * **Policy**: a way of turning requests into driver calls ([`Policy`]); known by name in
//!   [`POLICIES`], chosen with a [`PolicySpec`] such as `drystone:reserve=lean`.
//! * **Target**: the device that a trace is replayed on ([`Target`]): a simulated one, whose clock
//!   follows the trace, or any other [`Driver`](drystone_core::Driver), in real time.
//! * **Live**: bytes requested and not yet free-completed. No policy can hold less.
//! * **Reserved**: physical bytes that a policy holds of the device, by the calls it made: measured
//!   below the policy, by the same stick for all.
//!
//! ```
//! use drystone_lab::{PolicySpec, SimTarget, Target, replay};
//!
//! let csv = b"t_us,op,id,size,stream\n0,a,0,1048576,0\n10,f,0,1048576,0\n10,c,0,1048576,0\n";
//! let trace = drystone_trace::read_trace_bytes("tiny", csv, &Default::default())?;
//! let policy: PolicySpec = "drystone".parse()?;
//! let replayed = replay(&trace, &policy, &Target::Sim(SimTarget::default()), &mut |_| {})?;
//! assert_eq!(replayed.metrics.peak_live_bytes, 1 << 20);
//! assert_eq!(replayed.metrics.oom, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `policy` | the trait, the table of policies, one file for each |
//! | `target`, `lagging`, `meter`, `held` | the device below a policy, and what is measured there |
//! | `replay`, `clock` | the loop over the events; how time passes in it |
//! | `min_capacity` | replays with less and less memory |
//! | `metrics`, `timeline`, `recording` | what comes out |
//! | `journal` | where each block lay and what was held, event by event |
//! | `picture` | memory over time as SVG |
//! | `report` | a page with memory over time, what lay where, and the figures |
//! | `generate` | traces made from a seed |
//! | `diagnose` | why a run died or wasted memory, and what would have helped |
//! | `advise` | the best settings for a run, by search |
//! | `workers` | pieces of work on several threads |
#![forbid(unsafe_code)]

mod advise;
mod clock;
mod diagnose;
mod emptied;
mod generate;
mod held;
mod journal;
mod lagging;
mod meter;
mod metrics;
mod min_capacity;
mod picture;
mod policy;
mod recording;
mod replay;
mod report;
mod target;
mod timeline;
mod workers;

pub use advise::{
    Advice, AdviseError, CapacityFrom, Effect, FamilyAdvice, Goal, Part, Question, Trial, advise,
};
pub use diagnose::{
    DeviceDiagnosis, Diagnosis, Failure, Finding, FindingKind, Holder, Pool, Remedy, diagnose,
};
pub use generate::{
    Allowed, GENERATORS, GenerateError, GeneratorInfo, GeneratorOption, GeneratorSpec,
};
pub use journal::Journal;
pub use metrics::{Metrics, OutOfMemory};
pub use min_capacity::{MinCapacity, MinCapacityError, min_capacity};
pub use picture::{Panel, picture};
pub use policy::{
    Needs, OptionInfo, POLICIES, Policy, PolicyError, PolicyInfo, PolicyMaker, PolicyOptions,
    PolicySpec, Refusal,
};
pub use recording::Recording;
pub use replay::{Replayed, replay, replay_with_journal};
pub use report::Report;
pub use target::{CostModel, MAX_STREAMS, RealTarget, ReplayError, SimTarget, Target};
pub use timeline::{Point, Timeline};
pub use workers::{on_threads, processors};
