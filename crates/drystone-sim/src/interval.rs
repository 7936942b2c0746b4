//! A sparse map from bytes to values, kept as runs of equal value.

use std::collections::BTreeMap;

/// Runs `[start, end)` with a value each; they never overlap, and bytes outside of all have none.
#[derive(Clone, Debug)]
pub(crate) struct IntervalMap<V> {
    /// Start of a run to its end and value.
    runs: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for IntervalMap<V> {
    fn default() -> Self {
        IntervalMap { runs: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> IntervalMap<V> {
    /// The number of runs.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    /// The value of the byte at `at`.
    pub(crate) fn get(&self, at: u64) -> Option<&V> {
        let (_, (end, value)) = self.runs.range(..=at).next_back()?;
        (*end > at).then_some(value)
    }

    /// The parts of runs that lie in `[start, end)`, ascending.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, &V)> {
        let before = self.runs.range(..start).next_back().filter(|(_, run)| run.0 > start);
        // An empty or reversed range has no runs in it, where `BTreeMap::range` would panic.
        let inside = self.runs.range(start..end.max(start));
        before
            .into_iter()
            .chain(inside)
            .map(move |(from, (to, value))| ((*from).max(start), (*to).min(end), value))
            .filter(|(from, to, _)| from < to)
    }

    /// Gives all bytes of `[start, end)` this value.
    pub(crate) fn set(&mut self, start: u64, end: u64, value: V) {
        self.update(start, end, |_, _, _| Some(value.clone()));
    }

    /// Takes the values of all bytes of `[start, end)` away.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        self.update(start, end, |_, _, _| None);
    }

    /// Replaces, piece by piece in ascending order, what `[start, end)` holds: `change` gets each
    /// run or gap (start, end, value) and returns the new value.
    pub(crate) fn update(
        &mut self,
        start: u64,
        end: u64,
        mut change: impl FnMut(u64, u64, Option<V>) -> Option<V>,
    ) {
        if start >= end {
            return;
        }
        self.split_at(start);
        self.split_at(end);
        let mut at = start;
        while at < end {
            let next = self.runs.range(at..end).next().map_or(end, |(from, _)| *from);
            let (to, old) = if next > at {
                (next, None)
            } else {
                // There is a run at `at`, as `next` was found there.
                self.runs.remove(&at).map_or((end, None), |(to, value)| (to, Some(value)))
            };
            if let Some(value) = change(at, to, old) {
                self.append(at, to, value);
            }
            at = to;
        }
        // The last piece may now equal the run behind it.
        if let Some((to, value)) = self.runs.remove(&end) {
            self.append(end, to, value);
        }
    }

    /// Keeps the runs that `keep` wants; it may change their values on the way.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.runs.retain(|_, (_, value)| keep(value));
    }

    /// Puts a run behind all those below `start`, as a part of the last one where they are equal.
    fn append(&mut self, start: u64, end: u64, value: V) {
        if let Some((_, last)) = self.runs.range_mut(..start).next_back()
            && last.0 == start
            && last.1 == value
        {
            last.0 = end;
            return;
        }
        self.runs.insert(start, (end, value));
    }

    fn split_at(&mut self, at: u64) {
        if let Some((_, run)) = self.runs.range_mut(..at).next_back()
            && run.0 > at
        {
            let tail = (run.0, run.1.clone());
            run.0 = at;
            self.runs.insert(at, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 24;

    #[derive(Clone, Debug)]
    enum Op {
        Set(u64, u64, u8),
        Remove(u64, u64),
        /// Adds one to what has a value, and gives 0 to what has none.
        Bump(u64, u64),
        DropOdd,
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = (0..=SIZE, 0..=SIZE);
        prop_oneof![
            (range.clone(), 0..3_u8).prop_map(|((a, b), v)| Op::Set(a, b, v)),
            range.clone().prop_map(|(a, b)| Op::Remove(a, b)),
            range.prop_map(|(a, b)| Op::Bump(a, b)),
            Just(Op::DropOdd),
        ]
    }

    fn span(a: u64, b: u64) -> std::ops::Range<usize> {
        a as usize..(b as usize).max(a as usize)
    }

    proptest! {
        #[test]
        fn is_a_map_of_bytes(
            ops in prop::collection::vec(op(), 1..40),
            probe in (0..=SIZE, 0..=SIZE),
        ) {
            let mut map = IntervalMap::default();
            let mut bytes = [None::<u8>; SIZE as usize];
            for op in ops {
                match op {
                    Op::Set(a, b, v) => {
                        map.set(a, b, v);
                        bytes[span(a, b)].fill(Some(v));
                    }
                    Op::Remove(a, b) => {
                        map.remove(a, b);
                        bytes[span(a, b)].fill(None);
                    }
                    Op::Bump(a, b) => {
                        map.update(a, b, |_, _, v| Some(v.map_or(0, |v| v + 1)));
                        let bump = |v: &mut Option<u8>| *v = Some(v.map_or(0, |v| v + 1));
                        bytes[span(a, b)].iter_mut().for_each(bump);
                    }
                    Op::DropOdd => {
                        map.retain(|v| *v % 2 == 0);
                        let odd = |v: &mut Option<u8>| *v = v.filter(|v| *v % 2 == 0);
                        bytes.iter_mut().for_each(odd);
                    }
                }
                for (at, value) in bytes.iter().enumerate() {
                    prop_assert_eq!(map.get(at as u64), value.as_ref());
                }
                // As few runs as there can be, and `overlapping` gives exactly the probed part.
                let edges = bytes.windows(2).filter(|w| w[0] != w[1] && w[1].is_some()).count();
                prop_assert_eq!(map.len(), edges + usize::from(bytes[0].is_some()));
                let mut seen = [None; SIZE as usize];
                for (from, to, value) in map.overlapping(probe.0, probe.1) {
                    seen[span(from, to)].fill(Some(*value));
                }
                let mut expected = [None; SIZE as usize];
                let part = span(probe.0, probe.1);
                expected[part.clone()].copy_from_slice(&bytes[part]);
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
