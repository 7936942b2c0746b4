//! `rmm-pool`: RMM's `pool_memory_resource` over `cudaMalloc`: a coalescing best-fit pool.
//!
//! After the documentation of RMM 26.06 (docs.rapids.ai/api/librmm: `pool_memory_resource`;
//! docs.rapids.ai/api/rmm: `PoolMemoryResource`, whose defaults are taken). Sizes are rounded up
//! to 256 bytes. Each stream has a list of free memory, best fit, neighbours joined; what happens
//! between streams is in `parts::stream_lists`. A pool that has nothing that fits grows by as much
//! as it has, or by half of what is left to `maximum_pool_size`, or by the request if that is more,
//! and tries half of it again and again where the device has less. It gives nothing back.
//!
//! Held to the original's own answers by `tests/peers`.
//!
//! Left out: other upstream resources than `cudaMalloc`, and locks, since a replay is one thread.
//! An initial size above the maximum is refused there, and here cut to it: half of a device is often
//! more than a maximum that was set to try something.
//! RMM's order of lists is that of the addresses of its events; here it is that in which streams were
//! met.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Devices, FreeList, Given, Segments, Share, Span, StreamLists, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "rmm-pool",
    summary: "RMM's pool: coalescing best fit, a list for each stream",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

pub(super) const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "initial_pool_size",
        help: "What the pool takes of each device before the first request",
        allowed: "a size, or a part of the device's free memory as in 50%",
        default: "50%",
    },
    OptionInfo {
        name: "maximum_pool_size",
        help: "The most that it takes of each device",
        allowed: "a size, or a part of the device's free memory as in 90%; 0 for all that there is",
        default: "0",
    },
];

/// RMM's alignment: sizes are multiples of it.
pub(super) const ALIGNMENT: u64 = 256;

/// The two sizes of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    initial: Share,
    maximum: Share,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { initial: Share::Percent(50.0), maximum: Share::Bytes(0) }
    }
}

impl Sizes {
    /// Those that were given, and else the defaults.
    pub(super) fn read(given: &Given<'_>) -> Result<Self, String> {
        let default = Sizes::default();
        Ok(Sizes {
            initial: given.share("initial_pool_size")?.unwrap_or(default.initial),
            maximum: given.share("maximum_pool_size")?.unwrap_or(default.maximum),
        })
    }
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let sizes = Sizes::read(&Given::new(given, OPTIONS)?)?;
    Ok(Arc::new(move |driver| Ok(Box::new(RmmPool { sizes, driver, pools: Devices::default() }))))
}

/// A pool of each device that was used.
struct RmmPool {
    sizes: Sizes,
    driver: Arc<dyn Driver>,
    pools: Devices<Pool>,
}

impl Policy for RmmPool {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let pool = self.pools.get(device, || Pool::new(&self.driver, device, self.sizes));
        let address = pool.and_then(|pool| pool.allocate(size, stream));
        address.map_err(|error| refusal(&error, || exceeded(size)))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.pools.free(address, Pool::free)
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.pools.iter().find_map(|pool| pool.bytes_of(address))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("pool_bytes", self.pools.iter().map(|pool| pool.total).sum())]
    }
}

/// RMM's message.
pub(super) fn exceeded(bytes: u64) -> String {
    format!(
        "std::bad_alloc: out_of_memory: RMM failure: Maximum pool size exceeded ({bytes} bytes)"
    )
}

struct Live {
    span: Span,
    list: usize,
}

/// The pool of one device.
pub(super) struct Pool {
    pub(super) device: DeviceId,
    segments: Segments,
    lists: StreamLists<FreeList>,
    live: FxHashMap<u64, Live>,
    /// Bytes that it took.
    pub(super) total: u64,
    maximum: Option<u64>,
}

impl Pool {
    /// A pool with its first memory, which belongs to the default stream.
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        device: DeviceId,
        sizes: Sizes,
    ) -> Result<Pool, DriverError> {
        let free = driver.device_memory(device)?.free;
        let aligned = |share: Share| share.of(free) / ALIGNMENT * ALIGNMENT;
        let maximum = Some(aligned(sizes.maximum)).filter(|&maximum| maximum > 0);
        let mut pool = Pool {
            device,
            segments: Segments::new(Arc::clone(driver)),
            lists: StreamLists::new(driver, device),
            live: FxHashMap::default(),
            total: 0,
            maximum,
        };
        let initial = aligned(sizes.initial).min(maximum.unwrap_or(u64::MAX));
        if initial > 0 {
            let place = pool.lists.place(StreamId(0))?;
            let span = pool.grow(initial)?;
            pool.lists.put(place, span);
        }
        Ok(pool)
    }

    /// Hands out a block of `size` bytes, above 0.
    pub(super) fn allocate(&mut self, size: u64, stream: StreamId) -> Result<u64, DriverError> {
        let bytes = size.next_multiple_of(ALIGNMENT);
        let list = self.lists.place(stream)?;
        let (mut span, from) = match self.lists.take(list, bytes)? {
            Some(found) => found,
            None => (self.expand(bytes)?, list),
        };
        if let Some(rest) = span.cut(bytes) {
            self.lists.put(from, rest);
        }
        self.live.insert(span.address, Live { span, list });
        Ok(span.address)
    }

    /// Takes a block back; whether there was one.
    pub(super) fn free(&mut self, address: u64) -> Result<bool, DriverError> {
        let Some(&Live { span, list }) = self.live.get(&address) else { return Ok(false) };
        self.lists.free(list, span)?;
        self.live.remove(&address);
        Ok(true)
    }

    /// Bytes of a live block.
    pub(super) fn bytes_of(&self, address: u64) -> Option<u64> {
        self.live.get(&address).map(|live| live.span.bytes)
    }

    /// New memory of at least `bytes`: as much as there should be, or the half of it that there is.
    fn expand(&mut self, bytes: u64) -> Result<Span, DriverError> {
        let mut wanted = match self.maximum {
            None => self.total.max(bytes),
            Some(maximum) => {
                // A half need not be a multiple of the alignment, so the last growth may pass the
                // maximum by less than that.
                let left = maximum.saturating_sub(self.total).next_multiple_of(ALIGNMENT);
                if bytes > left {
                    return Err(too_large(maximum));
                }
                (left / 2).max(bytes)
            }
        };
        loop {
            match self.grow(wanted) {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory && wanted > bytes => {
                    wanted = (wanted / 2).max(bytes);
                }
                grown => return grown,
            }
        }
    }

    fn grow(&mut self, bytes: u64) -> Result<Span, DriverError> {
        let address = self.segments.take(self.device, bytes)?;
        self.total += bytes;
        Ok(Span { address, bytes, head: true })
    }
}

