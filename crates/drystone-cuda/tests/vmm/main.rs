//! Addresses, handles and mappings on a real device; skipped where there is none, or where it
//! cannot map memory.

#[path = "../common/mod.rs"]
mod common;
mod memory;
mod rules;

use std::io::Write;

use common::DEVICE;
use drystone_core::{Driver, DriverError, DriverErrorKind};
use drystone_cuda::CudaDriver;

/// The value, or `None` and one line on stderr where the device cannot do it; as for a missing
/// device, `DRYSTONE_REQUIRE_GPU` makes the test fail instead.
fn supported<T>(result: Result<T, DriverError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind == DriverErrorKind::NotSupported => {
            assert!(std::env::var_os("DRYSTONE_REQUIRE_GPU").is_none(), "{error}");
            let _ = std::io::stderr().write_all(format!("skipped: {error}\n").as_bytes());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The page, where the device can map memory.
fn page(driver: &CudaDriver) -> Option<u64> {
    let page = supported(driver.page_bytes(DEVICE))?;
    assert!(page.is_power_of_two());
    assert_eq!(driver.page_bytes(DEVICE), Ok(page), "it stays the same");
    Some(page)
}
