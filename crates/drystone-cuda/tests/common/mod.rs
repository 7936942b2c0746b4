//! The device for a test, or the line that says why the test is skipped.

use std::io::Write;

use drystone_core::DeviceId;
use drystone_cuda::{CudaDriver, CudaError};

/// The device that the tests use.
pub(crate) const DEVICE: DeviceId = DeviceId(0);

/// A driver, or `None` and one line on stderr where there is no device.
///
/// With `DRYSTONE_REQUIRE_GPU` set the test fails instead, so that a run on a GPU machine cannot
/// pass by skipping.
pub(crate) fn driver() -> Option<CudaDriver> {
    match CudaDriver::new() {
        Ok(driver) => Some(driver),
        Err(error @ CudaError::NoDevice(_)) => {
            assert!(std::env::var_os("DRYSTONE_REQUIRE_GPU").is_none(), "{error}");
            // Not eprintln: the test harness would keep the line of a test that passes. In one
            // piece, so that tests side by side do not mix their lines.
            let _ = std::io::stderr().write_all(format!("skipped: {error}\n").as_bytes());
            None
        }
        Err(error) => panic!("{error}"),
    }
}
