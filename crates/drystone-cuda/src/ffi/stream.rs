//! Streams, and captures of what is submitted to them.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUgraph, CUstream, CUstream_flags, CUstreamCaptureMode, CUstreamCaptureStatus,
};

use super::context::Context;
use super::graph::Graph;
use super::table::{call, check};
use crate::error::CudaError;

/// Which calls CUDA refuses to threads while a stream is captured.
///
/// The calls of this crate are let through in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureMode {
    /// Calls that could disturb a capture are refused to all threads.
    Global,
    /// They are refused to the capturing thread.
    ThreadLocal,
    /// They are allowed.
    Relaxed,
}

/// A stream of one device; destroyed when dropped where this crate made it.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    raw: usize,
    owned: bool,
}

impl Stream {
    /// The greatest of the accepted handles with a fixed meaning: 0 the default stream, 1 the same
    /// by its name `CU_STREAM_LEGACY`.
    const LAST_STANDARD: u64 = 1;
    /// `CU_STREAM_PER_THREAD`: a different stream for every thread, so no order of work. What one
    /// thread freed on it would be handed to another that is not ordered after it.
    pub(crate) const PER_THREAD: u64 = 2;

    /// Makes a stream that does not wait for the default stream.
    pub(crate) fn create(context: &Arc<Context>) -> Result<Stream, CudaError> {
        let _entered = context.enter()?;
        let mut raw: CUstream = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the driver writes one handle to the address of a live one.
        unsafe { call!(context.api, cuStreamCreate(&mut raw, flags)) }?;
        Ok(Stream { context: context.clone(), raw: raw as usize, owned: true })
    }

    /// One of the streams that every context has, or `None` where the number names none.
    pub(crate) fn standard(context: &Arc<Context>, id: u64) -> Option<Stream> {
        let raw = usize::try_from(id).ok().filter(|_| id <= Self::LAST_STANDARD)?;
        Some(Stream { context: context.clone(), raw, owned: false })
    }

    /// A stream that somebody else made.
    ///
    /// # Safety
    ///
    /// `id` is the `CUstream` of a stream that lives at least as long as the value returned.
    pub(crate) unsafe fn foreign(context: &Arc<Context>, id: u64) -> Stream {
        Stream { context: context.clone(), raw: id as usize, owned: false }
    }

    /// The handle as a number.
    pub(crate) fn id(&self) -> u64 {
        self.raw as u64
    }

    /// The handle; valid while this value lives.
    pub(super) fn raw(&self) -> usize {
        self.raw
    }

    /// Waits on the host until all work submitted to the stream is done.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream lives as long as this value.
        unsafe { call!(self.context.api, cuStreamSynchronize(self.raw as CUstream)) }
    }

    /// An error while the stream is captured, so that a call which would change or spoil the
    /// capture has no effect. The context is current already.
    pub(super) fn refuse_capture(&self) -> Result<(), CudaError> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE as u32;
        let none = status;
        let address = (&raw mut status).cast::<CUstreamCaptureStatus>();
        let stream = self.raw as CUstream;
        // SAFETY: the driver writes one enum, of the size of a u32, to the address of a live u32,
        // which is never read as the Rust enum; the stream lives as long as this value.
        let code = unsafe { (self.context.api.cuStreamIsCapturing)(stream, address) };
        check("cuStreamIsCapturing", code)?;
        if status == none { Ok(()) } else { Err(CudaError::Capturing { stream: self.id() }) }
    }

    /// Begins to record what is submitted to the stream instead of running it.
    pub(crate) fn begin_capture(&self, mode: CaptureMode) -> Result<(), CudaError> {
        let mode = match mode {
            CaptureMode::Global => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            CaptureMode::ThreadLocal => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            CaptureMode::Relaxed => CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        };
        let _entered = self.context.enter()?;
        // SAFETY: the stream lives as long as this value.
        unsafe { call!(self.context.api, cuStreamBeginCapture_v2(self.raw as CUstream, mode)) }
    }

    /// Ends the capture and gives what was recorded.
    pub(crate) fn end_capture(&self) -> Result<Graph, CudaError> {
        let _entered = self.context.enter()?;
        let mut graph: CUgraph = ptr::null_mut();
        let stream = self.raw as CUstream;
        // SAFETY: the driver writes one handle to the address of a live one; the stream lives as
        // long as this value.
        unsafe { call!(self.context.api, cuStreamEndCapture(stream, &mut graph)) }?;
        if graph.is_null() {
            return Err(CudaError::contract("cuStreamEndCapture", "no graph"));
        }
        // SAFETY: the handle is a graph that nobody else has.
        Ok(unsafe { Graph::own(self.context.clone(), graph as usize) })
    }

    /// Destroys the stream once all its work is done, without waiting; on an error it is still
    /// there.
    pub(crate) fn destroy(mut self) -> Result<(), (Stream, CudaError)> {
        match self.destroy_handle() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    /// Destroys the handle once, where it is this crate's.
    fn destroy_handle(&mut self) -> Result<(), CudaError> {
        if !self.owned {
            return Ok(());
        }
        let _entered = self.context.enter()?;
        // SAFETY: the handle came from cuStreamCreate and is destroyed once, and no other thread
        // uses it, since the borrow is exclusive. Work may be pending: the driver keeps what it
        // needs until that is done.
        unsafe { call!(self.context.api, cuStreamDestroy_v2(self.raw as CUstream)) }?;
        self.owned = false;
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What the driver refuses to destroy goes with the context.
        let _ = self.destroy_handle();
    }
}
