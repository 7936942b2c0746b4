//! Writes copies of traces with other sizes: each distinct size above 1 MiB is scaled by a random
//! factor within 5%, so that what fitted by chance does not.
//!
//! `cargo run --release -p drystone-lab --example scaled -- FOLDER TRACE…`
//!
//! Four copies of each trace are written as CSV. The same call writes the same files.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use drystone_trace::{Limits, Trace, read_trace, write_csv};

/// Copies of each trace.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;
/// Sizes up to this stay.
const MIB: u64 = 1 << 20;

/// The upper bits of a linear congruential generator modulo 2^64 (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 to 1, in steps of 2^-20.
    fn part(&mut self) -> f64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % (1 << 20)) as f64 / (1 << 20) as f64
    }
}

/// A trace with other sizes, and without what the recorded allocator did.
fn scaled(trace: &Trace, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let mut sizes = HashMap::new();
    let mut trace = trace.clone();
    trace.events.retain(|event| event.op.has_block());
    for event in &mut trace.events {
        if event.size > MIB {
            let part = random.part();
            let other = (event.size as f64 * (0.95 + 0.1 * part)) as u64;
            event.size = *sizes.entry(event.size).or_insert(other.max(MIB + 1));
        }
    }
    trace
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or("usage: scaled FOLDER TRACE…")?;
    fs::create_dir_all(&folder)?;
    for path in arguments {
        let trace = read_trace(path, &Limits::default())?;
        for seed in SEEDS {
            let file = folder.join(Path::new(&format!("{}-{seed}.csv", trace.name)));
            write_csv(&scaled(&trace, seed), fs::File::create(file)?)?;
        }
    }
    Ok(())
}
