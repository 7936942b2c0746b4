//! Wrong calls: the exact error, a message that names what was given, and nothing changed.

use drystone_core::{
    AllocError, Config, DeviceId, InvalidDevice, MAX_ALIGN, MAX_REQUEST, PointerError, PoolError,
    PoolId, Purpose, Request, StreamId, Watermark,
};

use crate::common::over_both;
use crate::{A, B, C, D0, D1, KIB, MIB, World};

/// A block between two others, one freed block behind it, a world to ask.
fn neighbours(backing: &str) -> (World, [u64; 4]) {
    let mut world = World::plain(64 * MIB, backing);
    let at = [0; 4].map(|_| world.allocate(D0, A, 4 * KIB).unwrap());
    world.free(at[3]);
    (world, at)
}

fn unchanged(world: &mut World, wrong: impl FnOnce(&World)) {
    let before = (world.allocator.snapshot(), world.allocator.stats(D0).unwrap());
    let calls = world.tap.calls().len();
    wrong(world);
    assert_eq!(before, (world.allocator.snapshot(), world.allocator.stats(D0).unwrap()));
    assert_eq!(calls, world.tap.calls().len());
    world.check();
}

#[test]
fn bad_pointers_are_told_apart() {
    over_both(|backing| {
        let (mut world, [_, at, _, freed]) = neighbours(backing);
        // Behind a segment is nothing; behind the memory of an arena there may have been some.
        let behind = at + 2 * MIB;
        let beside_memory = match backing {
            "backing:vmm" => PointerError::DoubleFree { pointer: behind },
            _ => PointerError::Foreign { pointer: behind },
        };
        let cases = [
            (freed, PointerError::DoubleFree { pointer: freed }),
            (freed + 512, PointerError::DoubleFree { pointer: freed + 512 }),
            (at + 1, PointerError::Interior { pointer: at + 1, block: at }),
            (at + 512, PointerError::Interior { pointer: at + 512, block: at }),
            (at + 4 * KIB - 1, PointerError::Interior { pointer: at + 4 * KIB - 1, block: at }),
            (1, PointerError::Foreign { pointer: 1 }),
            (511, PointerError::Foreign { pointer: 511 }),
            (behind, beside_memory),
            (u64::MAX, PointerError::Foreign { pointer: u64::MAX }),
            (1 << 48, PointerError::Foreign { pointer: 1 << 48 }),
        ];
        for (pointer, expected) in cases {
            unchanged(&mut world, |world| {
                let allocator = &world.allocator;
                assert_eq!(allocator.free(pointer), Err(expected));
                assert_eq!(allocator.free_on(pointer, D0, A), Err(expected));
                assert_eq!(allocator.record_stream(pointer, B), Err(expected));
                assert_eq!(allocator.block_info(pointer), Err(expected));
                assert!(expected.to_string().contains(&format!("{pointer:#x}")), "{expected}");
            });
        }
        world.finish();
    });
}

#[test]
fn an_interior_pointer_of_a_pending_block_is_a_double_free() {
    over_both(|backing| {
        let mut world = World::plain(64 * MIB, backing);
        let at = world.allocate(D0, A, 4 * KIB).unwrap();
        world.touch_on(at, B);
        world.free(at);
        for pointer in [at, at + 512] {
            assert_eq!(world.allocator.free(pointer), Err(PointerError::DoubleFree { pointer }));
        }
        world.finish();
    });
}

#[test]
fn pointers_beside_a_segment_on_its_page_are_foreign() {
    // Scattered segments share pages with nobody or with each other.
    let sim = drystone_sim::SimConfig::default().scatter(11);
    let mut world = World::new(sim, Config::parse("backing:malloc").unwrap());
    for size in [512, 3 * MIB, 5 * MIB + 512] {
        world.allocate(D0, A, size).unwrap();
    }
    let segments = world.allocator.snapshot();
    let inside =
        |pointer: u64| segments.iter().any(|s| (s.address..s.address + s.size).contains(&pointer));
    for segment in &segments {
        for pointer in [segment.address - 512, segment.address + segment.size] {
            if !inside(pointer) {
                let foreign = Err(PointerError::Foreign { pointer });
                assert_eq!(world.allocator.free(pointer), foreign);
            }
        }
    }
    world.finish();
}

