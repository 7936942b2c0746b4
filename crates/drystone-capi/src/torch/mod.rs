//! torch's entry points (`drystone_torch_*`): what `CUDAPluggableAllocator` calls, over the allocator of
//! the process.
//!
//! They have torch's signatures, which know no status: a failure is a C++ exception, torch's own where
//! torch is loaded (see `exception`). Exceptions leave from the functions in this file only, once
//! everything that needs dropping has been dropped. Streams are `cudaStream_t`, passed as pointers.

mod exception;
mod filter;
mod message;
mod symbols;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_int, c_void};
use std::io::Write;

use drystone_core::{DeviceId, PointerError, PoolId, Purpose, StreamId};

use self::exception::{Exception, Raise};
use self::filter::Filter;
use crate::process;
use crate::status::{
    DRYSTONE_NOT_SUPPORTED, DRYSTONE_OK, DRYSTONE_OUT_OF_MEMORY, Failure, call,
    drystone_last_error, drystone_status_t, guarded, report,
};

/// Allocates for torch: `size` bytes of a device, to be used on `stream` first. 0 bytes are NULL. Throws
/// `c10::OutOfMemoryError` (in Python `torch.OutOfMemoryError`) if there is no memory, `c10::Error` on
/// other failures, and `std::bad_alloc` for either where torch's exceptions cannot be made; see
/// `drystone_torch_exceptions`. NULL for more than 0 bytes only in a process without a C++ runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_alloc(
    size: usize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    let served = attempt("drystone_torch_alloc", || {
        let core = process::allocator()?.core();
        // A negative index becomes one that no driver has.
        let device = DeviceId(device as u32);
        let stream = StreamId(stream as u64);
        core.allocate(size as u64, device, stream)
            .map_err(|error| message::failure(core, device, error))
    });
    match served {
        Ok(address) => address as *mut c_void,
        Err(exception) => {
            // SAFETY: this frame has nothing to drop, and its caller is C++.
            unsafe { exception.throw() };
            std::ptr::null_mut()
        }
    }
}

/// Takes back what `drystone_torch_alloc` handed out, in the order of the stream that it was handed out
/// for. NULL is accepted. It may run in a destructor, so it does not throw: what cannot be freed is
/// said on the standard error stream, and stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_torch_free(
    pointer: *mut c_void,
    _size: usize,
    _device: c_int,
    _stream: *mut c_void,
) {
    const NAME: &str = "drystone_torch_free";
    guarded(NAME, || {
        let Some(core) = process::existing() else {
            return complain(NAME, Failure::argument("nothing was allocated yet"));
        };
        match core.free(pointer as u64) {
            Ok(()) => DRYSTONE_OK,
            Err(error) => complain(NAME, error),
        }
    });
}

/// Makes the allocator, so that wrong settings are said when CUDA is initialized and not at the first
/// tensor. Throws `c10::Error`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_init(device_count: c_int) {
    let made = attempt("drystone_torch_init", || match device_count {
        1.. => process::allocator().map(|_| ()),
        _ => Ok(()),
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(made) };
}

/// Gives the cached memory of all devices back to them: torch's `empty_cache`. Throws `c10::Error`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_reset() {
    let emptied = attempt("drystone_torch_reset", || {
        let Some(core) = process::existing() else { return Ok(()) };
        for device in (0..core.device_count()).map(DeviceId) {
            // A device that is not in use is not to be opened for this.
            if core.reserved_bytes(device)? > 0 {
                core.empty_cache(device)?;
            }
        }
        Ok(())
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(emptied) };
}

/// Lets at most this part of a device's memory be reserved: torch's
/// `set_per_process_memory_fraction`. Throws `c10::Error` for a device that is not there.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_memory_fraction(fraction: f64, device: c_int) {
    let set = attempt("drystone_torch_memory_fraction", || {
        let core = process::allocator()?.core();
        Ok(core.set_memory_fraction(DeviceId(device as u32), fraction)?)
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(set) };
}

/// The first address of the block around `pointer`, and its bytes in `*size` (NULL is accepted). NULL
/// is its own base. Throws `c10::Error` for an address in no live block.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_base_alloc(
    pointer: *mut c_void,
    size: *mut usize,
) -> *mut c_void {
    let found = attempt("drystone_torch_base_alloc", || {
        if pointer.is_null() {
            return Ok((0, 0));
        }
        let core = process::allocator()?.core();
        let block = match core.block_info(pointer as u64) {
            Err(PointerError::Interior { block, .. }) => core.block_info(block),
            other => other,
        }?;
        Ok((block.address, block.size))
    });
    match found {
        Ok((address, bytes)) => {
            if !size.is_null() {
                // SAFETY: not NULL, and torch's to be written to.
                unsafe { size.write(bytes as usize) };
            }
            address as *mut c_void
        }
        Err(exception) => {
            // SAFETY: this frame has nothing to drop, and its caller is C++.
            unsafe { exception.throw() };
            std::ptr::null_mut()
        }
    }
}

