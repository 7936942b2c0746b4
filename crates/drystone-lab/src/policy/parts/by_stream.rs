//! Something for each stream of each device.

use drystone_core::{DeviceId, StreamId};
use rustc_hash::FxHashMap;

/// A stream of a device: the default stream of each device is another one.
pub(in crate::policy) type Key = (DeviceId, StreamId);

/// One `T` for each stream that was met, in the order in which they were met.
#[derive(Debug)]
pub(in crate::policy) struct ByStream<T> {
    index: FxHashMap<Key, usize>,
    all: Vec<(Key, T)>,
}

impl<T> Default for ByStream<T> {
    fn default() -> Self {
        ByStream { index: FxHashMap::default(), all: Vec::new() }
    }
}

impl<T> ByStream<T> {
    /// The place of a stream's own, which is made at the first time.
    pub(in crate::policy) fn place<E>(
        &mut self,
        key: Key,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<usize, E> {
        if let Some(&place) = self.index.get(&key) {
            return Ok(place);
        }
        self.all.push((key, make()?));
        self.index.insert(key, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }

    /// What is at a place that [`ByStream::place`] gave.
    pub(in crate::policy) fn at(&mut self, place: usize) -> &mut T {
        &mut self.all[place].1
    }

    /// The stream's own, which is made at the first time.
    pub(in crate::policy) fn of(&mut self, key: Key) -> &mut T
    where
        T: Default,
    {
        let place = *self.index.entry(key).or_insert_with(|| {
            self.all.push((key, T::default()));
            self.all.len() - 1
        });
        &mut self.all[place].1
    }

    /// The places of the other streams of the same device.
    pub(in crate::policy) fn others(&self, place: usize) -> impl Iterator<Item = usize> + use<T> {
        let (device, _) = self.all[place].0;
        let others: Vec<usize> = (0..self.all.len())
            .filter(|&other| other != place && self.all[other].0.0 == device)
            .collect();
        others.into_iter()
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
        let key = |device, stream| (DeviceId(device), StreamId(stream));
        all.of(key(0, 7)).push(1);
        all.of(key(1, 7)).push(2);
        all.of(key(0, 8)).push(3);
        all.of(key(0, 7)).push(4);
        let place = all.place(key(0, 7), || Err("it is there")).unwrap();
        assert_eq!(*all.at(place), [1, 4]);
        assert_eq!(all.others(place).collect::<Vec<_>>(), [2]);
        assert_eq!(all.of_device(DeviceId(0)).map(|own| own.len()).sum::<usize>(), 3);
        assert_eq!(all.place(key(2, 0), || Err("none")), Err("none"));
        assert_eq!(all.place(key(2, 0), || Ok::<_, ()>(vec![])), Ok(3));
    }
}
