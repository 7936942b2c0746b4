//! Statistics: torch's figures, and Drystone's own, as a struct and as JSON with torch's names.

use std::mem::offset_of;

use drystone_core::{
    DeviceId, DeviceStats, DriverCall, DriverStats, Kind, MemoryStats, Metric, PoolId, Stat,
};

use crate::allocator::{drystone_allocator_t, named};
use crate::pools::drystone_pool_t;
use crate::status::{DRYSTONE_BUFFER_TOO_SMALL, Failure, call, drystone_status_t};
use crate::text::{drystone_text_t, hand_out};

/// First index of `figures`: allocations that their owners have not freed.
pub const DRYSTONE_ALLOCATION: usize = 0;
/// Bytes of the blocks of those.
pub const DRYSTONE_ALLOCATED_BYTES: usize = 1;
/// Allocations not freed, and freed ones that wait for a recorded stream.
pub const DRYSTONE_ACTIVE: usize = 2;
/// Bytes of the blocks of those.
pub const DRYSTONE_ACTIVE_BYTES: usize = 3;
/// Bytes that the owners of the active blocks asked for.
pub const DRYSTONE_REQUESTED_BYTES: usize = 4;
/// Free blocks that are a part of their segment.
pub const DRYSTONE_INACTIVE_SPLIT: usize = 5;
/// Bytes of those.
pub const DRYSTONE_INACTIVE_SPLIT_BYTES: usize = 6;
/// Segments held, and arenas, whose pages come and go.
pub const DRYSTONE_SEGMENT: usize = 7;
/// Bytes of the device held.
pub const DRYSTONE_RESERVED_BYTES: usize = 8;
/// How many figures there are.
pub const DRYSTONE_FIGURES: usize = 9;

/// Second index of `figures`: small and large blocks together.
pub const DRYSTONE_ALL: usize = 0;
/// Blocks of requests of at most 1 MiB.
pub const DRYSTONE_SMALL: usize = 1;
/// Blocks of larger ones.
pub const DRYSTONE_LARGE: usize = 2;
/// How many kinds there are.
pub const DRYSTONE_KINDS: usize = 3;

const _: () = assert!(DRYSTONE_FIGURES == Metric::COUNT);
const _: () = assert!(DRYSTONE_RESERVED_BYTES == Metric::ReservedBytes as usize);

/// One quantity over time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drystone_stat_t {
    /// Now.
    pub current: u64,
    /// The most since the last reset of peaks.
    pub peak: u64,
    /// Added since the last reset of accumulated figures.
    pub allocated: u64,
    /// Taken off since then.
    pub freed: u64,
}

/// The statistics of a device, or of a pool. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drystone_stats_t {
    /// `sizeof(drystone_stats_t)` as the program was compiled: no more than that is written, and what
    /// this library does not know is 0.
    pub struct_size: usize,
    /// By figure and kind: `figures[DRYSTONE_RESERVED_BYTES][DRYSTONE_ALL]`.
    pub figures: [[drystone_stat_t; DRYSTONE_KINDS]; DRYSTONE_FIGURES],
    /// Live allocations of at least `max_split_size`. From here on all is 0 for a pool.
    pub oversize_allocations: drystone_stat_t,
    /// Segments of at least `max_split_size`.
    pub oversize_segments: drystone_stat_t,
    /// How often a request was tried again after the cache had been given back.
    pub num_alloc_retries: u64,
    /// How often a request ended in out of memory.
    pub num_ooms: u64,
    /// How often the host waited for all streams.
    pub num_sync_all_streams: u64,
    /// Segments and handles taken from the device.
    pub num_device_alloc: u64,
    /// Segments and handles given back to it.
    pub num_device_free: u64,
    /// The configured `max_split_size` in bytes; 0 if there is none.
    pub max_split_size: u64,
    /// How often idle memory went from one stream or pool to another.
    pub num_adopted: u64,
    /// Blocks that were handed to another stream than their segment's.
    pub num_borrowed: u64,
    /// How often a request was served with memory of the host.
    pub num_spills: u64,
    /// Bytes of the host in which blocks lie; not among the reserved ones.
    pub spilled_bytes: drystone_stat_t,
    /// Calls of the driver, of all devices since the allocator was made, as the three below.
    pub driver_calls: u64,
    /// Nanoseconds in driver calls that do not wait.
    pub driver_ns: u64,
    /// Calls in which the host waited for the device.
    pub driver_waits: u64,
    /// Nanoseconds in those.
    pub driver_wait_ns: u64,
}

