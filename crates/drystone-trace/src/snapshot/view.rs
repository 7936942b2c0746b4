//! Typed access to the values of a pickle, with errors that name the path to a value.

use std::fmt::Display;

use crate::arena::{Arena, NodeId, Value, Word};
use crate::error::{Position, TraceError, shown};
use crate::limits::{Exceeded, LimitKind};

/// A value that is not what it must be; the path grows from its end as the error goes up.
#[derive(Debug)]
pub(super) struct Mismatch {
    path: String,
    found: String,
    expected: String,
}

#[derive(Debug)]
pub(super) enum Failure {
    Mismatch(Box<Mismatch>),
    Limit(Exceeded),
}

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Self {
        Failure::Limit(exceeded)
    }
}

impl Failure {
    /// The value was found under `key`.
    pub(super) fn under(self, key: &str) -> Self {
        self.prefixed(|path| match path.as_bytes().first() {
            None | Some(b'[') => format!("{key}{path}"),
            Some(_) => format!("{key}.{path}"),
        })
    }

    /// The value was found at `index`.
    pub(super) fn at(self, index: impl Display) -> Self {
        self.prefixed(|path| match path.as_bytes().first() {
            None | Some(b'[') => format!("[{index}]{path}"),
            Some(_) => format!("[{index}].{path}"),
        })
    }

    fn prefixed(mut self, longer: impl FnOnce(&str) -> String) -> Self {
        if let Failure::Mismatch(mismatch) = &mut self {
            mismatch.path = longer(&mismatch.path);
        }
        self
    }
}

impl From<Failure> for TraceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Mismatch(mismatch) => {
                let Mismatch { path, found, expected } = *mismatch;
                let path = if path.is_empty() { "the whole".to_owned() } else { path };
                TraceError::Snapshot { path, found, expected }
            }
            Failure::Limit(exceeded) => exceeded.at(Position::Whole),
        }
    }
}

/// The values of one pickle, and how many of them may still be looked at.
///
/// Sharing lets a small pickle stand for a huge tree (a list of a list of …, each the same one ten
/// times). Each value of a real snapshot is visited about once, so that a multiple of their number
/// is enough for all of them.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) arena: &'a Arena<'a>,
    visits_left: u64,
    visits: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(arena: &'a Arena<'a>) -> Self {
        let visits = 16 * arena.word_count() as u64 + 4096;
        View { arena, visits_left: visits, visits }
    }

    /// Accounts for going over all items of `node`.
    pub(super) fn visit(&mut self, node: NodeId) -> Result<(), Failure> {
        let cost = self.arena.len(node) as u64 + 1;
        match self.visits_left.checked_sub(cost) {
            Some(left) => {
                self.visits_left = left;
                Ok(())
            }
            None => Err(Exceeded { kind: LimitKind::Expansion, allowed: self.visits }.into()),
        }
    }

    pub(super) fn mismatch(&self, word: Word, expected: &str) -> Failure {
        let value = self.arena.value(word);
        let found = match value {
            Value::Int(int) => format!("int {int}"),
            Value::Bool(bool) => format!("bool {bool}"),
            Value::Float(float) => format!("float {float}"),
            Value::Str(_, text) => format!("str {}", shown(text)),
            other => other.kind().to_owned(),
        };
        Failure::Mismatch(Box::new(Mismatch {
            path: String::new(),
            found,
            expected: expected.to_owned(),
        }))
    }

    pub(super) fn missing(&self, key: &str) -> Failure {
        Failure::Mismatch(Box::new(Mismatch {
            path: key.to_owned(),
            found: "nothing".to_owned(),
            expected: "this key".to_owned(),
        }))
    }

    /// A whole number from 0 to `most`.
    pub(super) fn number(&self, word: Word, most: u64) -> Result<u64, Failure> {
        let number = match self.arena.value(word) {
            Value::Int(int) => u64::try_from(int).ok(),
            Value::BigInt(bytes) => unsigned(bytes),
            _ => None,
        };
        number
            .filter(|&number| number <= most)
            .ok_or_else(|| self.mismatch(word, &format!("a whole number from 0 to {most}")))
    }

    /// A handle: 64 bits, which torch writes as a signed number.
    pub(super) fn handle(&self, word: Word) -> Result<u64, Failure> {
        match self.arena.value(word) {
            Value::Int(int) => Ok(int as u64),
            _ => self.number(word, u64::MAX),
        }
    }

    pub(super) fn bool(&self, word: Word) -> Result<bool, Failure> {
        match self.arena.value(word) {
            Value::Bool(bool) => Ok(bool),
            _ => Err(self.mismatch(word, "a bool")),
        }
    }

    pub(super) fn str(&self, word: Word) -> Result<&'a [u8], Failure> {
        match self.arena.value(word) {
            Value::Str(_, text) => Ok(text),
            _ => Err(self.mismatch(word, "a str")),
        }
    }

    /// A list or a tuple.
    pub(super) fn list(&self, word: Word) -> Result<NodeId, Failure> {
        match self.arena.value(word) {
            Value::List(node) | Value::Tuple(node) => Ok(node),
            _ => Err(self.mismatch(word, "a list")),
        }
    }

    pub(super) fn dict(&self, word: Word) -> Result<NodeId, Failure> {
        match self.arena.value(word) {
            Value::Dict(node) => Ok(node),
            _ => Err(self.mismatch(word, "a dict")),
        }
    }
}

fn unsigned(bytes: &[u8]) -> Option<u64> {
    let (low, high) = bytes.split_first_chunk::<8>()?;
    high.iter().all(|&byte| byte == 0).then(|| u64::from_le_bytes(*low))
}
