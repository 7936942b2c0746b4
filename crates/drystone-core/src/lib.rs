//! The Drystone allocator: blocks, bins, streams, pools and limits over an abstract device driver.
#![forbid(unsafe_code)]

pub mod config;
pub mod driver;

pub use driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, StreamId,
};
