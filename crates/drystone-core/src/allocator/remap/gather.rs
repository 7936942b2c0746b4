//! Choosing the free pages that the empty part of a window is filled with.
//!
//! It is filled handle by handle, so all handles but the outermost are to be free as a whole. Of the
//! first the last pages may do, of the last the first ones. Fewest handles first, since each costs
//! the same.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::allocator::Allocator;
use crate::allocator::slow::Quest;
use crate::block::BlockIndex;
use crate::config::CrossStream;
use crate::driver::Driver;
use crate::heap::{FreeRun, Heap, Pages};
use crate::pages::{HandleAt, PageStore, Piece, Slot};
use crate::units::{GRANULES_PER_PAGE, Kind};

/// Free blocks of one heap and kind that are looked at, from the largest.
const LOOKS: usize = 256;
/// Free pages that are looked for at least.
const PAGES: u32 = 256;

/// A handle of which some pages at an end are free.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FreeHandle {
    handle: HandleAt,
    pages: u32,
    /// Free pages from the first on.
    head: u32,
    /// Free pages up to the last.
    tail: u32,
    /// The longest stretch of free pages: the first of them, and how many.
    middle: (u32, u32),
    /// The free blocks of the request's heap in which it has pages.
    blocks: Vec<BlockIndex>,
    /// Whether no page of it is free in another stream's heap, which would have to be waited for.
    is_own: bool,
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

/// Free handles that windows can be filled from.
#[derive(Default)]
pub(super) struct Donors {
    /// Those that are free as a whole; the request's own first, of those from the largest.
    whole: Vec<FreeHandle>,
    /// The others, in the same order.
    parts: Vec<FreeHandle>,
    /// The most consecutive free pages of one.
    longest: u32,
}

impl<D: Driver> Allocator<D> {
    /// The free handles of the request's heap, and of other streams' where that is allowed; about
    /// as many as `pages` take, if there are.
    pub(super) fn donors(&self, store: &PageStore, quest: &Quest<'_>, pages: u32) -> Donors {
        let mut heaps = Vec::new();
        if !quest.pool.is_kept_for_replay() {
            heaps.push(Arc::clone(&quest.heap));
        }
        if self.policy.cross_stream == CrossStream::Wait && !quest.device.is_capturing() {
            heaps.extend(self.lenders(quest, true).into_iter().map(|(_, heap)| heap));
        }
        let mut search = Search::new(store, &heaps);
        for heap in &heaps {
            // The block in front of the window does not count, so more than needed is looked for.
            search.look_in(heap, LOOKS, pages.saturating_mul(4).max(PAGES));
        }
        let mut found = search.found;
        let longest = found.iter().map(|free| free.middle.1).max().unwrap_or(0);
        found.sort_by_key(|free| std::cmp::Reverse((free.is_own, free.pages)));
        let (whole, parts) = found.into_iter().partition(FreeHandle::is_whole);
        Donors { whole, parts, longest }
    }
}

impl Donors {
    /// The largest handles that are free as a whole.
    pub(super) fn largest(&self, count: usize) -> impl Iterator<Item = HandleAt> {
        self.whole.iter().take(count).map(|free| free.handle)
    }

    /// The most pages that one of them can fill.
    pub(super) fn longest(&self) -> u32 {
        self.longest
    }

