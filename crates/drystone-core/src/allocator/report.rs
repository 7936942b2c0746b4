//! Reports: statistics, snapshots of segments and blocks, the event history, one block's range.

use super::Allocator;
use crate::block::{Block, State};
use crate::device::Device;
use crate::driver::{DeviceId, Driver, StreamId};
use crate::error::{InvalidDevice, PointerError, PoolError};
use crate::heap::HeapKey;
use crate::history::{Action, HistoryEvent};
use crate::pool::PoolId;
use crate::stats::{DeviceStats, DriverStats, MemoryStats};
use crate::units::Kind;

/// What a block's bytes are doing. The names are torch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// Handed out.
    ActiveAllocated,
    /// Freed, but a recorded stream may still be using it.
    ActivePendingFree,
    /// Free.
    Inactive,
}

impl BlockState {
    /// torch's name.
    pub const fn name(self) -> &'static str {
        match self {
            BlockState::ActiveAllocated => "active_allocated",
            BlockState::ActivePendingFree => "active_pending_free",
            BlockState::Inactive => "inactive",
        }
    }
}

/// A block as it was when a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Where it starts.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// The bytes its owner asked for; 0 if it is free.
    pub requested: u64,
    /// What it is doing.
    pub state: BlockState,
}

/// A segment, or consecutive pages of an arena, as it was when a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its device.
    pub device: DeviceId,
    /// Its pool.
    pub pool: PoolId,
    /// The stream in whose order its free bytes are reused.
    pub stream: StreamId,
    /// Small or large.
    pub kind: Kind,
    /// Where it starts.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// Whether it is memory of the host, which large blocks spilled to.
    pub spilled: bool,
    /// Its blocks in order of address, without gaps.
    pub blocks: Vec<BlockInfo>,
}

impl<D: Driver> Allocator<D> {
    /// The statistics of a device.
    pub fn stats(&self, device: DeviceId) -> Result<DeviceStats, InvalidDevice> {
        use std::sync::atomic::Ordering::Relaxed;
        let device = self.device(device)?;
        let counters = &device.counters;
        Ok(DeviceStats {
            memory: device.totals.stats(None),
            oversize_allocations: counters.oversize_allocations.get(),
            oversize_segments: counters.oversize_segments.get(),
            num_alloc_retries: counters.alloc_retries.load(Relaxed),
            num_ooms: counters.ooms.load(Relaxed),
            num_sync_all_streams: counters.sync_all_streams.load(Relaxed),
            num_device_alloc: counters.device_alloc.load(Relaxed),
            num_device_free: counters.device_free.load(Relaxed),
            max_split_size: self.max_split_size(),
            num_borrowed: counters.borrowed.load(Relaxed),
            num_adopted: counters.adopted.load(Relaxed),
            spilled_bytes: device.spilled.get(),
            num_spills: counters.spills.load(Relaxed),
        })
    }

    /// The statistics of one pool of a device.
    pub fn pool_stats(&self, device: DeviceId, pool: PoolId) -> Result<MemoryStats, PoolError> {
        let device = self.device(device)?;
        device.pool(pool).ok_or(PoolError::Unknown { device: device.id, pool })?;
        Ok(device.totals.stats(Some(pool)))
    }

    /// What the driver was asked, over all devices.
    pub fn driver_stats(&self) -> DriverStats {
        self.driver.stats()
    }

    /// Lets the peaks of a device and of its pools start again from what is now.
    pub fn reset_peak_stats(&self, device: DeviceId) -> Result<(), InvalidDevice> {
        let device = self.device(device)?;
        device.totals.reset_peaks();
        device.counters.oversize_allocations.reset_peak();
        device.counters.oversize_segments.reset_peak();
        device.spilled.reset_peak();
        Ok(())
    }

