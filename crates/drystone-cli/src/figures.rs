//! The figures of replays as CSV: a line for each trace and policy, without what is nested.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use drystone_lab::Metrics;
use serde::Serialize;

use crate::play::Played;
use crate::whole::{self, Existing};

/// A line. The names are those of `--json`; what is not known is empty.
#[derive(Serialize)]
struct Line<'a> {
    trace: &'a str,
    policy: &'a str,
    options: &'a str,
    device: &'a str,
    capacity_bytes: Option<u64>,
    host_lead_us: Option<f64>,
    costs: Option<&'a str>,
    events: u64,
    allocs: u64,
    frees: u64,
    run_us: u64,
    peak_live_bytes: u64,
    peak_reserved_bytes: u64,
    ratio: Option<f64>,
    recorded_peak_reserved_bytes: Option<u64>,
    min_capacity_bytes: Option<u64>,
    mean_live_bytes: Option<f64>,
    mean_reserved_bytes: Option<f64>,
    mean_ratio: Option<f64>,
    rounding_at_peak_bytes: Option<u64>,
    free_at_peak_bytes: Option<u64>,
    peak_host_bytes: u64,
    end_reserved_bytes: u64,
    driver_calls: u64,
    driver_us: f64,
    driver_percent: Option<f64>,
    wait_us: f64,
    wait_percent: Option<f64>,
    ns_per_event: f64,
    oom_at_event: Option<u64>,
    oom_t_us: Option<u64>,
    oom_asked_bytes: Option<u64>,
}

impl<'a> Line<'a> {
    fn of(metrics: &'a Metrics) -> Self {
        let oom = metrics.oom.as_ref();
        Line {
            trace: &metrics.trace,
            policy: &metrics.policy,
            options: &metrics.options,
            device: &metrics.device,
            capacity_bytes: metrics.capacity_bytes,
            host_lead_us: metrics.host_lead_us,
            costs: metrics.costs,
            events: metrics.events,
            allocs: metrics.allocs,
            frees: metrics.frees,
            run_us: metrics.run_us,
            peak_live_bytes: metrics.peak_live_bytes,
            peak_reserved_bytes: metrics.peak_reserved_bytes,
            ratio: metrics.ratio,
            recorded_peak_reserved_bytes: metrics.recorded_peak_reserved_bytes,
            min_capacity_bytes: metrics.min_capacity_bytes,
            mean_live_bytes: metrics.mean_live_bytes,
            mean_reserved_bytes: metrics.mean_reserved_bytes,
            mean_ratio: metrics.mean_ratio,
            rounding_at_peak_bytes: metrics.rounding_at_peak_bytes,
            free_at_peak_bytes: metrics.free_at_peak_bytes,
            peak_host_bytes: metrics.peak_host_bytes,
            end_reserved_bytes: metrics.end_reserved_bytes,
            driver_calls: metrics.driver_calls.values().sum(),
            driver_us: metrics.driver_us,
            driver_percent: metrics.driver_percent,
            wait_us: metrics.wait_us,
            wait_percent: metrics.wait_percent,
            ns_per_event: metrics.ns_per_event,
            oom_at_event: oom.map(|oom| oom.at_event),
            oom_t_us: oom.map(|oom| oom.t_us),
            oom_asked_bytes: oom.map(|oom| oom.asked),
        }
    }
}

/// Writes the figures of all that was played.
pub(crate) fn write(path: &Path, all: &[Played]) -> Result<()> {
    let written = whole::write(path, Existing::Replace, |file| {
        let mut lines = csv::Writer::from_writer(file);
        for replay in all.iter().flat_map(|played| &played.replays) {
            lines.serialize(Line::of(&replay.metrics)).map_err(io::Error::from)?;
        }
        lines.flush()
    });
    written.with_context(|| format!("cannot write the figures {} (--csv PATH)", path.display()))?;
    Ok(())
}
