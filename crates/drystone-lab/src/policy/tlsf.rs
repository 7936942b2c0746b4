//! `tlsf`: the two-level segregated fit of Masmano, Ripoll, Crespo and Real, over areas from
//! `cudaMalloc`.
//!
//! After "TLSF: a new dynamic memory allocator for real-time systems" (ECRTS 2004) and the authors'
//! release 2.4.6. Free blocks are in lists by size: powers of two, each cut into 32 equal ranges. A
//! request is rounded up to the start of a range, so that every block of its list is large enough
//! (good fit); it takes the first block of the first list that is not empty, found in two bitmaps.
//! The rest goes back to its list; a freed block is joined with its free neighbours at once and
//! comes first in its list. All in a fixed number of steps. There is no original over GPU memory,
//! so what a GPU needs is as in other pools here: each stream has lists of its own, sizes are
//! multiples of 512 bytes, an area has `area_size` bytes, or the block's if that is more, and areas
//! that are free as a whole go back when the device is full.
//!
//! Left out: headers in the memory, which the host cannot write.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{ByStream, ChunkId, Chunks, Given, Segments, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "tlsf",
    summary: "two-level segregated fit, of real-time systems",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "area_size",
    help: "What is taken of the device at a time, at least",
    allowed: "a size from 2MiB to 64GiB",
    default: "64MiB",
}];

/// Sizes are multiples of this.
const GRANULE: u64 = 512;
/// A power of two is cut into 2 to this power ranges: the paper's J, as its authors have it.
const RANGES_LOG2: u32 = 5;
const RANGES: usize = 1 << RANGES_LOG2;
const POWERS: usize = u64::BITS as usize;

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let area = given.bytes("area_size", 2 << 20..=64 << 30)?.unwrap_or(64 << 20);
    let area = area.next_multiple_of(GRANULE);
    Ok(Arc::new(move |driver| Ok(Box::new(Tlsf::new(driver, area)))))
}

/// A list of blocks: of which power of two, and which range of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct List {
    power: usize,
    range: usize,
}

impl List {
    /// The list of a block of `bytes`.
    fn of(bytes: u64) -> List {
        let power = bytes.ilog2();
        let range = (bytes >> (power - RANGES_LOG2)) as usize - RANGES;
        List { power: power as usize, range }
    }
}

/// The least size that is not below `bytes` and starts a range.
fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of((1 << (bytes.ilog2() - RANGES_LOG2)).max(GRANULE))
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug)]
struct Block {
    heap: usize,
    free: bool,
    /// Its neighbours in the list of free blocks.
    newer: Option<ChunkId>,
    older: Option<ChunkId>,
}

impl Block {
    fn new(heap: usize) -> Block {
        Block { heap, free: false, newer: None, older: None }
    }
}

/// The lists of a stream.
#[derive(Debug)]
struct Heap {
    /// Bit set <=> `ranges` of that power is not 0.
    powers: u64,
    /// Bit set <=> the list is not empty.
    ranges: [u32; POWERS],
    newest: Box<[[Option<ChunkId>; RANGES]; POWERS]>,
}

impl Default for Heap {
    fn default() -> Self {
        let newest = Box::new([[None; RANGES]; POWERS]);
        Heap { powers: 0, ranges: [0; POWERS], newest }
    }
}

impl Heap {
    /// The newest block of the first list from `list` on that is not empty.
    fn find(&self, list: List) -> Option<ChunkId> {
        let mut power = list.power;
        let mut ranges = self.ranges[power] & (u32::MAX << list.range);
        if ranges == 0 {
            let powers = self.powers & (u64::MAX << power) & !(1 << power);
            if powers == 0 {
                return None;
            }
            power = powers.trailing_zeros() as usize;
            ranges = self.ranges[power];
        }
        self.newest[power][ranges.trailing_zeros() as usize]
    }

