//! `drystone compare --report`: a page about traces through policies, which needs nothing else.
//!
//! It has memory over time, where waste was, what lay at which address at some hundred or thousand
//! moments, and the figures. The data is in the page as deflated columns of numbers, which its
//! scripts in `page/` read and draw; docs/report.md says how to read the pictures.

mod album;
mod causes;
mod columns;
mod ground;
mod moments;
mod stacks;

use std::fmt::Write;

use drystone_trace::Run;
use serde::Serialize;

use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::recording::Recording;
use crate::replay::Replayed;
use album::Parts;
use columns::Columns;
use moments::{Life, Moments};

/// The most bytes of data in a page. With the page's own 60 KB it stays below 3 MB.
const MOST_BYTES: usize = 2_800_000;
/// The most moments of a trace, about: twice what a wide screen shows.
const MOST_MOMENTS: usize = 2_400;
/// With fewer moments than this there is no scrubbing; then small blocks are left out instead.
const LEAST_MOMENTS: usize = 60;
/// With less than this of what is planned, what is left is no matter of moments and blocks.
const LEAST_SHARE: f64 = 0.001;
/// The most parts of a curve.
const MOST_PARTS: u64 = 2_400;

/// The parts of the page, each in a file of its own.
const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 10] = [
    include_str!("page/columns.js"),
    include_str!("page/format.js"),
    include_str!("page/chart.js"),
    include_str!("page/map.js"),
    include_str!("page/tables.js"),
    include_str!("page/state.js"),
    include_str!("page/moment.js"),
    include_str!("page/curves.js"),
    include_str!("page/controls.js"),
    include_str!("page/page.js"),
];

/// A page being made.
#[derive(Debug, Default)]
pub struct Report {
    /// How many traces it will have; they share the room that there is.
    traces: usize,
    index: Vec<TraceIndex>,
    /// Deflated columns by name.
    blobs: Vec<(String, String)>,
}

/// What the page knows of a trace beside its columns.
#[derive(Debug, Serialize)]
struct TraceIndex {
    name: String,
    events: u64,
    run_us: u64,
    peak_live_bytes: u64,
    recorded_peak_bytes: Option<u64>,
    recorded_mean_ratio: Option<f64>,
    devices: u32,
    streams: u32,
    step_us: u64,
    /// The size below which blocks are not in the map; 0 where all are.
    least_shown_bytes: u64,
    /// Repairs of the trace, in words.
    findings: Vec<String>,
    blob: String,
    stacks: Option<String>,
    policies: Vec<PolicyIndex>,
}

#[derive(Debug, Serialize)]
struct PolicyIndex {
    label: String,
    /// Whether it tells what rounding adds.
    tells_rounding: bool,
    blob: String,
    metrics: Metrics,
}

impl Report {
    /// A page of that many traces.
    pub fn new(traces: usize) -> Self {
        Report { traces: traces.max(1), ..Report::default() }
    }

    /// Adds a trace with its replays, and what each policy did in them, in the same order.
    pub fn add(
        &mut self,
        run: &Run,
        recording: &Recording,
        replays: &[Replayed],
        journals: &[Journal],
    ) {
        let trace = &run.trace;
        let parts = Parts::of(trace, MOST_PARTS);
        let room = MOST_BYTES / self.traces;
        let number = self.index.len();
        // How well it deflates is known only afterwards.
        let mut share = 1.0;
        let sheets = loop {
            let sheets = Sheets::of(run, journals, &parts, share, room);
            let bytes = sheets.bytes();
            if bytes <= room || share < LEAST_SHARE {
                break sheets;
            }
            share *= 0.9 * room as f64 / bytes as f64;
        };
        let name = |what: &str| format!("t{number}{what}");
        let stacks = sheets.stacks.map(|text| {
            self.blobs.push((name("stacks"), text));
            name("stacks")
        });
        self.blobs.push((name("trace"), sheets.shared));
        let mut policies = Vec::new();
        for (index, ((replay, journal), text)) in
            replays.iter().zip(journals).zip(sheets.albums).enumerate()
        {
            let blob = name(&format!("p{index}"));
            self.blobs.push((blob.clone(), text));
            policies.push(PolicyIndex {
                label: replay.metrics.label(),
                tells_rounding: journal.tells,
                blob,
                metrics: replay.metrics.clone(),
            });
        }
        self.index.push(TraceIndex {
            name: trace.name.clone(),
            events: trace.events.len() as u64,
            run_us: trace.duration_us(),
            peak_live_bytes: recording.peak_live,
            recorded_peak_bytes: recording.peak_reserved,
            recorded_mean_ratio: recording.mean_ratio,
            devices: trace.devices,
            streams: trace.streams,
            step_us: parts.step_us,
            least_shown_bytes: sheets.least_shown,
            findings: trace.dropped.findings().iter().map(ToString::to_string).collect(),
            blob: name("trace"),
            stacks,
            policies,
        });
    }

