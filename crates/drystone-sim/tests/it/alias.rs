//! Work on mapped memory: aliases, access, and mappings that end under it.

use drystone_core::driver::{Driver, HandleId, HandleKind};
use drystone_sim::{Access, Misuse, RangeFault, SimDriver};

use crate::{A, B, D0, D1, MIB, sim};

const PAGE: u64 = 2 * MIB;

/// A handle of `pages` pages, mapped `times` times side by side for its device.
fn aliases(sim: &SimDriver, pages: u64, times: u64) -> (u64, HandleId) {
    let handle = sim.handle_create(D0, pages * PAGE, HandleKind::Device).unwrap();
    let base = sim.address_reserve(D0, pages * times * PAGE).unwrap();
    for alias in 0..times {
        sim.map(D0, base + alias * pages * PAGE, handle).unwrap();
    }
    sim.set_access(D0, base, pages * times * PAGE, &[D0]).unwrap();
    (base, handle)
}

/// Makes work of B come after all that A has got so far.
fn b_after_a(sim: &SimDriver) {
    let event = sim.event_create(D0).unwrap();
    sim.event_record(D0, event, A).unwrap();
    sim.stream_wait_event(D0, B, event).unwrap();
    sim.event_destroy(D0, event).unwrap();
}

#[test]
fn what_is_written_through_one_alias_is_read_through_another() {
    let sim = sim();
    let (base, _) = aliases(&sim, 2, 3);
    sim.stamp_write(D0, A, base + 100, PAGE, 1).unwrap();
    sim.stamp_check(D0, A, base + 2 * PAGE + 100, PAGE, 1).unwrap();
    sim.stamp_write(D0, A, base + 4 * PAGE + 300, 8, 2).unwrap();
    let lost = Misuse::StampLost {
        device: D0,
        stream: A,
        address: base + 2 * PAGE + 300,
        bytes: 8,
        expected: 1,
        found: Some(2),
    };
    assert_eq!(sim.stamp_check(D0, A, base + 2 * PAGE + 100, PAGE, 1), Err(lost));
}

#[test]
fn contents_stay_with_the_handle() {
    let sim = sim();
    let (base, handle) = aliases(&sim, 1, 1);
    sim.stamp_write(D0, A, base, PAGE, 7).unwrap();
    sim.device_synchronize(D0).unwrap();
    sim.unmap(D0, base, PAGE).unwrap();
    let elsewhere = sim.address_reserve(D0, PAGE).unwrap();
    sim.map(D0, elsewhere, handle).unwrap();
    sim.set_access(D0, elsewhere, PAGE, &[D0]).unwrap();
    sim.stamp_check(D0, B, elsewhere, PAGE, 7).unwrap();
    // Another handle at the old address has contents of its own.
    let other = sim.handle_create(D0, PAGE, HandleKind::Device).unwrap();
    sim.map(D0, base, other).unwrap();
    sim.set_access(D0, base, PAGE, &[D0]).unwrap();
    let lost = sim.stamp_check(D0, B, base, PAGE, 7).unwrap_err();
    assert!(matches!(lost, Misuse::StampLost { found: None, .. }), "{lost}");
}

#[test]
fn a_range_may_run_over_mappings_side_by_side() {
    let sim = sim();
    let base = sim.address_reserve(D0, 8 * PAGE).unwrap();
    for page in [0, 1, 3] {
        let handle = sim.handle_create(D0, PAGE, HandleKind::Device).unwrap();
        sim.map(D0, base + page * PAGE, handle).unwrap();
        sim.set_access(D0, base + page * PAGE, PAGE, &[D0]).unwrap();
    }
    sim.stamp_write(D0, A, base + 10, 2 * PAGE - 20, 3).unwrap();
    sim.stamp_check(D0, A, base + 10, 2 * PAGE - 20, 3).unwrap();
    sim.launch(D0, A, &[(base + PAGE, 5)], Access::Write).unwrap();
    let lost = sim.stamp_check(D0, A, base + 10, 2 * PAGE - 20, 3).unwrap_err();
    assert!(matches!(lost, Misuse::StampLost { bytes: 5, .. }), "{lost}");
    let used = |address, bytes| sim.launch(D0, A, &[(address, bytes)], Access::Read);
    let unmapped = |address, bytes| Misuse::UseOfUnmapped {
        device: D0,
        stream: A,
        address,
        bytes,
        fault: RangeFault::NotMapped,
    };
    // The hole at page 2, from both sides, and the end of what is mapped.
    for (at, bytes) in [(PAGE, PAGE + 1), (2 * PAGE, 1), (3 * PAGE - 1, 2), (4 * PAGE - 1, 2)] {
        assert_eq!(used(base + at, bytes), Err(unmapped(base + at, bytes)));
    }
    // Beyond the reserved range there is nothing that could be mapped.
    let past = used(base + 3 * PAGE, 6 * PAGE).unwrap_err();
    assert!(matches!(past, Misuse::UseOfForeign { .. }), "{past}");
    assert_eq!(used(base + 3 * PAGE, PAGE), Ok(()));
}

