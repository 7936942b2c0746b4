//! Choosing the window for a request, and what it is filled with: the plan that costs the least.
//!
//! Candidates are where a block of this size was put before, the largest free blocks beside holes
//! (extended to either side), where large free handles are mapped a second time, and addresses at
//! which nothing is mapped. Each is surveyed and priced: driver calls by what they take on a busy
//! GPU, and memory above the watermark by its [`crate::policy::Policy::page_price`].

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::carry::Part;
use super::gather::{Donors, Filling, Margin};
use super::survey::Window;
use super::{NoWindow, Sources};
use crate::allocator::Allocator;
use crate::allocator::slow::{NoSegment, Quest};
use crate::device::Device;
use crate::driver::{Driver, DriverErrorKind};
use crate::heap::{FreeRun, Segment};
use crate::pages::{ArenaAt, PageStore};
use crate::stats::Metric;
use crate::table::Place;
use crate::units::{GRANULES_PER_PAGE, PAGE, PAGE_SHIFT};

/// The free blocks beside holes that are tried: the largest.
const LOOKS: usize = 16;
/// The free handles whose ghosts are tried: the largest.
const ISLANDS: usize = 8;

/// What driver calls take on a busy H100, in µs: mapping a handle and letting the device use it,
/// making one besides, unmapping one. See docs/results/gpu/costs.jsonl.
const MAP_US: u64 = 36;
const CREATE_US: u64 = 10;
const UNMAP_US: u64 = 45;

/// A window and what its empty parts are filled with.
pub(super) struct Plan {
    pub(super) window: Window,
    pub(super) parts: Vec<Part>,
    cost: Cost,
}

/// What a plan costs: µs, and pages that are moved.
type Cost = (u64, u32);

/// How much may be reserved, and what more costs.
#[derive(Clone, Copy)]
struct Watermark {
    reserved: u64,
    /// Bytes that may be reserved before more has a price.
    free_of_price: u64,
    /// Bytes up to which new memory is taken in larger steps than needed.
    ample: u64,
    /// µs a page.
    price: u64,
}

impl<D: Driver> Allocator<D> {
    /// The cheapest plan for a request.
    pub(super) fn place(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        sources: Sources,
    ) -> Result<Plan, NoWindow> {
        let units = quest.fit.units_to_find();
        let donors = match sources {
            Sources::New => Donors::default(),
            _ => self.donors(store, quest, units.div_ceil(GRANULES_PER_PAGE)),
        };
        let mark = self.watermark(quest, sources);
        let mut plan = self.best(store, quest, sources, &donors, mark);
        let costs = |plan: &Plan| plan.cost.0 > 0;
        if plan.as_ref().is_none_or(costs) && self.look_at_stream(store, quest) {
            // Ghosts that were in the way are not any more.
            plan = self.best(store, quest, sources, &donors, mark);
        }
        if let Some(plan) = plan {
            return Ok(plan);
        }
        self.add_arena(store, quest, units.div_ceil(GRANULES_PER_PAGE))?;
        let plan = self.best(store, quest, sources, &donors, mark);
        plan.ok_or(NoWindow::Ended(NoSegment::Full))
    }

    /// Finds out how far the request's stream has come: ghosts that it has passed are no obstacle.
    /// True if it has come further than was known.
    fn look_at_stream(&self, store: &PageStore, quest: &Quest<'_>) -> bool {
        if store.ghost_count() == 0 {
            return false;
        }
        let Some(_awake) = quest.device.outside_captures() else { return false };
        let ticker = quest.device.tickers.of(quest.request.stream);
        let events = &quest.device.tickers.events;
        let known = ticker.passed();
        let asked = ticker
            .poll(&self.driver, events)
            .and_then(|()| ticker.request(&self.driver, events, ticker.stamp()));
        if let Err(error) = asked {
            // The ghosts stay in the way.
            tracing::warn!(%error, "cannot tell how far {} has come", ticker.stream);
        }
        ticker.passed() > known
    }

    fn best(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        sources: Sources,
        donors: &Donors,
        mark: Watermark,
    ) -> Option<Plan> {
        let mut starts = self.starts(store, quest, donors);
        starts.extend(self.fresh(store, quest));
        let units = quest.fit.units_to_find();
        let mut seen = FxHashSet::default();
        starts.retain(|start| seen.insert(*start));
        let largest = self.largest_piece(quest, donors);
        let outlined = starts.into_iter().filter_map(|(arena, start)| {
            let window = Window::over(store, quest, arena, start, units)?;
            let us = u64::from(window.bare_pages(store)?.div_ceil(largest)) * MAP_US;
            Some(((us, window.hole_pages()), window))
        });
        let mut windows: Vec<_> = outlined.enumerate().collect();
        // Those first that can be cheapest: most of the others are ruled out by that alone.
        windows.sort_by_key(|&(at, (least, _))| (least, at));
        let mut best: Option<(usize, Plan)> = None;
        for (at, (least, window)) in windows {
            // Of equals the first is taken.
            let is_beaten = |cost: Cost| {
                best.as_ref().is_some_and(|(first, plan)| (plan.cost, *first) <= (cost, at))
            };
            if is_beaten(least) {
                break;
            }
            let window = window.survey(store, quest);
            let window = window.filter(|window| !is_beaten(least_cost(window, largest)));
            let plan =
                window.and_then(|window| self.plan(store, quest, sources, window, donors, mark));
            debug_assert!(plan.as_ref().is_none_or(|plan| plan.cost >= least), "no lower bound");
            if let Some(plan) = plan
                && !is_beaten(plan.cost)
            {
                best = Some((at, plan));
            }
        }
        best.map(|(_, plan)| plan)
    }

