//! `rmm-binning`: RMM's `binning_memory_resource`: bins of one size each over a pool.
//!
//! After the documentation of RMM 26.06 (docs.rapids.ai/api/librmm: `binning_memory_resource`,
//! `fixed_size_memory_resource`). A request goes to the bin of the smallest size that is not below
//! it, each a power of two from `2^min_size_exponent` to `2^max_size_exponent`, and to the pool if
//! it is larger than all. A bin takes 128 blocks at a time from the pool, the first 128 when it is
//! made, hands them out in the order in which they were freed, and gives none back; streams have
//! lists as in the pool (`parts::stream_lists`). The exponents have no default in RMM; here they
//! are those of its own benchmarks, 256 KiB to 4 MiB.
//!
//! Held to the original's own answers by `tests/peers`.
//!
//! Left out: bins of sizes that are no powers of two, and other resources than the pool.

use std::collections::VecDeque;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Devices, Given, Span, Spans, StreamLists, refusal};
use super::rmm_pool::{OPTIONS as POOL_OPTIONS, Pool, Sizes, exceeded};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "rmm-binning",
    summary: "RMM's bins of fixed sizes over its pool",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "min_size_exponent",
        help: "The smallest bin has blocks of 2 to this power bytes",
        allowed: "8 to 40, at most max_size_exponent",
        default: "18",
    },
    OptionInfo {
        name: "max_size_exponent",
        help: "The largest bin has blocks of 2 to this power bytes",
        allowed: "8 to 40",
        default: "22",
    },
    POOL_OPTIONS[0],
    POOL_OPTIONS[1],
];

/// Blocks that a bin takes at a time, as in RMM.
const BLOCKS: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    min: u32,
    max: u32,
    sizes: Sizes,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| {
        Ok(Box::new(Binning { config, driver, devices: Devices::default() }))
    }))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    let exponent = |key| given.number(key, 8..=40);
    let config = Config {
        min: exponent("min_size_exponent")?.unwrap_or(18) as u32,
        max: exponent("max_size_exponent")?.unwrap_or(22) as u32,
        sizes: Sizes::read(&given)?,
    };
    if config.min > config.max {
        return Err(given.bad("min_size_exponent", config.min));
    }
    Ok(config)
}

/// Free blocks of one size, first in, first out.
#[derive(Default)]
struct Fifo(VecDeque<Span>);

impl Spans for Fifo {
    fn put(&mut self, span: Span) {
        self.0.push_back(span);
    }

    fn take(&mut self, _: u64) -> Option<Span> {
        self.0.pop_front()
    }

    fn append(&mut self, mut other: Fifo) {
        self.0.append(&mut other.0);
    }
}

/// The blocks of one size.
struct Bin {
    bytes: u64,
    lists: StreamLists<Fifo>,
}

impl Bin {
    /// A bin with its first blocks, which belong to the default stream.
    fn new(driver: &Arc<dyn Driver>, pool: &mut Pool, exponent: u32) -> Result<Bin, DriverError> {
        let mut bin = Bin { bytes: 1 << exponent, lists: StreamLists::new(driver, pool.device) };
        let place = bin.lists.place(StreamId(0))?;
        let chunk = pool.allocate(bin.bytes * BLOCKS, StreamId(0))?;
        for index in 0..BLOCKS {
            bin.lists.put(place, bin.block(chunk, index));
        }
        Ok(bin)
    }

    fn block(&self, chunk: u64, index: u64) -> Span {
        Span { address: chunk + index * self.bytes, bytes: self.bytes, head: false }
    }

    /// A block, and the list of its stream.
    fn take(&mut self, pool: &mut Pool, stream: StreamId) -> Result<(Span, usize), DriverError> {
        let place = self.lists.place(stream)?;
        if let Some((span, _)) = self.lists.take(place, self.bytes)? {
            return Ok((span, place));
        }
        let chunk = pool.allocate(self.bytes * BLOCKS, stream)?;
        for index in 1..BLOCKS {
            self.lists.put(place, self.block(chunk, index));
        }
        Ok((self.block(chunk, 0), place))
    }
}

/// A block of a bin.
struct Live {
    bin: usize,
    span: Span,
    list: usize,
}

/// The bins and the pool of one device.
struct Device {
    pool: Pool,
    bins: Vec<Bin>,
    live: FxHashMap<u64, Live>,
}

impl Device {
    fn allocate(&mut self, size: u64, stream: StreamId) -> Result<u64, DriverError> {
        let Some(index) = self.bins.iter().position(|bin| size <= bin.bytes) else {
            return self.pool.allocate(size, stream);
        };
        let (span, list) = self.bins[index].take(&mut self.pool, stream)?;
        self.live.insert(span.address, Live { bin: index, span, list });
        Ok(span.address)
    }