#[test]
fn use_without_access() {
    let sim = sim();
    let base = sim.address_reserve(D0, 2 * PAGE).unwrap();
    let handle = sim.handle_create(D0, PAGE, HandleKind::Device).unwrap();
    sim.map(D0, base, handle).unwrap();
    sim.map(D0, base + PAGE, handle).unwrap();
    sim.set_access(D0, base, PAGE, &[D0]).unwrap();
    let used = |address, bytes| sim.launch(D0, A, &[(address, bytes)], Access::Write);
    assert_eq!(used(base, PAGE), Ok(()));
    let refused = |address, bytes| Misuse::UseOfUnmapped {
        device: D0,
        stream: A,
        address,
        bytes,
        fault: RangeFault::NoAccess,
    };
    assert_eq!(used(base + PAGE - 1, 2), Err(refused(base + PAGE - 1, 2)));
    assert_eq!(used(base + PAGE, 1), Err(refused(base + PAGE, 1)));
    // A new mapping at an old address starts without.
    sim.device_synchronize(D0).unwrap();
    sim.unmap(D0, base, PAGE).unwrap();
    sim.map(D0, base, handle).unwrap();
    assert_eq!(used(base, 1), Err(refused(base, 1)));
}

#[test]
fn use_after_unmap_and_after_address_free() {
    let sim = sim();
    let (base, _) = aliases(&sim, 1, 1);
    sim.unmap(D0, base, PAGE).unwrap();
    let used = || sim.launch(D0, A, &[(base, 1)], Access::Read).unwrap_err();
    assert!(matches!(used(), Misuse::UseOfUnmapped { fault: RangeFault::NotMapped, .. }));
    sim.address_free(D0, base, PAGE).unwrap();
    assert!(matches!(used(), Misuse::UseOfForeign { .. }));
    // In a capture as well: a graph remembers addresses.
    sim.begin_capture(D0, A).unwrap();
    assert!(matches!(used(), Misuse::UseOfForeign { .. }));
}

#[test]
fn order_is_kept_through_aliases() {
    let sim = sim();
    let (base, _) = aliases(&sim, 1, 2);
    sim.launch(D0, A, &[(base, 100)], Access::Write).unwrap();
    let clash = Misuse::Unordered {
        device: D0,
        address: base + PAGE + 50,
        bytes: 50,
        stream: B,
        access: Access::Read,
        earlier_stream: A,
        earlier_access: Access::Write,
    };
    assert_eq!(sim.launch(D0, B, &[(base + PAGE + 50, 100)], Access::Read), Err(clash));
    b_after_a(&sim);
    sim.launch(D0, B, &[(base + PAGE, 100)], Access::Write).unwrap();
    // Other bytes of the handle are not concerned.
    sim.launch(D0, A, &[(base + PAGE + 200, 100)], Access::Write).unwrap();
    assert_eq!(sim.misuses().len(), 1);
}

#[test]
fn order_outlives_a_mapping() {
    let sim = sim();
    let (base, handle) = aliases(&sim, 1, 2);
    sim.launch(D0, A, &[(base, 1)], Access::Write).unwrap();
    let event = sim.event_create(D0).unwrap();
    sim.event_record(D0, event, A).unwrap();
    sim.launch(D0, A, &[(base + PAGE, 1)], Access::Read).unwrap();
    sim.event_synchronize(D0, event).unwrap();
    sim.unmap(D0, base, PAGE).unwrap();
    sim.map(D0, base, handle).unwrap();
    sim.set_access(D0, base, PAGE, &[D0]).unwrap();
    assert_eq!(sim.misuses(), []);
    // The read through the other alias is still underway.
    let clash = sim.launch(D0, B, &[(base, 1)], Access::Write).unwrap_err();
    assert!(matches!(clash, Misuse::Unordered { earlier_access: Access::Read, .. }), "{clash}");
}

#[test]
fn one_piece_of_work_does_not_write_through_two_aliases() {
    let sim = sim();
    let (base, _) = aliases(&sim, 2, 2);
    let [low, high] = [base, base + 2 * PAGE];
    let run = |ranges: &[(u64, u64)], access| sim.launch(D0, A, ranges, access);
    let aliased = |address, bytes| Misuse::AliasedWork { device: D0, stream: A, address, bytes };
    let twice = [(low, 100), (high + 60, 100)];
    assert_eq!(run(&twice, Access::Write), Err(aliased(high + 60, 40)));
    // The whole of both, over all pages.
    let whole = run(&[(low, 4 * PAGE)], Access::Write);
    assert_eq!(whole, Err(aliased(high, 2 * PAGE)));
    // Readers, other bytes, the same address twice, and one after the other are fine.
    assert_eq!(run(&twice, Access::Read), Ok(()));
    assert_eq!(run(&[(low, 100), (high + 100, 100)], Access::Write), Ok(()));
    assert_eq!(run(&[(low, 100), (low, 100)], Access::Write), Ok(()));
    assert_eq!(run(&[(low, 100)], Access::Write), Ok(()));
    assert_eq!(run(&[(high, 100)], Access::Write), Ok(()));
}

