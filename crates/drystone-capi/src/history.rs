//! The history: the last events, kept on request, and the clock that they are timed by.

use std::ffi::c_void;

use drystone_core::{Action, Driver, HistoryEvent};

use crate::allocator::{drystone_allocator_t, drystone_stream_t, named};
use crate::limits::give;
use crate::pools::drystone_pool_t;
use crate::status::{Failure, call, drystone_status_t};

/// A block was handed out.
pub const DRYSTONE_ACTION_ALLOC: i32 = 0;
/// Its owner freed it.
pub const DRYSTONE_ACTION_FREE_REQUESTED: i32 = 1;
/// Its bytes became reusable.
pub const DRYSTONE_ACTION_FREE_COMPLETED: i32 = 2;
/// A segment was taken from the driver.
pub const DRYSTONE_ACTION_SEGMENT_ALLOC: i32 = 3;
/// A segment was given back to it.
pub const DRYSTONE_ACTION_SEGMENT_FREE: i32 = 4;
/// Pages came to an arena.
pub const DRYSTONE_ACTION_SEGMENT_MAP: i32 = 5;
/// Pages left an arena.
pub const DRYSTONE_ACTION_SEGMENT_UNMAP: i32 = 6;
/// A request ended in out of memory.
pub const DRYSTONE_ACTION_OOM: i32 = 7;
/// A snapshot was taken.
pub const DRYSTONE_ACTION_SNAPSHOT: i32 = 8;

/// One event of the history.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct drystone_event_t {
    /// When, by `drystone_clock_ns`.
    pub time_ns: u64,
    /// The block's or segment's address; of `DRYSTONE_ACTION_OOM` the device's free bytes.
    pub address: u64,
    /// Bytes: asked for, of a block; of a segment, its own.
    pub size: u64,
    /// The stream.
    pub stream: drystone_stream_t,
    /// The pool.
    pub pool: drystone_pool_t,
    /// The device.
    pub device: i32,
    /// What happened: a `DRYSTONE_ACTION_*`; other numbers may come with later libraries.
    pub action: i32,
}

/// Shown one event; it may call the library.
pub type drystone_visit_event_t =
    Option<unsafe extern "C" fn(event: *const drystone_event_t, user: *mut c_void)>;

/// Keeps the last `entries` events from now on; 0 stops and forgets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_history_set(
    allocator: *mut drystone_allocator_t,
    entries: usize,
) -> drystone_status_t {
    call("drystone_history_set", || {
        // SAFETY: the header's rule for allocators.
        unsafe { named(allocator) }?.core().set_history(entries);
        Ok(())
    })
}

/// Shows the events that are kept, oldest first, from number `since` on; they are numbered from 0 in
/// the order they were written. `*next`, which may be NULL, is the number after the last, from which to
/// go on another time. Events are the program's to look at during the call of `visit` only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_visit_history(
    allocator: *mut drystone_allocator_t,
    since: u64,
    visit: drystone_visit_event_t,
    user: *mut c_void,
    next: *mut u64,
) -> drystone_status_t {
    call("drystone_visit_history", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let visit = visit.ok_or_else(|| Failure::null("visit"))?;
        let (events, after) = allocator.core().history_since(since);
        for event in &events {
            let shown = shown(event);
            // SAFETY: the program's function.
            unsafe { visit(&raw const shown, user) };
        }
        if !next.is_null() {
            // SAFETY: not NULL, and the caller's to be written to.
            unsafe { next.write(after) };
        }
        Ok(())
    })
}

fn shown(event: &HistoryEvent) -> drystone_event_t {
    drystone_event_t {
        time_ns: event.time_ns,
        address: event.address,
        size: event.size,
        stream: event.stream.0,
        pool: event.pool.into(),
        device: event.device.0 as i32,
        action: match event.action {
            Action::Alloc => DRYSTONE_ACTION_ALLOC,
            Action::FreeRequested => DRYSTONE_ACTION_FREE_REQUESTED,
            Action::FreeCompleted => DRYSTONE_ACTION_FREE_COMPLETED,
            Action::SegmentAlloc => DRYSTONE_ACTION_SEGMENT_ALLOC,
            Action::SegmentFree => DRYSTONE_ACTION_SEGMENT_FREE,
            Action::SegmentMap => DRYSTONE_ACTION_SEGMENT_MAP,
            Action::SegmentUnmap => DRYSTONE_ACTION_SEGMENT_UNMAP,
            Action::Oom => DRYSTONE_ACTION_OOM,
            Action::Snapshot => DRYSTONE_ACTION_SNAPSHOT,
            // A new kind that this interface has no number for yet.
            _ => -1,
        },
    }
}

/// The clock of the history in nanoseconds, from an origin of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_clock_ns(
    allocator: *mut drystone_allocator_t,
    out: *mut u64,
) -> drystone_status_t {
    call("drystone_clock_ns", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        // SAFETY: the header's rule for pointers.
        unsafe { give(out, "out", allocator.core().driver().now_ns()) }
    })
}
