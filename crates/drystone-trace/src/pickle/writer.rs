//! A writer of pickles of protocol 4, in the few opcodes that torch's viewer knows.
//!
//! Each string is written once and named by its number in the memo afterwards. Items go into their
//! list one by one, so that no marks have to be kept.

use std::collections::HashMap;
use std::io::{self, Write};

use super::opcode;
use crate::form::Form;

const PROTOCOL: u8 = 4;

/// A pickle being written.
pub(crate) struct Pickler<W> {
    out: W,
    /// The number of each string in the memo.
    strings: HashMap<Box<str>, u32>,
    /// Likewise of each list that was kept, by its name.
    lists: HashMap<u32, u32>,
    /// How many objects the memo has.
    memoized: u32,
}

impl<W: Write> Pickler<W> {
    /// Begins the pickle; the caller writes one value.
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&[opcode::PROTO, PROTOCOL])?;
        Ok(Pickler { out, strings: HashMap::new(), lists: HashMap::new(), memoized: 0 })
    }

    /// Ends it after that value.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.op(opcode::STOP)?;
        self.out.flush()
    }

    fn op(&mut self, opcode: u8) -> io::Result<()> {
        self.out.write_all(&[opcode])
    }

    fn op_with(&mut self, opcode: u8, argument: &[u8]) -> io::Result<()> {
        self.op(opcode)?;
        self.out.write_all(argument)
    }

    /// Gives what was just written a number in the memo.
    fn memoize(&mut self) -> io::Result<u32> {
        let number = self.memoized;
        self.memoized += 1;
        self.op(opcode::MEMOIZE)?;
        Ok(number)
    }

    fn get(&mut self, number: u32) -> io::Result<()> {
        match u8::try_from(number) {
            Ok(short) => self.op_with(opcode::BINGET, &[short]),
            Err(_) => self.op_with(opcode::LONG_BINGET, &number.to_le_bytes()),
        }
    }
}

impl<W: Write> Form for Pickler<W> {
    fn bool(&mut self, value: bool) -> io::Result<()> {
        self.op(if value { opcode::NEWTRUE } else { opcode::NEWFALSE })
    }

    fn none(&mut self) -> io::Result<()> {
        self.op(opcode::NONE)
    }

    fn int(&mut self, value: i128) -> io::Result<()> {
        if let Ok(value) = u8::try_from(value) {
            self.op_with(opcode::BININT1, &[value])
        } else if let Ok(value) = u16::try_from(value) {
            self.op_with(opcode::BININT2, &value.to_le_bytes())
        } else if let Ok(value) = i32::try_from(value) {
            self.op_with(opcode::BININT, &value.to_le_bytes())
        } else if let Ok(value) = i64::try_from(value) {
            self.op_with(opcode::LONG1, &[8])?;
            self.out.write_all(&value.to_le_bytes())
        } else {
            self.op_with(opcode::LONG1, &[16])?;
            self.out.write_all(&value.to_le_bytes())
        }
    }

    fn real(&mut self, value: f64) -> io::Result<()> {
        self.op_with(opcode::BINFLOAT, &value.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        if let Some(&number) = self.strings.get(text) {
            return self.get(number);
        }
        match u8::try_from(text.len()) {
            Ok(len) => self.op_with(opcode::SHORT_BINUNICODE, &[len])?,
            Err(_) => {
                let len = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                self.op_with(opcode::BINUNICODE, &len.to_le_bytes())?;
            }
        }
        self.out.write_all(text.as_bytes())?;
        let number = self.memoize()?;
        self.strings.insert(text.into(), number);
        Ok(())
    }

    fn pair(&mut self, first: u64, second: u64) -> io::Result<()> {
        self.int(first.into())?;
        self.int(second.into())?;
        self.op(opcode::TUPLE2)
    }

    fn begin_dict(&mut self) -> io::Result<()> {
        self.op(opcode::EMPTY_DICT)
    }

    fn key(&mut self, key: &str) -> io::Result<()> {
        self.text(key)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        self.op(opcode::SETITEM)
    }

    fn end_dict(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn begin_list(&mut self) -> io::Result<()> {
        self.op(opcode::EMPTY_LIST)
    }

    fn item(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end_item(&mut self) -> io::Result<()> {
        self.op(opcode::APPEND)
    }

    fn end_list(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn same_list(&mut self, name: u32) -> io::Result<bool> {
        let Some(&number) = self.lists.get(&name) else { return Ok(false) };
        self.get(number)?;
        Ok(true)
    }

    fn keep_list(&mut self, name: u32) -> io::Result<()> {
        let number = self.memoize()?;
        self.lists.insert(name, number);
        Ok(())
    }
}
