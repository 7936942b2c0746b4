//! What a driver may offer beside the contract: a pool of its own, in the order of streams.

use super::{DeviceId, DriverError, StreamId};

/// A driver's own pool as it names it; valid on the device that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemPoolId(pub u64);

/// The driver's own allocator (on CUDA `cuMemAllocFromPoolAsync` and `cuMemFreeAsync`).
///
/// The allocator of this crate never uses it: it is here to be compared with. The rules common to
/// all functions of [`Driver`](super::Driver) hold. Errors of [`StreamOrdered::pool_free`] and
/// [`StreamOrdered::pool_destroy`] name the call `segment_free`, those of the others
/// `segment_alloc`: memory is taken and given back.
pub trait StreamOrdered {
    /// Makes a pool that holds at most `limit` bytes of the device (`u64::MAX`: all that there
    /// is), and keeps up to `keep` of those that are free when a stream or the device is waited
    /// for. Errors: `NotSupported` (the device has no such pools).
    fn pool_create(
        &self,
        device: DeviceId,
        limit: u64,
        keep: u64,
    ) -> Result<MemPoolId, DriverError>;

    /// Gives a pool back, of which all blocks were freed, with its memory. Errors: `InvalidValue`.
    fn pool_destroy(&self, device: DeviceId, pool: MemPoolId) -> Result<(), DriverError>;

    /// Takes `bytes` (> 0) for work submitted to the stream from now on. The address is never 0.
    /// Errors: `OutOfMemory`, `InvalidValue`.
    fn pool_alloc(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        bytes: u64,
        stream: StreamId,
    ) -> Result<u64, DriverError>;

    /// Gives a block back when the work submitted to the stream until now is done. Errors:
    /// `InvalidValue` (no live block of the pool).
    fn pool_free(
        &self,
        device: DeviceId,
        pool: MemPoolId,
        address: u64,
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Bytes that the pool holds of the device now. Errors: `InvalidValue`.
    fn pool_reserved(&self, device: DeviceId, pool: MemPoolId) -> Result<u64, DriverError>;
}
