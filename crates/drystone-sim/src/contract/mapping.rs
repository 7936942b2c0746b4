//! The rules of mappings. What is in the memory is not looked at.

use drystone_core::driver::{
    DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, HandleId, HandleKind,
};

use super::handle::made;
use super::{done, fails};

/// The pages of the range that the rules are tried on.
const PAGES: u64 = 8;

/// Page and pages of ranges that do not consist of whole mappings while [`Room`] is full: parts of
/// one, more than there is, nothing, and what lies behind.
const PARTS: [(u64, u64); 9] =
    [(1, 1), (2, 1), (0, 2), (2, 3), (1, 3), (0, PAGES - 1), (0, PAGES + 1), (0, 0), (PAGES, 1)];

/// A range of [`PAGES`] pages, and handles of one, two and three.
struct Room<'a, D: ?Sized> {
    driver: &'a D,
    device: DeviceId,
    page: u64,
    base: u64,
    handles: [HandleId; 3],
}

pub(super) fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    page: u64,
) -> Result<(), String> {
    let handle = |pages| made(driver, device, pages * page, HandleKind::Device);
    let handles = [handle(1)?, handle(2)?, handle(3)?];
    let base = done("address_reserve", driver.address_reserve(device, PAGES * page))?;
    let room = Room { driver, device, page, base, handles };
    room.maps()?;
    room.access()?;
    room.mapped_things_stay()?;
    room.unmaps()?;
    room.ends()
}

