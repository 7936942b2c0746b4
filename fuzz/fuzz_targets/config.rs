//! Any string as a configuration: no panic, and what is accepted survives being written and read.
#![no_main]

use drystone_core::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => {
            let written = config.to_string();
            assert_eq!(Config::parse(&written), Ok(config), "{text:?} was written as {written:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
