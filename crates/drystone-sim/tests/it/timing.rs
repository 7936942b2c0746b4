//! The virtual clock: what calls cost, and what is waiting.

use drystone_core::driver::{Driver, DriverCall, HandleKind};
use drystone_sim::{Access, CallStats, Costs, SimConfig, SimDriver};

use crate::{A, B, D0, D1, MIB, sim};

#[test]
fn each_call_moves_the_clock_by_its_cost() {
    let sim = SimDriver::new(SimConfig::default().costs(Costs::idle())).unwrap();
    let mut last = 0;
    let mut took = |what: DriverCall, expected: u64| {
        let now = sim.now_ns();
        assert_eq!(now - last, expected, "{what}");
        let waits = what.waits();
        let stats = CallStats {
            calls: 1,
            failed: 0,
            driver_ns: if waits { 0 } else { expected },
            wait_ns: if waits { expected } else { 0 },
        };
        assert_eq!(sim.stats().of(what), stats, "{what}");
        last = now;
    };
    sim.device_memory(D0).unwrap();
    took(DriverCall::DeviceMemory, 4_900);
    let address = sim.segment_alloc(D0, 20 * MIB).unwrap();
    took(DriverCall::SegmentAlloc, 35_000);
    sim.segment_free(D0, address).unwrap();
    took(DriverCall::SegmentFree, 40_000);
    let event = sim.event_create(D0).unwrap();
    took(DriverCall::EventCreate, 200);
    sim.event_record(D0, event, A).unwrap();
    took(DriverCall::EventRecord, 250);
    assert_eq!(sim.event_query(D0, event), Ok(true));
    took(DriverCall::EventQuery, 140);
    sim.event_synchronize(D0, event).unwrap();
    took(DriverCall::EventSynchronize, 140);
    sim.stream_wait_event(D0, B, event).unwrap();
    took(DriverCall::StreamWaitEvent, 170);
    sim.device_synchronize(D0).unwrap();
    took(DriverCall::DeviceSynchronize, 1_000);
    sim.event_destroy(D0, event).unwrap();
    took(DriverCall::EventDestroy, 220);
}

#[test]
fn mapping_costs_by_handle_and_device() {
    const PAGE: u64 = 2 * MIB;
    let sim = SimDriver::new(SimConfig::default().devices(2).costs(Costs::idle())).unwrap();
    let make = |pages, kind| sim.handle_create(D0, pages * PAGE, kind).unwrap();
    let mut last = 0;
    let mut took = |what: &str, us: f64| {
        let now = sim.now_ns();
        assert_eq!((now - last) as f64 / 1000.0, us, "{what}");
        last = now;
    };
    sim.page_bytes(D0).unwrap();
    took("page_bytes", 0.0);
    let base = sim.address_reserve(D0, 1 << 40).unwrap();
    took("address_reserve", 1.2);
    let small = make(1, HandleKind::Device);
    took("handle_create", 8.6);
    let large = make(128, HandleKind::Device);
    took("handle_create", 11.0);
    sim.handle_create(D0, 1 << 40, HandleKind::Device).unwrap_err();
    took("handle_create out of memory", 36.0);
    for (page, handle) in [(0, small), (1, small), (2, large)] {
        sim.map(D0, base + page * PAGE, handle).unwrap();
        took("map", 0.75);
    }
    sim.set_access(D0, base, 130 * PAGE, &[D0]).unwrap();
    took("set_access of three handles", 22.0 + 22.0 + 33.0);
    sim.set_access(D0, base, 2 * PAGE, &[D0, D1]).unwrap();
    took("set_access of two handles for two devices", 4.0 * 22.0);
    sim.unmap(D0, base, 130 * PAGE).unwrap();
    took("unmap of three handles", 15.0 + 15.0 + 19.0);
    sim.handle_release(D0, small).unwrap();
    took("handle_release", 9.0);
    sim.handle_release(D0, large).unwrap();
    took("handle_release", 81.0);
    sim.address_free(D0, base, 1 << 40).unwrap();
    took("address_free", 1.2);
    let shared = make(1, HandleKind::Exportable);
    took("handle_create", 8.6);
    let share = sim.handle_export(D0, shared).unwrap();
    took("handle_export", 3.0);
    sim.handle_import(D0, share, PAGE).unwrap();
    took("handle_import", 3.0);
    sim.handle_release(D0, small).unwrap_err();
    took("a refused call", 0.0);
    let stats = sim.stats();
    assert_eq!(stats.of(DriverCall::Unmap).driver_ns, 49_000);
    assert_eq!(stats.total().wait_ns, 0);
}

#[test]
fn failing_costs_only_where_the_device_is_full() {
    let sim = SimDriver::new(SimConfig::default().costs(Costs::idle()).capacity(MIB)).unwrap();
    sim.segment_alloc(D0, 0).unwrap_err();
    sim.segment_free(D0, 512).unwrap_err();
    assert_eq!(sim.now_ns(), 0);
    sim.segment_alloc(D0, 2 * MIB).unwrap_err();
    assert_eq!(sim.now_ns(), 103_000);
    let alloc = CallStats { calls: 2, failed: 2, driver_ns: 103_000, wait_ns: 0 };
    assert_eq!(sim.stats().of(DriverCall::SegmentAlloc), alloc);
    assert_eq!(sim.stats().of(DriverCall::SegmentFree).failed, 1);
}

#[test]
fn the_clock_is_moved_by_hand_but_never_back() {
    let sim = sim();
    sim.advance(10);
    sim.advance_to(25);
    sim.advance_to(5);
    assert_eq!(sim.now_ns(), 25);
}

#[test]
fn waiting_is_counted_apart() {
    let config = SimConfig::default().costs(Costs::idle()).host_lead_ns(20_000_000);
    let sim = SimDriver::new(config).unwrap();
    let address = sim.segment_alloc(D0, 2 * MIB).unwrap();
    let start = sim.now_ns();
    sim.launch(D0, A, &[], Access::Read).unwrap();
    // As cudaFree behind a 20 ms kernel.
    sim.segment_free(D0, address).unwrap();
    assert_eq!(sim.now_ns() - start, 20_000_000);
    let free = sim.stats().of(DriverCall::SegmentFree);
    assert_eq!((free.driver_ns, free.wait_ns), (30_000, 19_970_000));

    let start = sim.now_ns();
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.device_synchronize(D0).unwrap();
    let sync = sim.stats().of(DriverCall::DeviceSynchronize);
    assert_eq!((sync.driver_ns, sync.wait_ns), (0, 20_000_000));
    assert_eq!(sim.now_ns() - start, 20_000_000);
}

#[test]
fn other_devices_are_not_waited_for() {
    let sim = sim();
    sim.launch(D1, A, &[], Access::Read).unwrap();
    sim.device_synchronize(D0).unwrap();
    assert_eq!(sim.now_ns(), 0);
    sim.device_synchronize(D1).unwrap();
    assert_eq!(sim.now_ns(), 1000);
}

#[test]
fn the_clock_only_grows_under_threads() {
    let sim = SimDriver::new(SimConfig::default().costs(Costs::idle())).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut last = 0;
                for _ in 0..1000 {
                    let event = sim.event_create(D0).unwrap();
                    sim.event_destroy(D0, event).unwrap();
                    assert!(sim.now_ns() >= last + 420);
                    last = sim.now_ns();
                }
            });
        }
    });
    assert_eq!(sim.now_ns(), 4 * 1000 * 420);
    assert_eq!(sim.stats().total().calls, 8000);
}
