//! What addresses, handles and mappings cost.

use std::os::fd::{FromRawFd, OwnedFd};

use drystone_core::{Driver, DriverErrorKind, HandleId, HandleKind};

use crate::bench::{Bench, Samples, State, most_samples};
use crate::{Failure, GIB, MIB};

/// Sizes of the handles.
const HANDLES: [u64; 4] = [2 * MIB, 8 * MIB, 32 * MIB, 128 * MIB];
/// Sizes of the reserved ranges.
const RANGES: [u64; 3] = [2 * MIB, GIB, 1024 * GIB];
/// Sizes of the handles that the full device does not have.
const REFUSED: [u64; 2] = [2 * MIB, 128 * MIB];

impl Bench<'_> {
    /// All rows of mapped memory, where the device can map memory.
    pub(crate) fn mapped_memory(&mut self, state: State) -> Result<(), Failure> {
        match self.driver.page_bytes(self.device) {
            Ok(_) => {}
            Err(error) if error.kind == DriverErrorKind::NotSupported => {
                eprintln!("costs: {error}: no rows of mapped memory");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        for bytes in RANGES {
            self.ranges(state, bytes)?;
        }
        for bytes in HANDLES {
            self.handles(state, bytes)?;
        }
        self.shares(state, HANDLES[0])?;
        let hoard = self.take_all()?;
        for bytes in REFUSED {
            self.refused_handles(state, bytes)?;
        }
        for handle in hoard {
            self.driver.handle_release(self.device, handle)?;
        }
        Ok(())
    }

    /// `address_reserve` and `address_free`.
    fn ranges(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let mut freed = Samples::default();
        let reserved = self.repeat(self.samples, |bench, samples| {
            let base = bench.timed(state, samples, || driver.address_reserve(device, bytes))??;
            bench.timed(state, &mut freed, || driver.address_free(device, base, bytes))??;
            Ok(())
        })?;
        self.rows_of("address_reserve", bytes, state, reserved);
        self.rows_of("address_free", bytes, state, freed);
        Ok(())
    }

    /// The life of a handle: made, mapped where nothing was before, used, unmapped, released. The
    /// device's other work has nothing to do with it.
    fn handles(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device, quiet) = (self.driver, self.device, self.quiet);
        let slots = most_samples(self.samples) as u64;
        let base = driver.address_reserve(device, slots * bytes)?;
        let mut address = base;
        let (mut mapped, mut allowed) = (Samples::default(), Samples::default());
        let (mut unmapped, mut released) = (Samples::default(), Samples::default());
        let created = self.repeat(self.samples, |bench, samples| {
            let create = || driver.handle_create(device, bytes, HandleKind::Device);
            let handle = bench.timed(state, samples, create)??;
            bench.timed(state, &mut mapped, || driver.map(device, address, handle))??;
            let allow = || driver.set_access(device, address, bytes, &[device]);
            bench.timed(state, &mut allowed, allow)??;
            driver.fill_u32(device, address, bytes, 1, quiet)?;
            driver.synchronize_stream(device, quiet)?;
            bench.timed(state, &mut unmapped, || driver.unmap(device, address, bytes))??;
            bench.timed(state, &mut released, || driver.handle_release(device, handle))??;
            address += bytes;
            Ok(())
        })?;
        driver.address_free(device, base, slots * bytes)?;
        self.rows_of("handle_create", bytes, state, created);
        self.rows_of("map", bytes, state, mapped);
        self.rows_of("set_access", bytes, state, allowed);
        self.rows_of("unmap", bytes, state, unmapped);
        self.rows_of("handle_release", bytes, state, released);
        Ok(())
    }

    /// `handle_export` and `handle_import`.
    fn shares(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let handle = match driver.handle_create(device, bytes, HandleKind::Exportable) {
            Ok(handle) => handle,
            Err(error) if error.kind == DriverErrorKind::NotSupported => {
                eprintln!("costs: {error}: no rows of handle_export and handle_import");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut imported = Samples::default();
        let exported = self.repeat(self.samples, |bench, samples| {
            let share = bench.timed(state, samples, || driver.handle_export(device, handle))??;
            // SAFETY: the file descriptor is new, and the contract gives it to the caller.
            let descriptor = unsafe { OwnedFd::from_raw_fd(i32::try_from(share.0)?) };
            let import = || driver.handle_import(device, share, bytes);
            let taken = bench.timed(state, &mut imported, import)??;
            drop(descriptor);
            Ok(driver.handle_release(device, taken)?)
        })?;
        driver.handle_release(device, handle)?;
        self.rows_of("handle_export", bytes, state, exported);
        self.rows_of("handle_import", bytes, state, imported);
        Ok(())
    }

    /// Handles of all memory that the device has left.
    fn take_all(&mut self) -> Result<Vec<HandleId>, Failure> {
        let (driver, device) = (self.driver, self.device);
        let page = driver.page_bytes(device)?;
        let mut hoard = Vec::new();
        let mut bytes = driver.device_memory(device)?.free / page * page;
        while bytes > 0 {
            match driver.handle_create(device, bytes, HandleKind::Device) {
                Ok(handle) => hoard.push(handle),
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => {
                    bytes = bytes / 2 / page * page;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(hoard)
    }

    /// `handle_create` on a full device.
    fn refused_handles(&mut self, state: State, bytes: u64) -> Result<(), Failure> {
        let (driver, device) = (self.driver, self.device);
        let samples = self.repeat(self.samples, |bench, samples| {
            let create = || driver.handle_create(device, bytes, HandleKind::Device);
            match bench.timed(state, samples, create)? {
                Err(error) if error.kind == DriverErrorKind::OutOfMemory => Ok(()),
                Err(error) => Err(error.into()),
                Ok(handle) => {
                    driver.handle_release(device, handle)?;
                    Err(format!("the full device gave {bytes} bytes").into())
                }
            }
        })?;
        self.rows_of("handle_create_out_of_memory", bytes, state, samples);
        Ok(())
    }
}
