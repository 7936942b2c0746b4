//! The stamping test: threads on streams of their own allocate, mark every block by a kernel, have
//! its marks checked by another kernel just before its free, and share blocks across streams, all
//! under a limit that keeps the allocator in its slow path. A lost mark means that two users were
//! given the same memory at once.
//!
//! ```text
//! stamp [--ops 10000000] [--streams 4] [--limit-mib 1024] [--live-mib N] [--spin-us 100]
//!       [--seed 1] [--device 0] [--config TEXT]
//! ```
//!
//! With `--live-mib` the threads together hold no more than that, so that a limit a little above it
//! leaves the allocator hardly more than what is live. One kernel in 64 takes from 0.1 ms to
//! `--spin-us`, so that streams are behind the host.
//!
//! Prints one JSON object; the exit code is 0 if every mark was intact and all memory came back,
//! 1 if not, 2 for wrong usage.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use drystone_core::{
    AllocError, Allocator, Config, DeviceId, Driver, DriverCall, Metric, StreamId,
};
use drystone_cuda::{CudaDriver, Pattern};

/// Live blocks a thread holds at most.
const HELD: usize = 64;
/// What a multiprocessor counts in a microsecond, about.
const CLOCKS_PER_US: u64 = 1_700;
/// Bytes of a mark.
const WORD: u64 = 8;

struct Options {
    ops: u64,
    streams: usize,
    limit_mib: u64,
    live_mib: u64,
    spin_us: u64,
    seed: u64,
    device: DeviceId,
    config: String,
}

