//! Free memory of one device, in a list for each stream, which events let other streams have: the
//! base of RMM's pools.
//!
//! After `rmm::mr::detail::stream_ordered_memory_resource` of RMM 26.06
//! (docs.rapids.ai/api/librmm). Each free records the event of its stream. A stream that finds
//! nothing in its own list takes a span of another one's and waits on the device for its event;
//! where no list has one, the lists of all others are merged into its own, one after the other,
//! until it does. After a merge the event is recorded again, since it stands for what others freed too.
//! RMM does not: a third stream that takes memory after that waits for too little. No placement
//! depends on it.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, StreamId};

use super::{Event, FreeList, Span};

/// A kind of list of free spans.
pub(in crate::policy) trait Spans: Default {
    /// Adds a span.
    fn put(&mut self, span: Span);

    /// Takes a span of at least `bytes` out, whole.
    fn take(&mut self, bytes: u64) -> Option<Span>;

    /// Adds all of another list.
    fn append(&mut self, other: Self);
}

impl Spans for FreeList {
    fn put(&mut self, span: Span) {
        self.insert(span);
    }

    fn take(&mut self, bytes: u64) -> Option<Span> {
        self.best_fit(bytes)
    }

    fn append(&mut self, other: FreeList) {
        FreeList::append(self, other);
    }
}

struct Stream<L> {
    id: StreamId,
    /// After the last free on the stream, and the last merge into its list.
    event: Event,
    free: L,
}

/// The lists of a device, in the order in which its streams were met.
pub(in crate::policy) struct StreamLists<L> {
    driver: Arc<dyn Driver>,
    device: DeviceId,
    streams: Vec<Stream<L>>,
    /// The stream that was asked for last, which is often the next.
    last: usize,
}

impl<L: Spans> StreamLists<L> {
    /// None yet.
    pub(in crate::policy) fn new(driver: &Arc<dyn Driver>, device: DeviceId) -> Self {
        StreamLists { driver: Arc::clone(driver), device, streams: Vec::new(), last: 0 }
    }

    /// Where the stream's list is. The list and its event are made at the first time.
    pub(in crate::policy) fn place(&mut self, stream: StreamId) -> Result<usize, DriverError> {
        if self.streams.get(self.last).is_none_or(|last| last.id != stream) {
            self.last = match self.streams.iter().position(|known| known.id == stream) {
                Some(place) => place,
                None => {
                    let event = Event::new(&self.driver, self.device)?;
                    self.streams.push(Stream { id: stream, event, free: L::default() });
                    self.streams.len() - 1
                }
            };
        }
        Ok(self.last)
    }

    /// Adds a span that nobody has used yet.
    pub(in crate::policy) fn put(&mut self, place: usize, span: Span) {
        self.streams[place].free.put(span);
    }

    /// Adds a span that work of the stream may still use.
    pub(in crate::policy) fn free(&mut self, place: usize, span: Span) -> Result<(), DriverError> {
        let stream = &mut self.streams[place];
        stream.event.record(stream.id)?;
        stream.free.put(span);
        Ok(())
    }

    /// A span of at least `bytes` for the stream, whole, and the list where its rest belongs.
    pub(in crate::policy) fn take(
        &mut self,
        place: usize,
        bytes: u64,
    ) -> Result<Option<(Span, usize)>, DriverError> {
        if let Some(span) = self.streams[place].free.take(bytes) {
            return Ok(Some((span, place)));
        }
        if let Some(found) = self.take_from_other(place, bytes)? {
            return Ok(Some(found));
        }
        for other in (0..self.streams.len()).filter(|&other| other != place) {
            self.merge(place, other)?;
            if let Some(span) = self.streams[place].free.take(bytes) {
                return Ok(Some((span, place)));
            }
        }
        Ok(None)
    }

    fn take_from_other(
        &mut self,
        place: usize,
        bytes: u64,
    ) -> Result<Option<(Span, usize)>, DriverError> {
        let stream = self.streams[place].id;
        for (index, other) in self.streams.iter_mut().enumerate() {
            if index == place {
                continue;
            }
            if let Some(span) = other.free.take(bytes) {
                if let Err(error) = other.event.hold(stream) {
                    other.free.put(span);
                    return Err(error);
                }
                return Ok(Some((span, index)));
            }
        }
        Ok(None)
    }

    fn merge(&mut self, place: usize, other: usize) -> Result<(), DriverError> {
        let stream = self.streams[place].id;
        self.streams[other].event.hold(stream)?;
        self.streams[place].event.record(stream)?;
        let free = std::mem::take(&mut self.streams[other].free);
        self.streams[place].free.append(free);
        Ok(())
    }
}
