//! The rules of events, streams and waiting.

use drystone_core::driver::{DeviceId, Driver, EventId, StreamId};

use super::{done, ensure};

pub(super) fn check<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    never_recorded(driver, device, streams)?;
    for stream in streams {
        recorded(driver, device, *stream)?;
    }
    for pair in streams.windows(2) {
        across(driver, device, pair[0], pair[1])?;
    }
    done("device_synchronize", driver.device_synchronize(device))?;
    done("device_synchronize without work", driver.device_synchronize(device))?;
    many(driver, device, streams)
}

/// An event that was never recorded is done, and holds nobody up.
fn never_recorded<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    let event = done("event_create", driver.event_create(device))?;
    is_done(driver, device, event, "never recorded")?;
    done("event_synchronize", driver.event_synchronize(device, event))?;
    for stream in streams {
        let waited = driver.stream_wait_event(device, *stream, event);
        done("stream_wait_event of an event never recorded", waited)?;
    }
    done("event_destroy", driver.event_destroy(device, event))
}

/// The life of an event on one stream.
fn recorded<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    stream: StreamId,
) -> Result<(), String> {
    let event = done("event_create", driver.event_create(device))?;
    for round in 0..3 {
        done("event_record", driver.event_record(device, event, stream))?;
        if round == 0 {
            // A query may come before the end; it succeeds either way.
            done("event_query", driver.event_query(device, event))?;
        }
        done("event_synchronize", driver.event_synchronize(device, event))?;
        is_done(driver, device, event, "after event_synchronize")?;
        is_done(driver, device, event, "asked again")?;
    }
    done("event_record", driver.event_record(device, event, stream))?;
    done("device_synchronize", driver.device_synchronize(device))?;
    is_done(driver, device, event, "after device_synchronize")?;
    // It may be pending when it is destroyed.
    done("event_record", driver.event_record(device, event, stream))?;
    done("event_destroy", driver.event_destroy(device, event))
}

/// An event behind a wait for another one is done after it.
fn across<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    from: StreamId,
    to: StreamId,
) -> Result<(), String> {
    let first = done("event_create", driver.event_create(device))?;
    let second = done("event_create", driver.event_create(device))?;
    ensure(first != second, || format!("{first:?} was made twice"))?;
    done("event_record", driver.event_record(device, first, from))?;
    done("stream_wait_event", driver.stream_wait_event(device, to, first))?;
    done("event_record", driver.event_record(device, second, to))?;
    done("event_synchronize", driver.event_synchronize(device, second))?;
    is_done(driver, device, first, "waited for by one that is done")?;
    done("event_destroy", driver.event_destroy(device, first))?;
    done("event_destroy", driver.event_destroy(device, second))
}

/// Many events live at once, by different names.
fn many<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    streams: &[StreamId],
) -> Result<(), String> {
    let mut events: Vec<EventId> = Vec::new();
    for index in 0..256 {
        let event = done("event_create", driver.event_create(device))?;
        ensure(!events.contains(&event), || format!("{event:?} was made twice"))?;
        if let Some(stream) = streams.get(index % streams.len().max(1)) {
            done("event_record", driver.event_record(device, event, *stream))?;
        }
        events.push(event);
    }
    done("device_synchronize", driver.device_synchronize(device))?;
    for event in events {
        is_done(driver, device, event, "after device_synchronize")?;
        done("event_destroy", driver.event_destroy(device, event))?;
    }
    Ok(())
}

fn is_done<D: Driver + ?Sized>(
    driver: &D,
    device: DeviceId,
    event: EventId,
    when: &str,
) -> Result<(), String> {
    let answer = done("event_query", driver.event_query(device, event))?;
    ensure(answer, || format!("event_query says that an event is not done: {when}"))
}
