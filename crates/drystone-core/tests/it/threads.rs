//! Several threads on several streams: every block is one thread's at a time, and the sums are
//! right at the end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use drystone_core::{
    AllocError, Allocator, Config, DeviceId, Kind, Metric, PoolId, Purpose, StreamId,
};
use drystone_sim::{Costs, OnMisuse, SimConfig, SimDriver};

use crate::common::{STREAMS, over_both};
use crate::races::within;
use crate::{D0, MIB};

#[derive(Clone, Copy)]
struct Block {
    at: u64,
    bytes: u64,
    device: DeviceId,
    stream: StreamId,
    tag: u64,
}

/// What the threads share.
struct Team {
    sim: Arc<SimDriver>,
    allocator: Allocator<Arc<SimDriver>>,
    devices: u32,
    /// Blocks on their way to other threads.
    passed: Mutex<Vec<Block>>,
    tags: AtomicU64,
    allocated: [AtomicU64; 2],
    over: AtomicBool,
}

fn team(devices: u32, capacity: u64, config: &str) -> Arc<Team> {
    let sim = SimConfig::default().capacity(capacity).devices(devices as usize);
    let sim = sim.costs(Costs::zero()).host_lead_ns(20_000).on_misuse(OnMisuse::Panic);
    let sim = Arc::new(SimDriver::new(sim).unwrap());
    let allocator = Allocator::new(Arc::clone(&sim), Config::parse(config).unwrap()).unwrap();
    Arc::new(Team {
        sim,
        allocator,
        devices,
        passed: Mutex::default(),
        tags: AtomicU64::new(1),
        allocated: Default::default(),
        over: AtomicBool::new(false),
    })
}

