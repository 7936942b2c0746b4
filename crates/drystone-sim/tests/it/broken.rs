//! The simulated device with one thing wrong, for the conformance suite to find.

use drystone_core::driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
use drystone_sim::{Access, Misuse, RangeFault, SimDriver};

use crate::{A, D0, MIB};

const PAGE: u64 = 2 * MIB;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Defect {
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
    SaysItCannotMap,
    OddPage,
    PageChanges,
    OddRangeGranted,
    RangeBetweenPages,
    SameRangeTwice,
    RangesTakeMemory,
    NoAddressesIsInvalid,
    FreesOddRange,
    FreesMappedRange,
    OddHandleGranted,
    HandlesTakeNothing,
    HandlesStayTaken,
    HostMemoryIsTheDevices,
    SameHandleTwice,
    ReleasesTwice,
    ReleasesMapped,
    ExportsAll,
    ImportsAll,
    ImportIsACopy,
    ImportIsItself,
    NoAliases,
    MapsBetweenPages,
    MapsAnywhere,
    MapsOver,
    MapsWhatIsGone,
    AccessForAnybody,
    AccessToParts,
    AccessToHoles,
    AccessOneByOne,
    UnmapsParts,
    UnmapsHoles,
    UnmapsOneByOne,
    UnmapReleases,
}

/// The simulated device with one thing wrong.
pub(crate) struct Broken {
    pub(crate) sim: SimDriver,
    pub(crate) defect: Defect,
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    /// The result, or `value` where it is an error that the defect does not see.
    fn blind<T>(&self, result: Result<T, DriverError>, value: T) -> Result<T, DriverError> {
        use DriverCall::{AddressFree, HandleRelease, Map, SetAccess, Unmap};
        use RangeFault::{Mapped, NotMapped, NotReserved, PartOfMapping, Unaligned};
        let misuses = self.sim.misuses();
        let blind = match (self.defect, misuses.last()) {
            (defect, Some(Misuse::WrongRange { call, fault, .. })) => match defect {
                Defect::FreesOddRange => (*call, *fault) == (AddressFree, NotReserved),
                Defect::FreesMappedRange => (*call, *fault) == (AddressFree, Mapped),
                Defect::MapsBetweenPages => (*call, *fault) == (Map, Unaligned),
                Defect::MapsAnywhere => (*call, *fault) == (Map, NotReserved),
                Defect::MapsOver => (*call, *fault) == (Map, Mapped),
                Defect::AccessToParts => (*call, *fault) == (SetAccess, PartOfMapping),
                Defect::AccessToHoles => (*call, *fault) == (SetAccess, NotMapped),
                Defect::UnmapsParts => (*call, *fault) == (Unmap, PartOfMapping),
                Defect::UnmapsHoles => (*call, *fault) == (Unmap, NotMapped),
                _ => false,
            },
            (Defect::ReleasesTwice, Some(Misuse::UnknownHandle { call, .. })) => {
                *call == HandleRelease
            }
            (Defect::MapsWhatIsGone, Some(Misuse::UnknownHandle { call, .. })) => *call == Map,
            (Defect::ReleasesMapped, Some(Misuse::ReleaseOfMapped { .. }))
            | (Defect::ExportsAll, Some(Misuse::NotExportable { .. }))
            | (Defect::ImportsAll, Some(Misuse::UnknownShare { .. })) => true,
            _ => false,
        };
        if blind && result.is_err() { Ok(value) } else { result }
    }

    /// The bytes, as some number of pages if the defect makes them so.
    fn rounded(&self, defect: Defect, bytes: u64) -> u64 {
        if self.is(defect) { bytes.max(1).next_multiple_of(PAGE) } else { bytes }
    }

    /// An error, if the range is one of several mappings and the defect wants only one.
    fn one_mapping(
        &self,
        defect: Defect,
        call: DriverCall,
        range: std::ops::Range<u64>,
    ) -> Result<(), DriverError> {
        let mappings = self.sim.finish().leaked_mappings;
        if !self.is(defect)
            || mappings.iter().filter(|one| range.contains(&one.address)).count() < 2
        {
            return Ok(());
        }
        Err(error(call, DriverErrorKind::InvalidValue))
    }
}

fn error(call: DriverCall, kind: DriverErrorKind) -> DriverError {
    DriverError { call, kind, code: 0, detail: "a defect".to_owned() }
}

