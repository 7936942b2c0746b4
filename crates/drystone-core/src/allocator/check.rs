//! The invariants of the whole allocator, checked by every property test.

use std::collections::HashMap;

use super::Allocator;
use crate::block::State;
use crate::driver::{Driver, HandleKind};
use crate::pages::{PageStore, Slot};
use crate::stats::Metric;
use crate::table::Place;
use crate::units::PAGE_SHIFT;

impl<D: Driver> Allocator<D> {
    /// Checks that everything the allocator knows agrees: blocks tile their segments, free
    /// neighbours are merged, bins hold exactly the free blocks, the address table holds exactly
    /// the segments, counters are the sums of what there is, and nothing is reserved twice. No
    /// other thread may be at work. The error says what is wrong and where.
    ///
    /// Slow: it looks at every block.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut segments: HashMap<u64, (u64, Place)> = HashMap::new();
        for (base, end, place) in self.table.check()? {
            segments.insert(base, (end, place));
        }
        for device in &self.devices {
            let (mut reserved, mut spilled) = (0, 0);
            for (pool, heap) in device.totals.heaps() {
                heap.check()?;
                let mut core = heap.lock();
                if core.key.is_none_or(|key| key.device != device.id || key.pool != pool) {
                    return Err(format!("heap {} is counted for {pool} but is not its", heap.id));
                }
                let mut wrong = None;
                let held = if core.spills() { &mut spilled } else { &mut reserved };
                core.for_each_segment(|segment, blocks| {
                    let there = blocks.filter(|(_, block)| block.state() != State::Hole);
                    *held += there.map(|(_, block)| block.bytes()).sum::<u64>();
                    let known = segments.remove(&segment.base);
                    if !known.is_some_and(|(end, place)| {
                        end == segment.base + segment.bytes() && place.heap == heap.id
                    }) {
                        wrong = Some(segment.base);
                    }
                });
                if let Some(base) = wrong {
                    return Err(format!("the address table is wrong about {base:#x}"));
                }
            }
            let (stranded, of_host) = match &device.pages {
                None => (0, 0),
                Some(store) => {
                    let store = store.lock();
                    store.check().map_err(|what| format!("{}: {what}", device.id))?;
                    self.check_homes(&store)?;
                    (
                        store.stranded_bytes(HandleKind::Device)
                            + store.stranded_bytes(HandleKind::Exportable),
                        store.stranded_bytes(HandleKind::Host),
                    )
                }
            };
            reserved += stranded;
            let stats = device.totals.stats(None);
            let counted = stats.all(Metric::ReservedBytes).current + stranded;
            if reserved + device.taken() != device.reserved() || reserved != counted {
                return Err(format!(
                    "{}: {reserved} bytes in segments, {} reserved, {counted} counted",
                    device.id,
                    device.reserved(),
                ));
            }
            let counted = device.spilled.get().current;
            if spilled + of_host != counted || counted > device.spill_limit {
                return Err(format!(
                    "{}: {spilled} bytes of the host in arenas and {of_host} besides, {counted} counted",
                    device.id,
                ));
            }
            for metric in Metric::ALL {
                let stat = stats.all(metric);
                if stat.peak < stat.current {
                    return Err(format!("{}: its peak is below its value", metric.name()));
                }
            }
        }
        match segments.keys().next() {
            Some(base) => Err(format!("the segment at {base:#x} is in no heap")),
            None => Ok(()),
        }
    }

    /// Checks that a page of an arena is a hole's exactly if no page is at home there, and that
    /// memory of the host is in the heaps that spill, and only there.
    fn check_homes(&self, store: &PageStore) -> Result<(), String> {
        for (at, arena) in store.arenas() {
            let core = arena.heap.lock();
            for page in 0..(arena.bytes() >> PAGE_SHIFT) as u32 {
                let hole = core.hole_around(arena.at, page).is_some();
                let slot = store.slot(at, page);
                if hole == matches!(slot, Slot::Home(_)) {
                    return Err(format!("{:#x} is a hole and a home", arena.address(page)));
                }
                if let Slot::Home(mapping) | Slot::Ghost(mapping) = slot {
                    let kind = store.handle(store.mapping(mapping).handle).kind;
                    if core.spills() != (kind == HandleKind::Host) {
                        return Err(format!("{:#x} is {kind:?} memory", arena.address(page)));
                    }
                }
            }
        }
        Ok(())
    }
}
