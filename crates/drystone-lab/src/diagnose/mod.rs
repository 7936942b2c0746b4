//! The diagnosis of a recorded run: why memory ran out or was wasted, with the evidence, and what
//! would have helped, each remedy replayed.
//!
//! | file | what it holds |
//! |---|---|
//! | `view` | what one device was asked for; requests that failed are put in as if they had been met |
//! | `settings` | the recorded settings |
//! | `baseline` | PyTorch's own allocator on that, with the recorded settings |
//! | `memory` | what is held and free at a moment: how much, and the largest piece |
//! | `holders` | who holds blocks, by Python frame |
//! | `laps` | where the run repeats itself, and where it begins something else |
//! | `causes` | the findings that follow from a request that failed |
//! | `scaling` | what halving the size of what is worked on would give |
//! | `forecast` | what an iteration would have needed that was cut off |
//! | `limits` | limits too low or too high, and others on the device |
//! | `habits` | findings that need no failure: growth, idle cache, pending frees |
//! | `pools` | private pools |
//! | `remedies` | settings and allocators, tried |
//! | `emptying` | emptying the cache between phases, as one of them |

mod baseline;
mod causes;
mod emptying;
mod forecast;
mod habits;
mod holders;
mod laps;
mod limits;
mod memory;
mod pools;
mod remedies;
mod scaling;
mod settings;
#[cfg(test)]
mod tests;
mod view;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use drystone_trace::Run;
use serde::Serialize;

use crate::target::ReplayError;
use baseline::Baseline;
pub use holders::Holder;
pub use pools::Pool;
pub use remedies::Remedy;
pub(crate) use view::View;

/// What is the matter with a run. Sizes are in bytes, times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The trace's name.
    pub trace: String,
    /// One for each device that the run used, by number.
    pub devices: Vec<DeviceDiagnosis>,
}

impl Diagnosis {
    /// Whether nothing was found on any device.
    pub fn is_clean(&self) -> bool {
        self.devices.iter().all(|device| device.findings.is_empty())
    }
}

/// What is the matter on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceDiagnosis {
    /// The device.
    pub device: u32,
    /// The memory that the program could have: what was said, or else what it held and what was
    /// free when a request failed. None if neither is known.
    pub capacity_bytes: Option<u64>,
    /// The most that a limit let the program hold of it, about, where a request was refused although
    /// the device had room; replays are with that.
    pub limit_bytes: Option<u64>,
    /// What others left of it to the program, where they hold much; replays are with that.
    pub beside_others_bytes: Option<u64>,
    /// Whether the run as it was would have completed with all of it; where others hold much and
    /// remedies are replayed.
    pub completes_without_others: Option<bool>,
    /// The most bytes in blocks at once, each rounded to 512 B as PyTorch does; with requests that
    /// failed.
    pub peak_live_bytes: u64,
    /// The request that could not be met.
    pub failure: Option<Failure>,
    /// What is wrong, most likely first; empty if nothing is.
    pub findings: Vec<Finding>,
    /// PyTorch's own allocator with the recorded settings, replayed; none if nothing was to be
    /// replayed, or nothing was recorded but what was live already.
    pub as_it_was: Option<Remedy>,
    /// What would have helped, best first: completes where `as_it_was` fails, or holds less.
    pub remedies: Vec<Remedy>,
    /// How many remedies were replayed.
    pub tried: usize,
    /// Whether nothing was asked for after the request that failed: then what completes has met all
    /// that was recorded, and nothing is known of what the program would have asked for next.
    pub meets_recorded_only: bool,
}

impl DeviceDiagnosis {
    /// The memory that settings are replayed with; none if it is as much as there can be.
    pub fn replayed_bytes(&self) -> Option<u64> {
        self.limit_bytes.or(self.beside_others_bytes).or(self.capacity_bytes)
    }
}

