//! Parts of a torch snapshot, as Python values.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use super::encode::{Val, dict};

/// An entry of a ring.
pub(crate) fn entry(action: &str, addr: i64, size: i64, stream: i64, time_us: i64) -> Val {
    dict([
        ("action", action.into()),
        (if action == "oom" { "device_free" } else { "addr" }, addr.into()),
        ("size", size.into()),
        ("stream", stream.into()),
        ("time_us", time_us.into()),
        ("compile_context", "N/A".into()),
    ])
}

pub(crate) fn block(address: i64, size: i64, requested: i64, state: &str) -> Val {
    dict([
        ("address", address.into()),
        ("size", size.into()),
        ("requested_size", requested.into()),
        ("state", state.into()),
    ])
}

pub(crate) fn segment(device: i64, address: i64, stream: i64, blocks: Vec<Val>) -> Val {
    dict([
        ("device", device.into()),
        ("address", address.into()),
        ("total_size", 4096.into()),
        ("stream", stream.into()),
        ("blocks", Val::List(blocks)),
    ])
}

/// A snapshot.
pub(crate) fn whole(segments: Vec<Val>, rings: Vec<Vec<Val>>) -> Val {
    let rings = rings.into_iter().map(Val::List).collect();
    dict([("segments", Val::List(segments)), ("device_traces", Val::List(rings))])
}
