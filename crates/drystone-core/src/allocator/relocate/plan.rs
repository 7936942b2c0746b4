//! Which movable blocks go where: a model of what is live and free in each handle or segment.
//!
//! They are taken in order of their live bytes. The emptiest gives its blocks to the fullest that
//! has room, and so on until the two meet: what has given is not given to, what was given to does
//! not give.

use std::collections::{HashMap, HashSet};

use super::{MovableId, MoveLimits};
use crate::block::{Block, State};
use crate::device::Device;
use crate::driver::StreamId;
use crate::heap::{Fit, Segment, Term};
use crate::pages::{ArenaAt, HandleAt, PageStore, Slot};
use crate::units::{GRANULE_SHIFT, GRANULES_PER_PAGE, Kind};

/// What goes back to the device as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whole {
    Handle(HandleAt),
    /// Of a heap.
    Segment(u32, u32),
}

/// Free bytes inside a whole, or the new place of a block. Sizes in granules.
#[derive(Clone, Copy, Debug)]
struct Span {
    heap: u32,
    term: Term,
    kind: Kind,
    segment: u32,
    start: u32,
    address: u64,
    units: u32,
}

/// A movable block.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: MovableId,
    heap: u32,
    fit: Fit,
}

/// A handle or a segment.
#[derive(Debug, Default)]
struct Part {
    /// Granules in use.
    live: u64,
    /// Whether something in it cannot be moved.
    fixed: bool,
    candidates: Vec<Candidate>,
    spans: Vec<Span>,
    /// Granules of the largest span.
    largest: u32,
    /// Whether blocks were moved into it.
    received: bool,
}

/// Where a block is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) id: MovableId,
    pub(super) heap: u32,
    pub(super) term: Term,
    pub(super) segment: u32,
    /// The granule of the segment or arena at which it is to start.
    pub(super) start: u32,
    pub(super) fit: Fit,
}

/// Movable blocks by address, with the stream that they were asked for on.
pub(super) type Candidates = HashMap<u64, (MovableId, StreamId, Fit)>;

/// The moves that are still to be planned.
pub(super) struct Plan {
    /// From the most live bytes to the fewest; those without any are not among them.
    parts: Vec<Part>,
    /// Parts from here on have given, or cannot.
    end: usize,
    moved: HashSet<MovableId>,
}

impl Plan {
    /// Looks at every block of a device.
    pub(super) fn new(device: &Device, store: Option<&PageStore>, candidates: &Candidates) -> Plan {
        let mut survey = Survey { store, candidates, parts: HashMap::new() };
        for (pool, heap) in device.totals.heaps() {
            let mut core = heap.lock();
            let Some(key) = core.key.filter(|_| core.serves(device.id, pool)) else { continue };
            let home = Home {
                heap: heap.id,
                term: core.term(),
                stream: key.stream,
                moves: !core.is_sealed() && !core.spills() && !device.is_kept_for_replay(pool),
            };
            core.for_each_segment(|segment, blocks| survey.look_at(&home, segment, blocks));
        }
        let mut parts: Vec<Part> = survey.parts.into_values().collect();
        parts.retain(|part| part.live > 0);
        parts.sort_by_key(|part| std::cmp::Reverse(part.live));
        Plan { end: parts.len(), parts, moved: HashSet::new() }
    }

    /// New places for all blocks of one more handle or segment, within the limits.
    pub(super) fn next(&mut self, limits: MoveLimits) -> Option<Vec<Placed>> {
        while self.end > 0 {
            self.end -= 1;
            let part = &self.parts[self.end];
            if part.fixed || part.received {
                continue;
            }
            let blocks = part.candidates.iter().filter(|block| !self.moved.contains(&block.id));
            let blocks: Vec<Candidate> = blocks.copied().collect();
            let bytes = blocks.iter().map(|block| block.fit.requested).sum::<u64>();
            if blocks.is_empty() || blocks.len() > limits.moves || bytes > limits.bytes {
                continue;
            }
            if let Some(group) = self.place_all(blocks) {
                self.moved.extend(group.iter().map(|placed| placed.id));
                return Some(group);
            }
        }
        None
    }

