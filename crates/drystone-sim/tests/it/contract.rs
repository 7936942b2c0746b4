//! The conformance suite accepts the simulated device, and rejects drivers with one fault each.

use drystone_core::driver::{DeviceId, Driver, DriverCall, DriverErrorKind, StreamId};
use drystone_sim::{FaultPlan, Misuse, Report, SimConfig, SimDriver, contract};

use crate::broken::{Broken, Defect};
use crate::{A, B, C, D0, D1, MIB, config};

#[test]
fn the_simulated_device_conforms() {
    let configs = [
        SimConfig::default(),
        SimConfig::default().scatter(11).capacity(300 * MIB),
        config().host_lead_ns(0),
        config().scatter(12),
        config().vmm(false),
    ];
    for config in configs {
        let sim = SimDriver::new(config).unwrap();
        for device in (0..sim.device_count()).map(DeviceId) {
            for streams in [&[][..], &[A], &[StreamId(0), A, B, C]] {
                assert_eq!(contract::check(&sim, device, streams), Ok(()));
            }
        }
        let report = sim.finish();
        let left = Report { misuses: Vec::new(), misuse_count: 0, ..report.clone() };
        assert!(left.is_clean(), "{left}");
        let meant = |misuse: &Misuse| {
            matches!(
                misuse,
                Misuse::DoubleFree { .. }
                    | Misuse::ForeignFree { .. }
                    | Misuse::UnknownDevice { .. }
                    | Misuse::WrongRange { .. }
                    | Misuse::UnknownHandle { .. }
                    | Misuse::ReleaseOfMapped { .. }
                    | Misuse::NotExportable { .. }
                    | Misuse::UnknownShare { .. }
            )
        };
        assert!(report.misuses.iter().all(meant), "{report}");
    }
}

#[test]
fn trait_objects_and_shared_drivers_are_drivers() {
    let sim = std::sync::Arc::new(SimDriver::new(config()).unwrap());
    let shared: &dyn Driver = &sim;
    assert_eq!(contract::check(shared, D1, &[A]), Ok(()));
    assert_eq!(contract::check(&sim, D0, &[A]), Ok(()));
}

#[test]
fn too_little_memory_is_said() {
    let sim = SimDriver::new(config().capacity(200 * MIB)).unwrap();
    let said = contract::check(&sim, D0, &[]).unwrap_err();
    assert!(said.starts_with("the suite needs 268435456 free bytes"), "{said}");
}

/// No call can fail without the suite saying so.
#[test]
fn every_kind_of_failing_call_is_noticed() {
    for call in DriverCall::ALL {
        let sim = SimDriver::new(config()).unwrap();
        sim.set_faults(FaultPlan::new().nth(call, 3).error(DriverErrorKind::Other));
        assert!(contract::check(&sim, D0, &[A, B]).is_err(), "{call}");
    }
}

#[test]
fn every_defect_is_found() {
    let expected = [
        (Defect::NoDevices, "device_count is 0"),
        (Defect::MisalignedAddress, "not a multiple of 512"),
        (Defect::NullAddress, "at address 0"),
        (Defect::AddressTooHigh, "pass 2^48"),
        (Defect::SameAddressTwice, "overlap the"),
        (Defect::ZeroBytesGranted, "was to fail with InvalidValue but gave"),
        (Defect::OutOfMemoryIsOther, "was to fail with OutOfMemory but failed with Other"),
        (Defect::DoubleFreeIgnored, "segment_free was to fail with InvalidValue but gave ()"),
        (Defect::ForeignFreeIgnored, "gave () (address 0x0)"),
        (Defect::PanicsInThreads, "a call panicked in one of several threads"),
        (Defect::AnyDevice, "segment_alloc was to fail with InvalidDevice but gave"),
        (Defect::WrongCallInError, "the error of segment_alloc says that segment_free failed"),
        (Defect::FreeAboveTotal, "free of"),
        (Defect::FreeNeverMoves, "with a segment of"),
        (Defect::TotalMoves, "the total changes"),
        (Defect::ClockGoesBack, "now_ns went back"),
        (Defect::NewEventPending, "not done: never recorded"),
        (Defect::NeverDone, "not done: after event_synchronize"),
        (Defect::StreamsDoNotWait, "not done: waited for by one that is done"),
        (Defect::SameEventTwice, "was made twice"),
        (Defect::SaysItCannotMap, "address_reserve was to fail with NotSupported but gave"),
        (Defect::OddPage, "is no power of two"),
        (Defect::PageChanges, "the page of 2097152 bytes is now Some(4194304)"),
        (Defect::OddRangeGranted, "address_reserve was to fail with InvalidValue but gave"),
        (Defect::RangeBetweenPages, "not a multiple of the page"),
        (Defect::SameRangeTwice, "overlap the"),
        (Defect::RangesTakeMemory, "by reserving addresses"),
        (Defect::NoAddressesIsInvalid, "was to fail with OutOfMemory but failed with InvalidValue"),
        (Defect::FreesOddRange, "address_free was to fail with InvalidValue but gave ()"),
        (Defect::FreesMappedRange, "address_free was to fail with InvalidValue but gave ()"),
        (Defect::OddHandleGranted, "handle_create was to fail with InvalidValue but gave"),
        (Defect::HandlesTakeNothing, "with a handle of"),
        (Defect::HandlesStayTaken, "were released"),
        (Defect::HostMemoryIsTheDevices, "with host memory"),
        (Defect::SameHandleTwice, "was made twice"),
        (Defect::ReleasesTwice, "handle_release was to fail with InvalidValue but gave ()"),
        (Defect::ReleasesMapped, "handle_release was to fail with InvalidValue but gave ()"),
        (Defect::ExportsAll, "handle_export was to fail with InvalidValue but gave"),
        (Defect::ImportsAll, "handle_import was to fail with InvalidValue but gave"),
        (Defect::ImportIsACopy, "by an import"),
        (Defect::ImportIsItself, "was imported as itself"),
        (Defect::NoAliases, "map was to succeed"),
        (Defect::MapsBetweenPages, "map was to fail with InvalidValue but gave ()"),
        (Defect::MapsAnywhere, "map was to fail with InvalidValue but gave ()"),
        (Defect::MapsOver, "map was to fail with InvalidValue but gave ()"),
        (Defect::MapsWhatIsGone, "map was to fail with InvalidValue but gave ()"),
        (Defect::AccessForAnybody, "set_access was to fail with InvalidDevice but gave ()"),
        (Defect::AccessToParts, "set_access was to fail with InvalidValue but gave ()"),
        (Defect::AccessToHoles, "set_access was to fail with InvalidValue but gave ()"),
        (Defect::AccessOneByOne, "set_access of whole mappings was to succeed"),
        (Defect::UnmapsParts, "unmap was to fail with InvalidValue but gave ()"),
        (Defect::UnmapsHoles, "unmap was to fail with InvalidValue but gave ()"),
        (Defect::UnmapsOneByOne, "unmap was to succeed"),
        (Defect::UnmapReleases, "handle_release was to succeed"),
    ];
    for (defect, words) in expected {
        let sim = SimDriver::new(SimConfig::default()).unwrap();
        let said = contract::check(&Broken { sim, defect }, D0, &[A, B]).unwrap_err();
        assert!(said.contains(words), "{defect:?}: {said}");
    }
}
