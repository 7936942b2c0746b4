//! Handles and mappings: the part of the contract that has to do with virtual memory.

use std::ops::Range;

use drystone_core::driver::{DeviceId, DriverErrorKind, HandleId, HandleKind, ShareId};

use crate::address::PAGE;
use crate::device::{Call, Device, Refusal};
use crate::misuse::{Misuse, RangeFault};
use crate::physical::Handle;

impl Device {
    pub(crate) fn page_bytes(&self) -> Result<u64, Refusal> {
        self.can_map()?;
        Ok(PAGE)
    }

    pub(crate) fn address_reserve(
        &mut self,
        call: &mut Call<'_>,
        bytes: u64,
    ) -> Result<u64, Refusal> {
        self.can_map()?;
        pages(bytes)?;
        let full = || Refusal::new(DriverErrorKind::OutOfMemory, "out of addresses");
        let address = self.mappings.reserve(bytes).ok_or_else(full)?;
        call.spend(call.env.costs.address_reserve);
        Ok(address)
    }

    pub(crate) fn address_free(
        &mut self,
        call: &mut Call<'_>,
        address: u64,
        bytes: u64,
    ) -> Result<(), Refusal> {
        self.can_map()?;
        self.outside_captures(call)?;
        let freed = self.mappings.unreserve(address, bytes);
        freed.map_err(|fault| self.wrong_range(call, address, bytes, fault))?;
        call.spend(call.env.costs.address_free);
        Ok(())
    }

    pub(crate) fn handle_create(
        &mut self,
        call: &mut Call<'_>,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, Refusal> {
        self.can_map()?;
        pages(bytes)?;
        if !matches!(kind, HandleKind::Device | HandleKind::Exportable | HandleKind::Host) {
            return Err(Refusal::new(DriverErrorKind::NotSupported, "no such kind of memory"));
        }
        if !self.memory.take(bytes, kind) {
            call.spend(call.env.costs.handle_create_out_of_memory);
            return Err(Refusal::new(DriverErrorKind::OutOfMemory, "out of memory"));
        }
        let Some(handle) = self.physical.create(bytes, kind) else {
            self.memory.give(bytes, kind);
            return Err(Refusal::new(DriverErrorKind::Other, "too much memory made in one run"));
        };
        call.spend(call.env.costs.handle_create.at(bytes));
        Ok(handle)
    }

    pub(crate) fn handle_release(
        &mut self,
        call: &mut Call<'_>,
        handle: HandleId,
    ) -> Result<(), Refusal> {
        self.can_map()?;
        self.outside_captures(call)?;
        let Handle { bytes, mappings, .. } = self.handle(call, handle)?;
        if mappings > 0 {
            call.found.push(Misuse::ReleaseOfMapped { device: self.id, handle, mappings });
            return Err(Refusal::new(DriverErrorKind::InvalidValue, "the handle is mapped"));
        }
        if let Some(block) = self.physical.release(handle) {
            self.memory.give(block.bytes, block.kind);
            let end = block.base + block.bytes;
            self.memory.stamps.remove(block.base, end);
            self.uses.forget(block.base, end);
        }
        call.spend(call.env.costs.handle_release.at(bytes));
        Ok(())
    }

    pub(crate) fn handle_export(
        &mut self,
        call: &mut Call<'_>,
        handle: HandleId,
    ) -> Result<ShareId, Refusal> {
        self.can_map()?;
        self.handle(call, handle)?;
        let Some(share) = self.physical.export(handle) else {
            call.found.push(Misuse::NotExportable { device: self.id, handle });
            return Err(Refusal::new(DriverErrorKind::InvalidValue, "not exportable"));
        };
        call.spend(call.env.costs.handle_export);
        Ok(share)
    }

    pub(crate) fn handle_import(
        &mut self,
        call: &mut Call<'_>,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, Refusal> {
        self.can_map()?;
        let Some(handle) = self.physical.import(share, bytes) else {
            call.found.push(Misuse::UnknownShare { device: self.id, share, bytes });
            return Err(Refusal::new(DriverErrorKind::InvalidValue, "not exported memory"));
        };
        call.spend(call.env.costs.handle_import);
        Ok(handle)
    }

