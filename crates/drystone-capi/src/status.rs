//! What a call answers: status codes, the text of a thread's last error, and the guard that no panic
//! passes.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use drystone_core::{
    AllocError, ConfigError, DriverError, DriverErrorKind, InvalidDevice, NewError, PointerError,
    PoolError,
};

/// What a function of the library answers: `DRYSTONE_OK`, or why it did nothing.
pub type drystone_status_t = i32;

/// It was done.
pub const DRYSTONE_OK: drystone_status_t = 0;
/// An argument is NULL or has a value that is not allowed.
pub const DRYSTONE_INVALID_ARGUMENT: drystone_status_t = 1;
/// The settings, in the environment or given, are wrong.
pub const DRYSTONE_INVALID_CONFIG: drystone_status_t = 2;
/// An address is not one that the allocator handed out, or not live any more.
pub const DRYSTONE_INVALID_POINTER: drystone_status_t = 3;
/// Neither the cache nor the device has the memory, or a limit forbids to take it.
pub const DRYSTONE_OUT_OF_MEMORY: drystone_status_t = 4;
/// There is no CUDA device on this machine, or no driver for it.
pub const DRYSTONE_NO_DEVICE: drystone_status_t = 5;
/// The device's driver failed.
pub const DRYSTONE_DRIVER_ERROR: drystone_status_t = 6;
/// A pool is not known, has begun already, has not begun, or may not be used so.
pub const DRYSTONE_POOL_ERROR: drystone_status_t = 7;
/// The device, its driver or the library cannot do this.
pub const DRYSTONE_NOT_SUPPORTED: drystone_status_t = 8;
/// A struct that the library is to fill is too small: its `struct_size` was not set.
pub const DRYSTONE_BUFFER_TOO_SMALL: drystone_status_t = 9;
/// The library has a fault, which was caught. Please report the text of the error.
pub const DRYSTONE_INTERNAL: drystone_status_t = 10;

/// The names of the codes, by code.
const NAMES: [&CStr; 11] = [
    c"DRYSTONE_OK",
    c"DRYSTONE_INVALID_ARGUMENT",
    c"DRYSTONE_INVALID_CONFIG",
    c"DRYSTONE_INVALID_POINTER",
    c"DRYSTONE_OUT_OF_MEMORY",
    c"DRYSTONE_NO_DEVICE",
    c"DRYSTONE_DRIVER_ERROR",
    c"DRYSTONE_POOL_ERROR",
    c"DRYSTONE_NOT_SUPPORTED",
    c"DRYSTONE_BUFFER_TOO_SMALL",
    c"DRYSTONE_INTERNAL",
];

/// A call that did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Never `DRYSTONE_OK`.
    pub status: drystone_status_t,
    /// What went wrong and what is allowed, without the function's name.
    pub text: String,
}

