//! `cupy`: CuPy's `MemoryPool`: best fit over chunks of 512 bytes, one arena for each stream.
//!
//! After CuPy 14's documentation, "Memory Management", and the docstring of
//! `SingleDeviceMemoryPool`. Sizes are rounded up to 512 bytes. The smallest free chunk of the
//! stream's arena that fits is taken, and cut if it is larger; without one `cudaMalloc` is asked
//! for just the rounded size. A freed chunk is joined with free neighbours and goes to the arena
//! of the stream that it was allocated on; no stream ever gets another one's, so no events are
//! needed. Out of memory gives all chunks back that are whole allocations, in all arenas, and asks
//! again, twice: the second time after Python's garbage collector ran, which finds nothing in a
//! replay. A `limit` (`set_limit`, `CUPY_GPU_MEMORY_LIMIT`) is out of memory too.
//!
//! Held to the original's own answers by `tests/peers`.
//!
//! Left out: which one of several chunks of the same size is taken, an accident of Python's sets
//! there, and here the one that was made first.

use std::collections::BTreeSet;
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{ByStream, ChunkId, Chunks, Given, Segments, Share, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "cupy",
    summary: "CuPy's memory pool: best fit, an arena for each stream",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "limit",
    help: "The most bytes that the pool takes of each device",
    allowed: "a size, or a part of the device's memory as in 50%; 0 for no limit",
    default: "0",
}];

/// Sizes are multiples of this.
const UNIT: u64 = 512;

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let limit = given.share("limit")?.unwrap_or(Share::Bytes(0));
    Ok(Arc::new(move |driver| Ok(Box::new(CuPy::new(driver, limit)))))
}

/// The arena of a chunk, and whether it is in use.
#[derive(Clone, Copy, Debug)]
struct Owner {
    arena: usize,
    in_use: bool,
}

/// (bytes, chunk) of the free chunks.
type Arena = BTreeSet<(u64, ChunkId)>;

/// What the pool of a device has, and may have.
#[derive(Clone, Copy, Debug)]
struct Budget {
    total: u64,
    limit: u64,
}

struct CuPy {
    limit: Share,
    chunks: Chunks<Owner>,
    live: FxHashMap<u64, ChunkId>,
    arenas: ByStream<Arena>,
    budgets: FxHashMap<DeviceId, Budget>,
    segments: Segments,
}