/// Says that work on `stream` uses the block at `pointer` too: torch's `record_stream`. As in torch,
/// NULL and memory of others are passed over; an address inside a block means the block. Throws
/// `c10::Error` for an address that was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_record_stream(
    pointer: *mut c_void,
    stream: *mut c_void,
) {
    let recorded = attempt("drystone_torch_record_stream", || {
        let Some(core) = process::existing() else { return Ok(()) };
        let stream = StreamId(stream as u64);
        let recorded = match core.record_stream(pointer as u64, stream) {
            Err(PointerError::Interior { block, .. }) => core.record_stream(block, stream),
            other => other,
        };
        match recorded {
            Err(PointerError::Foreign { .. }) => Ok(()),
            other => Ok(other?),
        }
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(recorded) };
}

/// Lets requests on the streams that a filter wants be served from the pool (`a`, `b`), as for the
/// capture of a graph. `filter` is a `std::function<bool(cudaStream_t)> *` of libstdc++, and is copied;
/// NULL and an empty one are every stream. Throws `c10::Error`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_begin_pool(
    device: c_int,
    a: u64,
    b: u64,
    filter: *mut c_void,
) {
    let begun = attempt("drystone_torch_begin_pool", || {
        let core = process::allocator()?.core();
        // SAFETY: the header's rule for this function.
        let filter = unsafe { Filter::copy(filter) };
        let wants =
            move |stream: StreamId| filter.as_ref().is_none_or(|filter| filter.wants(stream.0));
        Ok(core.begin_pool(DeviceId(device as u32), PoolId(a, b), Purpose::Capture, wants)?)
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(begun) };
}

/// Ends what `drystone_torch_begin_pool` began. Throws `c10::Error`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn drystone_torch_end_pool(device: c_int, a: u64, b: u64) {
    let ended = attempt("drystone_torch_end_pool", || {
        let core = process::allocator()?.core();
        Ok(core.end_pool(DeviceId(device as u32), PoolId(a, b))?)
    });
    // SAFETY: this frame has nothing to drop, and its caller is C++.
    unsafe { throw_if(ended) };
}

/// Gives one hold on a pool back: its graph is gone. It may run in a destructor, so it does not throw: a
/// pool that is not held is said on the standard error stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_torch_release_pool(device: c_int, a: u64, b: u64) {
    const NAME: &str = "drystone_torch_release_pool";
    guarded(NAME, || {
        let Some(core) = process::existing() else { return DRYSTONE_OK };
        match core.release_pool(DeviceId(device as u32), PoolId(a, b)) {
            Ok(()) => DRYSTONE_OK,
            Err(error) => complain(NAME, error),
        }
    });
}

/// Lets what the calling thread requests be served from the pool (`a`, `b`) until
/// `drystone_end_pool`: torch's `use_mem_pool`. The pool is held once more.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_torch_begin_thread_pool(
    device: c_int,
    a: u64,
    b: u64,
) -> drystone_status_t {
    call("drystone_torch_begin_thread_pool", || {
        let core = process::allocator()?.core();
        let thread = std::thread::current().id();
        let wants = move |_| std::thread::current().id() == thread;
        Ok(core.begin_pool(DeviceId(device as u32), PoolId(a, b), Purpose::User, wants)?)
    })
}

/// Whether `drystone_torch_alloc` can throw torch's own exceptions in this process:
/// `DRYSTONE_OK`, else `DRYSTONE_NOT_SUPPORTED` and, as the last error, what it does instead and why.
/// Asked after torch was imported.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_torch_exceptions() -> drystone_status_t {
    call("drystone_torch_exceptions", || {
        exception::describe().map_err(|why| Failure::new(DRYSTONE_NOT_SUPPORTED, why))
    })
}

/// Runs the body of an entry point: its value, or the exception to throw. Success costs nothing beside
/// the call.
#[inline(always)]
fn attempt<T>(
    name: &'static str,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Exception> {
    let mut result = None;
    let status = guarded(name, || {
        result = Some(body());
        DRYSTONE_OK
    });
    match result {
        Some(Ok(value)) if status == DRYSTONE_OK => Ok(value),
        Some(Err(failure)) => Err(raise(name, failure)),
        _ => Err(raise_last_error()),
    }
}

/// Makes an exception of a panic, which the guard made the thread's last error.
#[cold]
fn raise_last_error() -> Exception {
    // SAFETY: a text of this thread, which nothing changes before it is read.
    let text = unsafe { CStr::from_ptr(drystone_last_error()) };
    exception::exception(Raise::Error, &text.to_string_lossy())
}

/// Makes a failure the thread's last error and an exception.
#[cold]
fn raise(name: &'static str, failure: Failure) -> Exception {
    let kind = match failure.status {
        DRYSTONE_OUT_OF_MEMORY => Raise::OutOfMemory,
        _ => Raise::Error,
    };
    let exception = exception::exception(kind, &failure.text);
    report(name, failure);
    exception
}

/// Throws the exception if there is one.
///
/// # Safety
/// As [`Exception::throw`].
#[inline(always)]
unsafe fn throw_if(result: Result<(), Exception>) {
    if let Err(exception) = result {
        // SAFETY: the caller's promise.
        unsafe { exception.throw() };
    }
}

/// Reports a failure that nobody is told otherwise.
#[cold]
fn complain(name: &'static str, failure: impl Into<Failure>) -> drystone_status_t {
    let failure = failure.into();
    // Where that stream is closed, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "drystone: {name}: {}", failure.text);
    report(name, failure)
}
