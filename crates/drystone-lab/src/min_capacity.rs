//! The least memory of a device with which a trace completes, found by bisection.
//!
//! That a trace completes with some memory does not mean that it does with more: a policy may act
//! otherwise when it is not short. So the answer is a capacity that was played and completed, some
//! capacities around it are played too, and what contradicts it is told.

use std::collections::{BTreeMap, HashMap};

use drystone_core::config::format_bytes;
use drystone_core::{DeviceId, Driver, DriverError};
use drystone_trace::{Op, Trace};
use serde::Serialize;

use crate::metrics::Metrics;
use crate::policy::PolicySpec;
use crate::replay::replay;
use crate::target::{ReplayError, Target};

/// All capacities are multiples of this: what a device gives at least.
const PAGE: u64 = 2 << 20;
/// How many steps above and below the answer are looked at.
const PROBES: [u64; 3] = [1, 2, 4];

/// What a policy needs for a trace. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MinCapacity {
    /// The trace's name.
    pub trace: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's options as `key=value,key=value`; empty if there were none.
    pub options: String,
    /// `sim`, or which real device.
    pub device: String,
    /// The least memory of each device with which the trace was played to its end: a multiple of
    /// 2 MiB, not below `peak_live_bytes`.
    pub min_capacity_bytes: u64,
    /// The most bytes requested and not free-completed on one device.
    pub peak_live_bytes: u64,
    /// `min_capacity_bytes / peak_live_bytes`; none if nothing was live.
    pub ratio: Option<f64>,
    /// How fine the search was: with so much less the trace is expected to fail.
    pub step_bytes: u64,
    /// Whether the trace completed with all capacities above the answer that were played.
    pub monotone: bool,
    /// The largest capacity above the answer with which it did not.
    pub fails_at_bytes: Option<u64>,
    /// How many times the trace was played.
    pub runs: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MinCapacityError {
    /// A replay had no result.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A real device did not say what memory it has.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// All the memory that the target has is not enough.
    #[error("{policy} ran out of memory even with {}: {message}", format_bytes(*.capacity))]
    Never {
        /// The policy.
        policy: String,
        /// What the target has, in bytes.
        capacity: u64,
        /// What the policy says.
        message: String,
    },
}

/// Finds the least memory with which the trace completes, at most what the target has. The answer
/// is exact to `tolerance`, as a part of the peak of live bytes, or to 2 MiB if that is more.
/// `progress` is told now and then how many events of about how many are done.
///
/// # Errors
/// [`MinCapacityError`].
pub fn min_capacity(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    tolerance: f64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<MinCapacity, MinCapacityError> {
    let most = most(target)? / PAGE;
    let mut search = Search { trace, policy, target, progress, tried: BTreeMap::new(), plan: 16 };
    let plenty = search.play(most)?;
    if let Some(oom) = plenty.oom {
        let (policy, capacity) = (policy.to_string(), most * PAGE);
        return Err(MinCapacityError::Never { policy, capacity, message: oom.message });
    }
    let peak = peak_live(trace);
    let step = ((peak as f64 * tolerance) as u64 / PAGE).max(1);
    let least = peak.div_ceil(PAGE).clamp(1, most);
    let reserved = plenty.peak_reserved_bytes.div_ceil(PAGE).clamp(least, most);
    search.bisect(least, reserved, step)?;
    search.look_around(least, most, step)?;

    let answer = search.answer();
    let fails_at = search.tried.iter().rev().find(|&(&pages, &done)| !done && pages > answer);
    let min_capacity_bytes = answer * PAGE;
    Ok(MinCapacity {
        trace: plenty.trace,
        policy: plenty.policy,
        options: plenty.options,
        device: plenty.device,
        min_capacity_bytes,
        peak_live_bytes: peak,
        ratio: (peak > 0).then(|| min_capacity_bytes as f64 / peak as f64),
        step_bytes: step * PAGE,
        monotone: fails_at.is_none(),
        fails_at_bytes: fails_at.map(|(pages, _)| pages * PAGE),
        runs: search.tried.len() as u64,
    })
}

/// The memory that the target has, of each device.
fn most(target: &Target) -> Result<u64, DriverError> {
    match target {
        Target::Sim(target) => Ok(target.capacity),
        Target::Real(target) => {
            let free = target.driver.device_memory(DeviceId(0))?.free;
            Ok(target.capacity.map_or(free, |capacity| capacity.min(free)))
        }
    }
}

/// The most bytes live at once on one device: no policy does with less of it.
fn peak_live(trace: &Trace) -> u64 {
    let (mut live, mut peak) = (HashMap::<_, u64>::new(), 0);
    for event in &trace.events {
        let live = live.entry(event.device).or_default();
        match event.op {
            Op::Alloc => *live = live.saturating_add(event.size),
            Op::FreeCompleted => *live = live.saturating_sub(event.size),
            _ => continue,
        }
        peak = peak.max(*live);
    }
    peak
}

/// A search underway. Capacities are in pages.
struct Search<'a> {
    trace: &'a Trace,
    policy: &'a PolicySpec,
    target: &'a Target,
    progress: &'a mut dyn FnMut(u64, u64),
    /// The capacities that were played, and whether the trace completed.
    tried: BTreeMap<u64, bool>,
    /// About how many will be.
    plan: u64,
}

