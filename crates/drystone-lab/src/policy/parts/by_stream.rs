//! Something for each stream of each device.

use drystone_core::{DeviceId, StreamId};
use rustc_hash::FxHashMap;

/// A stream of a device: the default stream of each device is another one.
type Key = (DeviceId, StreamId);

/// One `T` for each stream that was met, in the order in which they were met.
#[derive(Debug)]
pub(in crate::policy) struct ByStream<T> {
    places: FxHashMap<Key, usize>,
    all: Vec<(Key, T)>,
}

impl<T> Default for ByStream<T> {
    fn default() -> Self {
        ByStream { places: FxHashMap::default(), all: Vec::new() }
    }
}

impl<T: Default> ByStream<T> {
    /// Where a stream's own is; it is made at the first time.
    pub(in crate::policy) fn place(&mut self, device: DeviceId, stream: StreamId) -> usize {
        let key = (device, stream);
        *self.places.entry(key).or_insert_with(|| {
            self.all.push((key, T::default()));
            self.all.len() - 1
        })
    }

    /// What is at a place.
    pub(in crate::policy) fn at(&mut self, place: usize) -> &mut T {
        &mut self.all[place].1
    }

    /// Those of one device.
    pub(in crate::policy) fn of_device(
        &mut self,
        device: DeviceId,
    ) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().filter(move |(key, _)| key.0 == device).map(|(_, own)| own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_devices_are_different() {
        let mut all = ByStream::<Vec<u32>>::default();
        for (device, stream, value) in [(0, 7, 1), (1, 7, 2), (0, 8, 3), (0, 7, 4)] {
            let place = all.place(DeviceId(device), StreamId(stream));
            all.at(place).push(value);
        }
        let place = all.place(DeviceId(0), StreamId(7));
        assert_eq!(*all.at(place), [1, 4]);
        assert_eq!(all.of_device(DeviceId(0)).map(|own| own.len()).sum::<usize>(), 3);
    }
}
