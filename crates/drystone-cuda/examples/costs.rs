//! What the driver calls cost on this machine's GPU: the figures that the simulated device charges
//! (`drystone-sim`, `costs.rs`), measured through `CudaDriver`, so with its own share of the time.
//!
//! ```text
//! costs [--samples 60] [--device 0]
//! ```
//!
//! Each call is timed twice: with the device idle (synchronized before each sample) and busy. Busy
//! means four streams with a queue of fills each, some 10 ms long and topped up before each sample;
//! a sample counts if every stream still had work in flight after it. The calls that take less than
//! some microseconds get four times the samples.
//!
//! A call that outlasts the queued work has waited for it; its row, with the time of work and call
//! together, is named `..._behind_work`. `segment_free` has three rows: idle; busy, right after a
//! `device_synchronize` that waited for the work, as the allocator calls it; and behind work.
//! Compare the last one with `device_synchronize_behind_work`, the wait for the same queue alone.
//!
//! Prints a JSON object per row to stdout and a table to stderr. Takes 5 GiB of device memory and
//! some 10 seconds, at most 50. The exit code is 0, 1 if something failed, 2 for wrong usage.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, EventId, StreamId};
use drystone_cuda::CudaDriver;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Sizes of the segments that are taken and given back.
const SIZES: [u64; 5] = [512, 2 * MIB, 20 * MIB, 128 * MIB, GIB];
/// Samples at the begin of each row that do not count.
const WARM_UP: usize = 3;
/// How many times the samples a call of a few microseconds gets.
const MORE: usize = 4;
/// When to stop sampling, from the start of the program.
const TIME_LIMIT: Duration = Duration::from_secs(50);

/// Streams with work.
const LANES: usize = 4;
/// Each lane's own segment.
const LANE_BYTES: u64 = GIB;
/// What one piece of work fills: far more than any cache holds.
const FILL_BYTES: u64 = 256 * MIB;
/// How long the device should be busy with a full queue.
const QUEUE_TIME: Duration = Duration::from_millis(10);
/// Fewest and most fills in a lane's queue.
const DEPTHS: (usize, usize) = (4, 64);
/// How often to try to have work in flight before giving up.
const READY_TRIES: usize = 100;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    samples: usize,
    device: DeviceId,
}

