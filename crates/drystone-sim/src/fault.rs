//! Fault injection: which driver calls fail, and with what.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use drystone_core::driver::{DriverCall, DriverErrorKind};
use parking_lot::Mutex;

use crate::rng::SplitMix64;

/// When a rule fires, given how many calls it has seen, the present one included.
#[derive(Clone, Debug, PartialEq)]
enum When {
    Nth(u64),
    FromNth(u64),
    Random { probability: f64, seed: u64 },
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    /// Which calls it counts and fails; `None` means all.
    call: Option<DriverCall>,
    when: When,
    /// `None` means the usual one for the call.
    error: Option<DriverErrorKind>,
}

/// A list of rules by which calls fail. Each counts its calls from the moment the plan is set
/// (the first is 1), also those that another rule fails; where several fire, the earliest added
/// gives the error. A failed call has no effect.
///
/// ```
/// use drystone_core::driver::{DriverCall, DriverErrorKind};
/// use drystone_sim::FaultPlan;
///
/// let plan = FaultPlan::new()
///     .nth(DriverCall::SegmentAlloc, 3) // Out of memory, once.
///     .from_nth(None, 500) // All calls of any kind from the 500th on,
///     .error(DriverErrorKind::DeviceLost); // with this error.
/// # let _ = plan;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    rules: Vec<Rule>,
}

impl FaultPlan {
    /// A plan by which nothing fails.
    pub fn new() -> Self {
        FaultPlan::default()
    }

    /// Adds: the `n`-th call of this kind (`None`: of any kind) fails.
    pub fn nth(self, call: impl Into<Option<DriverCall>>, n: u64) -> Self {
        self.with(call.into(), When::Nth(n))
    }

    /// Adds: every call of this kind (`None`: of any kind) from the `n`-th on fails.
    pub fn from_nth(self, call: impl Into<Option<DriverCall>>, n: u64) -> Self {
        self.with(call.into(), When::FromNth(n))
    }

    /// Adds: each call of this kind (`None`: of any kind) fails with this probability, by `seed`.
    pub fn random(self, call: impl Into<Option<DriverCall>>, probability: f64, seed: u64) -> Self {
        self.with(call.into(), When::Random { probability, seed })
    }

    /// Sets the error of the rule added last, instead of the usual one: out of memory for
    /// `segment_alloc`, `handle_create` and `address_reserve`, [`DriverErrorKind::Other`] for the
    /// rest. Without a rule it does nothing.
    pub fn error(mut self, kind: DriverErrorKind) -> Self {
        if let Some(rule) = self.rules.last_mut() {
            rule.error = Some(kind);
        }
        self
    }

    fn with(mut self, call: Option<DriverCall>, when: When) -> Self {
        self.rules.push(Rule { call, when, error: None });
        self
    }
}

#[derive(Debug)]
struct ArmedRule {
    rule: Rule,
    seen: u64,
    rng: SplitMix64,
}

impl ArmedRule {
    fn fires(&mut self, call: DriverCall) -> bool {
        if self.rule.call.is_some_and(|only| only != call) {
            return false;
        }
        self.seen += 1;
        match self.rule.when {
            When::Nth(n) => self.seen == n,
            When::FromNth(n) => self.seen >= n,
            When::Random { probability, .. } => self.rng.next_unit() < probability,
        }
    }
}

/// The plan at work. Without rules it costs one load a call.
#[derive(Debug)]
pub(crate) struct Faults {
    active: AtomicBool,
    rules: Mutex<Vec<ArmedRule>>,
    injected: AtomicU64,
}

impl Faults {
    pub(crate) fn new(plan: FaultPlan) -> Self {
        let faults = Faults {
            active: AtomicBool::new(false),
            rules: Mutex::new(Vec::new()),
            injected: AtomicU64::new(0),
        };
        faults.set(plan);
        faults
    }

