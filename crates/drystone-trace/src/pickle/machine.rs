//! The stack machine that a pickle is a program for.

use std::collections::HashMap;

use crate::arena::{Arena, Tag, Value, Word};
use crate::error::{PickleProblem, Position, TraceError};
use crate::limits::{Budget, Exceeded, LimitKind, Limits};
use crate::pickle::opcode as op;
use crate::pickle::text::Text;

/// What an instruction may fail with, before its offset is known.
enum Stop {
    Problem(PickleProblem),
    Limit(Exceeded),
}

impl From<Exceeded> for Stop {
    fn from(exceeded: Exceeded) -> Self {
        Stop::Limit(exceeded)
    }
}

impl From<PickleProblem> for Stop {
    fn from(problem: PickleProblem) -> Self {
        Stop::Problem(problem)
    }
}

/// Reads the first pickle in `text` (shorter than 4 GiB); what follows its end is ignored, as
/// Python does.
pub(crate) fn read<'a>(
    text: &'a [u8],
    limits: &Limits,
    budget: &mut Budget,
) -> Result<(Arena<'a>, Word), TraceError> {
    let mut machine = Machine {
        text: Text::new(text),
        arena: Arena::new(text, limits.max_depth),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        far_memo: HashMap::new(),
        objects: 0,
        limits,
        budget,
    };
    loop {
        let offset = machine.text.offset();
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => return Ok((machine.finish(), result)),
            Err(Stop::Problem(problem)) => return Err(TraceError::Pickle { offset, problem }),
            Err(Stop::Limit(exceeded)) => return Err(exceeded.at(Position::Byte(offset))),
        }
    }
}

struct Machine<'a, 'b> {
    text: Text<'a>,
    arena: Arena<'a>,
    stack: Vec<Word>,
    /// Heights of the stack, in place of marks on it.
    marks: Vec<u32>,
    memo: Vec<Word>,
    /// What is kept under numbers that do not follow the ones before: a number must not decide how
    /// much memory is taken.
    far_memo: HashMap<u32, Word>,
    objects: u64,
    limits: &'b Limits,
    budget: &'b mut Budget,
}

/// A [`HashMap`] entry with its control byte and slack, about.
const FAR_MEMO_BYTES: u64 = 24;

