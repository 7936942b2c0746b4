//! Allocation traces for Drystone: the event model, readers and writers of CSV, PyTorch's snapshots, RMM's
//! logs and a compact format of our own.
//!
//! A [`Trace`] says what a program asked for: allocations and frees in order of time, with sizes,
//! streams and devices. It knows nothing of how memory was found; that is what a replay decides.
//!
//! ```no_run
//! let trace = drystone_trace::read_trace("run.pickle.xz", &drystone_trace::Limits::default())?;
//! println!("{}: {} events, peak {} B", trace.name, trace.events.len(), trace.peak_live_bytes());
//! # Ok::<(), drystone_trace::TraceError>(())
//! ```
//!
//! Words used here:
//!
//! * **block**: one allocation, from its [`Op::Alloc`] to its [`Op::FreeCompleted`].
//! * **ring**: the bounded history that torch keeps of a device; it forgets the oldest entries.
//! * **prelude**: the blocks that were live before a ring began, put back at the start of a trace.
//! * **pool**: memory that an allocator keeps apart, as that of a captured graph; what is not in such a
//!   private pool is in the default one.
//!
//! Input is never trusted: every length is checked before memory is taken for it, [`Limits`] bound
//! everything that input can make grow, nothing in a pickle is executed, and what makes no sense
//! is either a [`TraceError`] with its place or counted in [`Trace::dropped`].
#![forbid(unsafe_code)]

mod arena;
mod builder;
mod csv;
mod dropped;
mod error;
mod event;
mod form;
mod format;
mod input;
mod json;
mod limits;
mod native;
mod pickle;
mod read;
mod rmm;
mod run;
mod snapshot;

pub use csv::write_csv;
pub use dropped::{Dropped, Finding, Oddity};
pub use error::{Compression, NativeProblem, PickleProblem, Position, TraceError};
pub use event::{Event, MAX_DEVICES, MAX_SIZE, NO_BLOCK, Op, Trace};
pub use format::{Format, LeftOut};
pub use limits::{LimitKind, Limits};
pub use native::{Entry, NativeReader, NativeWriter, write_native};
pub use read::{
    read_run, read_run_bytes, read_run_from, read_snapshot, read_snapshot_bytes,
    read_snapshot_from, read_trace, read_trace_bytes, trace_name,
};
pub use rmm::read_rmm_logs;
pub use run::{OutOfMemory, Run};
pub use snapshot::{
    Action, BlockState, EntryPool, EntryPools, Frame, Segment, SegmentType, Snapshot,
    SnapshotBlock, StackId, Stacks, TraceEntry,
};
