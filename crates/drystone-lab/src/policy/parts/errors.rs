//! What policies say when something fails.

use drystone_core::{DriverError, DriverErrorKind};

use crate::policy::Refusal;

/// A request fails because the driver did: for want of memory, in the policy's own `words`, or for
/// another reason, in the driver's.
#[cold]
pub(in crate::policy) fn refusal(error: &DriverError, words: impl FnOnce() -> String) -> Refusal {
    match error.kind {
        DriverErrorKind::OutOfMemory => Refusal::OutOfMemory(words().into()),
        _ => Refusal::Broken(error.to_string().into()),
    }
}

/// A free names an address at which no block starts.
#[cold]
pub(in crate::policy) fn no_block(address: u64) -> String {
    format!("no live block starts at {address:#x}")
}