    /// Fills so many pages, as far as it goes, from handles that have no page in the free blocks
    /// `kept` and are not `taken`. Whole handles from the largest; then what serves the rest best:
    /// a stretch inside one handle that is all that is needed, the tail of one, one more whole
    /// handle, all of which moves. `heads`: also the head of one, which leaves ghosts in the way
    /// of what may grow there.
    pub(super) fn fill(
        &self,
        needed: u32,
        margin: Margin,
        kept: &[BlockIndex],
        taken: &FxHashSet<HandleAt>,
        heads: bool,
    ) -> Filling {
        let (mut filling, mut left) = (Filling::default(), needed);
        let allowed = |free: &&FreeHandle| {
            !taken.contains(&free.handle) && !free.blocks.iter().any(|block| kept.contains(block))
        };
        let parts = || self.parts.iter().filter(allowed);
        let inside = parts().filter(|free| {
            let (first, count) = free.middle;
            count >= needed && first <= margin.left && free.pages - first - needed <= margin.right
        });
        if let Some(free) = inside.min_by_key(|free| free.middle.1) {
            let (first, _) = free.middle;
            filling.tail = Some(Piece { handle: free.handle, first, count: needed });
            return filling;
        }
        // Those that are larger than what is left.
        let mut larger = Vec::new();
        for free in self.whole.iter().filter(allowed) {
            if left == 0 {
                break;
            }
            if free.pages <= left {
                left -= free.pages;
                filling.whole.push(free.first(free.pages));
            } else {
                larger.push(free);
            }
        }
        if left == 0 {
            return filling;
        }
        let fits_left = |free: &FreeHandle, count: u32| free.pages - count <= margin.left;
        let fits_right = |free: &FreeHandle, count: u32| free.pages - count <= margin.right;
        let tail = parts().filter(|free| free.tail >= left && fits_left(free, left));
        let whole = larger.into_iter().filter(|free| fits_right(free, left));
        if let Some(free) = tail.min_by_key(|free| free.tail) {
            filling.tail = Some(free.last(left));
            return filling;
        }
        if let Some(free) = whole.min_by_key(|free| free.pages) {
            filling.whole.push(free.first(free.pages));
            return filling;
        }
        let tails = parts().filter(|free| free.tail > 0 && fits_left(free, free.tail.min(left)));
        if let Some(free) = tails.max_by_key(|free| free.tail.min(left)) {
            filling.tail = Some(free.last(free.tail.min(left)));
            left -= free.tail.min(left);
        }
        let used = filling.tail.map(|piece| piece.handle);
        let ends = parts().filter(|free| {
            let count = free.head.min(left);
            heads && count > 0 && Some(free.handle) != used && fits_right(free, count)
        });
        if let Some(free) = ends.max_by_key(|free| free.head.min(left)) {
            filling.head = Some(free.first(free.head.min(left)));
        }
        filling
    }
}

/// The handles of which no page is in use, in these heaps.
pub(super) fn free_handles(store: &PageStore, heaps: &[Arc<Heap>]) -> Vec<HandleAt> {
    let mut search = Search::new(store, heaps);
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
    seen: FxHashSet<HandleAt>,
    found: Vec<FreeHandle>,
    /// The free blocks of the first heap in which the handle that is looked at has pages.
    blocks: Vec<BlockIndex>,
    /// Whether it has free pages in another heap.
    strange: bool,
    /// Pages of the handles found that are free as a whole.
    whole: u32,
}

impl<'a> Search<'a> {
    fn new(store: &'a PageStore, heaps: &'a [Arc<Heap>]) -> Self {
        Search {
            store,
            heaps,
            seen: FxHashSet::default(),
            found: Vec::new(),
            blocks: Vec::new(),
            strange: false,
            whole: 0,
        }
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
        self.blocks.clear();
        self.strange = false;
        let (mut page, mut head, mut tail, mut middle) = (0, 0, 0, (0, 0));
        while page < pages {
            let free = self.free_from(handle, page);
            head = if page == 0 { free } else { head };
            tail = if page + free == pages { free } else { 0 };
            middle = if free > middle.1 { (page, free) } else { middle };
            page += free + 1;
        }
        if middle.1 > 0 {
            self.whole += if head == pages { pages } else { 0 };
            let blocks = std::mem::take(&mut self.blocks);
            let is_own = !std::mem::take(&mut self.strange);
            self.found.push(FreeHandle { handle, pages, head, tail, middle, blocks, is_own });
        }
    }

    /// How many pages of a handle are free from one on.
    fn free_from(&mut self, handle: HandleAt, from: u32) -> u32 {
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
            self.strange |= place != 0;
            if place == 0 && !self.blocks.contains(&run.block) {
                self.blocks.push(run.block);
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
