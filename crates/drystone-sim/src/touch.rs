//! What a piece of work does to the memory of a device: where its bytes lie, who else uses them, and
//! what they hold.

use drystone_core::driver::{DeviceId, StreamId};

use crate::device::Device;
use crate::mapping::Piece;
use crate::memory::Outside;
use crate::misuse::{Access, Misuse, RangeFault};
use crate::order::Point;
use crate::uses::Use;
use crate::work::Work;

/// When work uses what it touches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Work of this device, at its place in the order.
    Point(Point),
    /// Work of another device, whose order is not known here: until this time.
    Until { done_ns: u64, stream: StreamId },
}

/// One range that a piece of work touches.
pub(crate) struct Touch<'a> {
    /// The device that the work runs on.
    pub(crate) device: DeviceId,
    pub(crate) stream: StreamId,
    /// Address and bytes (> 0).
    pub(crate) range: (u64, u64),
    pub(crate) work: &'a Work<'a>,
    /// None if it only enters a graph: its bytes must be memory, and that is all.
    pub(crate) when: Option<When>,
}

impl Device {
    pub(crate) fn touch(&mut self, touch: &Touch<'_>, found: &mut Vec<Misuse>) {
        let pieces = match self.pieces(touch) {
            Ok(pieces) => pieces,
            Err(why) => return found.push(why),
        };
        let Some(when) = touch.when else { return };
        for piece in &pieces {
            match when {
                When::Point(point) => self.enter(touch, piece, point, found),
                When::Until { done_ns, stream } => {
                    if let Some(mapping) = self.mappings.mapped.get_mut(&piece.mapping) {
                        mapping.enter_peer(done_ns, stream);
                    }
                }
            }
        }
        match touch.work.expected {
            Some(expected) => found.extend(self.lost_stamp(touch, &pieces, expected)),
            None => pieces.iter().for_each(|piece| self.write(piece, touch.work)),
        }
    }

    /// Where the bytes lie.
    fn pieces(&self, touch: &Touch<'_>) -> Result<Vec<Piece>, Misuse> {
        let Touch { device, stream, range: (address, bytes), .. } = *touch;
        match self.mappings.pieces(address, bytes, device) {
            Ok(pieces) => return Ok(pieces),
            Err(RangeFault::NotReserved) => {}
            Err(fault) => {
                return Err(Misuse::UseOfUnmapped { device, stream, address, bytes, fault });
            }
        }
        match self.memory.locate(address, bytes) {
            Ok(()) => Ok(vec![Piece { mapping: 0, address, physical: address, bytes }]),
            Err(why) => Err(outside(touch, why)),
        }
    }

    /// Enters a use, and what it clashes with.
    fn enter(&mut self, touch: &Touch<'_>, piece: &Piece, point: Point, found: &mut Vec<Misuse>) {
        let (device, stream, access) = (touch.device, touch.stream, touch.work.access);
        let (start, end) = (piece.physical, piece.physical + piece.bytes);
        let new = Use { point, access, via: piece.mapping };
        for clash in self.uses.enter(start, end, new, &self.streams) {
            let (address, bytes) = (piece.address + (clash.start - start), clash.end - clash.start);
            found.push(if clash.earlier.point == point {
                Misuse::AliasedWork { device, stream, address, bytes }
            } else {
                Misuse::Unordered {
                    device,
                    address,
                    bytes,
                    stream,
                    access,
                    earlier_stream: self.streams.get(clash.earlier.point.stream).id,
                    earlier_access: clash.earlier.access,
                }
            });
        }
        if let Some(mapping) = self.mappings.mapped.get_mut(&piece.mapping) {
            mapping.enter(point, &self.streams.host);
        }
    }

    fn write(&mut self, piece: &Piece, work: &Work<'_>) {
        let (start, end) = (piece.physical, piece.physical + piece.bytes);
        match (work.access, work.tag) {
            (Access::Read, _) => {}
            (Access::Write, Some(tag)) => self.memory.stamps.set(start, end, tag),
            (Access::Write, None) => self.memory.stamps.remove(start, end),
        }
    }

    /// The first bytes that do not hold the stamp.
    fn lost_stamp(&self, touch: &Touch<'_>, pieces: &[Piece], expected: u64) -> Option<Misuse> {
        pieces.iter().find_map(|piece| {
            let (from, to, found) = self.differs(piece, expected)?;
            Some(Misuse::StampLost {
                device: touch.device,
                stream: touch.stream,
                address: piece.address + (from - piece.physical),
                bytes: to - from,
                expected,
                found,
            })
        })
    }

    /// The first bytes, by physical address, that hold something else, and what.
    fn differs(&self, piece: &Piece, expected: u64) -> Option<(u64, u64, Option<u64>)> {
        let end = piece.physical + piece.bytes;
        let mut at = piece.physical;
        for (from, to, &tag) in self.memory.stamps.overlapping(at, end) {
            if from > at {
                return Some((at, from, None));
            }
            if tag != expected {
                return Some((from, to, Some(tag)));
            }
            at = to;
        }
        (at < end).then_some((at, end, None))
    }
}

fn outside(touch: &Touch<'_>, why: Outside) -> Misuse {
    let Touch { device, stream, range: (address, bytes), .. } = *touch;
    match why {
        Outside::Foreign => Misuse::UseOfForeign { device, stream, address, bytes },
        Outside::Freed { segment } => {
            Misuse::UseAfterFree { device, stream, address, bytes, segment }
        }
        Outside::PastEnd { segment, segment_bytes } => {
            Misuse::UsePastEnd { device, stream, address, bytes, segment, segment_bytes }
        }
    }
}
