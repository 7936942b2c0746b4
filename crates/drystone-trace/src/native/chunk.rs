//! Chunks: what a native trace consists of. Each has a head with a checksum, and pieces that are
//! compressed one by one, since values of one kind compress best among themselves.

use std::io::{self, Write};

use super::bytes::{Bytes, put};
use crate::error::{NativeProblem, Position, TraceError};
use crate::input::Input;
use crate::limits::{Exceeded, LimitKind};

/// The first bytes of every native trace. As in PNG: the first has its top bit set, and the line
/// ends show whether something took the file for text.
pub(crate) const MAGIC: [u8; 8] = *b"\x89DST\r\n\x1a\n";

/// The version that is written, and the latest that is read.
pub(super) const VERSION: u32 = 1;

/// Bytes of a chunk's head: kind, items, bytes of the body, checksum.
const HEAD: usize = 1 + 4 + 4 + 4;

/// A body has at most so many bytes: one text of the greatest length that a pickle may have, and more.
const MOST_BODY: u32 = 32 << 20;

/// A piece may unfold to so much, and above it to so many times what it takes. Columns of equal
/// numbers shrink several thousandfold, but are short.
const FREE_BYTES: u64 = 1 << 20;
const MOST_RATIO: u64 = 256;

/// Where speed and size are both good: 20 million events a second on a core, and within a tenth of
/// what the highest level reaches.
const LEVEL: i32 = 9;

/// What a chunk has. Kinds from 128 on are left out by readers that do not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Head = 1,
    Stacks = 2,
    Events = 3,
    Segments = 4,
    End = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Head, Kind::Stacks, Kind::Events, Kind::Segments, Kind::End]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Head => "the head",
            Kind::Stacks => "stacks",
            Kind::Events => "events",
            Kind::Segments => "segments",
            Kind::End => "the end",
        }
    }
}

/// Kinds from here on may be left out.
const OPTIONAL: u8 = 128;

pub(super) fn write_start(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())
}

/// Writes chunks.
pub(super) struct ChunkWriter {
    packer: zstd::bulk::Compressor<'static>,
    body: Vec<u8>,
    packed: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new() -> io::Result<Self> {
        let packer = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(ChunkWriter { packer, body: Vec::new(), packed: Vec::new() })
    }

    /// Writes one; `items` says how many things the pieces are about.
    pub(super) fn write(
        &mut self,
        out: &mut impl Write,
        kind: Kind,
        items: u32,
        pieces: &[&[u8]],
    ) -> io::Result<()> {
        self.body.clear();
        for piece in pieces {
            self.pack(piece)?;
        }
        let size = u32::try_from(self.body.len()).ok().filter(|&size| size <= MOST_BODY);
        let size = size.ok_or_else(|| {
            let most = MOST_BODY >> 20;
            io::Error::new(io::ErrorKind::InvalidInput, format!("a text above {most} MiB"))
        })?;
        let mut head = [0; HEAD];
        head[0] = kind as u8;
        head[1..5].copy_from_slice(&items.to_le_bytes());
        head[5..9].copy_from_slice(&size.to_le_bytes());
        let sum = checksum(&head[..9], &self.body);
        head[9..].copy_from_slice(&sum.to_le_bytes());
        out.write_all(&head)?;
        out.write_all(&self.body)
    }

    fn pack(&mut self, piece: &[u8]) -> io::Result<()> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(piece.len()));
        self.packer.compress_to_buffer(piece, &mut self.packed)?;
        // What does not shrink stays as it is, which equal lengths say.
        let packed = if self.packed.len() < piece.len() { &self.packed[..] } else { piece };
        put(&mut self.body, piece.len() as u64);
        put(&mut self.body, packed.len() as u64);
        self.body.extend_from_slice(packed);
        Ok(())
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// A chunk as it was read, its checksum found right.
pub(super) struct Chunk {
    pub(super) kind: Kind,
    pub(super) items: u32,
    /// Where it begins in the input.
    pub(super) offset: u64,
    body: Vec<u8>,
}

/// Reads chunks.
pub(super) struct ChunkReader<'a> {
    input: Input<'a>,
    unpacker: zstd::bulk::Decompressor<'static>,
    offset: u64,
}

impl<'a> ChunkReader<'a> {
    /// Reads the start of the file.
    pub(super) fn new(input: Input<'a>) -> Result<Self, TraceError> {
        let unpacker =
            zstd::bulk::Decompressor::new().map_err(|source| TraceError::Io { source })?;
        let mut this = ChunkReader { input, unpacker, offset: 0 };
        let mut start = [0; MAGIC.len() + 4];
        this.fill(&mut start, 0)?;
        let version = start[MAGIC.len()..].iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
        if version == 0 || version > VERSION {
            let problem = NativeProblem::Version { found: version, known: VERSION };
            return Err(TraceError::Native { offset: MAGIC.len() as u64, problem });
        }
        Ok(this)
    }

