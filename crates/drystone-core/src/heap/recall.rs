//! Recall: where large requests were placed the time before.
//!
//! A program of fixed shapes asks for the same sizes in the same order in every iteration. If each
//! gets the place that it had the time before, the pages that are mapped there serve again, and the
//! driver is not called any more. Whatever program it is, nobody has to say where an iteration
//! begins: requests are written down, and the last few of them say where in the record the program
//! is now. As long as it asks for what stands there, it gets the place that stands there.

use super::HeapCore;
use crate::block::{BlockIndex, State};
use crate::units::Kind;

/// Requests that are remembered: more than most programs have in an iteration.
const RECORD: usize = 1 << 15;
/// How many requests in a row tell where in the record the program is. Found by replaying; with 2 or
/// 8 fewer loops of fixed shapes settle after their second iteration.
const CONTEXT: usize = 4;

/// Slots for hashes of contexts; two that meet in one forget the older.
const SLOTS: usize = 2 * RECORD;

/// A large block that was handed out. Sizes and places in granules.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    units: u32,
    segment: u32,
    start: u32,
}

/// The record of a heap's large blocks.
#[derive(Debug, Default)]
pub(super) struct Recall {
    /// The last [`RECORD`] blocks, number n at n modulo that.
    record: Vec<Entry>,
    /// How many blocks were handed out.
    written: u32,
    /// The sizes of the last ones, from the oldest.
    last: [u32; CONTEXT - 1],
    /// The number of the entry that is expected to come again next.
    expected: Option<u32>,
    /// For each hash of [`CONTEXT`] sizes in a row, the number of the latest entry that ended one.
    contexts: Vec<u32>,
}

/// What is at the place of the time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// Nothing is remembered, or the place is in use.
    Nothing,
    /// A free block, and how far in it the place begins.
    Free(BlockIndex, u32),
    /// Pages are missing there.
    Away,
}

impl Recall {
    fn entry(&self, number: u32) -> Option<&Entry> {
        let age = self.written.wrapping_sub(number) as usize;
        (1..=self.record.len()).contains(&age).then(|| &self.record[number as usize % RECORD])
    }

    /// The sizes that end with `units` now.
    fn context(&self, units: u32) -> [u32; CONTEXT] {
        std::array::from_fn(|at| self.last.get(at).copied().unwrap_or(units))
    }

    fn units(&self, number: u32) -> u32 {
        self.entry(number).map_or(0, |entry| entry.units)
    }

    fn slot(context: &[u32; CONTEXT]) -> usize {
        let mix = |hash: u64, &units: &u32| {
            (hash ^ u64::from(units)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        };
        (context.iter().fold(0, mix) >> 32) as usize % SLOTS
    }

    /// The number of the entry that a request of this size repeats.
    #[inline]
    fn repeated(&self, units: u32) -> Option<u32> {
        if let Some(number) = self.expected
            && self.entry(number).is_some_and(|entry| entry.units == units)
        {
            return Some(number);
        }
        self.found(units)
    }

    /// Likewise, by the sizes before it.
    fn found(&self, units: u32) -> Option<u32> {
        let context = self.context(units);
        let number = *self.contexts.get(Recall::slot(&context))?;
        let stands =
            |at: usize| self.units(number.wrapping_sub((CONTEXT - 1 - at) as u32)) == context[at];
        (0..CONTEXT).all(stands).then_some(number)
    }

    /// The segment and granule of the block that a request of this size repeats.
    #[inline]
    fn place(&self, units: u32) -> Option<(u32, u32)> {
        let entry = self.entry(self.repeated(units)?)?;
        Some((entry.segment, entry.start))
    }

    /// Writes a block down.
    fn note(&mut self, entry: Entry) {
        self.expected = self.repeated(entry.units).map(|number| number.wrapping_add(1));
        let slot = Recall::slot(&self.context(entry.units));
        if self.contexts.is_empty() {
            self.contexts = vec![0; SLOTS];
        }
        self.contexts[slot] = self.written;
        match self.record.get_mut(self.written as usize % RECORD) {
            Some(oldest) => *oldest = entry,
            None => self.record.push(entry),
        }
        self.written = self.written.wrapping_add(1);
        self.last.rotate_left(1);
        self.last[CONTEXT - 2] = entry.units;
    }
}

impl HeapCore {
    /// Writes down where a large block of an arena is, for the next time.
    #[inline]
    pub(super) fn note_place(&mut self, index: BlockIndex) {
        let block = &self.blocks[index];
        let entry = Entry { units: block.units, segment: block.segment(), start: block.offset };
        self.recall.note(entry);
    }

