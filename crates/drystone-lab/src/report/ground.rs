//! The memory that a policy held at the moments of a report: segments and handles, and where they
//! were mapped.

use std::collections::{BTreeMap, HashMap};

use drystone_core::{DeviceId, HandleId};

use super::moments::{Moment, Moments};
use crate::journal::{Change, Journal};

/// What memory is, as numbered in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From one cudaMalloc.
    Segment = 0,
    /// A handle of the device.
    Handle = 1,
    /// A handle of the host.
    Host = 2,
}

/// A segment or handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) device: u32,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    /// The first moment at which it is held.
    pub(super) from: Moment,
    /// The first moment at which it is not held any more.
    pub(super) to: Moment,
}

/// A container at addresses; always the whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) address: u64,
    /// Its place in [`Ground::containers`].
    pub(super) container: u32,
    pub(super) from: Moment,
    pub(super) to: Moment,
}

/// All that was held at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ground {
    /// In order of creation; also those that no moment saw.
    pub(super) containers: Vec<Container>,
    /// Those that some moment saw, in order of creation.
    pub(super) mappings: Vec<Mapping>,
}

impl Ground {
    pub(super) fn of(journal: &Journal, moments: &Moments) -> Ground {
        let never = moments.len() as Moment;
        let mut ground = Ground::default();
        let mut handles: HashMap<(DeviceId, HandleId), u32> = HashMap::new();
        // Those that are there now, by address: their places in `mappings`.
        let mut mapped: BTreeMap<u64, usize> = BTreeMap::new();
        for &(event, change) in &journal.changes {
            let now = moments.since(event);
            match change {
                Change::Segment { device, address, bytes } => {
                    let container = ground.hold(device, bytes, Kind::Segment, now, never);
                    mapped.insert(address, ground.map(address, container, now, never));
                }
                Change::Handle { device, handle, bytes, host } => {
                    let kind = if host { Kind::Host } else { Kind::Handle };
                    let container = ground.hold(device, bytes, kind, now, never);
                    handles.insert((device, handle), container);
                }
                // An imported handle is not known: whoever made it holds it.
                Change::Map { device, address, handle } => {
                    if let Some(&container) = handles.get(&(device, handle)) {
                        mapped.insert(address, ground.map(address, container, now, never));
                    }
                }
                Change::SegmentGone { address } => {
                    if let Some(place) = mapped.remove(&address) {
                        ground.mappings[place].to = now;
                        let container = ground.mappings[place].container;
                        ground.containers[container as usize].to = now;
                    }
                }
                Change::HandleGone { device, handle } => {
                    if let Some(container) = handles.remove(&(device, handle)) {
                        ground.containers[container as usize].to = now;
                    }
                }
                Change::Unmap { address, bytes } => {
                    let end = address.saturating_add(bytes);
                    let gone: Vec<_> = mapped.range(address..end).map(|(&at, _)| at).collect();
                    for at in gone {
                        if let Some(place) = mapped.remove(&at) {
                            ground.mappings[place].to = now;
                        }
                    }
                }
            }
        }
        ground.mappings.retain(|mapping| mapping.from < mapping.to);
        ground
    }

    fn hold(&mut self, device: DeviceId, bytes: u64, kind: Kind, from: Moment, to: Moment) -> u32 {
        self.containers.push(Container { device: device.0, bytes, kind, from, to });
        self.containers.len() as u32 - 1
    }

    fn map(&mut self, address: u64, container: u32, from: Moment, to: Moment) -> usize {
        self.mappings.push(Mapping { address, container, from, to });
        self.mappings.len() - 1
    }

    pub(super) fn container(&self, mapping: &Mapping) -> &Container {
        &self.containers[mapping.container as usize]
    }

    /// The address after a mapping's last.
    pub(super) fn end(&self, mapping: &Mapping) -> u64 {
        mapping.address.saturating_add(self.container(mapping).bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const MIB: u64 = 1 << 20;

    #[test]
    fn what_a_moment_saw_is_there() {
        let handle = HandleId(7);
        let changes = vec![
            (0, Change::Segment { device: DEVICE, address: 100 * MIB, bytes: 20 * MIB }),
            (2, Change::Handle { device: DEVICE, handle, bytes: 4 * MIB, host: false }),
            (2, Change::Map { device: DEVICE, address: 200 * MIB, handle }),
            (3, Change::Map { device: DEVICE, address: 300 * MIB, handle }),
            (3, Change::Map { device: DEVICE, address: 400 * MIB, handle: HandleId(9) }),
            (4, Change::Unmap { address: 200 * MIB, bytes: 4 * MIB }),
            (5, Change::SegmentGone { address: 100 * MIB }),
            (8, Change::Unmap { address: 300 * MIB, bytes: 4 * MIB }),
            (8, Change::HandleGone { device: DEVICE, handle }),
        ];
        let journal = Journal { changes, ..Journal::default() };
        let ground = Ground::of(&journal, &Moments { events: vec![1, 4, 6] });
        let held: Vec<_> = ground.containers.iter().map(|c| (c.bytes, c.from, c.to)).collect();
        assert_eq!(held, [(20 * MIB, 0, 2), (4 * MIB, 1, 3)]);
        let mapped: Vec<_> = ground.mappings.iter().map(|m| (m.address, m.from, m.to)).collect();
        // At 200 MiB it was mapped between two moments only; the handle 9 was never made here.
        assert_eq!(mapped, [(100 * MIB, 0, 2), (300 * MIB, 1, 3)]);
        assert_eq!(ground.end(&ground.mappings[1]), 304 * MIB);
    }
}
