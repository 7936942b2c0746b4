//! A buffer: typed device memory out of a pool, which cudarc takes as its own.
//!
//! Inside is a `CudaSlice` that is never dropped as one, since its drop would give the memory to the
//! driver. It carries the two events with which cudarc orders uses on several streams. Kernel launches
//! can be given such events in no other way: `LaunchArgs` has no public place for them.

use std::mem::ManuallyDrop;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice,
    LaunchArgs, PushKernelArg, SyncOnDrop,
};
use parking_lot::Mutex;

use crate::error::Error;
use crate::pool::{Pool, id};
use crate::streams::Known;

/// `len` elements of `T` in a [`Pool`]'s memory.
///
/// It can be given to cudarc's copies, fills and launches on any stream of its context. As with a
/// `CudaSlice`, cudarc's event tracking orders uses on different streams, unless it is switched off
/// for the context; then that is up to the program, and [`PoolBuf::record_stream`] says which other
/// streams still use the buffer when it is dropped.
///
/// Dropped, its memory is for the next buffer on the same stream at once, without a wait. It is for
/// other streams once this one has passed the drop. Uses on other streams come first: the buffer's
/// stream waits for them on the device.
#[derive(Debug)]
pub struct PoolBuf<T> {
    /// Never dropped, but taken apart.
    slice: ManuallyDrop<CudaSlice<T>>,
    address: u64,
    stream: Arc<Known<CudaStream>>,
    /// Other streams that were recorded: the allocator names them when the block is freed.
    recorded: Mutex<Vec<Arc<Known<CudaStream>>>>,
    pool: Pool,
}

impl<T> PoolBuf<T> {
    /// Takes a block over, also to free it where there is an error.
    ///
    /// # Safety
    ///
    /// `address` is a live block of `pool`, on that stream, of `len` elements and aligned for them,
    /// and nobody else frees it.
    pub(crate) unsafe fn own(
        pool: Pool,
        stream: Arc<Known<CudaStream>>,
        address: u64,
        len: usize,
    ) -> Result<PoolBuf<T>, Error> {
        // cudarc panics where it cannot make the events. An error that was kept from before is the
        // likeliest reason, so it is asked for first.
        let ready = stream.stream.context().bind_to_thread().map_err(Error::Cudarc);
        let slice = ready.and_then(|()| {
            let make = || {
                // SAFETY: the caller vouches for the block. The slice is never dropped, so that
                // the driver is never asked to free it.
                ManuallyDrop::new(unsafe { stream.stream.upgrade_device_ptr(address, len) })
            };
            catch_unwind(AssertUnwindSafe(make)).map_err(|_| Error::Events)
        });
        match slice {
            Ok(slice) => {
                let recorded = Mutex::default();
                Ok(PoolBuf { slice, address, stream, recorded, pool })
            }
            Err(error) => {
                let freed = pool.inner.allocator.free(address);
                debug_assert!(freed.is_ok(), "{freed:?}");
                Err(error)
            }
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The number of bytes of the elements.
    pub fn num_bytes(&self) -> usize {
        self.slice.num_bytes()
    }

    /// The address on the device, also for a buffer without elements. Uses of it are not followed.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The stream in whose order the buffer was made and will be freed.
    pub fn stream(&self) -> &Arc<CudaStream> {
        self.slice.stream()
    }

    /// The pool that the memory is from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The buffer as cudarc's own type, for functions that take no other.
    pub fn as_cuda_slice(&self) -> &CudaSlice<T> {
        &self.slice
    }

    /// All elements, as cudarc's view.
    pub fn as_view(&self) -> CudaView<'_, T> {
        self.slice.as_view()
    }

    /// All elements, as cudarc's view to write through.
    pub fn as_view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.slice.as_view_mut()
    }

