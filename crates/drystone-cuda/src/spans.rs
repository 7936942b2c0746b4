//! Which address ranges are taken, and by what: an object that comes from outside as an address is
//! looked up here before the driver sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::CudaError;

/// Objects of one kind at address ranges that do not overlap.
#[derive(Debug)]
pub(crate) struct Spans<T> {
    /// What an object is called in errors.
    noun: &'static str,
    by_address: BTreeMap<u64, Span<T>>,
}

#[derive(Debug)]
struct Span<T> {
    end: u64,
    object: Arc<T>,
}

impl<T> Spans<T> {
    pub(crate) fn new(noun: &'static str) -> Spans<T> {
        Spans { noun, by_address: BTreeMap::new() }
    }

    /// Adds an object. Its range ends at or below 2⁴⁸ and overlaps no other, or the driver would
    /// not have given it.
    pub(crate) fn insert(&mut self, address: u64, bytes: u64, object: T) {
        let object = Arc::new(object);
        self.by_address.insert(address, Span { end: address.saturating_add(bytes), object });
    }

    /// The object in whose range the whole given one lies; it is not taken out while the caller
    /// keeps it.
    pub(crate) fn around(&self, address: u64, bytes: u64) -> Result<Arc<T>, CudaError> {
        match self.cover(address, bytes).as_deref() {
            Some([(_, span)]) => Ok(span.object.clone()),
            _ => Err(self.wrong("in one", "", address, bytes)),
        }
    }

    /// The objects that follow one another without a gap and hold the range between them.
    pub(crate) fn across(&self, address: u64, bytes: u64) -> Option<Vec<&Arc<T>>> {
        let cover = self.cover(address, bytes)?;
        Some(cover.into_iter().map(|(_, span)| &span.object).collect())
    }

    /// Whether a part of the range is taken.
    pub(crate) fn overlap(&self, address: u64, bytes: u64) -> bool {
        let below = self.by_address.range(..address.saturating_add(bytes)).next_back();
        below.is_some_and(|(_, span)| span.end > address)
    }

    /// The objects of which the range consists exactly; none is taken out while the caller keeps
    /// it.
    pub(crate) fn exactly(&self, address: u64, bytes: u64) -> Result<Vec<Arc<T>>, CudaError> {
        let spans = self.whole(address, bytes)?;
        Ok(spans.into_iter().map(|(_, span)| span.object.clone()).collect())
    }

    /// Takes out the objects of which the range consists exactly; an error, and nothing taken,
    /// where it does not, or where one of them is in use.
    pub(crate) fn take(&mut self, address: u64, bytes: u64) -> Result<Vec<T>, CudaError> {
        let spans = self.whole(address, bytes)?;
        // Only through this value, which is borrowed, can the counts go up.
        if let Some((used, _)) = spans.iter().find(|(_, span)| Arc::strong_count(&span.object) > 1)
        {
            let detail = format!("the {} at {used:#x} is in use", self.noun);
            return Err(CudaError::InvalidValue(detail));
        }
        let starts: Vec<u64> = spans.into_iter().map(|(start, _)| start).collect();
        let taken = starts.iter().filter_map(|start| self.by_address.remove(start));
        Ok(taken.filter_map(|span| Arc::into_inner(span.object)).collect())
    }

    /// As [`Spans::take`], for a range that is that of one object.
    pub(crate) fn take_one(&mut self, address: u64, bytes: u64) -> Result<T, CudaError> {
        let one = self.by_address.get(&address).is_some_and(|span| span.end - address == bytes);
        let mut taken = if one { self.take(address, bytes)? } else { Vec::new() };
        taken.pop().ok_or_else(|| self.wrong("one whole", "", address, bytes))
    }

