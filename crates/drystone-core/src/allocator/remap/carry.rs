//! Carrying a window out: pages leave their homes, the driver maps them, the heap gets them.
//!
//! Until the heap gets them nothing is lost: the pages are still mapped where they were, so if a
//! call fails they go home again without one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::NoWindow;
use super::place::Window;
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{Driver, DriverError, DriverErrorKind, HandleKind, StreamId};
use crate::heap::{Heap, HeapCore, Pages};
use crate::history::Action;
use crate::pages::{HandleAt, MappingAt, PageStore, Piece};
use crate::pool::PoolId;
use crate::ticket::{Stamp, Ticker};
use crate::units::{Kind, PAGE};

/// Pages in hand, and where they were at home.
#[derive(Default)]
pub(super) struct InHand {
    pub(super) taken: Vec<Taken>,
}

/// Pages in hand that were at home together.
pub(super) struct Taken {
    pub(super) piece: Piece,
    pub(super) home: MappingAt,
    pub(super) heap: Arc<Heap>,
    pub(super) pool: PoolId,
    pub(super) kind: Kind,
    /// The stream that used them last, up to the stamp.
    pub(super) ticker: Arc<Ticker>,
    pub(super) stamp: Stamp,
}

impl Taken {
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.piece.count) * PAGE
    }
}

impl<D: Driver> Allocator<D> {
    /// Fills a window: its ghosts, then `filling`, then `new` pages of new handles, which come
    /// before the last piece of `filling` if that is a mere head.
    pub(super) fn carry(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        filling: Vec<Piece>,
        new: u32,
    ) -> Result<(), NoWindow> {
        let mut hand = InHand::default();
        let ghosts = window.ghosts.iter().map(|&(piece, _)| piece);
        for piece in ghosts.chain(filling.iter().copied()).collect::<Vec<_>>() {
            if !self.take_in_hand(store, quest.device, piece, &mut hand) {
                self.send_home(store, hand.taken);
                return Err(NoWindow::Lost);
            }
        }
        let mut made = Vec::new();
        let done = self
            .wait_for_others(quest, &hand)
            .and_then(|()| self.create(store, quest, new, &mut made))
            .and_then(|()| self.map_all(store, quest, window, &filling, &made));
        match done {
            Ok(mapped) => {
                self.hand_over(store, quest, window, mapped);
                for taken in hand.taken.iter().filter(|taken| taken.pool != quest.pool.id) {
                    quest.device.totals.left_pool(taken.pool, taken.kind, 0, taken.bytes());
                }
                Ok(())
            }
            Err(why) => {
                self.send_home(store, hand.taken);
                for handle in made {
                    self.give_handle_back(store, quest.device, handle);
                }
                Err(NoWindow::Ended(why))
            }
        }
    }

    /// Takes a piece out of the free blocks where it is at home. False if it is not free any more;
    /// what was taken of it until then is in hand all the same.
    pub(super) fn take_in_hand(
        &self,
        store: &mut PageStore,
        device: &Device,
        piece: Piece,
        hand: &mut InHand,
    ) -> bool {
        let mut page = piece.first;
        while page < piece.end() {
            let (Some(home), count) = store.home(piece.handle, page) else { return false };
            let part = Piece { first: page, count: count.min(piece.end() - page), ..piece };
            let mapping = store.mapping(home);
            let arena = store.arena(mapping.arena);
            let (heap, kind) = (Arc::clone(&arena.heap), arena.kind);
            let pages = Pages::new(mapping.first + page, part.count);
            let mut core = heap.lock();
            let (Some(key), Some(ticker)) = (core.key, core.ticker().cloned()) else {
                return false;
            };
            let kept = device.is_kept_for_replay(key.pool) || core.is_sealed();
            if kept || !heap.drain(&mut core, arena.at, pages) {
                return false;
            }
            let stamp = ticker.stamp();
            self.note_pages(&core, Action::SegmentUnmap, arena.address(pages.first), pages);
            drop(core);
            store.take(part, stamp);
            let pool = key.pool;
            hand.taken.push(Taken { piece: part, home, heap, pool, kind, ticker, stamp });
            page += part.count;
        }
        true
    }

    /// Puts pages in hand back to where they were.
    pub(super) fn send_home(&self, store: &mut PageStore, taken: Vec<Taken>) {
        for Taken { piece, home, heap, .. } in taken {
            store.settle(piece, home);
            let mapping = store.mapping(home);
            let arena = store.arena(mapping.arena);
            let pages = Pages::new(mapping.first + piece.first, piece.count);
            let mut core = heap.lock();
            heap.fill(&mut core, arena.at, pages);
            self.note_pages(&core, Action::SegmentMap, arena.address(pages.first), pages);
        }
    }

