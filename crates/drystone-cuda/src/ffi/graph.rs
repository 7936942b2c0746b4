//! Graphs: the work recorded by a capture, and the form of it that can be launched.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstream};

use super::context::Context;
use super::stream::Stream;
use super::table::call;
use crate::error::CudaError;

/// Keeps a graph to one thread at a time: the driver does not guard graphs against calls from
/// several threads at once, not even against calls that only read.
type OneThread = PhantomData<Cell<()>>;

/// The work that a capture recorded; destroyed when dropped.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    raw: usize,
    _one_thread: OneThread,
}

impl Graph {
    /// # Safety
    ///
    /// `raw` is a `CUgraph` that nobody else destroys.
    pub(super) unsafe fn own(context: Arc<Context>, raw: usize) -> Graph {
        Graph { context, raw, _one_thread: PhantomData }
    }

    /// Makes the launchable form. The graph itself is not needed afterwards.
    ///
    /// # Safety
    ///
    /// The [`Module`](crate::Module)s of all recorded kernels must still be loaded.
    pub unsafe fn instantiate(&self) -> Result<GraphExec, CudaError> {
        let context = &self.context;
        let _entered = context.enter()?;
        let mut raw: CUgraphExec = ptr::null_mut();
        let graph = self.raw as CUgraph;
        // SAFETY: the driver writes one handle to the address of a live one; the graph lives as
        // long as this value, no flag is set, and the caller vouches for the kernels.
        unsafe { call!(context.api, cuGraphInstantiateWithFlags(&mut raw, graph, 0)) }?;
        Ok(GraphExec { context: context.clone(), raw: raw as usize, _one_thread: PhantomData })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // What the driver refuses to destroy goes with the process.
            // SAFETY: the graph is this value's own and is destroyed once.
            let _ = unsafe { call!(self.context.api, cuGraphDestroy(self.raw as CUgraph)) };
        }
    }
}

/// A graph that can be launched, any number of times; destroyed when dropped.
#[derive(Debug)]
pub struct GraphExec {
    context: Arc<Context>,
    raw: usize,
    _one_thread: OneThread,
}

impl GraphExec {
    /// Submits the graph's work to the stream.
    ///
    /// # Safety
    ///
    /// All that the recorded work touches (device memory, kernels) must exist until it is done.
    pub(crate) unsafe fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        let _entered = self.context.enter()?;
        let (exec, stream) = (self.raw as CUgraphExec, stream.raw() as CUstream);
        // SAFETY: the graph lives as long as this value, the stream is valid, and the caller
        // vouches for what the work touches.
        unsafe { call!(self.context.api, cuGraphLaunch(exec, stream)) }
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // What the driver refuses to destroy goes with the process. Launches in flight
            // finish first: the driver defers the destruction.
            // SAFETY: the graph is this value's own and is destroyed once.
            let _ = unsafe { call!(self.context.api, cuGraphExecDestroy(self.raw as CUgraphExec)) };
        }
    }
}
