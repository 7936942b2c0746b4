//! Taking away what is not needed: ghosts from the oldest, handles without a live byte, arenas
//! without memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::carry::InHand;
use super::gather::free_handles;
use crate::allocator::Allocator;
use crate::device::Device;
use crate::driver::{Driver, DriverError, HandleKind};
use crate::heap::Heap;
use crate::pages::{Handle, HandleAt, MappingAt, PageStore, Piece};
use crate::pool::PoolId;
use crate::units::PAGE_SHIFT;

/// Ghosts that may stay besides one for each mapping in use.
const GHOSTS: usize = 64;
/// Ghosts that a slow path takes away at most.
const TRIM: usize = 4;

impl<D: Driver> Allocator<D> {
    /// Takes a few of the oldest ghosts away once there are too many, if their streams are known
    /// to have passed their last use.
    pub(super) fn trim(&self, store: &mut PageStore, device: &Device) {
        let allowed = GHOSTS + (device.reserved() >> PAGE_SHIFT) as usize * 8;
        let excess = store.ghost_count().saturating_sub(allowed);
        if excess == 0 {
            return;
        }
        let Some(_awake) = device.outside_captures() else { return };
        let oldest: Vec<_> = store.ghosts().take(excess.min(TRIM)).collect();
        for at in oldest {
            let mapping = store.mapping(at);
            let stamp = mapping.stamp;
            let ticker = store.arena(mapping.arena).heap.lock().ticker().map(Arc::clone);
            let Some(ticker) = ticker else { continue };
            let events = &device.tickers.events;
            let asked = ticker
                .request(&self.driver, events, stamp)
                .and_then(|()| ticker.poll(&self.driver, events));
            if asked.is_err() || !ticker.has_passed(stamp) {
                return;
            }
            if let Err(error) = self.unmap(store, device, at) {
                tracing::warn!(%error, "a mapping nobody uses stays");
                return;
            }
        }
    }

    /// Gives handles back in which no byte is live, of the heaps of the pools that `wanted` names:
    /// up to the first that make `most` bytes. Waits on the host for the streams that used them.
    /// Arenas without memory go too. Bytes given back.
    pub(in crate::allocator) fn release_pages(
        &self,
        device: &Device,
        wanted: impl Fn(PoolId) -> bool,
        most: u64,
    ) -> Result<u64, DriverError> {
        let heaps = device.totals.heaps().into_iter().filter(|(id, heap)| {
            wanted(*id) && {
                let core = heap.lock();
                core.serves(device.id, *id) && !core.is_sealed() && !core.spills()
            }
        });
        let heaps: Vec<_> = heaps.map(|(_, heap)| heap).collect();
        self.release_heaps(device, &heaps, most)
    }

    /// Likewise of these heaps. Only memory of the device counts as given back.
    pub(in crate::allocator) fn release_heaps(
        &self,
        device: &Device,
        heaps: &[Arc<Heap>],
        most: u64,
    ) -> Result<u64, DriverError> {
        let (Some(store), Some(_awake)) = (&device.pages, device.outside_captures()) else {
            return Ok(0);
        };
        let mut store = store.lock();
        let (mut result, mut released) = (Ok(()), 0);
        for handle in store.take_stranded() {
            released += self.give_handle_back(&mut store, device, handle);
        }
        for handle in free_handles(&store, heaps) {
            if released >= most {
                break;
            }
            let bytes = device_bytes(store.handle(handle));
            // One that cannot be given back does not keep the others.
            match self.evict(&mut store, device, handle, true) {
                Ok(gone) => released += if gone { bytes } else { 0 },
                Err(error) => result = result.and(Err(error)),
            }
        }
        let bare = self.drop_bare_arenas(&mut store, device, heaps);
        result.and(bare).map(|()| released)
    }

    /// The handles of a heap of which no page is in use.
    pub(in crate::allocator) fn free_handles_of(
        &self,
        store: &PageStore,
        heap: &Arc<Heap>,
    ) -> Vec<HandleAt> {
        free_handles(store, std::slice::from_ref(heap))
    }

    /// Gives one handle back whose streams have passed its last use. False if it came to be in use.
    pub(in crate::allocator) fn evict_passed(
        &self,
        store: &mut PageStore,
        device: &Device,
        handle: HandleAt,
    ) -> Result<bool, DriverError> {
        self.evict(store, device, handle, false)
    }