    /// The place, segment and granule, that a large request of so many granules had the time before.
    pub(crate) fn recalled_place(&self, units: u32) -> Option<(u32, u32)> {
        self.recall.place(units)
    }

    /// What is now at the place that a large request of so many granules had the time before.
    #[inline]
    pub(super) fn recalled(&mut self, units: u32) -> Recalled {
        let Some((at, start)) = self.recall.place(units) else { return Recalled::Nothing };
        self.unpark(Kind::Large);
        let arena = match self.segments.get(at as usize) {
            Some(Some(arena)) if arena.is_arena() && arena.kind == Kind::Large => arena,
            // The segment's number went to another.
            _ => return Recalled::Nothing,
        };
        let index = arena.around(start, &self.blocks);
        let block = &self.blocks[index];
        match block.state() {
            State::Free if block.end() - start >= units => {
                Recalled::Free(index, start - block.offset)
            }
            State::Free | State::Hole => Recalled::Away,
            _ => Recalled::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out blocks of these sizes, each at a place of its own: where each had been before.
    fn play(recall: &mut Recall, next: &mut u32, sizes: &[u32]) -> Vec<Option<u32>> {
        let mut places = Vec::new();
        for &units in sizes {
            places.push(recall.place(units).map(|(_, start)| start));
            recall.note(Entry { units, segment: 0, start: *next });
            *next += 1;
        }
        places
    }

    #[test]
    fn what_comes_again_has_its_place() {
        let (mut recall, mut next) = (Recall::default(), 0);
        let sizes = [7, 8, 9, 8, 9, 10, 8, 9, 11];
        assert_eq!(play(&mut recall, &mut next, &sizes), [None; 9]);
        // Three sizes could be anywhere; from the fourth on it is clear.
        let again = play(&mut recall, &mut next, &sizes);
        assert_eq!(again[..3], [None; 3]);
        assert_eq!(again[3..], [3, 4, 5, 6, 7, 8].map(Some));
        // From one time around into the next.
        let third = play(&mut recall, &mut next, &sizes);
        assert_eq!(third, [9, 10, 11, 12, 13, 14, 15, 16, 17].map(Some));
    }

    #[test]
    fn what_is_new_has_none_and_the_rest_is_found_again() {
        let (mut recall, mut next) = (Recall::default(), 0);
        let sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        play(&mut recall, &mut next, &sizes);
        play(&mut recall, &mut next, &sizes);
        let other = play(&mut recall, &mut next, &[1, 2, 77, 4, 5, 6, 7, 8]);
        assert_eq!(other[..2], [10, 11].map(Some));
        assert_eq!(other[2..6], [None; 4]);
        assert_eq!(other[6..], [16, 17].map(Some));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let (mut recall, mut next) = (Recall::default(), 0);
        let sizes: Vec<u32> = (1..=(RECORD - CONTEXT) as u32).collect();
        play(&mut recall, &mut next, &sizes);
        let again = play(&mut recall, &mut next, &sizes);
        assert!(again.iter().flatten().count() > sizes.len() - 64);
        let longer: Vec<u32> = (1..=RECORD as u32 + 1).map(|units| units + 1_000_000).collect();
        play(&mut recall, &mut next, &longer);
        assert_eq!(play(&mut recall, &mut next, &longer), vec![None; longer.len()]);
        assert_eq!(recall.record.len(), RECORD);
    }
}