#[cold]
fn too_large(maximum: u64) -> DriverError {
    DriverError {
        call: drystone_core::DriverCall::SegmentAlloc,
        kind: DriverErrorKind::OutOfMemory,
        code: 0,
        detail: format!("the pool has at most {maximum} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const MIB: u64 = 1 << 20;

    fn pool(initial: u64, maximum: u64, capacity: u64) -> (RmmPool, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(capacity)).unwrap());
        let sizes = Sizes { initial: Share::Bytes(initial), maximum: Share::Bytes(maximum) };
        (RmmPool { sizes, driver: Arc::clone(&sim) as _, pools: Devices::default() }, sim)
    }

    fn taken(sim: &SimDriver) -> u64 {
        sim.usage(DEVICE).unwrap().taken
    }

    #[test]
    fn half_of_the_device_is_taken_at_first() {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(9 * MIB)).unwrap());
        let driver = Arc::clone(&sim) as Arc<dyn Driver>;
        let mut pool = RmmPool { sizes: Sizes::default(), driver, pools: Devices::default() };
        let block = pool.allocate(100, DEVICE, StreamId(0)).unwrap();
        assert_eq!((taken(&sim), pool.block_bytes(block)), (9 * MIB / 2, Some(256)));
    }

    #[test]
    fn the_pool_doubles_and_then_halves_its_wish() {
        let (mut pool, sim) = pool(0, 0, 11 * MIB);
        for (bytes, total) in [(MIB, 1), (MIB, 2), (MIB, 4), (MIB, 4), (MIB, 8), (5 * MIB, 8)] {
            let result = pool.allocate(bytes, DEVICE, StreamId(0));
            assert_eq!(taken(&sim), total * MIB);
            assert_eq!(result.is_ok(), bytes == MIB);
        }
        // 3 of 8 MiB are free and 3 on the device, of which half of 8, and then of 4, is tried.
        let error = pool.allocate(4 * MIB, DEVICE, StreamId(0)).unwrap_err();
        let Refusal::OutOfMemory(words) = error else { panic!("{error:?}") };
        assert!(words.ends_with("Maximum pool size exceeded (4194304 bytes)"), "{words}");
        for _ in 0..4 {
            pool.allocate(MIB, DEVICE, StreamId(0)).unwrap();
        }
        assert_eq!(taken(&sim), 10 * MIB, "8, 4 and then 2");
    }

    #[test]
    fn a_maximum_is_approached_by_halves() {
        let (mut pool, sim) = pool(0, 16 * MIB, 1 << 30);
        for (bytes, total) in [(MIB, 8), (8 * MIB, 16)] {
            pool.allocate(bytes, DEVICE, StreamId(0)).unwrap();
            assert_eq!(taken(&sim), total * MIB);
        }
        assert!(pool.allocate(8 * MIB, DEVICE, StreamId(0)).is_err());
    }

    #[test]
    fn another_streams_memory_is_taken_after_its_event() {
        let (mut pool, sim) = pool(4 * MIB, 0, 4 * MIB);
        let [one, two, three] = [StreamId(1), StreamId(2), StreamId(3)];
        let touch = |stream, address, bytes| {
            sim.launch(DEVICE, stream, &[(address, bytes)], drystone_sim::Access::Write).unwrap();
        };
        let first = pool.allocate(2 * MIB, DEVICE, one).unwrap();
        let second = pool.allocate(2 * MIB, DEVICE, two).unwrap();
        touch(one, first, 2 * MIB);
        touch(two, second, 2 * MIB);
        pool.free(first).unwrap();
        pool.free(second).unwrap();
        // Only both together are large enough: the lists are merged.
        let whole = pool.allocate(4 * MIB, DEVICE, three).unwrap();
        touch(three, whole, 4 * MIB);
        pool.free(whole).unwrap();
        let again = pool.allocate(MIB, DEVICE, one).unwrap();
        touch(one, again, MIB);
        assert_eq!((first, whole, again), (first, first, first));
        drop(pool);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }
}
