//! `cub`: the `CachingDeviceAllocator` of NVIDIA's CUB: whole allocations, cached by power of
//! `bin_growth`.
//!
//! After the documentation of `cub::CachingDeviceAllocator` in CCCL 3 (nvidia.github.io/cccl). A
//! request is rounded up to the next power of `bin_growth`, at least `bin_growth^min_bin`; one
//! above `bin_growth^max_bin` is served by `cudaMalloc` as it is and never cached. A freed block
//! goes to its bin if no more than `max_cached_bytes` are cached on the device then, else to
//! `cudaFree`. It is reused at once on the stream that it was allocated for, and on another one
//! when an event that was recorded at the free has passed; blocks of a bin are looked at in the
//! order in which they were freed. Out of memory gives everything cached on the device back and
//! asks once more.
//!
//! Held to the original's own answers by `tests/peers`.
//!
//! Left out: `skip_cleanup`, which only says what happens when the process ends, and `debug`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Event, Given, Segments, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cub",
    summary: "CUB's CachingDeviceAllocator: whole allocations, cached by powers",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "bin_growth",
        help: "Sizes are rounded up to a power of this",
        allowed: "2 to 1024",
        default: "8",
    },
    OptionInfo {
        name: "min_bin",
        help: "The power of the smallest size",
        allowed: "0 to 59, at most max_bin",
        default: "3",
    },
    OptionInfo {
        name: "max_bin",
        help: "The power of the largest size that is cached",
        allowed: "0 to 59, with bin_growth^max_bin at most 2^59",
        default: "7",
    },
    OptionInfo {
        name: "max_cached_bytes",
        help: "The most bytes that are cached on each device",
        allowed: "a size",
        default: "one byte less than three of the largest cached size (6291455)",
    },
];

/// The largest size of a bin: beyond any device.
const LARGEST: u64 = 1 << 59;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    growth: u64,
    min_bin: u32,
    max_bin: u32,
    max_cached: u64,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| Ok(Box::new(Cub::new(driver, config)))))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    let growth = given.number("bin_growth", 2..=1024)?.unwrap_or(8);
    let bin = |key| given.number(key, 0..=59);
    let min_bin = bin("min_bin")?.unwrap_or(3) as u32;
    let max_bin = bin("max_bin")?.unwrap_or(7) as u32;
    let max_cached = given.bytes("max_cached_bytes", 0..=u64::MAX)?;
    let largest = growth.checked_pow(max_bin).filter(|&largest| largest <= LARGEST);
    let largest = largest.ok_or_else(|| given.bad("max_bin", max_bin))?;
    if min_bin > max_bin {
        return Err(given.bad("min_bin", min_bin));
    }
    Ok(Config { growth, min_bin, max_bin, max_cached: max_cached.unwrap_or(largest * 3 - 1) })
}

impl Config {
    /// The bin of a size and the bytes of its blocks; none for what is not cached.
    fn bin(&self, size: u64) -> Option<(u32, u64)> {
        let (mut bin, mut bytes) = (self.min_bin, self.growth.pow(self.min_bin));
        while bytes < size && bin < self.max_bin {
            bin += 1;
            bytes *= self.growth;
        }
        (bytes >= size).then_some((bin, bytes))
    }
}

struct Block {
    address: u64,
    bytes: u64,
    device: DeviceId,
    /// The stream that it was allocated for last.
    stream: StreamId,
    bin: Option<u32>,
    /// Recorded at its free.
    ready: Event,
}

struct Cub {
    config: Config,
    live: FxHashMap<u64, Block>,
    /// In the order in which they were freed.
    cached: BTreeMap<(DeviceId, u32), VecDeque<Block>>,
    cached_bytes: FxHashMap<DeviceId, u64>,
    segments: Segments,
}

impl Cub {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        Cub {
            config,
            live: FxHashMap::default(),
            cached: BTreeMap::new(),
            cached_bytes: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    /// The first block of the bin that the stream may use now.
    fn reuse(
        &mut self,
        device: DeviceId,
        bin: u32,
        stream: StreamId,
    ) -> Result<Option<Block>, DriverError> {
        let Some(blocks) = self.cached.get_mut(&(device, bin)) else { return Ok(None) };
        for index in 0..blocks.len() {
            if blocks[index].stream == stream || blocks[index].ready.is_done()? {
                let block = blocks.remove(index).map(|block| Block { stream, ..block });
                let bytes = block.as_ref().map_or(0, |block| block.bytes);
                *self.cached_bytes.entry(device).or_default() -= bytes;
                return Ok(block);
            }
        }
        Ok(None)
    }

    /// A block from `cudaMalloc`.
    fn fresh(
        &mut self,
        device: DeviceId,
        bin: Option<u32>,
        bytes: u64,
        stream: StreamId,
    ) -> Result<Block, DriverError> {
        let address = match self.segments.take(device, bytes) {
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                self.free_cached(device)?;
                self.segments.take(device, bytes)?
            }
            taken => taken?,
        };
        let ready = match Event::new(self.segments.driver(), device) {
            Ok(ready) => ready,
            Err(error) => {
                self.segments.give(address)?;
                return Err(error);
            }
        };
        Ok(Block { address, bytes, device, stream, bin, ready })
    }

    /// Gives everything cached on the device back.
    fn free_cached(&mut self, device: DeviceId) -> Result<(), DriverError> {
        for (_, blocks) in self.cached.range_mut((device, 0)..=(device, u32::MAX)) {
            while let Some(block) = blocks.front() {
                self.segments.give(block.address)?;
                *self.cached_bytes.entry(device).or_default() -= block.bytes;
                blocks.pop_front();
            }
        }
        Ok(())
    }

