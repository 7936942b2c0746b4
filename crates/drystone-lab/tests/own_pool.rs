//! `cuda-async` on a driver with a pool of its own, which here is made up: what is held is what the
//! driver says, and everything is given back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use drystone_core::driver::{MemPoolId, StreamOrdered};
use drystone_core::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};
use drystone_lab::{Metrics, PolicySpec, RealTarget, ReplayError, SimTarget, Target, replay};
use drystone_trace::{Trace, read_trace_bytes};

const PAGE: u64 = 2 << 20;
const POOL: MemPoolId = MemPoolId(77);

/// A pool that takes memory by pages, and keeps it.
#[derive(Default)]
struct Pool {
    limit: u64,
    reserved: u64,
    live: HashMap<u64, (u64, StreamId)>,
    next: u64,
    made: u32,
    gone: u32,
}

/// A device that has pools, memory to tell of, and nothing else.
struct Device(Mutex<Pool>);

fn failed(kind: DriverErrorKind) -> DriverError {
    DriverError { call: DriverCall::SegmentAlloc, kind, code: 0, detail: "made up".to_owned() }
}

fn none<T>() -> Result<T, DriverError> {
    Err(failed(DriverErrorKind::NotSupported))
}

#[rustfmt::skip]
impl Driver for Device {
    fn device_count(&self) -> u32 { 1 }
    fn device_memory(&self, _: DeviceId) -> Result<DeviceMemory, DriverError> {
        Ok(DeviceMemory { free: 1 << 30, total: 1 << 30 })
    }
    fn segment_alloc(&self, _: DeviceId, _: u64) -> Result<u64, DriverError> { none() }
    fn segment_free(&self, _: DeviceId, _: u64) -> Result<(), DriverError> { none() }
    fn page_bytes(&self, _: DeviceId) -> Result<u64, DriverError> { none() }
    fn address_reserve(&self, _: DeviceId, _: u64) -> Result<u64, DriverError> { none() }
    fn address_free(&self, _: DeviceId, _: u64, _: u64) -> Result<(), DriverError> { none() }
    fn handle_create(&self, _: DeviceId, _: u64, _: HandleKind) -> Result<HandleId, DriverError> {
        none()
    }
    fn handle_release(&self, _: DeviceId, _: HandleId) -> Result<(), DriverError> { none() }
    fn handle_export(&self, _: DeviceId, _: HandleId) -> Result<ShareId, DriverError> { none() }
    fn handle_import(&self, _: DeviceId, _: ShareId, _: u64) -> Result<HandleId, DriverError> {
        none()
    }
    fn map(&self, _: DeviceId, _: u64, _: HandleId) -> Result<(), DriverError> { none() }
    fn set_access(&self, _: DeviceId, _: u64, _: u64, _: &[DeviceId]) -> Result<(), DriverError> {
        none()
    }
    fn unmap(&self, _: DeviceId, _: u64, _: u64) -> Result<(), DriverError> { none() }
    fn event_create(&self, _: DeviceId) -> Result<EventId, DriverError> { none() }
    fn event_destroy(&self, _: DeviceId, _: EventId) -> Result<(), DriverError> { none() }
    fn event_record(&self, _: DeviceId, _: EventId, _: StreamId) -> Result<(), DriverError> {
        none()
    }
    fn event_query(&self, _: DeviceId, _: EventId) -> Result<bool, DriverError> { none() }
    fn event_synchronize(&self, _: DeviceId, _: EventId) -> Result<(), DriverError> { none() }
    fn stream_wait_event(&self, _: DeviceId, _: StreamId, _: EventId) -> Result<(), DriverError> {
        none()
    }
    fn device_synchronize(&self, _: DeviceId) -> Result<(), DriverError> { Ok(()) }
    fn stream_ordered(&self) -> Result<&dyn StreamOrdered, DriverError> { Ok(self) }
    fn now_ns(&self) -> u64 { 0 }
}

