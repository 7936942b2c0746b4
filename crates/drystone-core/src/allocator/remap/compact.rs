//! Compacting on demand: one window that holds all free handles of a heap, beside free memory that
//! cannot move.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::carry::Part;
use super::gather::{Filling, free_handles};
use super::survey::Window;
use super::{NoWindow, TRIES};
use crate::allocator::slow::{NoSegment, Quest};
use crate::allocator::{Allocator, Request};
use crate::device::Device;
use crate::driver::{Driver, DriverError};
use crate::heap::{Fit, FreeRun, Pages};
use crate::pages::{ArenaAt, HandleAt, PageStore, Piece, Slot};
use crate::units::{GRANULE, GRANULES_PER_PAGE, Kind, PAGE};

/// The free blocks beside holes that are tried: the largest.
const LOOKS: usize = 16;
/// Surveys of one window, until what is empty in it is what the free handles fill.
const SURVEYS: u32 = 4;

/// A window, and the free handles that fill its empty part.
struct Joint {
    window: Window,
    handles: Vec<HandleAt>,
}

impl<D: Driver> Allocator<D> {
    /// Lets the free handles of every heap of a device come together: bytes that were mapped
    /// elsewhere.
    pub(in crate::allocator) fn compact(&self, device: &Device) -> Result<u64, DriverError> {
        let Some(store) = &device.pages else { return Ok(0) };
        let mut gathered = 0;
        for (id, heap) in device.totals.heaps() {
            let found = {
                let core = heap.lock();
                let serves = core.serves(device.id, id) && !core.is_sealed() && !core.spills();
                core.key.filter(|_| serves).map(|key| (key.stream, core.term()))
            };
            let pool = device.pool(id).filter(|pool| !pool.is_kept_for_replay());
            let (Some((stream, term)), Some(pool)) = (found, pool) else { continue };
            let mut store = store.lock();
            // Another thread may take of what was found; and beside what came together more may have
            // room now. The largest free block grows each time.
            for _ in 0..TRIES {
                let free = free_handles(&store, std::slice::from_ref(&heap));
                let pages = pages_of(&store, &free);
                let size = u64::from(pages) * PAGE;
                let request = Request { size, align: GRANULE, device: device.id, stream };
                let units = pages * GRANULES_PER_PAGE;
                let fit = Fit { kind: Kind::Large, units, ..self.fit(size, GRANULE) };
                let (pool, heap) = (&pool, Arc::clone(&heap));
                let quest = Quest { device, pool, heap, term, fit: &fit, request: &request };
                match self.compact_heap(&mut store, &quest, &free) {
                    Err(NoWindow::Lost) => {}
                    Err(NoWindow::Ended(NoSegment::Failed(error))) => return Err(error),
                    Ok(0) | Err(NoWindow::Ended(NoSegment::Full | NoSegment::Retired)) => break,
                    Ok(bytes) => gathered += bytes,
                }
            }
            // What came together is to stay so, also in a valley.
            heap.lock().went_home(&heap.counters, false);
        }
        Ok(gathered)
    }

    /// Builds the largest window that can be made of free handles: bytes that moved there.
    fn compact_heap(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        free: &[HandleAt],
    ) -> Result<u64, NoWindow> {
        if free.is_empty() {
            return Ok(0);
        }
        let mut core = quest.heap.lock();
        let runs: Vec<FreeRun> = core.runs(Kind::Large, 1).take(LOOKS).collect();
        // Handles are taken from small blocks' arenas too.
        let small = core.runs(Kind::Small, 1).next().map_or(0, |run| run.units);
        let largest = runs.first().map_or(0, |run| run.units).max(small);
        drop(core);
        let mut best: Option<Joint> = None;
        let better = |joint: &Joint, best: &Option<Joint>| {
            best.as_ref().is_none_or(|best| joint.window.units > best.window.units)
        };
        for run in &runs {
            if let Some(joint) = self.beside(store, quest, run, free)?
                && better(&joint, &best)
            {
                best = Some(joint);
            }
        }
        if best.as_ref().is_none_or(|best| best.window.units < quest.fit.units) {
            if self.fresh(store, quest).is_none() {
                self.add_arena(store, quest, quest.fit.units / GRANULES_PER_PAGE)?;
            }
            let fresh = self.fresh(store, quest);
            let joint = fresh.and_then(|(arena, start)| {
                let units = quest.fit.units;
                let window =
                    Window::over(store, quest, arena, start, units)?.survey(store, quest)?;
                Some(Joint { window, handles: free.to_vec() })
            });
            best = joint.filter(|joint| better(joint, &best)).or(best);
        }
        let Some(Joint { window, handles }) = best.filter(|best| best.window.units > largest)
        else {
            return Ok(0);
        };
        let _awake = quest.device.outside_captures().ok_or(NoWindow::Lost)?;
        for &at in &window.dead {
            self.unmap(store, quest.device, at).map_err(NoSegment::Failed)?;
        }
        let whole =
            |&handle: &HandleAt| Piece { handle, first: 0, count: store.handle(handle).pages() };
        let whole: Vec<Piece> = handles.iter().map(whole).collect();
        let moved = whole.iter().map(|piece| piece.count).sum::<u32>() + window.ghost_pages();
        let part = window.empty.first().map(|&pages| {
            let filling = Filling { whole, ..Filling::default() };
            Part { pages, filling, handle_pages: 1, made: Vec::new() }
        });
        self.bring(store, quest, &window, part.into_iter().collect(), |_| {})?;
        Ok(u64::from(moved) * PAGE)
    }

