//! Private pools: memory kept apart, for captured graphs and for programs that want it so.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_core::{DeviceId, PoolId, Purpose, StreamId};

use crate::allocator::{drystone_allocator_t, drystone_stream_t, named};
use crate::status::{DRYSTONE_POOL_ERROR, Failure, call, drystone_status_t};

/// The name of a pool; {0, 0} is the default one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct drystone_pool_t {
    /// The first half of the name.
    pub a: u64,
    /// The second.
    pub b: u64,
}

impl From<drystone_pool_t> for PoolId {
    fn from(pool: drystone_pool_t) -> PoolId {
        PoolId(pool.a, pool.b)
    }
}

impl From<PoolId> for drystone_pool_t {
    fn from(PoolId(a, b): PoolId) -> drystone_pool_t {
        drystone_pool_t { a, b }
    }
}

/// A pool for memory that the program wants apart.
pub const DRYSTONE_PURPOSE_USER: i32 = 0;
/// A pool for a stream capture: until it ends nothing is waited for or given back on the device, and
/// until the pool is released its memory stays where it is, for the graph's replays.
pub const DRYSTONE_PURPOSE_CAPTURE: i32 = 1;

/// Whether a pool is to serve requests on `stream`. It runs at every request while the pool is begun,
/// on any thread, and must not call the library.
pub type drystone_filter_t =
    Option<unsafe extern "C" fn(stream: drystone_stream_t, user: *mut c_void) -> bool>;

/// A pointer of the program that its callbacks get back.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: the library never looks behind it, and the header says that callbacks may run on any thread.
unsafe impl Send for User {}
// SAFETY: likewise.
unsafe impl Sync for User {}

impl User {
    pub(crate) fn get(&self) -> *mut c_void {
        self.0
    }
}

/// "drystone" as a number: names from here are not those that torch gives.
const FIRST_HALF: u64 = u64::from_be_bytes(*b"drystone");

/// A name that no other pool has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_new_pool_id(out: *mut drystone_pool_t) -> drystone_status_t {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    call("drystone_new_pool_id", || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let b = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(drystone_pool_t { a: FIRST_HALF, b }) };
        Ok(())
    })
}

/// Lets requests on the streams that `filter` wants (NULL: all) be served from a pool of their own,
/// until `drystone_end_pool`. The pool is made on first use and held once more; give the hold back with
/// `drystone_release_pool`. Where several begun pools want a stream, the one begun last serves it.
/// `filter` and `user` must stay valid until the pool has ended and no request is under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_begin_pool(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
    purpose: i32,
    filter: drystone_filter_t,
    user: *mut c_void,
) -> drystone_status_t {
    call("drystone_begin_pool", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let purpose = match purpose {
            DRYSTONE_PURPOSE_USER => Purpose::User,
            DRYSTONE_PURPOSE_CAPTURE => Purpose::Capture,
            _ => {
                return Err(Failure::argument(format!(
                    "purpose is {purpose}: allowed are {DRYSTONE_PURPOSE_USER} (user) and \
                     {DRYSTONE_PURPOSE_CAPTURE} (capture)"
                )));
            }
        };
        let user = User(user);
        let filter = move |StreamId(stream): StreamId| match filter {
            None => true,
            // SAFETY: the program's function, which it keeps valid while the pool is begun.
            Some(filter) => unsafe { filter(stream, user.get()) },
        };
        let device = DeviceId(device as u32);
        Ok(allocator.core().begin_pool(device, pool.into(), purpose, filter)?)
    })
}

/// Ends what `drystone_begin_pool` began. The pool keeps its memory and its holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_end_pool(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
) -> drystone_status_t {
    call("drystone_end_pool", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().end_pool(DeviceId(device as u32), pool.into())?)
    })
}

/// Holds a pool once more without beginning it; it is made if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_retain_pool(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
) -> drystone_status_t {
    call("drystone_retain_pool", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().retain_pool(DeviceId(device as u32), pool.into())?)
    })
}

/// Gives one hold on a pool back. With the last one, what the pool caches serves others and goes back
/// to the device when that is asked for or memory is short; its live blocks stay valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_release_pool(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
) -> drystone_status_t {
    call("drystone_release_pool", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().release_pool(DeviceId(device as u32), pool.into())?)
    })
}

/// Gives what a pool caches back to the device, held or not: the bytes in `*released`, which may be
/// NULL. A pool that a captured graph holds is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_empty_pool(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
    released: *mut u64,
) -> drystone_status_t {
    call("drystone_empty_pool", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        let bytes = allocator.core().empty_pool_cache(DeviceId(device as u32), pool.into())?;
        if !released.is_null() {
            // SAFETY: not NULL, and the caller's to be written to.
            unsafe { released.write(bytes) };
        }
        Ok(())
    })
}

/// Lets a pool that is held serve requests of others too, before they fail for lack of memory: from its
/// free blocks, which go back to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_set_use_on_oom(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
    serves: bool,
) -> drystone_status_t {
    call("drystone_set_use_on_oom", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().set_use_on_oom(DeviceId(device as u32), pool.into(), serves)?)
    })
}

/// Lets each block of a pool have memory of its own from now on, whole pages or a whole segment, as it
/// is shown in snapshots.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_set_unsplit(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
) -> drystone_status_t {
    call("drystone_set_unsplit", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        Ok(allocator.core().set_unsplit(DeviceId(device as u32), pool.into())?)
    })
}

/// How often a pool is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_pool_use_count(
    allocator: *mut drystone_allocator_t,
    device: i32,
    pool: drystone_pool_t,
    out: *mut u32,
) -> drystone_status_t {
    call("drystone_pool_use_count", || {
        // SAFETY: the header's rule for allocators.
        let allocator = unsafe { named(allocator) }?;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let (device, pool) = (allocator.device(device)?, PoolId::from(pool));
        let uses = allocator.core().pool_use_count(device, pool).ok_or_else(|| {
            Failure::new(DRYSTONE_POOL_ERROR, format!("there is no {pool} on {device}"))
        })?;
        // SAFETY: not NULL, and the caller's to be written to.
        unsafe { out.write(uses) };
        Ok(())
    })
}
