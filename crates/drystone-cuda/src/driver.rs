//! The CUDA device as the allocator's [`Driver`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use drystone_core::driver::StreamOrdered;
use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, EventId, HandleId, HandleKind,
    ShareId, StreamId,
};
use parking_lot::Mutex;

use crate::error::CudaError;
use crate::ffi::{Context, Device, Event, MemPool, Segment, Stream};
use crate::registry::Registry;
use crate::space::Space;

/// The CUDA devices of this process, through their primary contexts: what CUDA's runtime, cudarc
/// and PyTorch use too, so memory and streams are shared with them.
///
/// * A device's context is retained at the first call for the device, not before: a context takes
///   some hundred MB of device memory.
/// * A call makes the context current and the calling thread's capture mode relaxed, and puts back
///   both before it returns. So every call works while a stream is captured, but for those that
///   the contract excludes.
/// * A stream is accepted if it is 0 (the default stream) or 1 (`CU_STREAM_LEGACY`), or comes from
///   [`CudaDriver::create_stream`]; others only after [`CudaDriver::trust_streams`]. Never 2
///   (`CU_STREAM_PER_THREAD`), which names another stream in every thread: no order of work.
/// * Dropping the driver destroys the events and streams that it made, leaves segments, handles,
///   mappings and reserved addresses alone, and releases the contexts. Where nobody else holds a
///   context, CUDA then destroys it with all its segments; otherwise these stay until the process
///   ends, as handles that were not released always do. So nothing may use memory of this driver
///   after its drop. [`Module`](crate::Module)s and graphs keep the
///   context.
#[derive(Debug)]
pub struct CudaDriver {
    devices: Vec<DeviceState>,
    streams_trusted: AtomicBool,
    origin: Instant,
}

/// One device and what is alive on it.
#[derive(Debug)]
pub(crate) struct DeviceState {
    pub(crate) device: Device,
    context: OnceLock<Arc<Context>>,
    /// Held while the context is made, so that it is made once.
    opening: Mutex<()>,
    /// By first address. Locked during a call only by the calls of `work.rs`.
    pub(crate) segments: Mutex<BTreeMap<u64, Segment>>,
    pub(crate) space: Space,
    events: Registry<Event>,
    pub(crate) streams: Registry<Stream>,
    pub(crate) pools: Registry<MemPool>,
}

impl DeviceState {
    fn new(device: Device) -> DeviceState {
        DeviceState {
            device,
            context: OnceLock::new(),
            opening: Mutex::new(()),
            segments: Mutex::default(),
            space: Space::default(),
            events: Registry::new("event"),
            streams: Registry::new("stream"),
            pools: Registry::new("pool"),
        }
    }

    /// The primary context, made on the first call.
    pub(crate) fn context(&self) -> Result<&Arc<Context>, CudaError> {
        if let Some(context) = self.context.get() {
            return Ok(context);
        }
        let _opening = self.opening.lock();
        if let Some(context) = self.context.get() {
            return Ok(context);
        }
        let context = Arc::new(Context::retain(self.device)?);
        Ok(self.context.get_or_init(|| context))
    }

    fn segment_alloc(&self, bytes: u64) -> Result<u64, CudaError> {
        if bytes == 0 {
            return Err(CudaError::InvalidValue("a segment of 0 bytes".to_owned()));
        }
        let segment = Segment::alloc(self.context()?, bytes)?;
        let address = segment.address();
        self.segments.lock().insert(address, segment);
        Ok(address)
    }

    fn segment_free(&self, address: u64) -> Result<(), CudaError> {
        // Taken out first: once the driver has it back, another thread may get the same address.
        let taken = self.segments.lock().remove(&address);
        let segment = taken.ok_or_else(|| {
            CudaError::InvalidValue(format!("{address:#x} is no live segment of this device"))
        })?;
        segment.free().map_err(|(segment, error)| {
            self.segments.lock().insert(address, segment);
            error
        })
    }

    fn event_create(&self) -> Result<EventId, CudaError> {
        let event = Event::create(self.context()?)?;
        Ok(EventId(self.events.insert(event.id(), event)))
    }

    fn event_destroy(&self, event: EventId) -> Result<(), CudaError> {
        self.events.take(event.0)?.destroy().map_err(|(kept, error)| {
            self.events.insert(event.0, kept);
            error
        })
    }
}

impl CudaDriver {
    /// All devices that the CUDA driver shows, in its order.
    ///
    /// Works on any machine: without a driver or a device it is [`CudaError::NoDevice`], whose
    /// text begins with "no CUDA device: " and says why.
    pub fn new() -> Result<CudaDriver, CudaError> {
        Ok(Self::over(Device::all().map_err(CudaError::NoDevice)?))
    }

    /// Only some of the devices: `DeviceId(i)` is the driver's device `ordinals[i]`.
    ///
    /// Errors: as [`CudaDriver::new`]; [`CudaError::InvalidDevice`] for an ordinal that the driver
    /// does not have; [`CudaError::InvalidValue`] for an empty list or one that repeats itself.
    pub fn with_devices(ordinals: &[u32]) -> Result<CudaDriver, CudaError> {
        let all = Device::all().map_err(CudaError::NoDevice)?;
        let mut chosen = Vec::with_capacity(ordinals.len());
        for (index, &ordinal) in ordinals.iter().enumerate() {
            if ordinals[..index].contains(&ordinal) {
                let detail = format!("device {ordinal} is named twice");
                return Err(CudaError::InvalidValue(detail));
            }
            let count = all.len() as u32;
            let device = all.get(ordinal as usize);
            chosen.push(*device.ok_or(CudaError::InvalidDevice { device: ordinal, count })?);
        }
        if chosen.is_empty() {
            return Err(CudaError::InvalidValue("an empty list of devices".to_owned()));
        }
        Ok(Self::over(chosen))
    }

