//! Buffers on a real device, through cudarc; skipped where there is none.

mod common;

use std::fmt::Debug;
use std::sync::Arc;

use common::{copy_late, pool, settings};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg};
use drystone::{AllocError, Error, Metric, Pool};

/// Clock cycles that take 10 to 30 ms, at 1 to 3 GHz.
const LONG: u64 = 30_000_000;
/// Words of the buffers that kernels work on: 4 MiB.
const WORDS: usize = 1 << 19;

/// Bytes in blocks that are in use.
fn active_bytes(pool: &Pool) -> u64 {
    let stats = pool.stats().expect("the device is there");
    stats.memory.all(Metric::ActiveBytes).current
}

/// Fails with the first difference: whole buffers would be pages of numbers.
#[track_caller]
fn assert_same<T: PartialEq + Debug>(found: &[T], wanted: &[T]) {
    assert_eq!(found.len(), wanted.len());
    if let Some(at) = (0..found.len()).find(|&at| found[at] != wanted[at]) {
        panic!("element {at} is {:?}, not {:?}", found[at], wanted[at]);
    }
}

#[test]
fn copies_and_fills_take_a_buffer() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().default_stream();
    let source: Vec<u32> = (0..100_000).collect();
    let mut buffer = pool.clone_htod(&stream, &source).expect("memory");
    assert_eq!((buffer.len(), buffer.num_bytes()), (100_000, 400_000));
    assert_same(&stream.clone_dtoh(&buffer).expect("copy"), &source);

    let copy = buffer.try_clone().expect("memory");
    assert_ne!(copy.address(), buffer.address());
    stream.memset_zeros(&mut buffer).expect("fill");
    assert_same(&stream.clone_dtoh(&buffer).expect("copy"), &vec![0; 100_000]);
    assert_same(&stream.clone_dtoh(&copy).expect("copy"), &source);

    stream.memcpy_htod(&[7, 8, 9], &mut buffer).expect("copy");
    let mut host = [1; 100_000];
    stream.memcpy_dtoh(&buffer, &mut host).expect("copy");
    stream.synchronize().expect("wait");
    assert_eq!(host[..4], [7, 8, 9, 0]);

    // Beside cudarc's own memory.
    let mut own: CudaSlice<u32> = stream.alloc_zeros(100_000).expect("memory");
    stream.memcpy_dtod(&copy, &mut own).expect("copy");
    assert_same(&stream.clone_dtoh(&own).expect("copy"), &source);
}

#[test]
fn views_are_parts_of_a_buffer() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().default_stream();
    let mut buffer = pool.clone_htod(&stream, &[0_u8, 1, 2, 3, 4, 5, 6, 7]).expect("memory");
    assert_eq!(stream.clone_dtoh(&buffer.slice(2..5)).expect("copy"), [2, 3, 4]);
    stream.memset_zeros(&mut buffer.slice_mut(..3)).expect("fill");
    {
        let (mut left, right) = buffer.try_split_at_mut(4).expect("within");
        stream.memcpy_dtod(&right, &mut left).expect("copy");
    }
    assert_eq!(stream.clone_dtoh(&buffer.as_view()).expect("copy"), [4, 5, 6, 7, 4, 5, 6, 7]);
    assert!(buffer.try_slice(3..9).is_none() && buffer.try_slice_mut(9..).is_none());
    assert!(buffer.try_split_at(9).is_none());
    assert_eq!(buffer.slice(8..).len(), 0);
}

#[test]
fn kernels_take_buffers_and_views() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().new_stream().expect("stream");
    let kernel = copy_late(&pool);
    let source: Vec<u64> = (0..WORDS as u64).collect();
    let source_buffer = pool.clone_htod(&stream, &source).expect("memory");
    let mut target = pool.alloc_zeros::<u64>(&stream, WORDS).expect("memory");
    let (words, spin) = (10_u64, 0_u64);
    let mut launch = stream.launch_builder(&kernel);
    let part = source_buffer.slice(100..);
    launch.arg(&words).arg(&spin).arg(&part).arg(&mut target);
    // SAFETY: the arguments are the kernel's, and both have `words` words.
    unsafe { launch.launch(LaunchConfig::for_num_elems(32)) }.expect("launch");
    let target = stream.clone_dtoh(&target).expect("copy");
    assert_eq!(target[..10], source[100..110]);
    assert_eq!(target[10..20], [0; 10]);
}

