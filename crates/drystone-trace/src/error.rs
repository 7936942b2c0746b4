//! What can go wrong with an input, and where: every error names its place and what is allowed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::limits::LimitKind;

/// A place in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Position {
    /// The input as a whole.
    Whole,
    /// A line of a CSV, counted from 1.
    Line(u64),
    /// A byte of the decompressed input, counted from 0.
    Byte(u64),
    /// `device_traces[device][index]` of a snapshot.
    Entry {
        /// Which ring.
        device: u32,
        /// Which entry of it, from 0.
        index: u64,
    },
    /// `segments[index]` of a snapshot.
    Segment(u64),
    /// An event of a native trace, counted from 0.
    Event(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Whole => f.write_str("the input"),
            Position::Line(line) => write!(f, "line {line}"),
            Position::Byte(offset) => write!(f, "byte {offset}"),
            Position::Entry { device, index } => write!(f, "device_traces[{device}][{index}]"),
            Position::Segment(index) => write!(f, "segments[{index}]"),
            Position::Event(index) => write!(f, "event {index}"),
        }
    }
}

/// How an input is compressed; known by its first bytes, not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        })
    }
}

/// Why an input could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// There is no such file.
    #[error("no such file: {}", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The path names a directory.
    #[error("{} is a directory; name a trace file (.csv, .pickle, .json or .dst, also with .xz or .zst)", path.display())]
    IsDirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused to read.
    #[error("cannot read the input")]
    Io {
        /// What it said.
        source: io::Error,
    },
    /// The compressed data is damaged or cut short.
    #[error("damaged or incomplete {compression} data, behind byte {offset} of what it unfolds to")]
    Decompress {
        /// What it looked like.
        compression: Compression,
        /// How much was read, after decompression, before that showed.
        offset: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The input is none of the known formats.
    #[error(
        "unknown format (starts with {start}); known are CSV with the columns \
         t_us,op,id,size,stream, logs of RMM, snapshots of torch.cuda.memory (pickles or JSON) and \
         native traces (.dst), each as it is or compressed with xz or zstd"
    )]
    UnknownFormat {
        /// The first bytes, escaped.
        start: String,
    },
    /// Logs of several devices that do not go together.
    #[error("the logs of several devices: found {found}, expected {expected}")]
    Devices {
        /// What was found.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A run cannot be written as a snapshot, which has addresses.
    #[error("the blocks of the run need more than 2^62 bytes of addresses, which no snapshot has")]
    NoRoom,
    /// A line of a CSV is not what it must be.
    #[error("line {line}, {column}: found {found}, expected {allowed}")]
    Csv {
        /// The line, from 1.
        line: u64,
        /// The column's name, or `line` where the line as a whole is meant.
        column: &'static str,
        /// What was there, shortened and escaped.
        found: String,
        /// What is allowed there.
        allowed: String,
    },
    /// A pickle is malformed, or wants more than to be read.
    #[error("pickle, byte {offset}: {problem}")]
    Pickle {
        /// Where the instruction begins, in the decompressed input.
        offset: u64,
        /// What is wrong with it.
        problem: PickleProblem,
    },
    /// A text that begins as JSON is none.
    #[error("JSON, byte {offset}: {problem}")]
    Json {
        /// Where that showed, in the decompressed input.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A pickle or a JSON text is well-formed, but no snapshot.
    #[error("snapshot, {path}: found {found}, expected {expected}")]
    Snapshot {
        /// Which value, as in `device_traces[0][17].size`.
        path: String,
        /// What was there, shortened and escaped.
        found: String,
        /// What is allowed there.
        expected: String,
    },
    /// A native trace is damaged, or of a version that is not understood.
    #[error("native trace, byte {offset}: {problem}")]
    Native {
        /// Where the part that is wrong begins, in the decompressed input.
        offset: u64,
        /// What is wrong with it.
        problem: NativeProblem,
    },
    /// One of the [`Limits`](crate::Limits) was passed.
    #[error("more than {allowed} {kind}, at {position}")]
    Limit {
        /// Which.
        kind: LimitKind,
        /// What it allows.
        allowed: u64,
        /// Where it was passed.
        position: Position,
    },
}

/// What is wrong with a part of a native trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NativeProblem {
    /// It was written by a newer version of Drystone.
    #[error(
        "version {found} of the format; versions up to {known} are understood, so that a newer drystone is needed"
    )]
    Version {
        /// The file's version.
        found: u32,
        /// The latest that is understood.
        known: u32,
    },
    /// The input ends before the chunk that ends every trace.
    #[error("cut short: {needed} bytes needed, {left} left")]
    Truncated {
        /// Bytes that must follow.
        needed: u64,
        /// Bytes that do.
        left: u64,
    },
    /// The bytes of a chunk are not those that were written.
    #[error("the checksum is {found:#010x}, expected {expected:#010x}: the chunk is damaged")]
    Checksum {
        /// The checksum of what is there.
        found: u32,
        /// The checksum that was written.
        expected: u32,
    },
    /// A kind of chunk that cannot be left out and is not known.
    #[error("no chunk has the kind {0}")]
    UnknownChunk(u8),
    /// A chunk in a place where it cannot be.
    #[error("a chunk of {0} where none may be")]
    Misplaced(&'static str),
    /// A chunk says something that cannot be.
    #[error("{what}: found {found}, expected {expected}")]
    Content {
        /// What it is about.
        what: &'static str,
        /// What was there.
        found: String,
        /// What is allowed there.
        expected: String,
    },
}