/// A request that could not be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Whether the recording has it; else it is what a replay with the capacity ran into.
    pub recorded: bool,
    /// When, from the trace's first event.
    pub t_us: u64,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes in blocks before it, each rounded to 512 B.
    pub live: u64,
    /// Bytes that the allocator held of the device, where that is known.
    pub reserved: Option<u64>,
    /// Bytes that the device had free, where that is known.
    pub device_free: Option<u64>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The program needs more at once than there is, or would have in the iteration that failed
    /// (evidence `predicted_peak`).
    Excess,
    /// The device had the memory, and a limit kept it from the program.
    Limit,
    /// Somebody else holds memory of the device.
    OtherProcess,
    /// The program may have, or keeps, more than leaves room for others.
    LimitTooHigh,
    /// The program set so much aside for later that something small did not fit any more.
    SetAside,
    /// Enough was reserved and free, but not in one piece.
    Fragmentation,
    /// What stays live rises from iteration to iteration.
    Growth,
    /// Much was held at the end, of which little was live.
    IdleCache,
    /// Blocks were freed, but other streams kept them.
    PendingFrees,
    /// Private pools, as those of captured graphs, held much.
    PrivatePools,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// What was seen, in plain words.
    pub text: String,
    /// The figures behind it, by name; bytes where the name does not say otherwise.
    pub evidence: BTreeMap<&'static str, u64>,
    /// Who holds the blocks that it is about, largest first; empty if it is not about blocks.
    pub holders: Vec<Holder>,
    /// The private pools, the one that holds most first; empty if it is not about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// What a person can do; what a replay can show is in the remedies instead.
    pub advice: &'static str,
    /// Bytes that it explains; findings that are as likely are sorted by this.
    pub bytes: u64,
}

/// Finds out what is the matter with a run, on a device of `capacity` bytes, if that is known.
/// `progress` is told now and then how many events of how many are replayed, for each device
/// anew.
///
/// # Errors
/// [`ReplayError`], where the run cannot be replayed.
pub fn diagnose(
    run: &Run,
    capacity: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Diagnosis, ReplayError> {
    let events = run.trace.events.iter().map(|event| event.device);
    let used: BTreeSet<u32> = events.chain(run.segments.iter().map(|s| s.device)).collect();
    let devices = used.into_iter().map(|device| one(View::of(run, device, capacity), progress));
    Ok(Diagnosis { trace: run.trace.name.clone(), devices: devices.collect::<Result<_, _>>()? })
}

fn one(
    mut view: View<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<DeviceDiagnosis, ReplayError> {
    let events = view.trace.events.len() as u64;
    // The first replay is told of as one part in this many.
    const PARTS: u64 = 16;
    let baseline = Baseline::of(&mut view, &mut |done| progress(done as u64, PARTS * events))?;
    let failure = view.failure.or(baseline.failure(&view));
    let mut findings = causes::findings(&view, &baseline, failure.as_ref());
    findings.extend(habits::findings(&view, &baseline));
    findings.sort_by_key(|found| (found.kind.rank(), Reverse(found.bytes)));

    let limit_bytes = baseline::limit(&view, &baseline.settings);
    let beside_others_bytes = baseline::beside(&view, &baseline.settings);
    let mut completes_without_others = None;
    let idle = findings.iter().any(|found| found.kind == FindingKind::IdleCache);
    let (mut as_it_was, mut tried, mut found) = (None, 0, Vec::new());
    if !findings.is_empty() && !view.exceeds() && view.has_history() {
        let rest = (PARTS - 1) * events;
        let mut told = |part| progress(events + (part * rest as f64) as u64, PARTS * events);
        (found, tried) = remedies::tried(&view, &baseline, idle, &mut told)?;
        completes_without_others = baseline::completes_alone(&view, &baseline.settings)?;
        as_it_was = Some(baseline.remedy);
    }
    Ok(DeviceDiagnosis {
        device: view.device,
        capacity_bytes: view.capacity,
        limit_bytes,
        beside_others_bytes,
        completes_without_others,
        peak_live_bytes: view.peak.bytes,
        failure: failure.map(|failed| failed.told),
        findings,
        as_it_was,
        remedies: found,
        tried,
        meets_recorded_only: view.asks_no_more(),
    })
}

impl FindingKind {
    /// What follows from the figures stands before what is likely, and that before what others may
    /// have caused.
    fn rank(self) -> u8 {
        match self {
            FindingKind::Excess
            | FindingKind::Limit
            | FindingKind::LimitTooHigh
            | FindingKind::OtherProcess => 0,
            FindingKind::SetAside
            | FindingKind::Fragmentation
            | FindingKind::Growth
            | FindingKind::PendingFrees => 1,
            FindingKind::IdleCache | FindingKind::PrivatePools => 2,
        }
    }
}
