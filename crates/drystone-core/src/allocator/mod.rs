//! The allocator: what it is made of. `serve` and `free` are the fast path.
//!
//! The other files hold what is rarer: `slow` (a request that the cache cannot serve), `release`
//! (giving memory back), `lend` (memory of other streams), `pools`, `limits`, `retune` (settings that
//! change), `pins`, `defragment`, `relocate` (movable blocks), `report`, `check`.

mod check;
mod defragment;
mod free;
mod lend;
mod limits;
mod peers;
mod pins;
mod pools;
mod release;
mod relocate;
mod remap;
mod report;
mod restore;
mod retune;
mod serve;
mod share;
mod slow;
mod spill;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::callbacks::Callbacks;
use crate::config::{Backing, Config, ConfigError};
use crate::device::Device;
use crate::driver::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use crate::error::{AllocError, InvalidDevice};
use crate::heap::{HeapCore, HeapKey, Located};
use crate::history::{Action, History, HistoryEvent};
use crate::meter::Metered;
use crate::policy::Policy;
use crate::pool::{Held, Pool};
use crate::registry::Registry;
use crate::table::AddressTable;
use crate::units::PAGE;

pub use defragment::{Defragment, Defragmented};
pub use relocate::{MovableId, Move, MoveLimits, MovePass};
pub use report::{BlockInfo, BlockState, SegmentInfo};
pub use share::Exported;

/// A request for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes; 0 is answered with the null address.
    pub size: u64,
    /// A power of two that the address is to be a multiple of; never less than 512 is given.
    pub align: u64,
    /// The device.
    pub device: DeviceId,
    /// The stream in whose order the memory is used first.
    pub stream: StreamId,
}

/// A caching allocator over a device driver; see the crate's text. One serves all devices of the
/// driver and any number of threads.
///
/// Dropping it gives every cached segment and page back. Segments and handles with live blocks stay
/// with the device, since the work that uses them may still run.
pub struct Allocator<D: Driver> {
    driver: Metered<D>,
    config: Config,
    policy: Policy,
    /// What was changed of the settings since.
    retuned: RwLock<Option<retune::Retuned>>,
    /// The driver's clock when the allocator was made.
    made_at_ns: u64,
    devices: Box<[Device]>,
    heaps: Registry,
    table: AddressTable,
    history: History,
    /// Whether operations on blocks are to be written down: for the history, or for what torch
    /// counts where `max_split_size` is set.
    takes_notes: AtomicBool,
    callbacks: Callbacks,
    movables: relocate::Movables,
    /// Whether new memory is to be such that other processes can import it.
    exportable: AtomicBool,
    imports: Mutex<share::Imports>,
}

/// Why an allocator could not be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// A field of the configuration has a value that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The driver could not say how much memory a device has.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl<D: Driver> Allocator<D> {
    /// An allocator over `driver`, holding nothing yet.
    pub fn new(driver: D, config: Config) -> Result<Self, NewError> {
        // Fields that were set by hand are held to the rules of the text form.
        Config::parse(&config.to_string())?;
        for key in config.without_effect() {
            tracing::info!(key = key.name, "this setting has no effect in Drystone");
        }
        let driver = Metered::new(driver);
        let devices = (0..driver.device_count())
            .map(|id| {
                let id = DeviceId(id);
                let maps = config.backing == Backing::Vmm && maps(&driver, id)?;
                let device = {
                    let total = driver.device_memory(id)?.total;
                    Device::new(id, total, maps, config.spill_limit.unwrap_or(0))
                };
                device.set_limit(limits::configured(&config, device.total));
                Ok(device)
            })
            .collect::<Result<_, DriverError>>()?;
        let made_at_ns = driver.now_ns();
        let allocator = Allocator {
            takes_notes: AtomicBool::new(config.history > 0 || config.max_split_size.is_some()),
            driver,
            policy: Policy::new(&config),
            retuned: RwLock::new(None),
            made_at_ns,
            history: History::new(config.history),
            config,
            devices,
            heaps: Registry::new(),
            table: AddressTable::new(),
            callbacks: Callbacks::default(),
            movables: relocate::Movables::default(),
            exportable: AtomicBool::new(false),
            imports: Mutex::default(),
        };
        for device in &allocator.devices {
            // Whether or not the application listens, whoever reads the log is told.
            let told = allocator.on_soft_limit(device.id, |pressure| {
                tracing::warn!(
                    device = pressure.device.0,
                    reserved = pressure.reserved,
                    soft_limit = pressure.watermark,
                    "more than the soft limit is reserved"
                );
            });
            debug_assert!(told.is_ok());
        }
        Ok(allocator)
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The driver below.
    pub fn driver(&self) -> &D {
        &self.driver.inner
    }

    /// How many devices there are.
    pub fn device_count(&self) -> u32 {
        self.devices.len() as u32
    }

    fn device(&self, id: DeviceId) -> Result<&Device, InvalidDevice> {
        let count = self.devices.len() as u32;
        self.devices.get(id.0 as usize).ok_or(InvalidDevice { device: id, count })
    }

    /// The heap of a stream in a pool, made if there is none.
    fn heap(&self, device: &Device, pool: &Pool, stream: StreamId) -> Result<Held, AllocError> {
        pool.heap_or(stream, || {
            self.driver.check_stream(device.id, stream)?;
            let heap = self.heaps.take().map_err(AllocError::TooManyHeaps)?;
            let key = HeapKey { device: device.id, pool: pool.id, stream };
            let term = heap.lock().assign(key, device.tickers.of(stream));
            device.totals.add_heap(pool.id, Arc::clone(&heap));
            Ok(Held { heap, term })
        })
    }

    #[inline(always)]
    fn takes_notes(&self) -> bool {
        self.takes_notes.load(Ordering::Relaxed)
    }

    /// Writes down that a block was handed out.
    #[inline(always)]
    fn note_allocation(&self, device: &Device, core: &HeapCore, block: Located) {
        if self.takes_notes() {
            self.write_down(Action::Alloc, device, core, block);
        }
    }

    #[cold]
    fn write_down(&self, action: Action, device: &Device, core: &HeapCore, block: Located) {
        if self.is_oversize(block.bytes) {
            let stat = &device.counters.oversize_allocations;
            match action {
                Action::Alloc => stat.up(),
                Action::FreeRequested => stat.down(),
                _ => {}
            }
        }
        if self.history.is_on() {
            self.note(action, core.key(), block.address, block.requested);
        }
    }

    #[cold]
    fn note(&self, action: Action, key: &HeapKey, address: u64, size: u64) {
        self.history.push(HistoryEvent {
            time_ns: self.driver.now_ns(),
            action,
            device: key.device,
            pool: key.pool,
            stream: key.stream,
            address,
            size,
        });
    }
}

/// Whether a device can map memory in pages of the size that is remapped here.
fn maps(driver: &impl Driver, device: DeviceId) -> Result<bool, DriverError> {
    match driver.page_bytes(device) {
        Ok(bytes) => Ok(bytes <= PAGE && PAGE.is_multiple_of(bytes)),
        Err(error) if error.kind == DriverErrorKind::NotSupported => Ok(false),
        Err(error) => Err(error),
    }
}

impl<D: Driver> Drop for Allocator<D> {
    fn drop(&mut self) {
        for device in &self.devices {
            if let Err(error) = self.release_everything(device) {
                tracing::warn!(%error, device = device.id.0, "memory could not be given back");
            }
        }
    }
}
