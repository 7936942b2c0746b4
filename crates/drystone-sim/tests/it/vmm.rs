//! Addresses, handles and mappings: what the calls give, refuse and count.

use drystone_core::driver::{
    DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, HandleId, HandleKind, ShareId,
};
use drystone_sim::{
    Access, LeakedHandle, LeakedMapping, LeakedRange, Misuse, RangeFault, SimConfig, SimDriver,
    Usage,
};

use crate::{A, D0, D1, MIB, NO_DEVICE, config, sim};

const PAGE: u64 = 2 * MIB;

fn handle(sim: &SimDriver, pages: u64) -> HandleId {
    sim.handle_create(D0, pages * PAGE, HandleKind::Device).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, DriverError>) -> DriverErrorKind {
    result.unwrap_err().kind
}

#[test]
fn a_device_without_mapping_says_so_at_every_call() {
    let sim = SimDriver::new(config().vmm(false)).unwrap();
    let refused = [
        sim.page_bytes(D0).map(drop),
        sim.address_reserve(D0, PAGE).map(drop),
        sim.address_free(D0, PAGE, PAGE),
        sim.handle_create(D0, PAGE, HandleKind::Device).map(drop),
        sim.handle_release(D0, HandleId(1)),
        sim.handle_export(D0, HandleId(1)).map(drop),
        sim.handle_import(D0, ShareId(1), PAGE).map(drop),
        sim.map(D0, PAGE, HandleId(1)),
        sim.set_access(D0, PAGE, PAGE, &[D0]),
        sim.unmap(D0, PAGE, PAGE),
    ];
    assert!(refused.map(kind).iter().all(|kind| *kind == DriverErrorKind::NotSupported));
    assert_eq!(sim.misuses(), []);
    sim.segment_alloc(D0, MIB).unwrap();
}

#[test]
fn handles_and_segments_share_the_device() {
    let sim = SimDriver::new(config().capacity(10 * PAGE)).unwrap();
    let segment = sim.segment_alloc(D0, 3 * PAGE).unwrap();
    let big = handle(&sim, 5);
    let (free, total) = (2 * PAGE, 10 * PAGE);
    assert_eq!(sim.device_memory(D0), Ok(DeviceMemory { free, total }));
    let full = sim.handle_create(D0, 3 * PAGE, HandleKind::Exportable);
    assert_eq!(kind(full), DriverErrorKind::OutOfMemory);
    assert_eq!(kind(sim.segment_alloc(D0, 2 * PAGE + 1)), DriverErrorKind::OutOfMemory);
    let small = handle(&sim, 2);
    sim.segment_free(D0, segment).unwrap();
    sim.handle_release(D0, big).unwrap();
    let usage = sim.usage(D0).unwrap();
    assert_eq!((usage.taken, usage.peak_taken, usage.handles), (2 * PAGE, 10 * PAGE, 1));
    sim.handle_release(D0, small).unwrap();
    sim.set_held_by_others(D0, 9 * PAGE);
    let full = sim.handle_create(D0, 2 * PAGE, HandleKind::Device);
    assert_eq!(kind(full), DriverErrorKind::OutOfMemory);
    assert_eq!(sim.misuses(), []);
}

#[test]
fn host_handles_take_memory_of_the_host() {
    let sim = SimDriver::new(config().capacity(PAGE).host_capacity(3 * PAGE)).unwrap();
    let make = |pages| sim.handle_create(D0, pages * PAGE, HandleKind::Host);
    let spilled = make(2).unwrap();
    assert_eq!(kind(make(2)), DriverErrorKind::OutOfMemory);
    let usage = sim.usage(D0).unwrap();
    assert_eq!((usage.taken, usage.host_taken, usage.memory.free), (0, 2 * PAGE, PAGE));
    // It is mapped beside memory of the device and used like it.
    let own = handle(&sim, 1);
    let base = sim.address_reserve(D0, 3 * PAGE).unwrap();
    sim.map(D0, base, own).unwrap();
    sim.map(D0, base + PAGE, spilled).unwrap();
    sim.set_access(D0, base, 3 * PAGE, &[D0]).unwrap();
    sim.stamp_write(D0, A, base, 3 * PAGE, 5).unwrap();
    sim.stamp_check(D0, A, base, 3 * PAGE, 5).unwrap();
    sim.device_synchronize(D0).unwrap();
    sim.unmap(D0, base, 3 * PAGE).unwrap();
    sim.handle_release(D0, spilled).unwrap();
    assert_eq!(sim.usage(D0).unwrap().host_taken, 0);
    make(3).unwrap();
}

