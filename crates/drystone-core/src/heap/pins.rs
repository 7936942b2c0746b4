//! Pins: ranges whose memory stays as it is while somebody outside counts on it, also after the
//! block in them was freed.
//!
//! A pin is known by the offset at which the block started. Its pages are not offered to be moved
//! and refuse to be; a segment with a pin is not idle. What is free there stays usable in place.

use std::collections::BTreeMap;

use super::{HeapCore, Located, Pages};
use crate::error::PointerError;
use crate::units::{GRANULE, GRANULE_SHIFT, GRANULES_PER_PAGE};

/// The pins of one segment or arena.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// By the offset of the block in granules.
    ranges: BTreeMap<u32, Pin>,
    /// For each page with pins how many ranges lie on it.
    pages: BTreeMap<u32, u32>,
}

/// A pinned range.
#[derive(Clone, Copy, Debug)]
struct Pin {
    /// Granules: of the largest block that was pinned here.
    units: u32,
    /// How often it is pinned.
    count: u64,
}

/// The pages that a range of granules touches.
fn pages_of(offset: u32, units: u32) -> std::ops::Range<u32> {
    offset / GRANULES_PER_PAGE..(offset + units).div_ceil(GRANULES_PER_PAGE)
}

impl Pins {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn add(&mut self, offset: u32, units: u32) {
        let pin = self.ranges.entry(offset).or_insert(Pin { units: 0, count: 0 });
        let (before, after) = (pin.units, units.max(pin.units));
        *pin = Pin { units: after, count: pin.count + 1 };
        self.mark(offset, after);
        self.unmark(offset, before);
    }

    /// Takes one pin away. False if there is none.
    fn take(&mut self, offset: u32) -> bool {
        let Some(pin) = self.ranges.get_mut(&offset) else { return false };
        pin.count -= 1;
        if pin.count == 0 {
            let units = pin.units;
            self.ranges.remove(&offset);
            self.unmark(offset, units);
        }
        true
    }

    fn mark(&mut self, offset: u32, units: u32) {
        pages_of(offset, units).for_each(|page| *self.pages.entry(page).or_default() += 1);
    }

    fn unmark(&mut self, offset: u32, units: u32) {
        if units == 0 {
            return;
        }
        for page in pages_of(offset, units) {
            if let Some(count) = self.pages.get_mut(&page) {
                *count -= 1;
                if *count == 0 {
                    self.pages.remove(&page);
                }
            }
        }
    }

    /// Whether a pin lies on a page of a range of granules.
    pub(super) fn touch(&self, start: u32, end: u32) -> bool {
        self.pages.range(pages_of(start, end - start)).next().is_some()
    }

    /// The part of `pages` around `page` on which no pin lies; none if one lies on it.
    pub(super) fn free_around(&self, pages: Pages, page: u32) -> Option<Pages> {
        if self.pages.is_empty() {
            return Some(pages);
        }
        let before = self.pages.range(pages.first..=page).next_back();
        let after = self.pages.range(page..pages.end()).next();
        let first = before.map_or(pages.first, |(&pinned, _)| pinned + 1);
        let end = after.map_or(pages.end(), |(&pinned, _)| pinned);
        (first < end).then(|| Pages::new(first, end - first))
    }

    /// The pages with pins, from what the ranges say; an error if they are not those counted.
    pub(super) fn check(&self) -> Result<impl Iterator<Item = u32> + '_, String> {
        let mut expected = BTreeMap::<u32, u32>::new();
        for (&offset, pin) in &self.ranges {
            pages_of(offset, pin.units).for_each(|page| *expected.entry(page).or_default() += 1);
        }
        if expected != self.pages {
            return Err(format!("pinned pages {:?} are not {expected:?}", self.pages));
        }
        Ok(self.pages.keys().copied())
    }
}

impl HeapCore {
    /// Pins the memory of a used block.
    pub(crate) fn pin(&mut self, block: &Located) {
        let record = &self.blocks[block.index];
        let (segment, offset, units) = (record.segment(), record.offset, record.units);
        self.segment_mut(segment).pins.add(offset, units);
    }

    /// Takes a pin away from what started at `pointer`, in the segment that the address table
    /// named; none if that segment is not around the pointer.
    pub(crate) fn unpin(&mut self, at: u32, pointer: u64) -> Option<Result<(), PointerError>> {
        let segment = self.segments.get_mut(at as usize)?.as_mut()?;
        let offset = pointer.wrapping_sub(segment.base);
        if offset >= segment.bytes() {
            return None;
        }
        let granule = (offset >> GRANULE_SHIFT) as u32;
        let pinned = offset.is_multiple_of(GRANULE) && segment.pins.take(granule);
        Some(if pinned { Ok(()) } else { Err(PointerError::NotPinned { pointer }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_list_of_ranges(
            steps in prop::collection::vec((0u32..24, 1u32..12, any::<bool>()), 1..60),
        ) {
            const STEP: u32 = GRANULES_PER_PAGE / 3;
            let (mut pins, mut model) = (Pins::default(), Vec::<(u32, u32)>::new());
            for (start, len, add) in steps {
                let (offset, units) = (start * STEP, len * STEP);
                if add {
                    pins.add(offset, units);
                    model.push((offset, units));
                } else {
                    let at = model.iter().position(|known| known.0 == offset);
                    prop_assert_eq!(pins.take(offset), at.is_some());
                    // The range stays the largest until the last pin of the address goes.
                    if let Some(at) = at {
                        let (_, gone) = model.remove(at);
                        let rest = model.iter_mut().find(|known| known.0 == offset);
                        rest.into_iter().for_each(|known| known.1 = known.1.max(gone));
                    }
                }
                let pinned = |page: u32| {
                    model.iter().any(|&(offset, units)| pages_of(offset, units).contains(&page))
                };
                prop_assert!(pins.check().is_ok());
                prop_assert_eq!(pins.is_empty(), model.is_empty());
                for page in 0..16 {
                    let around = pins.free_around(Pages::new(0, 16), page);
                    prop_assert_eq!(around.is_none(), pinned(page));
                    if let Some(pages) = around {
                        prop_assert!((pages.first..pages.end()).all(|page| !pinned(page)));
                        prop_assert!(pages.first == 0 || pinned(pages.first - 1));
                        prop_assert!(pages.end() == 16 || pinned(pages.end()));
                    }
                }
            }
        }
    }
}
