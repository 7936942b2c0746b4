//! Surveying a range of an arena: what is free there, what is free elsewhere but mapped there, what
//! would have to be mapped.

use rustc_hash::FxHashSet;

use crate::allocator::slow::Quest;
use crate::block::BlockIndex;
use crate::heap::{FreeRun, Pages};
use crate::pages::{ArenaAt, HandleAt, MappingAt, PageStore, Piece, Slot};
use crate::units::GRANULES_PER_PAGE;

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
    /// Handles that were met in it, of those that are mapped at more than two places.
    met: FxHashSet<HandleAt>,
    /// The free block in which a page was found last: the next is often in it too.
    last: Option<(ArenaAt, FreeRun)>,
}

impl Window {
    /// A range, and which of it are free blocks and holes; none if a block in it is live.
    pub(super) fn over(
        store: &PageStore,
        quest: &Quest<'_>,
        arena: ArenaAt,
        start: u32,
        units: u32,
    ) -> Option<Window> {
        let mut window = Window { start, units, ..Window::new(arena) };
        let at = store.arena(arena).at;
        let end = start.checked_add(units)?;
        let mut here = start;
        let mut core = quest.heap.lock();
        while here < end {
            let Some(hole) = core.hole_around(at, here / GRANULES_PER_PAGE) else {
                let run = core.run_at(at, here)?;
                window.free.push(run.block);
                here = run.offset + run.units;
                continue;
            };
            if !here.is_multiple_of(GRANULES_PER_PAGE) {
                return None;
            }
            let first = here / GRANULES_PER_PAGE;
            let last = hole.end().min(end.div_ceil(GRANULES_PER_PAGE));
            window.holes.push(Pages::new(first, last - first));
            here = last * GRANULES_PER_PAGE;
        }
        // The last page of an arena stays a hole.
        let pages = store.arena(arena).pages();
        Some(window).filter(|window| window.holes.iter().all(|hole| hole.end() < pages))
    }

    /// How many pages of its holes have nothing mapped; none if one of them is in use. Much faster
    /// than a survey.
    pub(super) fn bare_pages(&self, store: &PageStore) -> Option<u32> {
        let mut bare = 0;
        for hole in &self.holes {
            let mut page = hole.first;
            while page < hole.end() {
                let rest = Pages::new(page, hole.end() - page);
                page += match store.slot(self.arena, page) {
                    Slot::Home(_) => return None,
                    Slot::Ghost(at) => store.piece(at, rest).count,
                    Slot::Empty => {
                        let count = self.room_at(store, rest)?.count;
                        bare += count;
                        count
                    }
                };
            }
        }
        Some(bare)
    }

    /// What it takes to make the range free; none if a part of its holes cannot be had.
    pub(super) fn survey(mut self, store: &PageStore, quest: &Quest<'_>) -> Option<Window> {
        for hole in self.holes.clone() {
            self.survey_hole(store, quest, hole)?;
        }
        Some(self)
    }

    /// How far to the left of a page pages are free, or free elsewhere and mapped here, up to
    /// `most` of them: the first of them.
    pub(super) fn leftmost(
        store: &PageStore,
        quest: &Quest<'_>,
        arena: ArenaAt,
        page: u32,
        most: u32,
    ) -> u32 {
        let least = page.saturating_sub(most);
        let at = store.arena(arena).at;
        let mut window = Window::new(arena);
        let mut first = page;
        while first > least {
            let before = first - 1;
            match store.slot(arena, before) {
                Slot::Empty => break,
                Slot::Home(_) => {
                    let run = quest.heap.lock().run_around(at, before);
                    let Some(run) = run.filter(|run| run.pages.end() >= first) else { break };
                    window.free.push(run.block);
                    first = run.pages.first;
                }
                Slot::Ghost(mapping) => {
                    let from = store.mapping(mapping).first.max(least);
                    let piece = store.piece(mapping, Pages::new(from, first - from));
                    if !store.mapping(mapping).usable || !window.is_free(store, quest, piece) {
                        break;
                    }
                    first = from;
                }
            }
        }
        first
    }

