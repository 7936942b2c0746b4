//! Memory that a captured graph works on, kept apart from all other.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use drystone_core::{PoolId, Purpose};

use crate::error::Error;
use crate::pool::{DEVICE, Pool, id};
use crate::streams::Known;

/// Memory of a captured graph. What is allocated on its streams between [`Pool::graph_memory`] and
/// [`GraphMemory::end`] stays where it is, and nobody else gets it, until this value is dropped, also
/// where the buffers are dropped before: every launch of the graph uses it again.
///
/// cudarc's event tracking has to be off for the context while a stream is captured
/// (`CudaContext::disable_event_tracking`): it would wait for events from before the capture.
#[derive(Debug)]
pub struct GraphMemory {
    pool: Pool,
    id: PoolId,
    begun: bool,
    /// Kept alive while the filter of the pool may still be asked for them.
    _streams: Vec<Arc<Known<CudaStream>>>,
}

impl Pool {
    /// Begins memory for a graph: to be called before the capture begins, with all streams that
    /// will take part.
    pub fn graph_memory(&self, streams: &[Arc<CudaStream>]) -> Result<GraphMemory, Error> {
        let known = streams.iter().map(|stream| self.known(stream));
        let known = known.collect::<Result<Vec<_>, _>>()?;
        let wanted: Vec<_> = streams.iter().map(|stream| id(stream)).collect();
        let pool = self.private_pool();
        let filter = move |stream| wanted.contains(&stream);
        self.inner.allocator.begin_pool(DEVICE, pool, Purpose::Capture, filter)?;
        Ok(GraphMemory { pool: self.clone(), id: pool, begun: true, _streams: known })
    }
}

impl GraphMemory {
    /// Ends it, after the capture: from now on the streams allocate as before. Once is enough.
    pub fn end(&mut self) -> Result<(), Error> {
        if self.begun {
            self.pool.inner.allocator.end_pool(DEVICE, self.id)?;
            self.begun = false;
        }
        Ok(())
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        // It was begun, and nobody else ends or releases it.
        let ended = self.end();
        let released = self.pool.inner.allocator.release_pool(DEVICE, self.id);
        debug_assert!(ended.is_ok() && released.is_ok(), "{ended:?}, {released:?}");
    }
}