    /// Bytes of the file read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next chunk that is known, with its memory from `reuse`.
    pub(super) fn next(&mut self, mut reuse: Vec<u8>) -> Result<Chunk, TraceError> {
        loop {
            let offset = self.offset;
            let mut head = [0; HEAD];
            self.fill(&mut head, offset)?;
            let number = |at: usize| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let (items, size, expected) = (number(1), number(5), number(9));
            let wrong = |problem| TraceError::Native { offset, problem };
            if size > MOST_BODY {
                return Err(wrong(content("the size of a chunk", size, at_most(MOST_BODY))));
            }
            self.body(&mut reuse, size as usize, offset)?;
            let found = checksum(&head[..9], &reuse);
            if found != expected {
                return Err(wrong(NativeProblem::Checksum { found, expected }));
            }
            match Kind::of(head[0]) {
                Some(kind) => return Ok(Chunk { kind, items, offset, body: reuse }),
                None if head[0] >= OPTIONAL => {}
                None => return Err(wrong(NativeProblem::UnknownChunk(head[0]))),
            }
        }
    }

    /// Unpacks a chunk's pieces. Of the `required` ones none may be missing; the others are empty where
    /// they are. Those that a newer writer added behind are left out.
    pub(super) fn unpack<const N: usize>(
        &mut self,
        chunk: &Chunk,
        required: usize,
        pieces: &mut [Vec<u8>; N],
    ) -> Result<(), TraceError> {
        let mut body = Bytes(&chunk.body);
        for (index, piece) in pieces.iter_mut().enumerate() {
            if index >= required && body.0.is_empty() {
                piece.clear();
                continue;
            }
            let sizes = body.number().zip(body.number());
            let packed = sizes.and_then(|(size, packed)| Some((size, body.take(packed)?)));
            let Some((size, packed)) = packed else {
                return Err(chunk.content("a piece", "less than it says", "all of it"));
            };
            piece.clear();
            if size == packed.len() as u64 {
                piece.extend_from_slice(packed);
                continue;
            }
            let allowed = FREE_BYTES + MOST_RATIO * packed.len() as u64;
            if size > allowed {
                let exceeded = Exceeded { kind: LimitKind::DecompressedBytes, allowed };
                return Err(exceeded.at(Position::Byte(chunk.offset)));
            }
            piece.reserve_exact(size as usize);
            let damaged = |found: String| chunk.content("a piece", found, format!("{size} bytes"));
            let unpacked = self.unpacker.decompress_to_buffer(packed, piece);
            let n = unpacked.map_err(|error| damaged(error.to_string()))?;
            if n as u64 != size {
                return Err(damaged(format!("{n} bytes")));
            }
        }
        Ok(())
    }

    /// Reads a body step by step, so that a head that lies takes no memory.
    fn body(&mut self, body: &mut Vec<u8>, size: usize, offset: u64) -> Result<(), TraceError> {
        const STEP: usize = 1 << 16;
        body.clear();
        while body.len() < size {
            let from = body.len();
            body.resize(size.min(from + STEP), 0);
            self.fill(&mut body[from..], offset)?;
        }
        Ok(())
    }

    /// Fills `buffer`; the chunk that it belongs to begins at `start`.
    fn fill(&mut self, buffer: &mut [u8], start: u64) -> Result<(), TraceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let n = self.input.read(&mut buffer[filled..])?;
            if n == 0 {
                let (needed, left) = (buffer.len() as u64, filled as u64);
                let problem = NativeProblem::Truncated { needed, left };
                return Err(TraceError::Native { offset: start, problem });
            }
            filled += n;
        }
        self.offset += filled as u64;
        Ok(())
    }
}

impl Chunk {
    /// The memory of the chunk, for the next one.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.body
    }

    pub(super) fn content(
        &self,
        what: &'static str,
        found: impl ToString,
        expected: impl ToString,
    ) -> TraceError {
        TraceError::Native { offset: self.offset, problem: content(what, found, expected) }
    }

    pub(super) fn misplaced(&self) -> TraceError {
        let problem = NativeProblem::Misplaced(self.kind.name());
        TraceError::Native { offset: self.offset, problem }
    }
}

pub(super) fn at_most(most: impl std::fmt::Display) -> String {
    format!("at most {most}")
}

fn content(what: &'static str, found: impl ToString, expected: impl ToString) -> NativeProblem {
    NativeProblem::Content { what, found: found.to_string(), expected: expected.to_string() }
}
