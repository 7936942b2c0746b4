//! Virtual memory against a naive model: one entry for each page of addresses, searched anew for
//! each question.

use drystone_core::driver::{Driver, HandleId, HandleKind};
use drystone_sim::{Access, SimDriver};
use proptest::prelude::*;

use crate::{A, D0, MIB, config};

const PAGE: u64 = 2 * MIB;
/// Pages of addresses.
const SPACE: usize = 24;
/// Pages of memory.
const MEMORY: usize = 10;

/// Ranges are (first page, pages); handles are named by the order in which they were made.
#[derive(Clone, Debug)]
enum Op {
    Reserve(usize),
    Free(usize, usize),
    /// Gives back a range that there is.
    FreeOne(prop::sample::Index),
    Create(usize),
    Release(prop::sample::Index),
    Map(usize, prop::sample::Index),
    Access(usize, usize),
    Unmap(usize, usize),
    /// Takes away a mapping that there is, and as many pages beside it.
    UnmapOne(prop::sample::Index, usize),
    Write(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SPACE, 0..8_usize);
    let which = any::<prop::sample::Index>;
    prop_oneof![
        2 => (1..8_usize).prop_map(Op::Reserve),
        1 => range().prop_map(|(at, len)| Op::Free(at, len)),
        1 => which().prop_map(Op::FreeOne),
        3 => (1..4_usize).prop_map(Op::Create),
        2 => which().prop_map(Op::Release),
        8 => (0..SPACE, which()).prop_map(|(at, which)| Op::Map(at, which)),
        2 => range().prop_map(|(at, len)| Op::Access(at, len)),
        2 => range().prop_map(|(at, len)| Op::Unmap(at, len)),
        3 => (which(), 0..3_usize).prop_map(|(which, more)| Op::UnmapOne(which, more)),
        4 => range().prop_map(|(at, len)| Op::Write(at, len)),
    ]
}

/// What is mapped at a page of addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    handle: usize,
    /// The page of the handle.
    offset: usize,
    access: bool,
}

#[derive(Clone, Debug)]
struct Handle {
    id: HandleId,
    live: bool,
    /// What each of its pages holds.
    contents: Vec<Option<u64>>,
}

struct World {
    sim: SimDriver,
    base: u64,
    /// First page and pages.
    ranges: Vec<(usize, usize)>,
    slots: [Option<Slot>; SPACE],
    handles: Vec<Handle>,
    tag: u64,
}

impl World {
    fn new() -> World {
        let config = config().devices(1).capacity(MEMORY as u64 * PAGE);
        let sim = SimDriver::new(config.addresses(SPACE as u64 * PAGE)).unwrap();
        // The whole of it is in one piece at first.
        let base = sim.address_reserve(D0, SPACE as u64 * PAGE).unwrap();
        sim.address_free(D0, base, SPACE as u64 * PAGE).unwrap();
        let (ranges, handles) = (Vec::new(), Vec::new());
        World { sim, base, ranges, slots: [None; SPACE], handles, tag: 0 }
    }

    fn address(&self, page: usize) -> u64 {
        self.base + page as u64 * PAGE
    }

    /// The pages, if there are some and all in one reserved range.
    fn reserved(&self, at: usize, len: usize) -> Option<std::ops::Range<usize>> {
        let inside = |range: &&(usize, usize)| range.0 <= at && at + len <= range.0 + range.1;
        (len > 0 && self.ranges.iter().any(|range| inside(&range))).then_some(at..at + len)
    }

    /// The pages, if they consist of whole mappings in one reserved range.
    fn whole(&self, at: usize, len: usize) -> Option<std::ops::Range<usize>> {
        let pages = self.reserved(at, len)?;
        let slots: Option<Vec<Slot>> = self.slots[pages.clone()].iter().copied().collect();
        let slots = slots?;
        let last = slots.last()?;
        let ends =
            slots[0].offset == 0 && last.offset + 1 == self.handles[last.handle].contents.len();
        ends.then_some(pages)
    }

    fn mapped(&self, handle: usize) -> bool {
        self.slots.iter().flatten().any(|slot| slot.handle == handle)
    }

    fn taken(&self) -> usize {
        self.handles.iter().filter(|one| one.live).map(|one| one.contents.len()).sum()
    }

    fn free(&mut self, at: usize, len: usize) -> Result<(), TestCaseError> {
        let unused = || self.slots[at..at + len].iter().all(Option::is_none);
        let expected = self.ranges.contains(&(at, len)) && unused();
        let freed = self.sim.address_free(D0, self.address(at), len as u64 * PAGE);
        prop_assert_eq!(freed.is_ok(), expected);
        self.ranges.retain(|range| !expected || *range != (at, len));
        Ok(())
    }

    fn unmap(&mut self, at: usize, len: usize) -> Result<(), TestCaseError> {
        let pages = self.whole(at, len);
        let unmapped = self.sim.unmap(D0, self.address(at), len as u64 * PAGE);
        prop_assert_eq!(unmapped.is_ok(), pages.is_some());
        self.slots[pages.unwrap_or(0..0)].fill(None);
        Ok(())
    }

