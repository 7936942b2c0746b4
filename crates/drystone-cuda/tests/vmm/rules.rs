//! What the device refuses to do with addresses, handles and mappings, and that a refused call
//! changes nothing.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::AsRawFd;

use drystone_core::{
    DeviceId, Driver, DriverCall, DriverError, DriverErrorKind, HandleId, HandleKind, ShareId,
    StreamId,
};
use drystone_cuda::{CudaDriver, CudaError};

use crate::common::{DEVICE, driver};
use crate::page;

/// A handle that does not exist.
const NO_HANDLE: HandleId = HandleId(u64::MAX);

/// The call must fail, in this way.
#[track_caller]
fn refused<T: Debug>(result: Result<T, DriverError>, call: DriverCall, kind: DriverErrorKind) {
    let error = result.expect_err("the call must be refused");
    assert_eq!((error.call, error.kind), (call, kind), "{error}");
}

/// The call must find an argument wrong.
#[track_caller]
fn invalid<T: Debug>(result: Result<T, DriverError>, call: DriverCall) {
    refused(result, call, DriverErrorKind::InvalidValue);
}

/// Eight reserved pages: a mapping of two, one of one, three without, one without access, one
/// without. The three handles have two pages, one and one.
struct Layout<'d> {
    driver: &'d CudaDriver,
    page: u64,
    base: u64,
    handles: [HandleId; 3],
}

impl<'d> Layout<'d> {
    fn new(driver: &'d CudaDriver, page: u64) -> Layout<'d> {
        let base = driver.address_reserve(DEVICE, 8 * page).expect("addresses");
        let handles = [2, 1, 1].map(|pages| {
            driver.handle_create(DEVICE, pages * page, HandleKind::Device).expect("memory")
        });
        for (index, handle) in [0, 2, 6].into_iter().zip(handles) {
            driver.map(DEVICE, base + index * page, handle).expect("mapping");
        }
        driver.set_access(DEVICE, base, 3 * page, &[DEVICE]).expect("access");
        let layout = Layout { driver, page, base, handles };
        let filled = driver.fill_u8(DEVICE, base, 3 * page, 0xa5, StreamId(0));
        filled.expect("two mappings with access");
        layout
    }

    fn at(&self, page: u64) -> u64 {
        self.base + page * self.page
    }

    /// All is as it was made; gives it back.
    fn finish(self) {
        let Layout { driver, page, base, handles } = self;
        driver.device_synchronize(DEVICE).expect("wait");
        let mut bytes = vec![0; 3 * page as usize];
        driver.copy_to_host(DEVICE, base, &mut bytes).expect("copy");
        assert!(bytes.iter().all(|&byte| byte == 0xa5));
        driver.unmap(DEVICE, base, 3 * page).expect("two whole mappings");
        driver.unmap(DEVICE, base + 6 * page, page).expect("a whole mapping");
        for handle in handles {
            driver.handle_release(DEVICE, handle).expect("it is mapped nowhere");
        }
        driver.address_free(DEVICE, base, 8 * page).expect("nothing is mapped");
    }
}

#[test]
fn sizes_are_whole_pages() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    for bytes in [0, 1, page - 1, page + 1, u64::MAX] {
        invalid(driver.address_reserve(DEVICE, bytes), DriverCall::AddressReserve);
        for kind in [HandleKind::Device, HandleKind::Exportable, HandleKind::Host] {
            invalid(driver.handle_create(DEVICE, bytes, kind), DriverCall::HandleCreate);
        }
        let imported = driver.handle_import(DEVICE, ShareId(0), bytes);
        invalid(imported, DriverCall::HandleImport);
    }
    let most = u64::MAX / page * page;
    let kind = DriverErrorKind::OutOfMemory;
    for bytes in [1 << 47, 1 << 48, most] {
        refused(driver.address_reserve(DEVICE, bytes), DriverCall::AddressReserve, kind);
    }
    for bytes in [1 << 42, 1 << 47, 1 << 48, most] {
        let made = driver.handle_create(DEVICE, bytes, HandleKind::Device);
        refused(made, DriverCall::HandleCreate, kind);
    }
}

#[test]
fn addresses_are_given_back_whole_and_once() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    let layout = Layout::new(&driver, page);
    let empty = driver.address_reserve(DEVICE, 4 * page).expect("addresses");
    let wrong = [
        (empty, 3 * page),
        (empty, 5 * page),
        (empty + page, 3 * page),
        (empty, 0),
        (empty + 4 * page, page),
        (0, page),
        (page, 4 * page),
        (u64::MAX / page * page, 4 * page),
        (empty, u64::MAX),
        (layout.base, 8 * page),
    ];
    for (address, bytes) in wrong {
        invalid(driver.address_free(DEVICE, address, bytes), DriverCall::AddressFree);
    }
    driver.address_free(DEVICE, empty, 4 * page).expect("nothing is mapped");
    invalid(driver.address_free(DEVICE, empty, 4 * page), DriverCall::AddressFree);
    let segment = driver.segment_alloc(DEVICE, page).expect("memory");
    invalid(driver.address_free(DEVICE, segment, page), DriverCall::AddressFree);
    driver.segment_free(DEVICE, segment).expect("it is live");
    layout.finish();
}