    /// Makes the request's stream wait on the device for the other streams whose pages it gets.
    fn wait_for_others(&self, quest: &Quest<'_>, hand: &InHand) -> Result<(), NoSegment> {
        let mut known: Vec<StreamId> = vec![quest.request.stream];
        for Taken { ticker, .. } in &hand.taken {
            if !known.contains(&ticker.stream) {
                known.push(ticker.stream);
                self.wait_on_gpu(quest, ticker).map_err(NoSegment::Failed)?;
                quest.device.counters.adopted.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Makes new handles of so many pages together.
    fn create(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        pages: u32,
        made: &mut Vec<HandleAt>,
    ) -> Result<(), NoSegment> {
        let device = quest.device;
        for count in self.policy.handles(pages) {
            let bytes = u64::from(count) * PAGE;
            if !device.reserve(bytes) {
                return Err(NoSegment::Full);
            }
            match self.driver.handle_create(device.id, bytes, HandleKind::Device) {
                Ok(id) => made.push(store.add_handle(id, HandleKind::Device, count)),
                Err(error) => {
                    device.unreserve(bytes);
                    return Err(match error.kind {
                        DriverErrorKind::OutOfMemory => NoSegment::Full,
                        _ => NoSegment::Failed(error),
                    });
                }
            }
            device.counters.device_alloc.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Maps what fills the empty part of the window: the pieces and where they are mapped now.
    fn map_all(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        filling: &[Piece],
        made: &[HandleAt],
    ) -> Result<Vec<(Piece, MappingAt)>, NoSegment> {
        let whole = |handle| {
            let count = store.handle(handle).pages();
            Piece { handle, first: 0, count }
        };
        let new: Vec<Piece> = made.iter().map(|&handle| whole(handle)).collect();
        let head = |piece: &&Piece| piece.count < store.handle(piece.handle).pages();
        let (heads, wholes): (Vec<_>, Vec<_>) = filling.iter().partition(head);
        let order: Vec<Piece> =
            wholes.into_iter().copied().chain(new).chain(heads.into_iter().copied()).collect();
        let start = window.pages.end() - window.empty;
        let mut mapped = Vec::new();
        let mut end = start;
        let mut result = Ok(());
        for piece in order {
            let handle = store.handle(piece.handle);
            let address = store.arena(window.arena).address(end);
            let pages = handle.pages();
            if let Err(error) = self.driver.map(quest.device.id, address, handle.id) {
                result = Err(error);
                break;
            }
            mapped.push((piece, store.add_mapping(piece.handle, window.arena, end, true)));
            end += pages;
        }
        if result.is_ok() && end > start {
            let address = store.arena(window.arena).address(start);
            let bytes = u64::from(end - start) * PAGE;
            let own = [quest.device.id];
            result = self.driver.set_access(quest.device.id, address, bytes, &own);
        }
        match result {
            Ok(()) => Ok(mapped),
            Err(error) => {
                for (_, at) in mapped {
                    store.make_unusable(at);
                    self.unmap(store, quest.device, at).unwrap_or_else(|error| {
                        tracing::warn!(%error, "a mapping nobody uses stays");
                    });
                }
                Err(NoSegment::Failed(error))
            }
        }
    }

    /// Lets the heap have the window, counted.
    fn hand_over(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        mapped: Vec<(Piece, MappingAt)>,
    ) {
        let Quest { device, heap, .. } = quest;
        for (piece, at) in window.ghosts.iter().copied().chain(mapped) {
            store.settle(piece, at);
        }
        let arena = store.arena(window.arena);
        let mut core = heap.lock();
        // An arena keeps its heap from being retired.
        heap.fill(&mut core, arena.at, window.pages);
        self.note_pages(&core, Action::SegmentMap, arena.address(window.pages.first), window.pages);
        device.totals.sum_up(heap, &mut core.thresholds);
    }

    /// Takes a mapping away that nothing can be using.
    pub(super) fn unmap(
        &self,
        store: &mut PageStore,
        device: &Device,
        at: MappingAt,
    ) -> Result<(), DriverError> {
        let mapping = store.mapping(at);
        let address = store.arena(mapping.arena).address(mapping.first);
        let bytes = store.handle(mapping.handle).bytes();
        self.driver.unmap(device.id, address, bytes)?;
        store.remove_mapping(at);
        Ok(())
    }

    pub(super) fn note_pages(&self, core: &HeapCore, action: Action, address: u64, pages: Pages) {
        if self.history.is_on()
            && let Some(key) = &core.key
        {
            self.note(action, key, address, u64::from(pages.count) * PAGE);
        }
    }
}