    pub(crate) fn set(&self, plan: FaultPlan) {
        let mut rules = self.rules.lock();
        *rules = plan
            .rules
            .into_iter()
            .map(|rule| {
                let seed = if let When::Random { seed, .. } = rule.when { seed } else { 0 };
                ArmedRule { rule, seen: 0, rng: SplitMix64::new(seed) }
            })
            .collect();
        self.active.store(!rules.is_empty(), Relaxed);
    }

    /// The error by which this call is to fail, if it is.
    pub(crate) fn draw(&self, call: DriverCall) -> Option<DriverErrorKind> {
        if !self.active.load(Relaxed) {
            return None;
        }
        let mut kind = None;
        for armed in self.rules.lock().iter_mut() {
            // All rules count the call, so no short circuit.
            if armed.fires(call) && kind.is_none() {
                kind = Some(armed.rule.error.unwrap_or(match call {
                    DriverCall::SegmentAlloc
                    | DriverCall::HandleCreate
                    | DriverCall::AddressReserve => DriverErrorKind::OutOfMemory,
                    _ => DriverErrorKind::Other,
                }));
            }
        }
        if kind.is_some() {
            self.injected.fetch_add(1, Relaxed);
        }
        kind
    }

    pub(crate) fn injected(&self) -> u64 {
        self.injected.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DriverCall::{EventCreate, SegmentAlloc};
    use DriverErrorKind::{DeviceLost, NotSupported, Other, OutOfMemory};

    #[test]
    fn the_nth_of_a_kind_fails_once() {
        let faults = Faults::new(FaultPlan::new().nth(SegmentAlloc, 2));
        let drawn = [SegmentAlloc, EventCreate, SegmentAlloc, SegmentAlloc].map(|c| faults.draw(c));
        assert_eq!(drawn, [None, None, Some(OutOfMemory), None]);
        assert_eq!(faults.injected(), 1);
    }

    #[test]
    fn the_nth_of_any_kind_fails() {
        let faults = Faults::new(FaultPlan::new().nth(None, 2).error(NotSupported).nth(None, 3));
        let drawn = [SegmentAlloc, EventCreate, EventCreate].map(|c| faults.draw(c));
        assert_eq!(drawn, [None, Some(NotSupported), Some(Other)]);
    }

    #[test]
    fn all_from_the_nth_on_fail_until_the_plan_changes() {
        let faults = Faults::new(FaultPlan::new().from_nth(None, 2).error(DeviceLost));
        let drawn = [EventCreate, EventCreate, SegmentAlloc].map(|c| faults.draw(c));
        assert_eq!(drawn, [None, Some(DeviceLost), Some(DeviceLost)]);
        faults.set(FaultPlan::new());
        assert_eq!(faults.draw(EventCreate), None);
        assert_eq!(faults.injected(), 2);
    }

    #[test]
    fn random_faults_repeat_by_seed_and_keep_their_rate() {
        let run = |seed| {
            let faults = Faults::new(FaultPlan::new().random(SegmentAlloc, 0.25, seed));
            (0..1000).map(|_| faults.draw(SegmentAlloc).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let hits = run(1).into_iter().filter(|hit| *hit).count();
        assert!((200..300).contains(&hits), "{hits} of 1000");
    }

    #[test]
    fn the_earliest_rule_gives_the_error() {
        let plan = FaultPlan::new().nth(None, 1).error(NotSupported).from_nth(None, 1);
        let faults = Faults::new(plan);
        let drawn = [SegmentAlloc, SegmentAlloc].map(|c| faults.draw(c));
        assert_eq!(drawn, [Some(NotSupported), Some(OutOfMemory)]);
        assert_eq!(faults.injected(), 2);
    }

    #[test]
    fn every_rule_counts_calls_that_another_failed() {
        let plan = FaultPlan::new().nth(None, 1).nth(SegmentAlloc, 2).error(DeviceLost);
        let faults = Faults::new(plan);
        let drawn = [SegmentAlloc, SegmentAlloc].map(|c| faults.draw(c));
        assert_eq!(drawn, [Some(OutOfMemory), Some(DeviceLost)]);
    }
}
