//! The shadow: a plain map of what must be live, against which everything the allocator says is
//! held.

use std::collections::{BTreeMap, HashMap};

use drystone_core::config::Backing;
use drystone_core::{
    BlockState, Config, DeviceId, Driver, Kind, Metric, PoolId, SegmentInfo, StreamId,
};

use super::physical::Physical;
use super::sums::{self, Sums};
use super::world::Tapped;

/// A block that must be live.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) size: u64,
    pub(crate) requested: u64,
    pub(crate) kind: Kind,
    pub(crate) device: DeviceId,
    pub(crate) pool: PoolId,
    pub(crate) stream: StreamId,
    /// What the program wrote over all of it.
    pub(crate) tag: u64,
    /// Streams recorded on it.
    pub(crate) recorded: Vec<StreamId>,
}

#[derive(Default)]
pub(crate) struct Shadow {
    /// Whether there ever was a capture.
    pub(crate) captured: bool,
    pub(crate) live: BTreeMap<u64, Live>,
    pub(crate) devices: HashMap<DeviceId, Sums>,
    pub(crate) pools: HashMap<(DeviceId, PoolId), Sums>,
}

/// The size that a request must round to, and its kind, by the documented rules.
pub(crate) fn rounded(config: &Config, size: u64, align: u64) -> (u64, Kind) {
    let mut rounded = size.div_ceil(512) * 512;
    let divisions = config.roundup_divisions_for(size);
    if divisions > 1 && size > 512 * divisions && !size.is_power_of_two() {
        let floor = 1u64 << size.ilog2();
        let steps = (size - floor).div_ceil(floor / divisions);
        rounded = (floor + steps * (floor / divisions)).div_ceil(512) * 512;
    }
    let spare = align.max(512) - 512;
    let kind = if rounded + spare <= 1 << 20 { Kind::Small } else { Kind::Large };
    (rounded, kind)
}

impl Shadow {
    /// Enters a block. Panics if it overlaps another or is not as asked for.
    pub(crate) fn insert(&mut self, address: u64, align: u64, block: Live, config: &Config) {
        let (size, requested) = (block.size, block.requested);
        assert!(address != 0 && address.is_multiple_of(align.max(512)), "{address:#x} at {align}");
        let (least, kind) = rounded(config, requested, align);
        assert_eq!(kind, block.kind, "{requested} bytes at {align}");
        assert!(size >= least && size.is_multiple_of(512), "{size} for {requested}");
        let spare = config.min_split_remainder.unwrap_or(512).max(512) / 512 * 512;
        if kind == Kind::Small {
            assert_eq!(size, least, "for {requested}");
        } else if config.max_split_size.is_none_or(|limit| least < limit) {
            assert!(size < least + spare, "{size} for {requested}");
        }
        let before = self.live.range(..address + size).next_back();
        if let Some((at, other)) = before {
            assert!(at + other.size <= address, "{address:#x} + {size} overlaps {at:#x} {other:?}");
        }
        self.devices.entry(block.device).or_default().add(kind, size);
        self.pools.entry((block.device, block.pool)).or_default().add(kind, size);
        self.live.insert(address, block);
    }

    /// Takes a block out.
    pub(crate) fn remove(&mut self, address: u64) -> Live {
        let block = self.live.remove(&address).expect("a live block");
        self.devices.entry(block.device).or_default().sub(block.kind, block.size);
        let pool = self.pools.entry((block.device, block.pool)).or_default();
        pool.sub(block.kind, block.size);
        block
    }

    /// The statistics must equal the sums.
    pub(crate) fn check_stats(&mut self, allocator: &Tapped) {
        for (&device, sums) in &mut self.devices {
            sums.check(&device.to_string(), &allocator.stats(device).unwrap().memory);
        }
        // What a forgotten pool had counted is forgotten.
        let known = |device, pool| {
            pool == PoolId::DEFAULT || allocator.pool_use_count(device, pool).is_some()
        };
        self.pools.retain(|&(device, pool), _| known(device, pool));
        for (&(device, pool), sums) in &mut self.pools {
            let stats = allocator.pool_stats(device, pool).unwrap();
            sums.check(&format!("{device}, {pool}"), &stats);
        }
    }

