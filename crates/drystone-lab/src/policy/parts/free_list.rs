//! Free memory in the order of addresses, where neighbours become one, and in the order of sizes.

use std::collections::{BTreeMap, BTreeSet};

/// A range of free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Span {
    pub(in crate::policy) address: u64,
    pub(in crate::policy) bytes: u64,
    /// Whether it starts a segment: what ends before it belongs to another one, and is not joined.
    pub(in crate::policy) head: bool,
}

impl Span {
    /// Cuts it after `bytes`, of which it has at least so many; the rest, if there is any.
    pub(in crate::policy) fn cut(&mut self, bytes: u64) -> Option<Span> {
        let rest = self.bytes - bytes;
        self.bytes = bytes;
        (rest > 0).then_some(Span { address: self.address + bytes, bytes: rest, head: false })
    }

    fn end(&self) -> u64 {
        self.address + self.bytes
    }
}

/// Spans that touch none of each other, but at the starts of segments.
#[derive(Debug, Default)]
pub(in crate::policy) struct FreeList {
    by_address: BTreeMap<u64, Span>,
    /// (bytes, address).
    by_size: BTreeSet<(u64, u64)>,
}

impl FreeList {
    /// Adds a span and joins it with its neighbours; what has become of it.
    pub(in crate::policy) fn insert(&mut self, mut span: Span) -> Span {
        let before = self.by_address.range(..span.address).next_back().map(|(_, &before)| before);
        if let Some(before) = before.filter(|before| before.end() == span.address && !span.head) {
            self.remove(before.address);
            span = Span { bytes: before.bytes + span.bytes, ..before };
        }
        let after = self.by_address.get(&span.end()).copied();
        if let Some(after) = after.filter(|after| !after.head) {
            self.remove(after.address);
            span.bytes += after.bytes;
        }
        self.by_address.insert(span.address, span);
        self.by_size.insert((span.bytes, span.address));
        span
    }

    /// Adds all spans of another list.
    pub(in crate::policy) fn append(&mut self, other: FreeList) {
        for span in other.by_address.into_values() {
            self.insert(span);
        }
    }

    /// Takes the smallest span of at least `bytes` out, whole; the lowest of several.
    pub(in crate::policy) fn best_fit(&mut self, bytes: u64) -> Option<Span> {
        let &(_, address) = self.by_size.range((bytes, 0)..).next()?;
        self.remove(address)
    }

    /// Takes the lowest span of at least `bytes` out, whole. Takes as many steps as there are
    /// smaller spans below it.
    pub(in crate::policy) fn first_fit(&mut self, bytes: u64) -> Option<Span> {
        if self.largest() < bytes {
            return None;
        }
        let span = self.by_address.values().find(|span| span.bytes >= bytes)?;
        self.remove(span.address)
    }

    /// Takes the span out that starts at an address.
    pub(in crate::policy) fn remove(&mut self, address: u64) -> Option<Span> {
        let span = self.by_address.remove(&address)?;
        self.by_size.remove(&(span.bytes, span.address));
        Some(span)
    }

    /// Takes `bytes` at a multiple of `align` out of the smallest span that has room for them, the
    /// lowest of several; their address.
    pub(in crate::policy) fn fit_aligned(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let place = |address: u64| address.next_multiple_of(align);
        let fits = |&&(size, address): &&(u64, u64)| place(address) - address + bytes <= size;
        let &(_, address) = self.by_size.range((bytes, 0)..).find(fits)?;
        self.carve(place(address), bytes);
        Some(place(address))
    }

    /// Whether all of a range is free, in one span.
    pub(in crate::policy) fn covers(&self, address: u64, bytes: u64) -> bool {
        let span = self.by_address.range(..=address).next_back();
        span.is_some_and(|(_, span)| span.end() >= address + bytes)
    }

