//! The Drystone allocator: blocks, pages, streams, pools and limits over an abstract device driver.
//!
//! # The nouns
//!
//! * **Driver**: the contract with a device ([`Driver`]): memory, streams, events.
//! * **Backing**: what stands behind blocks ([`config::Backing`]): pages in arenas, or segments.
//! * **Segment**: memory from one driver allocation; it goes back whole.
//! * **Handle**: physical memory of one or more pages ([`HandleId`]). It is mapped whole, at as many
//!   addresses as one likes.
//! * **Page**: 2 MiB of a handle.
//! * **Arena**: a range of addresses of one heap, much larger than what is mapped there; in the heap
//!   it stands where a segment does.
//! * **Home**: the one mapping through which a page is in use or free. It goes from one to another
//!   when the page is *re-homed*.
//! * **Ghost**: a mapping of a page elsewhere than at its home; also a mapping at which no page of its
//!   handle is at home.
//! * **Hole**: addresses of an arena where no page is at home.
//! * **Window**: a range of an arena that gets pages for a request, so that all of it is free.
//! * **Watermark**: the bytes up to which new memory is taken without regard to what is free: the
//!   peak of live bytes and a slack.
//! * **Stranded**: free, but of no use elsewhere, since a live byte keeps the handle; and of a handle:
//!   not in use, but refused by the driver when it was given back.
//! * **Block**: bytes handed out, or free, inside a segment or arena; 512 bytes or a multiple.
//! * **Pin**: a claim that the memory under a block stays as it is ([`Allocator::pin`]).
//! * **Movable block**: one that its owner copies elsewhere when a pass asks for it ([`MovePass`]).
//! * **Spilling**: putting large blocks into memory of the host once the device has no more.
//! * **Bin**: the free blocks of one size, or of sizes less than 1% apart.
//! * **Heap**: the segments, arenas and blocks of one (device, pool, stream), behind one lock.
//! * **Pool**: memory kept apart: the default one, and private ones ([`PoolId`]).
//! * **Ticket**: a point in a stream's order, known to have passed once an event recorded after it
//!   is done.
//! * **Stamp**: the number of the ticket that a stream has to pass.
//!
//! # The layers, each of which knows only those below it
//!
//! ```text
//! allocator   requests, the slow path, remapping, release, lending, pools, limits, reports
//! device      one device: its pools, limits, tickets, totals, pages
//! pages       handles, their mappings, and where each page is at home
//! pool        heaps by stream          registry  heaps by number
//! heap        segments, arenas and blocks under one lock
//! bins        free blocks by size      table     segments and arenas by address
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
    Allocator, BlockInfo, BlockState, Defragment, Defragmented, Exported, MovableId, Move,
    MoveLimits, MovePass, NewError, Request, SegmentInfo,
};
pub use callbacks::{CallbackId, Pressure, Watermark};
pub use config::{Config, ConfigError};
pub use driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
pub use error::{
    AllocError, InvalidDevice, MoveError, OutOfMemory, PointerError, PoolError, ShareError,
};
pub use history::{Action, HistoryEvent};
pub use pool::{PoolId, Purpose};
pub use stats::{DeviceStats, DriverStats, MemoryStats, Metric, Stat};
pub use units::{GRANULE, Kind, MAX_ALIGN, MAX_REQUEST, SMALL_LIMIT};