impl Driver for Broken {
    fn device_count(&self) -> u32 {
        if self.is(Defect::NoDevices) { 0 } else { self.sim.device_count() }
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        let DeviceMemory { free, total } = self.sim.device_memory(device)?;
        let handles = || self.sim.finish().leaked_handles.iter().map(|one| one.bytes).sum::<u64>();
        Ok(match self.defect {
            Defect::FreeAboveTotal => DeviceMemory { free: total + 1, total },
            Defect::FreeNeverMoves => DeviceMemory { free: total, total },
            Defect::HandlesTakeNothing => DeviceMemory { free: free + handles(), total },
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
        let page = self.sim.page_bytes(device)?;
        let calls = self.sim.stats().of(DriverCall::PageBytes).calls;
        match self.defect {
            Defect::SaysItCannotMap => {
                Err(error(DriverCall::PageBytes, DriverErrorKind::NotSupported))
            }
            Defect::OddPage => Ok(page + MIB),
            // The suite has asked for it three times before.
            Defect::PageChanges if calls > 3 => Ok(page * 2),
            _ => Ok(page),
        }
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        let bytes = self.rounded(Defect::OddRangeGranted, bytes);
        let address = self.sim.address_reserve(device, bytes).map_err(|mut error| {
            let full = error.kind == DriverErrorKind::OutOfMemory;
            if full && self.is(Defect::NoAddressesIsInvalid) {
                error.kind = DriverErrorKind::InvalidValue;
            }
            error
        })?;
        match self.defect {
            Defect::RangeBetweenPages => Ok(address + 512),
            Defect::SameRangeTwice => Ok(self.sim.finish().leaked_ranges[0].address),
            Defect::RangesTakeMemory => {
                self.sim.segment_alloc(device, 64 * MIB)?;
                Ok(address)
            }
            _ => Ok(address),
        }
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.blind(self.sim.address_free(device, address, bytes), ())
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        let bytes = self.rounded(Defect::OddHandleGranted, bytes);
        let kind = match kind {
            HandleKind::Host if self.is(Defect::HostMemoryIsTheDevices) => HandleKind::Device,
            kind => kind,
        };
        let handle = self.sim.handle_create(device, bytes, kind)?;
        let first = self.sim.finish().leaked_handles[0].handle;
        Ok(if self.is(Defect::SameHandleTwice) { first } else { handle })
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        let handles = self.sim.finish().leaked_handles;
        let released = self.sim.handle_release(device, handle);
        if let Some(old) = handles.iter().find(|old| old.handle == handle)
            && released.is_ok()
            && self.is(Defect::HandlesStayTaken)
        {
            self.sim.handle_create(device, old.bytes, HandleKind::Device)?;
        }
        self.blind(released, ())
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.blind(self.sim.handle_export(device, handle), ShareId(1))
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        match self.defect {
            Defect::ImportIsACopy if device == D0 => {
                self.sim.handle_create(device, bytes, HandleKind::Exportable)
            }
            Defect::ImportIsItself if device == D0 => {
                Ok(self.sim.finish().leaked_handles[0].handle)
            }
            _ => self.blind(self.sim.handle_import(device, share, bytes), HandleId(1)),
        }
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        let mappings = self.sim.finish().leaked_mappings;
        if self.is(Defect::NoAliases) && mappings.iter().any(|one| one.handle == handle) {
            return Err(error(DriverCall::Map, DriverErrorKind::InvalidValue));
        }
        self.blind(self.sim.map(device, address, handle), ())
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        let only = if self.is(Defect::AccessForAnybody) { &[device] } else { accessors };
        self.blind(self.sim.set_access(device, address, bytes, only), ())?;
        let range = address..address + bytes;
        self.one_mapping(Defect::AccessOneByOne, DriverCall::SetAccess, range)
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        let range = address..address + bytes;
        self.one_mapping(Defect::UnmapsOneByOne, DriverCall::Unmap, range.clone())?;
        let mappings = self.sim.finish().leaked_mappings;
        let unmapped = self.sim.unmap(device, address, bytes);
        if self.is(Defect::UnmapReleases) && unmapped.is_ok() {
            for one in mappings.iter().filter(|one| range.contains(&one.address)) {
                // Fails while it is mapped elsewhere.
                drop(self.sim.handle_release(device, one.handle));
            }
        }
        self.blind(unmapped, ())
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
