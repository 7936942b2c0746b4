//! The physical pages of a device as the simulator knows them, and what a snapshot says is in each:
//! whoever reads or writes through an arena's address does so here.

use std::collections::{BTreeMap, HashMap};

use drystone_core::{BlockState, DeviceId, HandleId, SegmentInfo};

use drystone_sim::LeakedMapping;

use super::tap::Tap;

/// Bytes in a page.
pub(crate) const PAGE: u64 = 2 << 20;

/// What a page of a handle is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home<'a> {
    /// What it is a part of.
    pub(crate) segment: &'a SegmentInfo,
    /// Whether all of it lies in one free block.
    pub(crate) free: bool,
}

/// For each page of each handle where it is at home, if it is.
pub(crate) struct Physical<'a> {
    handles: BTreeMap<HandleId, Vec<Option<Home<'a>>>>,
}

impl<'a> Physical<'a> {
    /// Looks through the mappings of a device what lies behind the segments of a snapshot. Panics
    /// if nothing is mapped there, or if a page would be in two places.
    pub(crate) fn of(
        tap: &Tap,
        device: DeviceId,
        segments: impl Iterator<Item = &'a SegmentInfo>,
    ) -> Self {
        let report = tap.sim.finish();
        let handles = report.leaked_handles.iter().filter(|handle| handle.device == device);
        let homeless = |bytes: u64| vec![None; (bytes / PAGE) as usize];
        let mut handles: BTreeMap<_, _> =
            handles.map(|handle| (handle.handle, homeless(handle.bytes))).collect();
        let mappings = report.leaked_mappings.iter().filter(|mapping| mapping.device == device);
        let mappings: BTreeMap<u64, _> = mappings.map(|one| (one.address, one)).collect();
        for segment in segments {
            assert!(segment.address.is_multiple_of(PAGE) && segment.size.is_multiple_of(PAGE));
            let free: HashMap<u64, bool> = pages_of(segment);
            for page in (segment.address..segment.address + segment.size).step_by(PAGE as usize) {
                let (address, mapping) = mappings.range(..=page).next_back().expect("a mapping");
                assert!(page < address + mapping.bytes, "nothing is mapped at {page:#x}");
                let pages = handles.get_mut(&mapping.handle).expect("a handle that lives");
                let home = &mut pages[((page - address) / PAGE) as usize];
                assert_eq!(*home, None, "{page:#x} and that are one page");
                *home = Some(Home { segment, free: free[&page] });
            }
        }
        Physical { handles }
    }

    /// How many pages are nowhere at home.
    pub(crate) fn homeless(&self) -> usize {
        self.handles.values().flatten().filter(|home| home.is_none()).count()
    }

    /// How many pages are in handles that are free as a whole, all in segments of one of these
    /// sorts.
    pub(crate) fn in_free_handles<const N: usize>(
        &self,
        sorts: [&dyn Fn(&SegmentInfo) -> bool; N],
    ) -> u64 {
        let whole = self.handles.values().filter(|pages| {
            sorts.iter().any(|is| {
                let free =
                    |home: &Option<Home<'_>>| home.is_some_and(|it| it.free && is(it.segment));
                pages.iter().all(free)
            })
        });
        whole.map(|pages| pages.len() as u64).sum()
    }
}

/// The physical pages behind a range of an arena: each a handle, and the page's number in it.
pub(crate) fn behind(
    tap: &Tap,
    device: DeviceId,
    address: u64,
    bytes: u64,
) -> Vec<Option<(HandleId, u64)>> {
    let mappings = tap.sim.finish().leaked_mappings;
    let first = address / PAGE * PAGE;
    let pages = (first..address + bytes).step_by(PAGE as usize);
    let behind = pages.map(|page| {
        let around = |one: &&LeakedMapping| {
            one.device == device && (one.address..one.address + one.bytes).contains(&page)
        };
        mappings.iter().find(around).map(|one| (one.handle, (page - one.address) / PAGE))
    });
    behind.collect()
}

/// The pages of a segment, and whether each lies in one free block.
fn pages_of(segment: &SegmentInfo) -> HashMap<u64, bool> {
    let mut pages: HashMap<u64, bool> = HashMap::new();
    for block in &segment.blocks {
        let mut page = block.address / PAGE * PAGE;
        while page < block.address + block.size {
            let inside = block.address <= page && page + PAGE <= block.address + block.size;
            *pages.entry(page).or_insert(true) &= inside && block.state == BlockState::Inactive;
            page += PAGE;
        }
    }
    pages
}