    /// The page as HTML.
    pub fn page(&self) -> String {
        // Nothing in a name is markup: no `<` stands in the data.
        let index = serde_json::to_string(&self.index).unwrap_or_else(|_| "[]".to_owned());
        let index = index.replace('<', "\\u003c");
        let mut data = format!("<script type=\"application/json\" id=\"index\">{index}</script>\n");
        for (name, text) in &self.blobs {
            // A String takes everything.
            let _ = writeln!(data, "<script type=\"text/plain\" id=\"{name}\">{text}</script>");
        }
        let (before, rest) = TEMPLATE.split_once("/*style*/").unwrap_or((TEMPLATE, ""));
        let (middle, rest) = rest.split_once("<!--data-->").unwrap_or((rest, ""));
        let (between, after) = rest.split_once("/*scripts*/").unwrap_or((rest, ""));
        let scripts = SCRIPTS.join("\n");
        [before, STYLE, middle, &data, between, &scripts, after].concat()
    }
}

/// The columns of a trace and of each policy on it.
struct Sheets {
    shared: String,
    stacks: Option<String>,
    albums: Vec<String>,
    least_shown: u64,
}

impl Sheets {
    /// With a `share` of the moments and of the blocks that `room` might have room for.
    fn of(run: &Run, journals: &[Journal], parts: &Parts, share: f64, room: usize) -> Sheets {
        let trace = &run.trace;
        let most = (fitting(room, journals.len()) as f64 * share) as usize;
        let also = ends(journals);
        let played = journals.iter().map(|journal| journal.played).max().unwrap_or(0);
        let mut count = ((MOST_MOMENTS as f64 * share) as usize).max(LEAST_MOMENTS);
        let (moments, lives) = loop {
            let mut moments = Moments::choose(trace, count, &also);
            moments.events.retain(|&event| (event as usize) < played);
            let lives = moments.lives(trace);
            if lives.len() <= most || count <= LEAST_MOMENTS {
                break (moments, lives);
            }
            count = (count / 2).max(LEAST_MOMENTS);
        };
        let (shown, least_shown) = largest(&lives, most);
        let shared = shared(trace, &moments, &shown, parts);
        let stacks = stacks::stacks(run, &shown);
        let album = |journal| album::album(trace, journal, &moments, &lives, &shown, parts);
        let albums = journals.iter().map(album).collect();
        Sheets { shared, stacks, albums, least_shown }
    }

    fn bytes(&self) -> usize {
        let stacks = self.stacks.as_ref().map_or(0, String::len);
        self.shared.len() + stacks + self.albums.iter().map(String::len).sum::<usize>()
    }
}

/// About how many blocks fit: each takes some bytes once, and some for each policy.
fn fitting(room: usize, policies: usize) -> usize {
    room / (8 + 3 * policies)
}

/// The events after which there must be a moment: the last that each policy played.
fn ends(journals: &[Journal]) -> Vec<u32> {
    journals
        .iter()
        .filter_map(|journal| journal.played.checked_sub(1))
        .map(|end| end as u32)
        .collect()
}

/// At most the `most` largest, and the size from which on they are there.
fn largest(lives: &[Life], most: usize) -> (Vec<Life>, u64) {
    if lives.len() <= most {
        return (lives.to_vec(), 0);
    }
    let mut sizes: Vec<_> = lives.iter().map(|life| life.size).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    // Above the first size that does not fit, so that all of a size are treated alike.
    let least = sizes[most] + 1;
    (lives.iter().filter(|life| life.size >= least).copied().collect(), least)
}

/// What is the same for all policies: the moments, live bytes, the blocks.
fn shared(
    trace: &drystone_trace::Trace,
    moments: &Moments,
    shown: &[Life],
    parts: &Parts,
) -> String {
    let mut columns = Columns::default();
    let origin = trace.events.first().map_or(0, |event| event.t_us);
    let time = |&event: &u32| trace.events[event as usize].t_us - origin;
    columns.differences(moments.events.iter().map(|&event| event.into()));
    columns.differences(moments.events.iter().map(time));
    album::write_ranges(&mut columns, &album::live(trace, parts));
    columns.differences(shown.iter().map(|life| life.id.into()));
    columns.plain(shown.iter().map(|life| life.size));
    columns.plain(shown.iter().map(|life| life.stream.into()));
    columns.plain(shown.iter().map(|life| life.device.into()));
    columns.differences(shown.iter().map(|life| life.t_us));
    columns.differences(shown.iter().map(|life| life.from.into()));
    columns.plain(shown.iter().map(|life| (life.to - life.from).into()));
    columns.text()
}
