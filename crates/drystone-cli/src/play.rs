//! Plays each trace through each policy, and tells of what fails without giving up the rest.

use anyhow::{Context, Result};
use drystone_lab::{
    Journal, Metrics, Needs, POLICIES, PolicyInfo, PolicySpec, Recording, ReplayError, Replayed,
    Target, min_capacity, replay, replay_with_journal,
};
use drystone_trace::{Run, Trace};

use crate::args::Options;
use crate::device::Device;
use crate::load::Source;
use crate::output::{Outcome, complain};
use crate::progress::Progress;
use crate::values::DeviceName;

/// How exact a least capacity is, as a part of the peak of live bytes: as `min-capacity` has it
/// unless told otherwise.
const TOLERANCE: f64 = 0.001;

/// One trace and what came out of it.
pub(crate) struct Played {
    pub(crate) run: Run,
    pub(crate) recording: Recording,
    /// One for each policy that could be played.
    pub(crate) replays: Vec<Replayed>,
    /// What each did, if that was to be kept.
    pub(crate) journals: Vec<Journal>,
}

/// What is to be known of a trace and a policy beside the figures of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Depth {
    /// The figures that follow from what the policy did.
    pub(crate) journal: bool,
    /// What it did, for a report: some bytes for each block and policy.
    pub(crate) keep_journals: bool,
    /// The least capacity.
    pub(crate) min_capacity: bool,
}

/// Plays the traces one after the other and hands each result to `tell`.
pub(crate) fn play(
    sources: &[Source],
    options: &Options,
    device: &Device,
    depth: Depth,
    mut tell: impl FnMut(Played) -> Result<()>,
) -> Result<Outcome> {
    let policies = policies(options)?;
    each_run(sources, device, |run, target| {
        let (played, outcome) = play_one(run, target, &policies, depth);
        tell(played)?;
        Ok(outcome)
    })
}

/// Reads the traces one after the other and hands each with its device to `body`, whose errors end
/// it all; a trace that cannot be read or played is complained about.
pub(crate) fn each_run(
    sources: &[Source],
    device: &Device,
    mut body: impl FnMut(Run, &Target) -> Result<Outcome>,
) -> Result<Outcome> {
    let mut outcome = Outcome::Done;
    for source in sources {
        let ready = source.read().and_then(|run| {
            let target = device.target(&run.trace).with_context(|| run.trace.name.clone())?;
            Ok((run, target))
        });
        let this = match ready {
            Ok((run, target)) => body(run, &target)?,
            Err(error) => {
                complain(&format!("{error:#}"));
                Outcome::Failed
            }
        };
        outcome = outcome.and(this);
    }
    Ok(outcome)
}

/// Those that were named, or else all that run on the device.
pub(crate) fn policies(options: &Options) -> Result<Vec<PolicySpec>> {
    let simulated = options.device == DeviceName::Sim;
    let runs = |info: &&PolicyInfo| !(simulated && info.needs == Needs::RealDevice);
    if let Some(not) = options.policies.iter().find(|policy| !runs(&policy.info)) {
        return Err(ReplayError::NotModelled(not.to_string()).into());
    }
    if !options.policies.is_empty() {
        return Ok(options.policies.clone());
    }
    Ok(POLICIES.iter().filter(runs).map(PolicySpec::plain).collect::<Result<_, _>>()?)
}

fn play_one(run: Run, target: &Target, policies: &[PolicySpec], depth: Depth) -> (Played, Outcome) {
    let trace = &run.trace;
    let mut outcome = Outcome::Done;
    let mut replays = Vec::with_capacity(policies.len());
    let mut journals = Vec::new();
    for policy in policies {
        let Some((mut replayed, journal)) = play_through(trace, policy, target, depth) else {
            outcome = Outcome::Failed;
            continue;
        };
        if replayed.metrics.oom.is_some() {
            outcome = Outcome::Failed;
        }
        if depth.min_capacity {
            outcome = outcome.and(search(trace, policy, target, &mut replayed.metrics));
        }
        replays.push(replayed);
        journals.extend(journal.filter(|_| depth.keep_journals));
    }
    let recording = Recording::of(trace);
    (Played { run, recording, replays, journals }, outcome)
}

/// One trace through one policy; what hinders it is complained about.
fn play_through(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    depth: Depth,
) -> Option<(Replayed, Option<Journal>)> {
    let events = trace.events.len() as u64;
    let mut progress = Progress::new(format!("{}, {}", trace.name, policy.info.name));
    let mut told = |done| progress.at(done as u64, events);
    let result = if depth.journal {
        let noted = replay_with_journal(trace, policy, target, &mut told);
        noted.map(|(replayed, journal)| (replayed, Some(journal)))
    } else {
        replay(trace, policy, target, &mut told).map(|replayed| (replayed, None))
    };
    drop(progress);
    result.map_err(|error| complain(&format!("{}: {error}", trace.name))).ok()
}

/// Finds the least capacity and adds it to the figures.
fn search(trace: &Trace, policy: &PolicySpec, target: &Target, metrics: &mut Metrics) -> Outcome {
    let label = format!("{}, {}: least memory", trace.name, policy.info.name);
    let mut progress = Progress::new(label);
    let mut told = |done, of| progress.at(done, of);
    let found = min_capacity(trace, policy, target, TOLERANCE, &mut told);
    drop(progress);
    match found {
        Ok(found) => {
            metrics.min_capacity_bytes = Some(found.min_capacity_bytes);
            Outcome::Done
        }
        Err(error) => {
            complain(&format!("{}: {error}", trace.name));
            Outcome::Failed
        }
    }
}