    /// The window that begins with a free block, what adjoins it as ghosts, and all free handles
    /// behind that have no page there. None if there is no room for them.
    fn beside(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        run: &FreeRun,
        free: &[HandleAt],
    ) -> Result<Option<Joint>, NoWindow> {
        let Some(arena) = store.arena_of(quest.heap.id, run.segment) else { return Ok(None) };
        let end = (run.offset + run.units).div_ceil(GRANULES_PER_PAGE);
        let start = if run.offset.is_multiple_of(GRANULES_PER_PAGE) {
            let first = run.offset / GRANULES_PER_PAGE;
            Window::leftmost(store, quest, arena, first, first) * GRANULES_PER_PAGE
        } else {
            run.offset
        };
        let inside = |handle: &HandleAt| pages_inside(store, *handle, arena, run.pages);
        let mut behind = pages_of(store, free) - free.iter().map(inside).sum::<u32>();
        for _ in 0..SURVEYS {
            self.clear_ghosts(store, quest, arena, end, behind)?;
            let units = end * GRANULES_PER_PAGE - start + behind * GRANULES_PER_PAGE;
            let window = match Window::over(store, quest, arena, start, units)
                .and_then(|window| window.survey(store, quest))
            {
                Some(window) if window.empty.len() <= 1 => window,
                _ => return Ok(None),
            };
            let ghosts: FxHashSet<_> =
                window.ghosts.iter().map(|(piece, _)| piece.handle).collect();
            // Of a handle that has some pages at home there, in this block or another, the others
            // are its ghosts right beside it.
            let pages =
                Pages::new(start / GRANULES_PER_PAGE, end + behind - start / GRANULES_PER_PAGE);
            let apart = |handle: &HandleAt| {
                !ghosts.contains(handle) && pages_inside(store, *handle, arena, pages) == 0
            };
            let handles: Vec<HandleAt> = free.iter().copied().filter(apart).collect();
            let (empty, needed) = (window.empty_pages(), pages_of(store, &handles));
            if empty == needed {
                return Ok(Some(Joint { window, handles }));
            }
            behind = (behind + needed).saturating_sub(empty);
        }
        Ok(None)
    }

    /// Waits for the ghosts behind a free block that are in the way, so that they can go.
    fn clear_ghosts(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        arena: ArenaAt,
        from: u32,
        count: u32,
    ) -> Result<(), NoWindow> {
        let Some(_awake) = quest.device.outside_captures() else { return Err(NoWindow::Lost) };
        let mut page = from;
        while page < from + count {
            match store.slot(arena, page) {
                Slot::Home(_) => break,
                Slot::Ghost(at) => {
                    if store.is_ghost(at) {
                        self.wait_for_ghost(store, quest.device, at).map_err(NoSegment::Failed)?;
                    }
                    let mapping = store.mapping(at);
                    page = mapping.first + store.handle(mapping.handle).pages();
                }
                Slot::Empty => match store.arena(arena).room.around(page) {
                    Some(room) => page = room.end(),
                    None => break,
                },
            }
        }
        Ok(())
    }
}

/// The pages of handles.
fn pages_of(store: &PageStore, handles: &[HandleAt]) -> u32 {
    handles.iter().map(|&handle| store.handle(handle).pages()).sum()
}

/// How many pages of a handle are at home in these pages of an arena.
fn pages_inside(store: &PageStore, handle: HandleAt, arena: ArenaAt, pages: Pages) -> u32 {
    let held = store.handle(handle);
    let (mut page, mut inside) = (0, 0);
    while page < held.pages() {
        let (home, count) = store.home(handle, page);
        if let Some(mapping) = home.map(|home| store.mapping(home)).filter(|m| m.arena == arena) {
            let first = (mapping.first + page).max(pages.first);
            let end = (mapping.first + page + count).min(pages.end());
            inside += end.saturating_sub(first);
        }
        page += count;
    }
    inside
}