/// Submits a copy that starts late to `on`, of memory that is dropped at once and used again by
/// `stream`: the copy must be of what was there before.
fn dropped_under_a_running_kernel(pool: &Pool, tracked: bool) {
    let (stream, on) = (pool.context().new_stream(), pool.context().new_stream());
    let (stream, on) = (stream.expect("stream"), on.expect("stream"));
    let kernel = copy_late(pool);
    let source = pool.clone_htod(&stream, &vec![1_u64; WORDS]).expect("memory");
    let mut target = pool.alloc_zeros::<u64>(&on, WORDS).expect("memory");
    stream.synchronize().expect("wait");
    let (words, spin, address) = (WORDS as u64, LONG, source.address());
    let mut launch = on.launch_builder(&kernel);
    launch.arg(&words).arg(&spin).arg(&source).arg(&mut target);
    // SAFETY: the arguments are the kernel's, and both have `words` words.
    unsafe { launch.launch(LaunchConfig::for_num_elems(WORDS as u32)) }.expect("launch");
    if !tracked {
        source.record_stream(&on).expect("a stream of the pool's context");
    }
    drop(source);
    let next = pool.clone_htod(&stream, &vec![2_u64; WORDS]).expect("memory");
    if tracked {
        assert_eq!(next.address(), address, "the stream's own memory, which waits on the device");
    } else {
        assert_ne!(next.address(), address, "the recorded stream has not passed the drop");
    }
    assert_same(&on.clone_dtoh(&target).expect("copy"), &vec![1; WORDS]);
    assert_same(&stream.clone_dtoh(&next).expect("copy"), &vec![2; WORDS]);
}

#[test]
fn a_drop_comes_after_uses_that_cudarc_tracks() {
    let Some(pool) = pool() else { return };
    dropped_under_a_running_kernel(&pool, true);
}

#[test]
fn a_drop_comes_after_recorded_uses() {
    let Some(pool) = pool() else { return };
    let context = CudaContext::new(0).expect("context");
    // SAFETY: the only uses on other streams than a buffer's own are recorded or waited for.
    unsafe { context.disable_event_tracking() };
    drop(pool);
    dropped_under_a_running_kernel(&Pool::new(&context).expect("pool"), false);
}

#[test]
fn first_use_on_another_stream_waits_for_the_memory() {
    let Some(pool) = pool() else { return };
    let (stream, other) = (pool.context().new_stream(), pool.context().new_stream());
    let (stream, other) = (stream.expect("stream"), other.expect("stream"));
    let kernel = copy_late(&pool);
    let source = pool.clone_htod(&stream, &vec![3_u64; WORDS]).expect("memory");
    let mut late = pool.alloc_zeros::<u64>(&stream, WORDS).expect("memory");
    let (words, spin, address) = (WORDS as u64, LONG, late.address());
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&words).arg(&spin).arg(&source).arg(&mut late);
    // SAFETY: the arguments are the kernel's, and both have `words` words.
    unsafe { launch.launch(LaunchConfig::for_num_elems(WORDS as u32)) }.expect("launch");
    drop(late);
    // The kernel still writes to this memory when the other stream is told to.
    // SAFETY: all of it is written before it is read.
    let mut again = unsafe { pool.alloc::<u64>(&stream, WORDS) }.expect("memory");
    assert_eq!(again.address(), address);
    other.memcpy_htod(&vec![4_u64; WORDS], &mut again).expect("copy");
    stream.synchronize().expect("wait");
    assert_same(&other.clone_dtoh(&again).expect("copy"), &vec![4; WORDS]);
}

