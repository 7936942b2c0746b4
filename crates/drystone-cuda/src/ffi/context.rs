//! Devices, their primary contexts, and the guard that makes a context current for one call.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUstreamCaptureMode};

use super::table::{Api, call, check};
use crate::error::{CudaError, NoDevice};

/// Longest device name that is read, in bytes; NVIDIA's are below 64.
const NAME_BYTES: usize = 256;

/// One device of the driver.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    api: &'static Api,
    pub(super) raw: CUdevice,
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.raw == other.raw
    }
}

impl Device {
    /// Loads and initialises the driver and lists its devices, at least one, in the driver's order.
    pub(crate) fn all() -> Result<Vec<Device>, NoDevice> {
        let api = Api::get()?;
        // SAFETY: cuInit takes no pointer and may be called any number of times.
        started("cuInit", unsafe { (api.cuInit)(0) })?;
        let mut count: c_int = 0;
        // SAFETY: the driver writes one int to the address of a live one.
        started("cuDeviceGetCount", unsafe { (api.cuDeviceGetCount)(&mut count) })?;
        if count <= 0 {
            return Err(NoDevice::NoneVisible);
        }
        (0..count)
            .map(|ordinal| {
                let mut raw: CUdevice = 0;
                // SAFETY: the driver writes one CUdevice to the address of a live one.
                started("cuDeviceGet", unsafe { (api.cuDeviceGet)(&mut raw, ordinal) })?;
                Ok(Device { api, raw })
            })
            .collect()
    }

    /// The CUDA version that the driver supports: 1000 × major + 10 × minor.
    pub(crate) fn driver_version(&self) -> Result<c_int, CudaError> {
        let mut version: c_int = 0;
        // SAFETY: the driver writes one int to the address of a live one.
        unsafe { call!(self.api, cuDriverGetVersion(&mut version)) }?;
        Ok(version)
    }

