//! `rmm-arena`: RMM's `arena_memory_resource`: superblocks of one large allocation, in an arena of
//! each stream.
//!
//! After the documentation of RMM 26.06 (docs.rapids.ai/api/librmm: `arena_memory_resource`), which
//! names its models, and first fit in the order of addresses after Johnstone and Wilson, "The
//! memory fragmentation problem: solved?" (1998). A global arena takes `arena_size` bytes of the
//! device at first and never any more. Sizes are rounded up to 256 bytes. Requests above 1 MiB are
//! served by the global arena from superblocks of their own; others by the stream's arena, which
//! takes superblocks of 1 MiB from the global one. What is freed above 1 MiB is another stream's
//! next: so the host waits for the stream first. When nothing fits, the host waits for the device,
//! all superblocks go back to the global arena, used ones too, and the request is tried again;
//! blocks in them are then freed there, after a wait for the stream. A superblock with a large block may
//! have room for small ones, and then goes to a stream's arena with it.
//!
//! Held to the original's own answers by `tests/peers`.
//!
//! Left out: arenas of threads (a replay is one, and CUDA's per-thread default stream is in no
//! trace), size classes (a compile-time option, off), and the dump of a failure.

mod superblock;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;
use superblock::{MINIMUM, Superblocks};

use super::parts::{Devices, Event, Given, Segments, Share, refusal};
use super::rmm_pool::{ALIGNMENT, exceeded};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "rmm-arena",
    summary: "RMM's arenas: first fit in superblocks of one large allocation",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "arena_size",
    help: "What is taken of each device before the first request",
    allowed: "a size of at least 1MiB, or a part of the device's free memory as in 90%",
    default: "50%",
}];

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let has_room = |size: &Share| !matches!(size, Share::Bytes(..MINIMUM));
    let size = given.share_if("arena_size", has_room)?.unwrap_or(Share::Percent(50.0));
    Ok(Arc::new(move |driver| Ok(Box::new(RmmArena { size, driver, devices: Devices::default() }))))
}

/// The arena of one stream.
struct Arena {
    stream: StreamId,
    superblocks: Superblocks,
    /// To wait for the stream.
    event: Event,
}

impl Arena {
    fn wait(&self) -> Result<(), DriverError> {
        self.event.record(self.stream)?;
        self.event.wait()
    }
}

struct Live {
    bytes: u64,
    arena: usize,
}

/// The arenas of one device.
struct Device {
    id: DeviceId,
    driver: Arc<dyn Driver>,
    global: Superblocks,
    arenas: Vec<Arena>,
    live: FxHashMap<u64, Live>,
    defragments: u64,
    /// The allocation that all is part of.
    _memory: Segments,
}

impl Device {
    fn new(driver: &Arc<dyn Driver>, id: DeviceId, size: Share) -> Result<Device, DriverError> {
        let free = driver.device_memory(id)?.free;
        let bytes = (size.of(free) / ALIGNMENT * ALIGNMENT).max(MINIMUM);
        let mut memory = Segments::new(Arc::clone(driver));
        let mut global = Superblocks::default();
        global.add_range(memory.take(id, bytes)?, bytes);
        Ok(Device {
            id,
            driver: Arc::clone(driver),
            global,
            arenas: Vec::new(),
            live: FxHashMap::default(),
            defragments: 0,
            _memory: memory,
        })
    }

    fn arena(&mut self, stream: StreamId) -> Result<usize, DriverError> {
        if let Some(place) = self.arenas.iter().position(|arena| arena.stream == stream) {
            return Ok(place);
        }
        let event = Event::new(&self.driver, self.id)?;
        self.arenas.push(Arena { stream, superblocks: Superblocks::default(), event });
        Ok(self.arenas.len() - 1)
    }

    fn allocate(&mut self, size: u64, stream: StreamId) -> Result<Option<u64>, DriverError> {
        let bytes = size.next_multiple_of(ALIGNMENT);
        let arena = self.arena(stream)?;
        let mut address = self.find(arena, bytes);
        if address.is_none() {
            self.defragment()?;
            address = self.find(arena, bytes);
        }
        Ok(address.inspect(|&address| {
            self.live.insert(address, Live { bytes, arena });
        }))
    }

    fn find(&mut self, arena: usize, bytes: u64) -> Option<u64> {
        if bytes > MINIMUM {
            return self.global.carve(bytes);
        }
        let own = &mut self.arenas[arena].superblocks;
        if let Some(address) = own.first_fit(bytes) {
            return Some(address);
        }
        own.add(self.global.acquire(bytes)?);
        own.first_fit(bytes)
    }

