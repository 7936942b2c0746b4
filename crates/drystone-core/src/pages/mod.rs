//! The pages of one device: handles, where they are mapped, and where each page is at home.
//!
//! A *handle* is physical memory that can only be mapped whole. A *mapping* is one place where it is
//! mapped, in an *arena*. Each page of a handle has one *home*: the mapping through which its bytes
//! are in use or free. Its other mappings are *ghosts* there:
//!
//! ```text
//! handle        0   1   2   3
//! mapping A   [ x | x |   |   ]      pages 0 and 1 are at home here, 2 and 3 are ghosts
//! mapping B   [   |   | x | x ]      and here it is the other way round
//! ```
//!
//! What is at home in an arena is tiled by blocks; what is a ghost or not mapped is a hole. A page
//! goes from one home to another (is *re-homed*) by leaving a free block at the one and filling a
//! hole at the other; if the handle is mapped at both, that takes no driver call. A page without a
//! home is *in hand*: only the holder of the lock knows it.
//!
//! Everything here is a book about what the driver was told. The lock around it is held through
//! whole slow paths, driver calls included; nothing on the fast path waits for it.

mod check;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

pub(crate) use room::Room;

use crate::driver::{HandleId, HandleKind};
use crate::heap::{Heap, Pages};
use crate::ticket::Stamp;
use crate::units::{Kind, PAGE, PAGE_SHIFT};

/// The index of a handle.
pub(crate) type HandleAt = u32;
/// The index of a mapping.
pub(crate) type MappingAt = u32;
/// The index of an arena.
pub(crate) type ArenaAt = u32;

/// No mapping: a page in hand, or addresses at which nothing is mapped.
const NOWHERE: MappingAt = u32::MAX;

/// Physical memory.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: HandleId,
    pub(crate) kind: HandleKind,
    /// For each page the mapping where it is at home.
    homes: Box<[MappingAt]>,
    mappings: Vec<MappingAt>,
}

impl Handle {
    pub(crate) fn pages(&self) -> u32 {
        self.homes.len() as u32
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.pages()) * PAGE
    }

    /// Where it is mapped.
    pub(crate) fn mappings(&self) -> &[MappingAt] {
        &self.mappings
    }
}

/// A place where a handle is mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) handle: HandleAt,
    pub(crate) arena: ArenaAt,
    /// The page of the arena at which page 0 of the handle is mapped.
    pub(crate) first: u32,
    /// How many pages are at home here.
    homes: u32,
    /// What the arena's stream must have passed before it may be unmapped, since it became a mere
    /// ghost.
    pub(crate) stamp: Stamp,
    /// Its place among the ghosts.
    ghost: u64,
    /// Whether the device may use it. Not so if the driver refused that and the unmapping too.
    pub(crate) usable: bool,
}

/// A reserved range of addresses that belongs to a heap.
pub(crate) struct Arena {
    pub(crate) heap: Arc<Heap>,
    /// Its index among the heap's segments.
    pub(crate) at: u32,
    pub(crate) base: u64,
    pub(crate) kind: Kind,
    /// For each page what is mapped there.
    slots: Vec<MappingAt>,
    pub(crate) room: Room,
}

impl Arena {
    pub(crate) fn pages(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.slots.len() as u64 * PAGE
    }

    /// The address of a page.
    pub(crate) fn address(&self, page: u32) -> u64 {
        self.base + (u64::from(page) << PAGE_SHIFT)
    }
}

/// Consecutive pages of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) handle: HandleAt,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Piece {
    pub(crate) fn end(&self) -> u32 {
        self.first + self.count
    }

    /// Whether they have a page in common.
    pub(crate) fn overlaps(&self, other: &Piece) -> bool {
        self.handle == other.handle && self.first < other.end() && other.first < self.end()
    }
}

/// What is to be found at a page of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing is mapped.
    Empty,
    /// A page that is at home here.
    Home(MappingAt),
    /// A page that is at home elsewhere, or in hand.
    Ghost(MappingAt),
}

/// How many sizes are kept in mind, and how many places for each.
const SIZES: usize = 1 << 14;
const STARTS: usize = 8;