    /// Takes a range out of the span that covers it; nothing happens if none does.
    pub(in crate::policy) fn carve(&mut self, address: u64, bytes: u64) {
        if !self.covers(address, bytes) {
            return;
        }
        let start = self.by_address.range(..=address).next_back().map(|(&start, _)| start);
        let Some(mut span) = start.and_then(|start| self.remove(start)) else { return };
        let mut middle = span.cut(address - span.address);
        let after = middle.as_mut().and_then(|middle| middle.cut(bytes));
        for rest in [Some(span), after].into_iter().flatten().filter(|rest| rest.bytes > 0) {
            self.by_address.insert(rest.address, rest);
            self.by_size.insert((rest.bytes, rest.address));
        }
    }

    /// The spans from the largest to the smallest.
    pub(in crate::policy) fn largest_first(&self) -> impl Iterator<Item = Span> {
        self.by_size.iter().rev().filter_map(|(_, address)| self.by_address.get(address).copied())
    }

    /// Bytes of the largest span; 0 if there is none.
    pub(in crate::policy) fn largest(&self) -> u64 {
        self.by_size.last().map_or(0, |&(bytes, _)| bytes)
    }

    /// The spans in the order of their addresses.
    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &Span> {
        self.by_address.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(address: u64, bytes: u64) -> Span {
        Span { address, bytes, head: false }
    }

    #[test]
    fn neighbours_become_one() {
        let mut list = FreeList::default();
        list.insert(span(0, 10));
        list.insert(span(20, 10));
        assert_eq!(list.iter().count(), 2);
        assert_eq!(list.insert(span(10, 10)), span(0, 30));
        assert_eq!(list.iter().collect::<Vec<_>>(), [&span(0, 30)]);
        assert_eq!((list.largest(), list.best_fit(31)), (30, None));
        assert_eq!(list.best_fit(30), Some(span(0, 30)));
        assert_eq!((list.largest(), list.iter().count()), (0, 0));
    }

    #[test]
    fn the_start_of_a_segment_stays_one() {
        let mut list = FreeList::default();
        let head = Span { head: true, ..span(10, 10) };
        list.insert(head);
        list.insert(span(0, 10));
        list.insert(span(20, 5));
        let joined = Span { bytes: 15, ..head };
        assert_eq!(list.iter().collect::<Vec<_>>(), [&span(0, 10), &joined]);
        // Also when it comes last.
        list.remove(10);
        list.insert(joined);
        assert_eq!(list.iter().count(), 2);
    }

    #[test]
    fn best_and_first_fit() {
        let mut list = FreeList::default();
        for (address, bytes) in [(0, 20), (100, 50), (200, 30), (300, 30)] {
            list.insert(span(address, bytes));
        }
        assert_eq!(list.first_fit(25), Some(span(100, 50)));
        assert_eq!(list.best_fit(25), Some(span(200, 30)));
        assert_eq!(list.first_fit(31), None);
        let mut rest = span(300, 30);
        assert_eq!(rest.cut(10), Some(span(310, 20)));
        assert_eq!((rest, rest.cut(10)), (span(300, 10), None));
    }

    #[test]
    fn ranges_are_taken_out_of_spans() {
        let mut list = FreeList::default();
        list.insert(Span { head: true, ..span(100, 100) });
        assert!(list.covers(100, 100) && !list.covers(100, 101) && !list.covers(99, 2));
        list.carve(140, 20);
        list.carve(90, 20);
        let left = [Span { head: true, ..span(100, 40) }, span(160, 40)];
        assert_eq!(list.iter().copied().collect::<Vec<_>>(), left);
        list.carve(100, 40);
        assert_eq!(list.fit_aligned(20, 64), None, "192 is too far up");
        assert_eq!(list.fit_aligned(8, 64), Some(192));
        list.insert(span(300, 50));
        let sizes: Vec<_> = list.largest_first().map(|span| span.bytes).collect();
        assert_eq!(sizes, [50, 32]);
    }

    #[test]
    fn lists_are_joined_with_their_neighbours() {
        let (mut list, mut other) = (FreeList::default(), FreeList::default());
        list.insert(span(0, 10));
        list.insert(span(20, 10));
        other.insert(span(10, 10));
        other.insert(span(40, 10));
        list.append(other);
        assert_eq!(list.iter().collect::<Vec<_>>(), [&span(0, 30), &span(40, 10)]);
    }
}
