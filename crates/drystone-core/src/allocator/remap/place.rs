//! Choosing the window: where the pages for a request are to be, with the least to be moved.
//!
//! Candidates are where a block of this size was put before, the largest free blocks beside holes
//! (extended to either side), and addresses at which nothing is mapped. Each is surveyed: what is
//! free there already, what would only have to change homes, what would have to be mapped.

use std::sync::Arc;

use super::NoWindow;
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::block::BlockIndex;
use crate::driver::Driver;
use crate::heap::{FreeRun, Pages, Segment};
use crate::pages::{ArenaAt, MappingAt, PageStore, Piece, Slot};
use crate::table::Place;
use crate::units::{GRANULES_PER_PAGE, PAGE};

/// The free blocks beside holes that are tried: the largest.
const LOOKS: usize = 64;

/// What moving a page costs besides driver calls, in µs: a page that is not moved keeps the layout
/// that an earlier iteration built. Found by replaying, see docs/remapping.md.
const MOVE_US: u64 = 20;
/// What mapping a handle costs on a busy H100, in µs, and unmapping one.
const MAP_US: u64 = 36;
const UNMAP_US: u64 = 45;

/// A range of an arena, and what it takes to make all of it free.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) arena: ArenaAt,
    /// In granules of the arena.
    pub(super) start: u32,
    pub(super) units: u32,
    /// The parts that are holes.
    pub(super) holes: Vec<Pages>,
    /// Pieces that are mapped there as ghosts and free at home, with their mapping there.
    pub(super) ghosts: Vec<(Piece, MappingAt)>,
    /// The parts at which nothing is mapped, or nothing but what `dead` names.
    pub(super) empty: Vec<Pages>,
    /// Ghosts that are in the way, and that nothing uses any more.
    pub(super) dead: Vec<MappingAt>,
    /// Free blocks that the range has a part of: their pages stay where they are.
    pub(super) free: Vec<BlockIndex>,
}

impl Window {
    pub(super) fn empty_pages(&self) -> u32 {
        self.empty.iter().map(|pages| pages.count).sum()
    }

    /// About what it costs in µs where handles have so many pages.
    fn cost(&self, pages_per_handle: u32) -> u64 {
        let moved: u32 = self.ghosts.iter().map(|(piece, _)| piece.count).sum();
        let empty = self.empty_pages();
        let maps = u64::from(empty.div_ceil(pages_per_handle)) * MAP_US;
        maps + u64::from(moved + empty) * MOVE_US + self.dead.len() as u64 * UNMAP_US
    }
}

impl<D: Driver> Allocator<D> {
    /// The cheapest window for a request.
    pub(super) fn place(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
    ) -> Result<Window, NoWindow> {
        let usual = self.policy.handle_pages(quest.device.reserved());
        let units = quest.fit.units_to_find();
        let best = |store: &PageStore, starts: Vec<(ArenaAt, u32)>| {
            let windows = starts
                .into_iter()
                .filter_map(|(arena, start)| self.survey(store, quest, arena, start, units));
            windows.min_by_key(|window| window.cost(usual))
        };
        let mut starts = self.starts(store, quest);
        let fresh = self.fresh(store, quest);
        starts.extend(fresh);
        if fresh.is_none() && starts.is_empty() {
            self.add_arena(store, quest, units.div_ceil(GRANULES_PER_PAGE))?;
            starts.extend(self.fresh(store, quest));
        }
        if let Some(window) = best(store, starts) {
            return Ok(window);
        }
        self.add_arena(store, quest, units.div_ceil(GRANULES_PER_PAGE))?;
        let starts = self.fresh(store, quest).into_iter().collect();
        best(store, starts).ok_or(NoWindow::Ended(NoSegment::Full))
    }

    /// Where a window may start, but for fresh addresses.
    fn starts(&self, store: &PageStore, quest: &Quest<'_>) -> Vec<(ArenaAt, u32)> {
        let Quest { heap, fit, .. } = quest;
        let units = fit.units_to_find();
        let mut starts = store.remembered(heap.id, fit.kind, units);
        let mut core = heap.lock();
        let runs: Vec<FreeRun> = core.runs(fit.kind, 1).take(LOOKS).collect();
        drop(core);
        for run in runs {
            let Some(arena) = store.arena_of(heap.id, run.segment) else { continue };
            if run.hole.is_some() {
                starts.push((arena, run.offset));
            }
            if run.offset % GRANULES_PER_PAGE == 0 && units > run.units {
                let before = (units - run.units).next_multiple_of(GRANULES_PER_PAGE);
                starts.extend(run.offset.checked_sub(before).map(|start| (arena, start)));
            }
        }
        starts
    }

    /// The start of addresses at which nothing is mapped, with room to both sides for windows to
    /// grow.
    fn fresh(&self, store: &PageStore, quest: &Quest<'_>) -> Option<(ArenaAt, u32)> {
        let Quest { heap, fit, .. } = quest;
        let own = store.arenas_of(heap.id, fit.kind);
        let rooms = own.filter_map(|at| Some((store.arena(at).room.longest()?, at)));
        let (room, at) = rooms.max_by_key(|(room, _)| room.count)?;
        let count = fit.units_to_find().div_ceil(GRANULES_PER_PAGE);
        let spare = room.count.checked_sub(count)?;
        let gap = self.policy.gap(store.arena(at).bytes()).min(spare / 2);
        // Nothing grows to the left from the first page of an arena.
        let skip = if room.first == 0 { 0 } else { gap };
        Some((at, (room.first + skip) * GRANULES_PER_PAGE))
    }

