//! `paddle-vmm`: PaddlePaddle's best fit in mapped memory that grows (VMM V2), remapped only when
//! memory is out.
//!
//! After the comments and the behaviour of `vmm_auto_growth_best_fit_allocator_v2`,
//! `cuda_virtual_mem_allocator_v2`, `remap_transaction` and `stream_safe_cuda_allocator` in
//! PaddlePaddle (`paddle/phi/core/memory/allocation`, 2026), chosen there with
//! `FLAGS_use_vmm_auto_growth_best_fit_allocator_v2`. Each stream of a device has a small and a large
//! pool, which share nothing. A pool takes the smallest free block that fits, cut, and joins freed
//! neighbours. Without one it maps whole handles of the pool's size for all of the request, at the
//! end of the addresses that it reserved. When the device has no more, and the pool's free bytes
//! would do but its largest free block does not, handles that lie whole in free blocks, lowest
//! first, until they are enough, are unmapped there and mapped at the end as one block, or in a
//! hole of that size that an earlier time left. Memory never goes back to the device before the end.
//!
//! A free needs no event: the pool is the stream's. Unmapping does; PaddlePaddle asks without
//! waiting, and `RetryAllocator` asks again after up to ten seconds. Here the event is waited for.
//!
//! Left out: hints that put parameters and optimizer states into pools of their own, which traces
//! do not have; offloading to the host by a callback of the framework; handles scattered over
//! several holes, which serve no request of that size; compaction of other streams' pools at the
//! same moment, likewise; and that some versions remap no handle twice, which others do. The size of
//! large handles is that of PaddlePaddle's own tests, since its default is not described.

mod pool;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Given, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};
use pool::{Pool, no_addresses};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "paddle-vmm",
    summary: "PaddlePaddle's best fit in mapped memory, remapped only when memory is out",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "remap_on_oom",
        help: "Whether free memory is remapped when memory is out",
        allowed: "true or false",
        default: "true",
    },
    OptionInfo {
        name: "small_pool_handle_size_in_mb",
        help: "MiB of a handle of the small pools",
        allowed: "2 to 1024, even",
        default: "2",
    },
    OptionInfo {
        name: "large_pool_handle_size_in_mb",
        help: "MiB of a handle of the large pools",
        allowed: "2 to 1024, even",
        default: "16",
    },
    OptionInfo {
        name: "small_allocation_threshold_in_mb",
        help: "Requests below so many MiB go to the small pool",
        allowed: "0 to 1024",
        default: "2",
    },
];

/// All sizes and addresses are multiples of it.
const GRAIN: u64 = 256;
const MIB: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    remaps: bool,
    /// Bytes of handles: small, large.
    handles: [u64; 2],
    threshold: u64,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| Ok(Box::new(Paddle::new(driver, config)))))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    let even = |value: &str| {
        value.parse().ok().filter(|mib: &u64| (2..=1024).contains(mib) && mib.is_multiple_of(2))
    };
    let mib = |key| given.read(key, even);
    let threshold = given.number("small_allocation_threshold_in_mb", 0..=1024)?;
    Ok(Config {
        remaps: given.flag("remap_on_oom")?.unwrap_or(true),
        handles: [
            mib("small_pool_handle_size_in_mb")?.unwrap_or(2) * MIB,
            mib("large_pool_handle_size_in_mb")?.unwrap_or(16) * MIB,
        ],
        threshold: threshold.unwrap_or(2) * MIB,
    })
}

type PoolKey = (DeviceId, StreamId, bool);

struct Paddle {
    driver: Arc<dyn Driver>,
    config: Config,
    pools: FxHashMap<PoolKey, Pool>,
    live: FxHashMap<u64, (PoolKey, u64)>,
    compactions: u64,
    remapped: u64,
}

impl Paddle {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        let (pools, live) = (FxHashMap::default(), FxHashMap::default());
        Paddle { driver, config, pools, live, compactions: 0, remapped: 0 }
    }

    fn take(&mut self, key: PoolKey, bytes: u64) -> Result<u64, DriverError> {
        let (device, stream, is_small) = key;
        if !self.pools.contains_key(&key) {
            let handle = self.config.handles[usize::from(!is_small)];
            self.pools.insert(key, Pool::new(&self.driver, device, stream, handle)?);
        }
        let Some(pool) = self.pools.get_mut(&key) else { return Err(no_addresses()) };
        if let Some(address) = pool.take(bytes) {
            return Ok(address);
        }
        let error = match pool.grow(bytes) {
            Ok(address) => return Ok(address),
            Err(error) => error,
        };
        let is_out = error.kind == DriverErrorKind::OutOfMemory;
        if !is_out || !self.config.remaps || !pool.is_fragmented(bytes) {
            return Err(error);
        }
        self.compactions += 1;
        self.remapped += pool.compact(&self.driver, bytes)?;
        match pool.take(bytes) {
            Some(address) => Ok(address),
            None => pool.grow(bytes),
        }
    }
}

impl Policy for Paddle {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bytes = size.next_multiple_of(GRAIN);
        let key = (device, stream, size < self.config.threshold);
        let words = || {
            format!(
                "ResourceExhaustedError: Out of memory error on GPU {}. Cannot allocate {size} bytes.",
                device.0
            )
        };
        let address = self.take(key, bytes).map_err(|error| refusal(&error, words))?;
        self.live.insert(address, (key, bytes));
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let (key, bytes) = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        if let Some(pool) = self.pools.get_mut(&key) {
            pool.give(address, bytes);
        }
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|&(_, bytes)| bytes)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("compactions", self.compactions), ("remapped_handles", self.remapped)]
    }
}

#[cfg(test)]
mod tests;
