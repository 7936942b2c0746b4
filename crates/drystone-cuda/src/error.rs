//! What can go wrong with the CUDA device, in words and as the allocator's kinds.

use drystone_core::{DriverCall, DriverError, DriverErrorKind};

use crate::codes;

/// The oldest CUDA version whose driver has all that this crate calls.
pub(crate) const OLDEST_CUDA: &str = "11.4 (driver 470)";

/// Why there is no CUDA device to work with, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// The driver library is not on this machine, or cannot be opened.
    #[error(
        "the driver library (libcuda.so.1) was not found; install NVIDIA's driver, or give the \
         container its GPUs"
    )]
    LibraryNotFound,
    /// The library was found, but it lacks a function.
    #[error(
        "the driver is too old: it has no {function}; install one for CUDA {OLDEST_CUDA} or newer"
    )]
    DriverTooOld {
        /// The function that is missing.
        function: &'static str,
    },
    /// The library is the toolkit's stub for linking.
    #[error(
        "the libcuda that was found is the toolkit's stub, not a driver; take its `stubs` folder \
         out of the library path"
    )]
    StubLibrary,
    /// The driver works, but shows no device.
    #[error(
        "the driver reports no device; see what nvidia-smi lists and whether CUDA_VISIBLE_DEVICES \
         hides it"
    )]
    NoneVisible,
    /// The driver could not be started.
    #[error("the driver reports {} from {function}; see whether nvidia-smi works", codes::name(*code))]
    Failed {
        /// The driver function.
        function: &'static str,
        /// Its `CUresult`.
        code: i32,
    },
}

impl NoDevice {
    /// The reason behind a failure of the first calls.
    pub(crate) fn from_code(function: &'static str, code: i32) -> NoDevice {
        match code {
            codes::STUB_LIBRARY => NoDevice::StubLibrary,
            codes::NO_DEVICE => NoDevice::NoneVisible,
            _ => NoDevice::Failed { function, code },
        }
    }
}

/// A failed call of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no CUDA device to work with.
    #[error("no CUDA device: {0}")]
    NoDevice(NoDevice),
    /// A device index that this driver does not have.
    #[error("there is no device {device}: {count} are here, counted from 0")]
    InvalidDevice {
        /// The index asked for.
        device: u32,
        /// The number of devices there are.
        count: u32,
    },
    /// An argument was wrong; found before the driver was asked.
    #[error("invalid: {0}")]
    InvalidValue(String),
    /// More memory or addresses were asked for than there can be.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device or its driver cannot do this.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// The call is not allowed while the stream is captured; found before the driver was asked, so
    /// that the capture goes on.
    #[error("stream {stream:#x} is being captured")]
    Capturing {
        /// The stream's handle.
        stream: u64,
    },
    /// The driver refused.
    #[error("{function} gave {}", codes::name(*code))]
    Call {
        /// The driver function.
        function: &'static str,
        /// Its `CUresult`.
        code: i32,
    },
    /// The driver said that it succeeded, but its answer cannot be used.
    #[error("{function} gave an answer that cannot be used: {detail}")]
    Contract {
        /// The driver function.
        function: &'static str,
        /// The answer.
        detail: String,
    },
}

impl CudaError {
    pub(crate) fn contract(function: &'static str, detail: impl Into<String>) -> CudaError {
        CudaError::Contract { function, detail: detail.into() }
    }

    /// What the error means to the allocator.
    pub fn kind(&self) -> DriverErrorKind {
        match self {
            CudaError::NoDevice(_) | CudaError::InvalidDevice { .. } => {
                DriverErrorKind::InvalidDevice
            }
            CudaError::InvalidValue(_) => DriverErrorKind::InvalidValue,
            CudaError::OutOfMemory(_) => DriverErrorKind::OutOfMemory,
            CudaError::NotSupported(_) => DriverErrorKind::NotSupported,
            CudaError::Capturing { .. } => DriverErrorKind::NotPermitted,
            CudaError::Call { code, .. } => codes::kind(*code),
            CudaError::Contract { .. } => DriverErrorKind::Other,
        }
    }

    /// The driver's own code (a `CUresult`), 0 where the driver gave none.
    pub fn code(&self) -> i32 {
        match self {
            CudaError::Call { code, .. } | CudaError::NoDevice(NoDevice::Failed { code, .. }) => {
                *code
            }
            _ => 0,
        }
    }

    /// The same as the error of a call of the driver contract.
    pub(crate) fn during(self, call: DriverCall) -> DriverError {
        DriverError { call, kind: self.kind(), code: self.code(), detail: self.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_as_no_cuda_device() {
        let reasons = [
            NoDevice::LibraryNotFound,
            NoDevice::DriverTooOld { function: "cuInit" },
            NoDevice::from_code("cuInit", 34),
            NoDevice::from_code("cuInit", 100),
            NoDevice::from_code("cuInit", 803),
            NoDevice::from_code("cuInit", 123_456),
        ];
        for reason in reasons {
            let text = CudaError::NoDevice(reason).to_string();
            assert!(text.starts_with("no CUDA device: "), "{text}");
        }
    }

    #[test]
    fn a_driver_error_names_the_function_and_the_code() {
        let error = CudaError::Call { function: "cuMemAlloc_v2", code: 2 };
        let error = error.during(DriverCall::SegmentAlloc);
        assert_eq!(error.kind, DriverErrorKind::OutOfMemory);
        assert_eq!(
            error.to_string(),
            "segment_alloc failed: cuMemAlloc_v2 gave CUDA_ERROR_OUT_OF_MEMORY (code 2)"
        );
    }
}
