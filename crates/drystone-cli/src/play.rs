//! Plays each trace through each policy, and tells of what fails without giving up the rest.

use anyhow::{Context, Result};
use drystone_lab::{POLICIES, PolicySpec, Recording, Replayed, Target, replay};
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
    each_trace(sources, device, |trace, target| {
        let (played, outcome) = play_one(trace, target, &policies);
        tell(played)?;
        Ok(outcome)
    })
}

/// Reads the traces one after the other and hands each with its device to `body`, whose errors end
/// it all; a trace that cannot be read or played is complained about.
pub(crate) fn each_trace(
    sources: &[Source],
    device: &Device,
    mut body: impl FnMut(Trace, &Target) -> Result<Outcome>,
) -> Result<Outcome> {
    let mut outcome = Outcome::Done;
    for source in sources {
        let ready = source.read().and_then(|trace| {
            let target = device.target(&trace).with_context(|| trace.name.clone())?;
            Ok((trace, target))
        });
        let this = match ready {
            Ok((trace, target)) => body(trace, &target)?,
            Err(error) => {
                complain(&format!("{error:#}"));
                Outcome::Failed
            }
        };
        outcome = outcome.and(this);
    }
    Ok(outcome)
}

/// Those that were named, or else all.
pub(crate) fn policies(options: &Options) -> Result<Vec<PolicySpec>> {
    if !options.policies.is_empty() {
        return Ok(options.policies.clone());
    }
    Ok(POLICIES.iter().map(PolicySpec::plain).collect::<Result<_, _>>()?)
}

fn play_one(trace: Trace, target: &Target, policies: &[PolicySpec]) -> (Played, Outcome) {
    let events = trace.events.len() as u64;
    let mut outcome = Outcome::Done;
    let mut replays = Vec::with_capacity(policies.len());
    for policy in policies {
        let mut progress = Progress::new(format!("{}, {}", trace.name, policy.info.name));
        let result = replay(&trace, policy, target, &mut |done| progress.at(done as u64, events));
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
    (Played { trace, recording, replays }, outcome)
}