#[test]
fn empty_aligned_and_odd_buffers() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().default_stream();
    let mut empty = pool.alloc_zeros::<f64>(&stream, 0).expect("no memory is needed");
    assert!(empty.is_empty() && empty.address() != 0);
    stream.memset_zeros(&mut empty).expect("nothing to fill");
    assert_eq!(stream.clone_dtoh(&empty).expect("nothing to copy"), Vec::<f64>::new());
    assert!(empty.try_clone().expect("nothing to copy").is_empty());

    for align in [1, 512, 4096, 1 << 21] {
        // SAFETY: it is not read.
        let buffer = unsafe { pool.alloc_aligned::<u8>(&stream, 3, align) }.expect("memory");
        assert_eq!(buffer.address() % align.max(512), 0);
    }
    // SAFETY: there is nothing to read.
    let refused = unsafe { pool.alloc_aligned::<u8>(&stream, 3, 24) };
    assert!(matches!(refused, Err(Error::Alloc(AllocError::BadAlignment { align: 24 }))));
    // SAFETY: there is nothing to read.
    let refused = unsafe { pool.alloc::<u64>(&stream, usize::MAX / 2) };
    assert!(matches!(refused, Err(Error::Alloc(AllocError::TooLarge { .. }))));
}

#[test]
fn out_of_memory_is_an_error_and_work_goes_on() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().default_stream();
    pool.set_limit(Some(64 << 20)).expect("the device is there");
    let half = pool.alloc_zeros::<u8>(&stream, 40 << 20).expect("it is below the limit");
    for _ in 0..100 {
        let error = pool.alloc_zeros::<u8>(&stream, 40 << 20).expect_err("it is above the limit");
        assert!(error.is_out_of_memory(), "{error}");
    }
    drop(half);
    pool.alloc_zeros::<u8>(&stream, 40 << 20).expect("it was freed");
    assert!(pool.reserved_bytes().expect("the device is there") <= 64 << 20);
    assert!(pool.empty_cache().expect("it is idle") >= 40 << 20);
    assert_eq!(pool.reserved_bytes(), Ok(0));
}

#[test]
fn streams_come_and_go() {
    let Some(pool) = pool() else { return };
    for round in 0..100_u64 {
        let stream = pool.context().new_stream().expect("stream");
        let buffer = pool.clone_htod(&stream, &vec![round; 1000]).expect("memory");
        assert_same(&stream.clone_dtoh(&buffer).expect("copy"), &vec![round; 1000]);
    }
    pool.end_dropped_streams().expect("they are idle");
    assert_eq!(active_bytes(&pool), 0);
    assert!(pool.reserved_bytes().expect("the device is there") < (200 << 20), "it is reused");
}

#[test]
fn streams_of_a_framework() {
    let Some(pool) = pool() else { return };
    // As PyTorch's: made by somebody else, known by its handle.
    let owner = pool.context().new_stream().expect("stream");
    // SAFETY: the owner outlives the wrapper and the pool's use of it.
    let stream = unsafe { pool.context().wrap_borrowed_stream(owner.cu_stream()) };
    let buffer = pool.clone_htod(&stream, &[5_u8; 100]).expect("memory");
    assert!(matches!(pool.end_stream(&stream), Err(Error::StreamInUse { users: 1 })));
    assert_eq!(stream.clone_dtoh(&buffer).expect("copy"), [5; 100]);
    drop(buffer);
    pool.end_stream(&stream).expect("nothing uses it");
    pool.end_stream(&stream).expect("the pool does not know it");

    let per_thread = pool.context().per_thread_stream();
    let refused = pool.alloc_zeros::<u8>(&per_thread, 1);
    assert!(matches!(refused, Err(Error::PerThreadStream)));
}

