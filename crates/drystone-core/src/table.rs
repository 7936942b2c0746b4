//! The address table: which segment an address lies in, read without a lock.
//!
//! Addresses are cut into 2 MiB pages. A two-level table of atomic words gives for each page the
//! segment that alone touches it; a page that several segments touch (the driver may put small
//! ones side by side) is marked as shared and looked up in an ordered map. What the table says is
//! a hint until the heap's lock is held: whoever uses it asks again under the lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// log2 of the bytes that one entry covers.
const PAGE_SHIFT: u32 = 21;
/// Addresses are below 2^48 (the driver's contract).
const ADDRESS_BITS: u32 = 48;
const LEAF_BITS: u32 = 14;
const LEAF_LEN: usize = 1 << LEAF_BITS;
const ROOT_LEN: usize = 1 << (ADDRESS_BITS - PAGE_SHIFT - LEAF_BITS);

/// A page that no segment touches.
const EMPTY: u64 = 0;
/// A page that several segments touch.
const SHARED: u64 = u64::MAX;

/// Where a segment is kept: the heap, and the index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) heap: u32,
    pub(crate) segment: u32,
}

impl Place {
    /// As a table entry: neither [`EMPTY`] nor [`SHARED`], since heaps are fewer than 2^32 - 1.
    fn to_word(self) -> u64 {
        (u64::from(self.heap) + 1) << 32 | u64::from(self.segment)
    }

    #[inline]
    fn from_word(word: u64) -> Option<Place> {
        let heap = ((word >> 32) as u32).checked_sub(1)?;
        Some(Place { heap, segment: word as u32 })
    }
}

type Leaf = Box<[AtomicU64; LEAF_LEN]>;

/// All segments of the allocator by address.
pub(crate) struct AddressTable {
    root: Box<[OnceLock<Leaf>]>,
    /// Every segment: its base, its end and its place. The truth behind the pages.
    segments: RwLock<BTreeMap<u64, (u64, Place)>>,
}

impl AddressTable {
    pub(crate) fn new() -> Self {
        AddressTable {
            root: (0..ROOT_LEN).map(|_| OnceLock::new()).collect(),
            segments: RwLock::new(BTreeMap::new()),
        }
    }

    /// The place of the segment around `address`, if there is one.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64) -> Option<Place> {
        let page = (address >> PAGE_SHIFT) as usize;
        let leaf = self.root.get(page >> LEAF_BITS)?.get()?;
        // Acquire: the segment was filled in before its place was published.
        match leaf[page & (LEAF_LEN - 1)].load(Ordering::Acquire) {
            SHARED => Place::from_word(self.find_in_map(address)),
            word => Place::from_word(word),
        }
    }

    /// The entry that the page of `address` would have if it were of that address alone.
    #[cold]
    fn find_in_map(&self, address: u64) -> u64 {
        let segments = self.segments.read();
        match segments.range(..=address).next_back() {
            Some((_, &(end, place))) if address < end => place.to_word(),
            _ => EMPTY,
        }
    }

    /// Enters a segment, or moves one that is entered to another place.
    pub(crate) fn insert(&self, base: u64, bytes: u64, place: Place) {
        let mut segments = self.segments.write();
        segments.insert(base, (base + bytes, place));
        self.refresh(&segments, base, bytes);
    }

    /// Takes a segment out.
    pub(crate) fn remove(&self, base: u64, bytes: u64) {
        let mut segments = self.segments.write();
        segments.remove(&base);
        self.refresh(&segments, base, bytes);
    }

    /// Writes the pages that `base .. base + bytes` touches anew.
    fn refresh(&self, segments: &BTreeMap<u64, (u64, Place)>, base: u64, bytes: u64) {
        let first = base >> PAGE_SHIFT;
        let last = (base + bytes - 1) >> PAGE_SHIFT;
        // Pages between the first and the last hold nothing but this segment.
        let inner = segments.get(&base).map_or(EMPTY, |&(_, place)| place.to_word());
        for page in first..=last {
            let word = if page == first || page == last { word_of(segments, page) } else { inner };
            self.entry(page).store(word, Ordering::Release);
        }
    }

    fn entry(&self, page: u64) -> &AtomicU64 {
        let leaf = self.root[(page >> LEAF_BITS) as usize].get_or_init(|| {
            let words: Box<[AtomicU64]> = (0..LEAF_LEN).map(|_| AtomicU64::new(EMPTY)).collect();
            words.try_into().expect("as many as were made")
        });
        &leaf[page as usize & (LEAF_LEN - 1)]
    }

    /// Checks the pages against the map, and gives the segments: base, end, place.
    pub(crate) fn check(&self) -> Result<Vec<(u64, u64, Place)>, String> {
        let segments = self.segments.read();
        let mut before = 0;
        for (&base, &(end, place)) in segments.iter() {
            if base < before {
                return Err(format!("the segment at {base:#x} overlaps the one before it"));
            }
            before = end;
            for page in base >> PAGE_SHIFT..=(end - 1) >> PAGE_SHIFT {
                if self.entry(page).load(Ordering::Acquire) != word_of(&segments, page) {
                    return Err(format!("page {page:#x} of {place:?} is not what the map says"));
                }
            }
        }
        Ok(segments.iter().map(|(&base, &(end, place))| (base, end, place)).collect())
    }
}

/// What the entry of a page must be.
fn word_of(segments: &BTreeMap<u64, (u64, Place)>, page: u64) -> u64 {
    let (start, end) = (page << PAGE_SHIFT, (page + 1) << PAGE_SHIFT);
    let mut touching =
        segments.range(..end).rev().take_while(|(_, (segment_end, _))| *segment_end > start);
    match (touching.next(), touching.next()) {
        (None, _) => EMPTY,
        (Some((_, (_, place))), None) => place.to_word(),
        (Some(_), Some(_)) => SHARED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_plain_map_finds(
            steps in prop::collection::vec((0u64..64, 1u64..30, any::<bool>()), 1..60),
        ) {
            const STEP: u64 = 512 << 10;
            const ORIGIN: u64 = 0x7f00_0010_0000;
            let table = AddressTable::new();
            let mut model: Vec<(u64, u64, Place)> = vec![];
            for (n, (start, len, remove)) in steps.into_iter().enumerate() {
                let (base, bytes) = (ORIGIN + start * STEP, len * STEP);
                if let Some(at) = model.iter().position(|m| m.0 < base + bytes && base < m.1) {
                    if remove {
                        let (base, end, _) = model.swap_remove(at);
                        table.remove(base, end - base);
                    }
                } else {
                    let place = Place { heap: n as u32 % 3, segment: n as u32 };
                    table.insert(base, bytes, place);
                    model.push((base, base + bytes, place));
                }
                for address in (ORIGIN - STEP..ORIGIN + 100 * STEP).step_by(STEP as usize / 2) {
                    let found = table.find(address);
                    let expected = model.iter().find(|m| m.0 <= address && address < m.1);
                    match expected {
                        Some(m) => prop_assert_eq!(found, Some(m.2)),
                        // A page that one segment touches in part points to it: the heap's lock
                        // holder sees that the address lies outside.
                        None => prop_assert!(found.is_none_or(
                            |place| model.iter().any(|m| m.2 == place))),
                    }
                }
                prop_assert_eq!(table.check().map(|all| all.len()), Ok(model.len()));
            }
        }
    }

    #[test]
    fn addresses_beyond_the_table_are_unknown() {
        assert_eq!(AddressTable::new().find(u64::MAX), None);
        assert_eq!(AddressTable::new().find(1 << 48), None);
        assert_eq!(AddressTable::new().find(0), None);
    }
}