/// What is wrong with an instruction of a pickle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleProblem {
    /// The input ends inside the instruction, or before the pickle's end.
    #[error("cut short: {needed} bytes needed, {left} left")]
    Truncated {
        /// Bytes that must follow.
        needed: u64,
        /// Bytes that do.
        left: u64,
    },
    /// The instruction imports, calls or looks up objects; nothing here does that.
    #[error(
        "{0} would execute code; a memory snapshot needs none, do not open this file elsewhere"
    )]
    WouldExecuteCode(&'static str),
    /// The instruction refers to data kept outside of the pickle.
    #[error("{0} refers to data outside of the pickle")]
    OutOfBand(&'static str),
    /// An instruction of the text protocols 0 and 1.
    #[error("{0} belongs to protocol 0; protocols 2 to 5 are understood")]
    TextProtocol(&'static str),
    /// A protocol that is not understood.
    #[error("protocol {0}; protocols 2 to 5 are understood")]
    Protocol(u8),
    /// No instruction has this number.
    #[error("no instruction has the number {0:#04x}")]
    UnknownOpcode(u8),
    /// The instruction needs more values than there are.
    #[error("{0} needs more values than there are")]
    StackUnderflow(&'static str),
    /// The instruction needs a mark, and there is none.
    #[error("{0} without a mark")]
    NoMark(&'static str),
    /// The instruction works on another kind of value.
    #[error("{opcode} works on {expected}, found {found}")]
    WrongTarget {
        /// The instruction.
        opcode: &'static str,
        /// What it works on.
        expected: &'static str,
        /// What it was given.
        found: &'static str,
    },
    /// A key without a value.
    #[error("{0} with a key that has no value")]
    OddItems(&'static str),
    /// A key that cannot be one.
    #[error("{0} cannot be a key or a member of a set")]
    Unhashable(&'static str),
    /// Nothing was kept under this number.
    #[error("nothing was kept under the number {0}")]
    UnknownMemo(u64),
    /// A length below zero.
    #[error("length {0} is below zero")]
    NegativeLength(i32),
}

/// Input as it may be shown in a message: on one line, without control characters, cut after 32
/// bytes.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let head = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", head.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_input_is_short_and_printable() {
        assert_eq!(shown(b""), "nothing");
        assert_eq!(shown(b"a\x1b[31m\"\n"), r#""a\x1b[31m\"\n""#);
        let long = shown(&[b'x'; 1000]);
        assert!(long.len() < 50 && long.ends_with("…\""), "{long}");
    }

    #[test]
    fn errors_stay_small_enough_to_return() {
        assert!(size_of::<TraceError>() <= 96);
    }
}
