//! Callbacks of the application: at soft watermarks, and before a request fails for lack of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::driver::DeviceId;
use crate::error::OutOfMemory;

/// Names a registered callback, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallbackId(u64);

/// A soft watermark on the bytes reserved of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Watermark {
    /// So many bytes.
    Bytes(u64),
    /// This part (0 to 1) of the limit, or of the device's memory where no limit is set.
    Fraction(f64),
}

impl Watermark {
    fn bytes(self, limit: u64) -> u64 {
        match self {
            Watermark::Bytes(bytes) => bytes,
            Watermark::Fraction(fraction) => (limit as f64 * fraction) as u64,
        }
    }
}

/// What a callback is told when a watermark has been passed upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// The device.
    pub device: DeviceId,
    /// Bytes reserved now.
    pub reserved: u64,
    /// The watermark, in bytes.
    pub watermark: u64,
    /// The limit in bytes: the configured one, or the device's memory.
    pub limit: u64,
}

type PressureFn = Arc<dyn Fn(&Pressure) + Send + Sync>;
type OomFn = Arc<dyn Fn(&OutOfMemory) -> bool + Send + Sync>;

struct Watcher {
    id: CallbackId,
    device: DeviceId,
    watermark: Watermark,
    /// Whether the watermark was passed and has not been left since.
    above: Arc<AtomicBool>,
    call: PressureFn,
}

/// All registered callbacks. They run with no lock held and may call the allocator.
#[derive(Default)]
pub(crate) struct Callbacks {
    next: AtomicU64,
    pressure: RwLock<Vec<Watcher>>,
    oom: RwLock<Vec<(CallbackId, OomFn)>>,
}

impl Callbacks {
    fn id(&self) -> CallbackId {
        CallbackId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn on_pressure(
        &self,
        device: DeviceId,
        watermark: Watermark,
        reserved: u64,
        limit: u64,
        call: PressureFn,
    ) -> CallbackId {
        let id = self.id();
        // Passed before anybody watched: it is told at the next passing.
        let above = Arc::new(AtomicBool::new(reserved >= watermark.bytes(limit)));
        self.pressure.write().push(Watcher { id, device, watermark, above, call });
        id
    }

    pub(crate) fn on_oom(&self, call: OomFn) -> CallbackId {
        let id = self.id();
        self.oom.write().push((id, call));
        id
    }

    /// Forgets a callback; false if it is not known.
    pub(crate) fn remove(&self, id: CallbackId) -> bool {
        let (mut pressure, mut oom) = (self.pressure.write(), self.oom.write());
        let watchers: Vec<_> = pressure.extract_if(.., |watcher| watcher.id == id).collect();
        let calls: Vec<_> = oom.extract_if(.., |(known, _)| *known == id).collect();
        // What they own is the application's: dropped without a lock.
        drop((pressure, oom));
        !watchers.is_empty() || !calls.is_empty()
    }

    /// Tells whom it concerns that `reserved` bytes are held now: once on the way up, and again
    /// only after the watermark was left.
    pub(crate) fn reserved_is(&self, device: DeviceId, reserved: u64, limit: u64) {
        let mut due: Vec<(PressureFn, Pressure)> = Vec::new();
        for watcher in self.pressure.read().iter().filter(|watcher| watcher.device == device) {
            let watermark = watcher.watermark.bytes(limit);
            let above = reserved >= watermark;
            if watcher.above.swap(above, Ordering::AcqRel) != above && above {
                let pressure = Pressure { device, reserved, watermark, limit };
                due.push((Arc::clone(&watcher.call), pressure));
            }
        }
        for (call, pressure) in due {
            call(&pressure);
        }
    }

    /// Asks every out-of-memory callback to free something. True if any says that it did.
    pub(crate) fn out_of_memory(&self, error: &OutOfMemory) -> bool {
        let calls: Vec<OomFn> = self.oom.read().iter().map(|(_, call)| Arc::clone(call)).collect();
        // All are asked: one that frees little must not keep the others from being told.
        calls.iter().fold(false, |freed, call| call(error) | freed)
    }
}
