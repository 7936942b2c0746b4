//! What can go wrong with a pool and its buffers.

use cudarc::driver::DriverError;
use drystone_core::{AllocError, ConfigError, DeviceId, NewError, PoolError};
use drystone_cuda::CudaError;

/// Why a call of a [`Pool`](crate::Pool) or a [`PoolBuf`](crate::PoolBuf) failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device cannot be used, or there is none.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The configuration, from a string or from the environment, is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The allocator could not be made.
    #[error(transparent)]
    New(#[from] NewError),
    /// The memory could not be had. An [`OutOfMemory`](drystone_core::OutOfMemory) in it names the
    /// device by its ordinal.
    #[error(transparent)]
    Alloc(AllocError),
    /// A call about cached memory, or about a graph's memory, failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A call through cudarc failed, here or in an earlier call that could not say so (cudarc keeps
    /// errors of drops for the next call).
    #[error("cudarc: {0}")]
    Cudarc(#[from] DriverError),
    /// The context is not the device's primary one. Drystone allocates in that one only, as CUDA's
    /// runtime and PyTorch do: make it with `CudaContext::new`.
    #[error(
        "the context of device {ordinal} is not the primary one: make it with CudaContext::new"
    )]
    NotPrimary {
        /// The device.
        ordinal: usize,
    },
    /// The stream belongs to another context than the pool.
    #[error(
        "the stream is of device {stream}'s context, the pool of device {pool}'s: use a pool for each"
    )]
    WrongContext {
        /// The ordinal of the stream's device.
        stream: usize,
        /// The ordinal of the pool's device.
        pool: usize,
    },
    /// CUDA's per-thread default stream is a different stream in every thread, so no order of work.
    #[error(
        "the per-thread default stream is another one in every thread: use a stream of your own"
    )]
    PerThreadStream,
    /// The stream cannot end yet.
    #[error("{users} buffers or graphs still use the stream: drop them before it ends")]
    StreamInUse {
        /// How many.
        users: usize,
    },
    /// cudarc could not make the events that follow a buffer's uses: the device is lost, or memory
    /// of the host is short.
    #[error("the events of a buffer could not be made; see whether the device still works")]
    Events,
}

impl Error {
    /// Whether there is no GPU on this machine, or none that this process may use.
    pub fn is_no_device(&self) -> bool {
        matches!(self, Error::Cuda(CudaError::NoDevice(_)))
    }

    /// Whether memory was short; the same call may succeed once something is freed.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::Alloc(AllocError::OutOfMemory(_)))
    }

    /// An error of the allocator, which knows its only device as the first.
    pub(crate) fn of_device(mut error: AllocError, ordinal: usize) -> Error {
        if let AllocError::OutOfMemory(figures) = &mut error {
            figures.device = DeviceId(ordinal as u32);
        }
        Error::Alloc(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_core::{Allocator, Config, StreamId};
    use drystone_sim::{SimConfig, SimDriver};

    #[test]
    fn out_of_memory_names_the_device_by_its_ordinal() {
        let device = SimDriver::new(SimConfig::default().capacity(1 << 30)).expect("valid");
        let allocator = Allocator::new(device, Config::default()).expect("valid");
        let refused = allocator.allocate(2 << 30, DeviceId(0), StreamId(0));
        let error = Error::of_device(refused.expect_err("there is 1 GiB"), 3);
        assert!(error.is_out_of_memory() && !error.is_no_device());
        assert!(error.to_string().starts_with("out of memory on device 3: "), "{error}");
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let error = Error::of_device(AllocError::BadAlignment { align: 3 }, 3);
        assert_eq!(error, Error::Alloc(AllocError::BadAlignment { align: 3 }));
        assert!(!error.is_out_of_memory());
        let none = Error::from(CudaError::NoDevice(drystone_cuda::NoDevice::NoneVisible));
        assert!(none.is_no_device());
    }
}
