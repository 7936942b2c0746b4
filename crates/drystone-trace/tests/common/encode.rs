//! A pickle encoder for tests: every plain value, in the opcodes of each protocol from 2 to 5.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

/// A Python value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of at least 9 bytes, little-endian two's complement.
    BigInt(Vec<u8>),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    ByteArray(Vec<u8>),
    Tuple(Vec<Val>),
    List(Vec<Val>),
    Dict(Vec<(Val, Val)>),
    Set(Vec<Val>),
    FrozenSet(Vec<Val>),
}

impl From<i64> for Val {
    fn from(value: i64) -> Self {
        Val::Int(value)
    }
}

impl From<&str> for Val {
    fn from(value: &str) -> Self {
        Val::Str(value.to_owned())
    }
}

impl From<bool> for Val {
    fn from(value: bool) -> Self {
        Val::Bool(value)
    }
}

/// A dict with strings as keys.
pub(crate) fn dict<const N: usize>(pairs: [(&str, Val); N]) -> Val {
    Val::Dict(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// The pickle of `value`, with everything memoized as CPython does.
pub(crate) fn encode(value: &Val, proto: u8) -> Vec<u8> {
    let mut encoder = Encoder::new(proto);
    encoder.value(value);
    encoder.finish()
}

/// Writes a pickle piece by piece.
pub(crate) struct Encoder {
    proto: u8,
    pub(crate) out: Vec<u8>,
    memo: u32,
}

/// As CPython: items of a list go out in batches.
const BATCH: usize = 1000;

impl Encoder {
    pub(crate) fn new(proto: u8) -> Self {
        Encoder { proto, out: Vec::new(), memo: 0 }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut text = vec![0x80, self.proto];
        if self.proto >= 4 {
            text.push(0x95);
            text.extend((self.out.len() as u64 + 1).to_le_bytes());
        }
        text.extend(self.out);
        text.push(b'.');
        text
    }

    pub(crate) fn op(&mut self, opcode: u8, argument: &[u8]) {
        self.out.push(opcode);
        self.out.extend(argument);
    }

    /// Keeps what is on top of the stack; its number.
    pub(crate) fn memoize(&mut self) -> u32 {
        let number = self.memo;
        self.memo += 1;
        match (self.proto, u8::try_from(number)) {
            (4.., _) => self.op(0x94, &[]),
            (_, Ok(short)) => self.op(b'q', &[short]),
            _ => self.op(b'r', &number.to_le_bytes()),
        }
        number
    }

    pub(crate) fn get(&mut self, number: u32) {
        match u8::try_from(number) {
            Ok(short) => self.op(b'h', &[short]),
            _ => self.op(b'j', &number.to_le_bytes()),
        }
    }

    pub(crate) fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.op(b'K', &[value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.op(b'M', &value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.op(b'J', &value.to_le_bytes());
        } else {
            self.op(0x8a, &[8]);
            self.out.extend(value.to_le_bytes());
        }
    }

    pub(crate) fn str(&mut self, text: &str) {
        self.sized(text.as_bytes(), if self.proto >= 4 { Some(0x8c) } else { None }, b'X', 0x8d);
    }

    fn sized(&mut self, bytes: &[u8], short: Option<u8>, medium: u8, long: u8) {
        match (short, u8::try_from(bytes.len())) {
            (Some(short), Ok(len)) => self.op(short, &[len]),
            // Long forms are for 4 GiB; a test cannot wait for that, so that 300 bytes get them.
            _ if self.proto >= 4 && bytes.len() >= 300 => {
                self.op(long, &(bytes.len() as u64).to_le_bytes());
            }
            _ => self.op(medium, &(bytes.len() as u32).to_le_bytes()),
        }
        self.out.extend(bytes);
    }

    fn marked(&mut self, items: &[Val], opcode: u8) {
        self.op(b'(', &[]);
        items.iter().for_each(|item| self.value(item));
        self.op(opcode, &[]);
    }

    pub(crate) fn value(&mut self, value: &Val) {
        match value {
            Val::None => return self.op(b'N', &[]),
            Val::Bool(true) => return self.op(0x88, &[]),
            Val::Bool(false) => return self.op(0x89, &[]),
            Val::Int(value) => return self.int(*value),
            Val::BigInt(bytes) if bytes.len() < 256 => {
                self.op(0x8a, &[bytes.len() as u8]);
                return self.out.extend(bytes);
            }
            Val::BigInt(bytes) => {
                self.op(0x8b, &(bytes.len() as u32).to_le_bytes());
                return self.out.extend(bytes);
            }
            Val::Float(value) => return self.op(b'G', &value.to_be_bytes()),
            Val::Str(text) => self.str(text),
            Val::Bytes(bytes) => {
                assert!(self.proto >= 3, "needs a global before");
                self.sized(bytes, Some(b'C'), b'B', 0x8e);
            }
            Val::ByteArray(bytes) => {
                assert!(self.proto >= 5, "needs a global before");
                self.op(0x96, &(bytes.len() as u64).to_le_bytes());
                self.out.extend(bytes);
            }
            Val::Tuple(items) => match items.len() {
                0 => return self.op(b')', &[]),
                n @ 1..=3 => {
                    items.iter().for_each(|item| self.value(item));
                    self.op(0x84 + n as u8, &[]);
                }
                _ => self.marked(items, b't'),
            },
            Val::List(items) => {
                self.op(b']', &[]);
                self.memoize();
                for batch in items.chunks(BATCH) {
                    if let [one] = batch {
                        self.value(one);
                        self.op(b'a', &[]);
                    } else {
                        self.marked(batch, b'e');
                    }
                }
                return;
            }
            Val::Dict(pairs) => {
                self.op(b'}', &[]);
                self.memoize();
                for batch in pairs.chunks(BATCH) {
                    if batch.len() > 1 {
                        self.op(b'(', &[]);
                    }
                    for (key, value) in batch {
                        self.value(key);
                        self.value(value);
                    }
                    self.op(if batch.len() > 1 { b'u' } else { b's' }, &[]);
                }
                return;
            }
            Val::Set(items) => {
                assert!(self.proto >= 4, "needs a global before");
                self.op(0x8f, &[]);
                self.memoize();
                return self.marked(items, 0x90);
            }
            Val::FrozenSet(items) => {
                assert!(self.proto >= 4, "needs a global before");
                self.marked(items, 0x91);
            }
        }
        self.memoize();
    }
}
