//! The reserved addresses of one device, and what is mapped there.

use std::collections::BTreeMap;
use std::ops::Range;

use drystone_core::driver::{DeviceId, HandleId, StreamId};

use crate::address::{Area, PAGE};
use crate::misuse::RangeFault;
use crate::order::{Point, VectorClock};
use crate::physical::Handle;
use crate::stream::Streams;

/// One handle at one address.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) handle: HandleId,
    /// The physical address of the first byte.
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    /// The devices that may use it, as bits.
    accessors: u32,
    /// Each stream's last use through these addresses, as far as the host may not know it to be
    /// over. Uses of the same bytes through other addresses are not here.
    uses: Vec<Point>,
    /// Until when work of other devices uses it, and of which stream the last of that is.
    peer: Option<(u64, StreamId)>,
}

impl Mapping {
    pub(crate) fn allow(&mut self, device: DeviceId) {
        self.accessors |= bit(device);
    }

    pub(crate) fn allows(&self, device: DeviceId) -> bool {
        self.accessors & bit(device) != 0
    }

    /// Notes a use; `host` is what the host knows to be over.
    pub(crate) fn enter(&mut self, point: Point, host: &VectorClock) {
        self.uses.retain(|old| old.stream != point.stream && !host.covers(*old));
        self.uses.push(point);
    }

    /// Notes a use by another device until `done_ns`.
    pub(crate) fn enter_peer(&mut self, done_ns: u64, stream: StreamId) {
        if self.peer.is_none_or(|(until, _)| until <= done_ns) {
            self.peer = Some((done_ns, stream));
        }
    }

    /// A stream with a use that the host does not know to be over at `now`.
    pub(crate) fn unfinished(&self, streams: &Streams, now: u64) -> Option<StreamId> {
        let own = self.uses.iter().find(|point| !streams.host.covers(**point));
        let own = own.map(|point| streams.get(point.stream).id);
        own.or(self.peer.filter(|(until, _)| *until > now).map(|(_, stream)| stream))
    }
}

/// A driver has at most 16 devices.
fn bit(device: DeviceId) -> u32 {
    1_u32.checked_shl(device.0).unwrap_or(0)
}

/// A part of an access that lies in one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where the mapping starts; 0 for memory that has only one address.
    pub(crate) mapping: u64,
    pub(crate) address: u64,
    /// The physical address of the same byte.
    pub(crate) physical: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Mappings {
    space: Area,
    /// Start of a reserved range to its bytes.
    pub(crate) ranges: BTreeMap<u64, u64>,
    /// Bytes in reserved ranges.
    pub(crate) reserved: u64,
    /// By address. Never two that overlap, each within one reserved range.
    pub(crate) mapped: BTreeMap<u64, Mapping>,
}

impl Mappings {
    pub(crate) fn new(space: Area) -> Self {
        Mappings { space, ranges: BTreeMap::new(), reserved: 0, mapped: BTreeMap::new() }
    }

    /// Sets `bytes` (> 0, a multiple of the page) of addresses aside, if there are any left.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Option<u64> {
        let address = self.space.take(bytes)?;
        self.ranges.insert(address, bytes);
        self.reserved += bytes;
        Some(address)
    }

    /// Gives a whole reserved range back.
    pub(crate) fn unreserve(&mut self, address: u64, bytes: u64) -> Result<(), RangeFault> {
        if self.ranges.get(&address) != Some(&bytes) {
            return Err(RangeFault::NotReserved);
        }
        if self.mapped.range(address..address + bytes).next().is_some() {
            return Err(RangeFault::Mapped);
        }
        self.ranges.remove(&address);
        self.reserved -= bytes;
        self.space.give_back(address, bytes);
        Ok(())
    }

    pub(crate) fn map(
        &mut self,
        address: u64,
        id: HandleId,
        &Handle { base, bytes, .. }: &Handle,
    ) -> Result<(), RangeFault> {
        if !address.is_multiple_of(PAGE) {
            return Err(RangeFault::Unaligned);
        }
        let end = self.reserved_end(address, bytes)?;
        let below = self.mapped.range(..end).next_back();
        if below.is_some_and(|(start, mapping)| start + mapping.bytes > address) {
            return Err(RangeFault::Mapped);
        }
        let mapping =
            Mapping { handle: id, base, bytes, accessors: 0, uses: Vec::new(), peer: None };
        self.mapped.insert(address, mapping);
        Ok(())
    }

    /// The range, if it consists of whole mappings.
    pub(crate) fn whole(&self, address: u64, bytes: u64) -> Result<Range<u64>, RangeFault> {
        let end = self.reserved_end(address, bytes)?;
        if self.holder(address).is_some_and(|(start, _)| start != address) {
            return Err(RangeFault::PartOfMapping);
        }
        let mut at = address;
        for (start, mapping) in self.mapped.range(address..end) {
            if *start > at {
                return Err(RangeFault::NotMapped);
            }
            at = start + mapping.bytes;
        }
        match at {
            at if at > end => Err(RangeFault::PartOfMapping),
            at if at < end => Err(RangeFault::NotMapped),
            _ => Ok(address..end),
        }
    }

    /// Ends the first mapping that starts in the range.
    pub(crate) fn take_first(&mut self, range: Range<u64>) -> Option<(u64, Mapping)> {
        let address = *self.mapped.range(range).next()?.0;
        self.mapped.remove_entry(&address)
    }

    /// The parts of an access, by address; or the first byte at which nothing is mapped, or only
    /// for other devices.
    pub(crate) fn pieces(
        &self,
        address: u64,
        bytes: u64,
        accessor: DeviceId,
    ) -> Result<Vec<Piece>, RangeFault> {
        let end = self.reserved_end(address, bytes)?;
        let mut pieces = Vec::new();
        let mut at = address;
        while at < end {
            let (start, mapping) = self.holder(at).ok_or(RangeFault::NotMapped)?;
            if !mapping.allows(accessor) {
                return Err(RangeFault::NoAccess);
            }
            let to = end.min(start + mapping.bytes);
            let physical = mapping.base + (at - start);
            pieces.push(Piece { mapping: start, address: at, physical, bytes: to - at });
            at = to;
        }
        Ok(pieces)
    }

    /// The mapping that holds the byte, and where it starts.
    fn holder(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.mapped.range(..=address).next_back()?;
        (address - start < mapping.bytes).then_some((*start, mapping))
    }

    /// The end of the bytes, which lie in one reserved range.
    fn reserved_end(&self, address: u64, bytes: u64) -> Result<u64, RangeFault> {
        let range = self.ranges.range(..=address).next_back();
        let inside = range.is_some_and(|(start, len)| {
            address - start < *len && bytes > 0 && bytes <= len - (address - start)
        });
        if inside { Ok(address + bytes) } else { Err(RangeFault::NotReserved) }
    }
}
