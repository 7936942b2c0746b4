//! Captures: what is not allowed while one is underway.

use drystone_core::driver::{Driver, DriverCall, DriverErrorKind};
use drystone_sim::{Access, Misuse};

use crate::{A, B, D0, D1, MIB, sim};

#[test]
fn calls_that_look_at_the_device_are_refused_in_a_capture() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let event = sim.event_create(D0).unwrap();
    sim.begin_capture(D0, A).unwrap();
    let refused = [
        sim.segment_free(D0, address),
        sim.event_record(D0, event, A),
        sim.event_query(D0, event).map(drop),
        sim.event_synchronize(D0, event),
        sim.stream_wait_event(D0, A, event),
        sim.device_synchronize(D0),
    ]
    .map(|result| result.unwrap_err());
    let calls = refused.each_ref().map(|error| error.call);
    assert!(refused.iter().all(|error| error.kind == DriverErrorKind::NotPermitted));
    let logged = calls.map(|call| Misuse::CallInCapture { device: D0, call });
    assert_eq!(sim.misuses(), logged);
    assert_eq!(calls[0], DriverCall::SegmentFree);

    // What is allowed: memory, other streams, other devices.
    sim.segment_alloc(D0, MIB).unwrap();
    sim.device_memory(D0).unwrap();
    let another = sim.event_create(D0).unwrap();
    sim.event_record(D0, another, B).unwrap();
    sim.stream_wait_event(D0, B, another).unwrap();
    sim.event_destroy(D0, another).unwrap();
    sim.device_synchronize(D1).unwrap();

    sim.end_capture(D0, A).unwrap();
    sim.event_record(D0, event, A).unwrap();
    sim.event_synchronize(D0, event).unwrap();
    sim.segment_free(D0, address).unwrap();
    assert_eq!(sim.misuses().len(), 6);
}

#[test]
fn captured_work_is_checked_but_does_not_run() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    sim.stamp_write(D0, A, address, 64, 1).unwrap();
    sim.device_synchronize(D0).unwrap();
    let start = sim.now_ns();
    sim.begin_capture(D0, A).unwrap();
    sim.stamp_write(D0, A, address, 64, 2).unwrap();
    sim.stamp_check(D0, A, address, 64, 3).unwrap();
    let beyond = sim.launch(D0, A, &[(address + MIB, 1)], Access::Read).unwrap_err();
    assert!(matches!(beyond, Misuse::UseOfForeign { .. }));
    sim.end_capture(D0, A).unwrap();
    sim.device_synchronize(D0).unwrap();
    assert_eq!(sim.now_ns(), start, "nothing ran");
    // Nothing is in use by the graph either, and the old stamp is still there.
    sim.stamp_check(D0, B, address, 64, 1).unwrap();
    assert_eq!(sim.misuses(), [beyond]);
}

#[test]
fn captures_have_a_beginning_and_an_end() {
    let sim = sim();
    let mismatch = Misuse::CaptureMismatch { device: D0, stream: A };
    assert_eq!(sim.end_capture(D0, A), Err(mismatch.clone()));
    sim.begin_capture(D0, A).unwrap();
    assert_eq!(sim.begin_capture(D0, A), Err(mismatch));
    sim.begin_capture(D0, B).unwrap();
    sim.end_capture(D0, A).unwrap();
    sim.device_synchronize(D0).unwrap_err();
    sim.end_capture(D0, B).unwrap();
    sim.device_synchronize(D0).unwrap();
}
