//! `buddy`: the binary buddy system over segments from `cudaMalloc`.
//!
//! After Knowlton, "A fast storage allocator" (1965), as in Knuth, "The Art of Computer
//! Programming", volume 1, 2.5, algorithms R and S. A block has a power of two bytes, at least
//! `min_block`, and lies at a multiple of its size in its segment. The smallest free block that is
//! large enough is halved until it fits; a freed block is joined with its buddy while that is free
//! and whole. There is no original over GPU memory, so what a GPU needs is as in other pools here:
//! each stream has free blocks of its own, a segment has `segment_size` bytes, or the block's if
//! that is more, and segments that are free as a whole go back when the device is full.
//!
//! Left out: headers in the memory, which the host cannot write.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{ByStream, Given, Segments, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "buddy",
    summary: "the binary buddy system",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "segment_size",
        help: "What is taken of the device at a time, at least",
        allowed: "a power of two from 2MiB to 64GiB",
        default: "64MiB",
    },
    OptionInfo {
        name: "min_block",
        help: "The smallest block",
        allowed: "a power of two from 256B to 1MiB",
        default: "512B",
    },
];

/// Powers of two.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    segment: u64,
    least: u64,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let config = Config {
        segment: given.power("segment_size", 2 << 20..=64 << 30)?.unwrap_or(64 << 20),
        least: given.power("min_block", 256..=1 << 20)?.unwrap_or(512),
    };
    Ok(Arc::new(move |driver| Ok(Box::new(Buddy::new(driver, config)))))
}

/// Where a block lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    segment_bytes: u64,
}

/// The free blocks of a stream: for each power of two, by address.
type Free = [BTreeMap<u64, Place>; u64::BITS as usize];

#[derive(Debug)]
struct Heap(Box<Free>);

impl Default for Heap {
    fn default() -> Self {
        Heap(Box::new(std::array::from_fn(|_| BTreeMap::new())))
    }
}

impl Heap {
    /// A free block of 2^`order` bytes, cut out of the smallest that is as large.
    fn take(&mut self, order: u32) -> Option<(u64, Place)> {
        let mut found = (order..u64::BITS).find(|&large| !self.0[large as usize].is_empty())?;
        let (address, place) = self.0[found as usize].pop_first()?;
        while found > order {
            found -= 1;
            self.0[found as usize].insert(address + (1 << found), place);
        }
        Some((address, place))
    }

    /// Adds a block of 2^`order` bytes, joined with its buddies.
    fn give(&mut self, mut address: u64, mut order: u32, place: Place) {
        while 1 << order < place.segment_bytes {
            let buddy = place.segment + ((address - place.segment) ^ (1 << order));
            if self.0[order as usize].remove(&buddy).is_none() {
                break;
            }
            address = address.min(buddy);
            order += 1;
        }
        self.0[order as usize].insert(address, place);
    }
}

struct Live {
    order: u32,
    heap: usize,
    place: Place,
}

struct Buddy {
    config: Config,
    heaps: ByStream<Heap>,
    live: FxHashMap<u64, Live>,
    segments: Segments,
}

impl Buddy {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        Buddy {
            config,
            heaps: ByStream::default(),
            live: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    /// Gives all segments of the device back that are free as a whole.
    fn release(&mut self, device: DeviceId) -> Result<(), DriverError> {
        for heap in self.heaps.of_device(device) {
            for order in 0..u64::BITS {
                let free = &mut heap.0[order as usize];
                let whole: Vec<u64> = free
                    .iter()
                    .filter(|(_, place)| place.segment_bytes == 1 << order)
                    .map(|(&address, _)| address)
                    .collect();
                for address in whole {
                    self.segments.give(address)?;
                    free.remove(&address);
                }
            }
        }
        Ok(())
    }

