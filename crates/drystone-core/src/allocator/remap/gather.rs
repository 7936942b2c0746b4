//! Choosing the free pages that the empty part of a window is filled with.
//!
//! It is filled handle by handle, so all handles but the outermost are to be free as a whole. Of the
//! first the last pages may do, of the last the first ones. Fewest handles first, since each costs
//! the same.

use std::collections::HashSet;
use std::sync::Arc;

use super::place::Window;
use crate::allocator::Allocator;
use crate::allocator::slow::Quest;
use crate::block::BlockIndex;
use crate::driver::Driver;
use crate::heap::{FreeRun, Heap, Pages};
use crate::pages::{HandleAt, PageStore, Piece, Slot};
use crate::units::{GRANULES_PER_PAGE, Kind};

/// Free blocks of one heap and kind that are looked at, from the largest.
const LOOKS: usize = 256;

/// A handle of which some pages at an end are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FreeHandle {
    handle: HandleAt,
    pages: u32,
    /// Free pages from the first on.
    head: u32,
    /// Free pages up to the last.
    tail: u32,
}

impl FreeHandle {
    fn is_whole(&self) -> bool {
        self.head == self.pages
    }

    fn first(&self, count: u32) -> Piece {
        Piece { handle: self.handle, first: 0, count }
    }

    fn last(&self, count: u32) -> Piece {
        Piece { handle: self.handle, first: self.pages - count, count }
    }
}

/// What an empty part of a window is filled with, in order: a tail, whole handles, new memory, and
/// the first pages of one more handle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filling {
    pub(super) tail: Option<Piece>,
    pub(super) whole: Vec<Piece>,
    /// Pages of new handles.
    pub(super) new: u32,
    pub(super) head: Option<Piece>,
}

impl Filling {
    /// New memory only.
    pub(super) fn new(pages: u32) -> Self {
        Filling { new: pages, ..Filling::default() }
    }

    /// The pieces of handles that exist.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.tail.into_iter().chain(self.whole.iter().copied()).chain(self.head)
    }

    /// All pages together.
    pub(super) fn pages(&self) -> u32 {
        self.new + self.pieces().map(|piece| piece.count).sum::<u32>()
    }
}

/// The room around an empty part in which handles may reach beyond it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Margin {
    pub(super) left: u32,
    pub(super) right: u32,
}

impl<D: Driver> Allocator<D> {
    /// Free pages for an empty part of a window, as far as there are any; what is missing is to be
    /// new. `taken` names handles that are spoken for.
    pub(super) fn gather(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        window: &Window,
        part: Pages,
        taken: &HashSet<HandleAt>,
        all_streams: bool,
    ) -> Filling {
        let mut heaps = Vec::new();
        if !quest.pool.is_kept_for_replay() {
            heaps.push(Arc::clone(&quest.heap));
        }
        if all_streams && !quest.device.is_capturing() {
            heaps.extend(self.lenders(quest, true).into_iter().map(|(_, heap)| heap));
        }
        let mut search = Search::new(store, &heaps, &window.free);
        search.seen.extend(taken);
        for heap in &heaps {
            search.look_in(heap, LOOKS, part.count);
        }
        let margin = match store.arena(window.arena).room.around(part.first) {
            Some(room) => Margin { left: part.first - room.first, right: room.end() - part.end() },
            None => Margin { left: 0, right: 0 },
        };
        choose(search.found, part.count, margin)
    }
}

/// The handles of which no page is in use, in these heaps.
pub(super) fn free_handles(store: &PageStore, heaps: &[Arc<Heap>]) -> Vec<HandleAt> {
    let mut search = Search::new(store, heaps, &[]);
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
    /// Free blocks of the first heap whose pages do not count.
    kept: &'a [BlockIndex],
    seen: HashSet<HandleAt>,
    found: Vec<FreeHandle>,
    /// Pages of the handles found that are free as a whole.
    whole: u32,
}

