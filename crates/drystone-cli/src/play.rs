//! Plays each trace through each policy, and tells of what fails without giving up the rest.

use anyhow::{Context, Result};
use drystone_lab::{POLICIES, PolicySpec, Recording, Replayed, replay};
use drystone_trace::Trace;

use crate::args::Options;
use crate::device::Device;
use crate::load::Source;
use crate::output::{Outcome, complain};
use crate::progress::Progress;

/// One trace and what came out of it.
pub(crate) struct Played {
    pub(crate) trace: Trace,
    pub(crate) recording: Recording,
    /// One for each policy that could be played.
    pub(crate) replays: Vec<Replayed>,
}

/// Plays the traces one after the other and hands each result to `tell`.
pub(crate) fn play(
    sources: &[Source],
    options: &Options,
    device: &Device,
    mut tell: impl FnMut(Played) -> Result<()>,
) -> Result<Outcome> {
    let policies = policies(options)?;
    let mut outcome = Outcome::Done;
    for source in sources {
        let played = source.read().and_then(|trace| {
            let (played, partly) = play_one(trace, &policies, device)?;
            outcome = outcome.and(partly);
            Ok(played)
        });
        match played {
            Ok(played) => tell(played)?,
            Err(error) => {
                complain(&format!("{error:#}"));
                outcome = Outcome::Failed;
            }
        }
    }
    Ok(outcome)
}

/// Those that were named, or else all.
fn policies(options: &Options) -> Result<Vec<PolicySpec>> {
    if !options.policies.is_empty() {
        return Ok(options.policies.clone());
    }
    Ok(POLICIES.iter().map(PolicySpec::plain).collect::<Result<_, _>>()?)
}

fn play_one(trace: Trace, policies: &[PolicySpec], device: &Device) -> Result<(Played, Outcome)> {
    let target = device.target(&trace).with_context(|| trace.name.clone())?;
    let mut outcome = Outcome::Done;
    let mut replays = Vec::with_capacity(policies.len());
    for policy in policies {
        let label = format!("{}, {}", trace.name, policy.info.name);
        let mut progress = Progress::new(label, trace.events.len());
        let result = replay(&trace, policy, &target, &mut |done| progress.at(done));
        drop(progress);
        match result {
            Ok(replayed) => {
                if replayed.metrics.oom.is_some() {
                    outcome = Outcome::Failed;
                }
                replays.push(replayed);
            }
            Err(error) => {
                complain(&format!("{}: {error}", trace.name));
                outcome = Outcome::Failed;
            }
        }
    }
    let recording = Recording::of(&trace);
    Ok((Played { trace, recording, replays }, outcome))
}
