//! The pool of the request that failed, which no recording says.

use super::super::baseline::Baseline;
use super::super::view::View;
use super::{MIB, Script, failed};

/// The pool that a request has which fails with 30 MiB cached in pool 1, and 10 MiB left.
fn pool_of_failed(bytes: u64) -> u32 {
    let mut script = Script::default();
    let block = script.alloc(30 * MIB);
    script.free(block);
    script.fail(bytes);
    let mut run = script.run();
    run.trace.block_pools = vec![1];
    failed(&mut run, 10 * MIB, 30 * MIB);
    let mut view = View::of(&run, 0, Some(40 * MIB));
    let event = view.failure.unwrap().event;
    let block = view.trace.events[event].id;
    assert_eq!(view.trace.pool_of(block), 1, "as the request before it");
    let baseline = Baseline::of(&mut view, &mut |_| {}).unwrap();
    assert!(baseline.fails());
    view.trace.pool_of(block)
}

#[test]
fn a_request_that_its_neighbours_pool_would_have_met_was_of_a_new_one() {
    assert_eq!(pool_of_failed(8 * MIB), 2);
}

#[test]
fn a_request_that_its_neighbours_pool_cannot_meet_is_taken_to_be_of_it() {
    assert_eq!(pool_of_failed(32 * MIB), 1);
}
