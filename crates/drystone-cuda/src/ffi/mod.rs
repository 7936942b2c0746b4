//! The driver calls: the only place where this crate touches raw handles.
//!
//! Each type here owns one driver object and keeps the context that the object lives in, so that a
//! value of the type is proof that the handle is valid; the functions on it are safe for that
//! reason. What cannot be proved (a foreign stream, the memory a kernel touches) is an `unsafe fn`.
//! Handles are kept as `usize`: they are names for the driver, never dereferenced here, and so the
//! types may go from thread to thread, as the driver allows.
//!
//! | file | objects |
//! |---|---|
//! | `table` | the functions of the driver library |
//! | `context` | the device, its primary context, and the guard of a call |
//! | `segment` | device memory, taken whole |
//! | `handle` | physical memory without an address |
//! | `mapping` | addresses, and handles mapped there |
//! | `mem_pool` | the driver's own pools |
//! | `memory` | bytes of segments and mappings, to be filled and copied |
//! | `event` | events |
//! | `stream` | streams and captures |
//! | `graph` | captured graphs |
//! | `module` | kernels |

mod context;
mod event;
mod graph;
mod handle;
mod mapping;
mod mem_pool;
mod memory;
mod module;
mod segment;
mod stream;
mod table;

pub(crate) use context::{Context, Device};
pub(crate) use event::Event;
pub use graph::{Graph, GraphExec};
pub(crate) use handle::{Handle, page_bytes};
pub(crate) use mapping::{Addresses, Mapping};
pub(crate) use mem_pool::MemPool;
pub(crate) use memory::Memory;
pub use module::{Kernel, LaunchShape, Module};
pub(crate) use segment::Segment;
pub use stream::CaptureMode;
pub(crate) use stream::Stream;
