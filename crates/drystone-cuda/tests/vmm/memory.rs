//! What mapped memory holds: aliases, remapping, host memory, memory that is shared.

use std::os::fd::{FromRawFd, OwnedFd};

use drystone_core::{Driver, DriverErrorKind, HandleId, HandleKind, ShareId, StreamId};
use drystone_cuda::{CudaDriver, Pattern};

use crate::common::{DEVICE, driver};
use crate::{page, supported};

const MIB: u64 = 1 << 20;
/// How far the device's free memory may move by what else goes on.
const NOISE: u64 = 64 * MIB;
/// Clock cycles that take some milliseconds.
const SPIN: u64 = 10_000_000;

/// A device that can map memory, with two streams and a count of wrong words.
struct Fixture<'d> {
    driver: &'d CudaDriver,
    page: u64,
    pattern: Pattern<'d>,
    first: StreamId,
    second: StreamId,
    errors: u64,
}

impl<'d> Fixture<'d> {
    fn new(driver: &'d CudaDriver) -> Option<Fixture<'d>> {
        let page = page(driver)?;
        let pattern = Pattern::load(driver, DEVICE).expect("kernels");
        let (first, second) = (driver.create_stream(DEVICE), driver.create_stream(DEVICE));
        let (first, second) = (first.expect("stream"), second.expect("stream"));
        let errors = driver.segment_alloc(DEVICE, 512).expect("memory");
        driver.fill_u8(DEVICE, errors, 512, 0, first).expect("fill");
        driver.synchronize_stream(DEVICE, first).expect("wait");
        Some(Fixture { driver, page, pattern, first, second, errors })
    }

    fn create(&self, pages: u64, kind: HandleKind) -> HandleId {
        self.driver.handle_create(DEVICE, pages * self.page, kind).expect("memory")
    }

    /// Addresses of their own for handles of so many pages, one behind the other.
    fn place(&self, handles: &[(HandleId, u64)]) -> (u64, u64) {
        let bytes = self.page * handles.iter().map(|&(_, pages)| pages).sum::<u64>();
        let base = self.driver.address_reserve(DEVICE, bytes).expect("addresses");
        assert!(base != 0 && base.is_multiple_of(self.page) && base + bytes <= 1 << 48);
        let mut address = base;
        for &(handle, pages) in handles {
            self.driver.map(DEVICE, address, handle).expect("mapping");
            address += pages * self.page;
        }
        self.driver.set_access(DEVICE, base, bytes, &[DEVICE]).expect("access");
        (base, bytes)
    }

    /// Undoes [`Fixture::place`]; the work on it is done.
    fn clear(&self, (base, bytes): (u64, u64)) {
        self.driver.unmap(DEVICE, base, bytes).expect("it is mapped");
        self.driver.address_free(DEVICE, base, bytes).expect("nothing is mapped");
    }

    fn release(&self, handle: HandleId) {
        self.driver.handle_release(DEVICE, handle).expect("it is mapped nowhere");
    }

    fn stamp(&self, stream: StreamId, (address, bytes): (u64, u64), value: u64, spin: u64) {
        self.pattern.stamp(stream, address, bytes / 8, value, spin).expect("launch");
    }

    fn check(&self, stream: StreamId, (address, bytes): (u64, u64), value: u64) {
        self.pattern.check(stream, address, bytes / 8, value, self.errors).expect("launch");
    }

    /// Makes what comes later on one stream wait for what is now on the other.
    fn after(&self, later: StreamId, earlier: StreamId) {
        let event = self.driver.event_create(DEVICE).expect("event");
        self.driver.event_record(DEVICE, event, earlier).expect("record");
        self.driver.stream_wait_event(DEVICE, later, event).expect("wait");
        self.driver.event_destroy(DEVICE, event).expect("it is live");
    }

    /// The words that were wrong so far, when all work is done.
    fn wrong_words(&self) -> u64 {
        self.driver.device_synchronize(DEVICE).expect("wait");
        let mut bytes = [0; 8];
        self.driver.copy_to_host(DEVICE, self.errors, &mut bytes).expect("copy");
        u64::from_le_bytes(bytes)
    }

    fn free_bytes(&self) -> u64 {
        self.driver.device_memory(DEVICE).expect("memory information").free
    }

    fn finish(self) {
        assert_eq!(self.wrong_words(), 0);
        self.driver.segment_free(DEVICE, self.errors).expect("it is live");
        for stream in [self.first, self.second] {
            self.driver.destroy_stream(DEVICE, stream).expect("it is live");
        }
    }
}

#[test]
fn aliases_show_the_same_bytes_in_stream_order() {
    let Some(driver) = driver() else { return };
    let Some(fixture) = Fixture::new(&driver) else { return };
    let handle = fixture.create(4, HandleKind::Device);
    let home = fixture.place(&[(handle, 4)]);
    // The first stream is at work while the alias is made.
    fixture.stamp(fixture.first, home, 1, SPIN);
    let alias = fixture.place(&[(handle, 4)]);
    assert_ne!(home.0, alias.0);
    fixture.check(fixture.first, alias, 1);
    fixture.stamp(fixture.first, alias, 2, SPIN);
    fixture.check(fixture.first, home, 2);
    fixture.after(fixture.second, fixture.first);
    fixture.check(fixture.second, home, 2);
    fixture.stamp(fixture.second, home, 3, SPIN);
    fixture.after(fixture.first, fixture.second);
    fixture.check(fixture.first, alias, 3);
    assert_eq!(fixture.wrong_words(), 0);

    // The bytes outlive each of the mappings, and all of them.
    fixture.clear(home);
    fixture.check(fixture.first, alias, 3);
    assert_eq!(fixture.wrong_words(), 0);
    fixture.clear(alias);
    let elsewhere = fixture.place(&[(handle, 4)]);
    fixture.check(fixture.first, elsewhere, 3);
    assert_eq!(fixture.wrong_words(), 0);
    fixture.clear(elsewhere);
    fixture.release(handle);
    fixture.finish();
}

#[test]
fn handles_of_several_sizes_make_one_block() {
    let Some(driver) = driver() else { return };
    let Some(fixture) = Fixture::new(&driver) else { return };
    let [small, large, last] = [1, 5, 2].map(|pages| fixture.create(pages, HandleKind::Device));
    let block = fixture.place(&[(small, 1), (large, 5), (last, 2)]);
    let inner = (block.0 + fixture.page / 2, block.1 - fixture.page);
    fixture.stamp(fixture.first, inner, 7, 0);
    fixture.check(fixture.first, inner, 7);
    assert_eq!(fixture.wrong_words(), 0);

    // The handle in the middle goes to other addresses, another one takes its place.
    let middle = (block.0 + fixture.page, 5 * fixture.page);
    driver.unmap(DEVICE, middle.0, middle.1).expect("a whole mapping");
    let spare = fixture.create(5, HandleKind::Device);
    driver.map(DEVICE, middle.0, spare).expect("the addresses are free");
    driver.set_access(DEVICE, middle.0, middle.1, &[DEVICE]).expect("access");
    let moved = fixture.place(&[(large, 5)]);
    fixture.stamp(fixture.first, middle, 8, 0);
    // What was stamped into `large` began half a page before it.
    let word = fixture.page / 2 / 8;
    let mut bytes = [0; 8];
    fixture.driver.synchronize_stream(DEVICE, fixture.first).expect("wait");
    driver.copy_to_host(DEVICE, moved.0, &mut bytes).expect("copy");
    assert_eq!(u64::from_le_bytes(bytes), 7 ^ word);
    fixture.stamp(fixture.first, block, 9, 0);
    fixture.check(fixture.first, block, 9);
    assert_eq!(fixture.wrong_words(), 0);

    fixture.clear(block);
    fixture.clear(moved);
    for handle in [small, large, last, spare] {
        fixture.release(handle);
    }
    fixture.finish();
}

#[test]
fn free_memory_follows_the_handles() {
    let Some(driver) = driver() else { return };
    let Some(fixture) = Fixture::new(&driver) else { return };
    let pages = 512 * MIB / fixture.page;
    let before = fixture.free_bytes();
    let near = |free: u64, expected: u64| {
        assert!(free.abs_diff(expected) < NOISE, "{free} bytes are free, not {expected}");
    };
    let handle = fixture.create(pages, HandleKind::Device);
    near(fixture.free_bytes(), before - 512 * MIB);
    let (home, alias) = (fixture.place(&[(handle, pages)]), fixture.place(&[(handle, pages)]));
    near(fixture.free_bytes(), before - 512 * MIB);
    fixture.clear(home);
    fixture.clear(alias);
    near(fixture.free_bytes(), before - 512 * MIB);
    fixture.release(handle);
    near(fixture.free_bytes(), before);

    let too_much = driver.device_memory(DEVICE).expect("memory information").total + fixture.page;
    let refused =
        driver.handle_create(DEVICE, too_much / fixture.page * fixture.page, HandleKind::Device);
    assert_eq!(refused.expect_err("too much").kind, DriverErrorKind::OutOfMemory);
    near(fixture.free_bytes(), before);
    fixture.finish();
}

#[test]
fn the_device_uses_host_memory() {
    let Some(driver) = driver() else { return };
    let Some(fixture) = Fixture::new(&driver) else { return };
    let pages = 128 * MIB / fixture.page;
    let before = fixture.free_bytes();
    let made = driver.handle_create(DEVICE, pages * fixture.page, HandleKind::Host);
    let Some(host) = supported(made) else { return fixture.finish() };
    assert!(fixture.free_bytes().abs_diff(before) < NOISE, "it is not the device's memory");
    // Beside memory of the device, in one block.
    let own = fixture.create(1, HandleKind::Device);
    let block = fixture.place(&[(own, 1), (host, pages)]);
    fixture.stamp(fixture.first, block, 5, 0);
    fixture.check(fixture.first, block, 5);
    fixture.after(fixture.second, fixture.first);
    fixture.check(fixture.second, block, 5);
    assert_eq!(fixture.wrong_words(), 0);
    fixture.clear(block);
    fixture.release(own);
    fixture.release(host);
    fixture.finish();
}

/// The file descriptor of a share, closed when dropped.
fn own(share: ShareId) -> OwnedFd {
    let descriptor = i32::try_from(share.0).expect("a file descriptor");
    // SAFETY: the descriptor is new, and the contract gives it to the caller.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

#[test]
fn exported_memory_is_the_same_memory() {
    let Some(driver) = driver() else { return };
    let Some(fixture) = Fixture::new(&driver) else { return };
    let bytes = 3 * fixture.page;
    let made = driver.handle_create(DEVICE, bytes, HandleKind::Exportable);
    let Some(made) = supported(made) else { return fixture.finish() };
    let share = driver.handle_export(DEVICE, made).expect("it is exportable");
    let again = driver.handle_export(DEVICE, made).expect("it is exportable");
    assert_ne!(share, again, "every export is a file descriptor of its own");
    let (descriptor, unused) = (own(share), own(again));
    drop(unused);
    for other in [fixture.page, 2 * bytes] {
        let refused = driver.handle_import(DEVICE, share, other);
        assert_eq!(refused.expect_err("other bytes").kind, DriverErrorKind::InvalidValue);
    }
    let taken = driver.handle_import(DEVICE, share, bytes).expect("it was exported");
    drop(descriptor);

    assert_ne!(made, taken);
    let (here, there) = (fixture.place(&[(made, 3)]), fixture.place(&[(taken, 3)]));
    fixture.stamp(fixture.first, here, 11, SPIN);
    fixture.check(fixture.first, there, 11);
    fixture.stamp(fixture.first, there, 12, 0);
    fixture.check(fixture.first, here, 12);
    assert_eq!(fixture.wrong_words(), 0);
    // The memory lives as long as one of the two handles.
    fixture.clear(here);
    fixture.release(made);
    fixture.check(fixture.first, there, 12);
    assert_eq!(fixture.wrong_words(), 0);
    fixture.clear(there);
    fixture.release(taken);
    fixture.finish();
}