    /// What it takes to make a range free; none if a part of it is in use.
    fn survey(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        arena: ArenaAt,
        start: u32,
        units: u32,
    ) -> Option<Window> {
        let mut window = Window {
            arena,
            start,
            units,
            holes: Vec::new(),
            ghosts: Vec::new(),
            empty: Vec::new(),
            dead: Vec::new(),
            free: Vec::new(),
        };
        let at = store.arena(arena).at;
        let end = start.checked_add(units)?;
        let mut here = start;
        while here < end {
            let mut core = quest.heap.lock();
            let hole = core.hole_around(at, here / GRANULES_PER_PAGE);
            let run = if hole.is_none() { Some(core.run_at(at, here)?) } else { None };
            drop(core);
            if let Some(run) = run {
                window.free.push(run.block);
                here = run.offset + run.units;
                continue;
            }
            let hole = hole.filter(|_| here % GRANULES_PER_PAGE == 0)?;
            let first = here / GRANULES_PER_PAGE;
            let last = hole.end().min(end.div_ceil(GRANULES_PER_PAGE));
            window.holes.push(Pages::new(first, last - first));
            here = last * GRANULES_PER_PAGE;
        }
        for hole in window.holes.clone() {
            self.survey_hole(store, quest, &mut window, hole)?;
        }
        Some(window)
    }

    fn survey_hole(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        window: &mut Window,
        hole: Pages,
    ) -> Option<()> {
        let mut page = hole.first;
        // The last page of an arena stays a hole.
        if hole.end() >= store.arena(window.arena).pages() {
            return None;
        }
        while page < hole.end() {
            let rest = Pages::new(page, hole.end() - page);
            match store.slot(window.arena, page) {
                Slot::Home(_) => return None,
                Slot::Empty => {
                    let room = store.arena(window.arena).room.around(page)?;
                    let count = room.end().min(hole.end()) - page;
                    add_empty(&mut window.empty, Pages::new(page, count));
                    page += count;
                }
                Slot::Ghost(_) if quest.pool.is_kept_for_replay() => return None,
                Slot::Ghost(at) => {
                    let piece = store.piece(at, rest);
                    let twice = |(other, _): &(Piece, _)| other.overlaps(&piece);
                    if store.mapping(at).usable
                        && !window.ghosts.iter().any(twice)
                        && self.is_free(store, quest, piece, window)
                    {
                        window.ghosts.push((piece, at));
                    } else if store.is_ghost(at) && self.is_dead(store, quest, at) {
                        window.dead.push(at);
                        add_empty(&mut window.empty, Pages::new(page, piece.count));
                    } else {
                        return None;
                    }
                    page += piece.count;
                }
            }
        }
        Some(())
    }

    /// Whether a piece is free where it is at home, outside the free blocks of the window.
    fn is_free(&self, store: &PageStore, quest: &Quest<'_>, piece: Piece, window: &Window) -> bool {
        let mut page = piece.first;
        while page < piece.end() {
            let (Some(home), count) = store.home(piece.handle, page) else { return false };
            let count = count.min(piece.end() - page);
            let mapping = store.mapping(home);
            let arena = store.arena(mapping.arena);
            if arena.heap.id != quest.heap.id {
                return false;
            }
            let first = mapping.first + page;
            let run = arena.heap.lock().run_around(arena.at, first);
            let covers = |run: &FreeRun| {
                first + count <= run.pages.end() && !window.free.contains(&run.block)
            };
            if !run.as_ref().is_some_and(covers) {
                return false;
            }
            page += count;
        }
        true
    }

    /// Whether the stream of a ghost is known to have passed its last use.
    fn is_dead(&self, store: &PageStore, quest: &Quest<'_>, at: MappingAt) -> bool {
        let stamp = store.mapping(at).stamp;
        quest.heap.lock().ticker().is_some_and(|ticker| ticker.has_passed(stamp))
    }

    /// Reserves addresses for an arena of the request's heap that has room for so many pages.
    fn add_arena(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        pages: u32,
    ) -> Result<(), NoWindow> {
        let Quest { device, heap, term, fit, .. } = quest;
        let held = store.arenas_of(heap.id, fit.kind).map(|at| store.arena(at).bytes()).sum();
        let bytes = self.policy.arena(device.total, held, u64::from(pages) * PAGE);
        let base = self.driver.address_reserve(device.id, bytes).map_err(NoSegment::Failed)?;
        let mut core = heap.lock();
        if !core.is_term(*term) {
            drop(core);
            store.strand_range(base, bytes);
            return Err(NoSegment::Retired.into());
        }
        let at = core.add_arena(Segment::arena(base, bytes, fit.kind));
        heap.counters.of(fit.kind).segment_in(0);
        self.table.insert(base, bytes, Place { heap: heap.id, segment: at });
        drop(core);
        store.add_arena(Arc::clone(heap), at, base, (bytes / PAGE) as u32, fit.kind);
        Ok(())
    }
}

/// Adds pages behind the others, joined with the last of them if they touch.
fn add_empty(empty: &mut Vec<Pages>, pages: Pages) {
    match empty.last_mut() {
        Some(last) if last.end() == pages.first => last.count += pages.count,
        _ => empty.push(pages),
    }
}
