//! What is left at the end of a run: misuses and leaks.

use std::fmt;

use drystone_core::driver::{DeviceId, EventId, HandleId};

use crate::device::Device;
use crate::misuse::Misuse;

/// A segment never given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedSegment {
    /// Its device.
    pub device: DeviceId,
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// An event never destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedEvent {
    /// Its device.
    pub device: DeviceId,
    /// Its name.
    pub event: EventId,
}

/// A handle never given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedHandle {
    /// Its device.
    pub device: DeviceId,
    /// Its name.
    pub handle: HandleId,
    /// Its bytes.
    pub bytes: u64,
}

/// A mapping never taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedMapping {
    /// Its device.
    pub device: DeviceId,
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What is mapped.
    pub handle: HandleId,
}

/// A range of addresses never given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakedRange {
    /// Its device.
    pub device: DeviceId,
    /// Its start.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What a run has done wrong and left behind; see [`SimDriver::finish`](crate::SimDriver::finish).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The misuses in the order of their calls; only the first 4096 of more.
    pub misuses: Vec<Misuse>,
    /// How many misuses there were in all.
    pub misuse_count: u64,
    /// Segments never given back, by device and address.
    pub leaked_segments: Vec<LeakedSegment>,
    /// Events never destroyed, by device.
    pub leaked_events: Vec<LeakedEvent>,
    /// Handles never given back, by device and name.
    pub leaked_handles: Vec<LeakedHandle>,
    /// Mappings never taken away, by device and address.
    pub leaked_mappings: Vec<LeakedMapping>,
    /// Reserved addresses never given back, by device and address.
    pub leaked_ranges: Vec<LeakedRange>,
}

impl Report {
    /// Whether nothing was done wrong and nothing is left.
    pub fn is_clean(&self) -> bool {
        self.misuse_count == 0 && self.leaks().iter().all(|(count, _)| *count == 0)
    }

    /// How many of each kind are left.
    fn leaks(&self) -> [(usize, &'static str); 5] {
        [
            (self.leaked_segments.len(), "segments"),
            (self.leaked_events.len(), "events"),
            (self.leaked_handles.len(), "handles"),
            (self.leaked_mappings.len(), "mappings"),
            (self.leaked_ranges.len(), "address ranges"),
        ]
    }

    /// Adds what lives on a device.
    pub(crate) fn add_leaks(&mut self, state: &Device) {
        let device = state.id;
        let (memory, mappings) = (&state.memory, &state.mappings);
        let segment = |(&address, &bytes)| LeakedSegment { device, address, bytes };
        self.leaked_segments.extend(memory.segments.iter().map(segment));
        self.leaked_events.extend(state.events.live().map(|event| LeakedEvent { device, event }));
        self.leaked_handles.extend(state.physical.live().map(|(handle, what)| LeakedHandle {
            device,
            handle,
            bytes: what.bytes,
        }));
        self.leaked_mappings.extend(mappings.mapped.iter().map(|(&address, what)| LeakedMapping {
            device,
            address,
            bytes: what.bytes,
            handle: what.handle,
        }));
        let range = |(&address, &bytes)| LeakedRange { device, address, bytes };
        self.leaked_ranges.extend(mappings.ranges.iter().map(range));
    }
}

/// The lines of each kind that are shown.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("no misuse, no leak");
        }
        write!(f, "{} misuses", self.misuse_count)?;
        for (count, what) in self.leaks().iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what} leaked")?;
        }
        for misuse in self.misuses.iter().take(SHOWN) {
            write!(f, "\n  {misuse}")?;
        }
        for leak in self.leaked_segments.iter().take(SHOWN) {
            write!(f, "\n  {}: {} bytes at {:#x} leaked", leak.device, leak.bytes, leak.address)?;
        }
        for leak in self.leaked_events.iter().take(SHOWN) {
            write!(f, "\n  {}: {:?} leaked", leak.device, leak.event)?;
        }
        for leak in self.leaked_handles.iter().take(SHOWN) {
            write!(f, "\n  {}: {:?} of {} bytes leaked", leak.device, leak.handle, leak.bytes)?;
        }
        for LeakedMapping { device, address, handle, .. } in self.leaked_mappings.iter().take(SHOWN)
        {
            write!(f, "\n  {device}: {handle:?} still mapped at {address:#x}")?;
        }
        for LeakedRange { device, address, bytes } in self.leaked_ranges.iter().take(SHOWN) {
            write!(f, "\n  {device}: {bytes} addresses from {address:#x} on leaked")?;
        }
        Ok(())
    }
}
