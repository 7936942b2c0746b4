//! Work for a device beside the allocator's needs: streams, fills, copies, kernels, captures. For
//! tests and for replaying traces on a real device.
//!
//! Fills and copies take an address range that lies within one live segment of this driver, or
//! within mappings that follow one another and that the device was given access to, and are refused
//! elsewhere: that is what makes them safe. For mappings `Driver::unmap` says what comes later:
//! work must be done before they go.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;

use cudarc::driver::sys::CUdevice_attribute;
use drystone_core::{DeviceId, StreamId};
use parking_lot::MutexGuard;

use crate::driver::{CudaDriver, DeviceState};
use crate::error::CudaError;
use crate::ffi::{
    CaptureMode, Graph, GraphExec, Kernel, LaunchShape, Mapping, Memory, Module, Segment, Stream,
};
use crate::spans::Spans;

/// A device's compute capability, as 9.0 of an H100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the devices are.
impl CudaDriver {
    /// The newest CUDA version that the installed driver supports, as (major, minor): (13, 0).
    pub fn cuda_version(&self) -> Result<(u32, u32), CudaError> {
        let version = self.state(DeviceId(0))?.device.driver_version()?.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }

    /// The device's name, as "NVIDIA H100 80GB HBM3".
    pub fn device_name(&self, device: DeviceId) -> Result<String, CudaError> {
        self.state(device)?.device.name()
    }

    /// The device's compute capability.
    pub fn compute_capability(&self, device: DeviceId) -> Result<ComputeCapability, CudaError> {
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = self.state(device)?.device;
        let number = |attribute| Ok(device.attribute(attribute)?.unsigned_abs());
        Ok(ComputeCapability { major: number(MAJOR)?, minor: number(MINOR)? })
    }
}

/// Streams.
impl CudaDriver {
    /// Makes a stream that does not wait for the default stream.
    pub fn create_stream(&self, device: DeviceId) -> Result<StreamId, CudaError> {
        let state = self.state(device)?;
        let stream = Stream::create(state.context()?)?;
        Ok(StreamId(state.streams.insert(stream.id(), stream)))
    }

    /// Destroys a stream from [`CudaDriver::create_stream`], without waiting for its work.
    ///
    /// Errors: [`CudaError::InvalidValue`] for any other stream, or one that another thread is in
    /// a call on.
    pub fn destroy_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), CudaError> {
        let state = self.state(device)?;
        state.streams.take(stream.0)?.destroy().map_err(|(kept, error)| {
            state.streams.insert(stream.0, kept);
            error
        })
    }

    /// Blocks the calling thread until all work submitted to the stream is done.
    pub fn synchronize_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), CudaError> {
        self.stream(self.state(device)?, stream)?.synchronize()
    }
}

/// Fills and copies, within one live segment or within mappings.
impl CudaDriver {
    /// Sets `bytes` bytes from `address` on to `value`, in the stream's order; does not wait.
    ///
    /// Errors: [`CudaError::InvalidValue`] where the range is not within live memory.
    pub fn fill_u8(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        value: u8,
        stream: StreamId,
    ) -> Result<(), CudaError> {
        let state = self.state(device)?;
        let stream = self.stream(state, stream)?;
        state.live().memory(address, bytes)?.fill_u8(value, &stream)
    }

    /// Sets the 4-byte words of `bytes` bytes from `address` on to `value`, in the stream's order;
    /// does not wait.
    ///
    /// Errors: [`CudaError::InvalidValue`] where the range is not within live memory, or
    /// `address` or `bytes` is no multiple of 4.
    pub fn fill_u32(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        value: u32,
        stream: StreamId,
    ) -> Result<(), CudaError> {
        let state = self.state(device)?;
        let stream = self.stream(state, stream)?;
        state.live().memory(address, bytes)?.fill_u32(value, &stream)
    }

    /// Copies host bytes to the device; all of them are there when it returns. Does not wait for
    /// work on streams from [`CudaDriver::create_stream`]: synchronize those that use the range.
    ///
    /// Errors: [`CudaError::InvalidValue`] where the range is not within live memory.
    pub fn copy_to_device(
        &self,
        device: DeviceId,
        address: u64,
        source: &[u8],
    ) -> Result<(), CudaError> {
        let live = self.state(device)?.live();
        live.memory(address, source.len() as u64)?.copy_from_host(source)
    }

    /// Copies bytes of the device to the host. Waits for streams no more than
    /// [`CudaDriver::copy_to_device`]: synchronize those that write the range.
    ///
    /// Errors: [`CudaError::InvalidValue`] where the range is not within live memory.
    pub fn copy_to_host(
        &self,
        device: DeviceId,
        address: u64,
        target: &mut [u8],
    ) -> Result<(), CudaError> {
        let live = self.state(device)?.live();
        live.memory(address, target.len() as u64)?.copy_to_host(target)
    }
}

