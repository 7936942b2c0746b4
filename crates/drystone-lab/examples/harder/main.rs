//! Writes traces that are harder than the recorded ones, as CSV: three programs made up after what
//! users run, and copies of given traces with other sizes.
//!
//! `cargo run --release -p drystone-lab --example harder -- FOLDER [TRACE…]`
//!
//! In a copy each distinct size above 1 MiB is scaled by a random factor within 5%, so that what fitted
//! by chance does not. The same call writes the same files.

mod diffusion;
mod lora;
mod tape;
mod tuning;

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use drystone_trace::{Limits, Trace, read_trace, write_csv};

/// Variants of each made-up program, and scaled copies of each trace.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;
/// Sizes up to this stay.
const MIB: u64 = 1 << 20;

/// A trace with other sizes, and without what the recorded allocator did.
fn scaled(trace: &Trace, seed: u64) -> Trace {
    let mut random = tape::Tape::new(seed);
    let mut sizes = HashMap::new();
    let mut trace = trace.clone();
    trace.events.retain(|event| event.op.has_block());
    for event in &mut trace.events {
        if event.size > MIB {
            let part = random.below(1 << 20) as f64 / (1 << 20) as f64;
            let other = (event.size as f64 * (0.95 + 0.1 * part)) as u64;
            event.size = *sizes.entry(event.size).or_insert(other.max(MIB + 1));
        }
    }
    trace
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or("usage: harder FOLDER [TRACE…]")?;
    fs::create_dir_all(&folder)?;
    let file = |name: &str, seed: u64| folder.join(Path::new(&format!("{name}-{seed}.csv")));
    type Program = fn(u64) -> String;
    let programs: [(&str, Program); 3] = [
        ("lora_zero3", lora::write),
        ("tuning_evaluation", tuning::write),
        ("mixed_diffusion", diffusion::write),
    ];
    for (name, write) in programs {
        for seed in SEEDS {
            fs::write(file(name, seed), write(seed))?;
        }
    }
    for path in arguments {
        let trace = read_trace(path, &Limits::default())?;
        for seed in SEEDS {
            write_csv(&scaled(&trace, seed), fs::File::create(file(&trace.name, seed))?)?;
        }
    }
    Ok(())
}
