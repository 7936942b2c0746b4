//! A machine without CUDA gets an ordinary error.

use drystone_core::Driver;
use drystone_cuda::{CudaDriver, CudaError, NoDevice};

#[test]
fn a_driver_or_an_error_that_says_why() {
    for attempt in [CudaDriver::new(), CudaDriver::with_devices(&[0]), CudaDriver::new()] {
        match attempt {
            Ok(driver) => assert!(driver.device_count() >= 1),
            Err(error) => {
                assert!(error.to_string().starts_with("no CUDA device: "), "{error}");
                assert!(matches!(error, CudaError::NoDevice(_)), "{error:?}");
            }
        }
    }
}

#[test]
fn the_answer_stays_the_same() {
    let reason = |attempt: Result<CudaDriver, CudaError>| match attempt {
        Ok(_) => None,
        Err(CudaError::NoDevice(reason)) => Some(reason),
        Err(error) => panic!("{error}"),
    };
    let first: Option<NoDevice> = reason(CudaDriver::new());
    assert_eq!(first, reason(CudaDriver::new()));
}
