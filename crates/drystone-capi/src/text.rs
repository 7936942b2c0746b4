//! Texts that the library makes and the program frees.

use std::ffi::c_char;

use crate::status::{Failure, call, drystone_status_t};

/// Bytes that the library owns: JSON, CSV, a pickle. Freed with `drystone_text_free`.
pub struct drystone_text_t {
    /// The bytes, and a 0 behind them so that text is a C string.
    bytes: Vec<u8>,
}

impl drystone_text_t {
    /// A text of these bytes.
    pub fn new(mut bytes: Vec<u8>) -> drystone_text_t {
        bytes.push(0);
        drystone_text_t { bytes }
    }

    fn content(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - 1]
    }
}

/// Hands the text that `make` makes to the program; `*out` is NULL if it fails.
///
/// # Safety
///
/// `out` is NULL or can be written to.
pub(crate) unsafe fn hand_out(
    out: *mut *mut drystone_text_t,
    make: impl FnOnce() -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    // SAFETY: the caller's.
    unsafe { out.write(std::ptr::null_mut()) };
    let text = Box::into_raw(Box::new(drystone_text_t::new(make()?)));
    // SAFETY: the caller's.
    unsafe { out.write(text) };
    Ok(())
}

/// The bytes of a text, with a 0 behind them. Valid until it is freed. Of NULL: "".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_text_data(text: *const drystone_text_t) -> *const c_char {
    // SAFETY: NULL, or a text that was not freed.
    let text = unsafe { text.as_ref() };
    text.map_or(c"".as_ptr(), |text| text.bytes.as_ptr().cast())
}

/// How many bytes a text has, without the 0 behind them. Of NULL: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_text_size(text: *const drystone_text_t) -> usize {
    // SAFETY: NULL, or a text that was not freed.
    let text = unsafe { text.as_ref() };
    text.map_or(0, |text| text.content().len())
}

/// Frees a text. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn drystone_text_free(text: *mut drystone_text_t) -> drystone_status_t {
    call("drystone_text_free", || {
        if !text.is_null() {
            // SAFETY: made by `hand_out`, and freed once.
            drop(unsafe { Box::from_raw(text) });
        }
        Ok(())
    })
}
