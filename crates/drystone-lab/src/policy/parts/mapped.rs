//! Reserved addresses, handles and mappings of a device, which go back to the driver at the latest
//! when this is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, DriverError, HandleId, HandleKind};

/// The addresses and the mapped memory that a policy holds of one device.
pub(in crate::policy) struct Mapped {
    driver: Arc<dyn Driver>,
    device: DeviceId,
    /// Bytes of reserved addresses, by their start.
    ranges: BTreeMap<u64, u64>,
    /// Bytes of handles.
    handles: BTreeMap<HandleId, u64>,
    /// What is mapped where.
    mappings: BTreeMap<u64, HandleId>,
}

impl Mapped {
    /// Nothing yet.
    pub(in crate::policy) fn new(driver: Arc<dyn Driver>, device: DeviceId) -> Self {
        let (ranges, handles) = (BTreeMap::new(), BTreeMap::new());
        Mapped { driver, device, ranges, handles, mappings: BTreeMap::new() }
    }

    /// `cuMemAddressReserve`.
    pub(in crate::policy) fn reserve(&mut self, bytes: u64) -> Result<u64, DriverError> {
        let address = self.driver.address_reserve(self.device, bytes)?;
        self.ranges.insert(address, bytes);
        Ok(address)
    }

    /// `cuMemAddressFree` of a whole range. One in which something is still mapped is kept, until
    /// the end.
    pub(in crate::policy) fn unreserve(&mut self, address: u64) -> Result<(), DriverError> {
        let Some(&bytes) = self.ranges.get(&address) else { return Ok(()) };
        if self.mappings.range(address..address + bytes).next().is_some() {
            return Ok(());
        }
        self.driver.address_free(self.device, address, bytes)?;
        self.ranges.remove(&address);
        Ok(())
    }

    /// `cuMemCreate`.
    pub(in crate::policy) fn create(&mut self, bytes: u64) -> Result<HandleId, DriverError> {
        let handle = self.driver.handle_create(self.device, bytes, HandleKind::Device)?;
        self.handles.insert(handle, bytes);
        Ok(handle)
    }

    /// `cuMemRelease` of a handle that is mapped nowhere.
    pub(in crate::policy) fn release(&mut self, handle: HandleId) -> Result<(), DriverError> {
        self.driver.handle_release(self.device, handle)?;
        self.handles.remove(&handle);
        Ok(())
    }

    /// `cuMemMap`.
    pub(in crate::policy) fn map(
        &mut self,
        address: u64,
        handle: HandleId,
    ) -> Result<(), DriverError> {
        self.driver.map(self.device, address, handle)?;
        self.mappings.insert(address, handle);
        Ok(())
    }

    /// `cuMemSetAccess` over whole mappings.
    pub(in crate::policy) fn access(&self, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.driver.set_access(self.device, address, bytes, &[self.device])
    }

    /// `cuMemUnmap` of whole mappings. The caller vouches that no work in flight uses them.
    pub(in crate::policy) fn unmap(&mut self, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.driver.unmap(self.device, address, bytes)?;
        let gone: Vec<u64> = self.mappings.range(address..address + bytes).map(|m| *m.0).collect();
        for address in gone {
            self.mappings.remove(&address);
        }
        Ok(())
    }

    /// The handle that is mapped at an address.
    pub(in crate::policy) fn handle_at(&self, address: u64) -> Option<HandleId> {
        self.mappings.get(&address).copied()
    }

    /// Makes as many handles of `each` bytes as `bytes` take and maps them from an address on; all
    /// of them, or as [`Mapped::strip`] leaves it.
    pub(in crate::policy) fn back(
        &mut self,
        address: u64,
        bytes: u64,
        each: u64,
    ) -> Result<(), DriverError> {
        let mut all = (address..address + bytes).step_by(each as usize);
        let mapped = all.try_for_each(|at| self.create(each).and_then(|new| self.map(at, new)));
        let done = mapped.and_then(|()| self.access(address, bytes));
        if done.is_err() {
            self.strip(address, bytes, each);
        }
        done
    }

    /// Undoes [`Mapped::back`] as far as the driver lets it: nothing uses these addresses. What the
    /// driver keeps now goes back at the end. Where the last mapping ends that is still there.
    pub(in crate::policy) fn strip(&mut self, address: u64, bytes: u64, each: u64) -> u64 {
        let mut clean = address;
        for at in (address..address + bytes).step_by(each as usize) {
            if self.handle_at(at).is_some() && self.unmap(at, each).is_err() {
                clean = at + each;
            }
        }
        self.release_loose();
        clean
    }

    /// Releases handles that are mapped nowhere.
    pub(in crate::policy) fn release_loose(&mut self) {
        let mapped: BTreeSet<_> = self.mappings.values().copied().collect();
        let loose: Vec<_> = self.handles.keys().filter(|h| !mapped.contains(h)).copied().collect();
        for handle in loose {
            let _ = self.release(handle);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // What a driver does not take back now, it never will; the replay finds it out.
        if !self.mappings.is_empty() {
            let _ = self.driver.device_synchronize(self.device);
        }
        for (&address, handle) in &self.mappings {
            let bytes = self.handles.get(handle).copied().unwrap_or_default();
            let _ = self.driver.unmap(self.device, address, bytes);
        }
        for &handle in self.handles.keys() {
            let _ = self.driver.handle_release(self.device, handle);
        }
        for (&address, &bytes) in &self.ranges {
            let _ = self.driver.address_free(self.device, address, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use drystone_core::{DriverCall, StreamId};
    use drystone_sim::{Access, FaultPlan, SimConfig, SimDriver};

    use super::*;

    const DEVICE: DeviceId = DeviceId(0);
    const PAGE: u64 = 2 << 20;

    #[test]
    fn all_goes_back_when_it_is_dropped_also_after_work() {
        let sim = Arc::new(SimDriver::new(SimConfig::default()).unwrap());
        let mut mapped = Mapped::new(Arc::clone(&sim) as _, DEVICE);
        let range = mapped.reserve(8 * PAGE).unwrap();
        mapped.back(range, 4 * PAGE, 2 * PAGE).unwrap();
        let handle = mapped.handle_at(range).unwrap();
        mapped.map(range + 4 * PAGE, handle).unwrap();
        mapped.access(range + 4 * PAGE, 2 * PAGE).unwrap();
        sim.launch(DEVICE, StreamId(1), &[(range, 4 * PAGE)], Access::Write).unwrap();
        assert_eq!(sim.usage(DEVICE).unwrap().taken, 4 * PAGE);
        drop(mapped);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }

    #[test]
    fn all_is_backed_or_nothing() {
        let sim = Arc::new(SimDriver::new(SimConfig::default()).unwrap());
        let mut mapped = Mapped::new(Arc::clone(&sim) as _, DEVICE);
        let range = mapped.reserve(8 * PAGE).unwrap();
        for call in [DriverCall::HandleCreate, DriverCall::Map] {
            sim.set_faults(FaultPlan::new().nth(call, 3));
            mapped.back(range, 8 * PAGE, PAGE).unwrap_err();
            assert_eq!(sim.usage(DEVICE).unwrap().taken, 0);
        }
        sim.set_faults(FaultPlan::new().nth(DriverCall::SetAccess, 1));
        mapped.back(range, 8 * PAGE, PAGE).unwrap_err();
        mapped.unreserve(range).unwrap();
        drop(mapped);
        assert!(sim.finish().is_clean(), "{}", sim.finish());
    }
}
