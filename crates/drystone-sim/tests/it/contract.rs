//! The conformance suite accepts the simulated device, and rejects drivers with one fault each.

use drystone_core::driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
use drystone_sim::{Access, FaultPlan, Misuse, SimConfig, SimDriver, contract};

use crate::{A, B, C, D0, D1, MIB, config};

#[test]
fn the_simulated_device_conforms() {
    let configs = [
        SimConfig::default(),
        SimConfig::default().scatter(11).capacity(300 * MIB),
        config().host_lead_ns(0),
        config().scatter(12),
    ];
    for config in configs {
        let sim = SimDriver::new(config).unwrap();
        for device in (0..sim.device_count()).map(DeviceId) {
            for streams in [&[][..], &[A], &[StreamId(0), A, B, C]] {
                assert_eq!(contract::check(&sim, device, streams), Ok(()));
            }
        }
        let report = sim.finish();
        assert!(report.leaked_segments.is_empty() && report.leaked_events.is_empty());
        let meant = |misuse: &Misuse| {
            matches!(
                misuse,
                Misuse::DoubleFree { .. }
                    | Misuse::ForeignFree { .. }
                    | Misuse::UnknownDevice { .. }
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

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    NoDevices,
    MisalignedAddress,
    NullAddress,
    AddressTooHigh,
    SameAddressTwice,
    ZeroBytesGranted,
    OutOfMemoryIsOther,
    DoubleFreeIgnored,
    ForeignFreeIgnored,
    PanicsInThreads,
    AnyDevice,
    WrongCallInError,
    FreeAboveTotal,
    FreeNeverMoves,
    TotalMoves,
    ClockGoesBack,
    NewEventPending,
    NeverDone,
    StreamsDoNotWait,
    SameEventTwice,
}

/// The simulated device with one thing wrong.
struct Broken {
    sim: SimDriver,
    defect: Defect,
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }
}

impl Driver for Broken {
    fn device_count(&self) -> u32 {
        if self.is(Defect::NoDevices) { 0 } else { self.sim.device_count() }
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        let DeviceMemory { free, total } = self.sim.device_memory(device)?;
        Ok(match self.defect {
            Defect::FreeAboveTotal => DeviceMemory { free: total + 1, total },
            Defect::FreeNeverMoves => DeviceMemory { free: total, total },
            Defect::TotalMoves => DeviceMemory { free, total: total - (total - free) / 2 },
            _ => DeviceMemory { free, total },
        })
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let device = if self.is(Defect::AnyDevice) { D0 } else { device };
        let bytes = if self.is(Defect::ZeroBytesGranted) { bytes.max(1) } else { bytes };
        let address = self.sim.segment_alloc(device, bytes).map_err(|mut error| {
            match self.defect {
                Defect::WrongCallInError => error.call = DriverCall::SegmentFree,
                Defect::OutOfMemoryIsOther if error.kind == DriverErrorKind::OutOfMemory => {
                    error.kind = DriverErrorKind::Other;
                }
                _ => {}
            }
            error
        })?;
        Ok(match self.defect {
            Defect::MisalignedAddress => address + 256,
            Defect::NullAddress => 0,
            Defect::AddressTooHigh => address | 1 << 48,
            Defect::SameAddressTwice => 0x7f00_0000_0000,
            _ => address,
        })
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        let untouched = [
            Defect::MisalignedAddress,
            Defect::NullAddress,
            Defect::AddressTooHigh,
            Defect::SameAddressTwice,
        ];
        match self.sim.segment_free(device, address) {
            // So that the suite comes as far as the placement of segments.
            Err(error)
                if untouched.contains(&self.defect)
                    && error.kind == DriverErrorKind::InvalidValue =>
            {
                Ok(())
            }
            Err(error) => match self.sim.misuses().last() {
                Some(Misuse::DoubleFree { .. }) if self.is(Defect::DoubleFreeIgnored) => Ok(()),
                Some(Misuse::ForeignFree { .. }) if self.is(Defect::ForeignFreeIgnored) => Ok(()),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.sim.page_bytes(device)
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.sim.address_reserve(device, bytes)
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.sim.address_free(device, address, bytes)
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.sim.handle_create(device, bytes, kind)
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.sim.handle_release(device, handle)
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.sim.handle_export(device, handle)
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.sim.handle_import(device, share, bytes)
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.sim.map(device, address, handle)
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.sim.set_access(device, address, bytes, accessors)
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.sim.unmap(device, address, bytes)
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        match self.sim.finish().leaked_events.first() {
            Some(live) if self.is(Defect::SameEventTwice) && device == D0 => Ok(live.event),
            _ => self.sim.event_create(device),
        }
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        // The test's thread has its name, the suite's have none.
        let in_thread = std::thread::current().name().is_none();
        assert!(!(in_thread && self.is(Defect::PanicsInThreads)), "this panic is meant");
        self.sim.event_destroy(device, event)
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        if self.is(Defect::StreamsDoNotWait) && stream == A {
            // Work that the other streams would have to wait for.
            drop(self.sim.launch(device, stream, &[], Access::Read));
        }
        self.sim.event_record(device, event, stream)
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        let done = self.sim.event_query(device, event)?;
        let records = self.sim.stats().of(DriverCall::EventRecord).calls;
        Ok(match self.defect {
            Defect::NewEventPending => records > 0,
            Defect::NeverDone => records == 0,
            _ => done,
        })
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.sim.event_synchronize(device, event)
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        // An event never recorded stands for one that is done: nothing to wait for.
        let event = match self.defect {
            Defect::StreamsDoNotWait if device == D0 => self.sim.event_create(device)?,
            _ => event,
        };
        self.sim.stream_wait_event(device, stream, event)
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.sim.device_synchronize(device)
    }

    fn now_ns(&self) -> u64 {
        // One with costs, so that time passes.
        if self.is(Defect::ClockGoesBack) {
            u64::MAX - self.sim.now_ns()
        } else {
            self.sim.now_ns()
        }
    }
}

#[test]
fn every_defect_is_found() {
    let expected = [
        (Defect::NoDevices, "device_count is 0"),
        (Defect::MisalignedAddress, "not a multiple of 512"),
        (Defect::NullAddress, "at address 0"),
        (Defect::AddressTooHigh, "pass 2^48"),
        (Defect::SameAddressTwice, "overlap the segment"),
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
    ];
    for (defect, words) in expected {
        let sim = SimDriver::new(SimConfig::default()).unwrap();
        let said = contract::check(&Broken { sim, defect }, D0, &[A, B]).unwrap_err();
        assert!(said.contains(words), "{defect:?}: {said}");
    }
}
