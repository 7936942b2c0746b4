//! What a policy did in a replay: where each block lay, and what it held of the devices, event by
//! event. It is what the picture of memory in a report is drawn from.

use std::collections::HashMap;

use drystone_core::{DeviceId, HandleId};
use drystone_trace::{Event, Op, Trace};

/// A block as it was handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Its address; 0 if the policy never handed it out.
    pub(crate) address: u64,
    /// What it occupies, with what rounding adds; what was asked for if the policy does not tell.
    pub(crate) bytes: u64,
}

/// A change of what is held, or of where it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Segment { device: DeviceId, address: u64, bytes: u64 },
    SegmentGone { address: u64 },
    Handle { device: DeviceId, handle: HandleId, bytes: u64, host: bool },
    HandleGone { device: DeviceId, handle: HandleId },
    Map { device: DeviceId, address: u64, handle: HandleId },
    Unmap { address: u64, bytes: u64 },
}

/// What a policy did in a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// By number of the block.
    pub(crate) blocks: Vec<Placed>,
    /// In order, with the index of the event that they belong to.
    pub(crate) changes: Vec<(u32, Change)>,
    /// Whether the policy tells what blocks occupy.
    pub(crate) tells: bool,
    /// How many events were played: all, unless memory ran out at the one after.
    pub(crate) played: usize,
}

/// What was held and not asked for, when most was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waste {
    /// What rounding adds to blocks; none if the policy does not tell.
    pub(crate) rounding: Option<u64>,
    /// What is in no block.
    pub(crate) free: u64,
}

impl Journal {
    pub(crate) fn of(trace: &Trace) -> Self {
        let blocks = vec![Placed::default(); trace.blocks as usize];
        Journal { blocks, changes: Vec::new(), tells: true, played: trace.events.len() }
    }

    /// A block was handed out at its `Alloc`; `None` if it is not known what it occupies.
    #[inline]
    pub(crate) fn handed_out(&mut self, event: &Event, address: u64, bytes: Option<u64>) {
        // An address of 0 is no block, and occupies nothing.
        self.tells &= bytes.is_some() || address == 0;
        let bytes = bytes.unwrap_or(event.size);
        self.blocks[event.id as usize] = Placed { address, bytes };
    }

    /// This changed at the event of that index.
    #[inline]
    pub(crate) fn changed(&mut self, event: usize, changes: Vec<Change>) {
        self.changes.extend(changes.into_iter().map(|change| (event as u32, change)));
    }

    /// Bytes held of the devices whenever they change: after which event, and how many.
    pub(crate) fn reserved(&self) -> Vec<(u32, u64)> {
        let mut held = HashMap::new();
        let mut now = 0u64;
        let mut steps: Vec<(u32, u64)> = Vec::new();
        for &(event, change) in &self.changes {
            match change {
                Change::Segment { address, bytes, .. } => {
                    held.insert((DeviceId(u32::MAX), address), bytes);
                    now += bytes;
                }
                Change::Handle { device, handle, bytes, host: false } => {
                    held.insert((device, handle.0), bytes);
                    now += bytes;
                }
                Change::SegmentGone { address } => {
                    now -= held.remove(&(DeviceId(u32::MAX), address)).unwrap_or(0);
                }
                Change::HandleGone { device, handle } => {
                    now -= held.remove(&(device, handle.0)).unwrap_or(0);
                }
                _ => continue,
            }
            match steps.last_mut() {
                Some(last) if last.0 == event => last.1 = now,
                _ => steps.push((event, now)),
            }
        }
        steps
    }

