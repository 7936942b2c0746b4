//! Snapshots: what is where, as structs, as torch's JSON or pickle, and as a trace.

use std::ffi::c_void;
use std::time::{SystemTime, UNIX_EPOCH};

use drystone_core::{Action, BlockState, Driver, HistoryEvent, Kind, SegmentInfo};
use drystone_trace as trace;

use crate::allocator::{drystone_allocator_t, drystone_stream_t, named};
use crate::pools::drystone_pool_t;
use crate::status::{DRYSTONE_NOT_SUPPORTED, Failure, call, drystone_status_t};
use crate::text::{drystone_text_t, hand_out};

/// JSON, in torch's layout.
pub const DRYSTONE_FORMAT_JSON: i32 = 0;
/// A pickle, in torch's layout: what `torch.cuda.memory._dump_snapshot` writes.
pub const DRYSTONE_FORMAT_PICKLE: i32 = 1;

/// A block that is handed out.
pub const DRYSTONE_ACTIVE_ALLOCATED: i32 = 0;
/// A block that was freed, but a recorded stream may still be using it.
pub const DRYSTONE_ACTIVE_PENDING_FREE: i32 = 1;
/// A free block.
pub const DRYSTONE_INACTIVE: i32 = 2;

/// A block of a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_segment_block_t {
    /// Where it starts.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// The bytes that were asked for; 0 if it is free.
    pub requested: u64,
    /// `DRYSTONE_ACTIVE_ALLOCATED`, `DRYSTONE_ACTIVE_PENDING_FREE` or `DRYSTONE_INACTIVE`.
    pub state: i32,
}

/// Memory of a device that the allocator holds: a segment, or consecutive pages of an arena.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_segment_t {
    /// Where it starts.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// The stream in whose order its free bytes are reused.
    pub stream: drystone_stream_t,
    /// Its pool.
    pub pool: drystone_pool_t,
    /// Its device.
    pub device: i32,
    /// Whether it serves requests above 1 MiB.
    pub large: bool,
    /// Whether it is pages of an arena, and not a segment of the driver.
    pub mapped: bool,
    /// Whether it is memory of the host.
    pub spilled: bool,
    /// How many blocks it has.
    pub block_count: usize,
    /// The blocks in order of address, without gaps.
    pub blocks: *const drystone_segment_block_t,
}

/// Shown one segment; it may call the library.
pub type drystone_visit_segment_t =
    Option<unsafe extern "C" fn(segment: *const drystone_segment_t, user: *mut c_void)>;

/// Shows every segment and block of every device, in order of address. They are the program's to look
/// at during the call of `visit` only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_visit_segments(
    allocator: *mut drystone_allocator_t,
    visit: drystone_visit_segment_t,
    user: *mut c_void,
) -> drystone_status_t {
    call("drystone_visit_segments", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let visit = visit.ok_or_else(|| Failure::null("visit"))?;
        for segment in allocator.core().snapshot() {
            let blocks: Vec<_> = segment.blocks.iter().map(shown).collect();
            let shown = drystone_segment_t {
                address: segment.address,
                size: segment.size,
                stream: segment.stream.0,
                pool: segment.pool.into(),
                device: segment.device.0 as i32,
                large: segment.kind == Kind::Large,
                mapped: is_mapped(allocator, &segment),
                spilled: segment.spilled,
                block_count: blocks.len(),
                blocks: blocks.as_ptr(),
            };
            // SAFETY: the program's function.
            unsafe { visit(&raw const shown, user) };
        }
        Ok(())
    })
}

fn shown(block: &drystone_core::BlockInfo) -> drystone_segment_block_t {
    drystone_segment_block_t {
        address: block.address,
        size: block.size,
        requested: block.requested,
        state: match block.state {
            BlockState::ActiveAllocated => DRYSTONE_ACTIVE_ALLOCATED,
            BlockState::ActivePendingFree => DRYSTONE_ACTIVE_PENDING_FREE,
            BlockState::Inactive => DRYSTONE_INACTIVE,
        },
    }
}

/// Bytes of a page: what the allocator maps memory in.
const PAGE: u64 = 2 << 20;

