//! The instructions of the pickle protocols, and what each asks of a reader.

use crate::error::PickleProblem;

pub(super) const MARK: u8 = b'(';
pub(super) const STOP: u8 = b'.';
pub(super) const POP: u8 = b'0';
pub(super) const POP_MARK: u8 = b'1';
pub(super) const DUP: u8 = b'2';
pub(super) const BINBYTES: u8 = b'B';
pub(super) const SHORT_BINBYTES: u8 = b'C';
pub(super) const BINFLOAT: u8 = b'G';
pub(super) const BININT: u8 = b'J';
pub(super) const BININT1: u8 = b'K';
pub(super) const BININT2: u8 = b'M';
pub(super) const NONE: u8 = b'N';
pub(super) const BINSTRING: u8 = b'T';
pub(super) const SHORT_BINSTRING: u8 = b'U';
pub(super) const BINUNICODE: u8 = b'X';
pub(super) const EMPTY_LIST: u8 = b']';
pub(super) const APPEND: u8 = b'a';
pub(super) const DICT: u8 = b'd';
pub(super) const APPENDS: u8 = b'e';
pub(super) const BINGET: u8 = b'h';
pub(super) const LONG_BINGET: u8 = b'j';
pub(super) const LIST: u8 = b'l';
pub(super) const BINPUT: u8 = b'q';
pub(super) const LONG_BINPUT: u8 = b'r';
pub(super) const SETITEM: u8 = b's';
pub(super) const TUPLE: u8 = b't';
pub(super) const EMPTY_TUPLE: u8 = b')';
pub(super) const SETITEMS: u8 = b'u';
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const PROTO: u8 = 0x80;
pub(super) const TUPLE1: u8 = 0x85;
pub(super) const TUPLE2: u8 = 0x86;
pub(super) const TUPLE3: u8 = 0x87;
pub(super) const NEWTRUE: u8 = 0x88;
pub(super) const NEWFALSE: u8 = 0x89;
pub(super) const LONG1: u8 = 0x8a;
pub(super) const LONG4: u8 = 0x8b;
pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
pub(super) const BINUNICODE8: u8 = 0x8d;
pub(super) const BINBYTES8: u8 = 0x8e;
pub(super) const EMPTY_SET: u8 = 0x8f;
pub(super) const ADDITEMS: u8 = 0x90;
pub(super) const FROZENSET: u8 = 0x91;
pub(super) const MEMOIZE: u8 = 0x94;
pub(super) const FRAME: u8 = 0x95;
pub(super) const BYTEARRAY8: u8 = 0x96;

/// Why an instruction that is not one of the above is refused.
pub(super) fn refusal(opcode: u8) -> PickleProblem {
    use PickleProblem::{OutOfBand, TextProtocol, UnknownOpcode, WouldExecuteCode};
    match opcode {
        b'c' => WouldExecuteCode("GLOBAL"),
        b'R' => WouldExecuteCode("REDUCE"),
        b'b' => WouldExecuteCode("BUILD"),
        b'i' => WouldExecuteCode("INST"),
        b'o' => WouldExecuteCode("OBJ"),
        b'P' => WouldExecuteCode("PERSID"),
        b'Q' => WouldExecuteCode("BINPERSID"),
        0x81 => WouldExecuteCode("NEWOBJ"),
        0x82 => WouldExecuteCode("EXT1"),
        0x83 => WouldExecuteCode("EXT2"),
        0x84 => WouldExecuteCode("EXT4"),
        0x92 => WouldExecuteCode("NEWOBJ_EX"),
        0x93 => WouldExecuteCode("STACK_GLOBAL"),
        0x97 => OutOfBand("NEXT_BUFFER"),
        0x98 => OutOfBand("READONLY_BUFFER"),
        b'I' => TextProtocol("INT"),
        b'L' => TextProtocol("LONG"),
        b'F' => TextProtocol("FLOAT"),
        b'S' => TextProtocol("STRING"),
        b'V' => TextProtocol("UNICODE"),
        b'g' => TextProtocol("GET"),
        b'p' => TextProtocol("PUT"),
        other => UnknownOpcode(other),
    }
}