/// The book; see the module text.
#[derive(Default)]
pub(crate) struct PageStore {
    handles: Slab<Handle>,
    mappings: Slab<Mapping>,
    arenas: Slab<Arena>,
    /// The arenas by heap and segment.
    by_segment: FxHashMap<(u32, u32), ArenaAt>,
    /// The arenas by heap and kind.
    by_heap: FxHashMap<(u32, Kind), Vec<ArenaAt>>,
    /// Where blocks were put, by heap, kind and granules.
    memory: FxHashMap<(u32, Kind, u32), Vec<(ArenaAt, u32)>>,
    /// Mappings at which no page is at home, by the time when the last one left.
    ghosts: BTreeMap<u64, MappingAt>,
    clock: u64,
    /// Mappings with pages at home that are not the first of their handle.
    away: BTreeSet<MappingAt>,
    /// Handles with all pages in hand that the driver would not take back.
    stranded: Vec<HandleAt>,
    /// Ranges of former arenas that the driver would not take back yet: base and bytes.
    stranded_ranges: Vec<(u64, u64)>,
    /// Handles of the host that are free, and the stamp when that was first seen.
    left: FxHashMap<HandleAt, Stamp>,
}

impl PageStore {
    pub(crate) fn handle(&self, at: HandleAt) -> &Handle {
        &self.handles[at as usize]
    }

    pub(crate) fn mapping(&self, at: MappingAt) -> &Mapping {
        &self.mappings[at as usize]
    }

    pub(crate) fn arena(&self, at: ArenaAt) -> &Arena {
        &self.arenas[at as usize]
    }

    pub(crate) fn arenas(&self) -> impl Iterator<Item = (ArenaAt, &Arena)> {
        self.arenas.iter().map(|(at, arena)| (at as u32, arena))
    }

