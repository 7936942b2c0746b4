//! What the program does with its memory: work on streams, stamps, and captures.

use drystone_core::driver::{DeviceId, StreamId};

use crate::address::reserved_by;
use crate::device::{Device, Env};
use crate::misuse::{Access, Misuse};
use crate::sim::SimDriver;
use crate::touch::{Touch, When};

impl SimDriver {
    /// Submits a kernel to `stream` that touches the ranges (address, bytes); ranges of 0 bytes
    /// are not looked at, and without any it is work that only takes its time. Launching takes no
    /// time of the host. Written bytes lose their stamp.
    ///
    /// A range may run over several mappings side by side, or lie in what another device has mapped
    /// and given this one access to.
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
        self.submit(device, stream, &Work { ranges, access, tag: None, expected: None })
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
        let (ranges, tag) = (&[(address, bytes)], Some(tag));
        self.submit(device, stream, &Work { ranges, access: Access::Write, tag, expected: None })
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
        let (ranges, expected) = (&[(address, bytes)], Some(tag));
        self.submit(device, stream, &Work { ranges, access: Access::Read, tag: None, expected })
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

    /// Submits work: to its device first, then, with one lock at a time, to those whose memory it
    /// uses as well.
    fn submit(&self, device: DeviceId, stream: StreamId, work: &Work<'_>) -> Result<(), Misuse> {
        let mut launched = None;
        let mut result = self.work(device, |state, env, found| {
            launched = state.launch(env, stream, work, |at| self.owner(device, at), found);
        });
        let Some(done_ns) = launched else { return result };
        let others = |range: &&(u64, u64)| range.1 > 0 && self.owner(device, range.0) != device;
        for &range in work.ranges.iter().filter(others) {
            let when = done_ns.map(|done_ns| When::Until { done_ns, stream });
            let touch = Touch { device, stream, range, work, when };
            let touched = self.work(self.owner(device, range.0), |owner, _, found| {
                owner.touch(&touch, found);
            });
            result = result.and(touched);
        }
        result
    }

    /// The device whose memory lies at the address, for work of `device`.
    fn owner(&self, device: DeviceId, address: u64) -> DeviceId {
        reserved_by(address, self.share)
            .filter(|owner| self.device(*owner).is_some())
            .unwrap_or(device)
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
pub(crate) struct Work<'a> {
    /// Address and bytes.
    pub(crate) ranges: &'a [(u64, u64)],
    pub(crate) access: Access,
    /// What it writes, if anybody is going to look.
    pub(crate) tag: Option<u64>,
    /// What the bytes are to hold, if it looks.
    pub(crate) expected: Option<u64>,
}

impl Device {
    /// Submits the work as far as it touches memory of this device; when it is done, or `None`
    /// if it only enters a graph. The outer `None`: there is no such stream.
    fn launch(
        &mut self,
        env: &Env,
        stream: StreamId,
        work: &Work<'_>,
        owner: impl Fn(u64) -> DeviceId,
        found: &mut Vec<Misuse>,
    ) -> Option<Option<u64>> {
        let device = self.id;
        let Some(index) = self.streams.find(stream) else {
            found.push(Misuse::UnknownStream { device, stream });
            return None;
        };
        let captured = self.captures.contains(&stream);
        let point = (!captured).then(|| self.streams.submit(index, env.work_done_ns()));
        let mine = |range: &&(u64, u64)| range.1 > 0 && owner(range.0) == device;
        for &range in work.ranges.iter().filter(mine) {
            let when = point.map(When::Point);
            self.touch(&Touch { device, stream, range, work, when }, found);
        }
        Some(point.map(|_| self.streams.get(index).ready_ns))
    }
}
