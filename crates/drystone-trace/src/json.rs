//! Reads JSON as plain values, into the same [`Arena`] as a pickle.
//!
//! A snapshot as JSON repeats what a pickle shares: the frames of a stack stand in every entry. So
//! equal strings are kept once, and so are equal containers under a key `frames`.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::arena::{Arena, Tag, Word};
use crate::error::{Position, TraceError};
use crate::limits::{Budget, Exceeded, LimitKind, Limits};

/// Below this key equal containers are kept once.
const SHARED: &str = "frames";

/// What an entry of a [`HashMap`] takes at most: up to 2.3 times its bytes after it has doubled, and
/// the old half while it does.
const STRING_ENTRY_BYTES: u64 = 84;
const CONTAINER_ENTRY_BYTES: u64 = 58;

/// Whether what begins so can be JSON: a list or a dict.
pub(crate) fn is_json(head: &[u8]) -> bool {
    matches!(head.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Reads the one value in `text` (shorter than 4 GiB).
pub(crate) fn read<'a>(
    text: &'a [u8],
    limits: &Limits,
    budget: &mut Budget,
) -> Result<(Arena<'a>, Word), TraceError> {
    let mut values = Values {
        text,
        arena: Arena::new(text, limits.max_depth),
        stack: Vec::new(),
        strings: HashMap::new(),
        shared: HashMap::new(),
        hasher: RandomState::new(),
        charged: 0,
        limits,
        budget,
        objects: 0,
        stop: None,
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = One { values: &mut values, shared: false }.deserialize(&mut reader);
    match read.and_then(|top| reader.end().map(|()| top)) {
        Ok(top) => Ok((values.finish(), top)),
        Err(error) => {
            let offset = offset(text, &error);
            Err(match values.stop {
                Some(exceeded) => exceeded.at(Position::Byte(offset)),
                None => TraceError::Json { offset, problem: problem(&error) },
            })
        }
    }
}

/// Where an error was noticed, from its line and the byte in it.
fn offset(text: &[u8], error: &serde_json::Error) -> u64 {
    let lines = text.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len()) as u64
}

/// The error without its line and column, which say little of a text on one line.
fn problem(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    if text.ends_with(&place) {
        text.truncate(text.len() - place.len());
    }
    text
}

/// The values read so far.
struct Values<'a, 'b> {
    text: &'a [u8],
    arena: Arena<'a>,
    /// The items of containers that are not at their end.
    stack: Vec<Word>,
    strings: HashMap<&'a str, Word>,
    /// Containers by what is in them.
    shared: HashMap<u64, Word>,
    hasher: RandomState,
    /// What the budget was charged for the tables.
    charged: u64,
    limits: &'b Limits,
    budget: &'b mut Budget,
    objects: u64,
    /// The limit that was passed, where one was: an error of serde has only text.
    stop: Option<Exceeded>,
}

impl<'a> Values<'a, '_> {
    /// The values; what only their making needed is given back.
    fn finish(self) -> Arena<'a> {
        self.budget.release(self.stack);
        self.budget.refund(self.charged);
        self.arena
    }

    fn push(&mut self, word: Word) -> Result<(), Exceeded> {
        if self.objects == self.limits.max_objects {
            let allowed = self.limits.max_objects;
            return Err(Exceeded { kind: LimitKind::Objects, allowed });
        }
        self.objects += 1;
        self.budget.push(&mut self.stack, word)
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.budget.charge(bytes)?;
        self.charged += bytes;
        Ok(())
    }

    /// A string that stands in the text as it is.
    fn string(&mut self, text: &'a str) -> Result<Word, Exceeded> {
        if let Some(&known) = self.strings.get(text) {
            return Ok(known);
        }
        self.check(text)?;
        self.charge(STRING_ENTRY_BYTES)?;
        let start = text.as_ptr() as usize - self.text.as_ptr() as usize;
        let word = self.arena.span(Tag::Str, start, text.len(), self.budget)?;
        self.strings.insert(text, word);
        Ok(word)
    }

    /// A string with escapes.
    fn own_string(&mut self, text: &str) -> Result<Word, Exceeded> {
        self.check(text)?;
        self.arena.own(Tag::Str, text.as_bytes(), self.budget)
    }

    fn check(&self, text: &str) -> Result<(), Exceeded> {
        let allowed = self.limits.max_string_bytes;
        match text.len() as u64 <= allowed {
            true => Ok(()),
            false => Err(Exceeded { kind: LimitKind::StringBytes, allowed }),
        }
    }

    fn int(&mut self, value: u64) -> Result<Word, Exceeded> {
        if let Ok(value) = i64::try_from(value) {
            return self.arena.int(value, self.budget);
        }
        // As a pickle has it: with a byte for the sign.
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.arena.own(Tag::BigInt, &[a, b, c, d, e, f, g, h, 0], self.budget)
    }

    /// A container of all that lies on the stack from `start` on.
    fn container(&mut self, tag: Tag, start: usize, shared: bool) -> Result<Word, Exceeded> {
        let items = &self.stack[start..];
        let hash = shared.then(|| self.hasher.hash_one((tag, items)));
        let known = hash.and_then(|hash| self.shared.get(&hash)).copied();
        if let Some(known) = known.filter(|&known| self.arena.is(known, tag, items)) {
            self.stack.truncate(start);
            return Ok(known);
        }
        let word = self.arena.container(tag, items, self.budget)?;
        self.stack.truncate(start);
        if let Some(hash) = hash {
            self.charge(CONTAINER_ENTRY_BYTES)?;
            self.shared.insert(hash, word);
        }
        Ok(word)
    }
}

