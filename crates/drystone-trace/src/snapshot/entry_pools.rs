//! The pools that the entries of rings name themselves: each id once, and a small number for it in
//! every entry. torch's entries name none.

use std::collections::HashMap;

use crate::limits::{Budget, Exceeded};

/// The pool of an entry, as a number in [`EntryPools`]; by default it is not said.
///
/// Three bytes, since an entry has just these left: millions are held at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryPool([u8; 3]);

/// The most pools that have a number.
const MOST: usize = (1 << 24) - 1;

impl EntryPool {
    /// Whether the entry says its pool.
    pub fn is_said(self) -> bool {
        self != EntryPool::default()
    }

    /// The number of the pool with this index; not said where there are too many.
    fn of_index(index: usize) -> Self {
        if index >= MOST {
            return EntryPool::default();
        }
        let [low, middle, high, _] = (index as u32 + 1).to_le_bytes();
        EntryPool([low, middle, high])
    }

    fn index(self) -> Option<usize> {
        let [low, middle, high] = self.0;
        (u32::from_le_bytes([low, middle, high, 0]) as usize).checked_sub(1)
    }
}

/// The ids of the pools that entries name, in order of appearance; (0, 0) is the default pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryPools {
    ids: Vec<(u64, u64)>,
    /// std's keyed hash: input chooses the keys.
    numbers: HashMap<(u64, u64), EntryPool>,
}

/// What the map takes at most for each pool: 25 bytes with the control byte, up to 2.3 times that
/// after it has doubled, and the old half while it does.
const MAP_ENTRY_BYTES: u64 = 87;

impl EntryPools {
    /// The number of the pool with this id, which is noted if it is new. Of more than 2^24 - 1 pools
    /// the last ones get none: their entries do not say it.
    pub fn number(&mut self, id: (u64, u64)) -> EntryPool {
        if let Some(&known) = self.numbers.get(&id) {
            return known;
        }
        let number = EntryPool::of_index(self.ids.len());
        if number.is_said() {
            self.ids.push(id);
            self.numbers.insert(id, number);
        }
        number
    }

    /// The same, within the account.
    pub(super) fn number_within(
        &mut self,
        id: (u64, u64),
        budget: &mut Budget,
    ) -> Result<EntryPool, Exceeded> {
        if !self.numbers.contains_key(&id) {
            budget.reserve(&mut self.ids, 1)?;
            budget.charge(MAP_ENTRY_BYTES)?;
        }
        Ok(self.number(id))
    }

    /// The id of the pool; `None` where it is not said, or the number is of another snapshot.
    pub fn get(&self, pool: EntryPool) -> Option<(u64, u64)> {
        self.ids.get(pool.index()?).copied()
    }

    /// The ids, in order of appearance.
    pub fn ids(&self) -> &[(u64, u64)] {
        &self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn each_pool_has_a_number_and_none_is_the_default_pool() {
        let mut pools = EntryPools::default();
        let ids = [(0, 0), (0, 7), (u64::MAX, 1), (0, 7), (0, 0)];
        let numbers = ids.map(|id| pools.number(id));
        assert_eq!(numbers.map(|number| pools.get(number)), ids.map(Some));
        assert_eq!(pools.ids(), &ids[..3]);
        assert!(numbers.iter().all(|number| number.is_said()));
        assert_eq!(pools.get(EntryPool::default()), None);
        assert_eq!(EntryPools::default().get(numbers[0]), None);
    }

    #[test]
    fn beyond_the_last_number_a_pool_is_not_said() {
        for index in [0, 1, 255, 256, 65_535, 65_536, MOST - 1] {
            assert_eq!(EntryPool::of_index(index).index(), Some(index));
        }
        assert_eq!(EntryPool::of_index(MOST), EntryPool::default());
        assert_eq!(EntryPool::of_index(usize::MAX), EntryPool::default());
    }

    #[test]
    fn pools_are_charged_once() {
        let mut budget = Budget::new(&Limits { max_memory_bytes: 10_000, ..Limits::default() });
        let mut pools = EntryPools::default();
        for _ in 0..10_000 {
            pools.number_within((1, 1), &mut budget).unwrap();
        }
        let count = (0..).take_while(|&id| pools.number_within((0, id), &mut budget).is_ok());
        assert!((50..100).contains(&count.count()));
        assert!(pools.number_within((1, 1), &mut budget).is_ok());
    }
}
