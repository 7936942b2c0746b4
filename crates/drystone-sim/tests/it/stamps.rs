//! Stamps: whether anybody wrote over a block.

use drystone_core::driver::Driver;
use drystone_sim::{Access, Misuse};
use proptest::prelude::*;

use crate::{A, D0, MIB, sim};

#[test]
fn a_stamp_holds_until_somebody_writes() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    sim.stamp_write(D0, A, address, 1000, 7).unwrap();
    sim.launch(D0, A, &[(address, MIB)], Access::Read).unwrap();
    sim.stamp_check(D0, A, address, 1000, 7).unwrap();
    sim.stamp_write(D0, A, address + 200, 100, 8).unwrap();
    sim.launch(D0, A, &[(address + 600, 10)], Access::Write).unwrap();
    let lost = |at, bytes, found| Misuse::StampLost {
        device: D0,
        stream: A,
        address: address + at,
        bytes,
        expected: 7,
        found,
    };
    let check = |at, bytes| sim.stamp_check(D0, A, address + at, bytes, 7);
    assert_eq!(check(0, 1000), Err(lost(200, 100, Some(8))));
    assert_eq!(check(300, 700), Err(lost(600, 10, None)));
    assert_eq!(check(610, 391), Err(lost(1000, 1, None)));
    assert_eq!(check(610, 390), Ok(()));
    assert_eq!(sim.misuses().len(), 3);
}

#[test]
fn a_stamp_ends_with_its_segment() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    sim.stamp_write(D0, A, address, 512, 7).unwrap();
    sim.device_synchronize(D0).unwrap();
    sim.segment_free(D0, address).unwrap();
    // Written after free: it must not show up in the next segment there.
    sim.stamp_write(D0, A, address, 512, 7).unwrap_err();
    assert_eq!(sim.segment_alloc(D0, MIB).unwrap(), address);
    let lost = sim.stamp_check(D0, A, address, 512, 7).unwrap_err();
    assert!(matches!(lost, Misuse::StampLost { found: None, bytes: 512, .. }), "{lost}");
}

proptest! {
    /// Against one tag per byte.
    #[test]
    fn stamps_are_a_map_of_bytes(
        writes in prop::collection::vec((0..32_u64, 1..32_u64, prop::option::of(0..3_u64)), 1..20),
        checks in prop::collection::vec((0..32_u64, 0..32_u64, 0..3_u64), 1..20),
    ) {
        let sim = sim();
        let base = sim.segment_alloc(D0, 64).unwrap();
        let mut bytes = [None; 64];
        for (at, len, tag) in writes {
            match tag {
                Some(tag) => sim.stamp_write(D0, A, base + at, len, tag).unwrap(),
                None => sim.launch(D0, A, &[(base + at, len)], Access::Write).unwrap(),
            }
            bytes[at as usize..(at + len) as usize].fill(tag);
        }
        for (at, len, tag) in checks {
            let part = &bytes[at as usize..(at + len) as usize];
            let first = part.iter().position(|one| *one != Some(tag));
            match sim.stamp_check(D0, A, base + at, len, tag) {
                Ok(()) => prop_assert_eq!(first, None),
                Err(Misuse::StampLost { address, found, .. }) => {
                    let offset = (address - base - at) as usize;
                    prop_assert_eq!((first, part[offset]), (Some(offset), found));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
