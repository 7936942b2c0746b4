//! Bytes of an input, decompressed as they are read, never more than the limits allow.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;
use std::rc::Rc;

use crate::error::{Compression, Position, TraceError};
use crate::limits::{Budget, Exceeded, LimitKind, Limits};

const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// The first bytes that tell formats apart.
const HEAD: usize = 32;

/// An input that is being read.
pub(crate) struct Input<'a> {
    reader: Box<dyn Read + 'a>,
    compression: Option<Compression>,
    head: Vec<u8>,
    head_used: usize,
    taken: u64,
    allowed: u64,
    /// Bytes of the file itself that were read.
    raw: Rc<Cell<u64>>,
    limits: Limits,
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

impl<'a> Input<'a> {
    /// Opens a file.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Input<'static>, TraceError> {
        let not_opened = |source: io::Error| match source.kind() {
            ErrorKind::NotFound => TraceError::NotFound { path: path.to_owned() },
            ErrorKind::IsADirectory => TraceError::IsDirectory { path: path.to_owned() },
            _ => TraceError::Io { source },
        };
        let file = File::open(path).map_err(not_opened)?;
        // Opening a directory succeeds on Unix; reading it is what fails.
        if file.metadata().map_err(not_opened)?.is_dir() {
            return Err(TraceError::IsDirectory { path: path.to_owned() });
        }
        Input::new(file, limits)
    }

    /// Reads from memory.
    pub(crate) fn from_bytes(bytes: &'a [u8], limits: &Limits) -> Result<Self, TraceError> {
        Input::new(bytes, limits)
    }

    /// Reads from anything.
    pub(crate) fn new(raw: impl Read + 'a, limits: &Limits) -> Result<Self, TraceError> {
        let count = Rc::new(Cell::new(0));
        let mut raw = Counted { inner: raw, count: Rc::clone(&count) };
        let mut start = Vec::new();
        (&mut raw)
            .take(XZ_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(|source| TraceError::Io { source })?;
        let compression = if start.starts_with(XZ_MAGIC) {
            Some(Compression::Xz)
        } else if start.starts_with(ZSTD_MAGIC) {
            Some(Compression::Zstd)
        } else {
            None
        };
        let raw = BufReader::with_capacity(1 << 16, Cursor::new(start).chain(raw));
        let refused = |source| TraceError::Io { source };
        let reader: Box<dyn Read + 'a> = match compression {
            None => Box::new(raw),
            Some(Compression::Xz) => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    limits.max_memory_bytes,
                    liblzma::stream::CONCATENATED,
                )
                .map_err(|error| refused(error.into()))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(raw, stream))
            }
            Some(Compression::Zstd) => {
                Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(refused)?)
            }
        };
        let mut input = Input {
            reader,
            compression,
            head: Vec::new(),
            head_used: 0,
            taken: 0,
            allowed: limits.max_decompressed_bytes,
            raw: count,
            limits: limits.clone(),
        };
        input.fill_head()?;
        Ok(input)
    }

    fn fill_head(&mut self) -> Result<(), TraceError> {
        let mut head = [0; HEAD];
        let mut filled = 0;
        while filled < HEAD {
            match self.read_on(&mut head[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        self.head = head[..filled].to_vec();
        Ok(())
    }

    /// The first bytes; all of a shorter input.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Reads into `buffer`; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TraceError> {
        let waiting = &self.head[self.head_used..];
        if waiting.is_empty() {
            return self.read_on(buffer);
        }
        let n = waiting.len().min(buffer.len());
        buffer[..n].copy_from_slice(&waiting[..n]);
        self.head_used += n;
        Ok(n)
    }

    /// All that is left, charged to `budget`; at most `most` bytes.
    pub(crate) fn read_all(
        mut self,
        budget: &mut Budget,
        most: u64,
    ) -> Result<Vec<u8>, TraceError> {
        const STEP: usize = 1 << 16;
        let mut all = Vec::new();
        self.allowed = self.allowed.min(most);
        loop {
            let filled = all.len();
            budget.reserve(&mut all, STEP).map_err(|e| e.at(Position::Byte(filled as u64)))?;
            all.resize(all.capacity(), 0);
            let n = self.read(&mut all[filled..])?;
            all.truncate(filled + n);
            if n == 0 {
                return Ok(all);
            }
        }
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, TraceError> {
        let n = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.map_err(|source| self.failed(source))?,
            }
        };
        self.taken += n as u64;
        let allowed = match self.compression {
            None => self.allowed,
            Some(_) => self.allowed.min(self.limits.unfolded(self.raw.get())),
        };
        if self.taken > allowed {
            let exceeded = Exceeded { kind: LimitKind::DecompressedBytes, allowed };
            return Err(exceeded.at(Position::Byte(allowed)));
        }
        Ok(n)
    }

    /// Bytes read so far, after decompression.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    fn failed(&self, source: io::Error) -> TraceError {
        match self.compression {
            None => TraceError::Io { source },
            Some(compression) => TraceError::Decompress { compression, offset: self.taken, source },
        }
    }
}