    /// The waste after the first event after which most was held.
    pub(crate) fn at_peak(&self, trace: &Trace) -> Waste {
        let steps = self.reserved();
        let most = steps.iter().map(|&(_, bytes)| bytes).max().unwrap_or(0);
        let Some(&(peak, _)) = steps.iter().find(|&&(_, bytes)| bytes == most) else {
            return Waste { rounding: self.tells.then_some(0), free: 0 };
        };
        let (mut asked, mut occupied) = (0u64, 0u64);
        for event in trace.events[..self.played].iter().take(peak as usize + 1) {
            match event.op {
                Op::Alloc => {
                    asked += event.size;
                    occupied += self.occupies(event);
                }
                Op::FreeCompleted => {
                    asked -= event.size;
                    occupied -= self.occupies(event);
                }
                _ => {}
            }
        }
        let rounding = self.tells.then(|| occupied.saturating_sub(asked));
        Waste { rounding, free: most.saturating_sub(occupied) }
    }

    /// What the event's block occupies.
    pub(crate) fn occupies(&self, event: &Event) -> u64 {
        self.blocks[event.id as usize].bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PolicySpec, SimTarget, Target, replay_with_journal};
    use drystone_trace::read_trace_bytes;

    const MIB: u64 = 1 << 20;

    fn played(lines: &str, policy: &str, capacity: u64) -> (crate::Replayed, Journal) {
        let csv = format!("t_us,op,id,size,stream\n{lines}");
        let trace = read_trace_bytes("t", csv.as_bytes(), &Default::default()).unwrap();
        let policy: PolicySpec = policy.parse().unwrap();
        let target = Target::Sim(SimTarget { capacity, ..SimTarget::default() });
        replay_with_journal(&trace, &policy, &target, &mut |_| {}).unwrap()
    }

    const LINES: &str = "0,a,0,33554000,0\n1,a,1,0,0\n2,a,2,100,0\n3,f,0,33554000,0\n\
                         3,c,0,33554000,0\n5,a,3,1024,0\n";

    #[test]
    fn the_waste_at_the_peak_is_told_apart() {
        let (replayed, journal) = played(LINES, "drystone-malloc", 1 << 30);
        // A segment of 32 MiB, whose block is rounded by 432 bytes, and one of 2 MiB for 100.
        assert_eq!(journal.reserved(), [(0, 32 * MIB), (2, 34 * MIB)]);
        let metrics = replayed.metrics;
        assert_eq!(metrics.rounding_at_peak_bytes, Some(432 + 412));
        assert_eq!(metrics.free_at_peak_bytes, Some(2 * MIB - 512));
        assert_eq!(metrics.peak_reserved_bytes, 34 * MIB);
        let addresses: Vec<_> = journal.blocks.iter().map(|block| block.address).collect();
        assert!(addresses[0] > 0 && addresses[1] == 0 && addresses[3] > 0, "{addresses:?}");
    }

    #[test]
    fn handles_and_mappings_are_noted() {
        let (replayed, journal) = played(LINES, "drystone", 1 << 30);
        let most = journal.reserved().iter().map(|&(_, bytes)| bytes).max();
        assert_eq!(most, Some(replayed.metrics.peak_reserved_bytes));
        let count = |wanted: fn(&Change) -> bool| {
            journal.changes.iter().filter(|(_, change)| wanted(change)).count()
        };
        assert!(count(|change| matches!(change, Change::Handle { host: false, .. })) >= 2);
        assert!(count(|change| matches!(change, Change::Map { .. })) >= 2);
    }

    #[test]
    fn a_replay_that_runs_out_of_memory_has_a_journal_up_to_there() {
        let lines = "0,a,0,33554432,0\n1,a,1,33554432,0\n2,f,0,33554432,0\n2,c,0,33554432,0\n";
        let (replayed, journal) = played(lines, "drystone-malloc", 40 * MIB);
        assert_eq!(replayed.metrics.oom.unwrap().at_event, 1);
        assert_eq!((journal.played, journal.blocks[1]), (1, Placed::default()));
        assert_eq!(replayed.metrics.free_at_peak_bytes, Some(0));
    }

    #[test]
    fn nothing_held_is_no_waste() {
        let (replayed, journal) = played("", "drystone", 1 << 30);
        assert_eq!(journal.reserved(), []);
        assert_eq!(replayed.metrics.free_at_peak_bytes, Some(0));
    }
}
