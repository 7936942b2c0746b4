//! What the integration tests share.

pub(crate) mod encode;
pub(crate) mod rows;
pub(crate) mod torch;

use std::path::PathBuf;

/// A file of the recorded traces.
#[allow(dead_code, reason = "not every test reads recorded traces")]
pub(crate) fn recorded(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../traces").join(name)
}