#[test]
fn addresses_run_out_and_come_back() {
    let sim = SimDriver::new(config().addresses(2 * (8 * PAGE + 512))).unwrap();
    let [a, b] = [3, 4].map(|pages| sim.address_reserve(D0, pages * PAGE).unwrap());
    assert_eq!(kind(sim.address_reserve(D0, 2 * PAGE)), DriverErrorKind::OutOfMemory);
    // The other device has addresses of its own.
    let other = sim.address_reserve(D1, 8 * PAGE).unwrap();
    assert!(other + 8 * PAGE <= a || a + 3 * PAGE <= other);
    assert!([a, b, other].iter().all(|address| address.is_multiple_of(PAGE)));
    sim.address_free(D0, a, 3 * PAGE).unwrap();
    assert_eq!(sim.address_reserve(D0, 3 * PAGE), Ok(a));
    assert_eq!(sim.usage(D0).unwrap().addresses, 7 * PAGE);
    sim.address_free(D0, b, 4 * PAGE).unwrap();
    assert_eq!(kind(sim.address_reserve(D0, 6 * PAGE)), DriverErrorKind::OutOfMemory);
    sim.address_reserve(D0, 5 * PAGE).unwrap();
    assert_eq!(sim.misuses(), []);
}

#[test]
fn as_many_addresses_as_an_h100_has_lie_apart_from_segments() {
    let sim = SimDriver::new(SimConfig::default().scatter(3)).unwrap();
    let base = sim.address_reserve(D0, 64 << 40).unwrap();
    assert!(base > 0 && base.is_multiple_of(PAGE));
    for bytes in [512, PAGE, 1 << 30] {
        assert!(sim.segment_alloc(D0, bytes).unwrap() >= base + (64 << 40));
    }
    assert_eq!(kind(sim.address_reserve(D0, PAGE)), DriverErrorKind::OutOfMemory);
    let none = SimDriver::new(SimConfig::default().addresses(0)).unwrap();
    assert_eq!(kind(none.address_reserve(D0, PAGE)), DriverErrorKind::OutOfMemory);
    none.launch(D0, A, &[(base, 1)], Access::Read).unwrap_err();
}

#[test]
fn sizes_are_pages() {
    let sim = sim();
    for bytes in [0, 1, PAGE - 1, PAGE + 512, u64::MAX] {
        assert_eq!(kind(sim.address_reserve(D0, bytes)), DriverErrorKind::InvalidValue);
        let made = sim.handle_create(D0, bytes, HandleKind::Device);
        assert_eq!(kind(made), DriverErrorKind::InvalidValue);
    }
    for bytes in [1 << 48, u64::MAX - PAGE + 1] {
        assert_eq!(kind(sim.address_reserve(D0, bytes)), DriverErrorKind::OutOfMemory);
        let made = sim.handle_create(D0, bytes, HandleKind::Device);
        assert_eq!(kind(made), DriverErrorKind::OutOfMemory);
    }
}