#[test]
fn handles_are_given_back_once_and_unmapped() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    let layout = Layout::new(&driver, page);
    for handle in layout.handles.into_iter().chain([NO_HANDLE, HandleId(0)]) {
        invalid(driver.handle_release(DEVICE, handle), DriverCall::HandleRelease);
        invalid(driver.handle_export(DEVICE, handle), DriverCall::HandleExport);
    }
    let handle = driver.handle_create(DEVICE, page, HandleKind::Device).expect("memory");
    driver.handle_release(DEVICE, handle).expect("it is mapped nowhere");
    invalid(driver.handle_release(DEVICE, handle), DriverCall::HandleRelease);
    invalid(driver.map(DEVICE, layout.at(3), handle), DriverCall::Map);

    let file = File::open("/dev/null").expect("it is everywhere");
    for share in [u64::MAX, 1 << 31, file.as_raw_fd().unsigned_abs().into()] {
        let imported = driver.handle_import(DEVICE, ShareId(share), page);
        invalid(imported, DriverCall::HandleImport);
    }
    layout.finish();
}

#[test]
fn handles_are_mapped_whole_where_nothing_is() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    let layout = Layout::new(&driver, page);
    let two = driver.handle_create(DEVICE, 2 * page, HandleKind::Device).expect("memory");
    let segment = driver.segment_alloc(DEVICE, 4 * page).expect("memory");
    let wrong = [
        layout.at(3) + 1,
        layout.at(3) + page / 2,
        layout.at(0),
        layout.at(1),
        layout.at(2),
        layout.at(5),
        layout.at(6),
        layout.at(7),
        layout.at(8),
        layout.at(0) - page,
        segment.next_multiple_of(page),
        0,
        u64::MAX / page * page,
    ];
    for address in wrong {
        invalid(driver.map(DEVICE, address, two), DriverCall::Map);
    }
    invalid(driver.map(DEVICE, layout.at(3), NO_HANDLE), DriverCall::Map);
    // Where it does fit, it can still be mapped.
    driver.map(DEVICE, layout.at(3), two).expect("two pages are free");
    invalid(driver.map(DEVICE, layout.at(4), two), DriverCall::Map);
    driver.unmap(DEVICE, layout.at(3), 2 * page).expect("a whole mapping");
    driver.handle_release(DEVICE, two).expect("it is mapped nowhere");
    driver.segment_free(DEVICE, segment).expect("it is live");
    layout.finish();
}

#[test]
fn access_and_unmapping_are_for_whole_mappings() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    let layout = Layout::new(&driver, page);
    let segment = driver.segment_alloc(DEVICE, page).expect("memory");
    let wrong = [
        (layout.at(0), page),
        (layout.at(1), page),
        (layout.at(1), 2 * page),
        (layout.at(0), 3 * page - 1),
        (layout.at(0) + 1, 3 * page),
        (layout.at(0), 4 * page),
        (layout.at(2), 5 * page),
        (layout.at(3), page),
        (layout.at(6), 2 * page),
        (layout.at(0), 8 * page),
        (layout.at(0), 0),
        (layout.at(8), page),
        (segment, page),
        (0, page),
        (layout.at(0), u64::MAX),
    ];
    for (address, bytes) in wrong {
        let given = driver.set_access(DEVICE, address, bytes, &[DEVICE]);
        invalid(given, DriverCall::SetAccess);
        invalid(driver.unmap(DEVICE, address, bytes), DriverCall::Unmap);
    }
    invalid(driver.set_access(DEVICE, layout.at(0), 2 * page, &[]), DriverCall::SetAccess);
    let nowhere = DeviceId(driver.device_count());
    let given = driver.set_access(DEVICE, layout.at(0), 2 * page, &[DEVICE, nowhere]);
    refused(given, DriverCall::SetAccess, DriverErrorKind::InvalidDevice);
    driver.segment_free(DEVICE, segment).expect("it is live");
    layout.finish();
}

#[test]
fn work_stays_within_mappings_with_access() {
    let Some(driver) = driver() else { return };
    let Some(page) = page(&driver) else { return };
    let layout = Layout::new(&driver, page);
    let fill = |address, bytes| driver.fill_u8(DEVICE, address, bytes, 0xa5, StreamId(0));
    fill(layout.at(1), 2 * page).expect("across two mappings");
    let wrong = [
        (layout.at(2), page + 1),
        (layout.at(3), 1),
        (layout.at(0) - 1, 2),
        (layout.at(6), page),
        (layout.at(8), 1),
        (layout.at(0), u64::MAX),
    ];
    for (address, bytes) in wrong {
        let filled = fill(address, bytes);
        assert!(matches!(filled, Err(CudaError::InvalidValue(_))), "{filled:?}");
    }
    driver.set_access(DEVICE, layout.at(6), page, &[DEVICE]).expect("a whole mapping");
    fill(layout.at(6), page).expect("it has access now");
    driver.device_synchronize(DEVICE).expect("wait");
    // What is mapped anew has no access, whoever had it before.
    driver.unmap(DEVICE, layout.at(6), page).expect("a whole mapping");
    assert!(matches!(fill(layout.at(6), 1), Err(CudaError::InvalidValue(_))));
    driver.map(DEVICE, layout.at(6), layout.handles[2]).expect("the page is free");
    assert!(matches!(fill(layout.at(6), 1), Err(CudaError::InvalidValue(_))));
    layout.finish();
}