/// Reads one value.
struct One<'v, 'a, 'b> {
    values: &'v mut Values<'a, 'b>,
    /// Whether equal containers are kept once.
    shared: bool,
}

impl One<'_, '_, '_> {
    fn made<E: Error>(self, word: Result<Word, Exceeded>) -> Result<Word, E> {
        word.map_err(|exceeded| {
            self.values.stop = Some(exceeded);
            E::custom("a limit")
        })
    }
}

impl<'a> DeserializeSeed<'a> for One<'_, 'a, '_> {
    type Value = Word;

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Word, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for One<'_, 'a, '_> {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Word, E> {
        Ok(Word::NONE)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Word, E> {
        Ok(if value { Word::TRUE } else { Word::FALSE })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Word, E> {
        let word = self.values.arena.int(value, self.values.budget);
        self.made(word)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Word, E> {
        let word = self.values.int(value);
        self.made(word)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Word, E> {
        let word = self.values.arena.float(value, self.values.budget);
        self.made(word)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<Word, E> {
        let word = self.values.string(text);
        self.made(word)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
        let word = self.values.own_string(text);
        self.made(word)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Word, A::Error> {
        let start = self.values.stack.len();
        let Self { values, shared } = self;
        while let Some(word) = items.next_element_seed(One { values: &mut *values, shared })? {
            let pushed = values.push(word);
            One { values: &mut *values, shared }.made(pushed.map(|()| word))?;
        }
        let word = values.container(Tag::List, start, shared);
        One { values, shared }.made(word)
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<Word, A::Error> {
        let start = self.values.stack.len();
        let Self { values, shared } = self;
        while let Some(key) = entries.next_key_seed(One { values: &mut *values, shared })? {
            let below = shared || values.arena.is_str(key, SHARED);
            let word = entries.next_value_seed(One { values: &mut *values, shared: below })?;
            let pushed = values.push(key).and_then(|()| values.push(word));
            One { values: &mut *values, shared }.made(pushed.map(|()| word))?;
        }
        let word = values.container(Tag::Dict, start, shared);
        One { values, shared }.made(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Value;

    fn values(text: &str) -> (usize, String) {
        let limits = Limits::default();
        let (arena, top) = read(text.as_bytes(), &limits, &mut Budget::new(&limits)).unwrap();
        (arena.node_count(), shown(&arena, top))
    }

    fn shown(arena: &Arena<'_>, word: Word) -> String {
        let items = |node| arena.items(node).map(|item| shown(arena, item)).collect::<Vec<_>>();
        match arena.value(word) {
            Value::List(node) => format!("[{}]", items(node).join(" ")),
            Value::Dict(node) => format!("{{{}}}", items(node).join(" ")),
            Value::Str(_, text) => format!("{:?}", String::from_utf8_lossy(text)),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn values_are_read() {
        for (text, expected) in [
            (" [] ", "[]"),
            ("[null, true, -1, 1.5]", "[None Bool(true) Int(-1) Float(1.5)]"),
            ("[9223372036854775807]", "[Int(9223372036854775807)]"),
            ("[9223372036854775808]", "[BigInt([0, 0, 0, 0, 0, 0, 0, 128, 0])]"),
            (r#"{"a": {}, "": "\u00e9\n", "b\\": "é"}"#, r#"{"a" {} "" "é\n" "b\\" "é"}"#),
        ] {
            assert_eq!(values(text).1, expected, "{text}");
        }
    }

    #[test]
    fn equal_frames_are_kept_once_and_other_containers_are_not() {
        let stack = r#"[{"line": 1}, {"line": 2}]"#;
        let one = |key: &str| format!(r#"{{"{key}": {stack}}}"#);
        let twice = |key: &str| values(&format!("[{},{}]", one(key), one(key))).0;
        // The whole, two entries, and a list of two dicts once or twice.
        assert_eq!((twice("frames"), twice("blocks")), (6, 9));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let limits = Limits { max_depth: 20, max_string_bytes: 5, ..Limits::default() };
        let (deep, deeper) = ("[".repeat(21) + &"]".repeat(21), "[".repeat(10_000));
        for (text, message) in [
            ("", "JSON, byte 0: EOF while parsing a value"),
            ("[1,", "JSON, byte 2: EOF while parsing a value"),
            ("{\n\"a\": nul}", "JSON, byte 10: expected ident"),
            ("[1] 2", "JSON, byte 4: trailing characters"),
            ("{\"a\" 1}", "JSON, byte 5: expected `:`"),
            ("[\"a\\ud800\"]", "JSON, byte 9: unexpected end of hex escape"),
            ("[\"a\u{1}\"]", "JSON, byte 3: control character"),
            ("[\"abcdef\"]", "more than 5 bytes in a string, at byte 8"),
            (&deep, "more than 20 containers in containers, at byte 41"),
            (&deeper, "JSON, byte 127: recursion limit exceeded"),
        ] {
            let error = read(text.as_bytes(), &limits, &mut Budget::new(&limits)).unwrap_err();
            assert!(error.to_string().starts_with(message), "{text:.30}: {error}");
        }
        let error = read(b"[\"\xff\"]", &limits, &mut Budget::new(&limits)).unwrap_err();
        assert!(error.to_string().starts_with("JSON, byte 2: invalid unicode"), "{error}");
    }
}