    pub(crate) fn map(
        &mut self,
        call: &mut Call<'_>,
        address: u64,
        handle: HandleId,
    ) -> Result<(), Refusal> {
        self.can_map()?;
        let found = self.handle(call, handle)?;
        let mapped = self.mappings.map(address, handle, &found);
        mapped.map_err(|fault| self.wrong_range(call, address, found.bytes, fault))?;
        if let Some(handle) = self.physical.get_mut(handle) {
            handle.mappings += 1;
        }
        call.spend(call.env.costs.map);
        Ok(())
    }

    /// `devices` is how many devices there are.
    pub(crate) fn set_access(
        &mut self,
        call: &mut Call<'_>,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
        devices: usize,
    ) -> Result<(), Refusal> {
        self.can_map()?;
        if accessors.is_empty() {
            return Err(Refusal::new(DriverErrorKind::InvalidValue, "no accessor"));
        }
        if let Some(device) = accessors.iter().find(|device| device.0 as usize >= devices) {
            call.found.push(Misuse::UnknownDevice { device: *device });
            return Err(Refusal::new(DriverErrorKind::InvalidDevice, "no such accessor"));
        }
        let range = self.whole(call, address, bytes)?;
        for mapping in self.mappings.mapped.range_mut(range).map(|(_, mapping)| mapping) {
            for device in accessors {
                mapping.allow(*device);
                call.spend(call.env.costs.set_access.at(mapping.bytes));
            }
        }
        Ok(())
    }

    pub(crate) fn unmap(
        &mut self,
        call: &mut Call<'_>,
        address: u64,
        bytes: u64,
    ) -> Result<(), Refusal> {
        self.can_map()?;
        self.outside_captures(call)?;
        let range = self.whole(call, address, bytes)?;
        while let Some((address, mapping)) = self.mappings.take_first(range.clone()) {
            if let Some(handle) = self.physical.get_mut(mapping.handle) {
                handle.mappings -= 1;
            }
            if let Some(stream) = mapping.unfinished(&self.streams, call.env.clock.now()) {
                let (device, bytes) = (self.id, mapping.bytes);
                call.found.push(Misuse::UnmapInFlight { device, address, bytes, stream });
            }
            call.spend(call.env.costs.unmap.at(mapping.bytes));
        }
        Ok(())
    }

    fn can_map(&self) -> Result<(), Refusal> {
        let refusal = || Refusal::new(DriverErrorKind::NotSupported, "it cannot map memory");
        self.vmm.then_some(()).ok_or_else(refusal)
    }

    fn handle(&self, call: &mut Call<'_>, handle: HandleId) -> Result<Handle, Refusal> {
        self.physical.get(handle).copied().ok_or_else(|| {
            call.found.push(Misuse::UnknownHandle { device: self.id, call: call.kind, handle });
            Refusal::new(DriverErrorKind::InvalidValue, "no such handle")
        })
    }

    /// The range, if it consists of whole mappings.
    fn whole(&self, call: &mut Call<'_>, address: u64, bytes: u64) -> Result<Range<u64>, Refusal> {
        let whole = self.mappings.whole(address, bytes);
        whole.map_err(|fault| self.wrong_range(call, address, bytes, fault))
    }

    fn wrong_range(
        &self,
        call: &mut Call<'_>,
        address: u64,
        bytes: u64,
        fault: RangeFault,
    ) -> Refusal {
        let (device, kind) = (self.id, call.kind);
        call.found.push(Misuse::WrongRange { device, call: kind, address, bytes, fault });
        Refusal::new(DriverErrorKind::InvalidValue, fault.words())
    }
}

/// Refuses sizes that are not some number of pages.
fn pages(bytes: u64) -> Result<(), Refusal> {
    if bytes > 0 && bytes.is_multiple_of(PAGE) {
        return Ok(());
    }
    Err(Refusal::new(DriverErrorKind::InvalidValue, "0 bytes, or not a multiple of the page"))
}