    fn give_back(&mut self, block: Block) -> Result<(), (Block, DriverError)> {
        let cached = self.cached_bytes.entry(block.device).or_default();
        let fits = cached.saturating_add(block.bytes) <= self.config.max_cached;
        if let Some(bin) = block.bin.filter(|_| fits) {
            if let Err(error) = block.ready.record(block.stream) {
                return Err((block, error));
            }
            *cached += block.bytes;
            self.cached.entry((block.device, bin)).or_default().push_back(block);
            return Ok(());
        }
        self.segments.give(block.address).map_err(|error| (block, error))
    }
}

impl Policy for Cub {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bin = self.config.bin(size);
        let found = match bin {
            Some((bin, _)) => self.reuse(device, bin, stream),
            None => Ok(None),
        };
        let block = found.and_then(|found| match found {
            Some(block) => Ok(block),
            None => {
                let bytes = bin.map_or(size, |(_, bytes)| bytes);
                self.fresh(device, bin.map(|(bin, _)| bin), bytes, stream)
            }
        });
        let words = || format!("cudaErrorMemoryAllocation: out of memory ({size} bytes)");
        let block = block.map_err(|error| refusal(&error, words))?;
        let address = block.address;
        self.live.insert(address, block);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let block = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        self.give_back(block).map_err(|(block, error)| {
            self.live.insert(address, block);
            error.to_string()
        })
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|block| block.bytes)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("cached_bytes", self.cached_bytes.values().sum())]
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const DEFAULT: Config = Config { growth: 8, min_bin: 3, max_bin: 7, max_cached: 6_291_455 };

    fn cub(config: Config, capacity: u64) -> (Cub, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
        (Cub::new(Arc::clone(&sim) as _, config), sim)
    }

    fn taken(sim: &SimDriver) -> u64 {
        sim.usage(DEVICE).unwrap().taken
    }

    #[test]
    fn the_default_has_five_sizes() {
        assert_eq!(read(&PolicyOptions::default()), Ok(DEFAULT));
        for (size, bytes) in [
            (1, Some(512)),
            (512, Some(512)),
            (513, Some(4096)),
            (4097, Some(32 << 10)),
            (32_769, Some(256 << 10)),
            (262_145, Some(2 << 20)),
            (2 << 20, Some(2 << 20)),
            ((2 << 20) + 1, None),
        ] {
            assert_eq!(DEFAULT.bin(size).map(|bin| bin.1), bytes, "{size}");
        }
    }

    #[test]
    fn large_blocks_are_not_rounded_and_not_cached() {
        let (mut cub, sim) = cub(DEFAULT, 1 << 30);
        let large = cub.allocate(3_000_000, DEVICE, StreamId(1)).unwrap();
        assert_eq!((taken(&sim), cub.block_bytes(large)), (3_000_000, Some(3_000_000)));
        cub.free(large).unwrap();
        assert_eq!(taken(&sim), 0);
    }

    #[test]
    fn no_more_is_cached_than_allowed() {
        let (mut cub, sim) = cub(DEFAULT, 1 << 30);
        let all = [(); 4].map(|()| cub.allocate(2 << 20, DEVICE, StreamId(1)).unwrap());
        all.iter().for_each(|&address| cub.free(address).unwrap());
        // Three of 2 MiB would be one byte too many.
        assert_eq!((taken(&sim), cub.counters()[0].1), (4 << 20, 4 << 20));
    }

    #[test]
    fn another_stream_reuses_when_the_event_has_passed() {
        let (mut cub, sim) = cub(DEFAULT, 1 << 30);
        let [one, two] = [StreamId(1), StreamId(2)];
        let first = cub.allocate(100, DEVICE, one).unwrap();
        sim.launch(DEVICE, one, &[(first, 100)], drystone_sim::Access::Write).unwrap();
        cub.free(first).unwrap();
        let second = cub.allocate(100, DEVICE, two).unwrap();
        assert_ne!(first, second, "its work is not done");
        assert_eq!(cub.allocate(100, DEVICE, one), Ok(first), "the order of its own stream");
        cub.free(first).unwrap();
        sim.advance(10_000_000);
        assert_eq!(cub.allocate(100, DEVICE, two), Ok(first));
    }

    #[test]
    fn out_of_memory_gives_the_cache_back_first() {
        let (mut cub, sim) = cub(DEFAULT, 8 << 20);
        let cached = cub.allocate(2 << 20, DEVICE, StreamId(0)).unwrap();
        cub.free(cached).unwrap();
        let large = cub.allocate(7 << 20, DEVICE, StreamId(0)).unwrap();
        assert_eq!((taken(&sim), cub.counters()[0].1), (7 << 20, 0));
        let refused = cub.allocate(2 << 20, DEVICE, StreamId(0)).unwrap_err();
        assert!(matches!(refused, Refusal::OutOfMemory(_)), "{refused:?}");
        cub.free(large).unwrap();
        drop(cub);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let error = |text: &str| format!("cub:{text}").parse::<crate::PolicySpec>().unwrap_err();
        for (text, what) in [
            ("bin_growth=1", "allowed is 2 to 1024"),
            ("min_bin=8", "`min_bin` cannot be `8`: allowed is 0 to 59, at most max_bin"),
            ("bin_growth=10,max_bin=20", "at most 2^59"),
            ("skip_cleanup=true", "unknown option `skip_cleanup`"),
        ] {
            let error = error(text).to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
