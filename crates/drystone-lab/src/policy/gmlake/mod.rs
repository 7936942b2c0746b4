//! `gmlake`: GMLake, PyTorch's caching allocator over pages of 2 MiB that are stitched together.
//!
//! After Guo et al., "GMLake: Efficient and Transparent GPU Memory Defragmentation for Large-scale DNN
//! Training with Virtual Memory Stitching", ASPLOS 2024, and the behaviour of its release for PyTorch
//! 2.0 with its tutorial (intelligent-machine-learning/glake, `GMLake`).
//!
//! * Requests above 1 MiB are multiples of 2 MiB. A *primitive block* (pBlock) is a run of pages at the
//!   addresses at which they were made, a *stitched block* (sBlock) a range of other addresses at
//!   which pages of several pBlocks are mapped as well. All belong to a stream. An sBlock is free
//!   when all its pages are; pages that are used through one name are in use in all.
//! * A request takes, in this order: the smallest free pBlock that fits, cut, its exact size among them
//!   (S1, S2 of the paper); the smallest free sBlock that fits and is no larger than `reuseLimit`
//!   times the request; free pBlocks from the largest on, the last one cut, stitched into a new
//!   sBlock, if the request has at least `fragLimit` bytes (S3; with `defragLevel=1` only when new
//!   memory cannot be had); new pages, as many as PyTorch would take, or with `reAlloc=1` only what
//!   is missing, stitched (S4). Out of memory first gives back what is wholly free (S5).
//! * sBlocks stay for the next time. When more than `autoGC` GiB were stitched, or addresses are out,
//!   those that are not in use and whose stream has passed them are unmapped (StitchFree): first
//!   those of which pages are used otherwise, then the free ones, the longest free first.
//! * Requests of at most 1 MiB are served as PyTorch serves them, from segments of 2 MiB.
//!
//! The paper describes blocks from 2 MiB on; the release draws the line at 1 MiB, as PyTorch does. The
//! release unmaps what it gives back without waiting for work in flight; here the device is waited
//! for, which is what correct code must do. A segment of which a stitched block in use has a page
//! beyond its request is kept until that block is freed, where the release takes that page out.
//!
//! Left out: PyTorch's own options, whose defaults hold, captured graphs, and events of streams that
//! recorded a block, which a trace has waited for.

mod pages;
mod small;
mod stitch;

use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, DriverErrorKind, StreamId};
use rustc_hash::FxHashMap;

use super::parts::{Given, no_block, refusal};
use super::{Needs, OptionInfo, Policy, PolicyInfo, PolicyMaker, PolicyOptions, Refusal};
use pages::{PAGE, Pages, Used};
use small::{SMALL, Small};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "gmlake",
    summary: "GMLake: PyTorch's allocator over pages of 2 MiB, stitched into larger blocks",
    needs: Needs::Device,
    options: || OPTIONS.to_vec(),
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "fragLimit",
        help: "The smallest request for which blocks are stitched, in bytes or as a size",
        allowed: "a size from 2MiB on",
        default: "512MiB",
    },
    OptionInfo {
        name: "reuseLimit",
        help: "A stitched block serves requests down to its size divided by this",
        allowed: "a number from 1 to 1000000",
        default: "10",
    },
    OptionInfo {
        name: "defragLevel",
        help: "0 stitches before new memory is taken, 1 when none can be had",
        allowed: "0 or 1",
        default: "0",
    },
    OptionInfo {
        name: "autoGC",
        help: "Stitched blocks are looked over when more than so many GiB were stitched",
        allowed: "1 to 1000000",
        default: "1000",
    },
    OptionInfo {
        name: "reAlloc",
        help: "1 takes only as much new memory as is missing beside the free blocks",
        allowed: "0 or 1",
        default: "0",
    },
];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Config {
    least: u64,
    reuse: f64,
    lazy: bool,
    /// Bytes.
    most_stitched: u64,
    only_missing: bool,
}

fn prepare(given: &PolicyOptions) -> Result<PolicyMaker, String> {
    let config = read(given)?;
    Ok(Arc::new(move |driver| Ok(Box::new(GmLake::new(driver, config)))))
}

fn read(given: &PolicyOptions) -> Result<Config, String> {
    let given = Given::new(given, OPTIONS)?;
    let reuse = |value: &str| value.parse().ok().filter(|times| (1.0..=1e6).contains(times));
    let gib = given.number("autoGC", 1..=1_000_000)?.unwrap_or(1000);
    Ok(Config {
        least: given.bytes("fragLimit", PAGE..=u64::MAX)?.unwrap_or(512 << 20),
        reuse: given.read("reuseLimit", reuse)?.unwrap_or(10.0),
        lazy: given.number("defragLevel", 0..=1)? == Some(1),
        most_stitched: gib << 30,
        only_missing: given.number("reAlloc", 0..=1)? == Some(1),
    })
}

