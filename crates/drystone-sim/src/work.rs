//! What the program does with its memory: work on streams, stamps, and captures.

use drystone_core::driver::{DeviceId, StreamId};

use crate::device::{Device, Env};
use crate::memory::Outside;
use crate::misuse::{Access, Misuse};
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
            if let Err(why) = self.memory.locate(address, bytes) {
                found.push(outside(device, stream, address, bytes, why));
                continue;
            }
            let Some(point) = point else { continue };
            let end = address + bytes;
            for clash in self.uses.enter(address, end, Use { point, access }, &self.streams) {
                found.push(Misuse::Unordered {
                    device,
                    address: clash.start,
                    bytes: clash.end - clash.start,
                    stream,
                    access,
                    earlier_stream: self.streams.get(clash.earlier.point.stream).id,
                    earlier_access: clash.earlier.access,
                });
            }
            match (access, tag) {
                (Access::Read, _) => {}
                (Access::Write, Some(tag)) => self.memory.stamps.set(address, end, tag),
                (Access::Write, None) => self.memory.stamps.remove(address, end),
            }
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
        let end = address.saturating_add(bytes);
        let lost = |from, to, found| Misuse::StampLost {
            device: self.id,
            stream,
            address: from,
            bytes: to - from,
            expected,
            found,
        };
        let mut at = address;
        for (from, to, &tag) in self.memory.stamps.overlapping(address, end) {
            if from > at {
                return Some(lost(at, from, None));
            }
            if tag != expected {
                return Some(lost(from, to, Some(tag)));
            }
            at = to;
        }
        (at < end).then(|| lost(at, end, None))
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
