//! The allocator: requests, frees and recorded streams; the fast path lives in this file.
//!
//! The other files hold what is rarer: `slow` (a request that the cache cannot serve), `release`
//! (giving memory back), `lend` (memory of other streams), `pools`, `limits`, `retune` (settings that
//! change), `pins`, `defragment`, `relocate` (movable blocks), `report`, `check`.

mod check;
mod defragment;
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
mod share;
mod slow;
mod spill;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::block::State;
use crate::callbacks::Callbacks;
use crate::config::{Backing, Config, ConfigError};
use crate::device::Device;
use crate::driver::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use crate::error::{AllocError, InvalidDevice, PointerError};
use crate::heap::{Extent, Fit, Given, Heap, HeapCore, HeapKey, Located, Locked};
use crate::history::{Action, History, HistoryEvent};
use crate::meter::Metered;
use crate::policy::Policy;
use crate::pool::{Held, Pool};
use crate::registry::Registry;
use crate::table::AddressTable;
use crate::units::{GRANULE, MAX_ALIGN, MAX_REQUEST, PAGE};

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

    /// Hands out `size` bytes of `device`, aligned to 512, to be used on `stream` first: the
    /// address. 0 bytes give the null address, which [`Allocator::free`] accepts.
    #[inline]
    pub fn allocate(
        &self,
        size: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<u64, AllocError> {
        self.serve(Request { size, align: GRANULE, device, stream })
    }

    /// Hands out memory as the request says: the address.
    pub fn allocate_request(&self, request: Request) -> Result<u64, AllocError> {
        self.serve(request)
    }

    #[inline(always)]
    fn serve(&self, request: Request) -> Result<u64, AllocError> {
        let device = self.device(request.device)?;
        if !request.align.is_power_of_two() || request.align > MAX_ALIGN {
            return Err(AllocError::BadAlignment { align: request.align });
        }
        if request.size == 0 {
            return Ok(0);
        }
        if request.size > MAX_REQUEST {
            return Err(self.too_large(device, &request));
        }
        if device.has_exceptions() {
            return self.serve_routed(device, &request);
        }
        self.serve_from(device, &device.default_pool, &request)
    }

    /// Serves a request while pools are begun, streams have ended or settings were changed.
    #[cold]
    fn serve_routed(&self, device: &Device, request: &Request) -> Result<u64, AllocError> {
        device.stream_is_used(request.stream);
        let routed = device.route(request.stream);
        let pool = routed.as_ref().unwrap_or(&device.default_pool);
        if device.is_retuned() || pool.is_unsplit() {
            return self.serve_by_other_rules(device, pool, request);
        }
        self.serve_from(device, pool, request)
    }

    /// Serves a request whose block is not what the configuration says.
    #[cold]
    fn serve_by_other_rules(
        &self,
        device: &Device,
        pool: &Arc<Pool>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        let fit = self.fit_in(pool, request.size, request.align);
        if let Some(Held { heap, term }) = pool.heap(request.stream) {
            let mut core = heap.lock();
            if core.is_term(*term)
                && let Some(handed) = heap.allocate(&mut core, &fit, true)
            {
                return Ok(self.handed_out(device, heap, core, handed));
            }
        }
        self.allocate_slowly(device, pool, request)
    }

    /// Serves a request out of a pool. What is inlined ends with the parked block.
    #[inline(always)]
    fn serve_from(
        &self,
        device: &Device,
        pool: &Arc<Pool>,
        request: &Request,
    ) -> Result<u64, AllocError> {
        let size = self.policy.extent(request.size, request.align);
        if let Some(Held { heap, term }) = pool.heap(request.stream) {
            let mut core = heap.lock();
            if core.is_term(*term) {
                if request.align == GRANULE
                    && let Some(handed) = heap.reuse(&mut core, size, request.size)
                {
                    return Ok(self.handed_out(device, heap, core, handed));
                }
                if let Some(address) = self.serve_filed(device, heap, core, size, request) {
                    return Ok(address);
                }
            }
        }
        self.allocate_slowly(device, pool, request)
    }

    /// Serves a request out of the bins of a heap, whose parked block was looked at.
    #[inline(never)]
    fn serve_filed(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        size: Extent,
        request: &Request,
    ) -> Option<u64> {
        let fit = self.policy.fit_of(size, request.size, request.align);
        if core.remaps(size.kind) {
            return self.serve_in_arena(device, heap, core, &fit);
        }
        let handed = heap.allocate_filed(&mut core, &fit)?;
        Some(self.handed_out(device, heap, core, handed))
    }

    /// Likewise a large request, out of the arenas of a heap.
    #[inline(never)]
    fn serve_in_arena(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        fit: &Fit,
    ) -> Option<u64> {
        let handed = heap.allocate_in_arena(&mut core, fit, true)?;
        Some(self.handed_out(device, heap, core, handed))
    }

    /// What follows once a block is handed out: its address.
    #[inline(always)]
    fn handed_out(
        &self,
        device: &Device,
        heap: &Heap,
        mut core: Locked<'_>,
        handed: Located,
    ) -> u64 {
        device.totals.after_allocation(heap, &mut core.thresholds, handed.kind);
        self.note_allocation(device, &core, handed);
        if core.has_pending() && core.looks_at_pending() {
            drop(core);
            self.settle(device, heap);
        }
        handed.address
    }

    /// Takes a block back, by the address that it was handed out with. Its bytes are reusable in
    /// the order of its stream at once, elsewhere when the stream has passed this point, and when
    /// every stream recorded on it has. The null address is accepted and means nothing.
    #[inline]
    pub fn free(&self, pointer: u64) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        if let Some(place) = self.table.find(pointer)
            && let Some(heap) = self.heaps.get(place.heap)
        {
            let mut core = heap.lock();
            if let Some(block) = core.live(place.segment, pointer, State::Used) {
                self.give(heap, &mut core, block);
                return Ok(());
            }
        }
        self.free_or_refuse(pointer)
    }

    /// Frees a block that a first look did not find, or says why it cannot be freed.
    #[cold]
    fn free_or_refuse(&self, pointer: u64) -> Result<(), PointerError> {
        let (heap, mut core, block) = self.locate(pointer)?;
        self.give(heap, &mut core, block);
        Ok(())
    }

    /// Like [`Allocator::free`], but refuses a block of another device or stream than the caller
    /// believes.
    pub fn free_on(
        &self,
        pointer: u64,
        device: DeviceId,
        stream: StreamId,
    ) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        let (heap, mut core, block) = self.locate(pointer)?;
        let key = core.key();
        if key.device != device {
            let (actual, given) = (key.device, device);
            return Err(PointerError::WrongDevice { pointer, actual, given });
        }
        // A block lent to another stream carries that stream as a recorded one.
        if key.stream != stream && !core.is_used_by(block.index, stream) {
            let (actual, given) = (key.stream, stream);
            return Err(PointerError::WrongStream { pointer, actual, given });
        }
        self.give(heap, &mut core, block);
        Ok(())
    }

    #[inline(always)]
    fn give(&self, heap: &Heap, core: &mut HeapCore, block: Located) {
        let device = &self.devices[core.key().device.0 as usize];
        let notes = self.takes_notes();
        if notes {
            self.write_down(Action::FreeRequested, device, core, block);
        }
        let given = heap.give(core, block);
        if notes && given == Given::Free {
            self.write_down(Action::FreeCompleted, device, core, block);
        }
        device.totals.after_free(heap, &mut core.thresholds, block.kind);
    }

    /// Says that work on `stream` uses the block at `pointer` too: after its free the bytes are
    /// not reused before that stream has passed the free. The block's own stream needs no saying.
    pub fn record_stream(&self, pointer: u64, stream: StreamId) -> Result<(), PointerError> {
        if pointer == 0 {
            return Ok(());
        }
        let (_, mut core, block) = self.locate_any(pointer)?;
        let key = core.key();
        let device = &self.devices[key.device.0 as usize];
        // Also its own stream, which may have ended while the block was lent to another.
        device.stream_is_used(stream);
        if key.stream != stream {
            let ticker = device.tickers.of(stream);
            core.add_use(block.index, ticker);
        }
        Ok(())
    }

    /// The used block that starts at `pointer`, with its heap, locked.
    fn locate(&self, pointer: u64) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        if let Some(place) = self.table.find(pointer)
            && let Some(heap) = self.heaps.get(place.heap)
        {
            let core = heap.lock();
            // A segment around the pointer is the pointer's, whatever happened since the table
            // was asked: segments do not overlap.
            if let Some(found) = core.locate(place.segment, pointer, State::Used) {
                return Ok((heap, core, found?));
            }
        }
        self.locate_again(pointer, State::Used)
    }

    /// The used or movable block that starts at `pointer`, with its heap, locked.
    fn locate_any(&self, pointer: u64) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        match self.locate(pointer) {
            Err(PointerError::Movable { .. }) => self.locate_again(pointer, State::Movable),
            other => other,
        }
    }

    /// Likewise one of this state, if the segment went to another heap or to the driver between look
    /// and lock, or has only a part of the pointer's page.
    #[cold]
    fn locate_again(
        &self,
        pointer: u64,
        state: State,
    ) -> Result<(&Heap, Locked<'_>, Located), PointerError> {
        let foreign = PointerError::Foreign { pointer };
        loop {
            let place = self.table.find(pointer).ok_or(foreign)?;
            let heap = self.heaps.get(place.heap).ok_or(foreign)?;
            let core = heap.lock();
            if let Some(found) = core.locate(place.segment, pointer, state) {
                return Ok((heap, core, found?));
            }
            // The table changes under the heap's lock: what it still says holds.
            if self.table.find(pointer) == Some(place) {
                return Err(foreign);
            }
        }
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

    fn look_who_takes_notes(&self) {
        let notes = self.history.is_on() || self.max_split_size().is_some();
        self.takes_notes.store(notes, Ordering::Relaxed);
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
