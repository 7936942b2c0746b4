//! A pool: the allocator of one device, in cudarc's terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{CudaContext, CudaStream, DeviceRepr, HostSlice, ValidAsZeroBits};
use drystone_core::{
    AllocError, Allocator, CallbackId, Config, Defragment, Defragmented, DeviceId, DeviceStats,
    GRANULE, OutOfMemory, PoolError, PoolId, Pressure, Request, SegmentInfo, StreamId, Watermark,
};
use drystone_cuda::CudaDriver;

use crate::buf::PoolBuf;
use crate::error::Error;
use crate::streams::{Known, Streams};

/// The allocator's name of its only device.
pub(crate) const DEVICE: DeviceId = DeviceId(0);
/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: u64 = 2;

/// Cached memory of one device, out of which [`PoolBuf`]s come. A handle: clones are the same pool,
/// and it may be shared between threads.
///
/// Streams are kept alive by the pool: it takes one `Arc` of each stream that it meets. A stream of
/// which everyone else has let go is forgotten, and with that destroyed, when the pool has met some
/// more streams, or at [`Pool::end_dropped_streams`]. For streams of a framework (wrapped with
/// `CudaContext::wrap_borrowed_stream`) call [`Pool::end_stream`] before the framework destroys them.
///
/// When the last handle and the last buffer are gone, cached memory goes back to the device.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) inner: Arc<Inner>,
}

/// In the order in which they are to be dropped: the allocator still names streams.
pub(crate) struct Inner {
    pub(crate) allocator: Allocator<CudaDriver>,
    streams: Streams<CudaStream>,
    context: Arc<CudaContext>,
    /// The last number of a private pool that was given.
    private_pools: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("device", &self.context.ordinal()).finish_non_exhaustive()
    }
}

/// Making a pool.
impl Pool {
    /// A pool for the device of that ordinal, with the configuration of the environment
    /// (`DRYSTONE_CONF`, else `PYTORCH_ALLOC_CONF`). Works on any machine: without a GPU it is an
    /// error with [`Error::is_no_device`], where cudarc would panic.
    pub fn open(ordinal: u32) -> Result<Pool, Error> {
        CudaDriver::with_devices(&[ordinal])?;
        Pool::new(&CudaContext::new(ordinal as usize)?)
    }

    /// A pool in this context, with the configuration of the environment.
    ///
    /// Errors: [`Error::NotPrimary`] for a context that is not the device's primary one.
    pub fn new(context: &Arc<CudaContext>) -> Result<Pool, Error> {
        Pool::with_config(context, Config::from_env()?)
    }

    /// As [`Pool::new`], with this configuration.
    pub fn with_config(context: &Arc<CudaContext>, config: Config) -> Result<Pool, Error> {
        let ordinal = context.ordinal();
        if !context.is_primary() {
            return Err(Error::NotPrimary { ordinal });
        }
        let driver = CudaDriver::with_devices(&[ordinal as u32])?;
        // SAFETY: the driver is given streams by this crate alone, and only those in `streams`,
        // which live until the allocator was told of their end or is dropped; whoever takes the
        // allocator out by the unsafe `Pool::allocator` vouches for theirs.
        unsafe { driver.trust_streams() };
        let inner = Inner {
            allocator: Allocator::new(driver, config)?,
            streams: Streams::default(),
            context: Arc::clone(context),
            private_pools: AtomicU64::new(0),
        };
        Ok(Pool { inner: Arc::new(inner) })
    }

    /// The context that the pool's memory is in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.inner.context
    }
}

/// Memory.
impl Pool {
    /// A buffer of `len` elements, in the stream's order: it is freed in that order too. Its bytes
    /// are whatever was there before.
    ///
    /// # Safety
    ///
    /// What the elements are must not matter before they were written: not every bit pattern is a
    /// value of every type.
    pub unsafe fn alloc<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<PoolBuf<T>, Error> {
        // SAFETY: the caller vouches for it.
        unsafe { self.alloc_aligned(stream, len, 1) }
    }

