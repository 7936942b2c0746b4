//! The filter that torch gives a pool it begins: a `std::function<bool(cudaStream_t)>`, which has to be
//! copied, since it is asked long after the call that brought it.
//!
//! Its members are templates in a header: no library exports them, so there is no function to call for
//! "copy" or "ask". But its layout is fixed. Programs that were built with different versions of
//! libstdc++ pass these objects to each other, so its four words are what they were since GCC 4.5: two
//! of storage, a manager that copies and destroys what is stored, and an invoker. Both functions come
//! with the object, from the code that made it; nothing is known here of what is stored. torch's Linux
//! libraries are all built with libstdc++: the names that `exception` looks up are libstdc++'s.
//!
//! A filter that throws, as torch's do when CUDA itself fails, ends the process: the guard against
//! panics cannot pass a C++ exception on.

use std::ffi::{c_int, c_void};

/// What is stored: a pointer, or an object of up to two words.
type Storage = [usize; 2];

/// What a manager is asked to do, libstdc++'s numbers: to copy what the second argument stores into
/// the first, to destroy what the first stores.
const CLONE: c_int = 2;
const DESTROY: c_int = 3;

type Manager = unsafe extern "C-unwind" fn(*mut Storage, *const Storage, c_int) -> bool;
/// Takes the stream by reference.
type Invoker = unsafe extern "C-unwind" fn(*const Storage, *mut *mut c_void) -> bool;

/// libstdc++'s `std::function<bool(cudaStream_t)>`.
#[repr(C)]
struct Function {
    storage: Storage,
    manager: Option<Manager>,
    invoker: Option<Invoker>,
}

/// A copy of torch's filter.
pub(super) struct Filter {
    storage: Storage,
    manager: Manager,
    invoker: Invoker,
}

// SAFETY: torch asks its filters from whichever thread allocates: they read the state of a capture, or
// the number of the thread.
unsafe impl Send for Filter {}
// SAFETY: as above; nothing in it changes after it was copied.
unsafe impl Sync for Filter {}

impl Filter {
    /// A copy of the function at `function`; none if that is NULL or an empty function.
    ///
    /// # Safety
    /// `function` is NULL or a live `std::function<bool(cudaStream_t)>` of libstdc++.
    pub(super) unsafe fn copy(function: *const c_void) -> Option<Filter> {
        // SAFETY: the caller's promise.
        let function = unsafe { function.cast::<Function>().as_ref() }?;
        let (manager, invoker) = (function.manager?, function.invoker?);
        let mut storage = Storage::default();
        // SAFETY: the function's own manager, with what it stores and room for a copy.
        unsafe { manager(&raw mut storage, &raw const function.storage, CLONE) };
        Some(Filter { storage, manager, invoker })
    }

    /// Whether requests on this stream go to the pool.
    pub(super) fn wants(&self, stream: u64) -> bool {
        let mut stream = stream as *mut c_void;
        // SAFETY: the function's own invoker, with what its manager copied.
        unsafe { (self.invoker)(&raw const self.storage, &raw mut stream) }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let storage = &raw mut self.storage;
        // SAFETY: what the manager copied, destroyed once.
        unsafe { (self.manager)(storage, storage, DESTROY) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

    use super::*;

    static COPIES: AtomicI32 = AtomicI32::new(0);

    unsafe extern "C-unwind" fn manage(
        to: *mut Storage,
        from: *const Storage,
        what: c_int,
    ) -> bool {
        match what {
            // SAFETY: the test passes live storage.
            CLONE => unsafe {
                to.write(from.read());
                COPIES.fetch_add(1, SeqCst);
            },
            DESTROY => {
                COPIES.fetch_sub(1, SeqCst);
            }
            other => panic!("not asked for: {other}"),
        }
        false
    }

    /// Wants the stream that is stored.
    unsafe extern "C-unwind" fn ask(stored: *const Storage, stream: *mut *mut c_void) -> bool {
        // SAFETY: the test passes live storage and a live stream.
        unsafe { (*stored)[0] == *stream as usize }
    }

    #[test]
    fn a_copy_outlives_the_function_and_is_destroyed() {
        let filter = {
            let function = Function { storage: [7, 0], manager: Some(manage), invoker: Some(ask) };
            // SAFETY: laid out as libstdc++ does.
            unsafe { Filter::copy((&raw const function).cast()) }.expect("not empty")
        };
        assert_eq!(COPIES.load(SeqCst), 1);
        assert!(filter.wants(7) && !filter.wants(8));
        drop(filter);
        assert_eq!(COPIES.load(SeqCst), 0);
    }

    #[test]
    fn nothing_is_no_filter() {
        let empty = Function { storage: [0, 0], manager: None, invoker: None };
        // SAFETY: NULL, and an empty function.
        unsafe {
            assert!(Filter::copy(std::ptr::null()).is_none());
            assert!(Filter::copy((&raw const empty).cast()).is_none());
        }
    }
}
