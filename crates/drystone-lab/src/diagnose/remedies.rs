//! Settings and other allocators, each replayed on the same requests with the same memory.

use serde::Serialize;

use super::baseline::{Baseline, target};
use super::view::View;
use crate::metrics::Metrics;
use crate::policy::PolicySpec;
use crate::replay::replay;
use crate::target::ReplayError;

/// PyTorch takes no smaller `max_split_size_mb` than its large segments, in bytes.
pub(super) const LEAST_SPLIT: u64 = 20 << 20;
/// A remedy that completes no better is worth telling if it holds this part less.
const WORTH: f64 = 0.98;

/// One allocator with its settings, and what a replay with them gave. Sizes are in bytes, times in
/// microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// What to set or run, to be copied.
    pub setting: String,
    /// The policy that was replayed, as on the command line of `drystone replay`.
    pub policy: String,
    /// Whether the run completes.
    pub completes: bool,
    /// The most bytes held of the device at once, until the end or the request that failed.
    pub peak_reserved_bytes: u64,
    /// Time in driver calls and waiting for the device.
    pub driver_us: f64,
}

impl Remedy {
    pub(super) fn of(setting: String, metrics: &Metrics) -> Self {
        Remedy {
            setting,
            policy: metrics.label(),
            completes: metrics.oom.is_none(),
            peak_reserved_bytes: metrics.peak_reserved_bytes,
            driver_us: metrics.driver_us + metrics.wait_us,
        }
    }
}

/// What is tried: the policy, its options, and what a person sets. Garbage collection works only
/// under a limit, so that one is set which takes next to nothing away.
const CANDIDATES: [(&str, &str, &str); 13] = [
    ("pytorch-expandable", "", "PYTORCH_ALLOC_CONF=expandable_segments:True"),
    ("pytorch", "max_split_size_mb=32", ""),
    ("pytorch", "max_split_size_mb=64", ""),
    ("pytorch", "max_split_size_mb=128", ""),
    ("pytorch", "max_split_size_mb=256", ""),
    ("pytorch", "max_split_size_mb=512", ""),
    ("pytorch", "roundup_power2_divisions=2", ""),
    ("pytorch", "roundup_power2_divisions=4", ""),
    ("pytorch", "roundup_power2_divisions=8", ""),
    ("pytorch", "garbage_collection_threshold=0.6,per_process_memory_fraction=0.99", ""),
    ("pytorch", "garbage_collection_threshold=0.8,per_process_memory_fraction=0.99", ""),
    ("drystone", "", "python -m drystone run train.py"),
    ("drystone", "reserve=lean", "python -m drystone run --config reserve:lean train.py"),
];

/// How many are tried.
pub(super) const PLAN: u64 = CANDIDATES.len() as u64;

/// A policy by name, with options.
pub(super) fn policy(name: &str, options: &str) -> Result<PolicySpec, ReplayError> {
    let colon = if options.is_empty() { "" } else { ":" };
    let text = format!("{name}{colon}{options}");
    text.parse().map_err(|why| ReplayError::Start { policy: text.clone(), why: format!("{why}") })
}

/// Replays all; those that helped, best first, and how many were tried. `progress` is told which
/// replay, and how many events are done in it.
pub(super) fn tried(
    view: &View<'_>,
    baseline: &Baseline,
    progress: &mut dyn FnMut(u64, usize),
) -> Result<(Vec<Remedy>, usize), ReplayError> {
    let before = &baseline.remedy;
    let mut helped = Vec::new();
    for (number, (name, options, setting)) in (0..).zip(CANDIDATES) {
        let policy = policy(name, options)?;
        let replayed =
            replay(&view.trace, &policy, &target(view), &mut |done| progress(number, done))?;
        let setting = match setting {
            "" => format!("PYTORCH_ALLOC_CONF={}", options.replace('=', ":")),
            setting => setting.to_owned(),
        };
        let remedy = Remedy::of(setting, &replayed.metrics);
        let less = (remedy.peak_reserved_bytes as f64) < WORTH * before.peak_reserved_bytes as f64;
        if remedy.completes && remedy.policy != before.policy && (!before.completes || less) {
            helped.push(remedy);
        }
    }
    helped.sort_by(|a, b| {
        let less = a.peak_reserved_bytes.cmp(&b.peak_reserved_bytes);
        less.then(a.driver_us.total_cmp(&b.driver_us))
    });
    Ok((helped, CANDIDATES.len()))
}