/// Whether the segment is pages of an arena: all are, where the device can map memory in pages.
fn is_mapped(allocator: &drystone_allocator_t, segment: &SegmentInfo) -> bool {
    let core = allocator.core();
    core.config().backing == drystone_core::config::Backing::Vmm
        && core.driver().page_bytes(segment.device).is_ok_and(|bytes| PAGE.is_multiple_of(bytes))
}

/// A snapshot in torch's layout: segments with their blocks, the history if it is on, the settings.
/// `format` is `DRYSTONE_FORMAT_JSON` or `DRYSTONE_FORMAT_PICKLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_snapshot(
    allocator: *mut drystone_allocator_t,
    format: i32,
    out: *mut *mut drystone_text_t,
) -> drystone_status_t {
    call("drystone_snapshot", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let make = || {
            let mut bytes = Vec::new();
            match format {
                DRYSTONE_FORMAT_JSON => take(allocator).write_json(&mut bytes),
                DRYSTONE_FORMAT_PICKLE => take(allocator).write_pickle(&mut bytes),
                _ => {
                    return Err(Failure::argument(format!(
                        "format is {format}: allowed are {DRYSTONE_FORMAT_JSON} (JSON) and \
                         {DRYSTONE_FORMAT_PICKLE} (pickle)"
                    )));
                }
            }
            .map_err(|error| Failure::new(DRYSTONE_NOT_SUPPORTED, error.to_string()))?;
            Ok(bytes)
        };
        // SAFETY: the header's rule for pointers.
        unsafe { hand_out(out, make) }
    })
}

/// The history of a device as a trace, in Drystone's CSV: what `drystone compare` reads. Blocks that
/// were live before the history began come first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_trace(
    allocator: *mut drystone_allocator_t,
    device: i32,
    out: *mut *mut drystone_text_t,
) -> drystone_status_t {
    call("drystone_trace", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let make = || {
            let device = allocator.device(device)?.0;
            let mut snapshot = take(allocator);
            snapshot.segments.retain(|segment| segment.device == device);
            for (index, ring) in (0..).zip(&mut snapshot.device_traces) {
                if index != device {
                    ring.clear();
                }
            }
            let unsupported = |error: String| Failure::new(DRYSTONE_NOT_SUPPORTED, error);
            let events = snapshot
                .to_trace("history", &trace::Limits::default())
                .map_err(|error| unsupported(error.to_string()))?;
            let mut bytes = Vec::new();
            trace::write_csv(&events, &mut bytes)
                .map_err(|error| unsupported(error.to_string()))?;
            Ok(bytes)
        };
        // SAFETY: the header's rule for pointers.
        unsafe { hand_out(out, make) }
    })
}

/// The settings in force, as a text that can be given as `settings`; "" if all are at their default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_config_text(
    allocator: *mut drystone_allocator_t,
    out: *mut *mut drystone_text_t,
) -> drystone_status_t {
    call("drystone_config_text", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        // SAFETY: the header's rule for pointers.
        unsafe { hand_out(out, || Ok(allocator.core().settings().to_string().into_bytes())) }
    })
}

/// The allocator as torch's snapshot has it.
fn take(allocator: &drystone_allocator_t) -> trace::Snapshot {
    let core = allocator.core();
    // First what happened: that a snapshot was taken is an event of the next one, as in torch.
    let mut device_traces = vec![Vec::new(); core.device_count() as usize];
    let clock = Clock::new(core.driver().now_ns());
    let mut entry_pools = trace::EntryPools::default();
    for event in core.history() {
        let pool = entry_pools.number((event.pool.0, event.pool.1));
        device_traces[event.device.0 as usize].push(entry(&event, pool, &clock));
    }
    let segments = core.snapshot();
    let segments = segments.iter().map(|one| segment(one, is_mapped(allocator, one))).collect();
    let settings = settings(core);
    trace::Snapshot { segments, device_traces, settings, entry_pools, ..Default::default() }
}

