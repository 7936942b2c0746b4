//! The segments of a heap: taking them in, and letting idle ones go.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::marks::Marks;
use super::pins::Pins;
use super::strand::Spot;
use super::{Heap, HeapCore, Term};
use crate::block::{Block, BlockIndex, Blocks, NONE, State};
use crate::ticket::{Stamp, Ticker};
use crate::units::{GRANULE_SHIFT, Kind, PAGE_SHIFT};

/// log2 of the granules in a chunk of the look-up table, by kind: 4 KiB for small blocks; 256 KiB
/// for large ones, of which only a remainder and an aligned block can be smaller.
const CHUNK_SHIFT: [u32; 2] = [3, 9];

/// A range of addresses, cut into blocks: memory from one driver allocation, or an arena.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The driver's address.
    pub(crate) base: u64,
    /// Size in granules.
    pub(crate) units: u32,
    pub(crate) kind: Kind,
    /// The block at the base.
    pub(super) first: BlockIndex,
    /// For each chunk of granules the first block that starts in it, or [`NONE`]: the flat
    /// look-up of pointers. A chunk is a few times the least block, so that the table stays in
    /// the processor's caches and a look-up still takes a step or two.
    starts: Box<[BlockIndex]>,
    /// The chunks in which a block starts.
    started_in: Marks,
    /// log2 of the granules in a chunk.
    chunk_shift: u32,
    /// Of an arena: the holes by their offset in granules. None for memory that is all there.
    pub(super) holes: Option<BTreeMap<u32, BlockIndex>>,
    /// Of an arena: for each page at home there, which one it is of its handle.
    pub(super) spots: Box<[Spot]>,
    pub(super) pins: Pins,
    /// The heap's tick when the segment last became one free block.
    pub(super) idle_since: u64,
    /// The stamp of the heap's stream at that time: when it has passed, no stream uses the bytes.
    pub(super) idle_stamp: Stamp,
}

impl Segment {
    /// A segment that no heap holds yet.
    pub(crate) fn new(base: u64, bytes: u64, kind: Kind) -> Self {
        let units = u32::try_from(bytes >> GRANULE_SHIFT).expect("segments are below 2 TiB");
        // Zeroed memory comes from the system untouched: a large block costs one page of it.
        let chunk_shift = CHUNK_SHIFT[kind as usize];
        let chunks = (units >> chunk_shift) as usize + 1;
        let starts = vec![NONE; chunks].into();
        let started_in = Marks::new(chunks);
        let first = NONE;
        let (holes, spots, idle_since, idle_stamp) = (None, Box::default(), 0, 0);
        Segment {
            base,
            units,
            kind,
            first,
            starts,
            started_in,
            chunk_shift,
            holes,
            spots,
            pins: Pins::default(),
            idle_since,
            idle_stamp,
        }
    }

    /// An arena that no heap holds yet: nothing but a hole.
    pub(crate) fn arena(base: u64, bytes: u64, kind: Kind) -> Self {
        let spots = vec![Spot::default(); (bytes >> PAGE_SHIFT) as usize].into();
        Segment { holes: Some(BTreeMap::new()), spots, ..Segment::new(base, bytes, kind) }
    }

    /// Whether it is an arena, whose memory comes and goes by pages.
    pub(crate) fn is_arena(&self) -> bool {
        self.holes.is_some()
    }

    #[inline]
    fn chunk_of(&self, offset: u32) -> usize {
        (offset >> self.chunk_shift) as usize
    }

    /// The first block that starts in the chunk around a granule, or [`NONE`].
    #[inline]
    pub(super) fn first_near(&self, granule: u32) -> BlockIndex {
        self.starts[self.chunk_of(granule)]
    }

    /// The block around a granule.
    pub(super) fn around(&self, granule: u32, blocks: &Blocks) -> BlockIndex {
        // The first block that starts in a chunk may start behind the granule: then it is one of
        // an earlier chunk.
        let mut chunk = self.chunk_of(granule);
        let mut found = NONE;
        while let Some(near) = self.started_in.last_up_to(chunk) {
            found = self.starts[near];
            if blocks[found].offset <= granule || near == 0 {
                break;
            }
            chunk = near - 1;
        }
        while found != NONE && blocks[found].end() <= granule {
            found = blocks[found].next;
        }
        found
    }

    /// The one block of an empty range.
    pub(super) fn started_whole(&mut self, index: BlockIndex) {
        self.first = index;
        self.starts[0] = index;
        self.started_in.set(0);
    }

    /// A block starts at `offset` from now on, the one before it at `before`.
    #[inline]
    pub(super) fn started(&mut self, before: u32, offset: u32, index: BlockIndex) {
        let chunk = self.chunk_of(offset);
        if self.chunk_of(before) != chunk {
            self.starts[chunk] = index;
            self.started_in.set(chunk);
        }
    }

    /// The block `gone` starts no more; the one before it starts at `before`.
    #[inline]
    pub(super) fn ended(&mut self, before: u32, gone: &Block) {
        let chunk = self.chunk_of(gone.offset);
        if self.chunk_of(before) != chunk {
            let stays = gone.next != NONE && self.chunk_of(gone.end()) == chunk;
            self.starts[chunk] = if stays { gone.next } else { NONE };
            if !stays {
                self.started_in.clear(chunk);
            }
        }
    }