/// Bytes that PyTorch takes for a large request.
fn segment_bytes(bytes: u64) -> u64 {
    if bytes < 10 << 20 { 20 << 20 } else { bytes }
}

/// The memory of a device.
struct Lake {
    small: Small,
    pages: Pages,
}

#[derive(Clone, Copy)]
enum Live {
    Small(DeviceId),
    Large(DeviceId, Used),
}

struct GmLake {
    driver: Arc<dyn Driver>,
    config: Config,
    lakes: FxHashMap<DeviceId, Lake>,
    live: FxHashMap<u64, Live>,
}

impl Lake {
    fn new(driver: &Arc<dyn Driver>, device: DeviceId) -> Self {
        let small = Small::new(Arc::clone(driver), device);
        Lake { small, pages: Pages::new(Arc::clone(driver), device) }
    }

    /// Gives back what is wholly free, of both kinds.
    fn release(&mut self) -> Result<(), DriverError> {
        self.pages.release()?;
        self.small.release()
    }

    fn take_small(&mut self, bytes: u64, stream: StreamId) -> Result<u64, DriverError> {
        match self.small.take(bytes, stream) {
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                self.release()?;
                self.small.take(bytes, stream)
            }
            taken => taken,
        }
    }

    fn take_large(
        &mut self,
        config: &Config,
        bytes: u64,
        stream: StreamId,
    ) -> Result<Used, DriverError> {
        let pages = &mut self.pages;
        if let Some(used) = pages.take_primitive(bytes, stream) {
            return Ok(used);
        }
        let most = (bytes as f64 * config.reuse) as u64;
        if let Some(used) = pages.take_stitched(bytes, most, stream) {
            return Ok(used);
        }
        let stitches = bytes >= config.least;
        if stitches
            && !config.lazy
            && let Some(used) = pages.stitch(config, bytes, stream)?
        {
            return Ok(used);
        }
        let error = match pages.take_new(config, bytes, stream) {
            Ok(used) => return Ok(used),
            Err(error) if error.kind == DriverErrorKind::OutOfMemory => error,
            Err(error) => return Err(error),
        };
        if stitches && let Some(used) = pages.stitch(config, bytes, stream)? {
            return Ok(used);
        }
        self.release()?;
        match self.pages.take_new(config, bytes, stream) {
            Err(last) if last.kind == DriverErrorKind::OutOfMemory => {}
            taken => return taken,
        }
        match stitches.then(|| self.pages.stitch(config, bytes, stream)).transpose()?.flatten() {
            Some(used) => Ok(used),
            None => Err(error),
        }
    }
}

impl GmLake {
    fn new(driver: Arc<dyn Driver>, config: Config) -> Self {
        let (lakes, live) = (FxHashMap::default(), FxHashMap::default());
        GmLake { driver, config, lakes, live }
    }
}

impl Policy for GmLake {
    fn allocate(&mut self, size: u64, device: DeviceId, stream: StreamId) -> Result<u64, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let words =
            || format!("CUDA out of memory. Tried to allocate {size} bytes (GPU {}).", device.0);
        let lake = self.lakes.entry(device).or_insert_with(|| Lake::new(&self.driver, device));
        let taken = if size <= SMALL {
            let bytes = size.next_multiple_of(512);
            lake.take_small(bytes, stream).map(|address| (address, Live::Small(device)))
        } else {
            let bytes = size.next_multiple_of(PAGE);
            let used = lake.take_large(&self.config, bytes, stream);
            used.map(|used| (used.address, Live::Large(device, used)))
        };
        let (address, live) = taken.map_err(|error| refusal(&error, words))?;
        self.live.insert(address, live);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), String> {
        if address == 0 {
            return Ok(());
        }
        let live = *self.live.get(&address).ok_or_else(|| no_block(address))?;
        let (Live::Small(device) | Live::Large(device, _)) = live;
        let Some(lake) = self.lakes.get_mut(&device) else { return Err(no_block(address)) };
        match live {
            Live::Small(_) => lake.small.give(address),
            Live::Large(_, used) => lake.pages.give(used).map_err(|error| error.to_string())?,
        }
        self.live.remove(&address);
        Ok(())
    }

    fn block_bytes(&self, address: u64) -> Option<u64> {
        match self.live.get(&address)? {
            Live::Small(device) => self.lakes.get(device)?.small.bytes(address),
            Live::Large(_, used) => Some(used.bytes),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let sum = |of: fn(&Pages) -> u64| self.lakes.values().map(|lake| of(&lake.pages)).sum();
        vec![
            ("stitches", sum(|pages| pages.stitches)),
            ("stitched_reuses", sum(|pages| pages.reuses)),
            ("stitched_freed", sum(|pages| pages.dissolved)),
        ]
    }
}

#[cfg(test)]
mod tests;