    fn over(devices: Vec<Device>) -> CudaDriver {
        CudaDriver {
            devices: devices.into_iter().map(DeviceState::new).collect(),
            streams_trusted: AtomicBool::new(false),
            origin: Instant::now(),
        }
    }

    /// Accepts from now on every [`StreamId`] as the handle of a live stream: for programs whose
    /// streams come from elsewhere (PyTorch, cudarc).
    ///
    /// # Safety
    ///
    /// Every `StreamId` given to this driver from now on must be 0, 1 or a `CUstream` that stays
    /// alive during the call: CUDA may crash on any other. An allocator over this driver names a
    /// stream again later, on its own: a stream that it was given must live until
    /// `Allocator::stream_ends` was told, or until the allocator is dropped.
    pub unsafe fn trust_streams(&self) {
        self.streams_trusted.store(true, Ordering::Release);
    }

    pub(crate) fn state(&self, device: DeviceId) -> Result<&DeviceState, CudaError> {
        self.devices
            .get(device.0 as usize)
            .ok_or(CudaError::InvalidDevice { device: device.0, count: self.device_count() })
    }

    /// The stream of that handle, kept alive by the result where it is this driver's.
    pub(crate) fn stream(
        &self,
        state: &DeviceState,
        stream: StreamId,
    ) -> Result<Arc<Stream>, CudaError> {
        if let Some(known) = state.streams.get(stream.0) {
            return Ok(known);
        }
        if stream.0 == Stream::PER_THREAD {
            let detail = "CU_STREAM_PER_THREAD is a different stream in every thread; give the \
                          allocator a stream of its own"
                .into();
            return Err(CudaError::InvalidValue(detail));
        }
        let context = state.context()?;
        if let Some(standard) = Stream::standard(context, stream.0) {
            return Ok(Arc::new(standard));
        }
        if self.streams_trusted.load(Ordering::Acquire) {
            // SAFETY: the caller of `trust_streams` vouched for it.
            return Ok(Arc::new(unsafe { Stream::foreign(context, stream.0) }));
        }
        state.streams.require(stream.0)
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), CudaError> {
        let state = self.state(device)?;
        state.events.require(event.0)?.record(&*self.stream(state, stream)?)
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), CudaError> {
        let state = self.state(device)?;
        state.events.require(event.0)?.hold_stream(&*self.stream(state, stream)?)
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), CudaError> {
        let accessors = accessors.iter().map(|&accessor| Ok(self.state(accessor)?.device));
        self.state(device)?.set_access(address, bytes, &accessors.collect::<Result<Vec<_>, _>>()?)
    }
}

impl Driver for CudaDriver {
    fn device_count(&self) -> u32 {
        self.devices.len() as u32
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.state(device)
            .and_then(|state| state.context()?.memory())
            .map(|(free, total)| DeviceMemory { free, total })
            .map_err(|error| error.during(DriverCall::DeviceMemory))
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.state(device)
            .and_then(|state| state.segment_alloc(bytes))
            .map_err(|error| error.during(DriverCall::SegmentAlloc))
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.segment_free(address))
            .map_err(|error| error.during(DriverCall::SegmentFree))
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.state(device)
            .and_then(DeviceState::event_create)
            .map_err(|error| error.during(DriverCall::EventCreate))
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.event_destroy(event))
            .map_err(|error| error.during(DriverCall::EventDestroy))
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.event_record(device, event, stream)
            .map_err(|error| error.during(DriverCall::EventRecord))
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.state(device)
            .and_then(DeviceState::page_bytes)
            .map_err(|error| error.during(DriverCall::PageBytes))
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.state(device)
            .and_then(|state| state.address_reserve(bytes))
            .map_err(|error| error.during(DriverCall::AddressReserve))
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.address_free(address, bytes))
            .map_err(|error| error.during(DriverCall::AddressFree))
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.state(device)
            .and_then(|state| state.handle_create(bytes, kind))
            .map_err(|error| error.during(DriverCall::HandleCreate))
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.handle_release(handle))
            .map_err(|error| error.during(DriverCall::HandleRelease))
    }

    /// The file descriptor is new with every call, and the caller's to pass on and to close: while
    /// it is open it may keep the memory from being free.
    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.state(device)
            .and_then(|state| state.handle_export(handle))
            .map_err(|error| error.during(DriverCall::HandleExport))
    }

    /// The file descriptor is one of this process and stays the caller's, who may close it after
    /// the call. Other `bytes` than the memory has are refused.
    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.state(device)
            .and_then(|state| state.handle_import(share, bytes))
            .map_err(|error| error.during(DriverCall::HandleImport))
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.map(address, handle))
            .map_err(|error| error.during(DriverCall::Map))
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.set_access(device, address, bytes, accessors)
            .map_err(|error| error.during(DriverCall::SetAccess))
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.unmap(address, bytes))
            .map_err(|error| error.during(DriverCall::Unmap))
    }

    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| self.stream(state, stream).map(|_| ()))
            .map_err(|error| error.during(DriverCall::EventRecord))
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.state(device)
            .and_then(|state| state.events.require(event.0)?.query())
            .map_err(|error| error.during(DriverCall::EventQuery))
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.events.require(event.0)?.synchronize())
            .map_err(|error| error.during(DriverCall::EventSynchronize))
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.stream_wait_event(device, stream, event)
            .map_err(|error| error.during(DriverCall::StreamWaitEvent))
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.state(device)
            .and_then(|state| state.context()?.synchronize())
            .map_err(|error| error.during(DriverCall::DeviceSynchronize))
    }

    fn stream_ordered(&self) -> Result<&dyn StreamOrdered, DriverError> {
        Ok(self)
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}
