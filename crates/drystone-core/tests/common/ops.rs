//! Random programs: their operations, how each runs in a world, and how bytes of a fuzzer become
//! one.

use drystone_core::{AllocError, DeviceId, DriverErrorKind, PoolId, Purpose};

use super::tap::Fault;
use super::world::World;
use super::{MIB, STREAMS};

/// One operation; numbers pick among what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Allocate { device: u8, stream: u8, size: u64, align_log2: u8 },
    Free { which: u16 },
    Touch { which: u16 },
    TouchOn { which: u16, stream: u8 },
    Advance { ns: u64 },
    Lead { ns: u64 },
    EndStream { device: u8, stream: u8 },
    EmptyCache { device: u8 },
    Limit { device: u8, bytes: Option<u64> },
    OthersHold { device: u8, bytes: u64 },
    ResetPeaks { device: u8 },
    ResetAccumulated { device: u8 },
    History { entries: u8 },
    BeginPool { device: u8, pool: u8, mask: u8 },
    EndPool { device: u8, pool: u8 },
    RetainPool { device: u8, pool: u8 },
    ReleasePool { device: u8, pool: u8 },
    EmptyPool { device: u8, pool: u8 },
    Fault { nth: u8, kind: u8 },
}

/// The errors that are injected.
pub(crate) const KINDS: [DriverErrorKind; 4] = [
    DriverErrorKind::OutOfMemory,
    DriverErrorKind::Other,
    DriverErrorKind::NotPermitted,
    DriverErrorKind::DeviceLost,
];

/// A size from a word: edges, small, middling, and a few up to 2 GiB.
pub(crate) fn size_of(class: u8, word: u16) -> u64 {
    const EDGES: [u64; 12] =
        [0, 1, 511, 512, 513, 1023, MIB - 1, MIB, MIB + 1, 2 * MIB, 10 * MIB, 2 << 30];
    // Sizes that programs ask for again and again.
    const COMMON: [u64; 4] = [512, 4096, MIB, 3 * MIB];
    let word = u64::from(word);
    match class % 8 {
        1 | 4 => COMMON[word as usize % COMMON.len()],
        0 => EDGES[word as usize % EDGES.len()],
        2 | 3 => 1 + (word * word) % MIB,
        5 | 6 => MIB + word * 300,
        _ => MIB << (word % 12),
    }
}

/// An operation from bytes.
pub(crate) fn decode(bytes: [u8; 6]) -> Op {
    let [code, device, stream, class, low, high] = bytes;
    let (device, stream) = (device % 2, stream % 4);
    let which = u16::from_le_bytes([low, high]);
    let pool = class;
    match code % 32 {
        0..=8 => {
            let align_log2 = if class < 200 { 0 } else { class % 23 };
            Op::Allocate { device, stream, size: size_of(class, which), align_log2 }
        }
        9..=14 => Op::Free { which },
        15 => Op::Touch { which },
        16..=18 => Op::TouchOn { which, stream },
        19 => Op::Advance { ns: u64::from(which) * 100 },
        20 => Op::Lead { ns: u64::from(which) * 100 },
        21 => Op::EmptyCache { device },
        22 => Op::Limit { device, bytes: (which > 99).then(|| u64::from(which) << 12) },
        23 => Op::OthersHold { device, bytes: u64::from(which % 4) << 23 },
        24 => Op::ResetPeaks { device },
        25 if class % 2 == 0 => Op::EndStream { device, stream },
        25 => Op::ResetAccumulated { device },
        26 => Op::BeginPool { device, pool, mask: low },
        27 => Op::EndPool { device, pool },
        28 => Op::RetainPool { device, pool },
        29 => Op::ReleasePool { device, pool },
        30 => Op::EmptyPool { device, pool },
        _ => Op::History { entries: low },
    }
}

impl World {
    fn pick(&self, which: u16) -> Option<u64> {
        let count = self.shadow.live.len();
        (count > 0).then(|| *self.shadow.live.keys().nth(usize::from(which) % count).unwrap())
    }

    fn some_device(&self, device: u8) -> DeviceId {
        DeviceId(u32::from(device) % self.allocator.device_count())
    }