impl From<Stat> for drystone_stat_t {
    fn from(Stat { current, peak, allocated, freed }: Stat) -> drystone_stat_t {
        drystone_stat_t { current, peak, allocated, freed }
    }
}

/// One metric of a kind, by the second index.
fn stat(memory: &MemoryStats, metric: Metric, kind: usize) -> Stat {
    match kind {
        DRYSTONE_SMALL => memory.of(Kind::Small, metric),
        DRYSTONE_LARGE => memory.of(Kind::Large, metric),
        _ => memory.all(metric),
    }
}

fn of_pool(memory: &MemoryStats) -> drystone_stats_t {
    drystone_stats_t {
        figures: Metric::ALL
            .map(|metric| std::array::from_fn(|kind| stat(memory, metric, kind).into())),
        ..drystone_stats_t::default()
    }
}

fn of_device(device: &DeviceStats, driver: &DriverStats) -> drystone_stats_t {
    let waits = DriverCall::ALL.iter().filter(|call| call.waits());
    drystone_stats_t {
        oversize_allocations: device.oversize_allocations.into(),
        oversize_segments: device.oversize_segments.into(),
        num_alloc_retries: device.num_alloc_retries,
        num_ooms: device.num_ooms,
        num_sync_all_streams: device.num_sync_all_streams,
        num_device_alloc: device.num_device_alloc,
        num_device_free: device.num_device_free,
        max_split_size: device.max_split_size.unwrap_or(0),
        num_adopted: device.num_adopted,
        num_borrowed: device.num_borrowed,
        num_spills: device.num_spills,
        spilled_bytes: device.spilled_bytes.into(),
        driver_calls: driver.calls.iter().sum(),
        driver_ns: driver.driver_ns,
        driver_waits: waits.map(|&call| driver.calls_of(call)).sum(),
        driver_wait_ns: driver.wait_ns,
        ..of_pool(&device.memory)
    }
}

/// Writes as much as the program has room for, and 0 behind what this library knows.
///
/// # Safety
///
/// `out` is NULL or to a struct whose `struct_size` is how much of it can be written.
unsafe fn fill(
    out: *mut drystone_stats_t,
    make: impl FnOnce() -> Result<drystone_stats_t, Failure>,
) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    // SAFETY: the caller's; every version of the struct begins with its size.
    let given = unsafe { (&raw const (*out).struct_size).read() };
    let least = offset_of!(drystone_stats_t, figures);
    if given <= least || given > 1 << 16 || !given.is_multiple_of(8) {
        return Err(Failure::new(
            DRYSTONE_BUFFER_TOO_SMALL,
            format!(
                "struct_size is {given}, which no drystone_stats_t has: set it to \
                 sizeof(drystone_stats_t) before the call"
            ),
        ));
    }
    let stats = drystone_stats_t { struct_size: given, ..make()? };
    let known = given.min(size_of::<drystone_stats_t>());
    // SAFETY: both have at least `known` bytes, and `out` has `given`.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const stats).cast::<u8>(), out.cast::<u8>(), known);
        out.cast::<u8>().add(known).write_bytes(0, given - known);
    }
    Ok(())
}

/// The statistics of a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_stats(
    allocator: *mut drystone_allocator_t,
    device: i32,
    out: *mut drystone_stats_t,
) -> drystone_status_t {
    call("drystone_stats", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        let make = || Ok(of_device(&core.stats(DeviceId(device as u32))?, &core.driver_stats()));
        // SAFETY: the header's rule for pointers.
        unsafe { fill(out, make) }
    })
}

