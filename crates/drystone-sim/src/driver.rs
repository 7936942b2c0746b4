//! The [`Driver`] contract, call by call.

use drystone_core::driver::{
    DeviceId, DeviceMemory, Driver, DriverCall, DriverError, DriverErrorKind, EventId, HandleId,
    HandleKind, ShareId, StreamId,
};

use crate::device::Refusal;
use crate::memory::Outside;
use crate::misuse::Misuse;
use crate::sim::SimDriver;

impl Driver for SimDriver {
    fn device_count(&self) -> u32 {
        self.count() as u32
    }

    fn device_memory(&self, device: DeviceId) -> Result<DeviceMemory, DriverError> {
        self.call(DriverCall::DeviceMemory, device, |device, call| {
            call.spend(call.env.costs.device_memory);
            Ok(device.memory.info())
        })
    }

    fn segment_alloc(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.call(DriverCall::SegmentAlloc, device, |device, call| {
            if bytes == 0 {
                return Err(Refusal::new(DriverErrorKind::InvalidValue, "0 bytes"));
            }
            let Some(address) = device.memory.alloc(bytes) else {
                call.spend(call.env.costs.segment_alloc_out_of_memory);
                return Err(Refusal::new(DriverErrorKind::OutOfMemory, "out of memory"));
            };
            call.spend(call.env.costs.segment_alloc.at(bytes));
            Ok(address)
        })
    }

    fn segment_free(&self, device: DeviceId, address: u64) -> Result<(), DriverError> {
        self.call(DriverCall::SegmentFree, device, |device, call| {
            device.outside_captures(call)?;
            let id = device.id;
            let bytes = device.memory.free(address).map_err(|why| {
                call.found.push(match why {
                    Outside::Freed { .. } => Misuse::DoubleFree { device: id, address },
                    _ => Misuse::ForeignFree { device: id, address },
                });
                Refusal::new(DriverErrorKind::InvalidValue, "not a segment")
            })?;
            let end = address + bytes;
            if let Some(one) = device.uses.unfinished(address, end, &device.streams) {
                let stream = device.streams.get(one.point.stream).id;
                call.found.push(Misuse::FreeInFlight { device: id, address, bytes, stream });
            }
            device.uses.forget(address, end);
            call.spend(call.env.costs.segment_free.at(bytes));
            // cudaFree waits for all running work. It orders nothing all the same: that is how
            // CUDA happens to do it, not something the contract lets the allocator build on.
            call.wait_until(device.streams.busy_until_ns);
            Ok(())
        })
    }

    fn page_bytes(&self, device: DeviceId) -> Result<u64, DriverError> {
        self.call(DriverCall::PageBytes, device, |device, _| device.page_bytes())
    }

    fn address_reserve(&self, device: DeviceId, bytes: u64) -> Result<u64, DriverError> {
        self.call(DriverCall::AddressReserve, device, |device, call| {
            device.address_reserve(call, bytes)
        })
    }

    fn address_free(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.call(DriverCall::AddressFree, device, |device, call| {
            device.address_free(call, address, bytes)
        })
    }

    fn handle_create(
        &self,
        device: DeviceId,
        bytes: u64,
        kind: HandleKind,
    ) -> Result<HandleId, DriverError> {
        self.call(DriverCall::HandleCreate, device, |device, call| {
            device.handle_create(call, bytes, kind)
        })
    }

    fn handle_release(&self, device: DeviceId, handle: HandleId) -> Result<(), DriverError> {
        self.call(DriverCall::HandleRelease, device, |device, call| {
            device.handle_release(call, handle)
        })
    }

    fn handle_export(&self, device: DeviceId, handle: HandleId) -> Result<ShareId, DriverError> {
        self.call(DriverCall::HandleExport, device, |device, call| {
            device.handle_export(call, handle)
        })
    }

    fn handle_import(
        &self,
        device: DeviceId,
        share: ShareId,
        bytes: u64,
    ) -> Result<HandleId, DriverError> {
        self.call(DriverCall::HandleImport, device, |device, call| {
            device.handle_import(call, share, bytes)
        })
    }

    fn map(&self, device: DeviceId, address: u64, handle: HandleId) -> Result<(), DriverError> {
        self.call(DriverCall::Map, device, |device, call| device.map(call, address, handle))
    }

