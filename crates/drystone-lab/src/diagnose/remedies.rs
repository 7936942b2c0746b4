//! Settings and other allocators, each replayed on the same requests with the same memory.

use serde::Serialize;

use super::baseline::{Baseline, target};
use super::emptying::Emptying;
use super::view::View;
use crate::metrics::Metrics;
use crate::policy::PolicySpec;
use crate::replay::replay;
use crate::target::{ReplayError, Target};
use crate::workers::{on_threads, processors};

/// A remedy that completes no better is worth telling if it holds this part less.
const WORTH: f64 = 0.98;
/// The most replays at once: each holds the blocks of the run.
const MOST_THREADS: usize = 8;

/// One allocator with its settings, and what a replay with them gave. Sizes are in bytes, times in
/// microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// What to set or run, to be copied.
    pub setting: String,
    /// Whether the program itself has to be changed for it.
    pub changes_program: bool,
    /// The policy that was replayed, as on the command line of `drystone replay`; what a replay
    /// there has not, as emptying the cache, follows ` + `.
    pub policy: String,
    /// Whether the run completes.
    pub completes: bool,
    /// The most bytes held of the device at once, until the end or the request that failed.
    pub peak_reserved_bytes: u64,
    /// Bytes held of the device at the end, or at the request that failed.
    pub end_reserved_bytes: u64,
    /// Time in driver calls and waiting for the device.
    pub driver_us: f64,
}

impl Remedy {
    pub(super) fn of(setting: String, metrics: &Metrics) -> Self {
        Remedy {
            setting,
            changes_program: false,
            policy: metrics.label(),
            completes: metrics.oom.is_none(),
            peak_reserved_bytes: metrics.peak_reserved_bytes,
            end_reserved_bytes: metrics.end_reserved_bytes,
            driver_us: metrics.driver_us + metrics.wait_us,
        }
    }
}

/// What is tried always: the policy, its options, and what a person sets. Garbage collection works
/// only under a limit, so that one is set which takes next to nothing away.
const ALWAYS: [(&str, &str, &str); 13] = [
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

/// The name of a step that a policy's options cannot say.
const EMPTIED: &str = "empty_cache";

/// A policy by name, with options.
pub(super) fn policy(name: &str, options: &str) -> Result<PolicySpec, ReplayError> {
    let colon = if options.is_empty() { "" } else { ":" };
    let text = format!("{name}{colon}{options}");
    text.parse().map_err(|why| ReplayError::Start { policy: text.clone(), why: format!("{why}") })
}

/// Something to try.
struct Candidate {
    policy: PolicySpec,
    setting: String,
    /// Whether the cache is emptied between phases.
    empties: bool,
}

/// All that is tried. A limit that was set stays, but for the candidate that lifts it.
fn plan(view: &View<'_>, baseline: &Baseline) -> Result<Vec<Candidate>, ReplayError> {
    let limit = baseline.settings.fraction;
    let mut plan = Vec::new();
    for (name, options, setting) in ALWAYS {
        let mut options = options.to_owned();
        let mut setting = setting.to_owned();
        if setting.is_empty() {
            setting = format!("PYTORCH_ALLOC_CONF={}", options.replace('=', ":"));
        }
        if let Some(limit) = limit.filter(|limit| *limit < 0.99) {
            let key = "per_process_memory_fraction=";
            options = options.replace(&format!(",{key}0.99"), "");
            let comma = if options.is_empty() { "" } else { "," };
            options += &format!("{comma}{key}{limit}");
            setting = setting.replace("_fraction:0.99", &format!("_fraction:{limit}"));
        }
        plan.push(Candidate { policy: policy(name, &options)?, setting, empties: false });
    }
    if limit.is_some() {
        let setting = "PYTORCH_ALLOC_CONF=per_process_memory_fraction:1".to_owned();
        plan.push(Candidate { policy: policy("pytorch", "")?, setting, empties: false });
    }
    if let Some(emptying) = Emptying::of(view) {
        let setting = format!("torch.cuda.empty_cache() {}", emptying.places);
        let policy = emptying.on(&baseline.settings.policy);
        plan.push(Candidate { policy, setting, empties: true });
    }
    Ok(plan)
}

/// Replays all; those that helped, best first, and how many were tried. If memory lies `idle` at the
/// end, it helps to hold less there. `progress` is told how many
/// replays and parts of replays of how many are done.
pub(super) fn tried(
    view: &View<'_>,
    baseline: &Baseline,
    idle: bool,
    progress: &mut dyn FnMut(f64),
) -> Result<(Vec<Remedy>, usize), ReplayError> {
    let plan = plan(view, baseline)?;
    let replayed = all(view, &plan, &target(view, &baseline.settings), progress);
    let before = &baseline.remedy;
    let mut helped = Vec::new();
    for (candidate, metrics) in plan.iter().zip(replayed) {
        let mut remedy = Remedy::of(candidate.setting.clone(), &metrics?);
        if candidate.empties {
            remedy.changes_program = true;
            remedy.policy += &format!(" + {EMPTIED}");
        }
        let mut less =
            (remedy.peak_reserved_bytes as f64) < WORTH * before.peak_reserved_bytes as f64;
        // Of those that are meant for it.
        less |=
            idle && candidate.empties && remedy.end_reserved_bytes < before.end_reserved_bytes / 2;
        if remedy.completes && remedy.policy != before.policy && (!before.completes || less) {
            helped.push(remedy);
        }
    }
    // What can be had without work stands first.
    helped.sort_by(|a, b| {
        let key = |of: &Remedy| (of.changes_program, of.peak_reserved_bytes);
        key(a).cmp(&key(b)).then(a.driver_us.total_cmp(&b.driver_us))
    });
    Ok((helped, plan.len()))
}

/// The figures of all, in order, from as many threads as the machine runs.
fn all(
    view: &View<'_>,
    plan: &[Candidate],
    target: &Target,
    progress: &mut dyn FnMut(f64),
) -> Vec<Result<Metrics, ReplayError>> {
    let trace = &view.trace;
    let events = trace.events.len().max(1) as f64;
    let one = |candidate: &Candidate, say: &mut dyn FnMut(f64)| {
        let told = &mut |done| say(done as f64 / events);
        replay(trace, &candidate.policy, target, told).map(|replayed| replayed.metrics)
    };
    on_threads(plan, processors().get().min(MOST_THREADS), one, progress)
}