    /// A new segment for a block.
    fn grow(&mut self, device: DeviceId, heap: usize, bytes: u64) -> Result<(), DriverError> {
        let segment_bytes = bytes.max(self.config.segment);
        let taken = match self.segments.take(device, segment_bytes) {
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                self.release(device)?;
                self.segments.take(device, segment_bytes)
            }
            taken => taken,
        };
        let segment = taken?;
        let place = Place { segment, segment_bytes };
        self.heaps.at(heap).give(segment, segment_bytes.ilog2(), place);
        Ok(())
    }
}

impl Policy for Buddy {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let heap = self.heaps.place(device, stream);
        // Sizes of a trace are at most 2^60.
        let bytes = size.max(self.config.least).next_power_of_two();
        let order = bytes.ilog2();
        let mut found = self.heaps.at(heap).take(order);
        let words = || format!("no block of {bytes} bytes is free, and no segment for one");
        if found.is_none() {
            let grown = self.grow(device, heap, bytes);
            grown.map_err(|error| refusal(&error, words))?;
            found = self.heaps.at(heap).take(order);
        }
        let (address, place) = found.ok_or_else(|| Refusal::OutOfMemory(words().into()))?;
        self.live.insert(address, Live { order, heap, place });
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let live = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        self.heaps.at(live.heap).give(address, live.order, live.place);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|live| 1 << live.order)
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const STREAM: StreamId = StreamId(1);
    const MIB: u64 = 1 << 20;

    fn buddy(segment: u64, capacity: u64) -> (Buddy, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
        (Buddy::new(Arc::clone(&sim) as _, Config { segment, least: 512 }), sim)
    }

    #[test]
    fn blocks_are_powers_of_two_at_multiples_of_their_size() {
        let (mut buddy, sim) = buddy(64 * MIB, 1 << 30);
        let first = buddy.allocate(1, DEVICE, STREAM).unwrap();
        for (size, bytes) in [(513, 1024), (1024, 1024), (3 * MIB, 4 * MIB), (512, 512)] {
            let block = buddy.allocate(size, DEVICE, STREAM).unwrap();
            assert_eq!(buddy.block_bytes(block), Some(bytes), "{size}");
            assert_eq!((block - first) % bytes, 0, "{size}");
        }
        assert_eq!(sim.usage(DEVICE).unwrap().taken, 64 * MIB);
        buddy.allocate(65 * MIB, DEVICE, STREAM).unwrap();
        assert_eq!(sim.usage(DEVICE).unwrap().taken, (64 + 128) * MIB);
    }

    #[test]
    fn only_buddies_are_joined() {
        let (mut buddy, _sim) = buddy(4 * MIB, 4 * MIB);
        let blocks = [(); 4].map(|()| buddy.allocate(MIB, DEVICE, STREAM).unwrap());
        buddy.free(blocks[1]).unwrap();
        buddy.free(blocks[2]).unwrap();
        assert!(buddy.allocate(2 * MIB, DEVICE, STREAM).is_err(), "neighbours, not buddies");
        buddy.free(blocks[3]).unwrap();
        assert_eq!(buddy.allocate(2 * MIB, DEVICE, STREAM), Ok(blocks[2]));
    }

    #[test]
    fn a_full_device_gets_whole_segments_back() {
        let (mut buddy, sim) = buddy(2 * MIB, 4 * MIB);
        let one = buddy.allocate(MIB, DEVICE, STREAM).unwrap();
        let two = buddy.allocate(2 * MIB, DEVICE, STREAM).unwrap();
        buddy.free(two).unwrap();
        buddy.allocate(2 * MIB, DEVICE, StreamId(2)).unwrap();
        buddy.free(one).unwrap();
        buddy.allocate(2 * MIB, DEVICE, StreamId(2)).unwrap();
        assert!(buddy.allocate(512, DEVICE, STREAM).is_err());
        drop(buddy);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn sizes_are_powers_of_two() {
        for text in ["buddy:segment_size=3MiB", "buddy:min_block=128B"] {
            let error = text.parse::<crate::PolicySpec>().unwrap_err().to_string();
            assert!(error.contains("allowed is a power of two"), "{error}");
        }
        assert!("buddy:segment_size=1GiB,min_block=2KiB".parse::<crate::PolicySpec>().is_ok());
    }
}
