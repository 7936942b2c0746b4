//! The work that keeps the device busy: streams with queues of fills.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use drystone_core::{DeviceId, Driver, DriverError, EventId, StreamId};
use drystone_cuda::CudaDriver;

use crate::{Failure, GIB, MIB};

/// Streams with work.
pub(crate) const LANES: usize = 4;
/// Each lane's own segment.
pub(crate) const LANE_BYTES: u64 = GIB;
/// What one piece of work fills: far more than any cache holds.
const FILL_BYTES: u64 = 256 * MIB;
/// How long the device should be busy with a full queue.
const QUEUE_TIME: Duration = Duration::from_millis(10);
/// Fewest and most fills in a lane's queue.
const DEPTHS: (usize, usize) = (4, 64);
/// How often to try to have work in flight before giving up.
const READY_TRIES: usize = 100;

/// A stream with work on a segment of its own.
struct Lane {
    stream: StreamId,
    segment: u64,
    /// One event behind each fill that was not seen done, oldest first.
    pending: VecDeque<EventId>,
    unused: Vec<EventId>,
    /// Fills so far.
    fills: u64,
}

impl Lane {
    fn new(driver: &CudaDriver, device: DeviceId) -> Result<Lane, Failure> {
        Ok(Lane {
            stream: driver.create_stream(device)?,
            segment: driver.segment_alloc(device, LANE_BYTES)?,
            pending: VecDeque::new(),
            unused: Vec::new(),
            fills: 0,
        })
    }

    /// Queues one more fill, on the next part of the segment.
    fn submit(&mut self, driver: &CudaDriver, device: DeviceId) -> Result<(), Failure> {
        let address = self.segment + self.fills * FILL_BYTES % LANE_BYTES;
        driver.fill_u32(device, address, FILL_BYTES, self.fills as u32, self.stream)?;
        self.fills += 1;
        let event = match self.unused.pop() {
            Some(event) => event,
            None => driver.event_create(device)?,
        };
        driver.event_record(device, event, self.stream)?;
        self.pending.push_back(event);
        Ok(())
    }

    /// Forgets the fills that are done.
    fn reap(&mut self, driver: &CudaDriver, device: DeviceId) -> Result<(), DriverError> {
        while let Some(&oldest) = self.pending.front() {
            if !driver.event_query(device, oldest)? {
                break;
            }
            self.unused.extend(self.pending.pop_front());
        }
        Ok(())
    }
}

/// The work that keeps the device busy.
pub(crate) struct Load<'d> {
    driver: &'d CudaDriver,
    device: DeviceId,
    lanes: Vec<Lane>,
    /// Fills in each lane's full queue.
    pub(crate) depth: usize,
    pub(crate) bytes_per_second: f64,
}

impl<'d> Load<'d> {
    /// Takes streams and segments, and finds out how many fills make a queue of [`QUEUE_TIME`].
    pub(crate) fn new(driver: &'d CudaDriver, device: DeviceId) -> Result<Load<'d>, Failure> {
        let lanes = (0..LANES).map(|_| Lane::new(driver, device)).collect::<Result<_, _>>()?;
        let mut load = Load { driver, device, lanes, depth: DEPTHS.0, bytes_per_second: 0.0 };
        // The first time takes longer.
        load.drain()?;
        let round = load.drain()?.as_secs_f64() / load.depth as f64;
        load.bytes_per_second = (LANES as u64 * FILL_BYTES) as f64 / round;
        let depth = (QUEUE_TIME.as_secs_f64() / round).ceil() as usize;
        load.depth = depth.clamp(DEPTHS.0, DEPTHS.1);
        Ok(load)
    }

    /// Fills the queues and waits for them; gives the time.
    fn drain(&mut self) -> Result<Duration, Failure> {
        self.reap()?;
        let begin = Instant::now();
        self.fill_up()?;
        self.driver.device_synchronize(self.device)?;
        Ok(begin.elapsed())
    }

    fn reap(&mut self) -> Result<(), DriverError> {
        self.lanes.iter_mut().try_for_each(|lane| lane.reap(self.driver, self.device))
    }

    /// Fills all queues, in turns.
    fn fill_up(&mut self) -> Result<(), Failure> {
        for length in 1..=self.depth {
            for lane in self.lanes.iter_mut().filter(|lane| lane.pending.len() < length) {
                lane.submit(self.driver, self.device)?;
            }
        }
        Ok(())
    }

    /// Whether every lane has work in flight: if so, it has had ever since its last fill was
    /// queued.
    pub(crate) fn in_flight(&self) -> Result<bool, DriverError> {
        for lane in &self.lanes {
            match lane.pending.back() {
                Some(&last) if !self.driver.event_query(self.device, last)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Returns with full queues and the device at work on them.
    pub(crate) fn ready(&mut self) -> Result<(), Failure> {
        for _ in 0..READY_TRIES {
            self.reap()?;
            let was_idle = self.lanes.iter().any(|lane| lane.pending.is_empty());
            self.fill_up()?;
            if was_idle {
                for &first in self.lanes.iter().filter_map(|lane| lane.pending.front()) {
                    self.driver.event_synchronize(self.device, first)?;
                }
                self.reap()?;
                self.fill_up()?;
            }
            if self.in_flight()? {
                return Ok(());
            }
        }
        Err("the device finishes its work faster than more can be queued".into())
    }

    /// A stream at work, and the event at the end of its queue.
    pub(crate) fn last(&self) -> Result<(StreamId, EventId), Failure> {
        self.lanes
            .first()
            .and_then(|lane| Some((lane.stream, *lane.pending.back()?)))
            .ok_or_else(|| "no work is queued".into())
    }
}