impl Options {
    fn parse() -> Result<Options, String> {
        let mut options = Options { samples: 60, device: DeviceId(0) };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<u32>().map_err(|_| format!("{name}: {value} is no number"));
            match name.as_str() {
                "--samples" => options.samples = number()?.clamp(1, 200) as usize,
                "--device" => options.device = DeviceId(number()?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

/// A stream with work on a segment of its own.
struct Lane {
    stream: StreamId,
    segment: u64,
    /// One event behind each fill that was not seen done, oldest first.
    pending: VecDeque<EventId>,
    unused: Vec<EventId>,
    /// Fills so far.
    fills: u64,
}

impl Lane {
    fn new(driver: &CudaDriver, device: DeviceId) -> Result<Lane, Failure> {
        Ok(Lane {
            stream: driver.create_stream(device)?,
            segment: driver.segment_alloc(device, LANE_BYTES)?,
            pending: VecDeque::new(),
            unused: Vec::new(),
            fills: 0,
        })
    }

    /// Queues one more fill, on the next part of the segment.
    fn submit(&mut self, driver: &CudaDriver, device: DeviceId) -> Result<(), Failure> {
        let address = self.segment + self.fills * FILL_BYTES % LANE_BYTES;
        driver.fill_u32(device, address, FILL_BYTES, self.fills as u32, self.stream)?;
        self.fills += 1;
        let event = match self.unused.pop() {
            Some(event) => event,
            None => driver.event_create(device)?,
        };
        driver.event_record(device, event, self.stream)?;
        self.pending.push_back(event);
        Ok(())
    }

    /// Forgets the fills that are done.
    fn reap(&mut self, driver: &CudaDriver, device: DeviceId) -> Result<(), DriverError> {
        while let Some(&oldest) = self.pending.front() {
            if !driver.event_query(device, oldest)? {
                break;
            }
            self.unused.extend(self.pending.pop_front());
        }
        Ok(())
    }
}

/// The work that keeps the device busy.
struct Load<'d> {
    driver: &'d CudaDriver,
    device: DeviceId,
    lanes: Vec<Lane>,
    /// Fills in each lane's full queue.
    depth: usize,
    bytes_per_second: f64,
}

impl<'d> Load<'d> {
    /// Takes streams and segments, and finds out how many fills make a queue of [`QUEUE_TIME`].
    fn new(driver: &'d CudaDriver, device: DeviceId) -> Result<Load<'d>, Failure> {
        let lanes = (0..LANES).map(|_| Lane::new(driver, device)).collect::<Result<_, _>>()?;
        let mut load = Load { driver, device, lanes, depth: DEPTHS.0, bytes_per_second: 0.0 };
        // The first time takes longer.
        load.drain()?;
        let round = load.drain()?.as_secs_f64() / load.depth as f64;
        load.bytes_per_second = (LANES as u64 * FILL_BYTES) as f64 / round;
        let depth = (QUEUE_TIME.as_secs_f64() / round).ceil() as usize;
        load.depth = depth.clamp(DEPTHS.0, DEPTHS.1);
        Ok(load)
    }

    /// Fills the queues and waits for them; gives the time.
    fn drain(&mut self) -> Result<Duration, Failure> {
        self.reap()?;
        let begin = Instant::now();
        self.fill_up()?;
        self.driver.device_synchronize(self.device)?;
        Ok(begin.elapsed())
    }

    fn reap(&mut self) -> Result<(), DriverError> {
        self.lanes.iter_mut().try_for_each(|lane| lane.reap(self.driver, self.device))
    }

    /// Fills all queues, in turns.
    fn fill_up(&mut self) -> Result<(), Failure> {
        for length in 1..=self.depth {
            for lane in self.lanes.iter_mut().filter(|lane| lane.pending.len() < length) {
                lane.submit(self.driver, self.device)?;
            }
        }
        Ok(())
    }

    /// Whether every lane has work in flight: if so, it has had ever since its last fill was
    /// queued.
    fn in_flight(&self) -> Result<bool, DriverError> {
        for lane in &self.lanes {
            match lane.pending.back() {
                Some(&last) if !self.driver.event_query(self.device, last)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Returns with full queues and the device at work on them.
    fn ready(&mut self) -> Result<(), Failure> {
        for _ in 0..READY_TRIES {
            self.reap()?;
            let was_idle = self.lanes.iter().any(|lane| lane.pending.is_empty());
            self.fill_up()?;
            if was_idle {
                for &first in self.lanes.iter().filter_map(|lane| lane.pending.front()) {
                    self.driver.event_synchronize(self.device, first)?;
                }
                self.reap()?;
                self.fill_up()?;
            }
            if self.in_flight()? {
                return Ok(());
            }
        }
        Err("the device finishes its work faster than more can be queued".into())
    }

    /// A stream at work, and the event at the end of its queue.
    fn last(&self) -> Result<(StreamId, EventId), Failure> {
        self.lanes
            .first()
            .and_then(|lane| Some((lane.stream, *lane.pending.back()?)))
            .ok_or_else(|| "no work is queued".into())
    }
}

/// What the device does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
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
struct Samples {
    /// Taken so far, with those that do not count.
    taken: usize,
    /// The state of the device was the same before and after.
    kept: Vec<u64>,
    /// The device's work was done when the call was.
    outlasted: Vec<u64>,
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

struct Bench<'d> {
    driver: &'d CudaDriver,
    device: DeviceId,
    name: String,
    load: Load<'d>,
    /// A stream without work.
    quiet: StreamId,
    samples: usize,
    deadline: Instant,
    /// What reading the clock twice takes: subtracted from every sample.
    clock_ns: u64,
    rows: Vec<Row>,
}

impl Bench<'_> {
    /// Brings the device into the state.
    fn prepare(&mut self, state: State) -> Result<(), Failure> {
        match state {
            State::Idle => Ok(self.driver.device_synchronize(self.device)?),
            State::Busy => self.load.ready(),
        }
    }

    /// Times one call in the state; the outer error is that of the calls around it.
    fn timed<T>(
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
    fn repeat(
        &mut self,
        count: usize,
        mut body: impl FnMut(&mut Self, &mut Samples) -> Result<(), Failure>,
    ) -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        for _ in 0..2 * count + WARM_UP {
            let full = samples.kept.len() >= count || samples.outlasted.len() >= count;
            if full || Instant::now() >= self.deadline {
                break;
            }
            body(self, &mut samples)?;
        }
        Ok(samples)
    }

    /// Prints a row, if there are samples.
    fn row(&mut self, call: &str, bytes: u64, state: State, mut samples: Vec<u64>) {
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
    fn rows_of(&mut self, call: &str, bytes: u64, state: State, samples: Samples) {
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
    fn plain<T>(
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

    /// `segment_alloc` in the state, and `segment_free` with the device idle: after its work, if it
    /// was busy.
    fn segments(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let mut freed = Samples::default();
        let taken = self.repeat(self.samples, |bench, samples| {
            let address = bench.timed(state, samples, || driver.segment_alloc(device, bytes))??;
            bench.timed(State::Idle, &mut freed, || driver.segment_free(device, address))??;
            Ok(())
        })?;
        self.rows_of("segment_alloc", bytes, state, taken);
        self.rows_of("segment_free", bytes, state, freed);
        Ok(())
    }

    /// `segment_free` while work is in flight.
    fn frees_behind_work(&mut self, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let samples = self.repeat(self.samples, |bench, samples| {
            bench.prepare(State::Busy)?;
            let address = driver.segment_alloc(device, bytes)?;
            bench.timed(State::Busy, samples, || driver.segment_free(device, address))??;
            Ok(())
        })?;
        // Contrary to what the contract says of CUDA, but for the reader to judge.
        self.row("segment_free_without_wait", bytes, State::Busy, samples.kept);
        self.row("segment_free_behind_work", bytes, State::Busy, samples.outlasted);
        Ok(())
    }

    /// `segment_alloc` of more than the device has.
    fn out_of_memory(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let bytes = driver.device_memory(device)?.total + GIB;
        let samples = self.repeat(self.samples, |bench, samples| {
            match bench.timed(state, samples, || driver.segment_alloc(device, bytes))? {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => Ok(()),
                Err(error) => Err(error.into()),
                Ok(address) => {
                    driver.segment_free(device, address)?;
                    Err(format!("the device gave {bytes} bytes, more than it has").into())
                }
            }
        })?;
        self.rows_of("segment_alloc_out_of_memory", bytes, state, samples);
        Ok(())
    }

    /// The event calls. In the busy state, records go behind work and waits are for work.
    fn events(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device, quiet) = (self.driver, self.device, self.quiet);
        let count = MORE * self.samples;
        let done = driver.event_create(device)?;
        driver.event_record(device, done, quiet)?;
        driver.event_synchronize(device, done)?;
        self.plain("event_query_done", state, count, || driver.event_query(device, done))?;
        self.plain("event_synchronize", state, count, || driver.event_synchronize(device, done))?;
        self.create_and_destroy(state, count)?;
        match state {
            State::Idle => {
                let wait = || driver.stream_wait_event(device, quiet, done);
                self.plain("stream_wait_event", state, count, wait)?;
            }
            State::Busy => self.pending_event(count)?,
        }
        self.prepare(State::Idle)?;
        Ok(driver.event_destroy(device, done)?)
    }

    /// Makes an event, records it and destroys it.
    fn create_and_destroy(&mut self, state: State, count: usize) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let (mut recorded, mut destroyed) = (Samples::default(), Samples::default());
        let created = self.repeat(count, |bench, samples| {
            let event = bench.timed(state, samples, || driver.event_create(device))??;
            let stream = match state {
                State::Idle => bench.quiet,
                State::Busy => bench.load.last()?.0,
            };
            let record = || driver.event_record(device, event, stream);
            bench.timed(state, &mut recorded, record)??;
            bench.timed(state, &mut destroyed, || driver.event_destroy(device, event))??;
            Ok(())
        })?;
        self.rows_of("event_create", 0, state, created);
        self.rows_of("event_record", 0, state, recorded);
        self.rows_of("event_destroy", 0, state, destroyed);
        Ok(())
    }

    /// What can be asked of an event that is not done.
    fn pending_event(&mut self, count: usize) -> Result<(), Failure> {
        let (driver, device, quiet) = (self.driver, self.device, self.quiet);
        let mut waits = Samples::default();
        let queries = self.repeat(count, |bench, samples| {
            bench.prepare(State::Busy)?;
            let (_, event) = bench.load.last()?;
            bench.timed(State::Busy, samples, || driver.event_query(device, event))??;
            let wait = || driver.stream_wait_event(device, quiet, event);
            bench.timed(State::Busy, &mut waits, wait)??;
            Ok(())
        })?;
        self.rows_of("event_query_not_done", 0, State::Busy, queries);
        self.rows_of("stream_wait_event", 0, State::Busy, waits);
        Ok(())
    }

    /// All rows of a state.
    fn measure(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let count = MORE * self.samples;
        self.plain("device_memory", state, count, || driver.device_memory(device))?;
        self.events(state)?;
        self.plain("device_synchronize", state, self.samples, || {
            driver.device_synchronize(device)
        })?;
        for bytes in SIZES {
            self.segments(state, bytes)?;
        }
        self.out_of_memory(state)?;
        if state == State::Busy {
            for bytes in SIZES {
                self.frees_behind_work(bytes)?;
            }
        }
        Ok(())
    }

    /// The rows again, idle and busy side by side.
    fn print_table(&self) {
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

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("costs: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("costs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints everything.
fn run(options: &Options) -> Result<(), Failure> {
    let deadline = Instant::now() + TIME_LIMIT;
    let device = options.device;
    let driver = CudaDriver::new()?;
    let name = driver.device_name(device)?;
    let free = driver.device_memory(device)?.free;
    let needed = LANES as u64 * LANE_BYTES + GIB;
    if free < needed {
        return Err(format!("{} MiB are free, {} are needed", free / MIB, needed / MIB).into());
    }
    let mut bench = Bench {
        driver: &driver,
        device,
        name,
        load: Load::new(&driver, device)?,
        quiet: driver.create_stream(device)?,
        samples: options.samples,
        deadline,
        clock_ns: clock_cost(),
        rows: Vec::new(),
    };
    bench.measure(State::Idle)?;
    bench.measure(State::Busy)?;
    // Before the segments go with the driver.
    driver.device_synchronize(device)?;
    bench.print_table();
    if Instant::now() >= deadline {
        return Err("the time limit came first: rows are missing or short of samples".into());
    }
    Ok(())
}
