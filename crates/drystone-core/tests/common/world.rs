//! A world: a simulated device, the allocator over it, and the shadow. Its functions are what a
//! correct program does: it writes to its blocks, orders its streams, and looks whether anybody
//! else wrote to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use drystone_core::config::CrossStream;
use drystone_core::{
    AllocError, Allocator, Config, DeviceId, Driver, Kind, Metric, OutOfMemory, PoolId, Purpose,
    Request, SegmentInfo, StreamId,
};
use drystone_sim::{SimConfig, SimDriver};

use super::physical::{PAGE, Physical};
use super::shadow::{Live, Shadow, in_arenas, rounded};
use super::tap::Tap;

pub(crate) type Tapped = Allocator<Arc<Tap>>;

/// A pool that was begun: its device, its streams by number as bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) device: DeviceId,
    pub(crate) pool: PoolId,
    pub(crate) wants: fn(StreamId, u64) -> bool,
    pub(crate) mask: u64,
}

pub(crate) struct World {
    pub(crate) sim: Arc<SimDriver>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) allocator: Tapped,
    pub(crate) shadow: Shadow,
    pub(crate) begun: Vec<Begun>,
    /// Pools that were ever begun.
    pub(crate) pools: BTreeSet<(DeviceId, PoolId)>,
    /// Pools that were begun for a capture: within them nothing is lent.
    pub(crate) graphs: Vec<PoolId>,
    /// Whether calls may fail on purpose, so that what else is said cannot be held to be exact.
    pub(crate) faulty: bool,
    tags: u64,
}

impl World {
    pub(crate) fn new(sim: SimConfig, config: Config) -> World {
        let sim = Arc::new(SimDriver::new(sim).unwrap());
        let tap = Arc::new(Tap::new(Arc::clone(&sim)));
        let allocator = Allocator::new(Arc::clone(&tap), config).unwrap();
        let world = World {
            sim,
            tap,
            allocator,
            shadow: Shadow::default(),
            begun: Vec::new(),
            pools: BTreeSet::new(),
            graphs: Vec::new(),
            faulty: false,
            tags: 0,
        };
        (0..world.sim.device_count()).for_each(|device| world.limit_is_set(DeviceId(device)));
        world
    }

    /// One device of `capacity` bytes whose work takes 1 ms.
    pub(crate) fn plain(capacity: u64, config: &str) -> World {
        let sim = SimConfig::default().capacity(capacity).host_lead_ns(1_000_000);
        World::new(sim, Config::parse(config).unwrap())
    }

    /// Holds the allocator to the limit that it has now.
    pub(crate) fn limit_is_set(&self, device: DeviceId) {
        self.tap.set_limit(device, self.allocator.limit(device).unwrap());
    }

    pub(crate) fn set_limit(&self, device: DeviceId, limit: Option<u64>) {
        self.allocator.set_limit(device, limit).unwrap();
        self.limit_is_set(device);
    }

    /// The pool that must serve a stream: the one begun last that wants it.
    pub(crate) fn pool_for(&self, device: DeviceId, stream: StreamId) -> PoolId {
        let wants = |begun: &&Begun| begun.device == device && (begun.wants)(stream, begun.mask);
        self.begun.iter().rev().find(wants).map_or(PoolId::DEFAULT, |begun| begun.pool)
    }

    pub(crate) fn allocate(
        &mut self,
        device: DeviceId,
        stream: StreamId,
        size: u64,
    ) -> Result<u64, AllocError> {
        self.allocate_aligned(device, stream, size, 1)
    }

    /// Allocates, enters the block into the shadow and writes to all of it on its stream.
    pub(crate) fn allocate_aligned(
        &mut self,
        device: DeviceId,
        stream: StreamId,
        size: u64,
        align: u64,
    ) -> Result<u64, AllocError> {
        self.tap.stream_has_ended(device, stream, false);
        let result = self.allocator.allocate_request(Request { size, align, device, stream });
        match &result {
            Ok(0) => assert_eq!(size, 0),
            Ok(address) => self.enter(*address, device, stream, size, align),
            Err(AllocError::OutOfMemory(error)) => self.check_oom(error, size, align),
            Err(_) => {}
        }
        result
    }

    /// Enters a block that somebody else allocated.
    pub(crate) fn enter(
        &mut self,
        address: u64,
        device: DeviceId,
        stream: StreamId,
        requested: u64,
        align: u64,
    ) {
        let info = self.allocator.block_info(address).unwrap();
        assert_eq!((info.address, info.requested), (address, requested));
        let config = self.allocator.config().clone();
        let (_, kind) = rounded(&config, requested, align);
        self.tags += 1;
        let (tag, pool) = (self.tags, self.pool_for(device, stream));
        let (size, recorded) = (info.size, Vec::new());
        let block = Live { size, requested, kind, device, pool, stream, tag, recorded };
        self.shadow.insert(address, align, block, &config);
        self.sim.stamp_write(device, stream, address, size, tag).unwrap();
    }

