//! Memory, names and errors of the driver calls.

use drystone_core::driver::{DeviceMemory, Driver, DriverCall, DriverErrorKind, EventId, StreamId};
use drystone_sim::{
    ConfigError, DeviceConfig, LeakedEvent, LeakedSegment, Misuse, SimConfig, SimDriver,
};

use crate::{A, B, D0, D1, MIB, NO_DEVICE, config, sim};

#[test]
fn devices_have_their_own_memory() {
    let mut config = config();
    config.devices[1] =
        DeviceConfig { capacity: 8 * MIB, held_by_others: MIB, ..DeviceConfig::default() };
    let sim = SimDriver::new(config).unwrap();
    assert_eq!(sim.device_count(), 2);
    sim.segment_alloc(D1, 3 * MIB).unwrap();
    let full = 80 << 30;
    assert_eq!(sim.device_memory(D0), Ok(DeviceMemory { free: full, total: full }));
    assert_eq!(sim.device_memory(D1), Ok(DeviceMemory { free: 4 * MIB, total: 8 * MIB }));
    assert_eq!(sim.segment_alloc(D1, 5 * MIB).unwrap_err().kind, DriverErrorKind::OutOfMemory);
    sim.set_held_by_others(D1, 0);
    sim.segment_alloc(D1, 5 * MIB).unwrap();
    let usage = sim.usage(D1).unwrap();
    assert_eq!((usage.taken, usage.segments, usage.memory.free), (8 * MIB, 2, 0));
}

#[test]
fn other_processes_may_take_the_rest() {
    let sim = SimDriver::new(config().capacity(MIB)).unwrap();
    let address = sim.segment_alloc(D0, 1000).unwrap();
    sim.set_held_by_others(D0, u64::MAX);
    assert_eq!(sim.device_memory(D0).unwrap().free, 0);
    assert_eq!(sim.segment_alloc(D0, 1).unwrap_err().kind, DriverErrorKind::OutOfMemory);
    sim.segment_free(D0, address).unwrap();
    assert_eq!(sim.usage(D0).unwrap().peak_taken, 1000);
}

#[test]
fn stale_pointers_are_handed_out_again() {
    let sim = sim();
    let first = sim.segment_alloc(D0, 4 * MIB).unwrap();
    let second = sim.segment_alloc(D0, 4 * MIB).unwrap();
    sim.segment_free(D0, first).unwrap();
    assert_eq!(sim.segment_alloc(D0, 2 * MIB).unwrap(), first);
    assert_ne!(sim.segment_alloc(D0, 4 * MIB).unwrap(), second);
    assert_eq!(sim.misuses(), []);
}

#[test]
fn events_of_other_devices_and_destroyed_ones_are_unknown() {
    let sim = sim();
    let [mine, other, gone] = [D0, D1, D0].map(|device| sim.event_create(device).unwrap());
    sim.event_destroy(D0, gone).unwrap();
    for event in [other, gone, EventId(0), EventId(u64::MAX)] {
        let results = [
            sim.event_record(D0, event, A),
            sim.event_query(D0, event).map(drop),
            sim.event_synchronize(D0, event),
            sim.stream_wait_event(D0, A, event),
            sim.event_destroy(D0, event),
        ];
        let kinds = results.map(|result| result.unwrap_err().kind);
        assert_eq!(kinds, [DriverErrorKind::InvalidValue; 5]);
    }
    assert_eq!(sim.misuses().len(), 20);
    let call = DriverCall::EventRecord;
    assert_eq!(sim.misuses()[0], Misuse::UnknownEvent { device: D0, call, event: other });
    sim.event_destroy(D0, mine).unwrap();
    sim.event_destroy(D1, other).unwrap();
}

#[test]
fn streams_can_be_restricted() {
    let mut config = config();
    config.devices[0].streams = Some(vec![A]);
    let sim = SimDriver::new(config).unwrap();
    let event = sim.event_create(D0).unwrap();
    for stream in [A, StreamId(0)] {
        sim.event_record(D0, event, stream).unwrap();
        sim.stream_wait_event(D0, stream, event).unwrap();
    }
    let recorded = sim.event_record(D0, event, B).unwrap_err();
    let waited = sim.stream_wait_event(D0, B, event).unwrap_err();
    assert_eq!(
        (recorded.kind, recorded.call),
        (DriverErrorKind::InvalidValue, DriverCall::EventRecord)
    );
    assert_eq!(waited.kind, DriverErrorKind::InvalidValue);
    let unknown = Misuse::UnknownStream { device: D0, stream: B };
    assert_eq!(sim.begin_capture(D0, B), Err(unknown.clone()));
    assert_eq!(sim.misuses(), vec![unknown; 3]);
    // The other device is not restricted.
    let event = sim.event_create(D1).unwrap();
    sim.event_record(D1, event, B).unwrap();
}

#[test]
fn leaks_are_listed() {
    let sim = sim();
    let address = sim.segment_alloc(D1, 700).unwrap();
    let event = sim.event_create(D0).unwrap();
    let report = sim.finish();
    assert_eq!(report.leaked_segments, [LeakedSegment { device: D1, address, bytes: 700 }]);
    assert_eq!(report.leaked_events, [LeakedEvent { device: D0, event }]);
    assert!(!report.is_clean());
    assert!(report.to_string().starts_with("0 misuses, 1 segments leaked, 1 events leaked\n"));
    sim.segment_free(D1, address).unwrap();
    assert!(!sim.finish().is_clean());
    sim.event_destroy(D0, event).unwrap();
    assert!(sim.finish().is_clean());
    assert_eq!(sim.finish().to_string(), "no misuse, no leak");
}

#[test]
fn devices_that_do_not_exist_are_a_misuse() {
    let sim = sim();
    assert_eq!(sim.device_synchronize(NO_DEVICE).unwrap_err().kind, DriverErrorKind::InvalidDevice);
    assert_eq!(sim.usage(NO_DEVICE), None);
    sim.set_held_by_others(NO_DEVICE, 1);
    let unknown = Misuse::UnknownDevice { device: NO_DEVICE };
    assert_eq!(sim.begin_capture(NO_DEVICE, A), Err(unknown.clone()));
    assert_eq!(sim.misuses(), vec![unknown; 2]);
    assert_eq!(sim.stats().total().calls, 0);
}

#[test]
fn a_configuration_without_devices_is_refused() {
    let refused = SimDriver::new(SimConfig::default().devices(0)).unwrap_err();
    assert_eq!(refused, ConfigError::Devices(0));
}
