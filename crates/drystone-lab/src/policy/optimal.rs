//! `optimal`: the floor. What would be held if memory could be cut, joined and moved at will.
//!
//! At every moment the blocks that are live, each rounded up to 512 bytes (as CUDA and every
//! framework align them), and their sum rounded up to `page`: 2 MiB is what a device gives at
//! least, 512 B leaves the sum as it is. No allocator that rounds no finer holds less at the
//! peak; whether any can hold as little depends on the order of frees.
//!
//! It holds that much of the device and not a byte more, in segments that nobody uses: the
//! addresses that it hands out are only names. So it makes no calls worth counting, and a replay
//! charges it none ([`Needs::Nothing`]).

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::parts::{Given, Segments, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "optimal",
    summary: "the floor: the live bytes, rounded up to pages",
    needs: Needs::Nothing,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "page",
    help: "The sum of the live blocks is rounded up to a multiple of this",
    allowed: "a size from 512B to 1GiB",
    default: "2MiB",
}];

/// Blocks are multiples of this.
const UNIT: u64 = 512;

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let given = Given::new(given, OPTIONS)?;
    let page = given.bytes("page", UNIT..=1 << 30)?.unwrap_or(2 << 20);
    Ok(Arc::new(move |driver| Ok(Box::new(Optimal::new(driver, page)))))
}

/// What is live and held on one device.
#[derive(Debug, Default)]
struct Floor {
    live: u64,
    /// The sum of the segments.
    held: u64,
    /// (address, bytes).
    segments: Vec<(u64, u64)>,
}

struct Optimal {
    page: u64,
    blocks: Slab<(DeviceId, u64)>,
    floors: FxHashMap<DeviceId, Floor>,
    segments: Segments,
}

impl Optimal {
    fn new(driver: Arc<dyn Driver>, page: u64) -> Self {
        Optimal {
            page,
            blocks: Slab::new(),
            floors: FxHashMap::default(),
            segments: Segments::new(driver),
        }
    }

    /// Makes `live` bytes the live ones of the device, and what is held the pages of them.
    fn settle(&mut self, device: DeviceId, live: u64) -> Result<(), DriverError> {
        let Optimal { page, floors, segments, .. } = self;
        let floor = floors.entry(device).or_default();
        let wanted = live.next_multiple_of(*page);
        while floor.held > wanted
            && let Some(&(address, bytes)) = floor.segments.last()
        {
            segments.give(address)?;
            floor.segments.pop();
            floor.held -= bytes;
        }
        let missing = wanted - floor.held;
        if missing > 0 {
            floor.segments.push((segments.take(device, missing)?, missing));
            floor.held = wanted;
        }
        floor.live = live;
        Ok(())
    }

    fn live(&self, device: DeviceId) -> u64 {
        self.floors.get(&device).map_or(0, |floor| floor.live)
    }
}

/// The block that an address names, and back.
fn name(key: usize) -> u64 {
    (key as u64 + 1) * UNIT
}

fn key(address: u64) -> Option<usize> {
    let key = (address / UNIT).checked_sub(1)?;
    address.is_multiple_of(UNIT).then_some(key as usize)
}

impl Policy for Optimal {
    fn allocate(&mut self, size: u64, device: DeviceId, _: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let bytes = size.next_multiple_of(UNIT);
        let live = self.live(device) + bytes;
        let words = || format!("{live} bytes would be live: no allocator has room for them");
        self.settle(device, live).map_err(|error| refusal(&error, words))?;
        Ok(name(self.blocks.insert((device, bytes))))
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let block = key(address).and_then(|key| Some((key, *self.blocks.get(key)?)));
        let (key, (device, bytes)) = block.ok_or_else(|| no_block(address))?;
        let live = self.live(device) - bytes;
        self.settle(device, live).map_err(|error| error.to_string())?;
        self.blocks.remove(key);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        self.blocks.get(key(address)?).map(|&(_, bytes)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use drystone_sim::{SimConfig, SimDriver};

    use super::*;

    #[test]
    fn what_is_held_is_what_is_live_in_pages() {
        for page in [512, 2 << 20] {
            let sim = Arc::new(SimDriver::new(SimConfig::default().devices(2)).unwrap());
            let mut optimal = Optimal::new(Arc::clone(&sim) as _, page);
            let mut live = Vec::new();
            for step in 0..300u64 {
                let device = DeviceId((step % 2) as u32);
                if step % 5 > 2 {
                    let block = live.remove((step * 7 % live.len() as u64) as usize);
                    optimal.free(block).unwrap();
                } else {
                    let size = 1 + step * step * 977 % 3_000_000;
                    let block = optimal.allocate(size, device, StreamId(0)).unwrap();
                    assert_eq!(optimal.block_bytes(block), Some(size.next_multiple_of(512)));
                    live.push(block);
                }
                let taken = sim.usage(device).unwrap().taken;
                assert_eq!(taken, optimal.live(device).next_multiple_of(page));
            }
            live.drain(..).for_each(|block| optimal.free(block).unwrap());
            assert_eq!(sim.usage(DeviceId(0)).unwrap().taken, 0);
            assert!(optimal.free(512).is_err() && optimal.free(513).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let sim = Arc::new(SimDriver::new(SimConfig::default().capacity(5 << 20)).unwrap());
        let mut optimal = Optimal::new(Arc::clone(&sim) as _, 2 << 20);
        let first = optimal.allocate(3 << 20, DeviceId(0), StreamId(0)).unwrap();
        let refused = optimal.allocate(2 << 20, DeviceId(0), StreamId(0)).unwrap_err();
        assert!(matches!(refused, Refusal::OutOfMemory(_)), "{refused:?}");
        assert_eq!(sim.usage(DeviceId(0)).unwrap().taken, 4 << 20);
        optimal.free(first).unwrap();
        assert_eq!(sim.usage(DeviceId(0)).unwrap().taken, 0);
    }
}