impl StreamOrdered for Device {
    fn pool_create(&self, _: DeviceId, limit: u64, _: u64) -> Result<MemPoolId, DriverError> {
        let mut pool = self.0.lock().unwrap();
        pool.limit = limit;
        pool.made += 1;
        Ok(POOL)
    }

    fn pool_destroy(&self, _: DeviceId, id: MemPoolId) -> Result<(), DriverError> {
        let mut pool = self.0.lock().unwrap();
        assert!(pool.live.is_empty() && id == POOL);
        pool.gone += 1;
        Ok(())
    }

    fn pool_alloc(
        &self,
        _: DeviceId,
        _: MemPoolId,
        bytes: u64,
        stream: StreamId,
    ) -> Result<u64, DriverError> {
        let mut pool = self.0.lock().unwrap();
        let used: u64 = pool.live.values().map(|block| block.0).sum();
        let reserved = (used + bytes).next_multiple_of(PAGE).max(pool.reserved);
        if reserved > pool.limit {
            return Err(failed(DriverErrorKind::OutOfMemory));
        }
        pool.reserved = reserved;
        pool.next += 1;
        let address = pool.next * PAGE;
        pool.live.insert(address, (bytes, stream));
        Ok(address)
    }

    fn pool_free(
        &self,
        _: DeviceId,
        _: MemPoolId,
        address: u64,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        let block = self.0.lock().unwrap().live.remove(&address);
        assert_eq!(block.map(|block| block.1), Some(stream), "in the order of its own stream");
        Ok(())
    }

    fn pool_reserved(&self, _: DeviceId, _: MemPoolId) -> Result<u64, DriverError> {
        Ok(self.0.lock().unwrap().reserved)
    }
}

fn trace() -> Trace {
    let lines = "t_us,op,id,size,stream\n0,a,0,3145728,0\n1,a,1,100,1\n2,f,0,3145728,0\n\
                 2,c,0,3145728,0\n3,a,2,2097152,1\n4,a,3,0,0\n";
    read_trace_bytes("four", lines.as_bytes(), &Default::default()).unwrap()
}

fn play(capacity: Option<u64>) -> (Metrics, Arc<Device>) {
    let device = Arc::new(Device(Mutex::default()));
    let target = Target::Real(RealTarget {
        name: "made up".to_owned(),
        driver: Arc::clone(&device) as Arc<dyn Driver>,
        streams: vec![StreamId(0), StreamId(9)],
        capacity,
    });
    let policy: PolicySpec = "cuda-async:release_threshold=1GiB".parse().unwrap();
    let replayed = replay(&trace(), &policy, &target, &mut |_| {}).unwrap();
    (replayed.metrics, device)
}

#[test]
fn what_is_held_is_what_the_driver_says() {
    let (metrics, device) = play(None);
    assert_eq!((metrics.peak_reserved_bytes, metrics.end_reserved_bytes), (2 * PAGE, 2 * PAGE));
    assert_eq!(metrics.driver_calls["segment_alloc"], 3);
    assert_eq!(metrics.driver_calls["segment_free"], 1);
    let pool = device.0.lock().unwrap();
    assert_eq!((pool.live.len(), pool.made, pool.gone), (0, 1, 1));
    assert_eq!(pool.limit, u64::MAX);
}

#[test]
fn a_capacity_is_the_pools_limit() {
    let (metrics, _) = play(Some(PAGE));
    let oom = metrics.oom.expect("3 MiB are more than one page");
    assert_eq!((oom.at_event, oom.reserved), (0, 0));
    assert!(oom.message.contains("cudaErrorMemoryAllocation"), "{}", oom.message);
}

#[test]
fn the_simulated_device_has_no_pool() {
    let policy: PolicySpec = "cuda-async".parse().unwrap();
    let target = Target::Sim(SimTarget::default());
    let error = replay(&trace(), &policy, &target, &mut |_| {}).unwrap_err();
    assert_eq!(error, ReplayError::NotModelled("cuda-async".to_owned()));
    assert!(error.to_string().contains("--device cuda:0"), "{error}");
}