impl CuPy {
    fn new(driver: Arc<dyn Driver>, limit: Share) -> Self {
        CuPy {
            limit,
            chunks: Chunks::default(),
            live: FxHashMap::default(),
            arenas: ByStream::default(),
            budgets: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    fn budget(&mut self, device: DeviceId) -> Result<Budget, DriverError> {
        if let Some(&budget) = self.budgets.get(&device) {
            return Ok(budget);
        }
        let limit = match self.limit {
            Share::Bytes(bytes) => bytes,
            part => part.of(self.segments.driver().device_memory(device)?.total),
        };
        Ok(*self.budgets.entry(device).or_insert(Budget { total: 0, limit }))
    }

    /// The smallest free chunk of the arena that fits, cut to size.
    fn fit(&mut self, arena: usize, bytes: u64) -> Option<ChunkId> {
        let free = self.arenas.at(arena);
        let &(found, id) = free.range((bytes, 0)..).next()?;
        free.remove(&(found, id));
        if found > bytes {
            let rest = self.chunks.split(id, bytes, Owner { arena, in_use: false });
            free.insert((found - bytes, rest));
        }
        self.chunks[id].data.in_use = true;
        Some(id)
    }

    /// A new chunk from `cudaMalloc`.
    fn malloc(
        &mut self,
        device: DeviceId,
        arena: usize,
        bytes: u64,
    ) -> Result<ChunkId, DriverError> {
        let mut taken = self.take(device, bytes);
        for _ in 0..2 {
            match taken {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                    self.free_all_blocks(device)?;
                    taken = self.take(device, bytes);
                }
                _ => break,
            }
        }
        let chunk = self.chunks.add(taken?, bytes, Owner { arena, in_use: true });
        self.change(device, |total| total + bytes);
        Ok(chunk)
    }

    /// `cudaMalloc`, within the limit.
    fn take(&mut self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let Budget { total, limit } = self.budget(device)?;
        if limit != 0 && limit < total.saturating_add(bytes) {
            return Err(DriverError {
                call: DriverCall::SegmentAlloc,
                kind: DriverErrorKind::OutOfMemory,
                code: 0,
                detail: format!("the pool has at most {limit} bytes"),
            });
        }
        self.segments.take(device, bytes)
    }

    /// Gives all free chunks back that are whole allocations.
    fn free_all_blocks(&mut self, device: DeviceId) -> Result<(), DriverError> {
        let whole = |chunks: &Chunks<Owner>, free: &Arena| -> Vec<_> {
            free.iter().copied().filter(|&(_, id)| chunks[id].is_whole()).collect()
        };
        for arena in self.arenas.of_device(device) {
            for (bytes, id) in whole(&self.chunks, arena) {
                self.segments.give(self.chunks[id].address)?;
                self.chunks.remove(id);
                arena.remove(&(bytes, id));
                if let Some(budget) = self.budgets.get_mut(&device) {
                    budget.total -= bytes;
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, device: DeviceId, change: impl FnOnce(u64) -> u64) {
        if let Some(budget) = self.budgets.get_mut(&device) {
            budget.total = change(budget.total);
        }
    }

    /// CuPy's message.
    fn words(&self, device: DeviceId, bytes: u64) -> String {
        let Budget { total, limit } =
            self.budgets.get(&device).copied().unwrap_or(Budget { total: 0, limit: 0 });
        let limit = match limit {
            0 => String::new(),
            limit => format!(", limit set to: {} bytes", grouped(limit)),
        };
        let (asked, total) = (grouped(bytes), grouped(total));
        format!("Out of memory allocating {asked} bytes (allocated so far: {total} bytes{limit}).")
    }
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Policy for CuPy {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bytes = size.next_multiple_of(UNIT);
        let arena = self.arenas.place(device, stream);
        let id = match self.fit(arena, bytes) {
            Some(id) => id,
            None => {
                let made = self.malloc(device, arena, bytes);
                made.map_err(|error| refusal(&error, || self.words(device, bytes)))?
            }
        };
        let address = self.chunks[id].address;
        self.live.insert(address, id);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let mut id = self.live.remove(&address).ok_or_else(|| no_block(address))?;
        let arena = self.arenas.at(self.chunks[id].data.arena);
        let free = |chunks: &Chunks<Owner>, neighbour: Option<ChunkId>| {
            neighbour.filter(|&id| !chunks[id].data.in_use)
        };
        if let Some(next) = free(&self.chunks, self.chunks[id].next) {
            arena.remove(&(self.chunks[next].bytes, next));
            self.chunks.absorb_next(id);
        }
        if let Some(previous) = free(&self.chunks, self.chunks[id].previous) {
            arena.remove(&(self.chunks[previous].bytes, previous));
            self.chunks.absorb_next(previous);
            id = previous;
        }
        self.chunks[id].data.in_use = false;
        arena.insert((self.chunks[id].bytes, id));
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|&id| self.chunks[id].bytes)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("total_bytes", self.budgets.values().map(|budget| budget.total).sum())]
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const ONE: StreamId = StreamId(1);
    const TWO: StreamId = StreamId(2);
    const NO_LIMIT: Share = Share::Bytes(0);

    fn cupy(limit: Share, capacity: u64) -> (CuPy, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
        (CuPy::new(Arc::clone(&sim) as _, limit), sim)
    }

    fn taken(sim: &SimDriver) -> u64 {
        sim.usage(DEVICE).unwrap().taken
    }

    #[test]
    fn the_smallest_chunk_that_fits_is_cut_and_joined_again() {
        let (mut cupy, sim) = cupy(NO_LIMIT, 1 << 30);
        let large = cupy.allocate(8 << 10, DEVICE, ONE).unwrap();
        let small = cupy.allocate(4 << 10, DEVICE, ONE).unwrap();
        cupy.free(large).unwrap();
        cupy.free(small).unwrap();
        let first = cupy.allocate(3_000, DEVICE, ONE).unwrap();
        assert_eq!((first, cupy.block_bytes(first)), (small, Some(3_072)));
        assert_eq!(cupy.allocate(1_000, DEVICE, ONE), Ok(small + 3_072), "the rest of it");
        assert_eq!(taken(&sim), 12 << 10);
        cupy.free(small + 3_072).unwrap();
        cupy.free(first).unwrap();
        assert_eq!(cupy.allocate(4 << 10, DEVICE, ONE), Ok(small), "whole again");
    }

    #[test]
    fn streams_share_nothing() {
        let (mut cupy, sim) = cupy(NO_LIMIT, 1 << 30);
        let one = cupy.allocate(512, DEVICE, ONE).unwrap();
        cupy.free(one).unwrap();
        assert_ne!(cupy.allocate(512, DEVICE, TWO), Ok(one));
        assert_eq!(taken(&sim), 1024);
    }

    #[test]
    fn out_of_memory_gives_whole_allocations_of_all_streams_back() {
        let (mut cupy, sim) = cupy(NO_LIMIT, 10 << 20);
        let whole = cupy.allocate(4 << 20, DEVICE, ONE).unwrap();
        let cut = cupy.allocate(4 << 20, DEVICE, TWO).unwrap();
        cupy.free(whole).unwrap();
        cupy.free(cut).unwrap();
        let kept = cupy.allocate(1 << 20, DEVICE, TWO).unwrap();
        cupy.allocate(6 << 20, DEVICE, TWO).unwrap();
        assert_eq!(taken(&sim), 10 << 20);
        let Err(Refusal::OutOfMemory(words)) = cupy.allocate(4 << 20, DEVICE, ONE) else {
            panic!("there is no memory");
        };
        let said = "Out of memory allocating 4,194,304 bytes (allocated so far: 10,485,760 bytes).";
        assert_eq!(&*words, said);
        cupy.free(kept).unwrap();
        drop(cupy);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn at_a_limit_whole_allocations_go_back_too() {
        let (mut cupy, sim) = cupy(Share::Percent(50.0), 8 << 20);
        let cached = cupy.allocate(3 << 20, DEVICE, ONE).unwrap();
        cupy.free(cached).unwrap();
        cupy.allocate(2 << 20, DEVICE, TWO).unwrap();
        assert_eq!(taken(&sim), 2 << 20);
        let Err(Refusal::OutOfMemory(words)) = cupy.allocate(3 << 20, DEVICE, TWO) else {
            panic!("over the limit");
        };
        assert!(words.ends_with("limit set to: 4,194,304 bytes)."), "{words}");
    }

    #[test]
    fn numbers_in_groups() {
        let texts = [0, 12, 999, 1000, 1234567].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "1,234,567"]);
    }
}
