//! Statistics: what torch's `memory_stats` counts, with the same meaning, per pool and in total.

pub(crate) mod counters;
pub(crate) mod totals;

use crate::driver::DriverCall;
use crate::units::Kind;

/// What is counted, separately for small and large blocks. Names and meanings are torch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Metric {
    /// Allocations that their owners have not freed.
    Allocation = 0,
    /// Bytes of the blocks of those, rounded as they are.
    AllocatedBytes = 1,
    /// Allocations not freed, and freed ones that wait for a recorded stream.
    Active = 2,
    /// Bytes of the blocks of those.
    ActiveBytes = 3,
    /// Bytes that the owners of the active blocks asked for.
    RequestedBytes = 4,
    /// Free blocks that are a part of their segment, not the whole.
    InactiveSplit = 5,
    /// Bytes of those.
    InactiveSplitBytes = 6,
    /// Segments held, and arenas, whose pages come and go.
    Segment = 7,
    /// Bytes of the device held: of segments, and of pages at home in arenas.
    ReservedBytes = 8,
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All of them, in index order.
    pub const ALL: [Metric; Metric::COUNT] = [
        Metric::Allocation,
        Metric::AllocatedBytes,
        Metric::Active,
        Metric::ActiveBytes,
        Metric::RequestedBytes,
        Metric::InactiveSplit,
        Metric::InactiveSplitBytes,
        Metric::Segment,
        Metric::ReservedBytes,
    ];

    /// torch's name, as in `allocated_bytes.all.peak`.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Allocation => "allocation",
            Metric::AllocatedBytes => "allocated_bytes",
            Metric::Active => "active",
            Metric::ActiveBytes => "active_bytes",
            Metric::RequestedBytes => "requested_bytes",
            Metric::InactiveSplit => "inactive_split",
            Metric::InactiveSplitBytes => "inactive_split_bytes",
            Metric::Segment => "segment",
            Metric::ReservedBytes => "reserved_bytes",
        }
    }
}

/// One quantity over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Now.
    pub current: u64,
    /// The most it has been since the last reset of peaks.
    pub peak: u64,
    /// What has been added since the last reset of the accumulated figures.
    pub allocated: u64,
    /// What has been taken off since then.
    pub freed: u64,
}

/// Every [`Metric`], for small and large blocks and for both together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    small: [Stat; Metric::COUNT],
    large: [Stat; Metric::COUNT],
    all: [Stat; Metric::COUNT],
}

impl MemoryStats {
    /// The metric over small and large blocks together.
    pub fn all(&self, metric: Metric) -> Stat {
        self.all[metric as usize]
    }

    /// The metric over blocks of one kind.
    pub fn of(&self, kind: Kind, metric: Metric) -> Stat {
        match kind {
            Kind::Small => self.small[metric as usize],
            Kind::Large => self.large[metric as usize],
        }
    }
}

/// The statistics of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Blocks, segments and bytes over all pools and streams.
    pub memory: MemoryStats,
    /// Live allocations of at least `max_split_size`.
    pub oversize_allocations: Stat,
    /// Segments of at least `max_split_size`.
    pub oversize_segments: Stat,
    /// How often a request was tried again after the whole cache had been given back, or with pages
    /// after the host had waited for pending blocks.
    pub num_alloc_retries: u64,
    /// How often a request ended in [`crate::AllocError::OutOfMemory`].
    pub num_ooms: u64,
    /// How often the host waited for all streams.
    pub num_sync_all_streams: u64,
    /// Segments and handles taken from the device.
    pub num_device_alloc: u64,
    /// Segments and handles given back to the device.
    pub num_device_free: u64,
    /// The configured `max_split_size`, if any.
    pub max_split_size: Option<u64>,
    /// Blocks that were handed to another stream than their segment's.
    pub num_borrowed: u64,
    /// How often idle segments, or pages for a window, went from one stream or pool to another.
    pub num_adopted: u64,
    /// Bytes of the host in which large blocks lie since the device had no more (`spill_limit`).
    /// They are not among the reserved ones.
    pub spilled_bytes: Stat,
    /// How often a request was served with memory of the host.
    pub num_spills: u64,
}

/// What the driver was asked, over all devices, since the allocator was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Calls by kind, in the order of [`DriverCall::ALL`].
    pub calls: [u64; DriverCall::ALL.len()],
    /// Nanoseconds spent in calls that do not wait.
    pub driver_ns: u64,
    /// Nanoseconds spent in calls that wait for the device.
    pub wait_ns: u64,
}

impl DriverStats {
    /// Calls of one kind.
    pub fn calls_of(&self, call: DriverCall) -> u64 {
        self.calls[call as usize]
    }
}
