//! Choosing the free pages that a window is filled with: whole handles, and the head of one.
//!
//! A window is mapped handle by handle. All of its handles but the last are to be free as a whole;
//! of the last only the first pages need be. Fewest handles first, since each costs the same.

use std::collections::HashSet;
use std::sync::Arc;

use super::place::Window;
use crate::allocator::Allocator;
use crate::allocator::slow::Quest;
use crate::driver::Driver;
use crate::heap::{FreeRun, Heap, Pages};
use crate::pages::{HandleAt, PageStore, Piece, Slot};
use crate::units::{GRANULES_PER_PAGE, Kind};

/// Runs of one heap and kind that are looked at.
const LOOKS: usize = 256;

/// A handle of which at least the first page is free.
#[derive(Clone, Copy, Debug)]
struct FreeHandle {
    handle: HandleAt,
    pages: u32,
    /// Free pages from the first on.
    head: u32,
}

impl FreeHandle {
    fn is_whole(&self) -> bool {
        self.head == self.pages
    }

    fn piece(&self, count: u32) -> Piece {
        Piece { handle: self.handle, first: 0, count }
    }
}

impl<D: Driver> Allocator<D> {
    /// Free pages for the empty part of a window, in the order in which they are to be mapped; not
    /// always enough.
    pub(super) fn gather(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        window: &Window,
        all_streams: bool,
    ) -> Vec<Piece> {
        let mut heaps = Vec::new();
        if !quest.pool.is_kept_for_replay() {
            heaps.push(Arc::clone(&quest.heap));
        }
        if all_streams && !quest.device.is_capturing() {
            heaps.extend(self.lenders(quest, true).into_iter().map(|(_, heap)| heap));
        }
        let mut search = Search::new(store, &heaps, Some(window));
        search.seen.extend(window.ghosts.iter().map(|(piece, _)| piece.handle));
        for heap in &heaps {
            search.look_in(heap, LOOKS, window.empty);
        }
        let empty = window.pages.end() - window.empty;
        let room = store.arena(window.arena).room.around(empty).map_or(0, |r| r.end() - empty);
        choose(search.found, window.empty, room)
    }
}

/// The handles of which no page is in use, in these heaps.
pub(super) fn free_handles(store: &PageStore, heaps: &[Arc<Heap>]) -> Vec<HandleAt> {
    let mut search = Search::new(store, heaps, None);
    for heap in heaps {
        search.look_in(heap, usize::MAX, u32::MAX);
    }
    let whole = search.found.into_iter().filter(FreeHandle::is_whole);
    whole.map(|free| free.handle).collect()
}

/// A search for free handles.
struct Search<'a> {
    store: &'a PageStore,
    /// Where free pages count.
    heaps: &'a [Arc<Heap>],
    /// The window they are for: the free block in front of it does not count.
    window: Option<&'a Window>,
    seen: HashSet<HandleAt>,
    found: Vec<FreeHandle>,
    /// Pages of the handles found that are free as a whole.
    whole: u32,
}

impl<'a> Search<'a> {
    fn new(store: &'a PageStore, heaps: &'a [Arc<Heap>], window: Option<&'a Window>) -> Self {
        Search { store, heaps, window, seen: HashSet::new(), found: Vec::new(), whole: 0 }
    }

    /// Looks at the largest free blocks of a heap, until whole handles of so many pages are found.
    fn look_in(&mut self, heap: &Heap, looks: usize, enough: u32) {
        for kind in [Kind::Large, Kind::Small] {
            if self.whole >= enough {
                return;
            }
            let runs: Vec<FreeRun> = {
                let mut core = heap.lock();
                let runs = core.runs(kind, GRANULES_PER_PAGE).take(looks);
                runs.filter(|run| run.pages.count > 0).collect()
            };
            for run in runs {
                let Some(arena) = self.store.arena_of(heap.id, run.segment) else { continue };
                let mut page = run.pages.first;
                while page < run.pages.end() && self.whole < enough {
                    let rest = Pages::new(page, run.pages.end() - page);
                    let Slot::Home(at) = self.store.slot(arena, page) else { break };
                    let piece = self.store.piece(at, rest);
                    page += piece.count;
                    if self.seen.insert(piece.handle) {
                        let free = self.free_head(piece.handle);
                        self.whole += if free.is_whole() { free.pages } else { 0 };
                        self.found.push(free);
                    }
                }
            }
        }
    }

    /// How far a handle is free from its first page on.
    fn free_head(&self, handle: HandleAt) -> FreeHandle {
        let pages = self.store.handle(handle).pages();
        let mut head = 0;
        while head < pages {
            let (Some(home), count) = self.store.home(handle, head) else { break };
            let mapping = self.store.mapping(home);
            let arena = self.store.arena(mapping.arena);
            if !self.heaps.iter().any(|heap| heap.id == arena.heap.id) {
                break;
            }
            let first = mapping.first + head;
            let Some(run) = arena.heap.lock().run_around(arena.at, first) else { break };
            let front = self.window.is_some_and(|window| {
                mapping.arena == window.arena && window.front == Some(run.block)
            });
            if front {
                break;
            }
            let free = count.min(run.pages.end() - first);
            head += free;
            if free < count {
                break;
            }
        }
        FreeHandle { handle, pages, head }
    }
}

/// Whole handles from the largest, then the head of one more: so many pages, if there are, where
/// there is room for so many to be mapped.
fn choose(mut handles: Vec<FreeHandle>, needed: u32, room: u32) -> Vec<Piece> {
    handles.sort_by_key(|free| std::cmp::Reverse((free.is_whole(), free.pages)));
    let (mut pieces, mut left) = (Vec::new(), needed);
    let mut rest = Vec::new();
    for free in handles {
        if free.is_whole() && free.pages <= left {
            left -= free.pages;
            pieces.push(free.piece(free.pages));
        } else if free.head > 0 && free.pages - free.head.min(left) <= room - needed {
            rest.push(free);
        }
    }
    if left > 0 {
        let enough = rest.iter().filter(|free| free.head >= left).min_by_key(|free| free.pages);
        let last = enough.or_else(|| rest.iter().max_by_key(|free| free.head));
        pieces.extend(last.map(|free| free.piece(free.head.min(left))));
    }
    pieces
}
