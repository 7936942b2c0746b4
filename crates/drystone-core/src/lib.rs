//! The Drystone allocator: blocks, bins, streams, pools and limits over an abstract device driver.
//!
//! # The nouns
//!
//! * **Driver**: the contract with a device ([`Driver`]): memory, streams, events.
//! * **Segment**: memory from one driver allocation; it goes back whole.
//! * **Block**: bytes handed out, or free, inside a segment; 512 bytes or a multiple.
//! * **Bin**: the free blocks of one size, or of sizes less than 1% apart.
//! * **Heap**: the segments and blocks of one (device, pool, stream), behind one lock.
//! * **Pool**: memory kept apart: the default one, and private ones ([`PoolId`]).
//! * **Ticket**: a point in a stream's order, known to have passed once an event recorded after it
//!   is done.
//!
//! # The layers, each of which knows only those below it
//!
//! ```text
//! allocator   requests, the slow path, release, lending, pools, limits, reports
//! device      one device: its pools, limit, tickets, totals
//! pool        heaps by stream          registry  heaps by number
//! heap        segments and blocks under one lock
//! bins        free blocks by size      table     segments by address
//! block bitmap units ticket stats history meter callbacks policy
//! driver config error
//! ```
//!
//! This crate is arithmetic over addresses. It forbids `unsafe`, knows no CUDA, touches no device
//! memory, no file and no terminal, and never panics on what its callers give it.
#![forbid(unsafe_code)]

mod allocator;
mod bins;
mod bitmap;
mod block;
mod callbacks;
pub mod config;
mod device;
pub mod driver;
mod error;
mod heap;
mod history;
mod meter;
mod pages;
mod policy;
mod pool;
mod registry;
mod stats;
mod table;
mod ticket;
mod units;

pub use allocator::{
    Allocator, BlockInfo, BlockState, Defragment, Defragmented, MovableId, Move, MoveLimits,
    MovePass, NewError, Request, SegmentInfo,
};
pub use callbacks::{CallbackId, Pressure, Watermark};
pub use config::{Config, ConfigError};
pub use driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
pub use error::{AllocError, InvalidDevice, MoveError, OutOfMemory, PointerError, PoolError};
pub use history::{Action, HistoryEvent};
pub use pool::{PoolId, Purpose};
pub use stats::{DeviceStats, DriverStats, MemoryStats, Metric, Stat};
pub use units::{GRANULE, Kind, MAX_ALIGN, MAX_REQUEST, SMALL_LIMIT};