fn segment(info: &SegmentInfo, is_expandable: bool) -> trace::Segment {
    let sum = |of: fn(&drystone_core::BlockInfo) -> u64| info.blocks.iter().map(of).sum();
    let active = |block: &drystone_core::BlockInfo| block.state != BlockState::Inactive;
    trace::Segment {
        device: info.device.0,
        address: info.address,
        total_size: info.size,
        allocated_size: sum(|block| match block.state {
            BlockState::ActiveAllocated => block.size,
            _ => 0,
        }),
        active_size: info.blocks.iter().filter(|block| active(block)).map(|b| b.size).sum(),
        // Free blocks have no requested bytes.
        requested_size: sum(|block| block.requested),
        stream: info.stream.0,
        segment_type: match info.kind {
            Kind::Small => trace::SegmentType::Small,
            Kind::Large => trace::SegmentType::Large,
        },
        segment_pool_id: (info.pool.0, info.pool.1),
        is_expandable,
        blocks: info
            .blocks
            .iter()
            .map(|block| trace::SnapshotBlock {
                address: block.address,
                size: block.size,
                requested_size: block.requested,
                state: match block.state {
                    BlockState::ActiveAllocated => trace::BlockState::Allocated,
                    BlockState::ActivePendingFree => trace::BlockState::PendingFree,
                    BlockState::Inactive => trace::BlockState::Inactive,
                },
                stack: trace::StackId::default(),
            })
            .collect(),
        stack: trace::StackId::default(),
    }
}

fn entry(event: &HistoryEvent, pool: trace::EntryPool, clock: &Clock) -> trace::TraceEntry {
    trace::TraceEntry {
        action: match event.action {
            Action::Alloc => trace::Action::Alloc,
            Action::FreeRequested => trace::Action::FreeRequested,
            Action::FreeCompleted => trace::Action::FreeCompleted,
            Action::SegmentAlloc => trace::Action::SegmentAlloc,
            Action::SegmentFree => trace::Action::SegmentFree,
            Action::SegmentMap => trace::Action::SegmentMap,
            Action::SegmentUnmap => trace::Action::SegmentUnmap,
            Action::Oom => trace::Action::OutOfMemory,
            Action::Snapshot => trace::Action::Snapshot,
            _ => trace::Action::Unknown,
        },
        addr: event.address,
        size: event.size,
        stream: event.stream.0,
        time_us: clock.unix_us(event.time_ns),
        stack: trace::StackId::default(),
        pool,
    }
}

/// The driver's clock beside the wall's: torch's snapshots have wall time.
struct Clock {
    driver_ns: u64,
    unix_ns: u64,
}

impl Clock {
    fn new(driver_ns: u64) -> Clock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { driver_ns, unix_ns: since.as_nanos() as u64 }
    }

    fn unix_us(&self, time_ns: u64) -> u64 {
        // Events are older than the clock, but for those written since it was looked at.
        self.unix_ns.saturating_add(time_ns).saturating_sub(self.driver_ns) / 1000
    }
}

/// torch's settings under torch's names, and all that are not at their default as text.
fn settings(core: &drystone_core::Allocator<crate::backend::Backend>) -> Vec<(String, String)> {
    let config = core.settings();
    let flag = |value: bool| (if value { "True" } else { "False" }).to_owned();
    let max_split = config.max_split_size.map_or("-1".to_owned(), |bytes| bytes.to_string());
    let mut settings = vec![
        ("PYTORCH_CUDA_ALLOC_CONF", config.to_string()),
        ("max_split_size", max_split),
        ("garbage_collection_threshold", format!("{:?}", config.garbage_collection_threshold)),
        ("expandable_segments", flag(config.expandable_segments)),
        ("release_lock_on_cudamalloc", flag(config.release_lock_on_cudamalloc)),
        ("graph_capture_record_stream_reuse", flag(config.graph_capture_record_stream_reuse)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect::<Vec<_>>();
    // By the size in MiB from which on they hold.
    settings.extend(config.roundup_power2_divisions.iter().enumerate().map(|(slot, divisions)| {
        (format!("roundup_power2_divisions.{}", 1u64 << slot), divisions.to_string())
    }));
    settings
}