    /// Everything else: the allocator's own invariants, the snapshot against the driver's memory
    /// and the live blocks, the present statistics against the snapshot.
    pub(crate) fn check(&mut self, allocator: &Tapped) {
        self.check_stats(allocator);
        allocator.check_invariants().unwrap();
        let tap = allocator.driver();
        let snapshot = allocator.snapshot();
        self.check_blocks(&snapshot);
        for device in (0..allocator.device_count()).map(DeviceId) {
            let of_device = || snapshot.iter().filter(|segment| segment.device == device);
            let in_arenas = in_arenas(allocator, device);
            if in_arenas {
                let physical = Physical::of(tap, device, of_device());
                let homeless = physical.homeless();
                // What could not be given back, in a capture or for a fault, has no home.
                let strands = self.captured || tap.failed() > 0;
                assert!(homeless == 0 || strands, "{homeless} pages are lost");
            } else {
                let found: Vec<_> = of_device().map(|s| (s.address, s.size)).collect();
                let held = tap.sim.finish().leaked_segments;
                let held = held.iter().filter(|segment| segment.device == device);
                let held: Vec<_> = held.map(|s| (s.address, s.bytes)).collect();
                assert_eq!(found, held, "the snapshot's segments and the driver's");
            }
            check_held(allocator, device, in_arenas);
            let stats = allocator.stats(device).unwrap();
            sums::check_present(&device.to_string(), &stats.memory, of_device(), in_arenas);
            for &(of, pool) in self.pools.keys().filter(|key| key.0 == device) {
                let of_pool = of_device().filter(|segment| segment.pool == pool);
                let stats = allocator.pool_stats(of, pool).unwrap();
                sums::check_present(&format!("{of}, {pool}"), &stats, of_pool, in_arenas);
            }
        }
        let misuses = tap.sim.misuses();
        assert!(misuses.is_empty(), "{}", misuses[0]);
    }

    fn check_blocks(&self, snapshot: &[SegmentInfo]) {
        let mut live = self.live.iter();
        // Segments of all devices are in order of device first; addresses of devices are apart.
        let mut blocks: Vec<_> = Vec::new();
        for segment in snapshot {
            let mut at = segment.address;
            for block in &segment.blocks {
                assert_eq!(block.address, at, "blocks tile their segment");
                at += block.size;
                if block.state == BlockState::ActiveAllocated {
                    blocks.push((segment, block));
                }
            }
            assert_eq!(at, segment.address + segment.size, "blocks tile their segment");
        }
        blocks.sort_by_key(|(_, block)| block.address);
        for (segment, block) in blocks {
            let (&address, known) = live.next().expect("a block that nobody owns");
            assert_eq!(
                (block.address, block.size, block.requested, segment.device, segment.pool),
                (address, known.size, known.requested, known.device, known.pool),
            );
            assert_eq!(segment.kind, known.kind, "{known:?}");
            // A lent block lies in another stream's segment.
            assert!(segment.stream == known.stream || segment.pool == known.pool);
        }
        assert!(live.next().is_none(), "a live block is missing from the snapshot");
    }
}

/// Whether the device's memory is in arenas, not in segments.
pub(crate) fn in_arenas(allocator: &Tapped, device: DeviceId) -> bool {
    let maps = allocator.driver().sim.page_bytes(device).is_ok();
    maps && allocator.config().backing == Backing::Vmm
}

/// The figures of what is held must be those of the driver's calls.
fn check_held(allocator: &Tapped, device: DeviceId, in_arenas: bool) {
    let tap = allocator.driver();
    let held = tap.held(device);
    let stats = allocator.stats(device).unwrap();
    assert_eq!(allocator.reserved_bytes(device).unwrap(), held.bytes);
    assert_eq!(stats.num_device_alloc, held.taken[0]);
    assert_eq!(stats.num_device_free, held.given[0]);
    let segments = stats.memory.all(Metric::Segment);
    let reserved = stats.memory.all(Metric::ReservedBytes);
    if !in_arenas {
        assert_eq!([segments.allocated, reserved.allocated], held.taken, "taken");
        assert_eq!([segments.freed, reserved.freed], held.given, "given back");
        assert_eq!(reserved.peak, held.peak_usable, "peak of reserved bytes");
    } else if tap.failed() == 0 {
        assert_eq!([segments.allocated, segments.freed], held.ranges, "ranges of addresses");
        assert_eq!(reserved.allocated, held.usable_taken, "taken");
        assert_eq!(reserved.freed, held.usable_given, "given back");
        assert_eq!(reserved.peak, held.peak_usable, "peak of reserved bytes");
    } else {
        // What the driver would not take back counts as given back, and may be used once more.
        assert!(reserved.peak <= held.most_bytes, "{reserved:?} {held:?}");
    }
}
