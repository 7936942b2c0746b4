//! What the program does with its memory: work on streams, stamps, and captures.

use drystone_core::driver::{DeviceId, StreamId};

use crate::device::{Device, Env};
use crate::mapping::Piece;
use crate::memory::Outside;
use crate::misuse::{Access, Misuse, RangeFault};
use crate::order::Point;
use crate::sim::SimDriver;
use crate::uses::Use;

impl SimDriver {
    /// Submits a kernel to `stream` that touches the ranges (address, bytes); ranges of 0 bytes
    /// are not looked at, and without any it is work that only takes its time. Launching takes no
    /// time of the host. Written bytes lose their stamp.
    ///
    /// All misuses are logged; the first is returned. Unless the device or the stream does not
    /// exist the work is submitted all the same, and the good ranges are watched.
    ///
    /// Work on a stream that is being captured only enters the graph: its ranges must be memory,
    /// but they are not in use, and nothing is written or checked.
    pub fn launch(
        &self,
        device: DeviceId,
        stream: StreamId,
        ranges: &[(u64, u64)],
        access: Access,
    ) -> Result<(), Misuse> {
        let what = Work { ranges, access, tag: None };
        self.work(device, |device, env, found| device.launch(env, stream, what, found))
    }

    /// Submits a kernel that fills the bytes with a stamp.
    pub fn stamp_write(
        &self,
        device: DeviceId,
        stream: StreamId,
        address: u64,
        bytes: u64,
        tag: u64,
    ) -> Result<(), Misuse> {
        let what = Work { ranges: &[(address, bytes)], access: Access::Write, tag: Some(tag) };
        self.work(device, |device, env, found| device.launch(env, stream, what, found))
    }

    /// Submits a kernel that reads the bytes; an error if one of them does not hold the stamp.
    ///
    /// Bytes hold what was submitted last. That the reader is ordered after the writer is checked
    /// as for any work.
    pub fn stamp_check(
        &self,
        device: DeviceId,
        stream: StreamId,
        address: u64,
        bytes: u64,
        tag: u64,
    ) -> Result<(), Misuse> {
        self.work(device, |device, env, found| {
            let what = Work { ranges: &[(address, bytes)], access: Access::Read, tag: None };
            device.launch(env, stream, what, found);
            if !device.captures.contains(&stream) {
                found.extend(device.lost_stamp(stream, address, bytes, tag));
            }
        })
    }

    /// Begins a capture of the stream.
    pub fn begin_capture(&self, device: DeviceId, stream: StreamId) -> Result<(), Misuse> {
        self.work(device, |device, _, found| {
            if device.streams.find(stream).is_none() {
                found.push(Misuse::UnknownStream { device: device.id, stream });
            } else if !device.captures.insert(stream) {
                found.push(Misuse::CaptureMismatch { device: device.id, stream });
            }
        })
    }

    /// Ends the capture of the stream.
    pub fn end_capture(&self, device: DeviceId, stream: StreamId) -> Result<(), Misuse> {
        self.work(device, |device, _, found| {
            if !device.captures.remove(&stream) {
                found.push(Misuse::CaptureMismatch { device: device.id, stream });
            }
        })
    }

    /// The frame of all these: the device, its lock, the log; the first misuse is returned.
    fn work(
        &self,
        device: DeviceId,
        body: impl FnOnce(&mut Device, &Env, &mut Vec<Misuse>),
    ) -> Result<(), Misuse> {
        let mut found = Vec::new();
        match self.device(device) {
            None => found.push(Misuse::UnknownDevice { device }),
            Some(device) => body(&mut device.lock(), &self.env, &mut found),
        }
        self.log.add(&found);
        found.into_iter().next().map_or(Ok(()), Err)
    }
}

/// One kernel.
struct Work<'a> {
    /// Address and bytes.
    ranges: &'a [(u64, u64)],
    access: Access,
    /// What it writes, if anybody is going to look.
    tag: Option<u64>,
}

impl Device {
    fn launch(
        &mut self,
        env: &Env,
        stream: StreamId,
        Work { ranges, access, tag }: Work<'_>,
        found: &mut Vec<Misuse>,
    ) {
        let device = self.id;
        let Some(index) = self.streams.find(stream) else {
            found.push(Misuse::UnknownStream { device, stream });
            return;
        };
        let captured = self.captures.contains(&stream);
        let point = (!captured).then(|| self.streams.submit(index, env.work_done_ns()));
        for &(address, bytes) in ranges.iter().filter(|range| range.1 > 0) {
            let pieces = match self.pieces(stream, address, bytes) {
                Ok(pieces) => pieces,
                Err(why) => {
                    found.push(why);
                    continue;
                }
            };
            let Some(point) = point else { continue };
            for piece in pieces {
                self.touch(&piece, point, access, tag, found);
            }
        }
    }

    /// Where the bytes lie, for work of this device.
    fn pieces(&self, stream: StreamId, address: u64, bytes: u64) -> Result<Vec<Piece>, Misuse> {
        let device = self.id;
        match self.mappings.pieces(address, bytes, device) {
            Ok(pieces) => return Ok(pieces),
            Err(RangeFault::NotReserved) => {}
            Err(fault) => {
                return Err(Misuse::UseOfUnmapped { device, stream, address, bytes, fault });
            }
        }
        match self.memory.locate(address, bytes) {
            Ok(()) => Ok(vec![Piece { mapping: 0, address, physical: address, bytes }]),
            Err(why) => Err(outside(device, stream, address, bytes, why)),
        }
    }

    /// Enters a use, and what it writes.
    fn touch(
        &mut self,
        piece: &Piece,
        point: Point,
        access: Access,
        tag: Option<u64>,
        found: &mut Vec<Misuse>,
    ) {
        let device = self.id;
        let stream = self.streams.get(point.stream).id;
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
        match (access, tag) {
            (Access::Read, _) => {}
            (Access::Write, Some(tag)) => self.memory.stamps.set(start, end, tag),
            (Access::Write, None) => self.memory.stamps.remove(start, end),
        }
    }

    /// The first bytes of the range that do not hold the stamp.
    fn lost_stamp(
        &self,
        stream: StreamId,
        address: u64,
        bytes: u64,
        expected: u64,
    ) -> Option<Misuse> {
        // Where there is no memory it has been said already, and nothing is lost.
        let pieces = self.pieces(stream, address, bytes).ok()?;
        pieces.iter().find_map(|piece| {
            let (from, to, found) = self.differs(piece, expected)?;
            Some(Misuse::StampLost {
                device: self.id,
                stream,
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

fn outside(device: DeviceId, stream: StreamId, address: u64, bytes: u64, why: Outside) -> Misuse {
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