    /// The most pages of a window that one handle can fill.
    fn largest_piece(&self, quest: &Quest<'_>, donors: &Donors) -> u32 {
        let (reserved, capacity) = (quest.device.reserved(), quest.device.limit_or_total());
        let made = |above| self.policy.handle_pages(reserved, capacity, above);
        donors.longest().max(made(false)).max(made(true))
    }

    /// How a surveyed window is filled best.
    fn plan(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        sources: Sources,
        window: Window,
        donors: &Donors,
        mark: Watermark,
    ) -> Option<Plan> {
        let ways = match sources {
            _ if window.empty.is_empty() => &[true][..],
            Sources::New => &[true],
            Sources::Watermark => &[true, false],
            Sources::Aliases => &[false],
        };
        let heads = sources == Sources::Aliases;
        let fill = |&new: &bool| {
            let parts = self.fill(store, quest, &window, donors, new, heads, mark);
            let cost = self.cost(&window, &parts, mark);
            (cost, parts)
        };
        let (cost, parts) = ways.iter().map(fill).min_by_key(|(cost, _)| *cost)?;
        Some(Plan { window, parts, cost })
    }

    /// What the empty parts of a window are filled with: new memory, or free pages first.
    #[allow(clippy::too_many_arguments)]
    fn fill(
        &self,
        store: &PageStore,
        quest: &Quest<'_>,
        window: &Window,
        donors: &Donors,
        new: bool,
        heads: bool,
        mark: Watermark,
    ) -> Vec<Part> {
        let mut taken: FxHashSet<_> = window.ghosts.iter().map(|(piece, _)| piece.handle).collect();
        let mut parts = Vec::new();
        for &pages in &window.empty {
            let room = store.arena(window.arena).room.around(pages.first);
            let margin = room.filter(|room| pages.end() <= room.end());
            let margin = margin.map_or(Margin { left: 0, right: 0 }, |room| Margin {
                left: pages.first - room.first,
                right: room.end() - pages.end(),
            });
            let mut filling = if new {
                Filling::new(pages.count)
            } else {
                donors.fill(pages.count, margin, &window.free, &taken, heads)
            };
            filling.new += pages.count.saturating_sub(filling.pages());
            if new && window.empty.len() == 1 {
                let ample = mark.ample.saturating_sub(mark.reserved) >> PAGE_SHIFT;
                let most = u64::from(pages.count + margin.right).min(ample) as u32;
                let grown = self.policy.growth(quest.device.own()).min(most);
                filling.new = filling.new.max(grown);
            }
            taken.extend(filling.pieces().map(|piece| piece.handle));
            let above = mark.reserved + u64::from(filling.new) * PAGE > mark.free_of_price;
            let most = self.policy.handle_pages(
                quest.device.reserved(),
                quest.device.limit_or_total(),
                above,
            );
            parts.push(Part { pages, filling, handle_pages: most, made: Vec::new() });
        }
        parts
    }

    fn cost(&self, window: &Window, parts: &[Part], mark: Watermark) -> Cost {
        let aliases: usize = parts.iter().map(|part| part.filling.pieces().count()).sum();
        let new: u32 = parts.iter().map(|part| part.filling.new).sum();
        let made = |part: &Part| self.policy.handles(part.filling.new, part.handle_pages).count();
        let made: usize = parts.iter().map(made).sum();
        let after = mark.reserved + u64::from(new) * PAGE;
        let above = (after.saturating_sub(mark.free_of_price) >> PAGE_SHIFT).min(u64::from(new));
        let us = aliases as u64 * MAP_US
            + made as u64 * (CREATE_US + MAP_US)
            + window.dead.len() as u64 * UNMAP_US
            + above * mark.price;
        (us, window.ghost_pages() + window.empty_pages() - new.min(window.empty_pages()))
    }