/// Each wrong range of each call: an error, the right misuse, and no effect.
#[test]
fn wrong_ranges() {
    use DriverCall::{AddressFree, Map, SetAccess, Unmap};
    use RangeFault::{Mapped, NotMapped, NotReserved, PartOfMapping, Unaligned};
    let sim = sim();
    let base = sim.address_reserve(D0, 16 * PAGE).unwrap();
    // A second range directly behind the first.
    let next = sim.address_reserve(D0, 4 * PAGE).unwrap();
    assert_eq!(next, base + 16 * PAGE);
    let [two, three] = [2, 3].map(|pages| handle(&sim, pages));
    // Pages 4 to 6, 7 and 8, 9 to 11; 14 and 15, and the first two of the next range.
    for (page, handle) in [(4, three), (7, two), (9, three), (14, two), (16, two)] {
        sim.map(D0, base + page * PAGE, handle).unwrap();
    }
    let before = sim.finish();
    let cases = [
        (Map, 512, 3 * PAGE, Unaligned),
        (Map, 4 * PAGE, 2 * PAGE, Mapped),
        (Map, 3 * PAGE, 2 * PAGE, Mapped),
        (Map, 8 * PAGE, 2 * PAGE, Mapped),
        (Map, 12 * PAGE, 3 * PAGE, Mapped),
        (Map, 19 * PAGE, 2 * PAGE, NotReserved),
        (Map, 20 * PAGE, 2 * PAGE, NotReserved),
        (Map, 1 << 50, 2 * PAGE, NotReserved),
        (AddressFree, 0, 16 * PAGE, Mapped),
        (AddressFree, 0, 15 * PAGE, NotReserved),
        (AddressFree, 0, 0, NotReserved),
        (AddressFree, PAGE, 15 * PAGE, NotReserved),
        (AddressFree, 0, 20 * PAGE, NotReserved),
        (Unmap, 4 * PAGE, 2 * PAGE, PartOfMapping),
        (Unmap, 5 * PAGE, 2 * PAGE, PartOfMapping),
        (Unmap, 4 * PAGE, 4 * PAGE, PartOfMapping),
        (Unmap, 5 * PAGE, 4 * PAGE, PartOfMapping),
        (Unmap, 4 * PAGE, 3 * PAGE + 1, PartOfMapping),
        (Unmap, 3 * PAGE, 4 * PAGE, NotMapped),
        (Unmap, 9 * PAGE, 4 * PAGE, NotMapped),
        (Unmap, 9 * PAGE, 7 * PAGE, NotMapped),
        (Unmap, 0, PAGE, NotMapped),
        (Unmap, 4 * PAGE, 0, NotReserved),
        (Unmap, 14 * PAGE, 4 * PAGE, NotReserved),
        (Unmap, 30 * PAGE, PAGE, NotReserved),
        (Unmap, 4 * PAGE, u64::MAX, NotReserved),
        (SetAccess, 4 * PAGE, PAGE, PartOfMapping),
        (SetAccess, 6 * PAGE, 3 * PAGE, PartOfMapping),
        (SetAccess, 12 * PAGE, 4 * PAGE, NotMapped),
        (SetAccess, 16 * PAGE, 3 * PAGE, NotMapped),
        (SetAccess, 30 * PAGE, PAGE, NotReserved),
    ];
    for (call, at, bytes, fault) in cases {
        let address = base + at;
        let result = match call {
            Map if bytes == 2 * PAGE => sim.map(D0, address, two),
            Map => sim.map(D0, address, three),
            AddressFree => sim.address_free(D0, address, bytes),
            Unmap => sim.unmap(D0, address, bytes),
            _ => sim.set_access(D0, address, bytes, &[D0]),
        };
        assert_eq!(kind(result), DriverErrorKind::InvalidValue, "{call} {at} {bytes}");
        let expected = Misuse::WrongRange { device: D0, call, address, bytes, fault };
        assert_eq!(sim.misuses().last(), Some(&expected));
    }
    let after = sim.finish();
    assert_eq!(after.misuse_count, cases.len() as u64);
    assert_eq!(after.leaked_mappings, before.leaked_mappings);
    // Whole mappings are what one can have, one or several.
    for (page, pages) in [(7, 2), (4, 3), (9, 3), (14, 2), (16, 2)] {
        sim.set_access(D0, base + page * PAGE, pages * PAGE, &[D0]).unwrap();
    }
    sim.set_access(D0, base + 4 * PAGE, 8 * PAGE, &[D0]).unwrap();
    sim.unmap(D0, base + 4 * PAGE, 8 * PAGE).unwrap();
    assert_eq!(sim.usage(D0).unwrap().mappings, 2);
    assert_eq!(sim.finish().misuse_count, cases.len() as u64);
}

