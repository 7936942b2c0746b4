//! The driver's own pools: `cuMemAllocFromPoolAsync` and `cuMemFreeAsync`.

use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute, CUdeviceptr, CUmemAllocationHandleType, CUmemAllocationType,
    CUmemPool_attribute, CUmemPoolProps, CUmemoryPool, CUstream,
};
use parking_lot::Mutex;

use super::context::{Context, Device};
use super::handle::device_location;
use super::stream::Stream;
use super::table::call;
use crate::error::CudaError;

/// A pool of one device. Dropping it gives nothing back: only [`MemPool::destroy`] does.
#[derive(Debug)]
pub(crate) struct MemPool {
    context: Arc<Context>,
    raw: usize,
    /// The addresses that were handed out: CUDA may crash on others.
    live: Mutex<HashSet<u64>>,
}

impl MemPool {
    /// Makes a pool of at most `limit` bytes (`u64::MAX`: of any size) that keeps `keep` free ones.
    pub(crate) fn create(
        context: &Arc<Context>,
        device: Device,
        limit: u64,
        keep: u64,
    ) -> Result<MemPool, CudaError> {
        use CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED as SUPPORTED;
        if device.attribute(SUPPORTED)? == 0 {
            return Err(CudaError::NotSupported("the device has no memory pools".to_owned()));
        }
        let properties = CUmemPoolProps {
            allocType: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: device_location(device),
            win32SecurityAttributes: ptr::null_mut(),
            // 0 is the driver's own limit.
            maxSize: usize::try_from(limit).ok().filter(|&most| most < usize::MAX).unwrap_or(0),
            usage: 0,
            reserved: [0; 54],
        };
        let _entered = context.enter()?;
        let mut raw: CUmemoryPool = ptr::null_mut();
        // SAFETY: the driver reads live properties and writes one handle to the address of a live
        // one.
        unsafe { call!(context.api, cuMemPoolCreate(&mut raw, &properties)) }?;
        let live = Mutex::default();
        let pool = MemPool { context: context.clone(), raw: raw as usize, live };
        let mut keep = keep;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let value = ptr::from_mut(&mut keep).cast::<c_void>();
        // SAFETY: the pool is alive; the driver reads the 64 bits that this attribute has.
        let set = unsafe { call!(context.api, cuMemPoolSetAttribute(raw, threshold, value)) };
        match set {
            Ok(()) => Ok(pool),
            Err(error) => Err(pool.destroy().err().map_or(error, |(_, second)| second)),
        }
    }

    /// The handle as a number.
    pub(crate) fn id(&self) -> u64 {
        self.raw as u64
    }

    /// Takes memory for later work of the stream; `bytes` is above 0.
    pub(crate) fn alloc(&self, bytes: u64, stream: &Stream) -> Result<u64, CudaError> {
        let size = usize::try_from(bytes)
            .map_err(|_| CudaError::InvalidValue(format!("a block of {bytes} bytes")))?;
        let _entered = self.context.enter()?;
        let mut address: CUdeviceptr = 0;
        let (pool, stream) = (self.raw as CUmemoryPool, stream.raw() as CUstream);
        // SAFETY: the pool lives as long as this value, the stream is valid, and the driver writes
        // one address to the address of a live one.
        unsafe {
            call!(self.context.api, cuMemAllocFromPoolAsync(&mut address, size, pool, stream))
        }?;
        self.live.lock().insert(address);
        Ok(address)
    }

    /// Gives memory back after the work that the stream has now.
    pub(crate) fn free(&self, address: u64, stream: &Stream) -> Result<(), CudaError> {
        // Taken out first: once the driver has it back, another thread may get the same address.
        if !self.live.lock().remove(&address) {
            let detail = format!("{address:#x} is no live block of this pool");
            return Err(CudaError::InvalidValue(detail));
        }
        let freed = self.context.enter().and_then(|_entered| {
            // SAFETY: the address came from this pool and was not given back, and the stream is
            // valid.
            unsafe { call!(self.context.api, cuMemFreeAsync(address, stream.raw() as CUstream)) }
        });
        freed.inspect_err(|_| {
            self.live.lock().insert(address);
        })
    }

    /// Bytes that it holds of the device.
    pub(crate) fn reserved(&self) -> Result<u64, CudaError> {
        let _entered = self.context.enter()?;
        let mut bytes = 0_u64;
        let current = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
        let (pool, value) = (self.raw as CUmemoryPool, ptr::from_mut(&mut bytes).cast::<c_void>());
        // SAFETY: the pool lives as long as this value; the driver writes the 64 bits that this
        // attribute has.
        unsafe { call!(self.context.api, cuMemPoolGetAttribute(pool, current, value)) }?;
        Ok(bytes)
    }

    /// Gives the pool and its memory back, when its blocks were; on an error it is still there.
    pub(crate) fn destroy(self) -> Result<(), (MemPool, CudaError)> {
        let live = self.live.lock().len();
        if live > 0 {
            let detail = format!("{live} blocks of the pool were not freed");
            return Err((self, CudaError::InvalidValue(detail)));
        }
        let destroyed = self.context.enter().and_then(|_entered| {
            // SAFETY: the handle came from cuMemPoolCreate, and this value, its only owner, goes.
            unsafe { call!(self.context.api, cuMemPoolDestroy(self.raw as CUmemoryPool)) }
        });
        destroyed.map_err(|error| (self, error))
    }
}