    /// Runs one operation. Whatever a program may do wrong is left out; errors that can occur
    /// are checked.
    pub(crate) fn run(&mut self, op: Op) {
        let some_pool = |pool: u8| PoolId(1 + u64::from(pool % 2), 7);
        match op {
            Op::Allocate { device, stream, size, align_log2 } => {
                let (device, stream) = (self.some_device(device), STREAMS[stream as usize % 4]);
                match self.allocate_aligned(device, stream, size, 1 << align_log2) {
                    Ok(_) | Err(AllocError::OutOfMemory(_)) => {}
                    Err(AllocError::Driver(_)) if self.faulty => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Op::Free { which } => self.pick(which).into_iter().for_each(|at| self.free(at)),
            Op::Touch { which } => self.pick(which).into_iter().for_each(|at| self.touch(at)),
            Op::TouchOn { which, stream } => {
                if let Some(at) = self.pick(which) {
                    self.touch_on(at, STREAMS[stream as usize % 4]);
                }
            }
            Op::Advance { ns } => self.sim.advance(ns),
            Op::Lead { ns } => self.sim.set_host_lead_ns(ns),
            Op::EndStream { device, stream } => {
                self.end_stream(self.some_device(device), STREAMS[stream as usize % 4]);
            }
            Op::EmptyCache { device } => {
                let device = self.some_device(device);
                let before = self.tap.held(device).bytes;
                match self.allocator.empty_cache(device) {
                    Ok(bytes) => assert_eq!(bytes, before - self.tap.held(device).bytes),
                    Err(error) => assert!(self.faulty, "{error}"),
                }
            }
            Op::Limit { device, bytes } => {
                let device = self.some_device(device);
                self.set_limit(device, bytes);
                assert_eq!(self.allocator.limit(device), Ok(bytes));
            }
            Op::OthersHold { device, bytes } => {
                self.sim.set_held_by_others(self.some_device(device), bytes);
            }
            Op::ResetPeaks { device } => {
                let device = self.some_device(device);
                self.allocator.reset_peak_stats(device).unwrap();
                self.tap.reset_peak(device);
                let sums = self.shadow.devices.get_mut(&device).into_iter();
                let pools = self.shadow.pools.iter_mut().filter(|(key, _)| key.0 == device);
                sums.chain(pools.map(|(_, sums)| sums)).for_each(|sums| sums.reset_peaks());
            }
            Op::ResetAccumulated { device } => {
                let device = self.some_device(device);
                self.allocator.reset_accumulated_stats(device).unwrap();
                self.tap.reset_accumulated(device);
                let sums = self.shadow.devices.get_mut(&device).into_iter();
                let pools = self.shadow.pools.iter_mut().filter(|(key, _)| key.0 == device);
                sums.chain(pools.map(|(_, sums)| sums)).for_each(|sums| sums.reset_accumulated());
            }
            Op::History { entries } => {
                self.allocator.set_history(usize::from(entries));
                assert!(self.allocator.history().len() <= usize::from(entries));
            }
            Op::BeginPool { device, pool, mask } => {
                let (device, pool) = (self.some_device(device), some_pool(pool));
                let begun = |begun: &super::world::Begun| (begun.device, begun.pool);
                if !self.begun.iter().any(|one| begun(one) == (device, pool)) {
                    self.begin(device, pool, Purpose::User, u64::from(mask));
                }
            }
            Op::EndPool { device, pool } => {
                let (device, pool) = (self.some_device(device), some_pool(pool));
                if self.begun.iter().any(|one| (one.device, one.pool) == (device, pool)) {
                    self.end(device, pool);
                } else {
                    self.allocator.end_pool(device, pool).unwrap_err();
                }
            }
            Op::RetainPool { device, pool } => {
                let device = self.some_device(device);
                self.allocator.retain_pool(device, some_pool(pool)).unwrap();
            }
            Op::ReleasePool { device, pool } => {
                let (device, pool) = (self.some_device(device), some_pool(pool));
                let held = self.allocator.pool_use_count(device, pool).unwrap_or(0);
                let result = self.allocator.release_pool(device, pool);
                assert_eq!(result.is_ok(), held > 0, "{result:?}");
            }
            Op::EmptyPool { device, pool } => {
                let (device, pool) = (self.some_device(device), some_pool(pool));
                let known = self.allocator.pool_use_count(device, pool).is_some();
                let result = self.allocator.empty_pool_cache(device, pool);
                assert!(result.is_ok() == known || self.faulty, "{result:?}");
            }
            Op::Fault { nth, kind } => {
                self.faulty = true;
                let kind = KINDS[usize::from(kind) % KINDS.len()];
                self.tap.set_fault(Some(Fault::Nth(u64::from(nth), kind)));
            }
        }
        self.shadow.check_stats(&self.allocator);
    }
}