impl<'a> Machine<'a, '_> {
    /// The values; what only their making needed is given back.
    fn finish(self) -> Arena<'a> {
        self.budget.release(self.stack);
        self.budget.release(self.marks);
        self.budget.release(self.memo);
        self.arena
    }

    /// Carries out one instruction; the value, at the end of the pickle.
    fn step(&mut self) -> Result<Option<Word>, Stop> {
        match self.text.byte()? {
            op::PROTO => match self.text.byte()? {
                2..=5 => {}
                other => return Err(PickleProblem::Protocol(other).into()),
            },
            op::FRAME => {
                // Frames only help a reader that fetches as it goes; that the data is there counts.
                let len = self.text.u64()?;
                self.text.check(len)?;
            }
            op::STOP => return self.pop("STOP").map(Some),
            op::MARK => self.mark()?,
            op::POP => self.pop_any()?,
            op::POP_MARK => {
                let start = self.pop_mark("POP_MARK")?;
                self.stack.truncate(start);
            }
            op::DUP => {
                let top = self.top("DUP")?;
                self.push(top)?;
            }
            op::NONE => self.push(Word::NONE)?,
            op::NEWTRUE => self.push(Word::TRUE)?,
            op::NEWFALSE => self.push(Word::FALSE)?,
            op::BININT => {
                let value = i32::from_le_bytes(self.text.array()?);
                self.int(i64::from(value))?;
            }
            op::BININT1 => {
                let value = self.text.byte()?;
                self.int(i64::from(value))?;
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.text.array()?);
                self.int(i64::from(value))?;
            }
            op::LONG1 => {
                let len = self.text.byte()?;
                self.long(u64::from(len))?;
            }
            op::LONG4 => {
                let len = self.text.signed_len()?;
                self.long(len)?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.text.array()?);
                let word = self.arena.float(value, self.budget)?;
                self.push(word)?;
            }
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => {
                let len = self.text.byte()?;
                self.span(Tag::Str, u64::from(len))?;
            }
            op::BINUNICODE => {
                let len = u32::from_le_bytes(self.text.array()?);
                self.span(Tag::Str, u64::from(len))?;
            }
            op::BINUNICODE8 => {
                let len = self.text.u64()?;
                self.span(Tag::Str, len)?;
            }
            op::BINSTRING => {
                let len = self.text.signed_len()?;
                self.span(Tag::Str, len)?;
            }
            op::SHORT_BINBYTES => {
                let len = self.text.byte()?;
                self.span(Tag::Bytes, u64::from(len))?;
            }
            op::BINBYTES => {
                let len = u32::from_le_bytes(self.text.array()?);
                self.span(Tag::Bytes, u64::from(len))?;
            }
            op::BINBYTES8 => {
                let len = self.text.u64()?;
                self.span(Tag::Bytes, len)?;
            }
            op::BYTEARRAY8 => {
                let len = self.text.u64()?;
                self.span(Tag::ByteArray, len)?;
            }
            op::EMPTY_TUPLE => self.container(Tag::Tuple, self.stack.len())?,
            op::EMPTY_LIST => self.container(Tag::List, self.stack.len())?,
            op::EMPTY_DICT => self.container(Tag::Dict, self.stack.len())?,
            op::EMPTY_SET => self.container(Tag::Set, self.stack.len())?,
            op::TUPLE1 => self.last_as_tuple("TUPLE1", 1)?,
            op::TUPLE2 => self.last_as_tuple("TUPLE2", 2)?,
            op::TUPLE3 => self.last_as_tuple("TUPLE3", 3)?,
            op::TUPLE => self.marked_as("TUPLE", Tag::Tuple)?,
            op::LIST => self.marked_as("LIST", Tag::List)?,
            op::DICT => self.marked_as("DICT", Tag::Dict)?,
            op::FROZENSET => self.marked_as("FROZENSET", Tag::FrozenSet)?,
            op::APPEND => self.add_last("APPEND", Tag::List, 1)?,
            op::SETITEM => self.add_last("SETITEM", Tag::Dict, 2)?,
            op::APPENDS => self.add_marked("APPENDS", Tag::List)?,
            op::SETITEMS => self.add_marked("SETITEMS", Tag::Dict)?,
            op::ADDITEMS => self.add_marked("ADDITEMS", Tag::Set)?,
            op::MEMOIZE => {
                let number = self.memo.len() + self.far_memo.len();
                self.keep("MEMOIZE", number as u32)?;
            }
            op::BINPUT => {
                let number = self.text.byte()?;
                self.keep("BINPUT", u32::from(number))?;
            }
            op::LONG_BINPUT => {
                let number = u32::from_le_bytes(self.text.array()?);
                self.keep("LONG_BINPUT", number)?;
            }
            op::BINGET => {
                let number = self.text.byte()?;
                self.recall(u32::from(number))?;
            }
            op::LONG_BINGET => {
                let number = u32::from_le_bytes(self.text.array()?);
                self.recall(number)?;
            }
            other => return Err(op::refusal(other).into()),
        }
        Ok(None)
    }

    // Values.

    fn int(&mut self, value: i64) -> Result<(), Stop> {
        let word = self.arena.int(value, self.budget)?;
        self.push(word)
    }

    fn long(&mut self, len: u64) -> Result<(), Stop> {
        if len > 8 {
            return self.span(Tag::BigInt, len);
        }
        let bytes = self.text.take(len)?;
        let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.int(i64::from_le_bytes(wide))
    }

    fn span(&mut self, tag: Tag, len: u64) -> Result<(), Stop> {
        self.text.check(len)?;
        if len > self.limits.max_string_bytes {
            let allowed = self.limits.max_string_bytes;
            return Err(Exceeded { kind: LimitKind::StringBytes, allowed }.into());
        }
        let start = self.text.offset() as usize;
        let bytes = self.text.take(len)?;
        let word = self.arena.span(tag, start, bytes.len(), self.budget)?;
        self.push(word)
    }

    /// A container of all that lies on the stack from `start` on.
    fn container(&mut self, tag: Tag, start: usize) -> Result<(), Stop> {
        let word = self.arena.container(tag, &self.stack[start..], self.budget)?;
        self.stack.truncate(start);
        self.push(word)
    }

    fn last_as_tuple(&mut self, opcode: &'static str, count: usize) -> Result<(), Stop> {
        let start = self.below(opcode, count)?;
        self.container(Tag::Tuple, start)
    }

    fn marked_as(&mut self, opcode: &'static str, tag: Tag) -> Result<(), Stop> {
        let start = self.pop_mark(opcode)?;
        self.check_items(opcode, tag, start)?;
        self.container(tag, start)
    }

    fn add_last(&mut self, opcode: &'static str, tag: Tag, count: usize) -> Result<(), Stop> {
        let start = self.below(opcode, count)?;
        self.add(opcode, tag, start)
    }

    fn add_marked(&mut self, opcode: &'static str, tag: Tag) -> Result<(), Stop> {
        let start = self.pop_mark(opcode)?;
        self.add(opcode, tag, start)
    }

    /// Adds all that lies on the stack from `start` on to the container below it.
    fn add(&mut self, opcode: &'static str, tag: Tag, start: usize) -> Result<(), Stop> {
        if start <= self.floor() {
            return Err(PickleProblem::StackUnderflow(opcode).into());
        }
        let target = self.stack[start - 1];
        if target.tag() != tag {
            let expected = match tag {
                Tag::List => "list",
                Tag::Dict => "dict",
                _ => "set",
            };
            let found = self.arena.value(target).kind();
            return Err(PickleProblem::WrongTarget { opcode, expected, found }.into());
        }
        self.check_items(opcode, tag, start)?;
        self.arena.extend(target, &self.stack[start..], self.budget)?;
        self.stack.truncate(start);
        Ok(())
    }

    /// Whether what lies on the stack from `start` on may become items of such a container.
    fn check_items(&self, opcode: &'static str, tag: Tag, start: usize) -> Result<(), Stop> {
        let items = &self.stack[start..];
        let keys_every = match tag {
            Tag::Dict if !items.len().is_multiple_of(2) => {
                return Err(PickleProblem::OddItems(opcode).into());
            }
            Tag::Dict => 2,
            Tag::Set | Tag::FrozenSet => 1,
            _ => return Ok(()),
        };
        for key in items.iter().step_by(keys_every) {
            if matches!(key.tag(), Tag::List | Tag::Dict | Tag::Set | Tag::ByteArray) {
                let kind: Value<'_> = self.arena.value(*key);
                return Err(PickleProblem::Unhashable(kind.kind()).into());
            }
        }
        Ok(())
    }

    // The stack.

    fn push(&mut self, word: Word) -> Result<(), Stop> {
        if self.objects == self.limits.max_objects {
            let allowed = self.limits.max_objects;
            return Err(Exceeded { kind: LimitKind::Objects, allowed }.into());
        }
        self.objects += 1;
        self.budget.push(&mut self.stack, word)?;
        Ok(())
    }

    /// Where the values of the innermost mark begin: what lies below is not to be touched.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |&height| height as usize)
    }

    fn below(&self, opcode: &'static str, count: usize) -> Result<usize, PickleProblem> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(start),
            _ => Err(PickleProblem::StackUnderflow(opcode)),
        }
    }

    fn top(&self, opcode: &'static str) -> Result<Word, PickleProblem> {
        self.below(opcode, 1).map(|at| self.stack[at])
    }

    fn pop(&mut self, opcode: &'static str) -> Result<Word, Stop> {
        let top = self.top(opcode)?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<(), Stop> {
        let allowed = u64::from(self.limits.max_depth);
        if self.marks.len() as u64 >= allowed {
            return Err(Exceeded { kind: LimitKind::Depth, allowed }.into());
        }
        // The stack is bounded by the text, which is shorter than 4 GiB.
        self.budget.push(&mut self.marks, self.stack.len() as u32)?;
        Ok(())
    }

    fn pop_mark(&mut self, opcode: &'static str) -> Result<usize, PickleProblem> {
        self.marks.pop().map(|height| height as usize).ok_or(PickleProblem::NoMark(opcode))
    }

    /// POP takes a mark where one is on top.
    fn pop_any(&mut self) -> Result<(), Stop> {
        if self.marks.last().is_some_and(|&height| height as usize == self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop("POP").map(drop)
    }

    // The memo.

    fn keep(&mut self, opcode: &'static str, number: u32) -> Result<(), Stop> {
        let top = self.top(opcode)?;
        let index = number as usize;
        if let Some(slot) = self.memo.get_mut(index) {
            *slot = top;
        } else if index == self.memo.len() && !self.far_memo.contains_key(&number) {
            self.budget.push(&mut self.memo, top)?;
        } else {
            self.budget.charge(FAR_MEMO_BYTES)?;
            self.far_memo.insert(number, top);
        }
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), Stop> {
        let kept = self.memo.get(number as usize).or_else(|| self.far_memo.get(&number)).copied();
        let word = kept.ok_or(PickleProblem::UnknownMemo(u64::from(number)))?;
        self.push(word)
    }
}