impl Search<'_> {
    /// Plays the trace with this capacity.
    fn play(&mut self, pages: u64) -> Result<Metrics, ReplayError> {
        let events = self.trace.events.len() as u64;
        let (before, runs) = (self.tried.len() as u64, self.plan);
        let mut told = |done| (self.progress)(before * events + done as u64, runs * events);
        let target = self.target.with_capacity(pages * PAGE);
        let metrics = replay(self.trace, self.policy, &target, &mut told)?.metrics;
        self.tried.insert(pages, metrics.oom.is_none());
        Ok(metrics)
    }

    /// Whether the trace completes with this capacity; each is played once.
    fn completes(&mut self, pages: u64) -> Result<bool, ReplayError> {
        match self.tried.get(&pages) {
            Some(&done) => Ok(done),
            None => Ok(self.play(pages)?.oom.is_none()),
        }
    }

    /// Narrows down to a step where the trace begins to complete: from `least` on, and probably
    /// before `enough`.
    fn bisect(&mut self, least: u64, enough: u64, step: u64) -> Result<(), ReplayError> {
        let (mut fails, mut completes) = (least - 1, enough);
        while !self.completes(completes)? {
            // What a policy took while it had plenty may be too little when that is all. The end
            // is the capacity that was played first, with which the trace completed.
            let above = self.tried.range(completes + 1..).find(|&(_, &done)| done);
            let bound = above.map_or(completes + 1, |(&pages, _)| pages);
            fails = completes;
            completes = (completes + (completes - least).max(step)).min(bound);
        }
        self.plan = self.tried.len() as u64 + 2 * PROBES.len() as u64;
        self.plan += u64::from(((completes - fails) / step).checked_ilog2().unwrap_or(0));
        while completes - fails > step {
            let middle = fails + (completes - fails) / 2;
            if self.completes(middle)? {
                completes = middle;
            } else {
                fails = middle;
            }
        }
        Ok(())
    }

    /// Plays some capacities above and below the answer.
    fn look_around(&mut self, least: u64, most: u64, step: u64) -> Result<(), ReplayError> {
        let answer = self.answer();
        for steps in PROBES.map(|steps| steps * step) {
            self.completes((answer + steps).min(most))?;
            self.completes(answer.saturating_sub(steps).max(least))?;
        }
        Ok(())
    }

    /// The least capacity with which the trace completed.
    fn answer(&self) -> u64 {
        let mut completed = self.tried.iter().filter(|&(_, &done)| done);
        completed.next().map_or(0, |(&pages, _)| pages)
    }
}

#[cfg(test)]
mod tests;
