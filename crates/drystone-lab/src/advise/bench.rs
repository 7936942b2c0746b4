//! Replays of many settings at once, each only once: on several threads, with the same results on
//! any number of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_trace::Trace;

use super::AdviseError;
use crate::min_capacity::{MinCapacityError, min_capacity};
use crate::policy::PolicySpec;
use crate::replay::replay;
use crate::target::{SimTarget, Target};
use crate::workers::on_threads;

/// About how many replays there will be, for the progress.
const PLAN: u64 = 400;
/// How exact a least capacity is, as a part of the peak of live bytes.
const TOLERANCE: f64 = 0.005;

/// What a replay gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) completes: bool,
    pub(super) peak_reserved: u64,
    pub(super) ratio: Option<f64>,
    pub(super) driver_us: f64,
    pub(super) wait_us: f64,
}

/// Where settings are replayed.
pub(super) struct Bench<'a> {
    trace: &'a Trace,
    target: SimTarget,
    threads: usize,
    progress: &'a mut dyn FnMut(u64, u64),
    /// By policy and capacity.
    played: HashMap<(String, u64), Figures>,
    /// The least capacity by policy; none where all the memory that there can be is too little.
    least: HashMap<String, Option<u64>>,
    replays: u64,
}

impl<'a> Bench<'a> {
    /// On devices like `target`, which has the most memory that is ever tried.
    pub(super) fn new(
        trace: &'a Trace,
        target: SimTarget,
        threads: usize,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let (played, least) = (HashMap::new(), HashMap::new());
        Bench { trace, target, threads: threads.max(1), progress, played, least, replays: 0 }
    }

    /// How many times the trace was played.
    pub(super) fn replays(&self) -> u64 {
        self.replays
    }

    /// What each policy does with so many bytes.
    pub(super) fn at(
        &mut self,
        policies: &[PolicySpec],
        capacity: u64,
    ) -> Result<Vec<Figures>, AdviseError> {
        let key = |policy: &PolicySpec| (policy.to_string(), capacity);
        let new = fresh(policies, |policy| self.played.contains_key(&key(policy)));
        let (trace, target) = (self.trace, SimTarget { capacity, ..self.target.clone() });
        let target = Target::Sim(target);
        let found = self.in_parallel(&new, |policy| {
            let metrics = replay(trace, policy, &target, &mut |_| {})?.metrics;
            let figures = Figures {
                completes: metrics.oom.is_none(),
                peak_reserved: metrics.peak_reserved_bytes,
                ratio: metrics.ratio,
                driver_us: metrics.driver_us,
                wait_us: metrics.wait_us,
            };
            Ok((figures, 1))
        })?;
        self.played.extend(new.iter().map(|policy| key(policy)).zip(found));
        Ok(policies.iter().map(|policy| self.played[&key(policy)]).collect())
    }

    /// The least memory that each policy needs; none where no memory is enough.
    pub(super) fn least(
        &mut self,
        policies: &[PolicySpec],
    ) -> Result<Vec<Option<u64>>, AdviseError> {
        let new = fresh(policies, |policy| self.least.contains_key(&policy.to_string()));
        let (trace, target) = (self.trace, Target::Sim(self.target.clone()));
        let found = self.in_parallel(&new, |policy| {
            match min_capacity(trace, policy, &target, TOLERANCE, &mut |_, _| {}) {
                Ok(found) => Ok((Some(found.min_capacity_bytes), found.runs)),
                Err(MinCapacityError::Never { .. }) => Ok((None, 1)),
                Err(error) => Err(error.into()),
            }
        })?;
        self.least.extend(new.iter().map(|policy| policy.to_string()).zip(found));
        Ok(policies.iter().map(|policy| self.least[&policy.to_string()]).collect())
    }

    /// Does the work on each policy; `work` also says how many replays it was. Results stand in the
    /// order of the policies, and of several errors it is the first.
    fn in_parallel<R: Send>(
        &mut self,
        policies: &[&PolicySpec],
        work: impl Fn(&PolicySpec) -> Result<(R, u64), AdviseError> + Sync,
    ) -> Result<Vec<R>, AdviseError> {
        let replays = AtomicU64::new(self.replays);
        let one = |policy: &&PolicySpec, _: &mut dyn FnMut(f64)| {
            let (result, runs) = work(policy)?;
            replays.fetch_add(runs, Ordering::Relaxed);
            Ok(result)
        };
        let events = self.trace.events.len() as u64;
        let found = on_threads(policies, self.threads, one, &mut |_| {
            let count = replays.load(Ordering::Relaxed);
            (self.progress)(count * events, PLAN.max(count) * events);
        });
        self.replays = replays.into_inner();
        found.into_iter().collect()
    }
}

/// Those that are not known, each once.
fn fresh(policies: &[PolicySpec], known: impl Fn(&PolicySpec) -> bool) -> Vec<&PolicySpec> {
    let mut seen = std::collections::HashSet::new();
    let new = policies.iter().filter(|policy| !known(policy));
    new.filter(|policy| seen.insert(policy.to_string())).collect()
}