#[test]
fn a_block_of_another_device_or_stream_is_not_freed() {
    over_both(|backing| {
        let sim = drystone_sim::SimConfig::default().devices(2);
        let mut world = World::new(sim, Config::parse(backing).unwrap());
        let at = world.allocate(D1, A, KIB).unwrap();
        let wrong_device = PointerError::WrongDevice { pointer: at, actual: D1, given: D0 };
        let wrong_stream = PointerError::WrongStream { pointer: at, actual: A, given: B };
        unchanged(&mut world, |world| {
            assert_eq!(world.allocator.free_on(at, D0, A), Err(wrong_device));
            assert_eq!(world.allocator.free_on(at, D0, B), Err(wrong_device));
            assert_eq!(world.allocator.free_on(at, D1, B), Err(wrong_stream));
        });
        for error in [wrong_device, wrong_stream] {
            assert!(error.to_string().contains(&format!("{at:#x}")), "{error}");
        }
        world.finish();
    });
}

#[test]
fn null_and_nothing_mean_nothing() {
    over_both(|backing| {
        let (mut world, _) = neighbours(backing);
        unchanged(&mut world, |world| {
            assert_eq!(world.allocator.allocate(0, D0, C), Ok(0));
            assert_eq!(world.allocator.free(0), Ok(()));
            assert_eq!(world.allocator.free_on(0, D0, A), Ok(()));
            assert_eq!(world.allocator.record_stream(0, A), Ok(()));
            assert_eq!(world.allocator.block_info(0), Err(PointerError::Foreign { pointer: 0 }));
        });
        world.finish();
    });
}

#[test]
fn impossible_requests_are_refused_before_memory_is_asked_for() {
    over_both(|backing| {
        let (mut world, _) = neighbours(backing);
        unchanged(&mut world, |world| {
            let ask = |size, align| {
                world.allocator.allocate_request(Request { size, align, device: D0, stream: A })
            };
            for align in [0, 3, 513, MAX_ALIGN * 2, u64::MAX] {
                let refused = AllocError::BadAlignment { align };
                assert!(refused.to_string().contains(&align.to_string()), "{refused}");
                assert_eq!(ask(512, align), Err(refused));
                assert_eq!(ask(0, align), Err(AllocError::BadAlignment { align }));
            }
            assert_eq!(ask(0, MAX_ALIGN), Ok(0));
        });
        let calls = || world.allocator.driver_stats().calls.iter().sum::<u64>();
        let before = calls();
        for size in [MAX_REQUEST + 1, u64::MAX] {
            let refused = world.allocator.allocate(size, D0, A);
            assert_eq!(refused, Err(AllocError::TooLarge { size }));
        }
        assert_eq!(world.allocator.stats(D0).unwrap().num_ooms, 2);
        // Each asked for the figures of the device only.
        assert_eq!(calls(), before + 2);
        // The largest that may be asked for is merely too much for this device.
        let result = world.allocate_aligned(D0, A, MAX_REQUEST, MAX_ALIGN);
        assert!(matches!(result, Err(AllocError::OutOfMemory(_))), "{result:?}");
        world.finish();
    });
}

#[test]
fn devices_that_do_not_exist() {
    over_both(|backing| {
        let (mut world, _) = neighbours(backing);
        let device = DeviceId(1);
        let invalid = InvalidDevice { device, count: 1 };
        assert!(invalid.to_string().contains("device 1"), "{invalid}");
        unchanged(&mut world, |world| {
            let allocator = &world.allocator;
            assert_eq!(allocator.allocate(1, device, A), Err(AllocError::Device(invalid)));
            assert_eq!(allocator.allocate(0, device, A), Err(AllocError::Device(invalid)));
            assert_eq!(allocator.stats(device), Err(invalid));
            assert_eq!(allocator.limit(device), Err(invalid));
            assert_eq!(allocator.set_limit(device, None), Err(invalid));
            assert_eq!(allocator.set_memory_fraction(device, 0.5), Err(invalid));
            assert_eq!(allocator.reserved_bytes(device), Err(invalid));
            assert_eq!(allocator.reset_peak_stats(device), Err(invalid));
            assert_eq!(allocator.reset_accumulated_stats(device), Err(invalid));
            assert_eq!(allocator.on_pressure(device, Watermark::Bytes(1), |_| {}), Err(invalid));
            let invalid = Err(PoolError::Device(invalid));
            let pool = PoolId(1, 1);
            assert_eq!(allocator.empty_cache(device).map(drop), invalid);
            assert_eq!(allocator.empty_pool_cache(device, pool).map(drop), invalid);
            assert_eq!(allocator.begin_pool(device, pool, Purpose::User, |_| true), invalid);
            assert_eq!(allocator.end_pool(device, pool), invalid);
            assert_eq!(allocator.retain_pool(device, pool), invalid);
            assert_eq!(allocator.release_pool(device, pool), invalid);
            assert_eq!(allocator.pool_stats(device, pool).map(drop), invalid);
            assert_eq!(allocator.pool_use_count(device, pool), None);
        });
        world.finish();
    });
}

