//! Pages that return to where they were, which takes no driver call since their handles are mapped
//! there still: home, to where they were mapped first, in a valley of what is live (see
//! `heap/valley.rs`); and to the place that a request had the time before (see `heap/recall.rs`).

use super::survey::Window;
use crate::allocator::Allocator;
use crate::allocator::slow::Quest;
use crate::driver::Driver;
use crate::heap::Pages;
use crate::pages::{MappingAt, PageStore, Piece};
use crate::units::{GRANULE, Kind, PAGE};

/// Mappings that are looked at in one slow path.
const LOOKS: usize = 1024;

impl<D: Driver> Allocator<D> {
    /// Lets the free pages of the request's heap go home if it is in a valley; not while another
    /// thread's slow path is underway, which a request that the cache can serve does not wait for.
    pub(in crate::allocator) fn go_home(&self, quest: &Quest<'_>) {
        let Some(store) = &quest.device.pages else { return };
        if !quest.heap.lock().take_valley() || quest.pool.is_kept_for_replay() {
            return;
        }
        let Some(mut store) = store.try_lock() else { return };
        let away: Vec<MappingAt> = store.away().take(LOOKS).collect();
        for at in away {
            self.send_free(&mut store, quest, at);
        }
        let strays = store.away().next().is_some();
        let mut core = quest.heap.lock();
        core.went_home(&quest.heap.counters, strays);
        quest.device.totals.sum_up(&quest.heap, &mut core.thresholds);
    }

    /// Serves a request at the place that it had the time before, if all pages that are missing there
    /// are mapped there and free; not while another thread's slow path is underway.
    pub(in crate::allocator) fn return_to_place(&self, quest: &Quest<'_>) -> Option<u64> {
        let Quest { device, ref heap, term, fit, .. } = *quest;
        if fit.kind != Kind::Large || fit.align != GRANULE {
            return None;
        }
        let mut store = device.pages.as_ref()?.try_lock()?;
        let core = heap.lock();
        if !core.is_term(term) {
            return None;
        }
        let (segment, start) = core.recalled_place(fit.units)?;
        drop(core);
        let arena = store.arena_of(heap.id, segment)?;
        if store.arena(arena).kind != Kind::Large {
            return None;
        }
        let window = Window::over(&store, quest, arena, start, fit.units)?.survey(&store, quest)?;
        if !window.empty.is_empty() {
            return None;
        }
        let address = self.carry(&mut store, quest, &window, Vec::new()).ok()?;
        heap.lock().has_strays();
        Some(address)
    }

    /// Lets the free pages at a mapping go home.
    fn send_free(&self, store: &mut PageStore, quest: &Quest<'_>, at: MappingAt) {
        let mapping = store.mapping(at);
        let (handle, first) = (mapping.handle, mapping.first);
        let Some(to) = store.handle(handle).mappings().first().copied() else { return };
        let (from, home) = (store.arena(mapping.arena), store.arena(store.mapping(to).arena));
        let heap = &quest.heap;
        let own = from.heap.id == heap.id && home.heap.id == heap.id;
        if !own || !store.mapping(to).usable {
            return;
        }
        let (from_kind, home_kind) = (from.kind, home.kind);
        let (from, home, to_first) = (from.at, home.at, store.mapping(to).first);
        let pages_of = store.handle(handle).pages();
        let mut page = 0;
        while page < pages_of {
            let (at_home, count) = store.home(handle, page);
            if at_home != Some(at) {
                page += count;
                continue;
            }
            let mut core = heap.lock();
            let run = core.run_around(from, first + page);
            let Some(run) = run else {
                page += 1;
                continue;
            };
            let count = count.min(run.pages.end() - (first + page));
            if !heap.drain(&mut core, from, Pages::new(first + page, count)) {
                return;
            }
            let stamp = core.ticker().map_or(0, |ticker| ticker.stamp());
            let piece = Piece { handle, first: page, count };
            store.take(piece, stamp);
            store.settle(piece, to);
            let pages = Pages::new(to_first + page, count);
            core.set_spots(home, pages, page, pages_of);
            heap.fill(&mut core, home, pages);
            drop(core);
            let pool = quest.pool.id;
            let bytes = u64::from(count) * PAGE;
            quest.device.totals.pages_left((pool, from_kind), (pool, home_kind), bytes);
            page += count;
        }
    }
}
