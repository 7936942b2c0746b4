//! `cudamalloc`: no cache at all. Every request is a `cudaMalloc`, every free a `cudaFree`.
//!
//! What a program does that uses the CUDA runtime directly, PyTorch with
//! `PYTORCH_NO_CUDA_MEMORY_CACHING=1`, or RMM's `cuda_memory_resource`. `cudaFree` waits for all
//! running work of the device (CUDA C++ Programming Guide, "Stream Ordered Memory Allocator", which
//! names this as its reason to be), so memory is never reused too early.
//!
//! Left out: how the driver packs small requests onto its own 2 MiB pages. It does so below the
//! contract of a driver, and is not documented; so small requests count with their own bytes.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, StreamId};

use super::parts::{Given, Segments, no_block, refusal};
use super::{Needs, Policy, PolicyInfo, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cudamalloc",
    summary: "no cache: cudaMalloc and cudaFree for every block",
    needs: Needs::Device,
    options: Vec::new,
    prepare: |given| {
        Given::new(given, &[])?;
        Ok(Arc::new(|driver| Ok(Box::new(CudaMalloc::new(driver)))))
    },
};

struct CudaMalloc {
    segments: Segments,
}

impl CudaMalloc {
    fn new(driver: Arc<dyn Driver>) -> Self {
        CudaMalloc { segments: Segments::new(driver) }
    }
}

impl Policy for CudaMalloc {
    fn allocate(&mut self, size: u64, device: DeviceId, _: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let words = || format!("cudaErrorMemoryAllocation: out of memory ({size} bytes)");
        self.segments.take(device, size).map_err(|error| refusal(&error, words))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        match self.segments.bytes_of(address) {
            _ if address == 0 => Ok(()),
            None => Err(no_block(address)),
            Some(_) => self.segments.give(address).map_err(|error| error.to_string()),
        }
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.segments.bytes_of(address)
    }
}
