//! An event of a driver that destroys itself.

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, EventId, StreamId};

/// A point in the order of a stream, once it is recorded.
pub(in crate::policy) struct Event {
    driver: Arc<dyn Driver>,
    device: DeviceId,
    id: EventId,
}

impl Event {
    /// Makes one that was never recorded: it counts as done.
    pub(in crate::policy) fn new(
        driver: &Arc<dyn Driver>,
        device: DeviceId,
    ) -> Result<Self, DriverError> {
        let id = driver.event_create(device)?;
        Ok(Event { driver: Arc::clone(driver), device, id })
    }

    /// Moves it to the present end of the stream's order.
    pub(in crate::policy) fn record(&self, stream: StreamId) -> Result<(), DriverError> {
        self.driver.event_record(self.device, self.id, stream)
    }

    /// Whether the stream has passed it.
    pub(in crate::policy) fn is_done(&self) -> Result<bool, DriverError> {
        self.driver.event_query(self.device, self.id)
    }

    /// Makes the stream wait for it, on the device.
    pub(in crate::policy) fn hold(&self, stream: StreamId) -> Result<(), DriverError> {
        self.driver.stream_wait_event(self.device, stream, self.id)
    }

    /// Waits for it on the host.
    pub(in crate::policy) fn wait(&self) -> Result<(), DriverError> {
        self.driver.event_synchronize(self.device, self.id)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // Only a lost device refuses, and then there is nothing left to destroy.
        let _ = self.driver.event_destroy(self.device, self.id);
    }
}
