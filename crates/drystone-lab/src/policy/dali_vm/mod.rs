//! `dali-vm`: the memory of NVIDIA DALI: physical blocks of one size that are mapped wherever free
//! addresses need them, under lists of freed memory by stream.
//!
//! After the descriptions in `cuda_vm_resource.h` and `async_pool.h` of DALI (NVIDIA/DALI,
//! `include/dali/core/mm`, 2021 to 2022), where the default for device memory is the second over the
//! first. Sizes are multiples of 256 B, and from 1 MiB on of the next power of two of a 2048th of
//! them, at which they are aligned then. A freed block goes to its stream's list with an event; the
//! stream takes the smallest one that fits from there, cut, nothing joined. Otherwise memory is
//! taken that is free and mapped; then what all streams have passed goes there, joined with its
//! neighbours; then the smallest free range of addresses is taken, and blocks are mapped where
//! it has none: free blocks that are mapped elsewhere first, unmapped there, then new ones. Blocks
//! are a 256th of the device's memory, at least 2 MiB, at most 64 MiB; addresses are reserved 4 GiB
//! at first, then twice as many. Memory never goes back to the device before the end.
//!
//! Left out: the deferred frees of a worker thread, which concern frees without a stream; the
//! joining of reserved ranges that happen to touch; the rounding of what is left when a block of a
//! stream's list is cut, whose exact bytes are kept here.

mod pool;
mod stream_list;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Event, Given, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};
use pool::Pool;
use stream_list::Freed;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "dali-vm",
    summary: "NVIDIA DALI's pool: blocks of one size, mapped where free addresses need them",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "block_size",
        help: "Bytes of a physical block",
        allowed: "a power of two from 2MiB to 1GiB",
        default: "a 256th of the device's memory, 2MiB to 64MiB",
    },
    OptionInfo {
        name: "initial_va_size",
        help: "Bytes of addresses that are reserved first",
        allowed: "a size from 2MiB to 1TiB",
        default: "4GiB",
    },
    OptionInfo {
        name: "avoid_upstream",
        help: "Whether all frees are waited for before new memory is taken",
        allowed: "true or false",
        default: "false",
    },
];

/// All sizes and addresses are multiples of it.
const GRAIN: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    block: Option<u64>,
    addresses: u64,
    avoids: bool,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| Ok(Box::new(Dali::new(driver, config)))))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    Ok(Config {
        block: given.power("block_size", 2 << 20..=1 << 30)?,
        addresses: given.bytes("initial_va_size", 2 << 20..=1 << 40)?.unwrap_or(4 << 30),
        avoids: given.flag("avoid_upstream")?.unwrap_or(false),
    })
}

#[derive(Clone, Copy)]
struct Live {
    device: DeviceId,
    stream: StreamId,
    bytes: u64,
}

struct Dali {
    driver: Arc<dyn Driver>,
    config: Config,
    pools: FxHashMap<DeviceId, Pool>,
    live: FxHashMap<u64, Live>,
    frees: u64,
}

impl Dali {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        let (pools, live) = (FxHashMap::default(), FxHashMap::default());
        Dali { driver, config, pools, live, frees: 0 }
    }

    fn take(
        &mut self,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<(u64, u64), DriverError> {
        if !self.pools.contains_key(&device) {
            self.pools.insert(device, Pool::new(&self.driver, &self.config, device)?);
        }
        let Some(pool) = self.pools.get_mut(&device) else { return Ok((0, 0)) };
        let bytes = size.next_multiple_of(GRAIN);
        if let Some(list) = pool.streams.get_mut(&stream)
            && let Some((address, bytes, event)) = list.take(bytes)
        {
            pool.spare_events.extend(event);
            return Ok((address, bytes));
        }
        let (bytes, align) = pool.adjust(bytes);
        let pending = pool.streams.values().any(|list| !list.freed.is_empty());
        if let Some(address) = pool.take_mapped(bytes, align) {
            return Ok((address, bytes));
        }
        if pending {
            pool.give_done()?;
            if self.config.avoids && !pool.has_mapped(bytes, align) {
                pool.wait()?;
                pool.give_done()?;
            }
        }
        match pool.take_mapped(bytes, align) {
            Some(address) => Ok((address, bytes)),
            None => pool.grow(&self.config, bytes, align).map(|address| (address, bytes)),
        }
    }
}

impl Policy for Dali {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let words =
            || format!("Could not allocate physical storage of size {size} on device {}", device.0);
        let taken = self.take(size, device, stream).map_err(|error| refusal(&error, words))?;
        let (address, bytes) = taken;
        self.live.insert(address, Live { device, stream, bytes });
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let &Live { device, stream, bytes } =
            self.live.get(&address).ok_or_else(|| no_block(address))?;
        let Some(pool) = self.pools.get_mut(&device) else { return Err(no_block(address)) };
        let event = pool.spare_events.pop().map_or_else(|| Event::new(&self.driver, device), Ok);
        let event = event.and_then(|event| event.record(stream).map(|()| event));
        let event = event.map_err(|error| error.to_string())?;
        self.frees += 1;
        let freed = Freed { address, bytes, event };
        pool.streams.entry(stream).or_default().insert(self.frees, freed);
        self.live.remove(&address);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|live| live.bytes)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("remapped_blocks", self.pools.values().map(|pool| pool.remaps).sum())]
    }
}

#[cfg(test)]
mod tests;
