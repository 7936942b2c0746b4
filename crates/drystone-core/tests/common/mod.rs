//! What the tests of the allocator share: a driver that can be tapped, a shadow of what must be
//! live, and a world of both in which random programs run. The fuzz targets use it too.
#![allow(dead_code, reason = "each user takes what it needs")]

pub(crate) mod ops;
pub(crate) mod physical;
pub(crate) mod shadow;
pub(crate) mod sums;
pub(crate) mod tap;
pub(crate) mod world;

use drystone_core::{DeviceId, StreamId};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const D0: DeviceId = DeviceId(0);
pub(crate) const D1: DeviceId = DeviceId(1);
pub(crate) const A: StreamId = StreamId(0xa0);
pub(crate) const B: StreamId = StreamId(0xb0);
pub(crate) const C: StreamId = StreamId(0xc0);
/// The streams of random programs, by number; the first is the default stream.
pub(crate) const STREAMS: [StreamId; 4] = [StreamId(0), A, B, C];

/// What can stand behind blocks, as configurations.
pub(crate) const BACKINGS: [&str; 2] = ["backing:vmm", "backing:malloc"];

/// Runs a test over each backing, by its configuration, to which others can be added.
pub(crate) fn over_both(test: impl Fn(&'static str)) {
    for backing in BACKINGS {
        // Shown if the test fails.
        eprintln!("{backing}");
        test(backing);
    }
}
