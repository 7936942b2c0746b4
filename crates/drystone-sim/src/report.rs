//! What is left at the end of a run: misuses and leaks.

use std::fmt;

use drystone_core::driver::{DeviceId, EventId};

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
}

impl Report {
    /// Whether nothing was done wrong and nothing is left.
    pub fn is_clean(&self) -> bool {
        self.misuse_count == 0 && self.leaked_segments.is_empty() && self.leaked_events.is_empty()
    }
}

/// The lines of each kind that are shown.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("no misuse, no leak");
        }
        let (segments, events) = (self.leaked_segments.len(), self.leaked_events.len());
        write!(f, "{} misuses, {segments} segments and {events} events leaked", self.misuse_count)?;
        for misuse in self.misuses.iter().take(SHOWN) {
            write!(f, "\n  {misuse}")?;
        }
        for leak in self.leaked_segments.iter().take(SHOWN) {
            write!(f, "\n  {}: {} bytes at {:#x} leaked", leak.device, leak.bytes, leak.address)?;
        }
        for leak in self.leaked_events.iter().take(SHOWN) {
            write!(f, "\n  {}: {:?} leaked", leak.device, leak.event)?;
        }
        Ok(())
    }
}
