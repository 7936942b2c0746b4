//! Segments cut into chunks that know their neighbours.

use slab::Slab;

/// The name of a chunk while it exists.
pub(in crate::policy) type ChunkId = usize;

/// A piece of a segment, and what the policy keeps about it.
#[derive(Debug)]
pub(in crate::policy) struct Chunk<T> {
    pub(in crate::policy) address: u64,
    pub(in crate::policy) bytes: u64,
    /// The chunks before and after it in the same segment.
    pub(in crate::policy) previous: Option<ChunkId>,
    pub(in crate::policy) next: Option<ChunkId>,
    pub(in crate::policy) data: T,
}

impl<T> Chunk<T> {
    /// Whether it is a whole segment.
    pub(in crate::policy) fn is_whole(&self) -> bool {
        self.previous.is_none() && self.next.is_none()
    }
}

/// The chunks of all segments.
#[derive(Debug)]
pub(in crate::policy) struct Chunks<T>(Slab<Chunk<T>>);

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks(Slab::new())
    }
}

impl<T> Chunks<T> {
    /// Adds a segment as one chunk.
    pub(in crate::policy) fn add(&mut self, address: u64, bytes: u64, data: T) -> ChunkId {
        self.0.insert(Chunk { address, bytes, previous: None, next: None, data })
    }

    /// Cuts a chunk of more than `bytes` after them; the new chunk behind it has `data`.
    pub(in crate::policy) fn split(&mut self, id: ChunkId, bytes: u64, data: T) -> ChunkId {
        let chunk = &mut self.0[id];
        let (address, rest, next) = (chunk.address + bytes, chunk.bytes - bytes, chunk.next);
        chunk.bytes = bytes;
        let new = Chunk { address, bytes: rest, previous: Some(id), next, data };
        let new = self.0.insert(new);
        self.0[id].next = Some(new);
        if let Some(next) = next {
            self.0[next].previous = Some(new);
        }
        new
    }

    /// Adds the chunk behind this one, if there is one, to it.
    pub(in crate::policy) fn absorb_next(&mut self, id: ChunkId) {
        let Some(next) = self.0[id].next else { return };
        let gone = self.0.remove(next);
        self.0[id].bytes += gone.bytes;
        self.0[id].next = gone.next;
        if let Some(after) = gone.next {
            self.0[after].previous = Some(id);
        }
    }

    /// Forgets a whole segment.
    pub(in crate::policy) fn remove(&mut self, id: ChunkId) -> Chunk<T> {
        self.0.remove(id)
    }
}

impl<T> std::ops::Index<ChunkId> for Chunks<T> {
    type Output = Chunk<T>;

    fn index(&self, id: ChunkId) -> &Chunk<T> {
        &self.0[id]
    }
}

impl<T> std::ops::IndexMut<ChunkId> for Chunks<T> {
    fn index_mut(&mut self, id: ChunkId) -> &mut Chunk<T> {
        &mut self.0[id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_can_be_joined_again() {
        let mut chunks = Chunks::default();
        let first = chunks.add(1000, 100, 'a');
        let third = chunks.split(first, 60, 'c');
        let second = chunks.split(first, 20, 'b');
        assert_eq!((chunks[second].address, chunks[second].bytes), (1020, 40));
        assert_eq!(chunks[second].previous, Some(first));
        assert_eq!((chunks[first].next, chunks[third].previous), (Some(second), Some(second)));
        chunks.absorb_next(second);
        assert_eq!((chunks[second].bytes, chunks[second].next), (80, None));
        chunks.absorb_next(first);
        chunks.absorb_next(first);
        assert!(chunks[first].is_whole());
        let gone = chunks.remove(first);
        assert_eq!((gone.address, gone.bytes, gone.data), (1000, 100, 'a'));
    }
}
