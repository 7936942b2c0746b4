//! The values of one pickle or one JSON text, held compactly.
//!
//! They lie in vectors of numbers and of container parts, where a value is a 32-bit [`Word`]: 4 bits
//! of kind, 28 bits of content or index. Shared values are the same index; a value that contains
//! itself is an index that leads back. Nothing here recurses, dropping included, and strings stay in
//! the text, as far as they stand there as they are.

use crate::limits::{Budget, Exceeded, LimitKind};

/// A value: its kind in the low 4 bits, content or index above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Word(u32);

/// The index of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StrId(u32);

impl StrId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a [`Word`] stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`: little-endian two's complement, as in the text.
    BigInt(&'a [u8]),
    Float(f64),
    /// UTF-8 if the writer kept to the rules; Python lets lone surrogates through.
    Str(StrId, &'a [u8]),
    Bytes(&'a [u8]),
    ByteArray(&'a [u8]),
    Tuple(NodeId),
    List(NodeId),
    Dict(NodeId),
    Set(NodeId),
    FrozenSet(NodeId),
}

impl Value<'_> {
    /// Python's name of the type.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float(_) => "float",
            Value::Str(..) => "str",
            Value::Bytes(_) => "bytes",
            Value::ByteArray(_) => "bytearray",
            Value::Tuple(_) => "tuple",
            Value::List(_) => "list",
            Value::Dict(_) => "dict",
            Value::Set(_) => "set",
            Value::FrozenSet(_) => "frozenset",
        }
    }
}

/// What a value is, as the low 4 bits of its [`Word`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Tag {
    Const,
    SmallInt,
    Int,
    BigInt,
    Float,
    Str,
    Bytes,
    ByteArray,
    Tuple,
    List,
    Dict,
    Set,
    FrozenSet,
}

const TAGS: [Tag; 13] = [
    Tag::Const,
    Tag::SmallInt,
    Tag::Int,
    Tag::BigInt,
    Tag::Float,
    Tag::Str,
    Tag::Bytes,
    Tag::ByteArray,
    Tag::Tuple,
    Tag::List,
    Tag::Dict,
    Tag::Set,
    Tag::FrozenSet,
];

const TAG_BITS: u32 = 4;
const PAYLOAD_MAX: u32 = (1 << (32 - TAG_BITS)) - 1;

impl Word {
    pub(crate) const NONE: Word = Word::new(Tag::Const, 0);
    pub(crate) const FALSE: Word = Word::new(Tag::Const, 1);
    pub(crate) const TRUE: Word = Word::new(Tag::Const, 2);

    const fn new(tag: Tag, payload: u32) -> Word {
        Word(payload << TAG_BITS | tag as u32)
    }

    pub(crate) fn tag(self) -> Tag {
        TAGS[(self.0 & ((1 << TAG_BITS) - 1)) as usize]
    }

    fn payload(self) -> u32 {
        self.0 >> TAG_BITS
    }
}

/// Part of the text.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// A container. Its items lie in chunks: an APPENDS of a list whose items hold lists themselves
/// comes after theirs, and moving items at each of them would take the square of their number.
#[derive(Clone, Copy, Debug)]
struct Node {
    first: u32,
    last: u32,
    /// 1 more than the highest item had when it was put in.
    height: u16,
}

const NO_CHUNK: u32 = u32::MAX;
/// Words before a chunk's items: their number, and the next chunk.
const CHUNK_HEAD: u32 = 2;

#[derive(Debug)]
pub(crate) struct Arena<'a> {
    text: &'a [u8],
    /// Strings that do not stand in the text; their spans begin behind its end.
    own: Vec<u8>,
    words: Vec<u32>,
    nodes: Vec<Node>,
    ints: Vec<i64>,
    floats: Vec<f64>,
    spans: Vec<Span>,
    max_depth: u32,
}

impl<'a> Arena<'a> {
    pub(crate) fn new(text: &'a [u8], max_depth: u32) -> Self {
        Arena {
            text,
            own: Vec::new(),
            words: Vec::new(),
            nodes: Vec::new(),
            ints: Vec::new(),
            floats: Vec::new(),
            spans: Vec::new(),
            max_depth: max_depth.min(u32::from(u16::MAX) - 1),
        }
    }

    /// How many containers there are; a [`NodeId`]'s index is below it.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many strings and runs of bytes there are; a [`StrId`]'s index is below it.
    pub(crate) fn str_count(&self) -> usize {
        self.spans.len()
    }

    /// How many words all items of all containers take: what visiting each once costs.
    pub(crate) fn word_count(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn value(&self, word: Word) -> Value<'_> {
        let payload = word.payload();
        let index = payload as usize;
        let bytes = || {
            let Span { start, len } = self.spans[index];
            let (start, len) = (start as usize, len as usize);
            match start.checked_sub(self.text.len()) {
                Some(start) => &self.own[start..][..len],
                None => &self.text[start..][..len],
            }
        };
        match word.tag() {
            Tag::Const => match word {
                Word::FALSE => Value::Bool(false),
                Word::TRUE => Value::Bool(true),
                _ => Value::None,
            },
            // The shift brings the sign back.
            Tag::SmallInt => Value::Int(i64::from(word.0 as i32 >> TAG_BITS)),
            Tag::Int => Value::Int(self.ints[index]),
            Tag::BigInt => Value::BigInt(bytes()),
            Tag::Float => Value::Float(self.floats[index]),
            Tag::Str => Value::Str(StrId(payload), bytes()),
            Tag::Bytes => Value::Bytes(bytes()),
            Tag::ByteArray => Value::ByteArray(bytes()),
            Tag::Tuple => Value::Tuple(NodeId(payload)),
            Tag::List => Value::List(NodeId(payload)),
            Tag::Dict => Value::Dict(NodeId(payload)),
            Tag::Set => Value::Set(NodeId(payload)),
            Tag::FrozenSet => Value::FrozenSet(NodeId(payload)),
        }
    }

    /// The number of items; a dict's keys and values count each.
    pub(crate) fn len(&self, node: NodeId) -> usize {
        let mut len = 0;
        let mut chunk = self.nodes[node.index()].first;
        while chunk != NO_CHUNK {
            len += self.words[chunk as usize] as usize;
            chunk = self.words[chunk as usize + 1];
        }
        len
    }

    /// The items in order; of a dict key, value, key, value, … Later keys replace equal ones.
    pub(crate) fn items(&self, node: NodeId) -> Items<'_> {
        Items { words: &self.words, at: 0, end: 0, next: self.nodes[node.index()].first }
    }

    pub(crate) fn int(&mut self, value: i64, budget: &mut Budget) -> Result<Word, Exceeded> {
        const SMALL: std::ops::Range<i64> = -(1 << 27)..1 << 27;
        if SMALL.contains(&value) {
            return Ok(Word((value as u32) << TAG_BITS | Tag::SmallInt as u32));
        }
        let word = Self::index(Tag::Int, self.ints.len())?;
        budget.push(&mut self.ints, value)?;
        Ok(word)
    }

    pub(crate) fn float(&mut self, value: f64, budget: &mut Budget) -> Result<Word, Exceeded> {
        let word = Self::index(Tag::Float, self.floats.len())?;
        budget.push(&mut self.floats, value)?;
        Ok(word)
    }

    /// A value whose content is `text[start..start + len]`; the caller has checked that it exists.
    pub(crate) fn span(
        &mut self,
        tag: Tag,
        start: usize,
        len: usize,
        budget: &mut Budget,
    ) -> Result<Word, Exceeded> {
        let word = Self::index(tag, self.spans.len())?;
        budget.push(&mut self.spans, Span { start: start as u32, len: len as u32 })?;
        Ok(word)
    }

    /// A value whose content does not stand in the text.
    pub(crate) fn own(
        &mut self,
        tag: Tag,
        content: &[u8],
        budget: &mut Budget,
    ) -> Result<Word, Exceeded> {
        let start = self.text.len() + self.own.len();
        if u32::try_from(start + content.len()).is_err() {
            let allowed = u64::from(u32::MAX);
            return Err(Exceeded { kind: LimitKind::DecompressedBytes, allowed });
        }
        budget.reserve(&mut self.own, content.len())?;
        self.own.extend_from_slice(content);
        self.span(tag, start, content.len(), budget)
    }

    pub(crate) fn container(
        &mut self,
        tag: Tag,
        items: &[Word],
        budget: &mut Budget,
    ) -> Result<Word, Exceeded> {
        let word = Self::index(tag, self.nodes.len())?;
        let node = Node { first: NO_CHUNK, last: NO_CHUNK, height: 1 };
        budget.push(&mut self.nodes, node)?;
        self.extend(word, items, budget)?;
        Ok(word)
    }

    /// Appends to a container.
    pub(crate) fn extend(
        &mut self,
        container: Word,
        items: &[Word],
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        if items.is_empty() {
            return Ok(());
        }
        let too_many = Exceeded { kind: LimitKind::Objects, allowed: u64::from(u32::MAX) };
        let id = container.payload() as usize;
        let height = items.iter().map(|item| self.height(*item)).max().unwrap_or(0) + 1;
        if height > self.max_depth {
            return Err(Exceeded { kind: LimitKind::Depth, allowed: u64::from(self.max_depth) });
        }
        budget.reserve(&mut self.words, items.len() + CHUNK_HEAD as usize)?;
        let added = u32::try_from(items.len()).map_err(|_| too_many)?;
        let end = u32::try_from(self.words.len() + items.len() + CHUNK_HEAD as usize);
        let end = end.map_err(|_| too_many)? - added - CHUNK_HEAD;
        let node = &mut self.nodes[id];
        node.height = node.height.max(height as u16);
        let grown_in_place = node.last != NO_CHUNK && {
            let count = self.words[node.last as usize];
            node.last + CHUNK_HEAD + count == end
        };
        if grown_in_place {
            self.words[node.last as usize] += added;
        } else {
            self.words.extend([added, NO_CHUNK]);
            match node.last {
                NO_CHUNK => node.first = end,
                last => self.words[last as usize + 1] = end,
            }
            node.last = end;
        }
        self.words.extend(items.iter().map(|item| item.0));
        Ok(())
    }

    /// Whether a value is a container of this kind with just these items.
    pub(crate) fn is(&self, word: Word, tag: Tag, items: &[Word]) -> bool {
        word.tag() == tag && self.items(NodeId(word.payload())).eq(items.iter().copied())
    }

    /// Whether a value is this string.
    pub(crate) fn is_str(&self, word: Word, text: &str) -> bool {
        matches!(self.value(word), Value::Str(_, found) if found == text.as_bytes())
    }

    fn height(&self, word: Word) -> u32 {
        match word.tag() {
            Tag::Tuple | Tag::List | Tag::Dict | Tag::Set | Tag::FrozenSet => {
                u32::from(self.nodes[word.payload() as usize].height)
            }
            _ => 0,
        }
    }

    fn index(tag: Tag, index: usize) -> Result<Word, Exceeded> {
        match u32::try_from(index) {
            Ok(index) if index <= PAYLOAD_MAX => Ok(Word::new(tag, index)),
            _ => Err(Exceeded { kind: LimitKind::Objects, allowed: u64::from(PAYLOAD_MAX) }),
        }
    }
}

/// The items of a container.
#[derive(Debug)]
pub(crate) struct Items<'a> {
    words: &'a [u32],
    at: usize,
    end: usize,
    next: u32,
}

impl Iterator for Items<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        if self.at == self.end {
            if self.next == NO_CHUNK {
                return None;
            }
            let chunk = self.next as usize;
            self.at = chunk + CHUNK_HEAD as usize;
            self.end = self.at + self.words[chunk] as usize;
            self.next = self.words[chunk + 1];
        }
        self.at += 1;
        Some(Word(self.words[self.at - 1]))
    }
}