    /// Out of memory must be true, and its figures right.
    fn check_oom(&self, error: &OutOfMemory, size: u64, align: u64) {
        let usage = self.sim.usage(error.device).unwrap();
        let stats = self.allocator.stats(error.device).unwrap().memory;
        assert_eq!(error.asked, size);
        assert_eq!(error.reserved, self.allocator.reserved_bytes(error.device).unwrap());
        assert_eq!(error.limit, self.allocator.limit(error.device).unwrap());
        assert_eq!(error.live, stats.all(Metric::ActiveBytes).current);
        assert!(error.segment >= rounded(self.allocator.config(), size, align).0);
        assert!(error.to_string().contains("out of memory"), "{error}");
        if self.faulty {
            return;
        }
        assert_eq!(error.device_free, usage.memory.free);
        assert_eq!(error.device_total, usage.memory.total);
        let fits = error.limit.is_none_or(|limit| error.reserved + error.segment <= limit);
        assert!(!fits || error.segment > error.device_free, "there was room: {error}");
        self.check_nothing_would_do(error, size, align);
    }

    /// No memory that the allocator holds would have served the request.
    fn check_nothing_would_do(&self, error: &OutOfMemory, size: u64, align: u64) {
        let config = self.allocator.config();
        let (bytes, kind) = rounded(config, size, align);
        let needed = bytes + align.max(512) - 512;
        let in_arenas = in_arenas(&self.allocator, error.device);
        let mut largest = 0;
        let segments = self.allocator.snapshot();
        for segment in segments.iter().filter(|segment| segment.device == error.device) {
            let free = |block: &&drystone_core::BlockInfo| {
                block.state == drystone_core::BlockState::Inactive
            };
            let run = segment.blocks.iter().filter(free).map(|block| block.size).max();
            largest = largest.max(run.unwrap_or(0));
            if error.capturing {
                continue;
            }
            let idle = run == Some(segment.size) && !in_arenas;
            assert!(
                !idle || !self.could_go(error.device, segment.pool),
                "{error}: {:#x} could be given back",
                segment.address
            );
            let rules = config.max_split_size.is_none() && segment.kind == kind;
            if self.lends(error, segment) && rules && segment.pool == error.pool {
                assert!(run.unwrap_or(0) < needed, "{error}: {:#x} has room", segment.address);
            }
        }
        assert_eq!(error.largest_free, largest);
        if in_arenas && !error.capturing && config.max_split_size.is_none() {
            self.check_no_window_could_be_built(error, needed, &segments);
        }
    }

    /// Free handles and what the device and the limit still allow make no window for the request.
    fn check_no_window_could_be_built(
        &self,
        error: &OutOfMemory,
        needed: u64,
        segments: &[SegmentInfo],
    ) {
        let of_device = segments.iter().filter(|segment| segment.device == error.device);
        let physical = Physical::of(&self.tap, error.device, of_device);
        let free = physical.in_free_handles([
            &|segment: &SegmentInfo| self.could_go(error.device, segment.pool),
            &|segment: &SegmentInfo| {
                let own = segment.pool == error.pool && !self.graphs.contains(&error.pool);
                let orphaned =
                    segment.pool != PoolId::DEFAULT && self.could_go(error.device, segment.pool);
                (own || orphaned) && self.lends(error, segment)
            },
        ]);
        let allowed = error.limit.map_or(u64::MAX, |limit| limit.saturating_sub(error.reserved));
        let new = allowed.min(error.device_free) / PAGE;
        assert!(
            free + new < needed.div_ceil(PAGE),
            "{error}: {free} free pages and {new} new ones would do"
        );
    }

    /// Whether what a pool caches may be given back for others.
    fn could_go(&self, device: DeviceId, pool: PoolId) -> bool {
        self.allocator.pool_use_count(device, pool).unwrap_or(0) == 0
    }

    /// Whether free memory of a segment may serve the request that failed, if the pool is right.
    fn lends(&self, error: &OutOfMemory, segment: &SegmentInfo) -> bool {
        let waits = self.allocator.config().cross_stream == CrossStream::Wait;
        waits && !self.graphs.contains(&error.pool) || segment.stream == error.stream
    }

    /// Uses a block on its own stream; writes only while no other stream uses it.
    pub(crate) fn touch(&mut self, address: u64) {
        let block = self.shadow.live.get_mut(&address).expect("a live block");
        let (device, stream, size) = (block.device, block.stream, block.size);
        self.sim.stamp_check(device, stream, address, size, block.tag).unwrap();
        if block.recorded.is_empty() {
            self.tags += 1;
            block.tag = self.tags;
            self.sim.stamp_write(device, stream, address, size, block.tag).unwrap();
        }
    }