    /// Writes a new tag; an error unless all is mapped with access, and nothing twice.
    fn write(&mut self, at: usize, len: usize) -> Result<(), TestCaseError> {
        self.tag += 1;
        let pages = self.reserved(at, len);
        let slots: Option<Vec<Slot>> =
            pages.and_then(|pages| self.slots[pages].iter().copied().collect());
        let slots = slots.filter(|slots| slots.iter().all(|slot| slot.access));
        let written = self.sim.stamp_write(D0, A, self.address(at), len as u64 * PAGE, self.tag);
        self.sim.device_synchronize(D0).unwrap();
        let Some(slots) = slots else {
            prop_assert_eq!(written.is_ok(), len == 0);
            return Ok(());
        };
        let same = |a: &Slot, b: &Slot| (a.handle, a.offset) == (b.handle, b.offset);
        let twice = (1..slots.len()).any(|i| slots[..i].iter().any(|slot| same(slot, &slots[i])));
        prop_assert_eq!(written.is_err(), twice);
        for slot in slots {
            self.handles[slot.handle].contents[slot.offset] = Some(self.tag);
        }
        Ok(())
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Reserve(len) => {
                let free = |at: usize| {
                    self.ranges.iter().all(|range| at + len <= range.0 || range.0 + range.1 <= at)
                };
                let room = (0..=SPACE - len).any(free);
                let result = self.sim.address_reserve(D0, len as u64 * PAGE);
                prop_assert_eq!(result.is_ok(), room);
                let Ok(address) = result else { return Ok(()) };
                prop_assert!(address >= self.base && address.is_multiple_of(PAGE));
                let at = ((address - self.base) / PAGE) as usize;
                prop_assert!(at + len <= SPACE && free(at));
                self.ranges.push((at, len));
            }
            Op::Free(at, len) => self.free(at, len.min(SPACE - at))?,
            Op::FreeOne(which) => {
                if !self.ranges.is_empty() {
                    let (at, len) = self.ranges[which.index(self.ranges.len())];
                    self.free(at, len)?;
                }
            }
            Op::Create(len) => {
                let room = self.taken() + len <= MEMORY;
                let result = self.sim.handle_create(D0, len as u64 * PAGE, HandleKind::Device);
                prop_assert_eq!(result.is_ok(), room);
                let new = |id| Handle { id, live: true, contents: vec![None; len] };
                self.handles.extend(result.ok().map(new));
            }
            Op::Release(which) if !self.handles.is_empty() => {
                let which = which.index(self.handles.len());
                let expected = self.handles[which].live && !self.mapped(which);
                let released = self.sim.handle_release(D0, self.handles[which].id);
                prop_assert_eq!(released.is_ok(), expected);
                self.handles[which].live &= !expected;
            }
            Op::Map(at, which) if !self.handles.is_empty() => {
                let handle = which.index(self.handles.len());
                let Handle { id, live, ref contents } = self.handles[handle];
                let pages = self
                    .reserved(at, contents.len())
                    .filter(|pages| live && self.slots[pages.clone()].iter().all(Option::is_none));
                let mapped = self.sim.map(D0, self.address(at), id);
                prop_assert_eq!(mapped.is_ok(), pages.is_some());
                for (offset, page) in pages.unwrap_or(0..0).enumerate() {
                    self.slots[page] = Some(Slot { handle, offset, access: false });
                }
            }
            Op::Release(_) | Op::Map(..) => {}
            Op::Access(at, len) => {
                let pages = self.whole(at, len);
                let bytes = len as u64 * PAGE;
                let allowed = self.sim.set_access(D0, self.address(at), bytes, &[D0]);
                prop_assert_eq!(allowed.is_ok(), pages.is_some());
                let slots = self.slots[pages.unwrap_or(0..0)].iter_mut();
                slots.flatten().for_each(|slot| slot.access = true);
            }
            Op::Unmap(at, len) => self.unmap(at, len)?,
            Op::UnmapOne(which, more) => {
                let starts = |at: &usize| self.slots[*at].is_some_and(|slot| slot.offset == 0);
                let starts: Vec<usize> = (0..SPACE).filter(starts).collect();
                if let Some(at) = starts.get(which.index(starts.len().max(1))) {
                    let slot = self.slots[*at].unwrap();
                    self.unmap(*at, self.handles[slot.handle].contents.len() + more)?;
                }
            }
            Op::Write(at, len) => self.write(at, len)?,
        }
        Ok(())
    }

    /// The device agrees with the model on everything that can be seen.
    fn check(&self) -> Result<(), TestCaseError> {
        let usage = self.sim.usage(D0).unwrap();
        let live = self.handles.iter().filter(|handle| handle.live).count();
        let starts = self.slots.iter().flatten().filter(|slot| slot.offset == 0).count();
        let reserved: usize = self.ranges.iter().map(|range| range.1).sum();
        prop_assert_eq!(usage.taken, self.taken() as u64 * PAGE);
        prop_assert_eq!((usage.handles, usage.mappings), (live, starts));
        prop_assert_eq!(usage.addresses, reserved as u64 * PAGE);
        for (page, slot) in self.slots.iter().enumerate() {
            let contents = |slot: Slot| self.handles[slot.handle].contents[slot.offset];
            let seen = slot.filter(|slot| slot.access).map(contents);
            let address = self.address(page);
            let read = self.sim.launch(D0, A, &[(address, PAGE)], Access::Read);
            prop_assert_eq!(read.is_ok(), seen.is_some());
            let held = self.sim.stamp_check(D0, A, address, PAGE, seen.flatten().unwrap_or(1));
            prop_assert_eq!(held.is_ok(), seen.flatten().is_some());
        }
        self.sim.device_synchronize(D0).unwrap();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_a_page_by_page_model(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op)?;
            world.check()?;
        }
    }
}
