//! Pools: memory kept apart. Each has a heap per stream, found without a lock.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::driver::StreamId;
use crate::heap::{Heap, Term};

/// The name of a pool: torch's `MempoolId_t`, a pair of numbers that the caller chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u64, pub u64);

impl PoolId {
    /// The pool that serves everything that is not routed elsewhere.
    pub const DEFAULT: PoolId = PoolId(0, 0);
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == PoolId::DEFAULT {
            f.write_str("the default pool")
        } else {
            write!(f, "pool ({}, {})", self.0, self.1)
        }
    }
}

/// What a pool is begun for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A stream capture: until it ends nothing is waited for, asked about or given back on the
    /// device, and until the pool is released its memory stays where it is, since replays of the
    /// graph use it even when no block is live.
    Capture,
    /// Memory that the user wants apart.
    User,
}

/// Slots of the lock-free part of a [`StreamTable`]; a power of two.
const SLOTS: usize = 64;
/// How far from its own slot a stream may sit.
const PROBES: usize = 8;

/// A heap as a stream of a pool found it: it is theirs while its term lasts.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) heap: Arc<Heap>,
    pub(crate) term: Term,
}

/// A stream and its heap, once there is one.
type Slot = OnceLock<(StreamId, Held)>;

/// The heaps of a pool by stream: a small table that only grows, and a map for what overflows it.
struct StreamTable {
    slots: Box<[Slot; SLOTS]>,
    overflow: RwLock<HashMap<StreamId, Held>>,
    growing: Mutex<()>,
}

impl StreamTable {
    fn new() -> Self {
        StreamTable {
            slots: Box::new([const { OnceLock::new() }; SLOTS]),
            overflow: RwLock::new(HashMap::new()),
            growing: Mutex::new(()),
        }
    }

    #[inline]
    fn slot_of(stream: StreamId) -> usize {
        // Fibonacci hashing: stream handles are pointers, equal in their low bits.
        (stream.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
    }

    #[inline(always)]
    fn get(&self, stream: StreamId) -> Option<&Held> {
        let first = Self::slot_of(stream);
        match self.slots[first % SLOTS].get() {
            Some((known, held)) if *known == stream => Some(held),
            Some(_) => self.probe(stream, first + 1),
            None => None,
        }
    }

    #[cold]
    fn probe(&self, stream: StreamId, from: usize) -> Option<&Held> {
        let slots = (from..from + PROBES - 1).map_while(|slot| self.slots[slot % SLOTS].get());
        slots.into_iter().find(|(known, _)| *known == stream).map(|(_, held)| held)
    }
}

/// How a pool is held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holding {
    /// How often it was begun or retained and not yet released.
    pub(crate) uses: u32,
    /// Whether a capture allocated from it.
    pub(crate) captured: bool,
}

/// One pool of one device.
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) holding: Mutex<Holding>,
    serves_on_oom: AtomicBool,
    unsplit: AtomicBool,
    heaps: StreamTable,
}

impl Pool {
    pub(crate) fn new(id: PoolId) -> Self {
        Pool {
            id,
            holding: Mutex::default(),
            serves_on_oom: AtomicBool::new(false),
            unsplit: AtomicBool::new(false),
            heaps: StreamTable::new(),
        }
    }

    /// The heap of a stream, if it has one.
    #[inline(always)]
    pub(crate) fn heap(&self, stream: StreamId) -> Option<&Held> {
        self.heaps.get(stream)
    }

    /// The heap of a stream, made by `make` if it has none.
    #[cold]
    pub(crate) fn heap_or<E>(
        &self,
        stream: StreamId,
        make: impl FnOnce() -> Result<Held, E>,
    ) -> Result<Held, E> {
        let table = &self.heaps;
        let _growing = table.growing.lock();
        let lasts = |held: &&Held| held.heap.lock().is_term(held.term);
        let slot = table.get(stream);
        let after = || table.overflow.read().get(&stream).filter(lasts).cloned();
        if let Some(held) = slot.filter(lasts).cloned().or_else(after) {
            return Ok(held);
        }
        let held = make()?;
        let first = StreamTable::slot_of(stream);
        let free = (0..PROBES)
            .map(|probe| &table.slots[(first + probe) % SLOTS])
            .find(|slot| slot.get().is_none());
        // A slot is written once: the heap after one that was retired goes to the map.
        let free = free.filter(|_| slot.is_none());
        match free {
            Some(slot) => {
                slot.get_or_init(|| (stream, held.clone()));
            }
            None => {
                table.overflow.write().insert(stream, held.clone());
            }
        }
        Ok(held)
    }

    /// Whether its free blocks serve requests of other pools before those fail.
    pub(crate) fn serves_on_oom(&self) -> bool {
        self.serves_on_oom.load(Ordering::Relaxed)
    }

    pub(crate) fn set_serves_on_oom(&self, serves: bool) {
        self.serves_on_oom.store(serves, Ordering::Relaxed);
    }

    /// Whether each of its blocks is to have pages or a segment of its own.
    pub(crate) fn is_unsplit(&self) -> bool {
        self.unsplit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unsplit(&self) {
        self.unsplit.store(true, Ordering::Relaxed);
    }

    /// Whether nobody holds it: what it caches may go to others. Never so for the default pool.
    pub(crate) fn is_released(&self) -> bool {
        self.id != PoolId::DEFAULT && self.holding.lock().uses == 0
    }

    /// Whether its cached memory must stay, for the replays of a captured graph.
    pub(crate) fn is_kept_for_replay(&self) -> bool {
        let holding = self.holding.lock();
        holding.captured && holding.uses > 0
    }
}
