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
//! Handles are mapped at addresses that were not used before, and filled before they are unmapped.
//! `handle_create_out_of_memory` is for a size that the full device does not have; other programs
//! find no memory meanwhile. `handle_import` holds the mapping by which `CudaDriver` checks the
//! size.
//!
//! Prints a JSON object per row to stdout and a table to stderr. Takes 5 GiB of device memory, for
//! moments all of it, and some 15 seconds, at most 50. The exit code is 0, 1 if something failed, 2
//! for wrong usage.

mod bench;
mod events;
mod load;
mod mappings;
mod segments;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use drystone_core::{DeviceId, Driver};
use drystone_cuda::CudaDriver;

use crate::bench::{Bench, State};
use crate::load::{LANE_BYTES, LANES};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// How many times the samples a call of a few microseconds gets.
const MORE: usize = 4;
/// When to stop sampling, from the start of the program.
const TIME_LIMIT: Duration = Duration::from_secs(50);

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

impl Bench<'_> {
    /// All rows of a state.
    fn measure(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let count = MORE * self.samples;
        self.plain("device_memory", state, count, || driver.device_memory(device))?;
        self.events(state)?;
        self.plain("device_synchronize", state, self.samples, || {
            driver.device_synchronize(device)
        })?;
        self.segments(state)?;
        self.mapped_memory(state)
    }
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
    let free = driver.device_memory(device)?.free;
    let needed = LANES as u64 * LANE_BYTES + GIB;
    if free < needed {
        return Err(format!("{} MiB are free, {} are needed", free / MIB, needed / MIB).into());
    }
    let mut bench = Bench::new(&driver, device, options.samples, deadline)?;
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