    fn put(&mut self, chunks: &mut Chunks<Block>, id: ChunkId) {
        let List { power, range } = List::of(chunks[id].bytes);
        let older = self.newest[power][range].replace(id);
        if let Some(older) = older {
            chunks[older].data.newer = Some(id);
        }
        let block = &mut chunks[id].data;
        (block.free, block.newer, block.older) = (true, None, older);
        self.ranges[power] |= 1 << range;
        self.powers |= 1 << power;
    }

    fn remove(&mut self, chunks: &mut Chunks<Block>, id: ChunkId) {
        let List { power, range } = List::of(chunks[id].bytes);
        let Block { newer, older, .. } = chunks[id].data;
        chunks[id].data.free = false;
        if let Some(older) = older {
            chunks[older].data.newer = newer;
        }
        match newer {
            Some(newer) => chunks[newer].data.older = older,
            None => self.newest[power][range] = older,
        }
        if self.newest[power][range].is_none() {
            self.ranges[power] &= !(1 << range);
            if self.ranges[power] == 0 {
                self.powers &= !(1 << power);
            }
        }
    }
}

struct Tlsf {
    area: u64,
    chunks: Chunks<Block>,
    heaps: ByStream<Heap>,
    live: FxHashMap<u64, ChunkId>,
    /// The first chunk of each area, which keeps its name as long as the area is there.
    areas: FxHashMap<DeviceId, Vec<ChunkId>>,
    segments: Segments,
}

impl Tlsf {
    fn new(driver: Arc<dyn Driver>, area: u64) -> Self {
        Tlsf {
            area,
            chunks: Chunks::default(),
            heaps: ByStream::default(),
            live: FxHashMap::default(),
            areas: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    /// A new area, as one block that is in no list.
    fn grow(&mut self, device: DeviceId, heap: usize, bytes: u64) -> Result<ChunkId, DriverError> {
        let bytes = bytes.max(self.area);
        let taken = match self.segments.take(device, bytes) {
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                self.release(device)?;
                self.segments.take(device, bytes)
            }
            taken => taken,
        };
        let id = self.chunks.add(taken?, bytes, Block::new(heap));
        self.areas.entry(device).or_default().push(id);
        Ok(id)
    }

    /// Gives all areas of the device back that are free as a whole.
    fn release(&mut self, device: DeviceId) -> Result<(), DriverError> {
        let areas = self.areas.remove(&device).unwrap_or_default();
        let (free, mut kept): (Vec<_>, Vec<_>) = areas
            .into_iter()
            .partition(|&id| self.chunks[id].is_whole() && self.chunks[id].data.free);
        let mut failed = None;
        for id in free {
            match self.segments.give(self.chunks[id].address) {
                Ok(()) => {
                    let heap = self.heaps.at(self.chunks[id].data.heap);
                    heap.remove(&mut self.chunks, id);
                    self.chunks.remove(id);
                }
                Err(error) => {
                    kept.push(id);
                    failed = Some(error);
                }
            }
        }
        self.areas.insert(device, kept);
        failed.map_or(Ok(()), Err)
    }
}

impl Policy for Tlsf {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bytes = rounded(size.max(GRANULE));
        let place = self.heaps.place(device, stream);
        let heap = self.heaps.at(place);
        let id = match heap.find(List::of(bytes)) {
            Some(id) => {
                heap.remove(&mut self.chunks, id);
                id
            }
            None => {
                let words = || format!("no block of {bytes} bytes is free, and no area for one");
                let grown = self.grow(device, place, bytes);
                grown.map_err(|error| refusal(&error, words))?
            }
        };
        if self.chunks[id].bytes > bytes {
            let rest = self.chunks.split(id, bytes, Block::new(place));
            self.heaps.at(place).put(&mut self.chunks, rest);
        }
        let address = self.chunks[id].address;
        self.live.insert(address, id);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let mut id = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        let heap = self.heaps.at(self.chunks[id].data.heap);
        let chunks = &mut self.chunks;
        if let Some(next) = chunks[id].next.filter(|&next| chunks[next].data.free) {
            heap.remove(chunks, next);
            chunks.absorb_next(id);
        }
        if let Some(previous) = chunks[id].previous.filter(|&before| chunks[before].data.free) {
            heap.remove(chunks, previous);
            chunks.absorb_next(previous);
            id = previous;
        }
        heap.put(chunks, id);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|&id| self.chunks[id].bytes)
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const STREAM: StreamId = StreamId(1);
    const MIB: u64 = 1 << 20;