/// The statistics of one pool of a device: `figures` only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_pool_stats(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
    out: *mut drystone_stats_t,
) -> drystone_status_t {
    call("drystone_pool_stats", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        let make = || Ok(of_pool(&core.pool_stats(DeviceId(device as u32), PoolId::from(pool))?));
        // SAFETY: the header's rule for pointers.
        unsafe { fill(out, make) }
    })
}

/// The statistics of a device as JSON: an object of numbers with the names of torch's `memory_stats`,
/// such as "allocated_bytes.all.current", and Drystone's own, which begin with "drystone.".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_stats_json(
    allocator: *mut drystone_allocator_t,
    device: i32,
    out: *mut *mut drystone_text_t,
) -> drystone_status_t {
    call("drystone_stats_json", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        let make = || {
            let stats = core.stats(DeviceId(device as u32))?;
            Ok(json(&stats, &core.driver_stats()).into_bytes())
        };
        // SAFETY: the header's rule for pointers.
        unsafe { hand_out(out, make) }
    })
}

fn json(stats: &DeviceStats, driver: &DriverStats) -> String {
    const KINDS: [&str; DRYSTONE_KINDS] = ["all", "small_pool", "large_pool"];
    let mut entries = Vec::new();
    let mut add_stat = |name: String, stat: Stat| {
        let Stat { current, peak, allocated, freed } = stat;
        for (what, value) in
            [("current", current), ("peak", peak), ("allocated", allocated), ("freed", freed)]
        {
            entries.push(format!("\"{name}.{what}\":{value}"));
        }
    };
    for metric in Metric::ALL {
        for (kind, name) in KINDS.iter().enumerate() {
            add_stat(format!("{}.{name}", metric.name()), stat(&stats.memory, metric, kind));
        }
    }
    add_stat("oversize_allocations".into(), stats.oversize_allocations);
    add_stat("oversize_segments".into(), stats.oversize_segments);
    add_stat("drystone.spilled_bytes".into(), stats.spilled_bytes);
    for (name, value) in [
        ("num_alloc_retries", stats.num_alloc_retries),
        ("num_ooms", stats.num_ooms),
        ("num_sync_all_streams", stats.num_sync_all_streams),
        ("num_device_alloc", stats.num_device_alloc),
        ("num_device_free", stats.num_device_free),
        ("drystone.num_adopted", stats.num_adopted),
        ("drystone.num_borrowed", stats.num_borrowed),
        ("drystone.num_spills", stats.num_spills),
        ("drystone.driver_ns", driver.driver_ns),
        ("drystone.driver_wait_ns", driver.wait_ns),
    ] {
        entries.push(format!("\"{name}\":{value}"));
    }
    // torch says -1 where there is none.
    let max_split = stats.max_split_size.map_or("-1".into(), |bytes| bytes.to_string());
    entries.push(format!("\"max_split_size\":{max_split}"));
    for call in DriverCall::ALL {
        let count = driver.calls_of(call);
        entries.push(format!("\"drystone.driver_calls.{}\":{count}", call.name()));
    }
    format!("{{{}}}", entries.join(","))
}

/// Lets the peaks of a device and of its pools start again from what is now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_reset_peak_stats(
    allocator: *mut drystone_allocator_t,
    device: i32,
) -> drystone_status_t {
    call("drystone_reset_peak_stats", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        Ok(core.reset_peak_stats(DeviceId(device as u32))?)
    })
}

/// Lets what accumulates on a device (allocated, freed, and the plain counts) start again from 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_reset_accumulated_stats(
    allocator: *mut drystone_allocator_t,
    device: i32,
) -> drystone_status_t {
    call("drystone_reset_accumulated_stats", || {
        // SAFETY: the header's rule for allocators.
        let core = unsafe { named(allocator) }?.core();
        Ok(core.reset_accumulated_stats(DeviceId(device as u32))?)
    })
}
