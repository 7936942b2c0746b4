//! `bfc`: TensorFlow's and XLA's best fit with coalescing, over regions from `cudaMalloc`.
//!
//! After the description at the head of `bfc_allocator.h` and the behaviour of `bfc_allocator.cc` in
//! OpenXLA (openxla/xla, `xla/tsl/framework`, 2025), and TensorFlow's guide "Use a GPU" for
//! `allow_growth` and the memory limit. One allocator for each device. Sizes are multiples of 256 B.
//! Free chunks lie in bins by powers of two from 256 B to 512 MiB, by size and then address in each,
//! so that the smallest chunk that fits is found. A chunk is cut if it is at least twice the request
//! or 128 MiB larger, and joined with its free neighbours when it is freed. Without a chunk that
//! fits, a region is taken: 2 MiB at first, then twice the last one, at least the request, less by
//! tenths where the device refuses. At the limit, regions without a live chunk go back to the device
//! and one region is taken again.
//!
//! Streams: the allocator knows none. A device of TensorFlow has one compute stream, on which memory
//! is reused in the order of work. Another stream (one for copies) waits for the compute stream
//! before it uses a block (`GPUUtil`), and a block that it used is held by the runtime's `EventMgr`
//! until an event on it has passed. Here the compute stream is that of the device's first request,
//! or `compute_stream`; a block of another stream costs an event and a wait when it is handed out,
//! and an event and queries after its free. Out of memory waits for such blocks, as
//! `AllocatorRetry` does for up to ten seconds.
//!
//! Left out: the default of `allow_growth` (TensorFlow takes all of the device at the start, which
//! compares with nothing), the memory that TensorFlow leaves to libraries by default, time stamps
//! and partitioning, which are off by default, and regions that grow in place, which `cudaMalloc`
//! cannot.

mod arena;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{ChunkId, Given, Segments, Share, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};
use arena::Arena;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "bfc",
    summary: "TensorFlow's and XLA's best fit with coalescing, in regions that double",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "allow_growth",
        help: "Whether regions are taken as they are needed, or one with all memory at the start",
        allowed: "true or false",
        default: "true (TensorFlow: false)",
    },
    OptionInfo {
        name: "memory_limit",
        help: "The most bytes that are held of each device",
        allowed: "a size, or a percentage of the device's memory",
        default: "what is free at the first request",
    },
    OptionInfo {
        name: "garbage_collection",
        help: "Whether regions without a live chunk go back before memory is said to be out",
        allowed: "true or false",
        default: "true (XLA: false)",
    },
    OptionInfo {
        name: "fragmentation_fraction",
        help: "Chunks larger than the request by this part of the limit are cut",
        allowed: "0% to 100%; 0% stands for 128MiB",
        default: "0%",
    },
    OptionInfo {
        name: "compute_stream",
        help: "The stream on which memory is reused in the order of work",
        allowed: "a stream's number",
        default: "that of a device's first request",
    },
];

/// All sizes and addresses are multiples of it.
const GRAIN: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    growth: bool,
    limit: Option<Share>,
    collects: bool,
    spare_percent: f64,
    compute: Option<StreamId>,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| Ok(Box::new(Bfc::new(driver, config)))))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    let is_percent = |share: &Share| matches!(share, Share::Percent(_));
    let spare = match given.share_if("fragmentation_fraction", is_percent)? {
        Some(Share::Percent(percent)) => percent,
        _ => 0.0,
    };
    Ok(Config {
        growth: given.flag("allow_growth")?.unwrap_or(true),
        limit: given.share("memory_limit")?,
        collects: given.flag("garbage_collection")?.unwrap_or(true),
        spare_percent: spare,
        compute: given.number("compute_stream", 0..=u64::MAX)?.map(StreamId),
    })
}

#[derive(Clone, Copy)]
struct Live {
    device: DeviceId,
    chunk: ChunkId,
    stream: StreamId,
}

struct Bfc {
    config: Config,
    // Before the segments: events and chunks are forgotten first.
    arenas: FxHashMap<DeviceId, Arena>,
    live: FxHashMap<u64, Live>,
    collections: u64,
    waits: u64,
    segments: Segments,
}

impl Bfc {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        Bfc {
            config,
            arenas: FxHashMap::default(),
            live: FxHashMap::default(),
            collections: 0,
            waits: 0,
            segments: Segments::new(driver),
        }
    }

    fn find(&mut self, device: DeviceId, bytes: u64) -> Result<Option<ChunkId>, DriverError> {
        let Some(arena) = self.arenas.get_mut(&device) else { return Ok(None) };
        if let Some(chunk) = arena.find(bytes) {
            return Ok(Some(chunk));
        }
        if arena.extend(&mut self.segments, device, bytes)? {
            return Ok(arena.find(bytes));
        }
        if self.config.collects && arena.collect(&mut self.segments, bytes)? {
            self.collections += 1;
            arena.extend(&mut self.segments, device, bytes)?;
            return Ok(arena.find(bytes));
        }
        Ok(None)
    }

    fn chunk(
        &mut self,
        bytes: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<Option<ChunkId>, DriverError> {
        if !self.arenas.contains_key(&device) {
            let driver = self.segments.driver().as_ref();
            let arena = Arena::new(driver, &self.config, device, stream)?;
            self.arenas.insert(device, arena);
        }
        if let Some(arena) = self.arenas.get_mut(&device) {
            arena.poll()?;
        }
        loop {
            if let Some(chunk) = self.find(device, bytes)? {
                return Ok(Some(chunk));
            }
            let Some(arena) = self.arenas.get_mut(&device) else { return Ok(None) };
            if !arena.wait()? {
                return Ok(None);
            }
            self.waits += 1;
        }
    }
}

impl Policy for Bfc {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bytes = size.next_multiple_of(GRAIN);
        let out = || {
            format!(
                "Allocator (GPU_{}_bfc) ran out of memory trying to allocate {size} bytes (rounded \
                 to {bytes}). If this is caused by memory fragmentation, the environment variable \
                 TF_GPU_ALLOCATOR=cuda_malloc_async may improve the situation.",
                device.0
            )
        };
        let found = self.chunk(bytes, device, stream).map_err(|error| refusal(&error, out))?;
        let chunk = found.ok_or_else(|| Refusal::OutOfMemory(out().into()))?;
        let Some(arena) = self.arenas.get_mut(&device) else { return Ok(0) };
        if let Err(error) = arena.order(self.segments.driver(), device, stream) {
            arena.give(chunk);
            return Err(refusal(&error, out));
        }
        let address = arena.chunks[chunk].address;
        self.live.insert(address, Live { device, chunk, stream });
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let &Live { device, chunk, stream } =
            self.live.get(&address).ok_or_else(|| no_block(address))?;
        let Some(arena) = self.arenas.get_mut(&device) else { return Err(no_block(address)) };
        if stream == arena.compute {
            arena.give(chunk);
        } else {
            let event = arena.event(self.segments.driver(), device);
            let event = event.and_then(|event| event.record(stream).map(|()| event));
            let event = event.map_err(|error| error.to_string())?;
            arena.pending.entry(stream).or_default().push_back((event, chunk));
        }
        self.live.remove(&address);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        let live = self.live.get(&address)?;
        Some(self.arenas.get(&live.device)?.chunks[live.chunk].bytes)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("collections", self.collections), ("waits_for_streams", self.waits)]
    }
}

#[cfg(test)]
mod tests;