    fn set_access(
        &self,
        device: DeviceId,
        address: u64,
        bytes: u64,
        accessors: &[DeviceId],
    ) -> Result<(), DriverError> {
        self.call(DriverCall::SetAccess, device, |device, call| {
            device.set_access(call, address, bytes, accessors, self.count())
        })
    }

    fn unmap(&self, device: DeviceId, address: u64, bytes: u64) -> Result<(), DriverError> {
        self.call(DriverCall::Unmap, device, |device, call| device.unmap(call, address, bytes))
    }

    // Costs nothing, is not counted and never fails by a fault: no call of the real driver.
    fn check_stream(&self, device: DeviceId, stream: StreamId) -> Result<(), DriverError> {
        let known = self.device(device).map(|device| device.lock().streams.find(stream).is_some());
        if known == Some(true) {
            return Ok(());
        }
        Err(DriverError {
            call: DriverCall::EventRecord,
            kind: known.map_or(DriverErrorKind::InvalidDevice, |_| DriverErrorKind::InvalidValue),
            code: 0,
            detail: format!("there is no {stream} on {device}"),
        })
    }

    fn event_create(&self, device: DeviceId) -> Result<EventId, DriverError> {
        self.call(DriverCall::EventCreate, device, |device, call| {
            let full = || Refusal::new(DriverErrorKind::Other, "too many events");
            let event = device.events.create().ok_or_else(full)?;
            call.spend(call.env.costs.event_create);
            Ok(event)
        })
    }

    fn event_destroy(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.call(DriverCall::EventDestroy, device, |device, call| {
            if !device.events.destroy(event) {
                return Err(Refusal::no_event(call, device.id, event));
            }
            call.spend(call.env.costs.event_destroy);
            Ok(())
        })
    }

    fn event_record(
        &self,
        device: DeviceId,
        event: EventId,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.call(DriverCall::EventRecord, device, |device, call| {
            device.not_captured(call, stream)?;
            let index = device.stream(call, stream)?;
            let Some(found) = device.events.get(event) else {
                return Err(Refusal::no_event(call, device.id, event));
            };
            let stream = device.streams.get(index);
            found.done_ns = Some(stream.ready_ns);
            found.after.copy_from(&stream.before);
            call.spend(call.env.costs.event_record);
            Ok(())
        })
    }

    fn event_query(&self, device: DeviceId, event: EventId) -> Result<bool, DriverError> {
        self.call(DriverCall::EventQuery, device, |device, call| {
            device.outside_captures(call)?;
            let Some(found) = device.events.get(event) else {
                return Err(Refusal::no_event(call, device.id, event));
            };
            let now = call.spend(call.env.costs.event_query);
            let Some(done_ns) = found.done_ns else { return Ok(true) };
            if done_ns <= now {
                device.streams.host.join(&found.after);
            }
            Ok(done_ns <= now)
        })
    }

    fn event_synchronize(&self, device: DeviceId, event: EventId) -> Result<(), DriverError> {
        self.call(DriverCall::EventSynchronize, device, |device, call| {
            device.outside_captures(call)?;
            let Some(found) = device.events.get(event) else {
                return Err(Refusal::no_event(call, device.id, event));
            };
            call.spend(call.env.costs.event_synchronize);
            if let Some(done_ns) = found.done_ns {
                call.wait_until(done_ns);
                device.streams.host.join(&found.after);
            }
            Ok(())
        })
    }

    fn stream_wait_event(
        &self,
        device: DeviceId,
        stream: StreamId,
        event: EventId,
    ) -> Result<(), DriverError> {
        self.call(DriverCall::StreamWaitEvent, device, |device, call| {
            device.not_captured(call, stream)?;
            let index = device.stream(call, stream)?;
            let Some(found) = device.events.get(event) else {
                return Err(Refusal::no_event(call, device.id, event));
            };
            if let Some(done_ns) = found.done_ns {
                device.streams.wait(index, done_ns, &found.after);
            }
            call.spend(call.env.costs.stream_wait_event);
            Ok(())
        })
    }

    fn device_synchronize(&self, device: DeviceId) -> Result<(), DriverError> {
        self.call(DriverCall::DeviceSynchronize, device, |device, call| {
            device.outside_captures(call)?;
            call.spend(call.env.costs.device_synchronize);
            call.wait_until(device.streams.busy_until_ns);
            device.streams.all_over();
            device.uses.all_over();
            Ok(())
        })
    }

    fn now_ns(&self) -> u64 {
        self.env.clock.now()
    }
}