impl Failure {
    /// A failure with its words.
    pub fn new(status: drystone_status_t, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    /// An argument that is not allowed.
    #[cold]
    pub fn argument(text: impl Into<String>) -> Failure {
        Failure::new(DRYSTONE_INVALID_ARGUMENT, text)
    }

    /// A pointer that may not be NULL, by the name of the argument.
    #[cold]
    pub fn null(argument: &str) -> Failure {
        Failure::argument(format!("{argument} is NULL"))
    }
}

impl From<AllocError> for Failure {
    fn from(error: AllocError) -> Failure {
        let status = match error {
            AllocError::Device(error) => return error.into(),
            AllocError::Driver(error) => return error.into(),
            // More than any device has is more than this one has.
            AllocError::OutOfMemory(_) | AllocError::TooLarge { .. } => DRYSTONE_OUT_OF_MEMORY,
            AllocError::BadAlignment { .. } | AllocError::NotFree { .. } => {
                DRYSTONE_INVALID_ARGUMENT
            }
            _ => DRYSTONE_NOT_SUPPORTED,
        };
        Failure::new(status, error.to_string())
    }
}

impl From<PointerError> for Failure {
    fn from(error: PointerError) -> Failure {
        Failure::new(DRYSTONE_INVALID_POINTER, error.to_string())
    }
}

impl From<InvalidDevice> for Failure {
    fn from(InvalidDevice { device, count }: InvalidDevice) -> Failure {
        // As the caller wrote it: a C program says -1 where the allocator sees a large number.
        let device = device.0 as i32;
        Failure::argument(format!(
            "there is no device {device}: the driver has {count}, numbered from 0"
        ))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Failure {
        match error {
            PoolError::Device(error) => error.into(),
            PoolError::Driver(error) => error.into(),
            _ => Failure::new(DRYSTONE_POOL_ERROR, error.to_string()),
        }
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        let status = match error.kind {
            DriverErrorKind::OutOfMemory => DRYSTONE_OUT_OF_MEMORY,
            DriverErrorKind::NotSupported => DRYSTONE_NOT_SUPPORTED,
            _ => DRYSTONE_DRIVER_ERROR,
        };
        Failure::new(status, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(DRYSTONE_INVALID_CONFIG, error.to_string())
    }
}

impl From<NewError> for Failure {
    fn from(error: NewError) -> Failure {
        match error {
            NewError::Config(error) => error.into(),
            NewError::Driver(error) => error.into(),
            _ => Failure::new(DRYSTONE_INTERNAL, error.to_string()),
        }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of the library's function `name`: a failure and a panic become a status and the
/// thread's last error. Success costs nothing beside the call.
#[inline(always)]
pub fn call(name: &'static str, body: impl FnOnce() -> Result<(), Failure>) -> drystone_status_t {
    guarded(name, || match body() {
        Ok(()) => DRYSTONE_OK,
        Err(failure) => report(name, failure),
    })
}

/// Likewise for a body that reports its failures itself, with [`report`].
#[inline(always)]
pub fn guarded(name: &'static str, body: impl FnOnce() -> drystone_status_t) -> drystone_status_t {
    // What a panic may have left half done is the allocator's, whose locks it released: the caller
    // is told that the library has a fault.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| report_panic(name, &*panic))
}

/// Makes a failure of the library's function `name` the thread's last error: its status.
#[cold]
pub fn report(name: &'static str, failure: impl Into<Failure>) -> drystone_status_t {
    let Failure { status, text } = failure.into();
    set_last_error(format!("{name}: {text}"));
    status
}

#[cold]
fn report_panic(name: &'static str, panic: &(dyn Any + Send)) -> drystone_status_t {
    let words = (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words");
    let text = format!("the library has a fault, please report it: {words}");
    report(name, Failure::new(DRYSTONE_INTERNAL, text))
}

/// Sets the text that `drystone_last_error` answers on this thread.
pub fn set_last_error(mut text: String) {
    text.retain(|c| c != '\0');
    // SAFETY: no byte of it is 0.
    let text = unsafe { CString::from_vec_unchecked(text.into_bytes()) };
    // A thread that is ending has no last error any more, which nobody can ask for either.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// Why the last call of this thread that failed did so: the function's name and a sentence. Never NULL;
/// empty if none has failed. Valid until the thread's next call that fails. Calls that succeed leave it
/// as it is.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a status code, such as "DRYSTONE_OK"; "unknown status" for another number. Never NULL,
/// and valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_status_name(status: drystone_status_t) -> *const c_char {
    let name = usize::try_from(status).ok().and_then(|status| NAMES.get(status));
    name.unwrap_or(&c"unknown status").as_ptr()
}

#[cfg(test)]
mod tests {
    use drystone_core::DriverCall;

    use super::*;

    fn last_error() -> String {
        // SAFETY: it points to a text of this thread, which nothing changes meanwhile.
        let text = unsafe { CStr::from_ptr(drystone_last_error()) };
        text.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn a_panic_ends_at_the_boundary() {
        assert_eq!(call("drystone_test", || panic!("lost count")), DRYSTONE_INTERNAL);
        let expected = "drystone_test: the library has a fault, please report it: lost count";
        assert_eq!(last_error(), expected);
        assert_eq!(call("drystone_test", || panic!("{} of {}", 1, 2)), DRYSTONE_INTERNAL);
        assert!(last_error().ends_with("1 of 2"));
    }

    #[test]
    fn success_leaves_the_last_error_and_a_failure_replaces_it() {
        assert_eq!(call("first", || Err(Failure::null("out"))), DRYSTONE_INVALID_ARGUMENT);
        assert_eq!(call("second", || Ok(())), DRYSTONE_OK);
        assert_eq!(last_error(), "first: out is NULL");
        let with_nul = Failure::argument("a\0b");
        assert_eq!(call("third", || Err(with_nul)), DRYSTONE_INVALID_ARGUMENT);
        assert_eq!(last_error(), "third: ab");
    }

    #[test]
    fn threads_do_not_see_each_others_errors() {
        set_last_error("mine".into());
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().expect("no panic");
        assert_eq!(last_error(), "mine");
    }

    #[test]
    fn every_error_has_the_status_of_what_it_means() {
        let driver =
            |kind| DriverError { call: DriverCall::Map, kind, code: 7, detail: "no".into() };
        let table: [(Failure, drystone_status_t, &str); 8] = [
            (AllocError::TooLarge { size: 1 << 50 }.into(), DRYSTONE_OUT_OF_MEMORY, "at most"),
            (AllocError::TooManyHeaps(9).into(), DRYSTONE_NOT_SUPPORTED, "too many streams"),
            (driver(DriverErrorKind::OutOfMemory).into(), DRYSTONE_OUT_OF_MEMORY, "map failed"),
            (driver(DriverErrorKind::NotSupported).into(), DRYSTONE_NOT_SUPPORTED, "map failed"),
            (driver(DriverErrorKind::DeviceLost).into(), DRYSTONE_DRIVER_ERROR, "(code 7)"),
            (
                PoolError::Driver(driver(DriverErrorKind::Other)).into(),
                DRYSTONE_DRIVER_ERROR,
                "map failed: no",
            ),
            (PoolError::Default.into(), DRYSTONE_POOL_ERROR, "default pool"),
            (
                PointerError::Foreign { pointer: 16 }.into(),
                DRYSTONE_INVALID_POINTER,
                "0x10 is not this allocator's",
            ),
        ];
        for (failure, status, words) in table {
            assert_eq!(failure.status, status, "{failure:?}");
            assert!(failure.text.contains(words), "{failure:?}");
        }
    }
}