#[test]
fn contexts_of_others_are_refused() {
    let Some(pool) = pool() else { return };
    let own = CudaContext::new_non_primary(0, 0).expect("context");
    assert!(matches!(Pool::new(&own), Err(Error::NotPrimary { ordinal: 0 })));
    let refused = pool.alloc_zeros::<u8>(&own.default_stream(), 1);
    assert!(matches!(refused, Err(Error::WrongContext { stream: 0, pool: 0 })));
}

#[test]
fn a_graph_keeps_its_memory() {
    let Some(pool) = pool() else { return };
    drop(pool);
    let context = CudaContext::new(0).expect("context");
    // SAFETY: everything below is on one stream.
    unsafe { context.disable_event_tracking() };
    let pool = Pool::with_config(&context, settings()).expect("pool");
    let stream = context.new_stream().expect("stream");
    let kernel = copy_late(&pool);
    let source = pool.clone_htod(&stream, &vec![6_u64; WORDS]).expect("memory");
    let mut target = pool.alloc_zeros::<u64>(&stream, WORDS).expect("memory");
    let (words, spin) = (WORDS as u64, 0_u64);
    let shape = LaunchConfig::for_num_elems(WORDS as u32);

    let mut memory = pool.graph_memory(&[Arc::clone(&stream)]).expect("memory of a graph");
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("begin");
    // SAFETY: the graph writes it before it reads it.
    let between = unsafe { pool.alloc::<u64>(&stream, WORDS) }.expect("memory in a capture");
    let between_address = between.address();
    for (from, to) in [(source.address(), between.address()), (between.address(), target.address())]
    {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&words).arg(&spin).arg(&from).arg(&to);
        // SAFETY: the arguments are the kernel's, and both have `words` words.
        unsafe { launch.launch(shape) }.expect("launch");
    }
    drop(between);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("end").expect("a graph");
    memory.end().expect("it was begun");

    // Others get none of the graph's memory, though nothing is live there.
    let others: Vec<_> =
        (0..8).map(|_| pool.clone_htod(&stream, &vec![8_u64; WORDS]).expect("memory")).collect();
    pool.empty_cache().expect("no capture is underway");
    for _ in 0..3 {
        stream.memset_zeros(&mut target).expect("fill");
        graph.launch().expect("launch");
        assert_same(&stream.clone_dtoh(&target).expect("copy"), &vec![6; WORDS]);
    }
    for other in &others {
        assert_ne!(other.address(), between_address);
        assert_same(&stream.clone_dtoh(other).expect("copy"), &vec![8; WORDS]);
    }
    drop((graph, memory));
    drop(others);
    drop((source, target));
    pool.empty_cache().expect("no capture is underway");
    assert_eq!(pool.reserved_bytes(), Ok(0));
}

#[test]
fn threads_share_a_pool() {
    let Some(pool) = pool() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let pool = pool.clone();
            scope.spawn(move || {
                let stream = pool.context().new_stream().expect("stream");
                for round in 0..200_u32 {
                    let value = (thread << 16) | round;
                    let len = 1 + (round as usize * 7919) % 300_000;
                    let buffer = pool.clone_htod(&stream, &vec![value; len]).expect("memory");
                    let copy = buffer.try_clone().expect("memory");
                    drop(buffer);
                    assert_same(&stream.clone_dtoh(&copy).expect("copy"), &vec![value; len]);
                }
            });
        }
    });
    // The streams are gone; what they cached is not.
    assert_eq!(active_bytes(&pool), 0);
}

#[test]
fn an_address_is_the_same_to_cudarc() {
    let Some(pool) = pool() else { return };
    let stream = pool.context().default_stream();
    let buffer = pool.alloc_zeros::<i64>(&stream, 10).expect("memory");
    let (address, _synced) = buffer.device_ptr(&stream);
    assert_eq!(address, buffer.address());
    assert_eq!(buffer.as_cuda_slice().len(), 10);
    assert!(Arc::ptr_eq(&buffer.pool().context().clone(), pool.context()));
}
