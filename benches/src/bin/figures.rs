//! Prints the figures of the pair benchmark as one JSON object a line, for docs/results: the best of
//! several runs each, Drystone and the C library in turns.
//!
//! `cargo run --release -p drystone-benches --bin figures`

use std::io::Write;
use std::time::Instant;

use drystone_benches::{Drystone, Malloc, OneSize, RandomSizes, Sizes};

/// Runs of each, in turns.
const ROUNDS: usize = 9;
/// Pairs in a run; fewer of those that often take the slow path.
const PAIRS: u32 = 2_000_000;
const SLOW_PAIRS: u32 = 100_000;

/// Nanoseconds a pair.
fn time(pairs: u32, mut pair: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..pairs).for_each(|_| pair());
    start.elapsed().as_nanos() as f64 / f64::from(pairs)
}

/// The best of several runs of two things, in turns: what disturbs one disturbs the other.
fn race(pairs: u32, mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (f64, f64) {
    (0..ROUNDS).fold((f64::MAX, f64::MAX), |best, _| {
        (best.0.min(time(pairs, &mut ours)), best.1.min(time(pairs, &mut theirs)))
    })
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cpu = model.unwrap_or("unknown").trim();
    let mut print = |what: String, (ours, malloc): (f64, f64)| {
        let round = |x: f64| (x * 100.0).round() / 100.0;
        let line = serde_json::json!({
            "benchmark": what,
            "drystone_ns_per_pair": round(ours),
            "malloc_ns_per_pair": round(malloc),
            "ratio": round(ours / malloc),
            "cpu": cpu,
        });
        writeln!(out, "{line}")
    };
    for size in [512, 65_536, 1 << 20, 64 << 20] {
        let (ours, malloc) = (OneSize::new(Drystone::new(), size), OneSize::new(Malloc, size));
        print(format!("one size, {size} B"), race(PAIRS, || ours.pair(), || malloc.pair()))?;
    }
    for (sizes, what, live, pairs) in [
        (Sizes::SMALL, "random sizes", 1_000, PAIRS),
        (Sizes::SMALL, "random sizes", 100_000, PAIRS),
        (Sizes::LARGE, "random large sizes", 100, SLOW_PAIRS),
        (Sizes::LARGE, "random large sizes", 1_000, PAIRS),
    ] {
        let mut ours = RandomSizes::new(Drystone::new(), sizes, live);
        let mut malloc = RandomSizes::new(Malloc, sizes, live);
        print(format!("{what}, {live} live"), race(pairs, || ours.pair(), || malloc.pair()))?;
    }
    Ok(())
}
