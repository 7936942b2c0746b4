//! Each misuse is detected, and its innocent neighbour is not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use drystone_core::driver::{Driver, DriverErrorKind};
use drystone_sim::{Access, Misuse, OnMisuse, SimDriver};

use crate::{A, B, C, D0, D1, MIB, NO_DEVICE, config, sim};

#[test]
fn use_of_foreign_memory() {
    let sim = sim();
    let mine = sim.segment_alloc(D0, MIB).unwrap();
    let foreign = |device, address, bytes| {
        let expected = Misuse::UseOfForeign { device, stream: A, address, bytes };
        assert_eq!(sim.launch(device, A, &[(address, bytes)], Access::Read), Err(expected));
    };
    foreign(D0, 0, 1);
    foreign(D0, mine - 1, 2);
    foreign(D0, mine + MIB, u64::MAX);
    foreign(D1, mine, 1);
    assert_eq!(sim.launch(D0, A, &[(mine, MIB), (mine, 0), (5, 0)], Access::Read), Ok(()));
    assert_eq!(sim.misuses().len(), 4);
}

#[test]
fn use_after_free() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    sim.segment_free(D0, address).unwrap();
    let expected = Misuse::UseAfterFree {
        device: D0,
        stream: A,
        address: address + 100,
        bytes: 8,
        segment: address,
    };
    let used = || sim.launch(D0, A, &[(address + 100, 8)], Access::Write);
    assert_eq!(used(), Err(expected));
    // Once the addresses are memory again nobody can tell.
    assert_eq!(sim.segment_alloc(D0, MIB).unwrap(), address);
    assert_eq!(used(), Ok(()));
}

#[test]
fn use_past_the_end_of_a_segment() {
    let sim = SimDriver::new(config().scatter(1)).unwrap();
    let mut segments: Vec<u64> = (0..20).map(|_| sim.segment_alloc(D0, 2 * MIB).unwrap()).collect();
    segments.sort_unstable();
    let adjacent = segments.windows(2).find(|pair| pair[0] + 2 * MIB == pair[1]).unwrap();
    let (segment, address) = (adjacent[0], adjacent[1] - 8);
    let past = Misuse::UsePastEnd {
        device: D0,
        stream: A,
        address,
        bytes: 9,
        segment,
        segment_bytes: 2 * MIB,
    };
    assert_eq!(sim.launch(D0, A, &[(address, 9)], Access::Read), Err(past));
    assert_eq!(sim.launch(D0, A, &[(address, 8)], Access::Read), Ok(()));
}

#[test]
fn unordered_access() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    sim.launch(D0, A, &[(address, 100)], Access::Write).unwrap();
    let clash = Misuse::Unordered {
        device: D0,
        address: address + 50,
        bytes: 50,
        stream: B,
        access: Access::Read,
        earlier_stream: A,
        earlier_access: Access::Write,
    };
    let got = sim.launch(D0, B, &[(address + 50, 100)], Access::Read);
    assert_eq!(got, Err(clash.clone()));
    assert_eq!(
        clash.to_string(),
        format!(
            "device 0: 50 bytes at {:#x}: Read on stream 0xb is not ordered after Write on stream 0xa",
            address + 50
        )
    );
    // Other bytes are free, and readers do not disturb readers.
    sim.launch(D0, C, &[(address + 100, 100)], Access::Read).unwrap();
    sim.launch(D0, B, &[(address + 100, 100)], Access::Read).unwrap();
    assert_eq!(sim.misuses().len(), 1);
}

#[test]
fn one_launch_clashes_once_per_stream_and_stretch() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    // Two pieces with different histories side by side, then a hole, then another.
    sim.launch(D0, A, &[(address, 20)], Access::Write).unwrap();
    sim.launch(D0, A, &[(address + 10, 10), (address + 30, 10)], Access::Read).unwrap();
    sim.launch(D0, B, &[(address, 100)], Access::Write).unwrap_err();
    let bytes = |misuse: &Misuse| match misuse {
        Misuse::Unordered { address: at, bytes, .. } => (at - address, *bytes),
        other => panic!("{other}"),
    };
    assert_eq!(sim.misuses().iter().map(bytes).collect::<Vec<_>>(), [(0, 20), (30, 10)]);
}

#[test]
fn free_in_flight() {
    let sim = sim();
    let [one, two] = [MIB, MIB].map(|bytes| sim.segment_alloc(D0, bytes).unwrap());
    sim.launch(D0, A, &[(one + 5, 1)], Access::Read).unwrap();
    sim.segment_free(D0, two).unwrap();
    assert_eq!(sim.misuses(), [], "the other segment is not in use");
    sim.segment_free(D0, one).unwrap();
    let expected = Misuse::FreeInFlight { device: D0, address: one, bytes: MIB, stream: A };
    assert_eq!(sim.misuses(), [expected]);
    assert_eq!(sim.now_ns(), 1000, "it waits all the same");
    // Said once: the next segment there starts afresh.
    assert_eq!(sim.segment_alloc(D0, MIB).unwrap(), one);
    sim.launch(D0, B, &[(one, MIB)], Access::Write).unwrap();
}

#[test]
fn free_is_in_flight_until_the_host_knows_better() {
    let freed = |settle: &dyn Fn(&SimDriver)| {
        let sim = sim();
        let address = sim.segment_alloc(D0, MIB).unwrap();
        sim.launch(D0, A, &[(address, 1)], Access::Write).unwrap();
        settle(&sim);
        sim.segment_free(D0, address).unwrap();
        sim.misuses().is_empty()
    };
    let queried_at = |ns| {
        move |sim: &SimDriver| {
            let event = sim.event_create(D0).unwrap();
            sim.event_record(D0, event, A).unwrap();
            sim.advance_to(ns);
            assert_eq!(sim.event_query(D0, event), Ok(ns >= 1000));
        }
    };
    assert!(freed(&|sim| sim.device_synchronize(D0).unwrap()));
    assert!(freed(&queried_at(1000)));
    assert!(!freed(&queried_at(999)));
    // Done by now, but nobody has looked.
    assert!(!freed(&|sim| sim.advance(1_000_000)));
    // The wait hidden in another free tells nothing: no contract says that it is there.
    assert!(!freed(&|sim| {
        let other = sim.segment_alloc(D0, 1).unwrap();
        sim.segment_free(D0, other).unwrap();
    }));
}

#[test]
fn foreign_and_double_free() {
    let sim = sim();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let refused = |device, address| {
        let error = sim.segment_free(device, address).unwrap_err();
        assert_eq!(error.kind, DriverErrorKind::InvalidValue);
    };
    refused(D0, address + 512);
    refused(D1, address);
    sim.segment_free(D0, address).unwrap();
    refused(D0, address);
    let expected = [
        Misuse::ForeignFree { device: D0, address: address + 512 },
        Misuse::ForeignFree { device: D1, address },
        Misuse::DoubleFree { device: D0, address },
    ];
    assert_eq!(sim.misuses(), expected);
}

#[test]
fn panics_on_demand_and_goes_on() {
    let sim = SimDriver::new(config().on_misuse(OnMisuse::Panic)).unwrap();
    let address = sim.segment_alloc(D0, MIB).unwrap();
    let panics = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(panics(&|| drop(sim.segment_free(D0, 512))));
    assert!(panics(&|| drop(sim.launch(NO_DEVICE, A, &[], Access::Read))));
    assert!(!panics(&|| sim.segment_free(D0, address).unwrap()));
    assert_eq!(sim.finish().misuse_count, 2);
}