    /// Some of the elements.
    ///
    /// # Panics
    ///
    /// Where the range is not within the buffer; [`PoolBuf::try_slice`] does not.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> CudaView<'_, T> {
        self.slice.slice(range)
    }

    /// Some of the elements; none where the range is not within the buffer.
    pub fn try_slice(&self, range: impl RangeBounds<usize>) -> Option<CudaView<'_, T>> {
        self.slice.try_slice(range)
    }

    /// Some of the elements, to write through.
    ///
    /// # Panics
    ///
    /// Where the range is not within the buffer; [`PoolBuf::try_slice_mut`] does not.
    pub fn slice_mut(&mut self, range: impl RangeBounds<usize>) -> CudaViewMut<'_, T> {
        self.slice.slice_mut(range)
    }

    /// Some of the elements, to write through; none where the range is not within the buffer.
    pub fn try_slice_mut(&mut self, range: impl RangeBounds<usize>) -> Option<CudaViewMut<'_, T>> {
        self.slice.try_slice_mut(range)
    }

    /// The elements before `mid` and those from it on; none where it is past the end.
    pub fn try_split_at(&self, mid: usize) -> Option<(CudaView<'_, T>, CudaView<'_, T>)> {
        self.slice.try_split_at(mid)
    }

    /// As [`PoolBuf::try_split_at`], to write through.
    pub fn try_split_at_mut(
        &mut self,
        mid: usize,
    ) -> Option<(CudaViewMut<'_, T>, CudaViewMut<'_, T>)> {
        self.slice.try_split_at_mut(mid)
    }

    /// Says that work on `stream` uses the buffer: after its drop the bytes are not reused before
    /// that stream has passed the drop. Only needed where cudarc cannot know: event tracking is
    /// off, or the address was handed to other code.
    pub fn record_stream(&self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        let known = self.pool.known(stream)?;
        if Arc::ptr_eq(&known, &self.stream) {
            return Ok(());
        }
        let recorded = self.pool.inner.allocator.record_stream(self.address, id(stream));
        debug_assert!(recorded.is_ok(), "{recorded:?}");
        let mut all = self.recorded.lock();
        if !all.iter().any(|other| Arc::ptr_eq(other, &known)) {
            all.push(known);
        }
        Ok(())
    }

    /// Notes a write on the buffer's own stream, for others to wait for, where cudarc follows uses.
    pub(crate) fn written_on_its_stream(&mut self) {
        if self.stream.stream.context().is_managing_stream_synchronization() {
            let (_, note) = self.slice.device_ptr_mut(&self.stream.stream);
            drop(note);
        }
    }
}

impl<T: DeviceRepr> PoolBuf<T> {
    /// A copy on the device, in the order of the buffer's stream.
    pub fn try_clone(&self) -> Result<PoolBuf<T>, Error> {
        let mut copy = self.pool.buffer(self.stream(), self.len(), 1)?;
        if self.num_bytes() > 0 {
            self.stream().memcpy_dtod(self, &mut copy)?;
        }
        Ok(copy)
    }
}

impl<T> Drop for PoolBuf<T> {
    fn drop(&mut self) {
        // SAFETY: nobody uses the slice after this, and it is taken once.
        let slice = unsafe { ManuallyDrop::take(&mut self.slice) };
        // Lets the buffer's stream wait for the uses on others.
        slice.leak();
        let context = self.stream.stream.context();
        if let Err(error) = context.check_err() {
            // Perhaps it could not wait. Then the uses are over once the device is idle; where not
            // even that can be found out, nobody gets the memory.
            let idle = context.synchronize();
            context.record_err(Err::<(), _>(error));
            if idle.is_err() {
                return;
            }
        }
        let freed = self.pool.inner.allocator.free(self.address);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

impl<T> DeviceSlice<T> for PoolBuf<T> {
    fn len(&self) -> usize {
        self.slice.len()
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.slice.stream()
    }
}

impl<T> DevicePtr<T> for PoolBuf<T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.slice.device_ptr(stream)
    }
}

impl<T> DevicePtrMut<T> for PoolBuf<T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.slice.device_ptr_mut(stream)
    }
}

// SAFETY: the kernel gets what it gets for a `CudaSlice`: the address of live memory, read where it
// lies in the slice, which is borrowed for as long as the arguments live.
unsafe impl<'a, 'b: 'a, T> PushKernelArg<&'b PoolBuf<T>> for LaunchArgs<'a> {
    #[inline(always)]
    fn arg(&mut self, arg: &'b PoolBuf<T>) -> &mut Self {
        self.arg(&*arg.slice)
    }
}

// SAFETY: as above.
unsafe impl<'a, 'b: 'a, T> PushKernelArg<&'b mut PoolBuf<T>> for LaunchArgs<'a> {
    #[inline(always)]
    fn arg(&mut self, arg: &'b mut PoolBuf<T>) -> &mut Self {
        self.arg(&mut *arg.slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only for types that may go to other threads and be used by several. It is so without
    /// a word of ours: `CudaSlice`, `CudaStream` and the allocator are, and the memory itself is the
    /// device's.
    fn for_all_threads<T: Send + Sync>() {}

    #[test]
    fn buffers_pools_and_errors_are_for_all_threads() {
        for_all_threads::<PoolBuf<f32>>();
        for_all_threads::<Pool>();
        for_all_threads::<crate::GraphMemory>();
        for_all_threads::<Error>();
    }
}