    /// Takes a block back; whether there was one.
    fn free(&mut self, address: u64) -> Result<bool, DriverError> {
        if let Some(&Live { bin, span, list }) = self.live.get(&address) {
            self.bins[bin].lists.free(list, span)?;
            self.live.remove(&address);
            return Ok(true);
        }
        self.pool.free(address)
    }

    fn bytes_of(&self, address: u64) -> Option<u64> {
        let binned = self.live.get(&address).map(|live| live.span.bytes);
        binned.or_else(|| self.pool.bytes_of(address))
    }
}

struct Binning {
    config: Config,
    driver: Arc<dyn Driver>,
    devices: Devices<Device>,
}

impl Binning {
    /// The device's bins and pool. Where making a bin fails, those before it are there already when
    /// the next request comes.
    fn device(&mut self, id: DeviceId) -> Result<&mut Device, DriverError> {
        let device = self.devices.get(id, || {
            let pool = Pool::new(&self.driver, id, self.config.sizes)?;
            Ok(Device { pool, bins: Vec::new(), live: FxHashMap::default() })
        })?;
        for exponent in (self.config.min..=self.config.max).skip(device.bins.len()) {
            device.bins.push(Bin::new(&self.driver, &mut device.pool, exponent)?);
        }
        Ok(device)
    }
}

impl Policy for Binning {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let address = self.device(device).and_then(|device| device.allocate(size, stream));
        address.map_err(|error| refusal(&error, || exceeded(size)))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.devices.free(address, Device::free)
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.devices.iter().find_map(|device| device.bytes_of(address))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("pool_bytes", self.devices.iter().map(|device| device.pool.total).sum())]
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const STREAM: StreamId = StreamId(3);
    const KIB: u64 = 1 << 10;

    /// Bins of 1, 2 and 4 KiB over a pool of 8 MiB.
    fn binning() -> (Binning, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(8 << 20)).unwrap());
        let given = PolicyOptions::of(&[("initial_pool_size", "8MiB")]);
        let sizes = Sizes::read(&Given::new(&given, OPTIONS).unwrap()).unwrap();
        let config = Config { min: 10, max: 12, sizes };
        (Binning { config, driver: Arc::clone(&sim) as _, devices: Devices::default() }, sim)
    }

    #[test]
    fn requests_go_to_the_smallest_bin_that_fits() {
        let (mut binning, _sim) = binning();
        for (size, bytes) in [(1, KIB), (KIB, KIB), (KIB + 1, 2 * KIB), (4 * KIB, 4 * KIB)] {
            let block = binning.allocate(size, DEVICE, STREAM).unwrap();
            assert_eq!(binning.block_bytes(block), Some(bytes), "{size}");
        }
        let block = binning.allocate(4 * KIB + 1, DEVICE, STREAM).unwrap();
        assert_eq!(binning.block_bytes(block), Some(4 * KIB + 256), "from the pool");
    }

    #[test]
    fn a_bin_takes_128_blocks_at_a_time_and_hands_out_the_first_freed() {
        let (mut binning, sim) = binning();
        let mut blocks: Vec<_> =
            (0..128).map(|_| binning.allocate(KIB, DEVICE, STREAM).unwrap()).collect();
        blocks.sort_unstable();
        assert!(blocks.windows(2).all(|pair| pair[0] + KIB == pair[1]));
        let next = binning.allocate(KIB, DEVICE, STREAM).unwrap();
        assert!(next < blocks[0] || next > blocks[127], "of the next 128");
        for block in [blocks[9], blocks[3]] {
            binning.free(block).unwrap();
        }
        for _ in 0..127 {
            assert!(!blocks.contains(&binning.allocate(KIB, DEVICE, STREAM).unwrap()));
        }
        assert_eq!(binning.allocate(KIB, DEVICE, STREAM), Ok(blocks[9]));
        assert_eq!(binning.allocate(KIB, DEVICE, STREAM), Ok(blocks[3]));
        assert_eq!(sim.usage(DEVICE).unwrap().taken, 8 << 20);
        assert!(binning.free(7).unwrap_err().contains("0x7"));
    }

    #[test]
    fn exponents_in_the_wrong_order_are_refused() {
        let error = "rmm-binning:min_size_exponent=23".parse::<crate::PolicySpec>().unwrap_err();
        assert!(error.to_string().contains("at most max_size_exponent"), "{error}");
        assert!(
            "rmm-binning:min_size_exponent=8,initial_pool_size=1GiB"
                .parse::<crate::PolicySpec>()
                .is_ok()
        );
    }
}