impl<D: Driver + ?Sized> Room<'_, D> {
    /// Fills the range: one page, two, the same two once more, three; and tries what does not go.
    fn maps(&self) -> Result<(), String> {
        let [one, two, three] = self.handles;
        let gone = made(self.driver, self.device, self.page, HandleKind::Device)?;
        done("handle_release", self.driver.handle_release(self.device, gone))?;
        self.cannot_map(0, gone)?;
        self.cannot_map(PAGES, one)?;
        self.cannot_map(PAGES - 1, two)?;
        for address in [0, self.base + self.page / 2, self.base - self.page / 2] {
            let result = self.driver.map(self.device, address, one);
            refused(DriverCall::Map, result, (address, self.page))?;
        }
        for other in self.others() {
            let result = self.driver.map(other, self.base, one);
            refused(DriverCall::Map, result, (self.base, self.page))?;
        }
        self.map(1, two)?;
        for (at, handle) in [(1, one), (2, one), (0, two), (1, two), (2, two), (0, three)] {
            self.cannot_map(at, handle)?;
        }
        self.map(3, two)?;
        self.map(0, one)?;
        self.map(5, three)?;
        self.cannot_map(4, one)
    }

    /// Access is for whole mappings, one or several, as often as one likes.
    fn access(&self) -> Result<(), String> {
        let all = self.range(0, PAGES);
        for (at, pages) in PARTS {
            self.no_access(at, pages)?;
        }
        let accessors = [self.device, DeviceId(self.driver.device_count())];
        let result = self.driver.set_access(self.device, all.0, all.1, &accessors);
        fails(DriverCall::SetAccess, DriverErrorKind::InvalidDevice, result)?;
        for other in self.others() {
            let result = self.driver.set_access(other, all.0, all.1, &[self.device]);
            refused(DriverCall::SetAccess, result, all)?;
        }
        for (at, pages) in [(0, 1), (1, 2), (1, 4), (0, PAGES), (5, 3)] {
            let (address, bytes) = self.range(at, pages);
            let result = self.driver.set_access(self.device, address, bytes, &[self.device]);
            done("set_access of whole mappings", result)?;
        }
        Ok(())
    }

    /// Handles and addresses cannot be given back under a mapping.
    fn mapped_things_stay(&self) -> Result<(), String> {
        let all = self.range(0, PAGES);
        for handle in self.handles {
            let result = self.driver.handle_release(self.device, handle);
            refused(DriverCall::HandleRelease, result, all)?;
        }
        refused(DriverCall::AddressFree, self.driver.address_free(self.device, all.0, all.1), all)
    }

    /// Whole mappings can be taken away, once, and their addresses used again.
    fn unmaps(&self) -> Result<(), String> {
        let [one, two, _] = self.handles;
        for (at, pages) in PARTS {
            self.cannot_unmap(at, pages)?;
        }
        let all = self.range(0, PAGES);
        for other in self.others() {
            refused(DriverCall::Unmap, self.driver.unmap(other, all.0, all.1), all)?;
        }
        self.unmap(1, 2)?;
        // There is a hole now.
        for (at, pages) in [(1, 2), (0, 3), (1, 4), (0, PAGES)] {
            self.cannot_unmap(at, pages)?;
            self.no_access(at, pages)?;
        }
        // The handle's second mapping is still there.
        let result = self.driver.handle_release(self.device, two);
        refused(DriverCall::HandleRelease, result, self.range(3, 2))?;
        self.map(2, one)?;
        self.map(1, one)?;
        self.unmap(0, 5)?;
        self.map(0, two)?;
        self.unmap(5, 3)?;
        self.unmap(0, 2)
    }

    /// Everything can be given back, once.
    fn ends(&self) -> Result<(), String> {
        let Room { driver, device, page, base, .. } = *self;
        for (pages, handle) in (1..).zip(self.handles) {
            self.map(0, handle)?;
            self.unmap(0, pages)?;
            self.cannot_unmap(0, pages)?;
            done("handle_release", driver.handle_release(device, handle))?;
            self.cannot_map(0, handle)?;
        }
        done("address_free", driver.address_free(device, base, PAGES * page))?;
        let late = made(driver, device, page, HandleKind::Device)?;
        self.cannot_map(0, late)?;
        done("handle_release", driver.handle_release(device, late))
    }

    /// Address and bytes of some pages of the range.
    fn range(&self, at: u64, pages: u64) -> (u64, u64) {
        (self.base + at * self.page, pages * self.page)
    }

    fn others(&self) -> impl Iterator<Item = DeviceId> {
        let mine = self.device;
        (0..self.driver.device_count()).map(DeviceId).filter(move |other| *other != mine)
    }

    fn map(&self, at: u64, handle: HandleId) -> Result<(), String> {
        let result = self.driver.map(self.device, self.range(at, 0).0, handle);
        done("map", result).map_err(|error| format!("{error} (page {at})"))
    }

    fn cannot_map(&self, at: u64, handle: HandleId) -> Result<(), String> {
        let (address, _) = self.range(at, 0);
        let result = self.driver.map(self.device, address, handle);
        fails(DriverCall::Map, DriverErrorKind::InvalidValue, result)
            .map_err(|error| format!("{error} ({handle:?} at page {at})"))
    }

    fn unmap(&self, at: u64, pages: u64) -> Result<(), String> {
        let (address, bytes) = self.range(at, pages);
        let result = self.driver.unmap(self.device, address, bytes);
        done("unmap", result).map_err(|error| format!("{error} ({pages} pages from page {at} on)"))
    }

    fn cannot_unmap(&self, at: u64, pages: u64) -> Result<(), String> {
        let range = self.range(at, pages);
        refused(DriverCall::Unmap, self.driver.unmap(self.device, range.0, range.1), range)
    }

    fn no_access(&self, at: u64, pages: u64) -> Result<(), String> {
        let range = self.range(at, pages);
        let result = self.driver.set_access(self.device, range.0, range.1, &[self.device]);
        refused(DriverCall::SetAccess, result, range)
    }
}

/// A call that has to fail for this address and these bytes.
pub(super) fn refused(
    call: DriverCall,
    result: Result<(), DriverError>,
    (address, bytes): (u64, u64),
) -> Result<(), String> {
    fails(call, DriverErrorKind::InvalidValue, result)
        .map_err(|error| format!("{error} ({bytes} bytes at {address:#x})"))
}