    /// The device's name.
    pub(crate) fn name(&self) -> Result<String, CudaError> {
        let mut bytes = [0_u8; NAME_BYTES];
        let text = bytes.as_mut_ptr().cast::<c_char>();
        // SAFETY: the driver writes at most the given number of bytes, the array's length, and the
        // device came from cuDeviceGet.
        unsafe { call!(self.api, cuDeviceGetName(text, NAME_BYTES as c_int, self.raw)) }?;
        let name = CStr::from_bytes_until_nul(&bytes)
            .map_err(|_| CudaError::contract("cuDeviceGetName", "a name without an end"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// The value of an attribute.
    pub(crate) fn attribute(&self, attribute: CUdevice_attribute) -> Result<c_int, CudaError> {
        let mut value: c_int = 0;
        // SAFETY: the driver writes one int to the address of a live one, and the device came from
        // cuDeviceGet.
        unsafe { call!(self.api, cuDeviceGetAttribute(&mut value, attribute, self.raw)) }?;
        Ok(value)
    }

    /// Whether the device can use memory of the other one, or is the same.
    pub(super) fn reaches(&self, other: &Device) -> Result<bool, CudaError> {
        if self == other {
            return Ok(true);
        }
        let mut can: c_int = 0;
        // SAFETY: the driver writes one int to the address of a live one, and both devices came
        // from cuDeviceGet.
        unsafe { call!(self.api, cuDeviceCanAccessPeer(&mut can, self.raw, other.raw)) }?;
        Ok(can != 0)
    }
}

/// Turns the code of one of the first calls into the reason why there is no device.
fn started(function: &'static str, code: c_int) -> Result<(), NoDevice> {
    if code == 0 { Ok(()) } else { Err(NoDevice::from_code(function, code)) }
}

/// The primary context of a device, retained for as long as this value lives.
pub(crate) struct Context {
    pub(super) api: &'static Api,
    device: CUdevice,
    raw: usize,
}

impl Context {
    /// Retains the device's primary context; the first holder in the process creates it, which
    /// takes some hundred milliseconds and some hundred MB of device memory.
    pub(crate) fn retain(device: Device) -> Result<Context, CudaError> {
        let api = device.api;
        let _mode = RelaxedCapture::enter(api)?;
        let mut raw: CUcontext = ptr::null_mut();
        // SAFETY: the driver writes one handle to the address of a live one, and the device came
        // from cuDeviceGet.
        unsafe { call!(api, cuDevicePrimaryCtxRetain(&mut raw, device.raw)) }?;
        Ok(Context { api, device: device.raw, raw: raw as usize })
    }

    /// Makes this context current on the calling thread, and the thread's capture mode relaxed,
    /// until the guard is dropped.
    pub(super) fn enter(&self) -> Result<Entered, CudaError> {
        let context = CurrentContext::set(self.api, self.raw)?;
        let mode = RelaxedCapture::enter(self.api)?;
        Ok(Entered { _mode: mode, _context: context })
    }

    /// Waits until all work of the context is done.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        let _entered = self.enter()?;
        // SAFETY: the call has no argument, and a context is current.
        unsafe { call!(self.api, cuCtxSynchronize()) }
    }

    /// Free and total bytes of the device.
    pub(crate) fn memory(&self) -> Result<(u64, u64), CudaError> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: the driver writes two sizes to the addresses of live ones.
        unsafe { call!(self.api, cuMemGetInfo_v2(&mut free, &mut total)) }?;
        if total == 0 || free > total {
            let detail = format!("{free} bytes free of {total}");
            return Err(CudaError::contract("cuMemGetInfo_v2", detail));
        }
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Where another part of the process holds the context too, only a count goes down. A
        // failure leaves it retained, or the driver is shutting down with the process.
        // SAFETY: this value retained the device's primary context and releases it once; every
        // object that lives in the context holds this value, so none is left.
        let _ = unsafe { call!(self.api, cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.raw)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:#x} of device {})", self.raw, self.device)
    }
}

/// A call into a context: undone when dropped, the capture mode first, also when the call fails.
pub(super) struct Entered {
    _mode: RelaxedCapture,
    _context: CurrentContext,
}

/// Keeps a guard on its thread: what it undoes belongs to the thread.
type ThisThread = PhantomData<*const ()>;

/// The calling thread's current context, put back when dropped.
struct CurrentContext {
    api: &'static Api,
    /// The context to put back, 0 for none; `None` where nothing was changed.
    previous: Option<usize>,
    _thread: ThisThread,
}

impl CurrentContext {
    fn set(api: &'static Api, wanted: usize) -> Result<CurrentContext, CudaError> {
        let mut current: CUcontext = ptr::null_mut();
        // SAFETY: the driver writes one handle to the address of a live one.
        unsafe { call!(api, cuCtxGetCurrent(&mut current)) }?;
        if current as usize == wanted {
            return Ok(CurrentContext { api, previous: None, _thread: PhantomData });
        }
        // SAFETY: `wanted` is a primary context that its `Context` holds.
        unsafe { call!(api, cuCtxSetCurrent(wanted as CUcontext)) }?;
        Ok(CurrentContext { api, previous: Some(current as usize), _thread: PhantomData })
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // It fails only where another thread destroyed the caller's context during the call:
            // then there is nothing to go back to.
            // SAFETY: the handle is the one that was current on this thread before; 0 for none is
            // allowed and takes ours off the thread's stack again.
            let _ = unsafe { call!(self.api, cuCtxSetCurrent(previous as CUcontext)) };
        }
    }
}

/// The calling thread's capture mode set to relaxed, put back when dropped: calls such as
/// `cuMemAlloc` are refused, and spoil the capture, where a stream is captured in another mode.
struct RelaxedCapture {
    api: &'static Api,
    previous: u32,
    _thread: ThisThread,
}

impl RelaxedCapture {
    fn enter(api: &'static Api) -> Result<RelaxedCapture, CudaError> {
        let relaxed = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as u32;
        let previous = exchange_capture_mode(api, relaxed)?;
        Ok(RelaxedCapture { api, previous, _thread: PhantomData })
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        // It cannot fail for a mode that the driver itself gave, short of a driver that is gone.
        let _ = exchange_capture_mode(self.api, self.previous);
    }
}

/// Sets the calling thread's capture mode and gives the one before, as the integer it is in C.
fn exchange_capture_mode(api: &'static Api, mode: u32) -> Result<u32, CudaError> {
    let mut exchanged = mode;
    let address = (&raw mut exchanged).cast::<CUstreamCaptureMode>();
    // SAFETY: the driver reads and writes one enum, of the size of a u32, at the address of a live
    // u32; it is never read as the Rust enum.
    let code = unsafe { (api.cuThreadExchangeStreamCaptureMode)(address) };
    check("cuThreadExchangeStreamCaptureMode", code)?;
    Ok(exchanged)
}
