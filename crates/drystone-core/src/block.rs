//! Block records: 32 bytes each, known by index, with neighbours by index; off the device memory
//! that they describe.

use crate::units::GRANULE_SHIFT;

/// The index of a block record in its heap; 0 is no block.
pub(crate) type BlockIndex = u32;

/// No block.
pub(crate) const NONE: BlockIndex = 0;

/// What a block's bytes are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In a bin, reusable on the heap's stream.
    Free,
    /// Handed out.
    Used,
    /// Freed by its owner, but a recorded stream may still be using it.
    Pending,
    /// Freed last of its kind: reusable, but not yet merged with its neighbours and in no bin.
    Parked,
    /// Addresses of an arena with no page at home there.
    Hole,
    /// Handed out, and known to its owner by an id, so that it may be moved.
    Movable,
    /// A record of the slab that describes no block.
    Vacant,
}

/// One block. The three words at the end serve the state the block is in: see the accessors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Start, in granules from the segment's base.
    pub(crate) offset: u32,
    /// Size in granules.
    pub(crate) units: u32,
    /// The segment's index in the heap (29 bits) and the state (3 bits).
    segment_state: u32,
    /// The block before it in the segment, or [`NONE`].
    pub(crate) prev: BlockIndex,
    /// The block after it in the segment, or [`NONE`]; in a vacant record the next vacant one.
    pub(crate) next: BlockIndex,
    a: u32,
    b: u32,
    c: u32,
}

const STATE_SHIFT: u32 = 29;
const SEGMENT_MASK: u32 = (1 << STATE_SHIFT) - 1;

impl Block {
    const VACANT: Block = Block {
        offset: 0,
        units: 0,
        segment_state: 5 << STATE_SHIFT,
        prev: 0,
        next: 0,
        a: 0,
        b: 0,
        c: 0,
    };

    /// A free block that is in no bin yet.
    pub(crate) fn new_free(segment: u32, offset: u32, units: u32) -> Block {
        debug_assert!(segment <= SEGMENT_MASK);
        Block { offset, units, segment_state: segment, ..Block::VACANT }
    }

    /// The segment's index in the heap.
    #[inline]
    pub(crate) fn segment(&self) -> u32 {
        self.segment_state & SEGMENT_MASK
    }

    /// What the bytes are doing.
    #[inline]
    pub(crate) fn state(&self) -> State {
        match self.segment_state >> STATE_SHIFT {
            0 => State::Free,
            1 => State::Used,
            2 => State::Pending,
            3 => State::Parked,
            4 => State::Hole,
            6 => State::Movable,
            _ => State::Vacant,
        }
    }

    /// Size in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.units) << GRANULE_SHIFT
    }

    /// The end, in granules from the segment's base.
    #[inline]
    pub(crate) fn end(&self) -> u32 {
        self.offset + self.units
    }

    /// Free to used: with the bytes the owner asked for, and no recorded streams.
    #[inline]
    pub(crate) fn set_used(&mut self, requested: u64) {
        self.segment_state = self.segment_state & SEGMENT_MASK | 1 << STATE_SHIFT;
        self.a = 0;
        self.b = requested as u32;
        self.c = (requested >> 32) as u32;
    }

    /// Used to movable; what the owner asked for and the recorded streams stay known.
    pub(crate) fn set_movable(&mut self) {
        self.segment_state = self.segment_state & SEGMENT_MASK | 6 << STATE_SHIFT;
    }

    /// Used or movable to pending; what the owner asked for and the recorded streams stay known.
    pub(crate) fn set_pending(&mut self) {
        self.segment_state = self.segment_state & SEGMENT_MASK | 2 << STATE_SHIFT;
    }

    /// Used or movable to parked.
    #[inline]
    pub(crate) fn set_parked(&mut self) {
        self.segment_state = self.segment_state & SEGMENT_MASK | 3 << STATE_SHIFT;
    }

    /// Free, in no bin, to hole.
    pub(crate) fn set_hole(&mut self) {
        self.segment_state = self.segment_state & SEGMENT_MASK | 4 << STATE_SHIFT;
    }

    /// Used, movable, pending, parked or hole to free, in no bin yet.
    #[inline]
    pub(crate) fn set_free(&mut self) {
        self.segment_state &= SEGMENT_MASK;
        self.a = NONE;
        self.b = NONE;
    }

    /// Of a used, movable or pending block: the bytes that its owner asked for.
    #[inline]
    pub(crate) fn requested(&self) -> u64 {
        debug_assert!(matches!(self.state(), State::Used | State::Movable | State::Pending));
        u64::from(self.b) | u64::from(self.c) << 32
    }

    /// Of a used, movable or pending block: 1 + the index of its set of recorded streams, or 0.
    #[inline]
    pub(crate) fn uses(&self) -> u32 {
        self.a
    }

    /// Sets what [`Block::uses`] says.
    pub(crate) fn set_uses(&mut self, uses: u32) {
        self.a = uses;
    }

    /// Of a free block: the one before it in its bin, or [`NONE`].
    #[inline]
    pub(crate) fn bin_prev(&self) -> BlockIndex {
        self.a
    }

    /// Of a free block: the one after it in its bin, or [`NONE`].
    #[inline]
    pub(crate) fn bin_next(&self) -> BlockIndex {
        self.b
    }

    /// Sets what [`Block::bin_prev`] says.
    #[inline]
    pub(crate) fn set_bin_prev(&mut self, block: BlockIndex) {
        self.a = block;
    }

    /// Sets what [`Block::bin_next`] says.
    #[inline]
    pub(crate) fn set_bin_next(&mut self, block: BlockIndex) {
        self.b = block;
    }
}

