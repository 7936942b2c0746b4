//! The errors of the allocator: what went wrong, with the figures and the advice to act on it.

use std::fmt;

use crate::allocator::MovableId;
use crate::config::format_bytes;
use crate::driver::{DeviceId, DriverError, StreamId};
use crate::pool::PoolId;
use crate::units::{MAX_ALIGN, MAX_REQUEST};

/// Why an allocation failed. The allocator's live blocks are as they were before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// Neither the cache nor the device has the memory, or a limit forbids to take it.
    #[error(transparent)]
    OutOfMemory(Box<OutOfMemory>),
    /// The request is larger than any device.
    #[error("cannot allocate {size} bytes: at most {} can be asked for", format_bytes(MAX_REQUEST))]
    TooLarge {
        /// The bytes asked for.
        size: u64,
    },
    /// The alignment is not a power of two, or too large.
    #[error(
        "cannot align to {align}: an alignment is a power of two of at most {}",
        format_bytes(MAX_ALIGN)
    )]
    BadAlignment {
        /// The alignment asked for, in bytes.
        align: u64,
    },
    /// Bytes at a certain address were asked for, and they are not free.
    #[error("{size} bytes at {address:#x} are not free in {pool}")]
    NotFree {
        /// The address asked for.
        address: u64,
        /// The bytes asked for.
        size: u64,
        /// The pool that was to have them.
        pool: PoolId,
    },
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] InvalidDevice),
    /// There is no room for another pair of pool and stream.
    #[error("too many streams and pools: {0} are in use")]
    TooManyHeaps(u32),
    /// The driver failed for another reason than memory.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// A device index that the driver does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {device}: the driver has {count}, numbered from 0")]
pub struct InvalidDevice {
    /// The index given.
    pub device: DeviceId,
    /// How many devices there are.
    pub count: u32,
}

/// Out of memory, with the figures that tell why. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The device asked.
    pub device: DeviceId,
    /// The stream that asked.
    pub stream: StreamId,
    /// The pool that was to serve the request.
    pub pool: PoolId,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes that a new segment would have needed.
    pub segment: u64,
    /// Bytes in blocks that are live or wait for a recorded stream.
    pub live: u64,
    /// Bytes that the allocator holds of the device, `live` among them.
    pub reserved: u64,
    /// Bytes that nobody holds; 0 if the driver could not say.
    pub device_free: u64,
    /// Bytes the device has; 0 if the driver could not say.
    pub device_total: u64,
    /// Of `live`, the bytes in blocks that lie in memory of the host, which is not reserved.
    pub spilled: u64,
    /// The most that this allocator may reserve, if a limit or fraction is set.
    pub limit: Option<u64>,
    /// The largest run of free bytes that the allocator holds, of any stream or pool.
    pub largest_free: u64,
    /// Whether a stream capture was underway, in which nothing can be given back or waited for.
    pub capturing: bool,
}

impl OutOfMemory {
    /// Bytes that the allocator holds and nobody uses.
    pub fn reserved_but_free(&self) -> u64 {
        self.reserved.saturating_sub(self.live.saturating_sub(self.spilled))
    }

    /// Bytes of the device that others hold: other processes, other libraries, the context.
    pub fn held_by_others(&self) -> u64 {
        self.device_total.saturating_sub(self.device_free).saturating_sub(self.reserved)
    }

    /// What would help, most likely first, in one sentence.
    pub fn advice(&self) -> String {
        let limit_binds = self.limit.is_some_and(|limit| self.reserved + self.segment > limit);
        if self.capturing {
            "a stream capture is underway: allocate before it, or give cached memory back before \
             it begins"
                .into()
        } else if self.largest_free >= self.asked {
            format!(
                "a free run of {} is held for another stream, pool or kind of block: set \
                 cross_stream:wait, or empty the cache",
                format_bytes(self.largest_free),
            )
        } else if self.reserved_but_free() >= self.asked {
            format!(
                "{} are held but in runs of at most {}: fragmentation; free or allocate the \
                 largest blocks first, or set max_split_size_mb",
                format_bytes(self.reserved_but_free()),
                format_bytes(self.largest_free),
            )
        } else if limit_binds && self.device_free >= self.segment {
            "the limit is lower than the device's memory: raise limit or memory_fraction".into()
        } else if self.held_by_others() >= self.asked {
            format!(
                "{} are held by others on this device: stop them or move to another device",
                format_bytes(self.held_by_others()),
            )
        } else {
            "the live blocks fill the device: make the batch or the sequence smaller, or free \
             blocks earlier"
                .into()
        }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out of memory on {}: asked for {} on {} in {}; live {}, reserved {}, of which \
             free {} with the largest run {}; device free {} of {}, held by others {}",
            self.device,
            format_bytes(self.asked),
            self.stream,
            self.pool,
            format_bytes(self.live),
            format_bytes(self.reserved),
            format_bytes(self.reserved_but_free()),
            format_bytes(self.largest_free),
            format_bytes(self.device_free),
            format_bytes(self.device_total),
            format_bytes(self.held_by_others()),
        )?;
        if self.spilled > 0 {
            write!(f, "; live in memory of the host {}", format_bytes(self.spilled))?;
        }
        if let Some(limit) = self.limit {
            write!(f, "; limit {}", format_bytes(limit))?;
        }
        write!(f, ". {}", capitalized(&self.advice()))
    }
}

