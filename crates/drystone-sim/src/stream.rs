//! The streams of one device: when their work is done, and what each of them, and the host, knows
//! to be done before what comes next.

use std::collections::BTreeMap;

use drystone_core::driver::StreamId;

use crate::order::{Point, VectorClock};

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// When all that was submitted so far is done.
    pub(crate) ready_ns: u64,
    submitted: u64,
    /// What comes before the stream's next work, its own earlier work included.
    pub(crate) before: VectorClock,
}

#[derive(Debug)]
pub(crate) struct Streams {
    by_id: BTreeMap<StreamId, u32>,
    all: Vec<Stream>,
    /// Whether a stream comes into being when it is first named.
    open: bool,
    /// What the host has waited for, or has been told is done.
    pub(crate) host: VectorClock,
    /// When all work of the device is done.
    pub(crate) busy_until_ns: u64,
}

impl Streams {
    pub(crate) fn new(fixed: Option<&[StreamId]>) -> Self {
        let mut streams = Streams {
            by_id: BTreeMap::new(),
            all: Vec::new(),
            open: true,
            host: VectorClock::default(),
            busy_until_ns: 0,
        };
        streams.find(StreamId(0));
        for id in fixed.unwrap_or_default() {
            streams.find(*id);
        }
        streams.open = fixed.is_none();
        streams
    }

    /// The index of the stream of this name; none if no stream may have it.
    pub(crate) fn find(&mut self, id: StreamId) -> Option<u32> {
        if let Some(index) = self.by_id.get(&id) {
            return Some(*index);
        }
        if !self.open {
            return None;
        }
        let index = self.all.len() as u32;
        self.by_id.insert(id, index);
        self.all.push(Stream { id, ready_ns: 0, submitted: 0, before: VectorClock::default() });
        Some(index)
    }

    /// The stream of an index that [`Streams::find`] gave.
    pub(crate) fn get(&self, index: u32) -> &Stream {
        &self.all[index as usize]
    }

    /// Submits work that alone would be done at `done_ns`; its place in the order.
    pub(crate) fn submit(&mut self, index: u32, done_ns: u64) -> Point {
        let stream = &mut self.all[index as usize];
        stream.submitted += 1;
        stream.ready_ns = stream.ready_ns.max(done_ns);
        self.busy_until_ns = self.busy_until_ns.max(stream.ready_ns);
        let point = Point { stream: index, number: stream.submitted };
        stream.before.learn(point);
        point
    }

    /// Makes the stream's later work come after what is done at `done_ns` and known in `after`.
    pub(crate) fn wait(&mut self, index: u32, done_ns: u64, after: &VectorClock) {
        let stream = &mut self.all[index as usize];
        stream.ready_ns = stream.ready_ns.max(done_ns);
        stream.before.join(after);
    }

    /// Notes that the host knows all work submitted so far to be done.
    pub(crate) fn all_over(&mut self) {
        for (index, stream) in self.all.iter().enumerate() {
            self.host.learn(Point { stream: index as u32, number: stream.submitted });
        }
    }

    /// Whether what the stream submits next comes after the point.
    pub(crate) fn ordered(&self, point: Point, next_on: u32) -> bool {
        self.all[next_on as usize].before.covers(point) || self.host.covers(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_never_done_before_earlier_work() {
        let mut streams = Streams::new(None);
        let a = streams.find(StreamId(5)).unwrap();
        streams.submit(a, 100);
        streams.submit(a, 40);
        assert_eq!(streams.get(a).ready_ns, 100);
        let b = streams.find(StreamId(6)).unwrap();
        streams.wait(b, 70, &VectorClock::default());
        streams.submit(b, 10);
        assert_eq!(streams.get(b).ready_ns, 70);
        assert_eq!(streams.busy_until_ns, 100);
    }

    #[test]
    fn fixed_streams_are_the_named_ones_and_the_default_one() {
        let mut streams = Streams::new(Some(&[StreamId(9)]));
        assert!(streams.find(StreamId(0)).is_some() && streams.find(StreamId(9)).is_some());
        assert_eq!(streams.find(StreamId(8)), None);
    }
}
