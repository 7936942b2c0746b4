//! Any bytes as a program over two small simulated devices, held against a shadow of what must be
//! live: six bytes an operation, the first byte of all chooses the configuration.
#![no_main]

#[path = "../../crates/drystone-core/tests/common/mod.rs"]
mod common;

use common::MIB;
use common::ops::decode;
use common::world::World;
use drystone_core::Config;
use drystone_sim::{Costs, SimConfig};
use libfuzzer_sys::fuzz_target;

/// Operations a program has at most, so that one run takes milliseconds.
const MOST: usize = 200;

const CONFIGS: [&str; 6] = [
    "",
    "max_split_size_mb:20",
    "garbage_collection_threshold:0.5,limit:20MiB",
    "cross_stream:off,roundup_power2_divisions:4",
    "cross_stream:passed,min_split_remainder:1MiB",
    "slack:0,history:20",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, program)) = bytes.split_first() else { return };
    let config = Config::parse(CONFIGS[usize::from(first) % CONFIGS.len()]).unwrap();
    let sim = SimConfig::default().capacity(24 * MIB).devices(2).costs(Costs::zero());
    let scatter = (first >= 128).then_some(u64::from(first));
    let mut world = World::new(SimConfig { scatter, ..sim }, config);
    for (n, word) in program.as_chunks::<6>().0.iter().take(MOST).enumerate() {
        world.run(decode(*word));
        if n % 16 == 0 {
            world.check();
        }
    }
    world.finish();
});