#[test]
fn unmap_in_flight() {
    let sim = sim();
    let (base, _) = aliases(&sim, 1, 3);
    sim.launch(D0, A, &[(base + PAGE + 7, 1)], Access::Read).unwrap();
    // The other aliases of the same memory may go.
    sim.unmap(D0, base, PAGE).unwrap();
    assert_eq!(sim.misuses(), []);
    sim.unmap(D0, base + PAGE, 2 * PAGE).unwrap();
    let address = base + PAGE;
    let expected = Misuse::UnmapInFlight { device: D0, address, bytes: PAGE, stream: A };
    assert_eq!(sim.misuses(), [expected]);
    assert_eq!(sim.now_ns(), 0, "nobody waits");
    assert_eq!(sim.usage(D0).unwrap().mappings, 0);
}

#[test]
fn unmap_is_in_flight_until_the_host_knows_better() {
    let unmapped = |settle: &dyn Fn(&SimDriver)| {
        let sim = sim();
        let (base, _) = aliases(&sim, 1, 1);
        sim.launch(D0, A, &[(base, 1)], Access::Write).unwrap();
        sim.launch(D0, B, &[(base + 1, 1)], Access::Write).unwrap();
        settle(&sim);
        sim.unmap(D0, base, PAGE).unwrap();
        sim.misuses().is_empty()
    };
    let waited_for = |streams: &'static [_]| {
        move |sim: &SimDriver| {
            for stream in streams {
                let event = sim.event_create(D0).unwrap();
                sim.event_record(D0, event, *stream).unwrap();
                sim.event_synchronize(D0, event).unwrap();
            }
        }
    };
    assert!(unmapped(&|sim| sim.device_synchronize(D0).unwrap()));
    assert!(unmapped(&waited_for(&[A, B])));
    assert!(!unmapped(&waited_for(&[A])));
    assert!(!unmapped(&waited_for(&[B])));
    // Done by now, but nobody has looked.
    assert!(!unmapped(&|sim| sim.advance(1_000_000)));
}

#[test]
fn peers_use_what_they_have_access_to() {
    let sim = sim();
    let (base, handle) = aliases(&sim, 1, 2);
    let used = || sim.launch(D1, A, &[(base, 8)], Access::Write);
    let refused = Misuse::UseOfUnmapped {
        device: D1,
        stream: A,
        address: base,
        bytes: 8,
        fault: RangeFault::NoAccess,
    };
    assert_eq!(used(), Err(refused));
    sim.set_access(D0, base, PAGE, &[D1]).unwrap();
    assert_eq!(used(), Ok(()));
    sim.device_synchronize(D1).unwrap();
    sim.stamp_write(D1, A, base, 8, 4).unwrap();
    sim.stamp_check(D0, B, base + PAGE, 8, 4).unwrap();
    let lost = sim.stamp_check(D1, A, base, 9, 4).unwrap_err();
    assert!(matches!(lost, Misuse::StampLost { device: D1, bytes: 1, .. }), "{lost}");
    let count = sim.misuses().len();

    // Until the other device is done, the mapping has to stay. The other alias need not.
    sim.device_synchronize(D0).unwrap();
    sim.launch(D1, B, &[(base, 8)], Access::Read).unwrap();
    sim.unmap(D0, base + PAGE, PAGE).unwrap();
    assert_eq!(sim.misuses().len(), count);
    sim.unmap(D0, base, PAGE).unwrap();
    let expected = Misuse::UnmapInFlight { device: D0, address: base, bytes: PAGE, stream: B };
    assert_eq!(sim.misuses()[count..], [expected]);
    sim.map(D0, base, handle).unwrap();
    sim.set_access(D0, base, PAGE, &[D1]).unwrap();
    sim.launch(D1, B, &[(base, 8)], Access::Read).unwrap();
    sim.device_synchronize(D1).unwrap();
    sim.unmap(D0, base, PAGE).unwrap();
    assert_eq!(sim.misuses().len(), count + 1);
    // What one device has not mapped is foreign to the other as well.
    assert!(matches!(
        sim.launch(D1, A, &[(base - PAGE, 1)], Access::Read),
        Err(Misuse::UseOfForeign { device: D1, .. })
    ));
}
