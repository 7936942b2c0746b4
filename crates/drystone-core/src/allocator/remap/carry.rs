//! Carrying a window out: pages leave their homes, the driver maps them, the heap gets them.
//!
//! Until the heap gets them nothing is lost: the pages are still mapped where they were, so if a
//! call fails they go home again without one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::NoWindow;
use super::gather::Filling;
use super::survey::Window;
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{Driver, DriverError, StreamId};
use crate::heap::{Heap, HeapCore, Pages};
use crate::history::Action;
use crate::pages::{HandleAt, MappingAt, PageStore, Piece};
use crate::pool::PoolId;
use crate::ticket::Ticker;
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
    /// The stream that used them last.
    pub(super) ticker: Arc<Ticker>,
}

impl Taken {
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.piece.count) * PAGE
    }
}

/// An empty part of a window, what fills it, and the handles made for it.
pub(super) struct Part {
    pub(super) pages: Pages,
    pub(super) filling: Filling,
    /// Pages of a new handle, at most.
    pub(super) handle_pages: u32,
    pub(super) made: Vec<HandleAt>,
}

impl Part {
    /// What is filled: all of it, and what the last handle has beyond it.
    fn filled(&self) -> Pages {
        Pages::new(self.pages.first, self.filling.pages())
    }
}

impl<D: Driver> Allocator<D> {
    /// Brings the pages of a window to it, and hands the block out of it.
    pub(super) fn carry(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        parts: Vec<Part>,
    ) -> Result<u64, NoWindow> {
        let arena = store.arena(window.arena).at;
        let mut address = None;
        self.bring(store, quest, window, parts, |core| {
            let handed = quest.heap.hand_out_at(core, arena, window.start, quest.fit);
            address = handed.map(|handed| {
                self.note_allocation(quest.device, core, handed);
                handed.address
            });
        })?;
        address.ok_or(NoWindow::Lost)
    }

    /// Brings the pages of a window to it, its ghosts and what fills its empty parts, and does
    /// `then` before another thread can take of them.
    pub(super) fn bring(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        mut parts: Vec<Part>,
        then: impl FnOnce(&mut HeapCore),
    ) -> Result<(), NoWindow> {
        let mut hand = InHand::default();
        let ghosts = window.ghosts.iter().map(|&(piece, _)| piece);
        let pieces = ghosts.chain(parts.iter().flat_map(|part| part.filling.pieces()));
        for piece in pieces.collect::<Vec<_>>() {
            if !self.take_in_hand(store, quest.device, piece, &mut hand) {
                self.send_home(store, quest.device, hand.taken);
                return Err(NoWindow::Lost);
            }
        }
        // What is refused most often comes first.
        let mut done = parts.iter_mut().try_for_each(|part| self.create(store, quest, part));
        done = done.and_then(|()| self.wait_for_others(quest, &hand));
        let mut mapped = window.ghosts.clone();
        for part in &parts {
            done = done
                .and_then(|()| self.map_part(store, quest, window, part))
                .map(|pieces| mapped.extend(pieces));
        }
        if let Err(why) = done {
            self.send_home(store, quest.device, hand.taken);
            // A capture forbids to give anything back.
            let awake = quest.device.outside_captures();
            for handle in parts.into_iter().flat_map(|part| part.made) {
                if awake.is_some() {
                    self.give_handle_back(store, quest.device, handle);
                } else {
                    store.strand(handle);
                }
            }
            return Err(NoWindow::Ended(why));
        }
        for &(piece, at) in &mapped {
            store.settle(piece, at);
            let (first, of) = (store.mapping(at).first, store.handle(piece.handle).pages());
            let pages = Pages::new(first + piece.first, piece.count);
            let segment = store.arena(window.arena).at;
            quest.heap.lock().set_spots(segment, pages, piece.first, of);
        }
        self.hand_over(store, quest, window, &parts, then);
        let to = (quest.pool.id, quest.fit.kind);
        for taken in &hand.taken {
            quest.device.totals.pages_left((taken.pool, taken.kind), to, taken.bytes());
        }
        Ok(())
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
            device.totals.after_free(&heap, &mut core.thresholds, kind);
            self.note_pages(&core, Action::SegmentUnmap, arena.address(pages.first), pages);
            drop(core);
            store.take(part, stamp);
            let pool = key.pool;
            hand.taken.push(Taken { piece: part, home, heap, pool, kind, ticker });
            page += part.count;
        }
        true
    }

    /// Puts pages in hand back to where they were.
    pub(super) fn send_home(&self, store: &mut PageStore, device: &Device, taken: Vec<Taken>) {
        for Taken { piece, home, heap, kind, .. } in taken {
            store.settle(piece, home);
            let mapping = store.mapping(home);
            let arena = store.arena(mapping.arena);
            let pages = Pages::new(mapping.first + piece.first, piece.count);
            let mut core = heap.lock();
            heap.fill(&mut core, arena.at, pages);
            device.totals.after_free(&heap, &mut core.thresholds, kind);
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

    /// Maps what fills a part: the pieces and where they are mapped now.
    fn map_part(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        window: &Window,
        part: &Part,
    ) -> Result<Vec<(Piece, MappingAt)>, NoSegment> {
        let Filling { tail, ref whole, head, .. } = part.filling;
        let new = part.made.iter().map(|&handle| {
            let count = store.handle(handle).pages();
            Piece { handle, first: 0, count }
        });
        let pieces = tail.into_iter().chain(whole.iter().copied()).chain(new).chain(head);
        let pieces: Vec<Piece> = pieces.collect();
        let (mut mapped, mut result) = (Vec::new(), Ok(()));
        let mut page = part.pages.first;
        for piece in pieces {
            let first = page - piece.first;
            let address = store.arena(window.arena).address(first);
            let id = store.handle(piece.handle).id;
            if let Err(error) = self.driver.map(quest.device.id, address, id) {
                result = Err(error);
                break;
            }
            mapped.push((piece, store.add_mapping(piece.handle, window.arena, first)));
            page += piece.count;
        }
        if let (Ok(()), Some((_, first)), Some((_, last))) =
            (&result, mapped.first(), mapped.last())
        {
            let (first, last) = (store.mapping(*first), store.mapping(*last));
            let end = last.first + store.handle(last.handle).pages();
            let address = store.arena(window.arena).address(first.first);
            let bytes = u64::from(end - first.first) * PAGE;
            let accessors = quest.device.accessors();
            result = self.driver.set_access(quest.device.id, address, bytes, &accessors);
        }
        let Err(error) = result else { return Ok(mapped) };
        let awake = quest.device.outside_captures();
        for (_, at) in mapped {
            store.make_unusable(at);
            if awake.is_some()
                && let Err(error) = self.unmap(store, quest.device, at)
            {
                tracing::warn!(%error, "a mapping nobody uses stays");
            }
        }
        Err(NoSegment::Failed(error))
    }

    /// Lets the heap have the window, counted.
    fn hand_over(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        window: &Window,
        parts: &[Part],
        then: impl FnOnce(&mut HeapCore),
    ) {
        let Quest { device, heap, .. } = quest;
        let arena = store.arena(window.arena);
        let beyond = parts.iter().map(|part| {
            let filled = part.filled();
            Pages::new(part.pages.end(), filled.end() - part.pages.end())
        });
        let all = window.holes.iter().copied().chain(beyond.filter(|pages| pages.count > 0));
        // An arena keeps its heap from being retired.
        let mut core = heap.lock();
        for pages in all {
            heap.fill(&mut core, arena.at, pages);
            self.note_pages(&core, Action::SegmentMap, arena.address(pages.first), pages);
        }
        then(&mut core);
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
