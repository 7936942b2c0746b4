//! What several policies are made of: memory and events that give themselves back, lists of free
//! memory, options read from text.

mod by_stream;
mod chunks;
mod devices;
mod errors;
mod event;
mod free_list;
mod mapped;
mod options;
mod segments;
mod stream_lists;

pub(super) use by_stream::ByStream;
pub(super) use chunks::{ChunkId, Chunks};
pub(super) use devices::Devices;
pub(super) use errors::{no_block, refusal};
pub(super) use event::Event;
pub(super) use free_list::{FreeList, Span};
pub(super) use mapped::Mapped;
pub(super) use options::{Given, Share};
pub(super) use segments::Segments;
pub(super) use stream_lists::{Spans, StreamLists};