    /// Takes spans for all blocks, in the parts before the end; none, and nothing taken, if there
    /// is no room for one of them.
    fn place_all(&mut self, mut blocks: Vec<Candidate>) -> Option<Vec<Placed>> {
        blocks.sort_by_key(|block| std::cmp::Reverse(block.fit.units));
        let mut group = Vec::new();
        let mut before: HashMap<usize, (Vec<Span>, u32)> = HashMap::new();
        for block in blocks {
            let part = (0..self.end).find_map(|at| {
                let part = &self.parts[at];
                let mut spans = part.spans.iter();
                // Most parts that are full are passed over at once.
                let fits = |span: &Span| span.has_room_for(&block);
                let span = (part.largest >= block.fit.units).then(|| spans.position(fits))??;
                Some((at, span))
            });
            let Some((at, span)) = part else {
                for (at, (spans, largest)) in before {
                    (self.parts[at].spans, self.parts[at].largest) = (spans, largest);
                }
                return None;
            };
            let part = &mut self.parts[at];
            before.entry(at).or_insert_with(|| (part.spans.clone(), part.largest));
            group.push(part.take(span, &block));
        }
        before.keys().for_each(|&at| self.parts[at].received = true);
        Some(group)
    }
}

impl Span {
    /// How far from its start a block would begin.
    fn skip(&self, fit: &Fit) -> u32 {
        let aligned = self.address.next_multiple_of(fit.align);
        u32::try_from((aligned - self.address) >> GRANULE_SHIFT).unwrap_or(u32::MAX)
    }

    fn has_room_for(&self, block: &Candidate) -> bool {
        (self.heap, self.kind) == (block.heap, block.fit.kind)
            && self.skip(&block.fit).saturating_add(block.fit.units) <= self.units
    }
}

impl Part {
    /// Takes the place for a block out of a span that has room.
    fn take(&mut self, at: usize, block: &Candidate) -> Placed {
        let span = self.spans.swap_remove(at);
        let Span { heap, term, segment, .. } = span;
        let skip = span.skip(&block.fit);
        let used = skip + block.fit.units;
        let behind = Span {
            start: span.start + used,
            address: span.address + (u64::from(used) << GRANULE_SHIFT),
            units: span.units - used,
            ..span
        };
        let rest = [Span { units: skip, ..span }, behind];
        self.spans.extend(rest.into_iter().filter(|span| span.units > 0));
        self.largest = self.spans.iter().map(|span| span.units).max().unwrap_or(0);
        Placed { id: block.id, heap, term, segment, start: span.start + skip, fit: block.fit }
    }
}

/// The heap that is looked at.
struct Home {
    heap: u32,
    term: Term,
    stream: StreamId,
    /// Whether its blocks may be moved.
    moves: bool,
}

struct Survey<'a> {
    store: Option<&'a PageStore>,
    candidates: &'a Candidates,
    parts: HashMap<Whole, Part>,
}

impl Survey<'_> {
    fn look_at(
        &mut self,
        home: &Home,
        segment: &Segment,
        blocks: &mut dyn Iterator<Item = (u64, &Block)>,
    ) {
        for (address, block) in blocks.filter(|(_, block)| block.state() != State::Hole) {
            let at = block.segment();
            let arena = self.store.and_then(|store| store.arena_of(home.heap, at));
            let mut start = block.offset;
            while start < block.end() {
                let (whole, end) = match arena {
                    Some(arena) => match self.handle_at(arena, start) {
                        Some((handle, end)) => (Whole::Handle(handle), end.min(block.end())),
                        None => break,
                    },
                    None => (Whole::Segment(home.heap, at), block.end()),
                };
                let offset = u64::from(start - block.offset) << GRANULE_SHIFT;
                let span = Span {
                    heap: home.heap,
                    term: home.term,
                    kind: segment.kind,
                    segment: at,
                    start,
                    address: address + offset,
                    units: end - start,
                };
                let part = self.parts.entry(whole).or_default();
                part.fixed |= !home.moves || segment.is_pinned(start, end);
                part.add(home, block, address, span, self.candidates);
                start = end;
            }
        }
    }

    /// The handle that is at home around a granule of an arena, and where it ends.
    fn handle_at(&self, arena: ArenaAt, granule: u32) -> Option<(HandleAt, u32)> {
        let store = self.store?;
        let Slot::Home(at) = store.slot(arena, granule / GRANULES_PER_PAGE) else { return None };
        let mapping = store.mapping(at);
        let end = mapping.first + store.handle(mapping.handle).pages();
        Some((mapping.handle, end * GRANULES_PER_PAGE))
    }
}

impl Part {
    /// Counts a block, or the part of it that is `span`.
    fn add(
        &mut self,
        home: &Home,
        block: &Block,
        address: u64,
        span: Span,
        candidates: &Candidates,
    ) {
        if block.state() == State::Free {
            if home.moves {
                self.largest = self.largest.max(span.units);
                self.spans.push(span);
            }
            return;
        }
        self.live += u64::from(span.units);
        let known = candidates.get(&address).filter(|_| block.state() == State::Movable);
        match known {
            // One that was lent is used in the order of another stream.
            Some(&(id, stream, fit)) if stream == home.stream => {
                self.candidates.push(Candidate { id, heap: home.heap, fit });
            }
            _ => self.fixed = true,
        }
    }
}
