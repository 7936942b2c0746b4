//! Vector clocks: what has happened before what, by stream.

/// A point in one stream's order of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// The stream's index on its device.
    pub(crate) stream: u32,
    /// The number of the submission on that stream, from 1.
    pub(crate) number: u64,
}

/// For each stream, up to which submission all is known to come before; 0 where none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VectorClock(Vec<u64>);

impl VectorClock {
    /// Whether the point is known to come before.
    pub(crate) fn covers(&self, point: Point) -> bool {
        self.0.get(point.stream as usize).is_some_and(|number| *number >= point.number)
    }

    /// Learns that all of the stream up to the point comes before.
    pub(crate) fn learn(&mut self, point: Point) {
        let index = point.stream as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        self.0[index] = self.0[index].max(point.number);
    }

    /// Learns all that the other clock knows.
    pub(crate) fn join(&mut self, other: &VectorClock) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to = (*to).max(*from));
    }

    /// Becomes a copy of the other clock, in the memory it has.
    pub(crate) fn copy_from(&mut self, other: &VectorClock) {
        self.0.clear();
        self.0.extend_from_slice(&other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_covers_what_it_has_learnt_and_nothing_else() {
        let point = |stream, number| Point { stream, number };
        let (mut a, mut b) = (VectorClock::default(), VectorClock::default());
        a.learn(point(2, 5));
        a.learn(point(2, 3));
        assert!(a.covers(point(2, 5)) && !a.covers(point(2, 6)) && !a.covers(point(0, 1)));
        b.learn(point(0, 1));
        b.join(&a);
        assert!(b.covers(point(2, 5)) && b.covers(point(0, 1)) && !b.covers(point(9, 1)));
        a.join(&b);
        assert_eq!(a, b);
        let mut c = VectorClock::default();
        c.learn(point(7, 7));
        c.copy_from(&b);
        assert_eq!(c, b);
    }
}
