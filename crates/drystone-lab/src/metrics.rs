//! The figures of one replay: what `drystone replay --json` prints, field by field.

use std::collections::BTreeMap;

use serde::Serialize;

/// One trace through one policy. Sizes are in bytes, times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// The trace's name.
    pub trace: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's options as `key=value,key=value`; empty if there were none.
    pub options: String,
    /// `sim`, or which real device.
    pub device: String,
    /// The memory that the device had, if the replay set it.
    pub capacity_bytes: Option<u64>,
    /// From the submission of work to its completion; none on a real device, which does no work.
    pub host_lead_us: Option<f64>,
    /// The costs of calls; none on a real device, where they are real.
    pub costs: Option<&'static str>,
    /// Events of the trace, of all kinds.
    pub events: u64,
    /// Blocks that were handed out.
    pub allocs: u64,
    /// Blocks that were taken back, up to the end of the trace.
    pub frees: u64,
    /// The trace's own length.
    pub run_us: u64,
    /// The most bytes requested and not free-completed.
    pub peak_live_bytes: u64,
    /// When that was, from the first event, by the trace's clock.
    pub peak_live_at_us: u64,
    /// The most physical bytes held of the devices, in segments and handles.
    pub peak_reserved_bytes: u64,
    /// The most bytes held of the host beside them, for the devices to use.
    pub peak_host_bytes: u64,
    /// Physical bytes held of the devices at the end of the trace.
    pub end_reserved_bytes: u64,
    /// `peak_reserved_bytes / peak_live_bytes`; none if nothing was live.
    pub ratio: Option<f64>,
    /// Bytes held of the devices on the average of the trace's time; none if no time passed.
    pub mean_reserved_bytes: Option<f64>,
    /// Bytes requested and not free-completed, likewise.
    pub mean_live_bytes: Option<f64>,
    /// `mean_reserved_bytes / mean_live_bytes`; none if nothing was live for any time.
    pub mean_ratio: Option<f64>,
    /// Of the bytes held when most were, those that rounding adds to the blocks (internal waste);
    /// none if that was not measured (`replay`), or the policy does not tell what blocks occupy.
    pub rounding_at_peak_bytes: Option<u64>,
    /// Of the bytes held when most were, those in no block (external waste); rounding is among
    /// them where `rounding_at_peak_bytes` is none. None if it was not measured.
    pub free_at_peak_bytes: Option<u64>,
    /// The least memory of each device with which the trace completes; none if it was not
    /// searched for, or is not known.
    pub min_capacity_bytes: Option<u64>,
    /// The most bytes that the recorded allocator held; none if the trace does not say.
    pub recorded_peak_reserved_bytes: Option<u64>,
    /// Driver calls by kind, failed ones included; only kinds that were called.
    pub driver_calls: BTreeMap<&'static str, u64>,
    /// Time in driver calls without waiting for the device; virtual on the simulated one.
    pub driver_us: f64,
    /// The same as a percentage of `run_us`; none if that is 0.
    pub driver_percent: Option<f64>,
    /// Time waiting for the device, also inside calls that free memory; virtual likewise.
    pub wait_us: f64,
    /// The same as a percentage of `run_us`; none if that is 0.
    pub wait_percent: Option<f64>,
    /// Real nanoseconds for each event: the policy, the accounting, and the driver or simulator.
    pub ns_per_event: f64,
    /// Counts of the policy's own.
    pub counters: BTreeMap<&'static str, u64>,
    /// Where the replay stopped for lack of memory, if it did.
    pub oom: Option<OutOfMemory>,
}

impl Metrics {
    /// The policy with its options, as on the command line.
    pub fn label(&self) -> String {
        let colon = if self.options.is_empty() { "" } else { ":" };
        format!("{}{colon}{}", self.policy, self.options)
    }
}

/// A request that a policy could not meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes live before it.
    pub live: u64,
    /// Bytes held of the device after the policy had tried everything.
    pub reserved: u64,
    /// The event's index, from 0.
    pub at_event: u64,
    /// When, from the first event, by the trace's clock.
    pub t_us: u64,
    /// What the policy says.
    pub message: String,
}