/// The block records of one heap; indices are reused.
#[derive(Debug)]
pub(crate) struct Blocks {
    records: Vec<Block>,
    /// The first vacant record, or [`NONE`].
    vacant: BlockIndex,
    live: u32,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        // Record 0 stands for "no block" and is never handed out. It stays vacant, but its links
        // are written to and mean nothing.
        Blocks { records: vec![Block::VACANT], vacant: NONE, live: 0 }
    }

    /// Keeps a record, and says under which index.
    #[inline]
    pub(crate) fn insert(&mut self, block: Block) -> BlockIndex {
        self.live += 1;
        if self.vacant != NONE {
            let index = self.vacant;
            let slot = &mut self.records[index as usize];
            self.vacant = slot.next;
            *slot = block;
            index
        } else {
            let index = u32::try_from(self.records.len()).expect("fewer than 2^32 blocks");
            self.records.push(block);
            index
        }
    }

    /// Forgets a record; its index may be used again.
    #[inline]
    pub(crate) fn remove(&mut self, index: BlockIndex) {
        self.live -= 1;
        let vacant = self.vacant;
        self.records[index as usize] = Block { next: vacant, ..Block::VACANT };
        self.vacant = index;
    }

    /// All records, by index.
    #[inline]
    pub(crate) fn records(&mut self) -> &mut [Block] {
        &mut self.records
    }

    /// All records, by index, to look at.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[Block] {
        &self.records
    }

    /// Records in use.
    pub(crate) fn len(&self) -> usize {
        self.live as usize
    }
}

impl std::ops::Index<BlockIndex> for Blocks {
    type Output = Block;
    #[inline]
    fn index(&self, index: BlockIndex) -> &Block {
        &self.records[index as usize]
    }
}

impl std::ops::IndexMut<BlockIndex> for Blocks {
    #[inline]
    fn index_mut(&mut self, index: BlockIndex) -> &mut Block {
        &mut self.records[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_half_a_cache_line() {
        assert_eq!(size_of::<Block>(), 32);
    }

    #[test]
    fn states_keep_segment_and_request() {
        let mut block = Block::new_free(SEGMENT_MASK, 7, 9);
        assert_eq!(block.state(), State::Free);
        block.set_used(0x1_2345_6789_abcd);
        assert_eq!((block.state(), block.requested()), (State::Used, 0x1_2345_6789_abcd));
        block.set_uses(3);
        block.set_pending();
        assert_eq!((block.state(), block.uses()), (State::Pending, 3));
        block.set_free();
        assert_eq!((block.state(), block.segment()), (State::Free, SEGMENT_MASK));
        assert_eq!((block.bin_prev(), block.bin_next()), (NONE, NONE));
    }

    #[test]
    fn indices_are_reused() {
        let mut blocks = Blocks::new();
        let a = blocks.insert(Block::new_free(0, 0, 1));
        let b = blocks.insert(Block::new_free(0, 1, 1));
        blocks.remove(a);
        assert_eq!(blocks[a].state(), State::Vacant);
        assert_eq!(blocks.insert(Block::new_free(0, 2, 1)), a);
        assert_ne!(a, b);
        assert_eq!(blocks.len(), 2);
    }
}