/// The segments and mappings of a device, none of which goes while this value lives.
pub(crate) struct Live<'a> {
    segments: MutexGuard<'a, BTreeMap<u64, Segment>>,
    mappings: MutexGuard<'a, Spans<Mapping>>,
}

impl DeviceState {
    pub(crate) fn live(&self) -> Live<'_> {
        Live { segments: self.segments.lock(), mappings: self.space.mappings.lock() }
    }
}

impl Live<'_> {
    /// The `bytes` bytes from `address` on, if they are live and the device may use them.
    pub(crate) fn memory(&self, address: u64, bytes: u64) -> Result<Memory<'_>, CudaError> {
        if let Some((_, segment)) = self.segments.range(..=address).next_back()
            && let Some(memory) = Memory::of_segment(segment, address, bytes)
        {
            return Ok(memory);
        }
        let mappings = self.mappings.across(address, bytes);
        mappings.and_then(|mappings| Memory::of_mappings(&mappings, address, bytes)).ok_or_else(
            || {
                CudaError::InvalidValue(format!(
                    "{bytes} bytes at {address:#x} are in no live memory of this device"
                ))
            },
        )
    }
}

/// Kernels.
impl CudaDriver {
    /// Compiles PTX text for the device and loads it.
    ///
    /// Errors: [`CudaError::InvalidValue`] for a text with a control character other than white
    /// space in it: the driver takes a text that begins like a cubin for one, and would follow the
    /// offsets in it out of bounds; [`CudaError::Call`]
    /// with codes such as 218 (`CUDA_ERROR_INVALID_PTX`).
    pub fn load_ptx(&self, device: DeviceId, ptx: &str) -> Result<Module, CudaError> {
        let refused = || CudaError::InvalidValue("PTX text with a control character".to_owned());
        if ptx.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) {
            return Err(refused());
        }
        let text = CString::new(ptx).map_err(|_| refused())?;
        Module::load_ptx(self.state(device)?.context()?, &text)
    }

    /// Loads a compiled image.
    ///
    /// # Safety
    ///
    /// `image` must be a whole cubin or fat binary, or PTX text with a zero byte at its end: the
    /// driver finds the end of the image in the image.
    pub unsafe fn load_image(&self, device: DeviceId, image: &[u8]) -> Result<Module, CudaError> {
        // SAFETY: the caller vouches for the image.
        unsafe { Module::load_image(self.state(device)?.context()?, image) }
    }

    /// Submits one run of the kernel to the stream; does not wait.
    ///
    /// # Safety
    ///
    /// * `arguments` must be as many as the kernel's parameters, none of which is wider than 8
    ///   bytes; a narrower one takes the low bytes.
    /// * All memory that the kernel reads or writes for them must allow it until it is done.
    /// * While the stream is captured this holds for every launch of the graph.
    pub unsafe fn launch(
        &self,
        device: DeviceId,
        stream: StreamId,
        kernel: &Kernel,
        shape: LaunchShape,
        arguments: &[u64],
    ) -> Result<(), CudaError> {
        let stream = self.stream(self.state(device)?, stream)?;
        // SAFETY: the caller vouches for the arguments and the kernel's accesses.
        unsafe { kernel.launch(&stream, shape, arguments) }
    }
}

/// Captures.
impl CudaDriver {
    /// Begins a capture: what is submitted to the stream from now on is recorded, not run.
    pub fn begin_capture(
        &self,
        device: DeviceId,
        stream: StreamId,
        mode: CaptureMode,
    ) -> Result<(), CudaError> {
        self.stream(self.state(device)?, stream)?.begin_capture(mode)
    }

    /// Ends the stream's capture; in modes other than relaxed, on the thread that began it.
    ///
    /// Errors: [`CudaError::Call`] with codes 900 to 908 where something spoilt the capture.
    pub fn end_capture(&self, device: DeviceId, stream: StreamId) -> Result<Graph, CudaError> {
        self.stream(self.state(device)?, stream)?.end_capture()
    }

    /// Submits the work of a graph to the stream; does not wait.
    ///
    /// # Safety
    ///
    /// All memory that the recorded work touches must allow it until it is done, and the
    /// [`Module`]s of its kernels must be loaded until then.
    pub unsafe fn launch_graph(
        &self,
        device: DeviceId,
        stream: StreamId,
        graph: &GraphExec,
    ) -> Result<(), CudaError> {
        let stream = self.stream(self.state(device)?, stream)?;
        // SAFETY: the caller vouches for what the work touches.
        unsafe { graph.launch(&stream) }
    }
}
