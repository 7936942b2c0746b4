//! The replay: the events of a trace through a policy, measured.
//!
//! A block is allocated at its `Alloc` and freed at its `FreeCompleted`: which other streams used
//! it was not recorded, only when they were done. What the recorded allocator did itself (segments,
//! mappings, out of memory) is not replayed, but for the cache that the program emptied.

use std::sync::Arc;
use std::time::Instant;

use drystone_core::{DeviceId, Driver, DriverCall};
use drystone_trace::{Event, Op, Trace};

use crate::clock::{Clock, RealClock, VirtualClock};
use crate::emptied::emptied;
use crate::journal::Journal;
use crate::lagging::Lagging;
use crate::meter::{Below, Meter};
use crate::metrics::{Metrics, OutOfMemory};
use crate::policy::{Needs, Policy, PolicySpec, Refusal};
use crate::recording::Recording;
use crate::target::{CostModel, RealTarget, ReplayError, SimTarget, Target};
use crate::timeline::{Point, Sampler, Timeline};

/// What a replay gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The figures.
    pub metrics: Metrics,
    /// Live and reserved bytes over the trace's time.
    pub timeline: Timeline,
}

/// Events between two reports of progress.
const CHUNK: usize = 1 << 16;

/// Replays a trace through a policy. `progress` is told now and then how many events are done.
///
/// Running out of memory ends the replay early and is in [`Metrics::oom`].
///
/// # Errors
/// [`ReplayError`]; there is no result then.
pub fn replay(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    progress: &mut dyn FnMut(usize),
) -> Result<Replayed, ReplayError> {
    play(trace, policy, target, None, progress).map(|(replayed, _)| replayed)
}

/// The same, with a journal of where each block lay and what the policy held. It costs some memory
/// and time for each event.
///
/// # Errors
/// [`ReplayError`]; there is no result then.
pub fn replay_with_journal(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    progress: &mut dyn FnMut(usize),
) -> Result<(Replayed, Journal), ReplayError> {
    let journal = Journal::of(trace);
    let (mut replayed, journal) = play(trace, policy, target, Some(journal), progress)?;
    // What was given is given back.
    let journal = journal.unwrap_or_default();
    let waste = journal.at_peak(trace);
    replayed.metrics.rounding_at_peak_bytes = waste.rounding;
    replayed.metrics.free_at_peak_bytes = Some(waste.free);
    Ok((replayed, journal))
}

type Noted = (Replayed, Option<Journal>);

fn play(
    trace: &Trace,
    policy: &PolicySpec,
    target: &Target,
    journal: Option<Journal>,
    progress: &mut dyn FnMut(usize),
) -> Result<Noted, ReplayError> {
    match &target.for_policy(policy)? {
        Target::Sim(target) => on_sim(trace, policy, target, journal, progress),
        Target::Real(target) => on_real(trace, policy, target, journal, progress),
    }
}

/// A meter of the driver, which notes changes for a journal.
fn meter<B: Below>(below: B, capacity: Option<u64>, journal: &Option<Journal>) -> Arc<Meter<B>> {
    let meter = Meter::new(below, capacity);
    Arc::new(if journal.is_some() { meter.noting() } else { meter })
}

fn on_sim(
    trace: &Trace,
    policy: &PolicySpec,
    target: &SimTarget,
    journal: Option<Journal>,
    progress: &mut dyn FnMut(usize),
) -> Result<Noted, ReplayError> {
    let driver = Lagging::new(target.driver(trace)?, target.host_lead_ns, trace.streams as usize);
    let driver = meter(driver, None, &journal);
    let clock = VirtualClock::new(&driver.below, trace, target.stamps);
    let (mut replayed, journal) = run(trace, policy, &driver, clock, journal, progress)?;
    let report = driver.below.sim.finish();
    if !report.is_clean() {
        return Err(ReplayError::Bug { policy: policy.to_string(), what: report.to_string() });
    }
    let metrics = &mut replayed.metrics;
    metrics.device = "sim".to_owned();
    metrics.capacity_bytes = Some(target.capacity);
    metrics.host_lead_us = Some(micros(target.host_lead_ns));
    metrics.costs = Some(CostModel::name(target.costs));
    if policy.info.needs == Needs::Nothing {
        // By its calls a bound only says what it would hold.
        metrics.driver_calls.clear();
    }
    Ok((replayed, journal))
}

