//! Tickets: points in a stream's order, and whether the stream has passed them; lazy and batched.
//!
//! A free does not record an event. It takes a stamp: the number of the stream's *next* ticket.
//! Only when somebody needs to know whether the stamp has passed, an event is recorded; it covers
//! every stamp taken before. The number moves on *before* the event is recorded, so a stamp that
//! reads the old number was taken before the record and is covered by it:
//!
//! ```text
//! stream   work  free(stamp 5)  work  free(stamp 5)  | ticket 5 |  work  free(stamp 6) ...
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::driver::{DeviceId, Driver, DriverError, EventId, StreamId};

/// A point in a stream's order: the work submitted before the stamp was taken.
pub(crate) type Stamp = u64;

/// The tickets of one stream of one device.
pub(crate) struct Ticker {
    pub(crate) device: DeviceId,
    pub(crate) stream: StreamId,
    /// The number of the next ticket, from 1.
    next: AtomicU64,
    /// The highest ticket for which an event has been recorded.
    recorded: AtomicU64,
    /// The highest ticket that the stream is known to have passed.
    passed: AtomicU64,
    /// Recorded events that are not known to be done. Whoever asks the driver about one takes it
    /// out first, so that no lock is held during the call and no two threads own an event.
    outstanding: Mutex<Vec<(Stamp, EventId)>>,
    /// Whether the stream has ended: then nothing is submitted to it, and the driver may not know it
    /// any more. Changes under the lock of `outstanding`.
    ended: AtomicBool,
}

impl Ticker {
    fn new(device: DeviceId, stream: StreamId) -> Self {
        Ticker {
            device,
            stream,
            next: AtomicU64::new(1),
            recorded: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            outstanding: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        }
    }

    /// Says that the stream ends, all of whose work is done. False if it has ended already.
    pub(crate) fn end(&self) -> bool {
        let _lock = self.outstanding.lock();
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// Says that the stream, or another one of its name, is used again. False if it had not ended.
    pub(crate) fn begin(&self) -> bool {
        if !self.ended.load(Ordering::Acquire) {
            return false;
        }
        let _lock = self.outstanding.lock();
        self.ended.swap(false, Ordering::AcqRel)
    }

    /// If the stream has ended: takes the next ticket and notes it as passed, without the driver.
    fn pass_if_ended(&self) -> bool {
        if !self.ended.load(Ordering::Acquire) {
            return false;
        }
        // Stamps that are covered were taken before a new stream of this name was used: it begins
        // under the lock.
        let _lock = self.outstanding.lock();
        let ended = self.ended.load(Ordering::Acquire);
        if ended {
            let ticket = self.next.fetch_add(1, Ordering::AcqRel);
            self.recorded.fetch_max(ticket, Ordering::AcqRel);
            self.passed.fetch_max(ticket, Ordering::AcqRel);
        }
        ended
    }

    /// The present point in the stream's order.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        self.next.load(Ordering::Acquire)
    }

    /// Whether the stream is known to have passed the stamp. Asks nobody.
    #[inline]
    pub(crate) fn has_passed(&self, stamp: Stamp) -> bool {
        self.passed.load(Ordering::Acquire) >= stamp
    }

    /// The highest ticket that the stream is known to have passed.
    pub(crate) fn passed(&self) -> Stamp {
        self.passed.load(Ordering::Acquire)
    }

    /// Whether an event that covers the stamp has been recorded.
    pub(crate) fn is_recorded(&self, stamp: Stamp) -> bool {
        self.recorded.load(Ordering::Acquire) >= stamp
    }

    /// Sees to it that an event covers the stamp, so that polling can find it passed.
    pub(crate) fn request(
        &self,
        driver: &impl Driver,
        events: &EventStore,
        stamp: Stamp,
    ) -> Result<(), DriverError> {
        if self.is_recorded(stamp) {
            return Ok(());
        }
        self.record(driver, events, |_| Ok(()))
    }

    /// Makes `waiter` wait on the GPU for everything submitted to this stream so far.
    pub(crate) fn make_wait(
        &self,
        driver: &impl Driver,
        events: &EventStore,
        waiter: StreamId,
    ) -> Result<(), DriverError> {
        self.record(driver, events, |event| driver.stream_wait_event(self.device, waiter, event))
    }

