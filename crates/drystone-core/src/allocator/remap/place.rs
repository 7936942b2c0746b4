//! Choosing the window: behind which free block, or at which addresses where nothing is mapped.

use super::NoWindow;
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::block::BlockIndex;
use crate::driver::Driver;
use crate::heap::{FreeRun, Pages, Segment};
use crate::pages::{ArenaAt, MappingAt, PageStore, Piece, Slot};
use crate::table::Place;
use crate::units::{GRANULES_PER_PAGE, PAGE};

/// The free blocks behind which a window is looked for: the largest.
const LOOKS: usize = 16;

/// A page range of a hole, and what it takes to bring pages there.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) arena: ArenaAt,
    pub(super) pages: Pages,
    /// Pieces that are mapped there as ghosts and free at home, with their mapping there.
    pub(super) ghosts: Vec<(Piece, MappingAt)>,
    /// Pages at the end at which nothing is mapped.
    pub(super) empty: u32,
    /// The free block in front, which stays out of what is gathered.
    pub(super) front: Option<BlockIndex>,
}

impl<D: Driver> Allocator<D> {
    /// The window that needs the fewest pages mapped.
    pub(super) fn place(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
    ) -> Result<Window, NoWindow> {
        let Quest { heap, fit, .. } = quest;
        let need = fit.units_to_find();
        let mut best: Option<Window> = None;
        let runs: Vec<FreeRun> = {
            let mut core = heap.lock();
            let runs = core.runs(fit.kind, 1).take(LOOKS);
            runs.filter(|run| run.hole.is_some()).collect()
        };
        for run in runs {
            let Some(arena) = store.arena_of(heap.id, run.segment) else { continue };
            best = better(best, self.walk(store, quest, arena, run, need));
        }
        if best.as_ref().is_some_and(|window| window.empty == 0) {
            return best.ok_or(NoWindow::Lost);
        }
        best = better(best, self.fresh(store, quest, need));
        if best.is_none() {
            self.add_arena(store, quest, need.div_ceil(GRANULES_PER_PAGE))?;
            best = self.fresh(store, quest, need);
        }
        best.ok_or(NoWindow::Ended(NoSegment::Full))
    }

    /// The window behind a free block, as far as pages can be brought there.
    fn walk(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        arena: ArenaAt,
        run: FreeRun,
        need: u32,
    ) -> Option<Window> {
        let hole = run.hole?;
        let count = need.checked_sub(run.units)?.div_ceil(GRANULES_PER_PAGE);
        let pages = Pages::new(hole.first, count);
        if pages.end() > hole.end() {
            return None;
        }
        let mut window =
            Window { arena, pages, ghosts: Vec::new(), empty: 0, front: Some(run.block) };
        let mut page = pages.first;
        while page < pages.end() {
            let rest = Pages::new(page, pages.end() - page);
            match store.slot(arena, page) {
                Slot::Home(_) => return None,
                Slot::Empty => {
                    let room = store.arena(arena).room.around(page)?;
                    if room.end() < pages.end() {
                        return None;
                    }
                    window.empty = rest.count;
                    break;
                }
                Slot::Ghost(_) if quest.pool.is_kept_for_replay() => return None,
                Slot::Ghost(at) => {
                    let piece = store.piece(at, rest);
                    let twice = |(other, _): &(Piece, _)| other.overlaps(&piece);
                    if window.ghosts.iter().any(twice)
                        || !store.mapping(at).usable
                        || !self.is_free(store, quest, piece, &window)
                    {
                        return None;
                    }
                    page += piece.count;
                    window.ghosts.push((piece, at));
                }
            }
        }
        Some(window)
    }

    /// A window where nothing is mapped, behind what is mapped and free if it is.
    fn fresh(&self, store: &PageStore, quest: &Quest<'_>, need: u32) -> Option<Window> {
        let own = store
            .arenas()
            .filter(|(_, arena)| arena.heap.id == quest.heap.id && arena.kind == quest.fit.kind);
        let rooms = own.filter_map(|(at, arena)| Some((arena.room.longest()?, at)));
        let (room, arena) = rooms.max_by_key(|(room, _)| room.count)?;
        let front = {
            let mut core = quest.heap.lock();
            core.run_before(store.arena(arena).at, room.first)
        };
        let short = need.checked_sub(front.map_or(0, |run| run.units))?;
        let count = short.div_ceil(GRANULES_PER_PAGE);
        (count <= room.count).then(|| Window {
            arena,
            pages: Pages::new(room.first, count),
            ghosts: Vec::new(),
            empty: count,
            front: front.map(|run| run.block),
        })
    }

    /// Whether a piece is free where it is at home, and not meant for the window already.
    fn is_free(&self, store: &PageStore, quest: &Quest<'_>, piece: Piece, window: &Window) -> bool {
        let mut page = piece.first;
        while page < piece.end() {
            let (home, count) = store.home(piece.handle, page);
            let count = count.min(piece.end() - page);
            let Some(home) = home else { return false };
            let mapping = store.mapping(home);
            let arena = store.arena(mapping.arena);
            if arena.heap.id != quest.heap.id {
                return false;
            }
            let first = mapping.first + page;
            let run = arena.heap.lock().run_around(arena.at, first);
            let covers = |run: &FreeRun| {
                first + count <= run.pages.end()
                    && !(window.arena == mapping.arena && window.front == Some(run.block))
            };
            if !run.as_ref().is_some_and(covers) {
                return false;
            }
            page += count;
        }
        true
    }

    /// Reserves addresses for an arena of the request's heap that has room for so many pages.
    fn add_arena(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        pages: u32,
    ) -> Result<(), NoWindow> {
        let Quest { device, heap, term, fit, .. } = quest;
        let held =
            store.arenas().filter(|(_, arena)| arena.heap.id == heap.id && arena.kind == fit.kind);
        let held = held.map(|(_, arena)| arena.bytes()).sum();
        let bytes = self.policy.arena(device.total, held, u64::from(pages) * PAGE);
        let base = self.driver.address_reserve(device.id, bytes).map_err(NoSegment::Failed)?;
        let mut core = heap.lock();
        if !core.is_term(*term) {
            drop(core);
            self.driver.address_free(device.id, base, bytes).map_err(NoSegment::Failed)?;
            return Err(NoSegment::Retired.into());
        }
        let at = core.add_arena(Segment::arena(base, bytes, fit.kind));
        heap.counters.of(fit.kind).segment_in(0);
        self.table.insert(base, bytes, Place { heap: heap.id, segment: at });
        drop(core);
        let pages = (bytes / PAGE) as u32;
        store.add_arena(std::sync::Arc::clone(heap), at, base, pages, fit.kind);
        Ok(())
    }
}

/// Of two windows the one that needs fewer pages mapped.
fn better(one: Option<Window>, other: Option<Window>) -> Option<Window> {
    match (one, other) {
        (Some(one), Some(other)) if other.empty < one.empty => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}