    /// Whether the table finds exactly these blocks, given in order of address.
    pub(super) fn finds<'a>(&self, blocks: impl Iterator<Item = (BlockIndex, &'a Block)>) -> bool {
        let mut expected = vec![NONE; self.starts.len()];
        for (index, block) in blocks {
            let slot = &mut expected[self.chunk_of(block.offset)];
            if *slot == NONE {
                *slot = index;
            }
        }
        expected[..] == self.starts[..]
    }

    /// The stamp of its heap's stream when it last became idle.
    pub(crate) fn idle_stamp(&self) -> Stamp {
        self.idle_stamp
    }

    /// Size in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.units) << GRANULE_SHIFT
    }
}

/// A segment that is one free block, as seen when its heap was last locked.
#[derive(Clone, Debug)]
pub(crate) struct IdleSegment {
    index: u32,
    /// The term of its heap then: in another one the index and the base may be those of another
    /// segment.
    term: Term,
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) kind: Kind,
    /// Allocations of the heap since it became idle.
    pub(crate) age: u64,
    /// What the heap's stream must have passed before another stream may use it.
    pub(crate) stamp: Stamp,
}

impl HeapCore {
    /// The blocks of a segment in order of address.
    pub(super) fn blocks_of<'a>(
        &'a self,
        segment: &Segment,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        std::iter::successors(Some(segment.first), |&index| Some(self.blocks[index].next))
            .take_while(|&index| index != NONE)
    }

    /// Shows every segment, with its blocks and their addresses in order.
    pub(crate) fn for_each_segment<'a>(
        &'a mut self,
        mut show: impl FnMut(&Segment, &mut dyn Iterator<Item = (u64, &'a Block)>),
    ) {
        self.unpark_all();
        for segment in self.segments.iter().flatten() {
            let mut blocks = self.blocks_of(segment).map(|index| {
                let block = &self.blocks[index];
                (segment.base + (u64::from(block.offset) << GRANULE_SHIFT), block)
            });
            show(segment, &mut blocks);
        }
    }

    /// Takes a segment in as one free block: the segment's index and the block's.
    pub(super) fn add_segment(&mut self, mut segment: Segment) -> (u32, BlockIndex) {
        let at = self.vacant_segments.pop().unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() as u32 - 1
        });
        let index = self.blocks.insert(Block::new_free(at, 0, segment.units));
        segment.started_whole(index);
        let kind = segment.kind;
        self.segments[at as usize] = Some(segment);
        self.file(index, kind);
        (at, index)
    }

    /// Lets a segment go if it is there, starts at `base` and is one free block without a pin.
    pub(super) fn remove_segment(&mut self, at: u32, base: u64) -> Option<Segment> {
        let segment = self.segments.get(at as usize)?.as_ref()?;
        let (index, kind) = (segment.first, segment.kind);
        let block = &self.blocks[index];
        // An arena never becomes one free block: its last page stays a hole.
        let whole = block.state() == State::Free && block.next == NONE;
        if segment.base != base || !whole || !segment.pins.is_empty() {
            return None;
        }
        self.unfile(index, kind);
        self.blocks.remove(index);
        self.vacant_segments.push(at);
        let mut segment = self.segments[at as usize].take()?;
        segment.starts[0] = NONE;
        segment.started_in.clear(0);
        segment.first = NONE;
        Some(segment)
    }

    /// The segments that are one free block, without a pin.
    pub(crate) fn idle_segments(&mut self) -> Vec<IdleSegment> {
        self.unpark_all();
        if self.idle == 0 {
            return Vec::new();
        }
        let segments = self.segments.iter().enumerate();
        let idle = segments.filter_map(|(index, segment)| {
            let segment = segment.as_ref()?;
            let block = &self.blocks[segment.first];
            let whole = block.state() == State::Free && block.next == NONE;
            (whole && segment.pins.is_empty()).then(|| IdleSegment {
                index: index as u32,
                term: self.term,
                base: segment.base,
                bytes: segment.bytes(),
                kind: segment.kind,
                age: self.tick - segment.idle_since,
                stamp: segment.idle_stamp,
            })
        });
        idle.collect()
    }

    /// A segment that was away has ended somewhere: with the driver, in another heap, or here.
    pub(crate) fn came_to_rest(&mut self) {
        self.away -= 1;
    }

    /// The address of a block.
    #[inline]
    pub(crate) fn address_of(&self, index: BlockIndex) -> u64 {
        let block = &self.blocks[index];
        self.segment(block.segment()).base + (u64::from(block.offset) << GRANULE_SHIFT)
    }

    /// The tickets of the heap's own stream, while the heap is somebody's.
    pub(crate) fn ticker(&self) -> Option<&Arc<Ticker>> {
        self.ticker.as_ref()
    }
}

impl Heap {
    /// Takes a segment in, counted: its index and that of its one block.
    pub(crate) fn take_in(&self, core: &mut HeapCore, segment: Segment) -> (u32, BlockIndex) {
        // The new segment changes the sums that the parked block remembers.
        core.unpark_all();
        self.counters.of(segment.kind).segment_in(segment.bytes());
        core.add_segment(segment)
    }

    /// Lets an idle segment go, counted; none if it is not idle any more, or the heap serves
    /// another term. It is away until [`HeapCore::came_to_rest`] says where it ended.
    pub(crate) fn let_go(&self, core: &mut HeapCore, idle: &IdleSegment) -> Option<Segment> {
        if !core.is_term(idle.term) {
            return None;
        }
        let segment = core.remove_segment(idle.index, idle.base)?;
        core.away += 1;
        self.counters.of(segment.kind).segment_out(segment.bytes());
        Some(segment)
    }
}
