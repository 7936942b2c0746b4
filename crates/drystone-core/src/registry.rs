//! All heaps by number: looked up without a lock, since every free begins with it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::heap::Heap;

const CHUNK: usize = 256;
const CHUNKS: usize = 256;

/// Made whole when its first heap is.
type Chunk = Box<[OnceLock<Arc<Heap>>]>;

/// Heaps by their id. Ids of retired heaps are given out again.
pub(crate) struct Registry {
    chunks: Box<[OnceLock<Chunk>]>,
    ids: Mutex<Ids>,
}

#[derive(Default)]
struct Ids {
    made: u32,
    retired: Vec<u32>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            ids: Mutex::new(Ids::default()),
        }
    }

    /// The heap of this id, if one was ever made.
    #[inline(always)]
    pub(crate) fn get(&self, id: u32) -> Option<&Arc<Heap>> {
        self.chunks.get(id as usize / CHUNK)?.get()?[id as usize % CHUNK].get()
    }

    /// A heap that is nobody's: a retired one, or a new one. The error is the number in use.
    pub(crate) fn take(&self) -> Result<Arc<Heap>, u32> {
        let mut ids = self.ids.lock();
        if let Some(heap) = ids.retired.pop().and_then(|id| self.get(id)) {
            return Ok(Arc::clone(heap));
        }
        let id = ids.made;
        if id as usize >= CHUNK * CHUNKS {
            return Err(id);
        }
        ids.made += 1;
        let chunk = self.chunks[id as usize / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        Ok(Arc::clone(chunk[id as usize % CHUNK].get_or_init(|| Arc::new(Heap::new(id)))))
    }

    /// Takes back a heap that has become nobody's.
    pub(crate) fn give(&self, id: u32) {
        self.ids.lock().retired.push(id);
    }
}