    fn new(arena: ArenaAt) -> Window {
        Window {
            arena,
            start: 0,
            units: 0,
            holes: Vec::new(),
            ghosts: Vec::new(),
            empty: Vec::new(),
            dead: Vec::new(),
            free: Vec::new(),
            met: FxHashSet::default(),
            last: None,
        }
    }

    /// Pages that have to be mapped.
    pub(super) fn empty_pages(&self) -> u32 {
        self.empty.iter().map(|pages| pages.count).sum()
    }

    /// Pages that change homes at no cost.
    pub(super) fn ghost_pages(&self) -> u32 {
        self.ghosts.iter().map(|(piece, _)| piece.count).sum()
    }

    /// Pages of all its holes.
    pub(super) fn hole_pages(&self) -> u32 {
        self.holes.iter().map(|hole| hole.count).sum()
    }

    /// The first of these pages at which nothing is mapped.
    fn room_at(&self, store: &PageStore, pages: Pages) -> Option<Pages> {
        let room = store.arena(self.arena).room.around(pages.first)?;
        Some(Pages::new(pages.first, room.end().min(pages.end()) - pages.first))
    }

    fn survey_hole(&mut self, store: &PageStore, quest: &Quest<'_>, hole: Pages) -> Option<()> {
        let mut page = hole.first;
        while page < hole.end() {
            let rest = Pages::new(page, hole.end() - page);
            match store.slot(self.arena, page) {
                Slot::Home(_) => return None,
                Slot::Empty => {
                    let room = self.room_at(store, rest)?;
                    self.add_empty(room);
                    page = room.end();
                }
                Slot::Ghost(_) if quest.pool.is_kept_for_replay() => return None,
                Slot::Ghost(at) => {
                    let piece = store.piece(at, rest);
                    if store.mapping(at).usable
                        && !self.is_twice(store, piece)
                        && self.is_free(store, quest, piece)
                    {
                        self.ghosts.push((piece, at));
                    } else if store.is_ghost(at) && is_dead(store, quest, at) {
                        self.dead.push(at);
                        self.add_empty(Pages::new(page, piece.count));
                    } else {
                        return None;
                    }
                    page += piece.count;
                }
            }
        }
        Some(())
    }

    /// Whether a part of a piece is a ghost of the window already.
    fn is_twice(&mut self, store: &PageStore, piece: Piece) -> bool {
        // Mapped here, there, and at home.
        store.handle(piece.handle).mappings().len() > 2
            && !self.met.insert(piece.handle)
            && self.ghosts.iter().any(|(other, _)| other.overlaps(&piece))
    }

    /// Whether a piece is free where it is at home, outside the free blocks of the window.
    fn is_free(&mut self, store: &PageStore, quest: &Quest<'_>, piece: Piece) -> bool {
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
            let is_last = |(at, run): &(ArenaAt, FreeRun)| {
                *at == mapping.arena && (run.pages.first..run.pages.end()).contains(&first)
            };
            if !self.last.as_ref().is_some_and(is_last) {
                let run = arena.heap.lock().run_around(arena.at, first);
                self.last = run.map(|run| (mapping.arena, run));
            }
            let covers = |(_, run): &(ArenaAt, FreeRun)| {
                first + count <= run.pages.end() && !self.free.contains(&run.block)
            };
            if !self.last.as_ref().is_some_and(covers) {
                return false;
            }
            page += count;
        }
        true
    }

    /// Adds pages behind the other empty ones, joined with the last of them if they touch.
    fn add_empty(&mut self, pages: Pages) {
        match self.empty.last_mut() {
            Some(last) if last.end() == pages.first => last.count += pages.count,
            _ => self.empty.push(pages),
        }
    }
}

/// Whether a ghost can be unmapped: its stream is known to have passed its last use, and no capture
/// forbids it.
fn is_dead(store: &PageStore, quest: &Quest<'_>, at: MappingAt) -> bool {
    let stamp = store.mapping(at).stamp;
    !quest.device.is_capturing()
        && quest.heap.lock().ticker().is_some_and(|ticker| ticker.has_passed(stamp))
}