    /// As [`Pool::alloc`], at a multiple of `align` bytes: a power of two, of at most
    /// [`MAX_ALIGN`](drystone_core::MAX_ALIGN). Without it, buffers are at multiples of 512, or of
    /// the type's alignment where that is more.
    ///
    /// # Safety
    ///
    /// As [`Pool::alloc`].
    pub unsafe fn alloc_aligned<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        align: u64,
    ) -> Result<PoolBuf<T>, Error> {
        let mut buffer = self.buffer(stream, len, align)?;
        // Another stream that uses it first has to wait: the bytes may still be in use by what was
        // submitted to this stream before they were freed.
        buffer.written_on_its_stream();
        Ok(buffer)
    }

    /// A buffer of `len` elements that are all zero, in the stream's order.
    pub fn alloc_zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<PoolBuf<T>, Error> {
        let mut buffer = self.buffer(stream, len, 1)?;
        if buffer.num_bytes() > 0 {
            stream.memset_zeros(&mut buffer)?;
        }
        Ok(buffer)
    }

    /// A buffer with a copy of elements of the host, in the stream's order.
    pub fn clone_htod<T: DeviceRepr, Source: HostSlice<T> + ?Sized>(
        &self,
        stream: &Arc<CudaStream>,
        source: &Source,
    ) -> Result<PoolBuf<T>, Error> {
        let mut buffer = self.buffer(stream, source.len(), 1)?;
        if buffer.num_bytes() > 0 {
            stream.memcpy_htod(source, &mut buffer)?;
        }
        Ok(buffer)
    }

    /// A buffer with whatever is in it. Also one of no bytes has memory, so that its address is one
    /// that CUDA accepts.
    pub(crate) fn buffer<T>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        align: u64,
    ) -> Result<PoolBuf<T>, Error> {
        let stream = self.known(stream)?;
        let too_large = || Error::Alloc(AllocError::TooLarge { size: u64::MAX });
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_large)?;
        let least = GRANULE.max(align_of::<T>() as u64);
        let request = Request {
            size: (bytes as u64).max(1),
            // One that is not a power of two is for the allocator to refuse.
            align: align.max(if align.is_power_of_two() { least } else { 0 }),
            device: DEVICE,
            stream: id(&stream.stream),
        };
        let allocator = &self.inner.allocator;
        let address = allocator.allocate_request(request);
        let address = address.map_err(|e| Error::of_device(e, self.inner.context.ordinal()))?;
        // SAFETY: the address is a live block of this pool, of at least `len` elements and aligned
        // for them, and nobody else knows it.
        unsafe { PoolBuf::own(self.clone(), stream, address, len) }
    }
}

/// Streams.
impl Pool {
    /// Says that a stream is about to be destroyed by its owner, as a framework's may be: the host
    /// waits for its work, and the pool forgets it. A stream that the pool never met is fine. Streams
    /// that cudarc made need no saying.
    ///
    /// Errors: [`Error::StreamInUse`] while buffers or graphs are live that were made or recorded
    /// on it; [`Error::Alloc`] in a capture.
    pub fn end_stream(&self, stream: &CudaStream) -> Result<(), Error> {
        let in_use = |users| Error::StreamInUse { users };
        self.inner.streams.end(id(stream).0, in_use, |stream| self.tell_end(stream))
    }

    /// Forgets the streams that only the pool still holds, and lets cudarc destroy them. The host
    /// waits for their work. Happens by itself when many streams were met.
    pub fn end_dropped_streams(&self) -> Result<(), Error> {
        self.inner.streams.end_dropped(|stream| self.tell_end(stream))
    }

    fn tell_end(&self, stream: u64) -> Result<(), Error> {
        let ended = self.inner.allocator.stream_ends(DEVICE, StreamId(stream));
        ended.map_err(|e| Error::of_device(e, self.inner.context.ordinal()))
    }

    /// The stream as the pool knows it, kept alive by the result.
    pub(crate) fn known(&self, stream: &Arc<CudaStream>) -> Result<Arc<Known<CudaStream>>, Error> {
        if stream.context() != self.context() {
            let (stream, pool) = (stream.context().ordinal(), self.context().ordinal());
            return Err(Error::WrongContext { stream, pool });
        }
        if id(stream).0 == PER_THREAD {
            return Err(Error::PerThreadStream);
        }
        let (known, many) = self.inner.streams.meet(id(stream).0, stream);
        if many {
            // In a capture none can end: then at the next new stream.
            let _ = self.end_dropped_streams();
        }
        Ok(known)
    }

