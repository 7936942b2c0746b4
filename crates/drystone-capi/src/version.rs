//! Versions of the library and of its binary interface.

use std::ffi::c_char;

/// The version of the binary interface that this header describes. It changes when programs have to be
/// compiled again; functions and fields at the end of structs that carry their size come without.
pub const DRYSTONE_ABI_VERSION: u32 = 1;

/// The version of the binary interface that the library has. A program that was compiled with another
/// `DRYSTONE_ABI_VERSION` must not go on.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_abi_version() -> u32 {
    DRYSTONE_ABI_VERSION
}

/// The library's version, such as "0.1.0". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn drystone_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
