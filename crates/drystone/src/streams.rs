//! The streams that a pool has met, kept alive until the allocator has no more use for them.
//!
//! The allocator names a stream again long after a request on it: it records an event there when
//! somebody needs to know how far the stream has come. So a stream may not go before
//! `Allocator::stream_ends` was told. cudarc destroys a stream with the last `Arc` to it and tells
//! nobody. Therefore one `Arc` is kept here; streams of which it is the last one are ended from time
//! to time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// How many streams are kept without asking which of them have been dropped.
const FIRST_SWEEP: usize = 16;

/// A stream that memory was handed out or recorded on. Buffers hold it.
#[derive(Debug)]
pub(crate) struct Known<S> {
    /// The wrapper that came first; others of the same handle are not kept.
    pub(crate) stream: Arc<S>,
}

/// The streams by handle.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    inner: RwLock<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    known: HashMap<u64, Arc<Known<S>>>,
    /// As many streams lead to the next sweep.
    sweep_at: usize,
}

impl<S> Default for Streams<S> {
    fn default() -> Self {
        let inner = Inner { known: HashMap::new(), sweep_at: FIRST_SWEEP };
        Streams { inner: RwLock::new(inner) }
    }
}

impl<S> Streams<S> {
    /// The stream of that handle, known from now on; and whether it is time to end those that were
    /// dropped.
    pub(crate) fn meet(&self, id: u64, stream: &Arc<S>) -> (Arc<Known<S>>, bool) {
        if let Some(known) = self.inner.read().known.get(&id) {
            return (Arc::clone(known), false);
        }
        let mut inner = self.inner.write();
        let new = || Arc::new(Known { stream: Arc::clone(stream) });
        let known = Arc::clone(inner.known.entry(id).or_insert_with(new));
        (known, inner.known.len() >= inner.sweep_at)
    }

    /// Ends every stream that nobody else holds. The first error is given after all were tried.
    pub(crate) fn end_dropped<E>(&self, end: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
        let dropped: Vec<_> = {
            let mut inner = self.inner.write();
            let alone = |known: &Arc<Known<S>>| {
                Arc::strong_count(known) == 1 && Arc::strong_count(&known.stream) == 1
            };
            let dropped = inner.known.extract_if(|_, known| alone(known)).collect();
            inner.sweep_at = (2 * inner.known.len()).max(FIRST_SWEEP);
            dropped
        };
        let ended = dropped.into_iter().map(|(id, known)| self.finish(id, known, &end));
        ended.fold(Ok(()), Result::and)
    }

    /// Ends one stream, whoever holds its wrapper; an error with the number of users if there are
    /// any. A stream that is not known needs no ending.
    pub(crate) fn end<E>(
        &self,
        id: u64,
        in_use: impl Fn(usize) -> E,
        end: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = {
            let mut inner = self.inner.write();
            let users = inner.known.get(&id).map_or(0, |known| Arc::strong_count(known) - 1);
            if users > 0 {
                return Err(in_use(users));
            }
            inner.known.remove(&id)
        };
        known.map_or(Ok(()), |known| self.finish(id, known, &end))
    }

    /// Tells the allocator, without the lock, since it waits for the device.
    fn finish<E>(
        &self,
        id: u64,
        known: Arc<Known<S>>,
        end: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        end(id).inspect_err(|_| {
            // The allocator may still name it: it goes on living, for good if the place is taken by
            // another wrapper of the same handle.
            if let Some(old) = self.inner.write().known.insert(id, known) {
                std::mem::forget(old);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    /// The ids that were ended, in order of their numbers.
    fn dropped(streams: &Streams<&'static str>) -> Vec<u64> {
        let ended = RefCell::new(BTreeSet::new());
        let note = |id| {
            ended.borrow_mut().insert(id);
            Ok::<(), ()>(())
        };
        streams.end_dropped(note).expect("it never fails");
        ended.into_inner().into_iter().collect()
    }

    #[test]
    fn a_stream_ends_when_neither_wrapper_nor_buffer_holds_it() {
        let streams = Streams::default();
        let (first, second) = (Arc::new("first"), Arc::new("second"));
        let (buffer, _) = streams.meet(1, &first);
        drop(streams.meet(2, &second));
        assert_eq!(dropped(&streams), []);
        drop((first, second));
        assert_eq!(dropped(&streams), [2]);
        drop(buffer);
        assert_eq!(dropped(&streams), [1]);
        assert_eq!(dropped(&streams), []);
    }

    #[test]
    fn wrappers_of_one_handle_are_one_stream() {
        let streams = Streams::default();
        let (known, _) = streams.meet(7, &Arc::new("a"));
        let (same, _) = streams.meet(7, &Arc::new("b"));
        assert!(Arc::ptr_eq(&known, &same));
        assert_eq!(*same.stream, "a");
    }

    #[test]
    fn a_stream_in_use_does_not_end() {
        let streams = Streams::default();
        let stream = Arc::new("s");
        let (buffer, _) = streams.meet(3, &stream);
        let users = |users| format!("{users} users");
        assert_eq!(streams.end(3, users, |_| Ok(())), Err("1 users".to_owned()));
        drop(buffer);
        let capture = |_| Err("capture".to_owned());
        assert_eq!(streams.end(3, users, capture), Err("capture".to_owned()));
        assert_eq!(streams.end(3, users, |_| Ok(())), Ok(()));
        assert_eq!(streams.end(3, users, capture), Ok(()), "it is not known any more");
    }

    #[test]
    fn a_stream_that_cannot_end_stays_known() {
        let streams = Streams::default();
        drop(streams.meet(4, &Arc::new("s")));
        assert_eq!(streams.end_dropped(|_| Err("capture")), Err("capture"));
        assert_eq!(dropped(&streams), [4]);
    }

    #[test]
    fn many_streams_are_swept_now_and_then() {
        let streams = Streams::default();
        let mut sweeps = 0;
        for id in 0..1000 {
            if streams.meet(id, &Arc::new("short-lived")).1 {
                sweeps += 1;
                dropped(&streams);
            }
        }
        assert_eq!(sweeps, 1000 / FIRST_SWEEP);
    }
}