    /// Gives one handle back, and waits before for the streams that used it, unless that is known
    /// to be over. False if it came to be in use.
    fn evict(
        &self,
        store: &mut PageStore,
        device: &Device,
        handle: HandleAt,
        waits: bool,
    ) -> Result<bool, DriverError> {
        let count = store.handle(handle).pages();
        let mut hand = InHand::default();
        let whole = Piece { handle, first: 0, count };
        if !self.take_in_hand(store, device, whole, &mut hand) {
            self.send_home(store, device, hand.taken);
            return Ok(false);
        }
        let mappings = store.handle(handle).mappings().to_vec();
        for at in mappings.into_iter().filter(|_| waits) {
            if let Err(error) = self.wait_for_ghost(store, device, at) {
                self.send_home(store, device, hand.taken);
                return Err(error);
            }
        }
        let ghosts = store.handle(handle).mappings().to_vec();
        let homes = |at: &MappingAt| hand.taken.iter().any(|taken| taken.home == *at);
        let (homes, ghosts): (Vec<_>, Vec<_>) = ghosts.into_iter().partition(homes);
        for at in ghosts {
            if let Err(error) = self.unmap(store, device, at) {
                self.send_home(store, device, hand.taken);
                return Err(error);
            }
        }
        let mut first = true;
        for at in homes {
            match self.unmap(store, device, at) {
                Ok(()) => first = false,
                // Nothing has changed yet.
                Err(error) if first => {
                    self.send_home(store, device, hand.taken);
                    return Err(error);
                }
                Err(error) => {
                    leave(&hand);
                    store.strand(handle);
                    return Err(error);
                }
            }
        }
        leave(&hand);
        self.release_handle(store, device, handle).inspect_err(|_| store.strand(handle))?;
        Ok(true)
    }

    /// Waits until a ghost's stream has passed its last use.
    pub(super) fn wait_for_ghost(
        &self,
        store: &PageStore,
        device: &Device,
        at: MappingAt,
    ) -> Result<(), DriverError> {
        let mapping = store.mapping(at);
        let ticker = store.arena(mapping.arena).heap.lock().ticker().cloned();
        match ticker {
            Some(ticker) if !ticker.has_passed(mapping.stamp) => {
                device.counters.sync_all_streams.fetch_add(1, Ordering::Relaxed);
                ticker.wait(&self.driver, &device.tickers.events, mapping.stamp)
            }
            _ => Ok(()),
        }
    }

    /// Gives the addresses of arenas back that have no memory and in which nothing is mapped.
    fn drop_bare_arenas(
        &self,
        store: &mut PageStore,
        device: &Device,
        heaps: &[Arc<Heap>],
    ) -> Result<(), DriverError> {
        let mut result = Ok(());
        let bare: Vec<_> = store
            .arenas()
            .filter(|(at, arena)| {
                heaps.iter().any(|heap| heap.id == arena.heap.id) && store.is_bare(*at)
            })
            .map(|(at, arena)| (at, arena.base, arena.bytes()))
            .collect();
        for (at, base, bytes) in bare {
            let arena = store.arena(at);
            let heap = Arc::clone(&arena.heap);
            let (segment, kind) = (arena.at, arena.kind);
            let mut core = heap.lock();
            let gone = core.remove_arena(segment);
            debug_assert!(gone, "nothing is at home where nothing is mapped");
            self.table.remove(base, bytes);
            heap.counters.of(kind).segment_out(0);
            heap.counters.of(kind).segment_freed(0);
            drop(core);
            store.remove_arena(at);
            store.strand_range(base, bytes);
        }
        for (base, bytes) in store.take_stranded_ranges() {
            if let Err(error) = self.driver.address_free(device.id, base, bytes) {
                store.strand_range(base, bytes);
                result = Err(error);
            }
        }
        result
    }

    /// Gives a handle back whose pages are all in hand; keeps it for later if the driver refuses.
    /// Bytes given back.
    pub(super) fn give_handle_back(
        &self,
        store: &mut PageStore,
        device: &Device,
        handle: HandleAt,
    ) -> u64 {
        let bytes = device_bytes(store.handle(handle));
        match self.release_handle(store, device, handle) {
            Ok(()) => bytes,
            Err(error) => {
                tracing::warn!(%error, "memory could not be given back");
                store.strand(handle);
                0
            }
        }
    }

    fn release_handle(
        &self,
        store: &mut PageStore,
        device: &Device,
        handle: HandleAt,
    ) -> Result<(), DriverError> {
        for at in store.handle(handle).mappings().to_vec() {
            self.unmap(store, device, at)?;
        }
        let held = store.handle(handle);
        let (kind, bytes) = (held.kind, held.bytes());
        self.driver.handle_release(device.id, held.id)?;
        store.remove_handle(handle);
        device.unhold(kind, bytes);
        if kind != HandleKind::Host {
            device.counters.device_free.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The bytes of a handle that are the device's.
fn device_bytes(handle: &Handle) -> u64 {
    if handle.kind == HandleKind::Host { 0 } else { handle.bytes() }
}

/// Counts pages in hand as given back by their heaps, where they were counted.
fn leave(hand: &InHand) {
    for taken in hand.taken.iter().filter(|taken| !taken.heap.lock().spills()) {
        taken.heap.counters.of(taken.kind).pages_freed(taken.bytes());
    }
}
