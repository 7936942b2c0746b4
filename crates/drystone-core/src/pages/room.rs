//! Room: the pages of an arena at which nothing is mapped, by place and by length.

use std::collections::{BTreeMap, BTreeSet};

use crate::heap::Pages;

/// Ranges without a mapping; none borders on another.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Page counts by first page.
    ranges: BTreeMap<u32, u32>,
    /// (count, first page).
    by_count: BTreeSet<(u32, u32)>,
}

impl Room {
    /// Room from page 0 on.
    pub(crate) fn new(pages: u32) -> Self {
        let mut room = Room::default();
        room.put(Pages::new(0, pages));
        room
    }

    fn put(&mut self, range: Pages) {
        if range.count > 0 {
            self.ranges.insert(range.first, range.count);
            self.by_count.insert((range.count, range.first));
        }
    }

    fn cut(&mut self, first: u32) -> Option<Pages> {
        let count = self.ranges.remove(&first)?;
        self.by_count.remove(&(count, first));
        Some(Pages::new(first, count))
    }

    /// The range around a page, if nothing is mapped there.
    pub(crate) fn around(&self, page: u32) -> Option<Pages> {
        let (&first, &count) = self.ranges.range(..=page).next_back()?;
        Some(Pages::new(first, count)).filter(|range| page < range.end())
    }

    /// The longest range.
    pub(crate) fn longest(&self) -> Option<Pages> {
        self.by_count.last().map(|&(count, first)| Pages::new(first, count))
    }

    /// Something is mapped there from now on. The pages were room.
    pub(crate) fn take(&mut self, pages: Pages) {
        let around = self.around(pages.first).and_then(|range| self.cut(range.first));
        let Some(range) = around.filter(|range| pages.end() <= range.end()) else {
            debug_assert!(false, "pages that were no room");
            return;
        };
        self.put(Pages::new(range.first, pages.first - range.first));
        self.put(Pages::new(pages.end(), range.end() - pages.end()));
    }

    /// Nothing is mapped there any more.
    pub(crate) fn give(&mut self, pages: Pages) {
        let before = self.ranges.range(..pages.first).next_back().map(|(&first, _)| first);
        let before = before.filter(|first| first + self.ranges[first] == pages.first);
        let mut whole = pages;
        if let Some(range) = before.and_then(|first| self.cut(first)) {
            whole = Pages::new(range.first, range.count + whole.count);
        }
        if let Some(range) = self.cut(pages.end()) {
            whole.count += range.count;
        }
        self.put(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_list_of_pages(steps in prop::collection::vec((0u32..60, 1u32..9), 1..80)) {
            let mut room = Room::new(64);
            let mut is_room = [true; 64];
            for (first, count) in steps {
                let all = &mut is_room[first as usize..(first + count).min(64) as usize];
                let pages = Pages::new(first, all.len() as u32);
                if all.iter().all(|&free| free) {
                    room.take(pages);
                    all.fill(false);
                } else if all.iter().all(|&free| !free) {
                    room.give(pages);
                    all.fill(true);
                }
                let mut longest = 0;
                for page in 0..64u32 {
                    let around = room.around(page);
                    prop_assert_eq!(around.is_some(), is_room[page as usize]);
                    if let Some(range) = around {
                        longest = longest.max(range.count);
                        let inside = &is_room[range.first as usize..range.end() as usize];
                        prop_assert!(inside.iter().all(|&free| free));
                        prop_assert!(range.first == 0 || !is_room[range.first as usize - 1]);
                        prop_assert!(is_room.get(range.end() as usize) != Some(&true));
                    }
                }
                prop_assert_eq!(room.longest().map_or(0, |range| range.count), longest);
            }
        }
    }
}