    /// Uses a block on another stream, which waits for the block's own, and says so.
    pub(crate) fn touch_on(&mut self, address: u64, other: StreamId) {
        let block = self.shadow.live.get_mut(&address).expect("a live block");
        let (device, sim) = (block.device, &self.sim);
        if other != block.stream {
            let event = sim.event_create(device).unwrap();
            sim.event_record(device, event, block.stream).unwrap();
            sim.stream_wait_event(device, other, event).unwrap();
            sim.event_destroy(device, event).unwrap();
            block.recorded.push(other);
        }
        self.tap.stream_has_ended(device, other, false);
        sim.stamp_check(device, other, address, block.size, block.tag).unwrap();
        self.allocator.record_stream(address, other).unwrap();
    }

    /// Looks whether the block still holds what was written, and frees it.
    pub(crate) fn free(&mut self, address: u64) {
        let block = self.shadow.remove(address);
        self.sim.stamp_check(block.device, block.stream, address, block.size, block.tag).unwrap();
        self.allocator.free_on(address, block.device, block.stream).unwrap();
    }

    /// Frees the blocks of a stream and ends it; from then on no call of the allocator may name it.
    pub(crate) fn end_stream(&mut self, device: DeviceId, stream: StreamId) {
        let own = self.shadow.live.iter();
        let own = own.filter(|(_, block)| (block.device, block.stream) == (device, stream));
        let own: Vec<u64> = own.map(|(&address, _)| address).collect();
        own.into_iter().for_each(|address| self.free(address));
        match self.allocator.stream_ends(device, stream) {
            Ok(()) => self.tap.stream_has_ended(device, stream, true),
            Err(error) => assert!(self.faulty, "{error}"),
        }
    }

    pub(crate) fn free_all(&mut self) {
        while let Some((&address, _)) = self.shadow.live.first_key_value() {
            self.free(address);
        }
    }

    /// Begins a pool for the streams whose number among [`super::STREAMS`] is a bit of the mask.
    pub(crate) fn begin(&mut self, device: DeviceId, pool: PoolId, purpose: Purpose, mask: u64) {
        fn wants(stream: StreamId, mask: u64) -> bool {
            let number = super::STREAMS.iter().position(|&one| one == stream);
            number.is_some_and(|number| mask >> number & 1 == 1)
        }
        let filter = move |stream| wants(stream, mask);
        self.allocator.begin_pool(device, pool, purpose, filter).unwrap();
        if purpose == Purpose::Capture {
            self.graphs.push(pool);
            self.shadow.captured = true;
        }
        self.pools.insert((device, pool));
        self.begun.push(Begun { device, pool, wants, mask });
    }

    pub(crate) fn end(&mut self, device: DeviceId, pool: PoolId) {
        self.allocator.end_pool(device, pool).unwrap();
        self.begun.retain(|begun| (begun.device, begun.pool) != (device, pool));
    }

    /// The program waits for all work of all devices.
    pub(crate) fn synchronize(&self) {
        for device in 0..self.sim.device_count() {
            self.sim.device_synchronize(DeviceId(device)).unwrap();
        }
    }

    pub(crate) fn check(&mut self) {
        self.shadow.check(&self.allocator);
    }

    /// Frees all, ends and releases all pools: nothing may be held; drops the allocator: nothing
    /// may be left, and nothing done wrong.
    pub(crate) fn finish(mut self) {
        self.faulty = false;
        self.tap.set_fault(None);
        self.check();
        self.free_all();
        for Begun { device, pool, .. } in std::mem::take(&mut self.begun) {
            self.allocator.end_pool(device, pool).unwrap();
        }
        for &(device, pool) in &self.pools {
            while self.allocator.pool_use_count(device, pool).unwrap_or(0) > 0 {
                self.allocator.release_pool(device, pool).unwrap();
            }
        }
        self.synchronize();
        for device in (0..self.sim.device_count()).map(DeviceId) {
            self.allocator.empty_cache(device).unwrap();
            assert_eq!(self.allocator.reserved_bytes(device), Ok(0));
            let usage = self.sim.usage(device).unwrap();
            assert_eq!((usage.taken, usage.segments, usage.handles), (0, 0, 0));
            assert_eq!((usage.mappings, usage.addresses), (0, 0));
            let stats = self.allocator.stats(device).unwrap().memory;
            for (metric, kind) in Metric::ALL.iter().flat_map(|&m| Kind::ALL.map(|k| (m, k))) {
                assert_eq!(stats.of(kind, metric).current, 0, "{}", metric.name());
            }
        }
        self.check();
        drop(self.allocator);
        let report = self.sim.finish();
        assert!(report.is_clean(), "{report}");
    }
}
