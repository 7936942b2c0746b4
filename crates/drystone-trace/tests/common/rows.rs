//! Traces by chance, as CSV.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::fmt::Write;

use proptest::prelude::*;

/// A CSV with all columns. Much of what it says makes no sense, and is repaired by the reader.
pub(crate) fn rows() -> impl Strategy<Value = String> {
    let letters = prop::sample::select(vec!['a', 'a', 'f', 'c', 'S', 'R', 'm', 'u', 'o', 's']);
    let id = prop_oneof![0u64..20, any::<u64>()];
    let stream = prop_oneof![Just(0), 0u64..4, any::<u64>()];
    let pool = prop_oneof![Just(0), Just(0), 0u64..4, any::<u64>()];
    let row = (0u64..100, letters, id, 0u64..=1 << 60, stream, 0u32..3, pool);
    let pools = any::<bool>();
    (prop::collection::vec(row, 0..200), pools).prop_map(|(rows, pools)| {
        let mut text = "t_us,op,id,size,stream,device,pool\n".to_owned();
        for (t, op, id, size, stream, device, pool) in rows {
            let id = if "afc".contains(op) { id.to_string() } else { String::new() };
            let pool = if op == 'a' && pools { pool } else { 0 };
            writeln!(text, "{t},{op},{id},{size},{stream},{device},{pool}").unwrap();
        }
        text
    })
}
