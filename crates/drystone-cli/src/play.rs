//! Plays each trace through each policy, and tells of what fails without giving up the rest.

use anyhow::{Context, Result};
use drystone_lab::{
    Journal, Needs, POLICIES, PolicyInfo, PolicySpec, Recording, ReplayError, Replayed, Target,
    min_capacity, on_threads, processors, replay, replay_with_journal,
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
/// The part of the work that one replay is where the least capacity is searched for, too.
const REPLAY_SHARE: f64 = 0.05;

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
    let threads = threads(options);
    each_run(sources, device, |run, target| {
        let (played, outcome) = play_one(run, target, &policies, depth, threads);
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

/// How many replays run at once: on a real device one, as they would share its memory and its time.
pub(crate) fn threads(options: &Options) -> usize {
    match options.device {
        DeviceName::Sim => options.threads.unwrap_or_else(processors).get(),
        DeviceName::Cuda(_) => 1,
    }
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

fn play_one(
    run: Run,
    target: &Target,
    policies: &[PolicySpec],
    depth: Depth,
    threads: usize,
) -> (Played, Outcome) {
    let trace = &run.trace;
    let mut progress = watch(trace, policies);
    let work = |policy: &PolicySpec, say: &mut dyn FnMut(f64)| {
        play_through(trace, policy, target, depth, say)
    };
    let all = on_threads(policies, threads, work, &mut |part| progress.part(part));
    drop(progress);
    let mut outcome = Outcome::Done;
    let mut replays = Vec::with_capacity(policies.len());
    let mut journals = Vec::new();
    for (played, complaints) in all {
        for what in &complaints {
            complain(&format!("{}: {what}", trace.name));
        }
        let Some((replayed, journal)) = played else {
            outcome = Outcome::Failed;
            continue;
        };
        if replayed.metrics.oom.is_some() || !complaints.is_empty() {
            outcome = Outcome::Failed;
        }
        replays.push(replayed);
        journals.extend(journal);
    }
    let recording = Recording::of(trace);
    (Played { run, recording, replays, journals }, outcome)
}

/// The progress of a trace through policies.
pub(crate) fn watch(trace: &Trace, policies: &[PolicySpec]) -> Progress {
    Progress::parts(match policies {
        [policy] => format!("{}, {}", trace.name, policy.info.name),
        _ => format!("{}, {} policies", trace.name, policies.len()),
    })
}

/// What a policy did, with a journal if it is kept; and what went wrong.
type Through = (Option<(Replayed, Option<Journal>)>, Vec<String>);

/// One trace through one policy. `say` is told which part is done.
fn play_through(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    depth: Depth,
    say: &mut dyn FnMut(f64),
) -> Through {
    let events = trace.events.len().max(1) as f64;
    let share = if depth.min_capacity { REPLAY_SHARE } else { 1.0 };
    let told = &mut |done| say(share * done as f64 / events);
    let result = if depth.journal {
        let noted = replay_with_journal(trace, policy, target, told);
        noted.map(|(replayed, journal)| (replayed, depth.keep_journals.then_some(journal)))
    } else {
        replay(trace, policy, target, told).map(|replayed| (replayed, None))
    };
    let (mut replayed, journal) = match result {
        Ok(played) => played,
        Err(error) => return (None, vec![error.to_string()]),
    };
    let mut complaints = Vec::new();
    if depth.min_capacity {
        let told = &mut |done, of: u64| say(share + (1.0 - share) * done as f64 / of.max(1) as f64);
        match min_capacity(trace, policy, target, TOLERANCE, told) {
            Ok(found) => replayed.metrics.min_capacity_bytes = Some(found.min_capacity_bytes),
            Err(error) => complaints.push(error.to_string()),
        }
    }
    (Some((replayed, journal)), complaints)
}