    /// Lets what accumulates on a device (allocated, freed, and the plain counts) start again
    /// from 0.
    pub fn reset_accumulated_stats(&self, device: DeviceId) -> Result<(), InvalidDevice> {
        use std::sync::atomic::Ordering::Relaxed;
        let device = self.device(device)?;
        device.totals.reset_accumulated();
        let counters = &device.counters;
        counters.oversize_allocations.reset_accumulated();
        counters.oversize_segments.reset_accumulated();
        device.spilled.reset_accumulated();
        for count in [
            &counters.alloc_retries,
            &counters.ooms,
            &counters.sync_all_streams,
            &counters.device_alloc,
            &counters.device_free,
            &counters.borrowed,
            &counters.adopted,
            &counters.spills,
        ] {
            count.store(0, Relaxed);
        }
        Ok(())
    }

    /// Every segment and block of every device, in order of address. Heaps are looked at one after
    /// the other; the rest of the program goes on meanwhile.
    pub fn snapshot(&self) -> Vec<SegmentInfo> {
        let mut segments: Vec<_> =
            self.devices.iter().flat_map(|device| self.segments_of(device)).collect();
        segments.sort_by_key(|segment| (segment.device, segment.address));
        if self.history.is_on() {
            for device in &self.devices {
                let (pool, stream) = (PoolId::DEFAULT, StreamId(0));
                let key = HeapKey { device: device.id, pool, stream };
                self.note(Action::Snapshot, &key, 0, 0);
            }
        }
        segments
    }

    fn segments_of(&self, known: &Device) -> Vec<SegmentInfo> {
        let mut segments = Vec::new();
        for (_, heap) in known.totals.heaps() {
            let mut core = heap.lock();
            let Some(HeapKey { device, pool, stream }) = core.key else { continue };
            let spilled = core.spills();
            // What holds one block each is shown as a segment each, whether or not it lies in an arena.
            let unsplit = known.is_unsplit(pool);
            core.for_each_segment(|segment, blocks| {
                let mut run: Option<SegmentInfo> = None;
                for (address, block) in blocks {
                    let Some((state, requested)) = shown(block) else {
                        // Between holes, an arena's memory is as good as segments.
                        segments.extend(run.take());
                        continue;
                    };
                    let size = block.bytes();
                    let shown = run.get_or_insert_with(|| SegmentInfo {
                        device,
                        pool,
                        stream,
                        kind: segment.kind,
                        address,
                        size: 0,
                        spilled,
                        blocks: Vec::new(),
                    });
                    shown.size += size;
                    shown.blocks.push(BlockInfo { address, size, requested, state });
                    if unsplit {
                        segments.extend(run.take());
                    }
                }
                segments.extend(run);
            });
        }
        segments
    }

    /// The block that is live at `pointer`: its address and size. The pointer must be the block's
    /// own.
    pub fn block_info(&self, pointer: u64) -> Result<BlockInfo, PointerError> {
        let (_, _, block) = self.locate_any(pointer)?;
        Ok(BlockInfo {
            address: pointer,
            size: block.bytes,
            requested: block.requested,
            state: BlockState::ActiveAllocated,
        })
    }

    /// Keeps the last `entries` events from now on; 0 stops and forgets.
    pub fn set_history(&self, entries: usize) {
        self.history.resize(entries);
        self.look_who_takes_notes();
    }

    /// The events kept, oldest first.
    pub fn history(&self) -> Vec<HistoryEvent> {
        self.history.events()
    }

    /// The events kept that were written as number `number` or later, and the number of the next:
    /// with it the caller asks for what came since. They are numbered from 0.
    pub fn history_since(&self, number: u64) -> (Vec<HistoryEvent>, u64) {
        self.history.since(number)
    }
}

/// What a block's bytes are doing, and what its owner asked for; none where there is no memory.
fn shown(block: &Block) -> Option<(BlockState, u64)> {
    match block.state() {
        State::Used | State::Movable => Some((BlockState::ActiveAllocated, block.requested())),
        State::Pending => Some((BlockState::ActivePendingFree, block.requested())),
        State::Free | State::Parked => Some((BlockState::Inactive, 0)),
        State::Hole | State::Vacant => None,
    }
}