    fn tlsf(area: u64, capacity: u64) -> (Tlsf, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
        (Tlsf::new(Arc::clone(&sim) as _, area), sim)
    }

    #[test]
    fn sizes_and_their_lists() {
        let list = |power, range| List { power, range };
        assert_eq!(List::of(512), list(9, 0));
        assert_eq!(List::of(1536), list(10, 16));
        assert_eq!(List::of(MIB), list(20, 0));
        assert_eq!(List::of(MIB + MIB / 32), list(20, 1));
        assert_eq!(List::of(MIB + MIB / 32 - 512), list(20, 0));
    }

    #[test]
    fn every_block_of_the_list_that_is_searched_fits() {
        for bytes in (1..200_000).chain((MIB..4 * MIB).step_by(12_345)) {
            let (bytes, size) = (rounded(bytes.max(GRANULE)), bytes);
            let List { power, range } = List::of(bytes);
            let least = (1u64 << power) + ((range as u64) << (power as u32 - RANGES_LOG2));
            assert_eq!((least, bytes % GRANULE), (bytes, 0), "{size}");
            assert!(bytes >= size && bytes - size < GRANULE.max(size / 32 + 1), "{size}: {bytes}");
        }
    }

    #[test]
    fn the_newest_block_of_a_list_is_taken_first() {
        let (mut tlsf, _sim) = tlsf(64 * MIB, 1 << 30);
        let blocks = [(); 5].map(|()| tlsf.allocate(MIB, DEVICE, STREAM).unwrap());
        tlsf.free(blocks[1]).unwrap();
        tlsf.free(blocks[3]).unwrap();
        assert_eq!(tlsf.allocate(MIB, DEVICE, STREAM), Ok(blocks[3]));
        assert_eq!(tlsf.allocate(MIB - 512, DEVICE, STREAM), Ok(blocks[1]));
        assert_eq!(tlsf.block_bytes(blocks[1]), Some(MIB), "rounded up by 1/32 at most");
    }

    #[test]
    fn neighbours_are_joined_at_once() {
        let (mut tlsf, sim) = tlsf(2 * MIB, 2 * MIB);
        let blocks = [(); 4].map(|()| tlsf.allocate(MIB / 2, DEVICE, STREAM).unwrap());
        for index in [0, 2, 1] {
            tlsf.free(blocks[index]).unwrap();
        }
        assert_eq!(tlsf.allocate(MIB + MIB / 2, DEVICE, STREAM), Ok(blocks[0]));
        let refused = tlsf.allocate(512, DEVICE, STREAM).unwrap_err();
        assert!(matches!(refused, Refusal::OutOfMemory(_)), "{refused:?}");
        tlsf.free(blocks[3]).unwrap();
        tlsf.free(blocks[0]).unwrap();
        // Another stream has nothing, so the area goes back first.
        tlsf.allocate(2 * MIB, DEVICE, StreamId(2)).unwrap();
        drop(tlsf);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn a_block_larger_than_an_area_has_one_of_its_size() {
        let (mut tlsf, sim) = tlsf(2 * MIB, 1 << 30);
        let block = tlsf.allocate(3 * MIB + 100, DEVICE, STREAM).unwrap();
        assert_eq!(sim.usage(DEVICE).unwrap().taken, 3 * MIB + MIB / 16);
        tlsf.free(block).unwrap();
        assert_eq!(tlsf.allocate(3 * MIB + 100, DEVICE, STREAM), Ok(block), "and finds it again");
    }
}
