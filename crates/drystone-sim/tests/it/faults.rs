//! Injected faults, seen through the driver.

use drystone_core::driver::{Driver, DriverCall, DriverErrorKind, HandleKind};
use drystone_sim::{Access, Costs, FaultPlan, SimConfig, SimDriver};

use crate::{A, B, D0, MIB, sim};

#[test]
fn a_failed_call_has_no_effect() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let event = sim.event_create(D0).unwrap();
    let handle = sim.handle_create(D0, 2 * MIB, HandleKind::Exportable).unwrap();
    let share = sim.handle_export(D0, handle).unwrap();
    let base = sim.address_reserve(D0, 4 * MIB).unwrap();
    sim.map(D0, base, handle).unwrap();
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.event_record(D0, event, B).unwrap();
    let before = (sim.usage(D0), sim.now_ns());

    sim.set_faults(FaultPlan::new().from_nth(None, 1));
    let kinds = [
        sim.device_memory(D0).map(drop).unwrap_err(),
        sim.segment_alloc(D0, MIB).map(drop).unwrap_err(),
        sim.segment_free(D0, address).unwrap_err(),
        sim.page_bytes(D0).map(drop).unwrap_err(),
        sim.address_reserve(D0, 2 * MIB).map(drop).unwrap_err(),
        sim.address_free(D0, base, 4 * MIB).unwrap_err(),
        sim.handle_create(D0, 2 * MIB, HandleKind::Device).map(drop).unwrap_err(),
        sim.handle_release(D0, handle).unwrap_err(),
        sim.handle_export(D0, handle).map(drop).unwrap_err(),
        sim.handle_import(D0, share, 2 * MIB).map(drop).unwrap_err(),
        sim.map(D0, base + 2 * MIB, handle).unwrap_err(),
        sim.set_access(D0, base, 2 * MIB, &[D0]).unwrap_err(),
        sim.unmap(D0, base, 2 * MIB).unwrap_err(),
        sim.event_create(D0).map(drop).unwrap_err(),
        sim.event_destroy(D0, event).unwrap_err(),
        sim.event_record(D0, event, A).unwrap_err(),
        sim.event_query(D0, event).map(drop).unwrap_err(),
        sim.event_synchronize(D0, event).unwrap_err(),
        sim.stream_wait_event(D0, B, event).unwrap_err(),
        sim.device_synchronize(D0).unwrap_err(),
    ];
    for (error, call) in kinds.iter().zip(DriverCall::ALL) {
        let kind = match call {
            DriverCall::SegmentAlloc | DriverCall::AddressReserve | DriverCall::HandleCreate => {
                DriverErrorKind::OutOfMemory
            }
            _ => DriverErrorKind::Other,
        };
        assert_eq!((error.call, error.kind), (call, kind));
    }
    assert_eq!(sim.faults_injected(), DriverCall::ALL.len() as u64);
    assert_eq!(sim.stats().total().failed, DriverCall::ALL.len() as u64);
    assert_eq!(kinds.len(), DriverCall::ALL.len());

    sim.set_faults(FaultPlan::new());
    assert_eq!((sim.usage(D0), sim.now_ns()), before);
    // The record on A failed, so the event is still the one of the idle stream B.
    assert_eq!(sim.event_query(D0, event), Ok(true));
    // Access was not given, the mapping is still there.
    sim.launch(D0, A, &[(base, 1)], Access::Read).unwrap_err();
    sim.unmap(D0, base, 2 * MIB).unwrap();
    sim.segment_free(D0, address).unwrap();
    assert_eq!(sim.misuses().len(), 1);
}

#[test]
fn the_third_segment_fails_and_only_that() {
    let plan = FaultPlan::new().nth(DriverCall::SegmentAlloc, 3);
    let sim = SimDriver::new(SimConfig::default().costs(Costs::idle()).faults(plan)).unwrap();
    let results: Vec<bool> = (0..5).map(|_| sim.segment_alloc(D0, MIB).is_ok()).collect();
    assert_eq!(results, [true, true, false, true, true]);
    let spent = sim.stats().of(DriverCall::SegmentAlloc).driver_ns;
    assert_eq!(spent, 4 * 33_000 + 103_000);
}

#[test]
fn an_injected_out_of_memory_costs_what_a_true_one_costs() {
    let sim = SimDriver::new(SimConfig::default()).unwrap();
    sim.set_faults(FaultPlan::new().from_nth(None, 1));
    sim.handle_create(D0, 2 * MIB, HandleKind::Device).unwrap_err();
    assert_eq!(sim.now_ns(), 36_000);
    sim.address_reserve(D0, 2 * MIB).unwrap_err();
    assert_eq!(sim.now_ns(), 36_000, "addresses are looked up at once");
}

#[test]
fn a_lost_device_stays_lost_until_the_plan_changes() {
    let sim = sim();
    sim.set_faults(FaultPlan::new().from_nth(None, 2).error(DriverErrorKind::DeviceLost));
    assert!(sim.event_create(D0).is_ok());
    for _ in 0..3 {
        assert_eq!(sim.device_memory(D0).unwrap_err().kind, DriverErrorKind::DeviceLost);
    }
    sim.set_faults(FaultPlan::new());
    assert!(sim.device_memory(D0).is_ok());
}
