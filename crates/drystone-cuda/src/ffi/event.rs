//! Events without timing.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

use super::context::Context;
use super::stream::Stream;
use super::table::{call, check};
use crate::error::CudaError;

/// `CUDA_ERROR_NOT_READY`: what a query answers while work is pending; not a failure.
const NOT_READY: i32 = 600;

/// An event of one device, destroyed when dropped.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    raw: usize,
}

impl Event {
    /// Makes an event that has never been recorded.
    pub(crate) fn create(context: &Arc<Context>) -> Result<Event, CudaError> {
        let _entered = context.enter()?;
        let mut raw: CUevent = ptr::null_mut();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the driver writes one handle to the address of a live one.
        unsafe { call!(context.api, cuEventCreate(&mut raw, flags)) }?;
        Ok(Event { context: context.clone(), raw: raw as usize })
    }

    /// The handle as a number.
    pub(crate) fn id(&self) -> u64 {
        self.raw as u64
    }

    /// Records the event at the present end of the stream.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        stream.refuse_capture()?;
        let (event, stream) = (self.raw as CUevent, stream.raw() as CUstream);
        // SAFETY: the event lives as long as this value, and the stream is valid.
        unsafe { call!(self.context.api, cuEventRecord(event, stream)) }
    }

    /// Whether the last record is done.
    pub(crate) fn query(&self) -> Result<bool, CudaError> {
        let _entered = self.context.enter()?;
        // SAFETY: the event lives as long as this value.
        let code = unsafe { (self.context.api.cuEventQuery)(self.raw as CUevent) };
        if code == NOT_READY {
            return Ok(false);
        }
        check("cuEventQuery", code).map(|()| true)
    }

    /// Waits on the host until the last record is done.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        // SAFETY: the event lives as long as this value.
        unsafe { call!(self.context.api, cuEventSynchronize(self.raw as CUevent)) }
    }

    /// Makes later work of the stream wait for the last record.
    pub(crate) fn hold_stream(&self, stream: &Stream) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        stream.refuse_capture()?;
        let (event, stream) = (self.raw as CUevent, stream.raw() as CUstream);
        // SAFETY: the event lives as long as this value, and the stream is valid.
        unsafe { call!(self.context.api, cuStreamWaitEvent(stream, event, 0)) }
    }

    /// Destroys the event; on an error it is still there.
    pub(crate) fn destroy(mut self) -> Result<(), (Event, CudaError)> {
        match self.destroy_handle() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    /// Destroys the handle once.
    fn destroy_handle(&mut self) -> Result<(), CudaError> {
        if self.raw == 0 {
            return Ok(());
        }
        let _entered = self.context.enter()?;
        // SAFETY: the handle came from cuEventCreate and is set to 0 once it is destroyed, and no
        // other thread uses it, since the borrow is exclusive. It may be pending.
        unsafe { call!(self.context.api, cuEventDestroy_v2(self.raw as CUevent)) }?;
        self.raw = 0;
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // What the driver refuses to destroy goes with the context.
        let _ = self.destroy_handle();
    }
}