impl Options {
    fn parse() -> Result<Options, String> {
        let mut options = Options {
            ops: 10_000_000,
            streams: 4,
            limit_mib: 1024,
            live_mib: u64::MAX >> 20,
            spin_us: 100,
            seed: 1,
            device: DeviceId(0),
            config: String::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<u64>().map_err(|_| format!("{name}: {value} is no number"));
            match name.as_str() {
                "--ops" => options.ops = number()?,
                "--streams" => options.streams = number()?.clamp(1, 64) as usize,
                "--limit-mib" => options.limit_mib = number()?,
                "--live-mib" => options.live_mib = number()?.min(u64::MAX >> 20),
                "--spin-us" => options.spin_us = number()?.clamp(100, 100_000),
                "--seed" => options.seed = number()?,
                "--device" => options.device = DeviceId(number()? as u32),
                "--config" => options.config = value,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

/// xorshift64*: enough to draw sizes and victims.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Log-uniform from 8 bytes to 8 MiB, in whole words.
    fn size(&mut self) -> u64 {
        let exponent = 3 + self.next() % 20;
        ((1 << exponent) + self.next() % (1 << exponent)) / WORD * WORD
    }

    /// Log-uniform from 100 to `most`.
    fn spin_us(&mut self, most: u64) -> u64 {
        let part = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (100.0 * (most as f64 / 100.0).powf(part)) as u64
    }
}

struct Block {
    address: u64,
    words: u64,
    tag: u64,
}

/// What all threads share.
struct Test<'a> {
    allocator: &'a Allocator<Arc<CudaDriver>>,
    driver: &'a CudaDriver,
    pattern: &'a Pattern<'a>,
    device: DeviceId,
    streams: &'a [StreamId],
    errors: u64,
    /// Bytes that a thread may hold.
    share: u64,
    spin_us: u64,
    allocations: AtomicU64,
    frees: AtomicU64,
    shared: AtomicU64,
    refused: AtomicU64,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Test<'_> {
    /// One thread's share of the operations, on its own stream.
    fn work(&self, thread: usize, ops: u64, seed: u64) -> Result<(), Failure> {
        let stream = self.streams[thread];
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut held: Vec<Block> = Vec::new();
        let event = self.driver.event_create(self.device)?;
        let (mut done, mut bytes) = (0, 0);
        while done < ops || !held.is_empty() {
            let full = held.len() >= HELD || done >= ops;
            if full || (!held.is_empty() && random.next().is_multiple_of(2)) {
                let block = held.swap_remove(random.next() as usize % held.len());
                bytes -= block.words * WORD;
                self.check_and_free(&block, stream, event, &mut random)?;
                done += 1;
                continue;
            }
            let size = random.size();
            while bytes + size > self.share && !held.is_empty() {
                let block = held.swap_remove(random.next() as usize % held.len());
                bytes -= block.words * WORD;
                self.check_and_free(&block, stream, event, &mut random)?;
                done += 1;
            }
            match self.allocator.allocate(size, self.device, stream) {
                Ok(address) => {
                    let block = Block { address, words: size / WORD, tag: random.next() };
                    let slow = random.next().is_multiple_of(64);
                    let spin = if slow { random.spin_us(self.spin_us) * CLOCKS_PER_US } else { 0 };
                    self.pattern.stamp(stream, address, block.words, block.tag, spin)?;
                    bytes += size;
                    held.push(block);
                    self.allocations.fetch_add(1, Relaxed);
                    done += 1;
                }
                Err(AllocError::OutOfMemory(error)) => {
                    self.refused.fetch_add(1, Relaxed);
                    if held.is_empty() {
                        // The other threads hold it all at this moment.
                        if error.asked > self.allocator.limit(self.device)?.unwrap_or(u64::MAX) {
                            return Err(error.into());
                        }
                        std::thread::yield_now();
                    } else {
                        let block = held.swap_remove(random.next() as usize % held.len());
                        bytes -= block.words * WORD;
                        self.check_and_free(&block, stream, event, &mut random)?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.driver.event_destroy(self.device, event)?;
        Ok(())
    }

    /// Checks the marks, on the block's stream or on another that waits for it, and frees at once:
    /// the check has not run yet.
    fn check_and_free(
        &self,
        block: &Block,
        stream: StreamId,
        event: drystone_core::EventId,
        random: &mut Random,
    ) -> Result<(), Failure> {
        let mut checker = stream;
        if self.streams.len() > 1 && random.next().is_multiple_of(8) {
            let other = self.streams[random.next() as usize % self.streams.len()];
            if other != stream {
                self.driver.event_record(self.device, event, stream)?;
                self.driver.stream_wait_event(self.device, other, event)?;
                self.allocator.record_stream(block.address, other)?;
                self.shared.fetch_add(1, Relaxed);
                checker = other;
            }
        }
        self.pattern.check(checker, block.address, block.words, block.tag, self.errors)?;
        self.allocator.free_on(block.address, self.device, stream)?;
        self.frees.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("stamp: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("stamp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the test and prints its figures; true if nothing was wrong.
fn run(options: &Options) -> Result<bool, Failure> {
    let driver = Arc::new(CudaDriver::new()?);
    let device = options.device;
    let pattern = Pattern::load(&driver, device)?;
    let streams: Vec<StreamId> =
        (0..options.streams).map(|_| driver.create_stream(device)).collect::<Result<_, _>>()?;
    // The counter of lost marks lives outside the allocator under test.
    let errors = driver.segment_alloc(device, 1 << 21)?;
    driver.copy_to_device(device, errors, &[0; 8])?;
    let before = driver.device_memory(device)?.free;

    let config = Config::parse(&options.config)?;
    let allocator = Allocator::new(Arc::clone(&driver), config)?;
    allocator.set_limit(device, Some(options.limit_mib << 20))?;
    let counters = || AtomicU64::new(0);
    let test = Test {
        allocator: &allocator,
        driver: &driver,
        pattern: &pattern,
        device,
        streams: &streams,
        errors,
        share: (options.live_mib << 20) / options.streams as u64,
        spin_us: options.spin_us,
        allocations: counters(),
        frees: counters(),
        shared: counters(),
        refused: counters(),
    };
    let start = Instant::now();
    let share = options.ops / options.streams as u64;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.streams)
            .map(|thread| {
                let test = &test;
                scope.spawn(move || test.work(thread, share, options.seed + thread as u64))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;
    driver.device_synchronize(device)?;
    let seconds = start.elapsed().as_secs_f64();

    let mut lost = [0; 8];
    driver.copy_to_host(device, errors, &mut lost)?;
    let lost = u64::from_le_bytes(lost);
    let invariants = allocator.check_invariants();
    allocator.empty_cache(device)?;
    let stats = allocator.stats(device)?;
    let calls = allocator.driver_stats();
    let still_held = stats.memory.all(Metric::ReservedBytes).current;
    let (allocations, frees) = (test.allocations.into_inner(), test.frees.into_inner());
    let (shared, refused) = (test.shared.into_inner(), test.refused.into_inner());
    drop(allocator);
    let after = driver.device_memory(device)?.free;

    let fine = lost == 0
        && invariants.is_ok()
        && allocations == frees
        && still_held == 0
        && after == before;
    let by_kind: Vec<String> = DriverCall::ALL
        .iter()
        .map(|&call| format!("\"{}\":{}", call.name(), calls.calls_of(call)))
        .collect();
    if after != before {
        eprintln!(
            "stamp: {before} bytes of the device were free before, {after} after: memory was not given \
             back, or other programs took or gave back some on this device meanwhile"
        );
    }
    println!(
        "{{\"device\":\"{}\",\"operations\":{},\"streams\":{},\"limit_mib\":{},\"peak_live_bytes\":{},\
         \"spin_us\":{},\"seed\":{},\
         \"config\":\"{}\",\"lost_marks\":{lost},\"invariants\":\"{}\",\
         \"cross_stream_frees\":{},\"out_of_memory\":{},\"peak_reserved_bytes\":{},\
         \"borrowed\":{},\"adopted\":{},\"retries\":{},\"driver_calls\":{{{}}},\
         \"driver_us\":{},\"wait_us\":{},\"still_held_bytes\":{still_held},\
         \"device_free_before\":{before},\"device_free_after\":{after},\"seconds\":{seconds:.1},\
         \"fine\":{fine}}}",
        driver.device_name(device)?,
        allocations + frees,
        options.streams,
        options.limit_mib,
        stats.memory.all(Metric::ActiveBytes).peak,
        options.spin_us,
        options.seed,
        options.config,
        invariants.err().unwrap_or_else(|| "hold".into()),
        shared,
        refused,
        stats.memory.all(Metric::ReservedBytes).peak,
        stats.num_borrowed,
        stats.num_adopted,
        stats.num_alloc_retries,
        by_kind.join(","),
        calls.driver_ns / 1000,
        calls.wait_ns / 1000,
    );
    Ok(fine)
}
