//! The conformance suite that the simulated device passes, on a real device; skipped where there
//! is none.

mod common;

use common::{DEVICE, driver};
use drystone_core::StreamId;

#[test]
fn the_driver_keeps_the_contract() {
    let Some(driver) = driver() else { return };
    let made: Vec<StreamId> =
        (0..3).map(|_| driver.create_stream(DEVICE).expect("stream")).collect();
    let checked = drystone_sim::contract::check(&driver, DEVICE, &made);
    assert_eq!(checked, Ok(()));
    for stream in made {
        driver.destroy_stream(DEVICE, stream).expect("it is live");
    }
}