fn on_real(
    trace: &Trace,
    policy: &PolicySpec,
    target: &RealTarget,
    journal: Option<Journal>,
    progress: &mut dyn FnMut(usize),
) -> Result<Noted, ReplayError> {
    target.check(trace)?;
    let driver = meter(Arc::clone(&target.driver), target.capacity, &journal);
    let clock = RealClock { streams: &target.streams };
    let (mut replayed, journal) = run(trace, policy, &driver, clock, journal, progress)?;
    replayed.metrics.device = target.name.clone();
    replayed.metrics.capacity_bytes = target.capacity;
    Ok((replayed, journal))
}

fn run<B: Below + 'static, C: Clock>(
    trace: &Trace,
    spec: &PolicySpec,
    meter: &Arc<Meter<B>>,
    clock: C,
    journal: Option<Journal>,
    progress: &mut dyn FnMut(usize),
) -> Result<Noted, ReplayError> {
    let start = |why| ReplayError::Start { policy: spec.to_string(), why };
    let policy = (spec.make)(Arc::clone(meter) as Arc<dyn Driver>).map_err(start)?;
    let mut run = Run {
        trace,
        meter,
        clock,
        policy,
        blocks: vec![0; trace.blocks as usize],
        sampler: Sampler::new(trace),
        origin_us: trace.events.first().map_or(0, |event| event.t_us),
        tally: Tally::default(),
        journal,
    };
    let started = Instant::now();
    let (done, stop) = run.events(progress);
    let elapsed = started.elapsed();
    progress(done);

    let failed = |event, why| ReplayError::Failed { policy: spec.to_string(), event, why };
    let oom = match stop {
        None => None,
        Some(Stop::OutOfMemory(oom)) => Some(oom),
        Some(Stop::Failed(why)) => return Err(failed(done - 1, why)),
    };
    let measured = meter.stats();
    let (driver_ns, wait_ns) = run.clock.spent(&measured);
    if let (Some(journal), Some(oom)) = (&mut run.journal, &oom) {
        journal.played = oom.at_event as usize;
    }
    let tally = run.tally;
    let mean = run.sampler.mean();
    let peak_reserved_bytes = meter.peak_reserved();
    let calls = DriverCall::ALL.map(|call| (call.name(), measured.calls_of(call)));
    let metrics = Metrics {
        trace: trace.name.clone(),
        policy: spec.info.name.to_owned(),
        options: spec.options.to_string(),
        device: String::new(),
        capacity_bytes: None,
        host_lead_us: None,
        costs: None,
        events: trace.events.len() as u64,
        allocs: tally.allocs,
        frees: tally.frees,
        run_us: trace.duration_us(),
        peak_live_bytes: tally.peak_live,
        peak_live_at_us: tally.peak_at_us,
        peak_reserved_bytes,
        peak_host_bytes: meter.peak_host_bytes(),
        end_reserved_bytes: meter.reserved(),
        ratio: (tally.peak_live > 0).then(|| peak_reserved_bytes as f64 / tally.peak_live as f64),
        mean_reserved_bytes: mean.map(|mean| mean.reserved),
        mean_live_bytes: mean.map(|mean| mean.live),
        mean_ratio: mean.filter(|mean| mean.live > 0.0).map(|mean| mean.reserved / mean.live),
        rounding_at_peak_bytes: None,
        free_at_peak_bytes: None,
        min_capacity_bytes: None,
        recorded_peak_reserved_bytes: Recording::of(trace).peak_reserved,
        driver_calls: calls.into_iter().filter(|&(_, count)| count > 0).collect(),
        driver_us: micros(driver_ns),
        driver_percent: percent(driver_ns, trace),
        wait_us: micros(wait_ns),
        wait_percent: percent(wait_ns, trace),
        ns_per_event: elapsed.as_nanos() as f64 / done.max(1) as f64,
        counters: run.policy.counters().into_iter().collect(),
        oom,
    };
    let (timeline, journal) = run.end(spec)?;
    Ok((Replayed { metrics, timeline }, journal))
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1_000.0
}

/// A time as a percentage of the recorded run's.
fn percent(ns: u64, trace: &Trace) -> Option<f64> {
    let run_us = trace.duration_us();
    (run_us > 0).then(|| 100.0 * micros(ns) / run_us as f64)
}

/// Why the events were not all played.
enum Stop {
    OutOfMemory(OutOfMemory),
    Failed(String),
}

/// What is counted on the way.
#[derive(Clone, Copy, Default)]
struct Tally {
    allocs: u64,
    frees: u64,
    live: u64,
    peak_live: u64,
    peak_at_us: u64,
}