impl Team {
    fn allocate(&self, random: &mut impl FnMut() -> u32) -> Option<Block> {
        let device = DeviceId(random() % self.devices);
        let stream = STREAMS[random() as usize % 4];
        let bytes = match random() % 8 {
            0 => MIB + u64::from(random() % 2048) * 512,
            1 => 64 * MIB,
            _ => 1 + u64::from(random() % 5000),
        };
        let at = match self.allocator.allocate(bytes, device, stream) {
            Ok(at) => at,
            Err(AllocError::OutOfMemory(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        let tag = self.tags.fetch_add(1, Relaxed);
        self.sim.stamp_write(device, stream, at, bytes, tag).unwrap();
        self.allocated[device.0 as usize].fetch_add(1, Relaxed);
        Some(Block { at, bytes, device, stream, tag })
    }

    fn free(&self, Block { at, bytes, device, stream, tag }: Block) {
        self.sim.stamp_check(device, stream, at, bytes, tag).unwrap();
        self.allocator.free_on(at, device, stream).unwrap();
    }

    fn work(&self, seed: u64, operations: usize) {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_889);
            (state >> 33) as u32
        };
        let mut mine: Vec<Block> = Vec::new();
        for _ in 0..operations {
            match random() % 32 {
                0..=13 => mine.extend(self.allocate(&mut random)),
                14..=25 if !mine.is_empty() => {
                    let block = mine.swap_remove(random() as usize % mine.len());
                    if random().is_multiple_of(4) {
                        let other = STREAMS[random() as usize % 4];
                        self.allocator.record_stream(block.at, other).unwrap();
                    }
                    self.free(block);
                }
                26 | 27 => self.passed.lock().unwrap().extend(mine.pop()),
                28 | 29 => {
                    let other = self.passed.lock().unwrap().pop();
                    other.into_iter().for_each(|block| self.free(block));
                }
                30 => self.sim.advance(10_000),
                _ if seed == 0 && random().is_multiple_of(8) => {
                    self.allocator.empty_cache(DeviceId(random() % self.devices)).unwrap();
                }
                _ => {}
            }
            if mine.len() > 64 {
                self.free(mine.swap_remove(random() as usize % mine.len()));
            }
        }
        mine.into_iter().for_each(|block| self.free(block));
    }

    /// After all threads have gone: nothing is live, all is counted, and all can be given back.
    fn finish(self: Arc<Self>) {
        let passed = std::mem::take(&mut *self.passed.lock().unwrap());
        passed.into_iter().for_each(|block| self.free(block));
        let Ok(Team { sim, allocator, allocated, devices, .. }) = Arc::try_unwrap(self) else {
            panic!("a thread is still there")
        };
        allocator.check_invariants().unwrap();
        for device in (0..devices).map(DeviceId) {
            let count = allocated[device.0 as usize].load(Relaxed);
            let stat = allocator.stats(device).unwrap().memory.all(Metric::Allocation);
            assert_eq!((stat.current, stat.allocated, stat.freed), (0, count, count));
            assert!(stat.peak > 0 && stat.peak <= count);
            let limit = allocator.limit(device).unwrap();
            let peak = sim.usage(device).unwrap().peak_taken;
            assert!(limit.is_none_or(|limit| peak <= limit), "{peak} of {limit:?}");
            drystone_core::Driver::device_synchronize(&*sim, device).unwrap();
            allocator.empty_cache(device).unwrap();
            let stats = allocator.stats(device).unwrap().memory;
            for (metric, kind) in Metric::ALL.iter().flat_map(|&m| Kind::ALL.map(|k| (m, k))) {
                assert_eq!(stats.of(kind, metric).current, 0, "{}", metric.name());
            }
        }
        allocator.check_invariants().unwrap();
        drop(allocator);
        let report = sim.finish();
        assert!(report.is_clean(), "{report}");
    }
}

fn run(team: Arc<Team>, threads: u64, operations: usize) {
    let threads: Vec<_> = (0..threads)
        .map(|seed| {
            let team = Arc::clone(&team);
            std::thread::spawn(move || team.work(seed, operations))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    team.finish();
}

#[test]
fn threads_share_a_device() {
    over_both(|backing| within(120, move || run(team(1, 1 << 30, backing), 6, 20_000)));
}

#[test]
fn threads_share_a_full_device() {
    over_both(|backing| within(120, move || run(team(1, 160 * MIB, backing), 4, 15_000)));
}

#[test]
fn threads_share_two_devices() {
    let config = "garbage_collection_threshold:0.5,limit:256MiB,max_split_size_mb:32";
    over_both(|backing| {
        let config = format!("{backing},{config}");
        within(120, move || run(team(2, 512 * MIB, &config), 4, 15_000));
    });
}

#[test]
fn statistics_are_read_while_heaps_come_and_go() {
    within(60, || {
        let team = team(1, 256 * MIB, "backing:malloc");
        let readers = [(); 2].map(|()| {
            let team = Arc::clone(&team);
            std::thread::spawn(move || {
                while !team.over.load(Relaxed) {
                    team.allocator.stats(D0).unwrap();
                }
            })
        });
        for number in 0..6000 {
            let pool = PoolId(9, number);
            team.allocator.begin_pool(D0, pool, Purpose::User, |_| true).unwrap();
            // Nothing fits, so that the pool is left with an empty heap.
            team.allocator.allocate(1 << 30, D0, STREAMS[1]).unwrap_err();
            team.allocator.end_pool(D0, pool).unwrap();
            team.allocator.release_pool(D0, pool).unwrap();
        }
        team.over.store(true, Relaxed);
        readers.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn pools_come_and_go_while_others_allocate_and_read() {
    within(120, || {
        let team = team(1, 256 * MIB, "backing:malloc");
        // A pool for a stream of its own, made, used and forgotten again and again.
        let churn = |number: u64| {
            let team = Arc::clone(&team);
            std::thread::spawn(move || {
                let (pool, stream) = (PoolId(9, number), StreamId(0x1000 + number));
                for _ in 0..1500 {
                    let allocator = &team.allocator;
                    let wants = move |other| other == stream;
                    allocator.begin_pool(D0, pool, Purpose::User, wants).unwrap();
                    let at = allocator.allocate(100, D0, stream).unwrap();
                    let info = allocator.block_info(at).unwrap();
                    assert_eq!((info.size, info.requested), (512, 100));
                    team.allocated[0].fetch_add(1, Relaxed);
                    allocator.end_pool(D0, pool).unwrap();
                    allocator.free(at).unwrap();
                    allocator.empty_pool_cache(D0, pool).unwrap();
                    allocator.release_pool(D0, pool).unwrap();
                }
            })
        };
        let churns = [churn(0), churn(1)];
        let reader = {
            let team = Arc::clone(&team);
            std::thread::spawn(move || {
                while !team.over.load(Relaxed) {
                    let stats = team.allocator.stats(D0).unwrap().memory;
                    let stat = stats.all(Metric::Allocation);
                    assert!(stat.peak >= stat.current, "{stat:?}");
                    for segment in team.allocator.snapshot() {
                        let sum: u64 = segment.blocks.iter().map(|block| block.size).sum();
                        assert_eq!(sum, segment.size);
                    }
                }
            })
        };
        let workers = [3, 4].map(|seed| {
            let team = Arc::clone(&team);
            std::thread::spawn(move || team.work(seed, 3000))
        });
        churns.into_iter().for_each(|thread| thread.join().unwrap());
        workers.into_iter().for_each(|thread| thread.join().unwrap());
        team.over.store(true, Relaxed);
        reader.join().unwrap();
        team.finish();
    });
}
