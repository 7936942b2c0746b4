//! What events cost.

use drystone_core::Driver;

use crate::bench::{Bench, Samples, State};
use crate::{Failure, MORE};

impl Bench<'_> {
    /// The event calls. In the busy state, records go behind work and waits are for work.
    pub(crate) fn events(&mut self, state: State) -> Result<(), Failure> {
        let (driver, device, quiet) = (self.driver, self.device, self.quiet);
        let count = MORE * self.samples;
        let done = driver.event_create(device)?;
        driver.event_record(device, done, quiet)?;
        driver.event_synchronize(device, done)?;
        self.plain("event_query_done", state, count, || driver.event_query(device, done))?;
        self.plain("event_synchronize", state, count, || driver.event_synchronize(device, done))?;
        self.create_and_destroy(state, count)?;
        match state {
            State::Idle => {
                let wait = || driver.stream_wait_event(device, quiet, done);
                self.plain("stream_wait_event", state, count, wait)?;
            }
            State::Busy => self.pending_event(count)?,
        }
        self.prepare(State::Idle)?;
        Ok(driver.event_destroy(device, done)?)
    }

    /// Makes an event, records it and destroys it.
    fn create_and_destroy(&mut self, state: State, count: usize) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let (mut recorded, mut destroyed) = (Samples::default(), Samples::default());
        let created = self.repeat(count, |bench, samples| {
            let event = bench.timed(state, samples, || driver.event_create(device))??;
            let stream = match state {
                State::Idle => bench.quiet,
                State::Busy => bench.load.last()?.0,
            };
            let record = || driver.event_record(device, event, stream);
            bench.timed(state, &mut recorded, record)??;
            bench.timed(state, &mut destroyed, || driver.event_destroy(device, event))??;
            Ok(())
        })?;
        self.rows_of("event_create", 0, state, created);
        self.rows_of("event_record", 0, state, recorded);
        self.rows_of("event_destroy", 0, state, destroyed);
        Ok(())
    }

    /// What can be asked of an event that is not done.
    fn pending_event(&mut self, count: usize) -> Result<(), Failure> {
        let (driver, device, quiet) = (self.driver, self.device, self.quiet);
        let mut waits = Samples::default();
        let queries = self.repeat(count, |bench, samples| {
            bench.prepare(State::Busy)?;
            let (_, event) = bench.load.last()?;
            bench.timed(State::Busy, samples, || driver.event_query(device, event))??;
            let wait = || driver.stream_wait_event(device, quiet, event);
            bench.timed(State::Busy, &mut waits, wait)??;
            Ok(())
        })?;
        self.rows_of("event_query_not_done", 0, State::Busy, queries);
        self.rows_of("stream_wait_event", 0, State::Busy, waits);
        Ok(())
    }
}
