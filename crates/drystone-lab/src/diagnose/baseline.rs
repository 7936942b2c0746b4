//! PyTorch's own allocator on what a device was asked for, with the recorded settings: where it
//! fails, and what it holds.

use crate::journal::Journal;
use crate::replay::{Replayed, replay, replay_with_journal};
use crate::target::{ReplayError, SimTarget, Target};

use super::Failure;
use super::memory::Memory;
use super::remedies::Remedy;
use super::settings::Settings;
use super::view::{Failed, MOST_CAPACITY, View};

/// The replay, and what it did.
pub(super) struct Baseline {
    pub(super) settings: Settings,
    pub(super) replayed: Replayed,
    pub(super) journal: Journal,
    pub(super) remedy: Remedy,
}

impl Baseline {
    /// Replays it. Of the request that failed in the recording, the view says here in which pool it was:
    /// one in which the replay cannot meet it either, if there is one.
    pub(super) fn of(
        view: &mut View<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, ReplayError> {
        let settings = Settings::of(view.run)?;
        let target = target(view, &settings);
        let play = |view: &View<'_>, progress: &mut dyn FnMut(usize)| {
            replay_with_journal(&view.trace, &settings.policy, &target, progress)
        };
        let mut played = play(view, progress)?;
        if let Some(failed) = view.failure
            && is_met(&played.0, failed.event)
        {
            for pool in view.other_pools(failed.event) {
                let before = view.ask_in(pool, failed.event);
                let other = play(view, &mut |_| {})?;
                if !is_met(&other.0, failed.event) {
                    played = other;
                    break;
                }
                view.ask_in(before, failed.event);
            }
        }
        let (replayed, journal) = played;
        let remedy = Remedy::of(settings.written.clone(), &replayed.metrics);
        Ok(Baseline { settings, replayed, journal, remedy })
    }

    /// Whether the replay ran out of memory.
    pub(super) fn fails(&self) -> bool {
        self.replayed.metrics.oom.is_some()
    }

    /// The request that the replay could not meet.
    pub(super) fn failure(&self, view: &View<'_>) -> Option<Failed> {
        let oom = self.replayed.metrics.oom.as_ref()?;
        let event = oom.at_event as usize;
        let told = Failure {
            recorded: false,
            t_us: oom.t_us,
            asked: oom.asked,
            live: view.live_before(event),
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

/// Whether a replay met the request of that event.
fn is_met(replayed: &Replayed, event: usize) -> bool {
    replayed.metrics.oom.as_ref().is_none_or(|oom| oom.at_event > event as u64)
}

/// What the program may have, where a refusal shows it and the settings do not say it themselves.
pub(super) fn limit(view: &View<'_>, settings: &Settings) -> Option<u64> {
    view.limit.filter(|_| settings.fraction.is_none())
}

/// What others on the device left. Not under a fraction, which is one of the whole device.
pub(super) fn beside(view: &View<'_>, settings: &Settings) -> Option<u64> {
    let told = |bytes: &u64| settings.fraction.is_none() && (1..=MOST_CAPACITY).contains(bytes);
    view.beside.filter(told)
}

/// The device that remedies are replayed on: of what the program may have of the capacity and others
/// left of it, or of all there can be.
pub(super) fn target(view: &View<'_>, settings: &Settings) -> Target {
    let had = limit(view, settings).or(beside(view, settings)).or(view.capacity);
    device(had.unwrap_or(MOST_CAPACITY))
}

/// Whether the run would have completed as it was, had nobody else held memory; none if nobody did.
pub(super) fn completes_alone(
    view: &View<'_>,
    settings: &Settings,
) -> Result<Option<bool>, ReplayError> {
    let Some(whole) = beside(view, settings).and(view.capacity) else { return Ok(None) };
    let replayed = replay(&view.trace, &settings.policy, &device(whole), &mut |_| {})?;
    Ok(Some(replayed.metrics.oom.is_none()))
}

fn device(capacity: u64) -> Target {
    Target::Sim(SimTarget { capacity, ..SimTarget::default() })
}