    /// A name for a private pool that this pool has not used yet.
    pub(crate) fn private_pool(&self) -> PoolId {
        PoolId(self.inner.private_pools.fetch_add(1, Ordering::Relaxed) + 1, 0)
    }
}

/// Cached memory, limits and reports. Sizes are in bytes.
impl Pool {
    /// Gives everything that is cached and not in use back to the device: how much that was.
    pub fn empty_cache(&self) -> Result<u64, Error> {
        Ok(self.inner.allocator.empty_cache(DEVICE)?)
    }

    /// Brings what is free into order; see [`Allocator::defragment`].
    pub fn defragment(&self, what: Defragment) -> Result<Defragmented, Error> {
        Ok(self.inner.allocator.defragment(DEVICE, what)?)
    }

    /// Lets at most so much of the device be reserved from now on; none is no limit.
    pub fn set_limit(&self, bytes: Option<u64>) -> Result<(), Error> {
        Ok(self.inner.allocator.set_limit(DEVICE, bytes).map_err(PoolError::Device)?)
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Result<Option<u64>, Error> {
        Ok(self.inner.allocator.limit(DEVICE).map_err(PoolError::Device)?)
    }

    /// What the pool holds of the device.
    pub fn reserved_bytes(&self) -> Result<u64, Error> {
        Ok(self.inner.allocator.reserved_bytes(DEVICE).map_err(PoolError::Device)?)
    }

    /// The statistics.
    pub fn stats(&self) -> Result<DeviceStats, Error> {
        Ok(self.inner.allocator.stats(DEVICE).map_err(PoolError::Device)?)
    }

    /// All segments and arenas with their blocks.
    pub fn snapshot(&self) -> Vec<SegmentInfo> {
        self.inner.allocator.snapshot()
    }

    /// Registers a callback for when what is reserved passes a watermark on the way up; see
    /// [`Allocator::on_pressure`]. The device that it is told is the ordinal.
    pub fn on_pressure(
        &self,
        watermark: Watermark,
        call: impl Fn(&Pressure) + Send + Sync + 'static,
    ) -> Result<CallbackId, Error> {
        let device = DeviceId(self.inner.context.ordinal() as u32);
        let call = move |pressure: &Pressure| call(&Pressure { device, ..*pressure });
        let registered = self.inner.allocator.on_pressure(DEVICE, watermark, call);
        Ok(registered.map_err(PoolError::Device)?)
    }

    /// Registers a callback for when a request is about to fail; if it returns true the request is
    /// tried again. See [`Allocator::on_out_of_memory`]. The device that it is told is the ordinal.
    pub fn on_out_of_memory(
        &self,
        call: impl Fn(&OutOfMemory) -> bool + Send + Sync + 'static,
    ) -> CallbackId {
        let device = DeviceId(self.inner.context.ordinal() as u32);
        let call = move |figures: &OutOfMemory| call(&OutOfMemory { device, ..figures.clone() });
        self.inner.allocator.on_out_of_memory(call)
    }

    /// Forgets a callback; false if it is not known.
    pub fn remove_callback(&self, id: CallbackId) -> bool {
        self.inner.allocator.remove_callback(id)
    }

    /// The allocator itself, for what has no function here: pools, pins, movable blocks, history.
    /// Its only device is `DeviceId(0)`, whatever the ordinal.
    ///
    /// # Safety
    ///
    /// A [`StreamId`] given to it must be a stream of [`Pool::context`] that lives until
    /// `Allocator::stream_ends` was told of it or the pool is gone. Blocks of a [`PoolBuf`] must not
    /// be freed.
    pub unsafe fn allocator(&self) -> &Allocator<CudaDriver> {
        &self.inner.allocator
    }
}

/// The allocator's name of a stream.
pub(crate) fn id(stream: &CudaStream) -> StreamId {
    StreamId(stream.cu_stream() as u64)
}