    /// Records the next ticket and, while the event is still this thread's own, does `then`. On a
    /// stream that has ended there is nothing to record and nothing to wait for.
    fn record(
        &self,
        driver: &impl Driver,
        events: &EventStore,
        then: impl FnOnce(EventId) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        if self.pass_if_ended() {
            return Ok(());
        }
        let event = events.take(driver)?;
        let ticket = self.next.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = driver.event_record(self.device, event, self.stream) {
            // The stamps up to `ticket` stay uncovered until the next record, whose number is
            // higher than theirs.
            events.give(event);
            return Err(error);
        }
        let result = then(event);
        self.outstanding.lock().push((ticket, event));
        self.recorded.fetch_max(ticket, Ordering::AcqRel);
        result
    }

    /// Asks the driver how far the stream has come: oldest event first, until one is not done.
    pub(crate) fn poll(
        &self,
        driver: &impl Driver,
        events: &EventStore,
    ) -> Result<(), DriverError> {
        let mut mine = std::mem::take(&mut *self.outstanding.lock());
        mine.sort_unstable();
        let mut done = 0;
        let mut result = Ok(());
        for &(ticket, event) in &mine {
            match driver.event_query(self.device, event) {
                Ok(true) => self.mark(ticket, event, events),
                Ok(false) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            done += 1;
        }
        if done < mine.len() {
            self.outstanding.lock().extend(mine.drain(done..));
        }
        result
    }

    /// Blocks the calling thread until the stream has passed the stamp.
    pub(crate) fn wait(
        &self,
        driver: &impl Driver,
        events: &EventStore,
        stamp: Stamp,
    ) -> Result<(), DriverError> {
        loop {
            if self.has_passed(stamp) {
                return Ok(());
            }
            self.request(driver, events, stamp)?;
            let mine = {
                let mut outstanding = self.outstanding.lock();
                let least = (0..outstanding.len())
                    .filter(|&i| outstanding[i].0 >= stamp)
                    .min_by_key(|&i| outstanding[i].0);
                least.map(|i| outstanding.swap_remove(i))
            };
            let Some((ticket, event)) = mine else {
                // Another thread is asking about it at this moment.
                std::thread::yield_now();
                continue;
            };
            match driver.event_synchronize(self.device, event) {
                Ok(()) => self.mark(ticket, event, events),
                Err(error) => {
                    self.outstanding.lock().push((ticket, event));
                    return Err(error);
                }
            }
        }
    }

    /// Notes a ticket as passed and its event as free for other uses.
    fn mark(&self, ticket: Stamp, event: EventId, events: &EventStore) {
        self.passed.fetch_max(ticket, Ordering::AcqRel);
        events.give(event);
    }

    /// Gives the events of all outstanding tickets up, passed or not.
    fn abandon(&self, events: &EventStore) {
        for (_, event) in self.outstanding.lock().drain(..) {
            events.give(event);
        }
    }
}

/// The events of one device that are in no use now.
pub(crate) struct EventStore {
    device: DeviceId,
    spare: Mutex<Vec<EventId>>,
}

impl EventStore {
    fn take(&self, driver: &impl Driver) -> Result<EventId, DriverError> {
        let spare = self.spare.lock().pop();
        spare.map_or_else(|| driver.event_create(self.device), Ok)
    }

    fn give(&self, event: EventId) {
        self.spare.lock().push(event);
    }
}

/// The tickers and events of one device.
pub(crate) struct Tickers {
    device: DeviceId,
    by_stream: RwLock<HashMap<StreamId, Arc<Ticker>>>,
    pub(crate) events: EventStore,
}

impl Tickers {
    pub(crate) fn new(device: DeviceId) -> Self {
        Tickers {
            device,
            by_stream: RwLock::new(HashMap::new()),
            events: EventStore { device, spare: Mutex::new(Vec::new()) },
        }
    }

    /// The stream's ticker, made on first use and kept.
    pub(crate) fn of(&self, stream: StreamId) -> Arc<Ticker> {
        if let Some(ticker) = self.by_stream.read().get(&stream) {
            return Arc::clone(ticker);
        }
        let mut all = self.by_stream.write();
        Arc::clone(all.entry(stream).or_insert_with(|| Arc::new(Ticker::new(self.device, stream))))
    }

    /// Says that a stream is used: whether it had ended before.
    pub(crate) fn begin(&self, stream: StreamId) -> bool {
        self.by_stream.read().get(&stream).is_some_and(|ticker| ticker.begin())
    }

    /// Gives every event back to the driver, at the allocator's end.
    pub(crate) fn destroy_events(&self, driver: &impl Driver) -> Result<(), DriverError> {
        for ticker in self.by_stream.read().values() {
            ticker.abandon(&self.events);
        }
        let spare = std::mem::take(&mut *self.events.spare.lock());
        // One that cannot be destroyed does not keep the others.
        let destroyed = spare.into_iter().map(|event| driver.event_destroy(self.device, event));
        destroyed.fold(Ok(()), Result::and)
    }
}
