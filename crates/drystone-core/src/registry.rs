//! All heaps by number: looked up without a lock, since every free begins with it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::heap::Heap;

/// Pairs of pool and stream that can be in use at a time.
const HEAPS: usize = 1 << 14;

/// Heaps by their id. Ids of retired heaps are given out again.
pub(crate) struct Registry {
    heaps: Box<[OnceLock<Arc<Heap>>]>,
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
            heaps: (0..HEAPS).map(|_| OnceLock::new()).collect(),
            ids: Mutex::new(Ids::default()),
        }
    }

    /// The heap of this id, if one was ever made.
    #[inline(always)]
    pub(crate) fn get(&self, id: u32) -> Option<&Arc<Heap>> {
        self.heaps.get(id as usize)?.get()
    }

    /// A heap that is nobody's: a retired one, or a new one. The error is the number in use.
    pub(crate) fn take(&self) -> Result<Arc<Heap>, u32> {
        let mut ids = self.ids.lock();
        if let Some(heap) = ids.retired.pop().and_then(|id| self.get(id)) {
            return Ok(Arc::clone(heap));
        }
        let id = ids.made;
        let slot = self.heaps.get(id as usize).ok_or(id)?;
        ids.made += 1;
        Ok(Arc::clone(slot.get_or_init(|| Arc::new(Heap::new(id)))))
    }

    /// Takes back a heap that has become nobody's.
    pub(crate) fn give(&self, id: u32) {
        self.ids.lock().retired.push(id);
    }
}