/// A replay underway.
struct Run<'a, B, C> {
    trace: &'a Trace,
    meter: &'a Meter<B>,
    clock: C,
    policy: Box<dyn Policy>,
    /// The address of each block; 0 before it is allocated and after it is freed.
    blocks: Vec<u64>,
    sampler: Sampler,
    origin_us: u64,
    tally: Tally,
    journal: Option<Journal>,
}

impl<B: Below, C: Clock> Run<'_, B, C> {
    /// Plays the events; how many were looked at, and why it ended early, if it did.
    fn events(&mut self, progress: &mut dyn FnMut(usize)) -> (usize, Option<Stop>) {
        let (trace, mut done) = (self.trace, 0);
        let emptied = emptied(trace);
        let mut emptied = emptied.iter().peekable();
        for chunk in trace.events.chunks(CHUNK) {
            progress(done);
            for event in chunk {
                let stop = match event.op {
                    Op::Alloc => self.alloc(event, done),
                    Op::FreeCompleted => self.free(event),
                    Op::FreeRequested => {
                        self.clock.arrive(event);
                        self.clock.work(event, self.blocks[event.id as usize]);
                        None
                    }
                    _ if emptied.next_if(|&&at| at == done).is_some() => self.empty(event, done),
                    _ => None,
                };
                if let Some(journal) = &mut self.journal {
                    journal.changed(done, self.meter.take_changes());
                }
                done += 1;
                if stop.is_some() {
                    return (done, stop);
                }
            }
        }
        (done, None)
    }

    #[inline]
    fn alloc(&mut self, event: &Event, index: usize) -> Option<Stop> {
        self.clock.arrive(event);
        self.sampler.arrive(event.t_us);
        let stream = self.clock.stream(event.stream);
        let device = DeviceId(event.device);
        let pool = self.trace.pool_of(event.id);
        let address = match self.policy.allocate_in(pool, event.size, device, stream) {
            Ok(address) => address,
            Err(refusal) => return Some(self.refused(event, index, refusal)),
        };
        self.clock.work(event, address);
        self.blocks[event.id as usize] = address;
        if let Some(journal) = &mut self.journal {
            journal.handed_out(event, address, self.policy.block_bytes(address));
        }
        let tally = &mut self.tally;
        tally.allocs += 1;
        tally.live += event.size;
        if tally.live > tally.peak_live {
            tally.peak_live = tally.live;
            tally.peak_at_us = event.t_us - self.origin_us;
        }
        self.settle();
        None
    }

    #[inline]
    fn free(&mut self, event: &Event) -> Option<Stop> {
        self.clock.arrive(event);
        self.sampler.arrive(event.t_us);
        let address = std::mem::take(&mut self.blocks[event.id as usize]);
        // What used the block was submitted before its free, and covers it.
        self.clock.work(event, address);
        if let Err(why) = self.policy.free(address) {
            return Some(Stop::Failed(why));
        }
        self.tally.frees += 1;
        self.tally.live -= event.size;
        self.settle();
        None
    }

    /// The program empties the cache.
    #[cold]
    fn empty(&mut self, event: &Event, index: usize) -> Option<Stop> {
        self.clock.arrive(event);
        self.sampler.arrive(event.t_us);
        let done = self.policy.empty_cache();
        self.settle();
        done.err().map(|refusal| self.refused(event, index, refusal))
    }

    /// After an event: the time it took, and what is held now.
    #[inline]
    fn settle(&mut self) {
        self.clock.leave();
        self.sampler.set(Point { live: self.tally.live, reserved: self.meter.reserved() });
    }

    #[cold]
    fn refused(&mut self, event: &Event, index: usize, refusal: Refusal) -> Stop {
        match refusal {
            Refusal::Broken(why) => Stop::Failed(why.into()),
            Refusal::OutOfMemory(message) => Stop::OutOfMemory(OutOfMemory {
                asked: event.size,
                live: self.tally.live,
                reserved: self.meter.reserved(),
                at_event: index as u64,
                t_us: event.t_us - self.origin_us,
                message: message.into(),
            }),
        }
    }

    /// Frees what is live, ends the policy, and looks whether it gave everything back.
    fn end(mut self, spec: &PolicySpec) -> Result<(Timeline, Option<Journal>), ReplayError> {
        let bug = |what| ReplayError::Bug { policy: spec.to_string(), what };
        for &address in self.blocks.iter().filter(|&&address| address != 0) {
            self.policy.free(address).map_err(bug)?;
        }
        drop(self.policy);
        match self.meter.reserved() + self.meter.host_bytes() {
            0 => Ok((self.sampler.finish(), self.journal)),
            left => Err(bug(format!("{left} bytes were not given back at the end"))),
        }
    }
}
