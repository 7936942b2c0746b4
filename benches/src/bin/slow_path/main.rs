//! Prints what a slow path takes besides the driver's calls, as one JSON object a line: requests that
//! no free block serves, by what served them, and `empty_cache`, where 10³, 10⁴ and 10⁵ pages are
//! held.
//!
//! `cargo run --release -p drystone-benches --bin slow_path [PAGES]`

mod field;
mod timed;
mod waited;

use std::collections::BTreeMap;
use std::io::Write;

use drystone_core::{DeviceId, StreamId};

use field::{Field, Timing};

const DEVICE: DeviceId = DeviceId(0);
const STREAM: StreamId = StreamId(0);
const MIB: u64 = 1 << 20;
const PAGE: u64 = 2 * MIB;

/// Pages that are held.
const PAGES: [u64; 3] = [1_000, 10_000, 100_000];
/// Pages of all fields of one size together, at least: a small field has few samples.
const PAGES_IN_ALL: u64 = 200_000;
/// Rounds in a field, and how many of them only age it.
const ROUNDS: usize = 60;
const WARM_UP: usize = 10;
/// The windows that are asked for: of so many handles, and MiB at first.
const WINDOWS: [(f64, f64); 2] = [(8.0, 40.0), (64.0, 300.0)];
/// The sizes of windows, as parts of that.
const PARTS: [f64; 3] = [0.6, 1.0, 1.5];
/// Blocks freed before the cache is emptied.
const FREED: usize = 8;

/// What was timed, in the order of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Ghost,
    Aliases(u64),
    /// Aliases behind a free block of a third of all pages.
    LongRun,
    Growth,
    EmptyCache,
}

impl Path {
    /// What served a request, by what was asked of the driver; none if it is not shown.
    fn of(timing: &Timing) -> Option<Path> {
        let asked = &timing.asked;
        match (asked.maps, asked.creates) {
            (0, 0) if timing.window => Some(Path::Ghost),
            (1, 0) => Some(Path::Aliases(1)),
            (7..=9, 0) => Some(Path::Aliases(8)),
            (57..=72, 0) => Some(Path::Aliases(64)),
            (1, 1) => Some(Path::Growth),
            _ => None,
        }
    }

    fn name(self) -> String {
        match self {
            Path::Ghost => "ghosts re-homed".to_owned(),
            Path::Aliases(1) => "1 alias".to_owned(),
            Path::Aliases(handles) => format!("{handles} aliases"),
            Path::LongRun => "64 aliases behind a long free block".to_owned(),
            Path::Growth => "1 new handle".to_owned(),
            Path::EmptyCache => "empty_cache".to_owned(),
        }
    }
}

/// What was measured, by path.
#[derive(Default)]
struct Measured(BTreeMap<Path, Samples>);

#[derive(Default)]
struct Samples {
    own_ns: Vec<f64>,
    inside_ns: Vec<f64>,
    handles: Vec<f64>,
}

impl Measured {
    fn add(&mut self, path: Option<Path>, timing: &Timing) {
        let Some(path) = path else { return };
        let samples = self.0.entry(path).or_default();
        let asked = &timing.asked;
        samples.own_ns.push(timing.own_ns);
        samples.inside_ns.push(asked.inside_ns as f64);
        samples.handles.push((asked.maps + asked.unmaps) as f64);
    }
}

/// The value below which a part of all lies; there is at least one.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * part) as usize).min(values.len() - 1)].round()
}

/// Measures in one field of so many pages, which is left as it is then.
fn measure(pages: u64, seed: u64, measured: &mut Measured) -> Field {
    let mut field = Field::new(pages, seed);
    field.grow(|timing| measured.add(Path::of(&timing), &timing));
    let mut sizes = WINDOWS;
    for round in 0..ROUNDS {
        let mut tell = |timing: &Timing| {
            if round >= WARM_UP {
                measured.add(Path::of(timing), timing);
            }
        };
        field.fill_up(|timing| tell(&timing));
        field.scatter();
        for (handles, mib) in &mut sizes {
            let most = (pages / 2_000).clamp(1, 15) as usize;
            let mut factor = 1.0;
            for _ in 0..4 * most {
                let left = most - 1 - field.random(most as u64) as usize;
                field.free_windows(left);
                let part = PARTS[field.random(3) as usize];
                let timing = field.allocate_window((part * *mib * MIB as f64) as u64);
                tell(&timing);
                // Next time they are to be of as many handles as wanted.
                factor = match (timing.asked.creates, timing.asked.maps) {
                    (0, 0) => factor,
                    (0, maps) => (part * *handles / maps as f64).clamp(0.95, 1.05),
                    _ => 0.95,
                };
            }
            *mib *= factor;
        }
        field.free_windows(0);
    }
    field.empty_cache();
    for _ in 0..ROUNDS {
        (0..FREED).for_each(|_| field.free_block());
        let timing = field.empty_cache();
        measured.add((timing.asked.releases > 0).then_some(Path::EmptyCache), &timing);
        for _ in 0..FREED {
            field.allocate_block();
        }
    }
    field
}

/// Measures in one field with one large block, which is freed and then asked for with some pages
/// more.
fn measure_long_run(pages: u64, seed: u64, measured: &mut Measured) {
    let mut field = Field::new(pages, seed);
    let usual = pages / 3 * PAGE;
    field.allocate_window(usual);
    field.grow(drop);
    let mut more = WINDOWS[1].1;
    for round in 0..ROUNDS {
        field.fill_up(drop);
        field.scatter();
        field.free_windows(0);
        let timing = field.allocate_window(usual + (more * MIB as f64) as u64);
        if round >= WARM_UP && Path::of(&timing) == Some(Path::Aliases(64)) {
            measured.add(Some(Path::LongRun), &timing);
        }
        more *= match (timing.asked.creates, timing.asked.maps) {
            (0, 0) => 1.0,
            (0, maps) => (WINDOWS[1].0 / maps as f64).clamp(0.9, 1.1),
            _ => 0.95,
        };
        field.free_windows(0);
        field.allocate_window(usual);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only: Option<u64> = std::env::args().nth(1).map(|pages| pages.parse()).transpose()?;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cpu = model.unwrap_or("unknown").trim();
    let mut out = std::io::stdout().lock();
    for pages in PAGES.into_iter().filter(|&pages| only.is_none_or(|only| only == pages)) {
        let mut measured = Measured::default();
        let field = measure(pages, 0, &mut measured);
        for seed in 1..PAGES_IN_ALL / pages {
            measure(pages, seed, &mut measured);
        }
        for seed in 0..PAGES_IN_ALL / pages {
            measure_long_run(pages, seed, &mut measured);
        }
        for (path, samples) in &mut measured.0 {
            let line = serde_json::json!({
                "path": path.name(),
                "pages": pages,
                "samples": samples.own_ns.len(),
                "own_ns_median": quantile(&mut samples.own_ns, 0.5),
                "own_ns_p99": quantile(&mut samples.own_ns, 0.99),
                "simulator_ns_median": quantile(&mut samples.inside_ns, 0.5),
                "handles_median": quantile(&mut samples.handles, 0.5),
                "held_handles": field.handles(),
                "held_mappings": field.mappings(),
                "live_blocks": field.live_blocks(),
                "cpu": cpu,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
