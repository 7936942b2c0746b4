//! The driver's own pools, as the contract's [`StreamOrdered`].

use drystone_core::driver::{MemPoolId, StreamOrdered};
use drystone_core::{DeviceId, DriverCall, DriverError, StreamId};

use crate::driver::CudaDriver;
use crate::error::CudaError;
use crate::ffi::MemPool;

impl CudaDriver {
    fn create(&self, device: DeviceId, limit: u64, keep: u64) -> Result<MemPoolId, CudaError> {
        let state = self.state(device)?;
        let pool = MemPool::create(state.context()?, state.device, limit, keep)?;
        Ok(MemPoolId(state.pools.insert(pool.id(), pool)))
    }

    fn destroy(&self, device: DeviceId, pool: MemPoolId) -> Result<(), CudaError> {
        let pools = &self.state(device)?.pools;
        pools.take(pool.0)?.destroy().map_err(|(kept, error)| {
            pools.insert(pool.0, kept);
            error
        })
    }
}

impl StreamOrdered for CudaDriver {
    fn pool_create(
        &self,
        device: DeviceId,
        limit: u64,
        keep: u64,
    ) -> Result<MemPoolId, DriverError> {
        self.create(device, limit, keep).map_err(|error| error.during(DriverCall::SegmentAlloc))
    }

    fn pool_destroy(&self, device: DeviceId, pool: MemPoolId) -> Result<(), DriverError> {
        self.destroy(device, pool).map_err(|error| error.during(DriverCall::SegmentFree))
    }

    fn pool_alloc(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        bytes: u64,
        stream: StreamId,
    ) -> Result<u64, DriverError> {
        self.state(device)
            .and_then(|state| {
                state.pools.require(pool.0)?.alloc(bytes, &*self.stream(state, stream)?)
            })
            .map_err(|error| error.during(DriverCall::SegmentAlloc))
    }

    fn pool_free(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        address: u64,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| {
                state.pools.require(pool.0)?.free(address, &*self.stream(state, stream)?)
            })
            .map_err(|error| error.during(DriverCall::SegmentFree))
    }

    fn pool_reserved(&self, device: DeviceId, pool: MemPoolId) -> Result<u64, DriverError> {
        self.state(device)
            .and_then(|state| state.pools.require(pool.0)?.reserved())
            .map_err(|error| error.during(DriverCall::SegmentAlloc))
    }
}
