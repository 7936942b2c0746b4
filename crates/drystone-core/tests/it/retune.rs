//! Settings that change while the allocator is in use.

use drystone_core::Config;

use crate::common::over_both;
use crate::{A, D0, MIB, World};

fn settings(text: &str) -> Config {
    Config::parse(text).expect("valid settings")
}

#[test]
fn requests_are_rounded_as_the_last_settings_say() {
    over_both(|backing| {
        let world = World::plain(256 * MIB, backing);
        let bytes = |size| {
            let block = world.allocator.allocate(size, D0, A).unwrap();
            let info = world.allocator.block_info(block).unwrap();
            world.allocator.free(block).unwrap();
            info.size
        };
        let cases = [
            ("roundup_power2_divisions:4", 96 * MIB),
            ("roundup_power2_divisions:[64:8,128:2,>:1]", 88 * MIB),
            // What is left out has its default again.
            ("garbage_collection_threshold:0.5", 84 * MIB),
            ("", 84 * MIB),
        ];
        for (text, expected) in cases {
            world.allocator.retune(&settings(text));
            assert_eq!(bytes(84 * MIB), expected, "{text}");
        }
    });
}

#[test]
fn what_is_in_force_is_told_and_the_rest_stays() {
    let world = World::plain(256 * MIB, "limit:128MiB,history:4");
    world.allocator.retune(&settings("max_split_size_mb:40,limit:1MiB,expandable_segments:True"));
    let text = world.allocator.settings().to_string();
    assert_eq!(text, settings("limit:128MiB,history:4,max_split_size_mb:40").to_string());
    assert_eq!(world.allocator.config().max_split_size, None);
    assert_eq!(world.allocator.stats(D0).unwrap().max_split_size, Some(40 * MIB));
}

#[test]
fn blocks_from_before_a_split_limit_are_not_counted_when_they_go() {
    over_both(|backing| {
        let world = World::plain(256 * MIB, backing);
        let before = world.allocator.allocate(64 * MIB, D0, A).unwrap();
        world.allocator.retune(&settings("max_split_size_mb:40"));
        let after = world.allocator.allocate(64 * MIB, D0, A).unwrap();
        let counted = || world.allocator.stats(D0).unwrap().oversize_allocations.current;
        assert_eq!(counted(), 1);
        world.allocator.free(after).unwrap();
        world.allocator.free(before).unwrap();
        world.allocator.empty_cache(D0).unwrap();
        assert_eq!(counted(), 0);
        assert_eq!(world.allocator.stats(D0).unwrap().oversize_segments.current, 0);
    });
}
