//! Private pools: memory kept apart for captured graphs and for users, by reference count.

use std::sync::Arc;

use super::Allocator;
use crate::device::{Device, Scope};
use crate::driver::{DeviceId, Driver, StreamId};
use crate::error::PoolError;
use crate::pool::{PoolId, Purpose};

impl<D: Driver> Allocator<D> {
    /// Lets requests on the streams that `filter` wants be served from a pool of their own, until
    /// [`Allocator::end_pool`]. The pool is made on first use and held once more; give the hold
    /// back with [`Allocator::release_pool`]. Where several begun pools want a stream, the one
    /// begun last serves it. The filter runs at every request while the pool is begun; it must
    /// not call the allocator.
    pub fn begin_pool(
        &self,
        device: DeviceId,
        pool: PoolId,
        purpose: Purpose,
        filter: impl Fn(StreamId) -> bool + Send + Sync + 'static,
    ) -> Result<(), PoolError> {
        let device = self.private(device, pool)?;
        let held = device.retain_pool(pool);
        let scope = Scope { pool: held, purpose, filter: Arc::new(filter) };
        if device.begin(scope) {
            return Ok(());
        }
        // The pool was there and held before, so this never drops the last hold.
        let _ = self.release_hold(device, pool);
        Err(PoolError::AlreadyBegun { device: device.id, pool })
    }

    /// Ends what [`Allocator::begin_pool`] began. The pool keeps its memory and its holds.
    pub fn end_pool(&self, device: DeviceId, pool: PoolId) -> Result<(), PoolError> {
        let device = self.private(device, pool)?;
        if !device.end(pool) {
            return Err(PoolError::NotBegun { device: device.id, pool });
        }
        // It may have been released before it ended.
        self.retire_released_pools(device);
        Ok(())
    }

    /// Holds a pool once more without beginning it, made if there is none.
    pub fn retain_pool(&self, device: DeviceId, pool: PoolId) -> Result<(), PoolError> {
        self.private(device, pool)?.retain_pool(pool);
        Ok(())
    }

    /// Gives one hold on a pool back. With the last one, what the pool caches is free for others
    /// and goes back to the device when that is asked for or memory is short; its live blocks stay
    /// valid.
    pub fn release_pool(&self, device: DeviceId, pool: PoolId) -> Result<(), PoolError> {
        let device = self.private(device, pool)?;
        self.release_hold(device, pool)?;
        self.retire_released_pools(device);
        Ok(())
    }

    /// Lets a pool that is held serve requests of others too, before they fail for lack of memory:
    /// from its free blocks, which go back to it. Not in a capture, and not from a pool that a captured
    /// graph holds.
    pub fn set_use_on_oom(
        &self,
        device: DeviceId,
        pool: PoolId,
        serves: bool,
    ) -> Result<(), PoolError> {
        let known = self.private(device, pool)?.pool(pool);
        let known = known.ok_or(PoolError::Unknown { device, pool })?;
        known.set_serves_on_oom(serves);
        Ok(())
    }

    /// Lets each block of a pool have memory of its own from now on: whole pages, or a whole segment.
    /// Snapshots show each as a segment.
    pub fn set_unsplit(&self, device: DeviceId, pool: PoolId) -> Result<(), PoolError> {
        let known = self.private(device, pool)?.pool(pool);
        known.ok_or(PoolError::Unknown { device, pool })?.set_unsplit();
        Ok(())
    }

    /// How often the pool is held; none if it is not known.
    pub fn pool_use_count(&self, device: DeviceId, pool: PoolId) -> Option<u32> {
        let pool = self.device(device).ok()?.pool(pool)?;
        Some(pool.holding.lock().uses)
    }

    fn release_hold(&self, device: &Device, pool: PoolId) -> Result<(), PoolError> {
        let unknown = PoolError::Unknown { device: device.id, pool };
        let Some(held) = device.pool(pool) else { return Err(unknown) };
        if device.release_hold(&held) { Ok(()) } else { Err(unknown) }
    }

    fn private(&self, device: DeviceId, pool: PoolId) -> Result<&Device, PoolError> {
        if pool == PoolId::DEFAULT {
            return Err(PoolError::Default);
        }
        Ok(self.device(device)?)
    }
}