#[test]
fn handles_of_other_devices_and_released_ones_are_unknown() {
    let sim = sim();
    let base = sim.address_reserve(D0, 4 * PAGE).unwrap();
    let other = sim.handle_create(D1, PAGE, HandleKind::Exportable).unwrap();
    let gone = handle(&sim, 1);
    sim.handle_release(D0, gone).unwrap();
    for handle in [other, gone, HandleId(0), HandleId(u64::MAX)] {
        let calls = [
            (DriverCall::HandleRelease, sim.handle_release(D0, handle)),
            (DriverCall::HandleExport, sim.handle_export(D0, handle).map(drop)),
            (DriverCall::Map, sim.map(D0, base, handle)),
        ];
        for (call, result) in calls {
            assert_eq!(kind(result), DriverErrorKind::InvalidValue);
            let expected = Misuse::UnknownHandle { device: D0, call, handle };
            assert!(sim.misuses().contains(&expected), "{expected}");
        }
    }
    // Nor do mappings belong to two devices.
    assert_eq!(kind(sim.map(D1, base, other)), DriverErrorKind::InvalidValue);
    assert_eq!(sim.misuses().len(), 13);
}

#[test]
fn a_mapped_handle_is_not_released() {
    let sim = sim();
    let base = sim.address_reserve(D0, 2 * PAGE).unwrap();
    let one = handle(&sim, 1);
    sim.map(D0, base, one).unwrap();
    sim.map(D0, base + PAGE, one).unwrap();
    for mappings in [2, 1] {
        assert_eq!(kind(sim.handle_release(D0, one)), DriverErrorKind::InvalidValue);
        let expected = Misuse::ReleaseOfMapped { device: D0, handle: one, mappings };
        assert_eq!(sim.misuses().last(), Some(&expected));
        sim.unmap(D0, base + (mappings - 1) * PAGE, PAGE).unwrap();
    }
    sim.handle_release(D0, one).unwrap();
    sim.address_free(D0, base, 2 * PAGE).unwrap();
    assert_eq!(sim.usage(D0).unwrap(), Usage { peak_taken: PAGE, ..sim.usage(D1).unwrap() });
}

#[test]
fn exported_memory_lives_as_long_as_one_of_its_handles() {
    let sim = sim();
    let plain = handle(&sim, 1);
    assert_eq!(kind(sim.handle_export(D0, plain)), DriverErrorKind::InvalidValue);
    assert_eq!(sim.misuses(), [Misuse::NotExportable { device: D0, handle: plain }]);
    let made = sim.handle_create(D0, 2 * PAGE, HandleKind::Exportable).unwrap();
    let share = sim.handle_export(D0, made).unwrap();
    for (device, share, bytes) in
        [(D0, share, PAGE), (D1, share, 2 * PAGE), (D0, ShareId(7), 2 * PAGE)]
    {
        let result = sim.handle_import(device, share, bytes);
        assert_eq!(kind(result), DriverErrorKind::InvalidValue);
        let expected = Misuse::UnknownShare { device, share, bytes };
        assert_eq!(sim.misuses().last(), Some(&expected));
    }
    let other = sim.handle_import(D0, share, 2 * PAGE).unwrap();
    assert_ne!(made, other);
    assert_eq!(sim.usage(D0).unwrap().taken, 3 * PAGE, "the memory is taken once");

    let base = sim.address_reserve(D0, 4 * PAGE).unwrap();
    sim.map(D0, base, made).unwrap();
    sim.map(D0, base + 2 * PAGE, other).unwrap();
    sim.set_access(D0, base, 4 * PAGE, &[D0]).unwrap();
    sim.stamp_write(D0, A, base, 2 * PAGE, 9).unwrap();
    sim.stamp_check(D0, A, base + 2 * PAGE, 2 * PAGE, 9).unwrap();
    sim.device_synchronize(D0).unwrap();
    sim.unmap(D0, base, 2 * PAGE).unwrap();
    sim.handle_release(D0, made).unwrap();
    sim.stamp_check(D0, A, base + 2 * PAGE, 2 * PAGE, 9).unwrap();
    assert_eq!(sim.usage(D0).unwrap().taken, 3 * PAGE);
    sim.device_synchronize(D0).unwrap();
    sim.unmap(D0, base + 2 * PAGE, 2 * PAGE).unwrap();
    sim.handle_release(D0, other).unwrap();
    assert_eq!(sim.usage(D0).unwrap().taken, PAGE);
    assert_eq!(kind(sim.handle_import(D0, share, 2 * PAGE)), DriverErrorKind::InvalidValue);
}