#[test]
fn pools_misused() {
    over_both(|backing| {
        let (mut world, _) = neighbours(backing);
        let pool = PoolId(3, 4);
        let unknown = Err(PoolError::Unknown { device: D0, pool });
        unchanged(&mut world, |world| {
            let allocator = &world.allocator;
            let begin = |pool| allocator.begin_pool(D0, pool, Purpose::User, |_| true);
            assert_eq!(begin(PoolId::DEFAULT), Err(PoolError::Default));
            assert_eq!(allocator.end_pool(D0, PoolId::DEFAULT), Err(PoolError::Default));
            assert_eq!(allocator.retain_pool(D0, PoolId::DEFAULT), Err(PoolError::Default));
            assert_eq!(allocator.release_pool(D0, PoolId::DEFAULT), Err(PoolError::Default));
            assert_eq!(allocator.release_pool(D0, pool), unknown);
            assert_eq!(allocator.empty_pool_cache(D0, pool).map(drop), unknown);
            assert_eq!(allocator.pool_stats(D0, pool).map(drop), unknown);
            let not_begun = PoolError::NotBegun { device: D0, pool };
            assert!(not_begun.to_string().contains("pool (3, 4)"), "{not_begun}");
            assert_eq!(allocator.end_pool(D0, pool), Err(not_begun));
        });
        let allocator = &world.allocator;
        allocator.begin_pool(D0, pool, Purpose::User, |_| false).unwrap();
        let again = allocator.begin_pool(D0, pool, Purpose::Capture, |_| true);
        assert_eq!(again, Err(PoolError::AlreadyBegun { device: D0, pool }));
        assert_eq!(allocator.pool_use_count(D0, pool), Some(1));
        // The refused capture has left nothing behind: the pool is not one of a graph.
        assert_eq!(allocator.empty_pool_cache(D0, pool), Ok(0));
        allocator.end_pool(D0, pool).unwrap();
        allocator.end_pool(D0, pool).unwrap_err();
        allocator.release_pool(D0, pool).unwrap();
        assert_eq!(allocator.release_pool(D0, pool), unknown);
        assert_eq!(allocator.pool_use_count(D0, pool), None);
        world.finish();
    });
}

#[test]
fn callbacks_are_forgotten_once() {
    over_both(|backing| {
        let (world, _) = neighbours(backing);
        let oom = world.allocator.on_out_of_memory(|_| false);
        let pressure = world.allocator.on_pressure(D0, Watermark::Fraction(0.5), |_| {}).unwrap();
        assert_ne!(oom, pressure);
        for id in [oom, pressure] {
            assert!(world.allocator.remove_callback(id));
            assert!(!world.allocator.remove_callback(id));
        }
        world.finish();
    });
}

#[test]
fn too_many_streams_is_an_error() {
    over_both(|backing| {
        let world = World::plain(1 << 30, backing);
        let mut count = 0u64;
        let error = loop {
            // Each stream has a heap of its own; their requests need no memory to be refused.
            world.allocator.set_limit(D0, Some(0)).unwrap();
            match world.allocator.allocate(1, D0, StreamId(0x1000 + count)) {
                Err(AllocError::OutOfMemory(_)) => count += 1,
                other => break other.unwrap_err(),
            }
            if count > 1100 {
                // Far enough to be past the slots of the stream table.
                world.finish();
                return;
            }
        };
        panic!("{error}");
    });
}