    fn whole(&self, address: u64, bytes: u64) -> Result<Vec<(u64, &Span<T>)>, CudaError> {
        let exact = |spans: &Vec<(u64, &Span<T>)>| {
            let ends = spans.first().zip(spans.last());
            ends.is_some_and(|(first, last)| first.0 == address && last.1.end - address == bytes)
        };
        let cover = self.cover(address, bytes).filter(exact);
        cover.ok_or_else(|| self.wrong("whole", "s", address, bytes))
    }

    /// The fewest spans, with their begins, that follow one another and hold the range.
    fn cover(&self, address: u64, bytes: u64) -> Option<Vec<(u64, &Span<T>)>> {
        let (&first, _) = self.by_address.range(..=address).next_back()?;
        let mut cover = Vec::new();
        let mut reached = first;
        for (&start, span) in self.by_address.range(first..) {
            if start != reached {
                return None;
            }
            cover.push((start, span));
            reached = span.end;
            if reached > address && reached - address >= bytes {
                return Some(cover);
            }
        }
        None
    }

    fn wrong(&self, what: &str, plural: &str, address: u64, bytes: u64) -> CudaError {
        let noun = self.noun;
        let detail = format!("{bytes} bytes at {address:#x} are not {what} {noun}{plural}");
        CudaError::InvalidValue(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges 10..20, 20..40 and 50..60.
    fn spans() -> Spans<char> {
        let mut spans = Spans::new("span");
        for (address, bytes, object) in [(10, 10, 'a'), (20, 20, 'b'), (50, 10, 'c')] {
            spans.insert(address, bytes, object);
        }
        spans
    }

    fn names(objects: Option<Vec<&Arc<char>>>) -> String {
        objects.unwrap_or_default().into_iter().map(|object| **object).collect()
    }

    #[test]
    fn ranges_are_found_by_what_they_lie_in() {
        let spans = spans();
        // (address, bytes): objects across it, the object around it, whether any part is taken.
        let cases = [
            (10, 10, "a", Some('a'), true),
            (12, 3, "a", Some('a'), true),
            (12, 20, "ab", None, true),
            (20, 0, "b", Some('b'), false),
            (30, 20, "", None, true),
            (40, 10, "", None, false),
            (40, 11, "", None, true),
            (0, 10, "", None, false),
            (0, 11, "", None, true),
            (60, 1, "", None, false),
            (50, u64::MAX, "", None, true),
            (u64::MAX, u64::MAX, "", None, false),
        ];
        for (address, bytes, across, around, overlap) in cases {
            assert_eq!(names(spans.across(address, bytes)), across, "{bytes} at {address}");
            assert_eq!(spans.around(address, bytes).ok().as_deref(), around.as_ref());
            assert_eq!(spans.overlap(address, bytes), overlap, "{bytes} at {address}");
        }
    }

    #[test]
    fn only_whole_objects_are_taken() {
        let mut spans = spans();
        let refused = [(10, 9), (10, 11), (11, 9), (10, 50), (20, 40), (45, 5), (10, 0), (60, 0)];
        for (address, bytes) in refused {
            assert!(spans.exactly(address, bytes).is_err(), "{bytes} at {address}");
            assert!(spans.take(address, bytes).is_err(), "{bytes} at {address}");
            assert!(spans.take_one(address, bytes).is_err(), "{bytes} at {address}");
        }
        assert_eq!(spans.exactly(10, 30).map(|objects| objects.len()), Ok(2));
        assert!(spans.take_one(10, 30).is_err(), "two objects are not one");
        assert_eq!(spans.take(10, 30), Ok(vec!['a', 'b']));
        assert_eq!(spans.take_one(50, 10), Ok('c'));
        assert!(spans.take_one(50, 10).is_err());
    }

    #[test]
    fn objects_in_use_stay() {
        let mut spans = spans();
        let used = spans.around(20, 1).expect("it is there");
        let refused = spans.take(10, 30);
        assert!(matches!(refused, Err(CudaError::InvalidValue(text)) if text.contains("in use")));
        drop(used);
        assert_eq!(spans.take(10, 30), Ok(vec!['a', 'b']));
    }
}
