//! Timing one call at a time, and the rows that come of it.

use std::time::Instant;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use drystone_cuda::CudaDriver;

use crate::Failure;
use crate::load::{LANES, Load};

/// Samples at the begin of each row that do not count.
const WARM_UP: usize = 3;

/// What the device does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Busy,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Busy => "busy",
        }
    }
}

/// The times of one call, in nanoseconds.
#[derive(Default)]
pub(crate) struct Samples {
    /// Taken so far, with those that do not count.
    taken: usize,
    /// The state of the device was the same before and after.
    pub(crate) kept: Vec<u64>,
    /// The device's work was done when the call was.
    pub(crate) outlasted: Vec<u64>,
}

impl Samples {
    fn add(&mut self, kept: bool, ns: u64) {
        self.taken += 1;
        if self.taken <= WARM_UP {
            return;
        }
        if kept { self.kept.push(ns) } else { self.outlasted.push(ns) }
    }
}

/// One line of the results.
struct Row {
    call: String,
    bytes: u64,
    state: State,
    median_us: f64,
    p90_us: f64,
}

pub(crate) struct Bench<'d> {
    pub(crate) driver: &'d CudaDriver,
    pub(crate) device: DeviceId,
    name: String,
    pub(crate) load: Load<'d>,
    /// A stream without work.
    pub(crate) quiet: StreamId,
    pub(crate) samples: usize,
    deadline: Instant,
    /// What reading the clock twice takes: subtracted from every sample.
    clock_ns: u64,
    rows: Vec<Row>,
}

/// How many samples are taken at most until there are `count` of one kind.
pub(crate) fn most_samples(count: usize) -> usize {
    2 * count + WARM_UP
}

impl<'d> Bench<'d> {
    /// Takes streams and segments for the work, and a stream without.
    pub(crate) fn new(
        driver: &'d CudaDriver,
        device: DeviceId,
        samples: usize,
        deadline: Instant,
    ) -> Result<Bench<'d>, Failure> {
        Ok(Bench {
            driver,
            device,
            name: driver.device_name(device)?,
            load: Load::new(driver, device)?,
            quiet: driver.create_stream(device)?,
            samples,
            deadline,
            clock_ns: clock_cost(),
            rows: Vec::new(),
        })
    }

    /// Brings the device into the state.
    pub(crate) fn prepare(&mut self, state: State) -> Result<(), Failure> {
        match state {
            State::Idle => Ok(self.driver.device_synchronize(self.device)?),
            State::Busy => self.load.ready(),
        }
    }

    /// Times one call in the state; the outer error is that of the calls around it.
    pub(crate) fn timed<T>(
        &mut self,
        state: State,
        samples: &mut Samples,
        call: impl FnOnce() -> T,
    ) -> Result<T, Failure> {
        self.prepare(state)?;
        let begin = Instant::now();
        let outcome = call();
        let ns = begin.elapsed().as_nanos() as u64;
        let kept = state == State::Idle || self.load.in_flight()?;
        samples.add(kept, ns.saturating_sub(self.clock_ns));
        Ok(outcome)
    }

    /// Runs the body, which takes a sample, until there are `count` of one kind; stops early at the
    /// time limit.
    pub(crate) fn repeat(
        &mut self,
        count: usize,
        mut body: impl FnMut(&mut Self, &mut Samples) -> Result<(), Failure>,
    ) -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        for _ in 0..most_samples(count) {
            let full = samples.kept.len() >= count || samples.outlasted.len() >= count;
            if full || Instant::now() >= self.deadline {
                break;
            }
            body(self, &mut samples)?;
        }
        Ok(samples)
    }

    /// Prints a row, if there are samples.
    pub(crate) fn row(&mut self, call: &str, bytes: u64, state: State, mut samples: Vec<u64>) {
        samples.sort_unstable();
        let count = samples.len();
        if count == 0 {
            return;
        }
        let median_us = (samples[(count - 1) / 2] + samples[count / 2]) as f64 / 2000.0;
        let p90_us = samples[(count * 9).div_ceil(10) - 1] as f64 / 1000.0;
        println!(
            "{{\"call\":\"{call}\",\"bytes\":{bytes},\"state\":\"{}\",\"median_us\":{median_us:.3},\
             \"p90_us\":{p90_us:.3},\"samples\":{count},\"device\":\"{}\"}}",
            state.name(),
            self.name,
        );
        self.rows.push(Row { call: call.to_owned(), bytes, state, median_us, p90_us });
    }

    /// The row of a call: of the samples that count, or where there are none, since the call waits
    /// for the work, of the others.
    pub(crate) fn rows_of(&mut self, call: &str, bytes: u64, state: State, samples: Samples) {
        if samples.kept.is_empty() {
            self.row(&format!("{call}_behind_work"), bytes, state, samples.outlasted);
            return;
        }
        if !samples.outlasted.is_empty() {
            let (left_out, all) = (samples.outlasted.len(), samples.taken - WARM_UP);
            eprintln!("costs: {left_out} of {all} samples of {call} outlasted the work: left out");
        }
        self.row(call, bytes, state, samples.kept);
    }

    /// Calls without setup.
    pub(crate) fn plain<T>(
        &mut self,
        call: &str,
        state: State,
        count: usize,
        body: impl Fn() -> Result<T, DriverError>,
    ) -> Result<(), Failure> {
        let samples = self.repeat(count, |bench, samples| {
            bench.timed(state, samples, &body)??;
            Ok(())
        })?;
        self.rows_of(call, 0, state, samples);
        Ok(())
    }

    /// The rows again, idle and busy side by side.
    pub(crate) fn print_table(&self) {
        let gigabytes = self.load.bytes_per_second / 1e9;
        let fills = self.load.depth;
        eprintln!("{}; busy: {LANES} streams, {fills} fills each, {gigabytes:.0} GB/s", self.name);
        eprintln!("{:<40}{:>14}{:>24}{:>24}", "median (p90), us", "bytes", "idle", "busy");
        for (index, row) in self.rows.iter().enumerate() {
            let same = |other: &&Row| other.call == row.call && other.bytes == row.bytes;
            if self.rows[..index].iter().any(|other| same(&other)) {
                continue;
            }
            let cell = |state| match self.rows.iter().filter(same).find(|row| row.state == state) {
                Some(row) => format!("{:.2} ({:.2})", row.median_us, row.p90_us),
                None => "-".to_owned(),
            };
            let (idle, busy) = (cell(State::Idle), cell(State::Busy));
            eprintln!("{:<40}{:>14}{idle:>24}{busy:>24}", row.call, row.bytes);
        }
    }
}

/// The median time between two readings of the clock, in nanoseconds.
fn clock_cost() -> u64 {
    let mut times: Vec<u64> = (0..1001)
        .map(|_| {
            let begin = Instant::now();
            begin.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}