impl std::error::Error for OutOfMemory {}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Why a pointer was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointerError {
    /// The address lies in no segment of this allocator.
    #[error("{pointer:#x} is not this allocator's: it lies in none of its segments")]
    Foreign {
        /// The address given.
        pointer: u64,
    },
    /// The address lies in free memory of the allocator: freed before, or never handed out.
    #[error("{pointer:#x} is not allocated: it was freed before, or never handed out")]
    DoubleFree {
        /// The address given.
        pointer: u64,
    },
    /// The address lies inside a live block.
    #[error("{pointer:#x} is inside the block at {block:#x}: give the block's own address")]
    Interior {
        /// The address given.
        pointer: u64,
        /// Where the block around it starts.
        block: u64,
    },
    /// The block may be moved, so it is known by its id.
    #[error("{pointer:#x} is a movable block: give it back by its id")]
    Movable {
        /// The address given.
        pointer: u64,
    },
    /// No pin is known by the address.
    #[error("{pointer:#x} is not pinned: unpin by the address that was pinned, as often as it was")]
    NotPinned {
        /// The address given.
        pointer: u64,
    },
    /// The block is of another device than the caller says.
    #[error("{pointer:#x} was allocated on {actual}, not on {given}")]
    WrongDevice {
        /// The address given.
        pointer: u64,
        /// The device of the block.
        actual: DeviceId,
        /// The device that the caller named.
        given: DeviceId,
    },
    /// The block is of another stream than the caller says.
    #[error("{pointer:#x} was allocated on {actual}, not on {given}")]
    WrongStream {
        /// The address given.
        pointer: u64,
        /// The stream of the block.
        actual: StreamId,
        /// The stream that the caller named.
        given: StreamId,
    },
}

/// Why memory could not be shared with another device or process. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The address is not that of a live block, or nothing was imported there.
    #[error(transparent)]
    Pointer(#[from] PointerError),
    /// The block's memory was taken from the driver in a way that cannot be exported.
    #[error(
        "{pointer:#x} lies in memory that no other process can import: exporting was not allowed when \
         the memory was taken, or the driver cannot do it, or the backing is malloc"
    )]
    NotExportable {
        /// The address given.
        pointer: u64,
    },
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] InvalidDevice),
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Why a call about a movable block was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// No movable block has the id: it was given back.
    #[error("there is no {id}: it was given back")]
    Unknown {
        /// The id given.
        id: MovableId,
    },
    /// The pass has no open move of the block.
    #[error("the pass has no open move of {id}: it never had, or it was committed or abandoned")]
    NotPlanned {
        /// The id given.
        id: MovableId,
    },
}

/// Why a call about a private pool was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No pool of this name is known on the device.
    #[error("there is no {pool} on {device}: begin or retain it first")]
    Unknown {
        /// The device named.
        device: DeviceId,
        /// The pool named.
        pool: PoolId,
    },
    /// The pool was already begun and not ended.
    #[error("{pool} on {device} has begun already: end it first")]
    AlreadyBegun {
        /// The device named.
        device: DeviceId,
        /// The pool named.
        pool: PoolId,
    },
    /// The pool was not begun.
    #[error("{pool} on {device} has not begun: nothing to end")]
    NotBegun {
        /// The device named.
        device: DeviceId,
        /// The pool named.
        pool: PoolId,
    },
    /// The default pool cannot be begun, ended or released.
    #[error("the default pool cannot be begun, ended or released")]
    Default,
    /// The pool belongs to a captured graph, whose replays use its memory even where no block is
    /// live.
    #[error(
        "{pool} on {device} belongs to a captured graph: its memory stays until it is released"
    )]
    Captured {
        /// The device named.
        device: DeviceId,
        /// The pool named.
        pool: PoolId,
    },
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] InvalidDevice),
    /// The driver failed while memory was given back.
    #[error(transparent)]
    Driver(#[from] DriverError),
}