    /// Where a window may start, but for fresh addresses.
    fn starts(&self, store: &PageStore, quest: &Quest<'_>, donors: &Donors) -> Vec<(ArenaAt, u32)> {
        let Quest { heap, fit, .. } = quest;
        let units = fit.units_to_find();
        let mut starts = store.remembered(heap.id, fit.kind, units);
        let mut core = heap.lock();
        let beside = |run: &FreeRun| run.hole_before || run.hole_behind;
        let runs = core.runs(fit.kind, 1).take(8 * LOOKS).filter(beside);
        let runs: Vec<FreeRun> = runs.take(LOOKS).collect();
        drop(core);
        for run in runs {
            let Some(arena) = store.arena_of(heap.id, run.segment) else { continue };
            if run.hole_behind {
                starts.push((arena, run.offset));
            }
            if run.hole_before && units > run.units {
                let before = (units - run.units).next_multiple_of(GRANULES_PER_PAGE);
                starts.extend(run.offset.checked_sub(before).map(|start| (arena, start)));
            }
        }
        for handle in donors.largest(ISLANDS) {
            for &at in store.handle(handle).mappings() {
                let mapping = store.mapping(at);
                let arena = store.arena(mapping.arena);
                if store.is_ghost(at) && arena.heap.id == heap.id && arena.kind == fit.kind {
                    starts.push((mapping.arena, mapping.first * GRANULES_PER_PAGE));
                }
            }
        }
        // What lies to the left of these may be had as cheaply.
        let reach = 2 * units.div_ceil(GRANULES_PER_PAGE);
        for at in 0..starts.len() {
            let (arena, start) = starts[at];
            let page = start.div_ceil(GRANULES_PER_PAGE);
            let first = Window::leftmost(store, quest, arena, page, reach);
            if first < page {
                starts.push((arena, first * GRANULES_PER_PAGE));
            }
        }
        starts
    }

    /// The start of addresses at which nothing is mapped, with room to both sides for windows to
    /// grow.
    pub(super) fn fresh(&self, store: &PageStore, quest: &Quest<'_>) -> Option<(ArenaAt, u32)> {
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

    fn watermark(&self, quest: &Quest<'_>, sources: Sources) -> Watermark {
        let needed = self.policy.least_segment(quest.fit);
        let live = quest.device.totals.stats(None).all(Metric::ActiveBytes);
        let peak = live.peak.max(live.current + needed);
        let reserved = quest.device.own();
        match sources {
            Sources::New => Watermark { reserved, free_of_price: u64::MAX, ample: 0, price: 0 },
            Sources::Watermark => Watermark {
                reserved,
                free_of_price: self.policy.allowed_reserve(peak),
                ample: self.policy.ample_reserve(peak),
                price: self.policy.page_price(peak),
            },
            Sources::Aliases => {
                let price = u64::from(u32::MAX);
                Watermark { reserved, free_of_price: 0, ample: 0, price }
            }
        }
    }

    /// Reserves addresses: as many as the policy wants or, where there are not so many any more, as
    /// the window needs.
    fn reserve_addresses(
        &self,
        device: &Device,
        held: u64,
        needed: u64,
    ) -> Result<(u64, u64), NoSegment> {
        let wanted = self.policy.arena(device.total, held, needed);
        let least = self.policy.least_arena(needed);
        for bytes in [wanted, least] {
            match self.driver.address_reserve(device.id, bytes) {
                Ok(base) => return Ok((base, bytes)),
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => {}
                Err(error) => return Err(NoSegment::Failed(error)),
            }
        }
        Err(NoSegment::Full)
    }

    /// Reserves addresses for an arena of the request's heap that has room for so many pages.
    pub(super) fn add_arena(
        &self,
        store: &mut PageStore,
        quest: &Quest<'_>,
        pages: u32,
    ) -> Result<(), NoWindow> {
        let Quest { device, heap, term, fit, .. } = quest;
        let needed = u64::from(pages) * PAGE;
        if needed > device.total {
            return Err(NoSegment::Full.into());
        }
        let held = store.arenas_of(heap.id, fit.kind).map(|at| store.arena(at).bytes()).sum();
        let (base, bytes) = self.reserve_addresses(device, held, needed)?;
        let mut core = heap.lock();
        if !core.is_term(*term) {
            drop(core);
            store.strand_range(base, bytes);
            return Err(NoSegment::Retired.into());
        }
        let at = core.add_arena(Segment::arena(base, bytes, fit.kind));
        heap.counters.of(fit.kind).segment_in(0);
        device.totals.sum_up(heap, &mut core.thresholds);
        self.table.insert(base, bytes, Place { heap: heap.id, segment: at });
        drop(core);
        store.add_arena(Arc::clone(heap), at, base, (bytes / PAGE) as u32, fit.kind);
        Ok(())
    }
}

/// What a surveyed window costs at least, however it is filled: each of its empty parts takes as many
/// handles as if all were the largest. Where new ones are made, which moves fewer pages, that costs
/// more time.
fn least_cost(window: &Window, largest: u32) -> Cost {
    let mapped = window.empty.iter().map(|pages| u64::from(pages.count.div_ceil(largest)));
    let us = mapped.sum::<u64>() * MAP_US + window.dead.len() as u64 * UNMAP_US;
    (us, window.hole_pages())
}
