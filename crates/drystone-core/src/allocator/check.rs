//! The invariants of the whole allocator, checked by every property test.

use std::collections::HashMap;

use super::Allocator;
use crate::driver::Driver;
use crate::stats::Metric;
use crate::table::Place;

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
            let mut reserved = 0;
            for (pool, heap) in device.totals.heaps() {
                heap.check()?;
                let mut core = heap.lock();
                if core.key.is_none_or(|key| key.device != device.id || key.pool != pool) {
                    return Err(format!("heap {} is counted for {pool} but is not its", heap.id));
                }
                let mut wrong = None;
                core.for_each_segment(|segment, _| {
                    reserved += segment.bytes();
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
            let stats = device.totals.stats(None);
            let counted = stats.all(Metric::ReservedBytes).current;
            if reserved != device.reserved() || reserved != counted {
                return Err(format!(
                    "{}: {reserved} bytes in segments, {} reserved, {counted} counted",
                    device.id,
                    device.reserved(),
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
}
