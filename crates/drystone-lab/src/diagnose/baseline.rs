//! PyTorch's own allocator on what a device was asked for, with the recorded settings: where it
//! fails, and what it holds.

use crate::journal::Journal;
use crate::policy::PolicySpec;
use crate::replay::{Replayed, replay_with_journal};
use crate::target::{ReplayError, SimTarget, Target};
use drystone_trace::{Op, Run};

use super::memory::Memory;
use super::remedies::Remedy;
use super::view::{Failed, MOST_CAPACITY, View, rounded};
use super::{Failure, remedies};

/// The replay, and what it did.
pub(super) struct Baseline {
    pub(super) replayed: Replayed,
    pub(super) journal: Journal,
    pub(super) remedy: Remedy,
}

impl Baseline {
    pub(super) fn of(
        view: &View<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, ReplayError> {
        let (policy, setting) = settings(view.run)?;
        let target = target(view);
        let (replayed, journal) = replay_with_journal(&view.trace, &policy, &target, progress)?;
        let remedy = Remedy::of(setting, &replayed.metrics);
        Ok(Baseline { replayed, journal, remedy })
    }

    /// Whether the replay ran out of memory.
    pub(super) fn fails(&self) -> bool {
        self.replayed.metrics.oom.is_some()
    }

    /// The request that the replay could not meet.
    pub(super) fn failure(&self, view: &View<'_>) -> Option<Failed> {
        let oom = self.replayed.metrics.oom.as_ref()?;
        let event = oom.at_event as usize;
        let mut live = 0u64;
        for event in &view.trace.events[..event] {
            match event.op {
                Op::Alloc => live = live.saturating_add(rounded(event.size)),
                Op::FreeCompleted => live = live.saturating_sub(rounded(event.size)),
                _ => {}
            }
        }
        let told = Failure {
            recorded: false,
            t_us: oom.t_us,
            asked: oom.asked,
            live,
            reserved: Some(oom.reserved),
            device_free: view.capacity.map(|capacity| capacity.saturating_sub(oom.reserved)),
        };
        Some(Failed { event, told })
    }

    /// What was held and free when the replay's request failed; none if it completes.
    pub(super) fn memory_at_failure(&self, view: &View<'_>) -> Option<Memory> {
        let oom = self.replayed.metrics.oom.as_ref()?;
        Some(Memory::of_replay(&view.trace, &self.journal, oom.at_event as usize))
    }

    /// The request near the peak for which most new memory was taken, and what was held and free
    /// after it. The last request before the peak would often be a small one, which shares nothing
    /// with what is free.
    pub(super) fn largest_taken(&self, view: &View<'_>) -> Option<(u64, Memory)> {
        let steps = self.journal.reserved();
        let most = steps.iter().map(|&(_, bytes)| bytes).max()?;
        let rises = steps.iter().scan(0, |before: &mut u64, &(event, bytes)| {
            let rise = bytes.saturating_sub(std::mem::replace(before, bytes));
            Some((rise, event as usize, bytes))
        });
        let near = rises.filter(|&(_, _, bytes)| bytes >= most / 10 * 9);
        let (_, event, _) = near.max_by_key(|&(rise, event, _)| (rise, event))?;
        let asked = view.trace.events.get(event)?.size;
        Some((asked, Memory::of_replay(&view.trace, &self.journal, event + 1)))
    }
}

/// The device that remedies are replayed on: of the capacity, or of all there can be.
pub(super) fn target(view: &View<'_>) -> Target {
    let capacity = view.capacity.unwrap_or(MOST_CAPACITY);
    Target::Sim(SimTarget { capacity, ..SimTarget::default() })
}

/// The recorded settings that say how memory is cached, as a policy and as they are written.
fn settings(run: &Run) -> Result<(PolicySpec, String), ReplayError> {
    let value = |name: &str| {
        run.settings.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    };
    let expandable = value("expandable_segments").eq_ignore_ascii_case("true");
    let name = if expandable { "pytorch-expandable" } else { "pytorch" };
    let mut keys = Vec::new();
    // -1 stands for no limit; snapshots have bytes.
    if let Ok(bytes) = value("max_split_size").parse::<u64>()
        && (remedies::LEAST_SPLIT..MOST_CAPACITY).contains(&bytes)
    {
        keys.push(format!("max_split_size_mb={}", bytes >> 20));
    }
    let policy = remedies::policy(name, &keys.join(","))?;
    let mut written = keys.join(",").replace('=', ":");
    if expandable {
        written = format!("expandable_segments:True,{written}").trim_end_matches(',').to_owned();
    }
    Ok((policy, if written.is_empty() { "as it was".to_owned() } else { written }))
}
