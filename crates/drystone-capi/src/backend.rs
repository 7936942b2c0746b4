//! The device below an allocator of the C interface: CUDA, or the simulated device.

use std::sync::Arc;

use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverError, EventId, HandleId, HandleKind, ShareId, StreamId,
};
use drystone_cuda::CudaDriver;
use drystone_sim::{SimConfig, SimDriver};

use crate::status::{DRYSTONE_INVALID_CONFIG, DRYSTONE_NO_DEVICE, Failure};

/// The variable that says which device is meant where a program does not.
pub const DEVICE_VARIABLE: &str = "DRYSTONE_DEVICE";

/// Which device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Whatever real device there is: CUDA. Never the simulated one, whose addresses are no memory.
    #[default]
    Auto,
    /// The CUDA devices of this process.
    Cuda,
    /// The simulated device.
    Sim,
}

impl Choice {
    /// The choice of that name; `where_from` says in an error who named it.
    pub fn parse(name: &str, where_from: &str) -> Result<Choice, Failure> {
        match name {
            "" | "auto" => Ok(Choice::Auto),
            "cuda" => Ok(Choice::Cuda),
            "sim" => Ok(Choice::Sim),
            _ => Err(Failure::new(
                DRYSTONE_INVALID_CONFIG,
                format!("{where_from} is \"{name}\": allowed are auto, cuda and sim"),
            )),
        }
    }

    /// What the environment says.
    pub fn from_env() -> Result<Choice, Failure> {
        match std::env::var_os(DEVICE_VARIABLE) {
            None => Ok(Choice::Auto),
            Some(name) => Choice::parse(&name.to_string_lossy(), DEVICE_VARIABLE),
        }
    }
}

/// A driver that is one of two.
#[derive(Debug)]
pub enum Backend {
    /// The CUDA devices of this process.
    Cuda(CudaDriver),
    /// The simulated device; a test may keep a hand on it.
    Sim(Arc<SimDriver>),
}

impl Backend {
    /// The device that was chosen. `sim` is used for the simulated one only.
    pub fn open(choice: Choice, sim: SimConfig) -> Result<Backend, Failure> {
        if choice == Choice::Sim {
            let driver = SimDriver::new(sim)
                .map_err(|error| Failure::new(DRYSTONE_INVALID_CONFIG, error.to_string()))?;
            return Ok(Backend::Sim(Arc::new(driver)));
        }
        let driver = CudaDriver::new().map_err(|error| {
            let advice = "to try without a GPU, set DRYSTONE_DEVICE=sim";
            Failure::new(DRYSTONE_NO_DEVICE, format!("{error}; {advice}"))
        })?;
        // SAFETY: the header's rules say that a stream given to any function is a live one, and
        // that `drystone_stream_ends` is called before it is destroyed.
        unsafe { driver.trust_streams() };
        Ok(Backend::Cuda(driver))
    }
}

/// Calls the same function of whichever driver it is.
macro_rules! either {
    ($self:ident.$function:ident($($argument:expr),*)) => {
        match $self {
            Backend::Cuda(driver) => Driver::$function(driver, $($argument),*),
            Backend::Sim(driver) => Driver::$function(&**driver, $($argument),*),
        }
    };
}

impl Driver for Backend {
    fn device_count(&self) -> u32 {
        either!(self.device_count())
    }
    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        either!(self.device_memory(device))
    }
    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        either!(self.segment_alloc(device, bytes))
    }
    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        either!(self.segment_free(device, address))
    }
    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        either!(self.page_bytes(device))
    }
    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        either!(self.address_reserve(device, bytes))
    }
    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        either!(self.address_free(device, address, bytes))
    }
    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        either!(self.handle_create(device, bytes, kind))
    }
    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        either!(self.handle_release(device, handle))
    }
    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        either!(self.handle_export(device, handle))
    }
    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        either!(self.handle_import(device, share, bytes))
    }
    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        either!(self.map(device, address, handle))
    }
    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        either!(self.set_access(device, address, bytes, accessors))
    }
    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        either!(self.unmap(device, address, bytes))
    }
    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        either!(self.check_stream(device, stream))
    }
    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        either!(self.event_create(device))
    }
    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        either!(self.event_destroy(device, event))
    }
    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        either!(self.event_record(device, event, stream))
    }
    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        either!(self.event_query(device, event))
    }
    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        either!(self.event_synchronize(device, event))
    }
    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        either!(self.stream_wait_event(device, stream, event))
    }
    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        either!(self.device_synchronize(device))
    }
    fn now_ns(&self) -> u64 {
        either!(self.now_ns())
    }
}
