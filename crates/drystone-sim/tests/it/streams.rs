//! Events and streams one by one; `order` has the general case.

use drystone_core::driver::Driver;
use drystone_sim::{Access, SimConfig, SimDriver};

use crate::{A, B, C, D0, MIB, config, sim};

#[test]
fn an_event_is_done_when_the_work_before_it_is() {
    let sim = sim();
    let event = sim.event_create(D0).unwrap();
    assert_eq!(sim.event_query(D0, event), Ok(true), "never recorded");
    sim.event_record(D0, event, A).unwrap();
    assert_eq!(sim.event_query(D0, event), Ok(true), "no work before it");
    sim.launch(D0, A, &[], Access::Read).unwrap();
    assert_eq!(sim.event_query(D0, event), Ok(true), "work after the record");
    sim.event_record(D0, event, A).unwrap();
    sim.advance_to(999);
    assert_eq!(sim.event_query(D0, event), Ok(false));
    sim.advance_to(1000);
    assert_eq!(sim.event_query(D0, event), Ok(true));
    // Recording again moves it.
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.event_record(D0, event, A).unwrap();
    assert_eq!(sim.event_query(D0, event), Ok(false));
    sim.event_synchronize(D0, event).unwrap();
    assert_eq!(sim.now_ns(), 2000);
}

#[test]
fn a_stream_waits_for_an_event_as_it_was() {
    let sim = sim();
    let [first, second] = [(), ()].map(|()| sim.event_create(D0).unwrap());
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.event_record(D0, first, A).unwrap();
    sim.set_host_lead_ns(0);
    sim.stream_wait_event(D0, B, first).unwrap();
    sim.launch(D0, B, &[], Access::Read).unwrap();
    sim.event_record(D0, second, B).unwrap();
    // Moving the event later does not move the wait.
    sim.set_host_lead_ns(9000);
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.event_record(D0, first, A).unwrap();
    assert_eq!(sim.event_query(D0, second), Ok(false));
    sim.event_synchronize(D0, second).unwrap();
    assert_eq!(sim.now_ns(), 1000);
    assert_eq!(sim.event_query(D0, first), Ok(false));
}

#[test]
fn without_lead_work_is_done_at_once() {
    let sim = SimDriver::new(config().host_lead_ns(0)).unwrap();
    let event = sim.event_create(D0).unwrap();
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.event_record(D0, event, A).unwrap();
    assert_eq!(sim.event_query(D0, event), Ok(true));
}

#[test]
fn the_default_lead_is_five_milliseconds() {
    let sim = SimDriver::new(SimConfig::default()).unwrap();
    sim.launch(D0, A, &[], Access::Read).unwrap();
    sim.device_synchronize(D0).unwrap();
    assert_eq!(sim.now_ns(), 5_000_000);
}

#[test]
fn waiting_for_an_event_that_was_not_recorded_orders_nothing() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let event = sim.event_create(D0).unwrap();
    sim.launch(D0, A, &[(address, 8)], Access::Write).unwrap();
    sim.stream_wait_event(D0, B, event).unwrap();
    sim.event_synchronize(D0, event).unwrap();
    sim.launch(D0, B, &[(address, 8)], Access::Write).unwrap_err();
}

#[test]
fn order_goes_through_a_chain_of_streams() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let event = sim.event_create(D0).unwrap();
    sim.launch(D0, A, &[(address, 8)], Access::Write).unwrap();
    for (from, to) in [(A, B), (B, C)] {
        sim.event_record(D0, event, from).unwrap();
        sim.stream_wait_event(D0, to, event).unwrap();
    }
    sim.launch(D0, C, &[(address, 8)], Access::Write).unwrap();
    // The other way round there is none.
    sim.launch(D0, B, &[(address, 8)], Access::Write).unwrap_err();
}