#[test]
fn accessors_exist() {
    let sim = sim();
    let base = sim.address_reserve(D0, PAGE).unwrap();
    sim.map(D0, base, handle(&sim, 1)).unwrap();
    let unknown = sim.set_access(D0, base, PAGE, &[D0, NO_DEVICE]);
    assert_eq!(kind(unknown), DriverErrorKind::InvalidDevice);
    assert_eq!(sim.misuses(), [Misuse::UnknownDevice { device: NO_DEVICE }]);
    assert_eq!(kind(sim.set_access(D0, base, PAGE, &[])), DriverErrorKind::InvalidValue);
    // Neither gave access to the one that exists.
    sim.launch(D0, A, &[(base, 1)], Access::Read).unwrap_err();
}

#[test]
fn in_a_capture_memory_is_taken_but_not_given_back() {
    let sim = sim();
    let base = sim.address_reserve(D0, 2 * PAGE).unwrap();
    let one = handle(&sim, 1);
    sim.map(D0, base, one).unwrap();
    sim.begin_capture(D0, A).unwrap();
    let refused = [
        (DriverCall::Unmap, sim.unmap(D0, base, PAGE)),
        (DriverCall::HandleRelease, sim.handle_release(D0, one)),
        (DriverCall::AddressFree, sim.address_free(D0, base, 2 * PAGE)),
    ];
    let logged = refused.map(|(call, result)| {
        assert_eq!(kind(result), DriverErrorKind::NotPermitted);
        Misuse::CallInCapture { device: D0, call }
    });
    assert_eq!(sim.misuses(), logged);
    sim.map(D0, base + PAGE, handle(&sim, 1)).unwrap();
    sim.set_access(D0, base, 2 * PAGE, &[D0]).unwrap();
    sim.address_reserve(D0, PAGE).unwrap();
    sim.launch(D0, A, &[(base, 2 * PAGE)], Access::Write).unwrap();
    sim.end_capture(D0, A).unwrap();
    // The captured work never ran.
    sim.unmap(D0, base, 2 * PAGE).unwrap();
    assert_eq!(sim.misuses().len(), 3);
}

#[test]
fn what_is_left_is_listed() {
    let sim = sim();
    let address = sim.address_reserve(D1, 3 * PAGE).unwrap();
    let handle = sim.handle_create(D1, 2 * PAGE, HandleKind::Host).unwrap();
    sim.map(D1, address, handle).unwrap();
    let report = sim.finish();
    let device = D1;
    assert_eq!(report.leaked_handles, [LeakedHandle { device, handle, bytes: 2 * PAGE }]);
    let mapping = LeakedMapping { device, address, bytes: 2 * PAGE, handle };
    assert_eq!(report.leaked_mappings, [mapping]);
    assert_eq!(report.leaked_ranges, [LeakedRange { device, address, bytes: 3 * PAGE }]);
    let text = report.to_string();
    let first = "0 misuses, 1 handles leaked, 1 mappings leaked, 1 address ranges leaked\n";
    assert!(text.starts_with(first), "{text}");
    assert_eq!(text.lines().count(), 4);
    let usage = sim.usage(D1).unwrap();
    assert_eq!((usage.handles, usage.mappings, usage.addresses), (1, 1, 3 * PAGE));
    sim.unmap(D1, address, 2 * PAGE).unwrap();
    assert!(!sim.finish().is_clean());
    sim.handle_release(D1, handle).unwrap();
    assert!(!sim.finish().is_clean());
    sim.address_free(D1, address, 3 * PAGE).unwrap();
    assert!(sim.finish().is_clean());
}
