//! The driver's own pools; skipped without a device.

mod common;

use common::{DEVICE, driver};
use drystone_core::driver::{MemPoolId, StreamOrdered};
use drystone_core::{Driver, DriverErrorKind, StreamId};

const MIB: u64 = 1 << 20;

#[test]
fn a_pool_grows_and_is_given_back() {
    let Some(driver) = driver() else { return };
    let own = driver.stream_ordered().expect("CUDA has pools");
    let stream = driver.create_stream(DEVICE).expect("stream");
    let pool = own.pool_create(DEVICE, u64::MAX, u64::MAX).expect("pool");
    assert_eq!(own.pool_reserved(DEVICE, pool), Ok(0));
    let blocks: Vec<u64> = [StreamId(0), stream, stream]
        .map(|stream| own.pool_alloc(DEVICE, pool, 40 * MIB, stream).expect("memory"))
        .to_vec();
    assert!(own.pool_reserved(DEVICE, pool).expect("it is alive") >= 120 * MIB);
    let early = own.pool_destroy(DEVICE, pool).expect_err("blocks are live");
    assert_eq!(early.kind, DriverErrorKind::InvalidValue);
    for (&block, stream) in blocks.iter().zip([StreamId(0), stream, stream]) {
        own.pool_free(DEVICE, pool, block, stream).expect("it is live");
    }
    let again = own.pool_free(DEVICE, pool, blocks[0], stream).expect_err("it was freed");
    assert_eq!(again.kind, DriverErrorKind::InvalidValue);
    driver.device_synchronize(DEVICE).expect("nothing runs");
    assert!(own.pool_reserved(DEVICE, pool).expect("it is alive") >= 40 * MIB, "it keeps all");
    own.pool_destroy(DEVICE, pool).expect("it is empty");
    assert!(own.pool_reserved(DEVICE, pool).is_err());
    driver.destroy_stream(DEVICE, stream).expect("it is live");
}

#[test]
fn a_limit_is_kept() {
    let Some(driver) = driver() else { return };
    let pool = driver.pool_create(DEVICE, 64 * MIB, 0).expect("pool");
    let refused = driver.pool_alloc(DEVICE, pool, 256 * MIB, StreamId(0)).expect_err("too large");
    assert_eq!(refused.kind, DriverErrorKind::OutOfMemory);
    driver.pool_destroy(DEVICE, pool).expect("it is empty");
}

#[test]
fn unknown_pools_and_streams_are_refused() {
    let Some(driver) = driver() else { return };
    let unknown = driver.pool_alloc(DEVICE, MemPoolId(12_345), MIB, StreamId(0));
    assert_eq!(unknown.expect_err("no pool").kind, DriverErrorKind::InvalidValue);
    let pool = driver.pool_create(DEVICE, u64::MAX, 0).expect("pool");
    let unknown = driver.pool_alloc(DEVICE, pool, MIB, StreamId(12_345));
    assert_eq!(unknown.expect_err("no stream").kind, DriverErrorKind::InvalidValue);
    driver.pool_destroy(DEVICE, pool).expect("it is empty");
}