    /// Returns all superblocks to the global arena.
    fn defragment(&mut self) -> Result<(), DriverError> {
        self.driver.device_synchronize(self.id)?;
        for arena in &mut self.arenas {
            self.global.add_all(std::mem::take(&mut arena.superblocks));
        }
        self.defragments += 1;
        Ok(())
    }

    /// Takes a block back; whether there was one.
    fn free(&mut self, address: u64) -> Result<bool, DriverError> {
        let Some(&Live { bytes, arena }) = self.live.get(&address) else { return Ok(false) };
        // The superblock of a large block is a stream's if it had room for a small one.
        let large = bytes > MINIMUM;
        if large {
            self.arenas[arena].wait()?;
        }
        let mut freed = large && self.global.free_and_join(address, bytes);
        freed = freed || self.arenas[arena].superblocks.free(address, bytes);
        if !freed {
            self.arenas[arena].wait()?;
            let mut others = self.arenas.iter_mut();
            if !others.any(|other| other.superblocks.free(address, bytes)) {
                self.global.free_and_join(address, bytes);
            }
        }
        self.live.remove(&address);
        Ok(true)
    }
}

struct RmmArena {
    size: Share,
    driver: Arc<dyn Driver>,
    devices: Devices<Device>,
}

impl Policy for RmmArena {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let make = || Device::new(&self.driver, device, self.size);
        let own = self.devices.get(device, make);
        let address = own.and_then(|own| own.allocate(size, stream));
        let address = address.map_err(|error| refusal(&error, || exceeded(size)))?;
        address.ok_or_else(|| Refusal::OutOfMemory(exceeded(size).into()))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        self.devices.free(address, Device::free)
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.devices.iter().find_map(|device| Some(device.live.get(&address)?.bytes))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("defragments", self.devices.iter().map(|device| device.defragments).sum())]
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{Access, SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const ONE: StreamId = StreamId(1);
    const TWO: StreamId = StreamId(2);
    const MIB: u64 = 1 << 20;

    fn arena(mib: u64) -> (RmmArena, Arc<SimDriver>) {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(64 * MIB)).unwrap());
        let size = Share::Bytes(mib * MIB);
        (RmmArena { size, driver: Arc::clone(&sim) as _, devices: Devices::default() }, sim)
    }

    #[test]
    fn small_blocks_of_a_stream_share_superblocks() {
        let (mut arena, sim) = arena(8);
        let first = arena.allocate(100, DEVICE, ONE).unwrap();
        let second = arena.allocate(300, DEVICE, ONE).unwrap();
        assert_eq!((second, arena.block_bytes(second)), (first + 256, Some(512)));
        assert_eq!(arena.allocate(100, DEVICE, TWO), Ok(first + MIB), "a superblock of its own");
        assert_eq!(arena.allocate(3 * MIB, DEVICE, ONE), Ok(first + 2 * MIB));
        assert_eq!(sim.usage(DEVICE).unwrap().taken, 8 * MIB);
    }

    #[test]
    fn a_large_free_waits_for_its_stream() {
        let (mut arena, sim) = arena(8);
        let large = arena.allocate(2 * MIB, DEVICE, ONE).unwrap();
        sim.launch(DEVICE, ONE, &[(large, 2 * MIB)], Access::Write).unwrap();
        let small = arena.allocate(MIB, DEVICE, ONE).unwrap();
        arena.free(small).unwrap();
        assert_eq!(sim.stats().total().wait_ns, 0);
        arena.free(large).unwrap();
        assert!(sim.stats().total().wait_ns > 4_000_000);
        let again = arena.allocate(2 * MIB, DEVICE, TWO).unwrap();
        sim.launch(DEVICE, TWO, &[(again, 2 * MIB)], Access::Write).unwrap();
        drop(arena);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn when_nothing_fits_superblocks_are_returned() {
        let (mut arena, _sim) = arena(4);
        let small = arena.allocate(256, DEVICE, ONE).unwrap();
        let kept = arena.allocate(MIB, DEVICE, ONE).unwrap();
        arena.free(kept).unwrap();
        // One superblock has a block, the next is empty and the stream's; 2 MiB are left.
        assert!(arena.allocate(3 * MIB, DEVICE, TWO).is_ok());
        assert_eq!(arena.counters(), [("defragments", 1)]);
        // The block lies in the global arena now.
        arena.free(small).unwrap();
        let refused = arena.allocate(2 * MIB, DEVICE, TWO).unwrap_err();
        assert!(matches!(refused, Refusal::OutOfMemory(_)), "{refused:?}");
        assert!(arena.free(small).unwrap_err().contains("no live block"));
    }

    #[test]
    fn an_arena_has_room_for_a_superblock() {
        let error = "rmm-arena:arena_size=1KiB".parse::<crate::PolicySpec>().unwrap_err();
        assert!(error.to_string().contains("at least 1MiB"), "{error}");
    }
}
