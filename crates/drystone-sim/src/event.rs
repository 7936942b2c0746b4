//! The events of one device, by names that are never used twice.

use drystone_core::driver::{DeviceId, EventId};

use crate::order::VectorClock;

/// An [`EventId`] is, from the top: 8 bits of device (from 1), 32 bits of the slot's generation,
/// 24 bits of slot. A name of another device, or of an event destroyed, is thus seen to be one.
const SLOT_BITS: u32 = 24;
const DEVICE_SHIFT: u32 = 56;

#[derive(Debug, Default)]
pub(crate) struct Event {
    generation: u32,
    live: bool,
    /// When the last record is done; none if there was none.
    pub(crate) done_ns: Option<u64>,
    /// What is done when the last record is done.
    pub(crate) after: VectorClock,
}

#[derive(Debug)]
pub(crate) struct Events {
    device: DeviceId,
    slots: Vec<Event>,
    unused: Vec<u32>,
}

impl Events {
    pub(crate) fn new(device: DeviceId) -> Self {
        Events { device, slots: Vec::new(), unused: Vec::new() }
    }

    /// A new event; none when 2²⁴ are in use.
    pub(crate) fn create(&mut self) -> Option<EventId> {
        let slot = match self.unused.pop() {
            Some(slot) => slot,
            None if self.slots.len() < 1 << SLOT_BITS => {
                self.slots.push(Event::default());
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let event = &mut self.slots[slot as usize];
        event.live = true;
        event.done_ns = None;
        Some(self.name(slot))
    }

    pub(crate) fn get(&mut self, id: EventId) -> Option<&mut Event> {
        let slot = self.slot(id)?;
        self.slots.get_mut(slot as usize)
    }

    /// Ends an event; whether there was one.
    pub(crate) fn destroy(&mut self, id: EventId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let event = &mut self.slots[slot as usize];
        event.live = false;
        event.generation = event.generation.wrapping_add(1);
        self.unused.push(slot);
        true
    }

    /// The events that live.
    pub(crate) fn live(&self) -> impl Iterator<Item = EventId> {
        let live = |(slot, event): (usize, &Event)| event.live.then(|| self.name(slot as u32));
        self.slots.iter().enumerate().filter_map(live)
    }

    pub(crate) fn live_count(&self) -> usize {
        self.slots.len() - self.unused.len()
    }

    fn name(&self, slot: u32) -> EventId {
        let generation = u64::from(self.slots[slot as usize].generation);
        let device = u64::from(self.device.0) + 1;
        EventId(device << DEVICE_SHIFT | generation << SLOT_BITS | u64::from(slot))
    }

    fn slot(&self, id: EventId) -> Option<u32> {
        let slot = (id.0 & ((1 << SLOT_BITS) - 1)) as u32;
        let event = self.slots.get(slot as usize)?;
        (event.live && self.name(slot) == id).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_used_twice() {
        let mut events = Events::new(DeviceId(0));
        let a = events.create().unwrap();
        assert!(events.destroy(a) && !events.destroy(a));
        let b = events.create().unwrap();
        assert_ne!(a, b);
        assert!(events.get(a).is_none() && events.get(b).is_some());
        assert_eq!(events.live().collect::<Vec<_>>(), [b]);
        assert_eq!(events.live_count(), 1);
    }

    #[test]
    fn a_new_event_in_an_old_slot_has_no_record() {
        let mut events = Events::new(DeviceId(0));
        let a = events.create().unwrap();
        events.get(a).unwrap().done_ns = Some(9);
        events.destroy(a);
        let b = events.create().unwrap();
        assert_eq!(events.get(b).unwrap().done_ns, None);
    }

    #[test]
    fn names_of_other_devices_are_unknown() {
        let a = Events::new(DeviceId(0)).create().unwrap();
        let mut other = Events::new(DeviceId(1));
        other.create();
        assert!(other.get(a).is_none());
        assert!(other.get(EventId(0)).is_none());
    }
}
