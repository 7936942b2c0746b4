//! `cuda-async`: the CUDA driver's own pool, `cudaMallocAsync` and `cudaFreeAsync`, as it is.
//!
//! Not modelled: what a pool of the driver does is not documented beyond what the CUDA C++
//! Programming Guide says in "Stream Ordered Memory Allocator". So this runs on real devices only,
//! through [`StreamOrdered`](drystone_core::driver::StreamOrdered), one pool for each device. What
//! the pool holds is asked of the driver after each allocation, since only then it grows
//! (`cudaMemPoolAttrReservedMemCurrent`).
//!
//! Each request is a driver call. In the figures they are counted as `segment_alloc` and
//! `segment_free`.

use std::sync::Arc;

use drystone_core::driver::MemPoolId;
use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Given, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cuda-async",
    summary: "the CUDA driver's own pool, cudaMallocAsync; real devices only",
    needs: Needs::RealDevice,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "release_threshold",
    help: "Free bytes that the pool keeps when a stream or the device is waited for",
    allowed: "a size",
    default: "0",
}];

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let keep = given.bytes("release_threshold", 0..=u64::MAX)?.unwrap_or(0);
    Ok(Arc::new(move |driver| {
        driver.stream_ordered().map_err(|error| error.to_string())?;
        let (pools, live) = (Vec::new(), FxHashMap::default());
        Ok(Box::new(CudaAsync { driver, keep, pools, live }))
    }))
}

#[derive(Clone, Copy)]
struct Live {
    device: DeviceId,
    pool: MemPoolId,
    stream: StreamId,
}

struct CudaAsync {
    driver: Arc<dyn Driver>,
    keep: u64,
    /// One for each device that was used.
    pools: Vec<(DeviceId, MemPoolId)>,
    live: FxHashMap<u64, Live>,
}

impl CudaAsync {
    fn pool(&mut self, device: DeviceId) -> Result<MemPoolId, DriverError> {
        if let Some(&(_, pool)) = self.pools.iter().find(|(known, _)| *known == device) {
            return Ok(pool);
        }
        let pool = self.driver.stream_ordered()?.pool_create(device, u64::MAX, self.keep)?;
        self.pools.push((device, pool));
        Ok(pool)
    }

    fn take(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, DriverError> {
        let pool = self.pool(device)?;
        let address = self.driver.stream_ordered()?.pool_alloc(device, pool, size, stream)?;
        self.live.insert(address, Live { device, pool, stream });
        Ok(address)
    }

    fn give(&mut self, address: u64, live: Live) -> Result<(), DriverError> {
        let Live { device, pool, stream } = live;
        self.driver.stream_ordered()?.pool_free(device, pool, address, stream)
    }
}

impl Policy for CudaAsync {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let words = || format!("cudaErrorMemoryAllocation: out of memory ({size} bytes)");
        self.take(size, device, stream).map_err(|error| refusal(&error, words))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let live = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        self.give(address, live).map_err(|error| {
            self.live.insert(address, live);
            error.to_string()
        })
    }
}

impl Drop for CudaAsync {
    fn drop(&mut self) {
        // What the driver does not take back now, the replay finds out.
        for (address, live) in std::mem::take(&mut self.live) {
            let _ = self.give(address, live);
        }
        for (device, pool) in std::mem::take(&mut self.pools) {
            let _ = self.driver.device_synchronize(device);
            let _ = self.driver.stream_ordered().and_then(|own| own.pool_destroy(device, pool));
        }
    }
}