    /// What is mapped: address and bytes.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = (u64, u64)> {
        self.mappings.iter().map(|(_, mapping)| {
            let address = self.arena(mapping.arena).address(mapping.first);
            (address, self.handle(mapping.handle).bytes())
        })
    }

    /// Whether anything is mapped in an arena.
    pub(crate) fn is_bare(&self, at: ArenaAt) -> bool {
        let arena = self.arena(at);
        arena.room.longest().is_some_and(|room| room.count as usize + 1 == arena.slots.len())
    }

    /// Enters an arena; its last page stays without memory, so that it never is one free block.
    pub(crate) fn add_arena(
        &mut self,
        heap: Arc<Heap>,
        at: u32,
        base: u64,
        pages: u32,
        kind: Kind,
    ) -> ArenaAt {
        let slots = vec![NOWHERE; pages as usize];
        let room = Room::new(pages - 1);
        let segment = (heap.id, at);
        let arena = self.arenas.insert(Arena { heap, at, base, kind, slots, room }) as u32;
        self.by_segment.insert(segment, arena);
        self.by_heap.entry((segment.0, kind)).or_default().push(arena);
        arena
    }

    /// Forgets an arena in which nothing is mapped.
    pub(crate) fn remove_arena(&mut self, at: ArenaAt) {
        debug_assert!(self.arenas[at as usize].slots.iter().all(|&slot| slot == NOWHERE));
        let arena = self.arenas.remove(at as usize);
        self.by_segment.remove(&(arena.heap.id, arena.at));
        if let Some(all) = self.by_heap.get_mut(&(arena.heap.id, arena.kind)) {
            all.retain(|&other| other != at);
        }
        self.memory.retain(|_, starts| {
            starts.retain(|(arena, _)| *arena != at);
            !starts.is_empty()
        });
    }

    /// The arenas of a heap for one kind.
    pub(crate) fn arenas_of(&self, heap: u32, kind: Kind) -> impl Iterator<Item = ArenaAt> {
        let all = self.by_heap.get(&(heap, kind)).cloned().unwrap_or_default();
        all.into_iter()
    }

    /// Where blocks of this size were put before, the latest first.
    pub(crate) fn remembered(&self, heap: u32, kind: Kind, units: u32) -> Vec<(ArenaAt, u32)> {
        let known = self.memory.get(&(heap, kind, units));
        known.map(|starts| starts.iter().rev().copied().collect()).unwrap_or_default()
    }

    /// Keeps in mind where a block was put: an arena, and an offset in granules.
    pub(crate) fn remember(
        &mut self,
        heap: u32,
        kind: Kind,
        units: u32,
        (arena, start): (ArenaAt, u32),
    ) {
        if self.memory.len() >= SIZES {
            self.memory.clear();
        }
        let starts = self.memory.entry((heap, kind, units)).or_default();
        starts.retain(|known| *known != (arena, start));
        starts.push((arena, start));
        if starts.len() > STARTS {
            starts.remove(0);
        }
    }

    /// The arena of a segment of a heap.
    pub(crate) fn arena_of(&self, heap: u32, segment: u32) -> Option<ArenaAt> {
        self.by_segment.get(&(heap, segment)).copied()
    }

    /// Enters a handle, all of whose pages are in hand.
    pub(crate) fn add_handle(&mut self, id: HandleId, kind: HandleKind, pages: u32) -> HandleAt {
        let homes = vec![NOWHERE; pages as usize].into();
        self.handles.insert(Handle { id, kind, homes, mappings: Vec::new() }) as u32
    }

    /// Forgets a handle that is mapped nowhere.
    pub(crate) fn remove_handle(&mut self, at: HandleAt) {
        debug_assert!(self.handles[at as usize].mappings.is_empty());
        self.handles.remove(at as usize);
        self.left.remove(&at);
    }

    /// Enters a mapping at which no page is at home yet.
    pub(crate) fn add_mapping(
        &mut self,
        handle: HandleAt,
        arena: ArenaAt,
        first: u32,
    ) -> MappingAt {
        self.clock += 1;
        let ghost = self.clock;
        let mapping = Mapping { handle, arena, first, homes: 0, stamp: 0, ghost, usable: true };
        let at = self.mappings.insert(mapping) as u32;
        self.ghosts.insert(ghost, at);
        let pages = Pages::new(first, self.handles[handle as usize].pages());
        let arena = &mut self.arenas[arena as usize];
        arena.slots[first as usize..pages.end() as usize].fill(at);
        arena.room.take(pages);
        self.handles[handle as usize].mappings.push(at);
        at
    }

    /// Forgets a mapping at which no page is at home.
    pub(crate) fn remove_mapping(&mut self, at: MappingAt) {
        let mapping = self.mappings.remove(at as usize);
        debug_assert!(mapping.homes == 0);
        self.ghosts.remove(&mapping.ghost);
        let handle = &mut self.handles[mapping.handle as usize];
        handle.mappings.retain(|&other| other != at);
        // Another one may have become the first.
        if let Some(first) = handle.mappings.first() {
            self.away.remove(first);
        }
        let pages = Pages::new(mapping.first, handle.pages());
        let arena = &mut self.arenas[mapping.arena as usize];
        arena.slots[pages.first as usize..pages.end() as usize].fill(NOWHERE);
        arena.room.give(pages);
    }

    /// What is at a page of an arena.
    pub(crate) fn slot(&self, arena: ArenaAt, page: u32) -> Slot {
        match self.arenas[arena as usize].slots.get(page as usize) {
            None | Some(&NOWHERE) => Slot::Empty,
            Some(&at) => {
                let mapping = &self.mappings[at as usize];
                let page_of_handle = (page - mapping.first) as usize;
                let home = self.handles[mapping.handle as usize].homes[page_of_handle];
                if home == at { Slot::Home(at) } else { Slot::Ghost(at) }
            }
        }
    }

    /// The piece of a handle that is mapped at these pages, as far as it is the same handle's.
    pub(crate) fn piece(&self, at: MappingAt, pages: Pages) -> Piece {
        let mapping = &self.mappings[at as usize];
        let first = pages.first - mapping.first;
        let end = (pages.end() - mapping.first).min(self.handles[mapping.handle as usize].pages());
        Piece { handle: mapping.handle, first, count: end - first }
    }

    /// The home of a page of a handle: its mapping, and how many pages from there on have the same.
    /// None if the page is in hand.
    pub(crate) fn home(&self, handle: HandleAt, page: u32) -> (Option<MappingAt>, u32) {
        let homes = &self.handles[handle as usize].homes[page as usize..];
        let count = homes.iter().take_while(|&&home| home == homes[0]).count() as u32;
        (Some(homes[0]).filter(|&home| home != NOWHERE), count)
    }

    /// Takes pages in hand that have left a mapping, whose stream has used them up to `stamp`.
    pub(crate) fn take(&mut self, piece: Piece, stamp: Stamp) {
        let handle = &mut self.handles[piece.handle as usize];
        for home in &mut handle.homes[piece.first as usize..piece.end() as usize] {
            let at = std::mem::replace(home, NOWHERE);
            let mapping = &mut self.mappings[at as usize];
            mapping.homes -= 1;
            mapping.stamp = stamp;
            if mapping.homes == 0 {
                self.clock += 1;
                mapping.ghost = self.clock;
                self.ghosts.insert(mapping.ghost, at);
                self.away.remove(&at);
            }
        }
    }

    /// Gives pages in hand a home at a mapping of their handle.
    pub(crate) fn settle(&mut self, piece: Piece, at: MappingAt) {
        let mapping = &mut self.mappings[at as usize];
        debug_assert!(mapping.handle == piece.handle && piece.count > 0);
        if mapping.homes == 0 {
            self.ghosts.remove(&mapping.ghost);
        }
        mapping.homes += piece.count;
        let handle = &mut self.handles[piece.handle as usize];
        if handle.mappings.first() != Some(&at) {
            self.away.insert(at);
        }
        let homes = &mut handle.homes[piece.first as usize..piece.end() as usize];
        debug_assert!(homes.iter().all(|&home| home == NOWHERE));
        homes.fill(at);
    }

    /// Whether no page is at home at the mapping.
    pub(crate) fn is_ghost(&self, at: MappingAt) -> bool {
        self.mappings[at as usize].homes == 0
    }

    /// No page may get its home at the mapping: the device may not use it.
    pub(crate) fn make_unusable(&mut self, at: MappingAt) {
        self.mappings[at as usize].usable = false;
    }

    /// Keeps a handle in mind that the driver would not take back.
    pub(crate) fn strand(&mut self, handle: HandleAt) {
        self.stranded.push(handle);
    }

    /// Those handles, to try again.
    pub(crate) fn take_stranded(&mut self) -> Vec<HandleAt> {
        std::mem::take(&mut self.stranded)
    }

    /// Takes one of those of a kind for another use: the largest of at most so many pages that is
    /// mapped nowhere.
    pub(crate) fn take_spare(&mut self, kind: HandleKind, most: u32) -> Option<HandleAt> {
        let spare = |at: &HandleAt| {
            let handle = self.handle(*at);
            handle.kind == kind && handle.mappings.is_empty() && handle.pages() <= most
        };
        let all = self.stranded.iter().copied().filter(spare);
        let largest = all.max_by_key(|&at| self.handle(at).pages())?;
        self.stranded.retain(|&other| other != largest);
        Some(largest)
    }

    /// When a handle that is free was first seen to be, or the stamp now.
    pub(crate) fn left_at(&mut self, handle: HandleAt, now: Stamp) -> Stamp {
        *self.left.entry(handle).or_insert(now)
    }

    /// Forgets when handles were left, but for these.
    pub(crate) fn keep_left(&mut self, keep: impl Fn(HandleAt) -> bool) {
        self.left.retain(|&handle, _| keep(handle));
    }

    /// Keeps addresses in mind that are to go back to the driver.
    pub(crate) fn strand_range(&mut self, base: u64, bytes: u64) {
        self.stranded_ranges.push((base, bytes));
    }

    /// Those addresses, to try.
    pub(crate) fn take_stranded_ranges(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.stranded_ranges)
    }

    /// Bytes of the stranded handles of a kind.
    pub(crate) fn stranded_bytes(&self, kind: HandleKind) -> u64 {
        let handles = self.stranded.iter().map(|&at| self.handle(at));
        handles.filter(|handle| handle.kind == kind).map(Handle::bytes).sum()
    }

    /// Mappings with pages at home that are not the first of their handle.
    pub(crate) fn away(&self) -> impl Iterator<Item = MappingAt> + '_ {
        self.away.iter().copied()
    }

    /// The ghosts from the oldest.
    pub(crate) fn ghosts(&self) -> impl Iterator<Item = MappingAt> + '_ {
        self.ghosts.values().copied()
    }

    pub(crate) fn ghost_count(&self) -> usize {
        self.ghosts.len()
    }
}
