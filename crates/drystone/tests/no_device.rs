//! A machine without CUDA gets an ordinary error, where cudarc alone would panic.

use drystone::{Error, Pool, cuda::CudaError};

#[test]
fn a_pool_or_an_error_that_says_why() {
    match Pool::open(0) {
        Ok(pool) => assert_eq!(pool.context().ordinal(), 0),
        Err(error) => {
            assert!(error.is_no_device(), "{error:?}");
            assert!(error.to_string().starts_with("no CUDA device: "), "{error}");
            assert!(!error.is_out_of_memory());
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    match Pool::open(12_345) {
        Ok(_) => panic!("there is no device 12345"),
        Err(Error::Cuda(CudaError::InvalidDevice { device, .. })) => assert_eq!(device, 12_345),
        Err(error) => assert!(error.is_no_device(), "{error}"),
    }
}