impl<'a> Search<'a> {
    fn new(store: &'a PageStore, heaps: &'a [Arc<Heap>], kept: &'a [BlockIndex]) -> Self {
        Search { store, heaps, kept, seen: HashSet::new(), found: Vec::new(), whole: 0 }
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
                        self.look_at(piece.handle);
                    }
                }
            }
        }
    }

    fn look_at(&mut self, handle: HandleAt) {
        let pages = self.store.handle(handle).pages();
        let head = self.free_from(handle, 0);
        let mut tail = head;
        if head < pages {
            // The last free stretch that ends with the last page.
            tail = 0;
            let mut page = head + 1;
            while page < pages {
                let free = self.free_from(handle, page);
                if page + free == pages {
                    tail = free;
                    break;
                }
                page += free + 1;
            }
        }
        if head > 0 || tail > 0 {
            self.whole += if head == pages { pages } else { 0 };
            self.found.push(FreeHandle { handle, pages, head, tail });
        }
    }

    /// How many pages of a handle are free from one on.
    fn free_from(&self, handle: HandleAt, from: u32) -> u32 {
        let pages = self.store.handle(handle).pages();
        let mut page = from;
        while page < pages {
            let (Some(home), count) = self.store.home(handle, page) else { break };
            let mapping = self.store.mapping(home);
            let arena = self.store.arena(mapping.arena);
            let Some(place) = self.heaps.iter().position(|heap| heap.id == arena.heap.id) else {
                break;
            };
            let first = mapping.first + page;
            let Some(run) = arena.heap.lock().run_around(arena.at, first) else { break };
            if place == 0 && self.kept.contains(&run.block) {
                break;
            }
            let free = count.min(run.pages.end() - first);
            page += free;
            if free < count {
                break;
            }
        }
        page - from
    }
}

/// Whole handles from the largest, then what serves the rest best: the tail of one that is in use
/// elsewhere; one more whole handle, all of which moves; heads, which leave ghosts in the way of
/// what may grow there.
fn choose(mut handles: Vec<FreeHandle>, needed: u32, margin: Margin) -> Filling {
    handles.sort_by_key(|free| std::cmp::Reverse((free.is_whole(), free.pages)));
    let (mut filling, mut left, mut rest) = (Filling::default(), needed, Vec::new());
    for free in handles {
        if free.is_whole() && free.pages <= left {
            left -= free.pages;
            filling.whole.push(free.first(free.pages));
        } else {
            rest.push(free);
        }
    }
    let parts = || rest.iter().filter(|free| !free.is_whole());
    let fits_left = |free: &&FreeHandle, count: u32| free.pages - count <= margin.left;
    let fits_right = |free: &&FreeHandle, count: u32| free.pages - count <= margin.right;
    if left == 0 {
        return filling;
    }
    let tail = parts()
        .filter(|free| free.tail >= left && fits_left(free, left))
        .min_by_key(|free| free.tail);
    let whole = rest
        .iter()
        .filter(|free| free.is_whole() && fits_right(free, left))
        .min_by_key(|free| free.pages);
    if let Some(free) = tail {
        filling.tail = Some(free.last(left));
    } else if let Some(free) = whole {
        filling.whole.push(free.first(free.pages));
    } else {
        let tails = parts().filter(|free| free.tail > 0 && fits_left(free, free.tail.min(left)));
        if let Some(free) = tails.max_by_key(|free| free.tail.min(left)) {
            filling.tail = Some(free.last(free.tail.min(left)));
            left -= free.tail.min(left);
        }
        let used = filling.tail.map(|piece| piece.handle);
        let heads = parts().filter(|free| {
            let count = free.head.min(left);
            count > 0 && Some(free.handle) != used && fits_right(free, count)
        });
        if let Some(free) = heads.max_by_key(|free| free.head.min(left)) {
            filling.head = Some(free.first(free.head.min(left)));
        }
    }
    filling
}
