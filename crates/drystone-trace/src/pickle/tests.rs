//! The pickle reader against CPython's output, an encoder of our own, and hostile input.

use proptest::prelude::*;

use crate::arena::{Arena, Value, Word};
use crate::error::{PickleProblem, Position, TraceError};
use crate::limits::{Budget, LimitKind, Limits};
use crate::pickle;

#[path = "../../tests/common/encode.rs"]
mod encode;
use encode::{Encoder, Val, dict, encode};

fn decode_within(text: &[u8], limits: &Limits) -> Result<Val, TraceError> {
    let (arena, top) = pickle::read(text, limits, &mut Budget::new(limits))?;
    Ok(to_val(&arena, top, 0))
}

fn decode(text: &[u8]) -> Result<Val, TraceError> {
    decode_within(text, &Limits::default())
}

/// The value as a tree; only for values that are one, and not too deep.
fn to_val(arena: &Arena<'_>, word: Word, depth: u32) -> Val {
    assert!(depth < 300, "a recursive value");
    let items = |node| arena.items(node).map(|item| to_val(arena, item, depth + 1));
    match arena.value(word) {
        Value::None => Val::None,
        Value::Bool(bool) => Val::Bool(bool),
        Value::Int(int) => Val::Int(int),
        Value::BigInt(bytes) => Val::BigInt(bytes.to_vec()),
        Value::Float(float) => Val::Float(float),
        Value::Str(_, text) => Val::Str(String::from_utf8(text.to_vec()).unwrap()),
        Value::Bytes(bytes) => Val::Bytes(bytes.to_vec()),
        Value::ByteArray(bytes) => Val::ByteArray(bytes.to_vec()),
        Value::Tuple(node) => Val::Tuple(items(node).collect()),
        Value::List(node) => Val::List(items(node).collect()),
        Value::Set(node) => Val::Set(items(node).collect()),
        Value::FrozenSet(node) => Val::FrozenSet(items(node).collect()),
        Value::Dict(node) => {
            let flat: Vec<Val> = items(node).collect();
            Val::Dict(flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
    }
}

/// The problem of a malformed pickle, and its offset.
fn problem(text: &[u8]) -> (u64, PickleProblem) {
    match decode(text).unwrap_err() {
        TraceError::Pickle { offset, problem } => (offset, problem),
        other => panic!("{other}"),
    }
}

fn limit(text: &[u8], limits: &Limits) -> (LimitKind, Position) {
    match decode_within(text, limits).unwrap_err() {
        TraceError::Limit { kind, position, .. } => (kind, position),
        other => panic!("{other}"),
    }
}

fn list(items: impl IntoIterator<Item = i64>) -> Val {
    Val::List(items.into_iter().map(Val::Int).collect())
}

fn tuple(items: impl IntoIterator<Item = i64>) -> Val {
    Val::Tuple(items.into_iter().map(Val::Int).collect())
}

/// What CPython's pickle.dumps makes of the value in the next test, protocols 2 and 4; 3 and 5
/// differ in the second byte.
const CPYTHON_2: &[u8] = b"\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02(N\x88\x89K\0K\xffM\xff\xff\
    J\xff\xff\xff\xffJ\xff\xff\xff\x7fJ\0\0\0\x80\x8a\x05\0\0\0\x80\0\
    \x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\0\0\0\0\0\0\0\x80\
    \x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0G\x3f\xf8\0\0\0\0\0\0eX\x01\0\0\0bq\x03)\
    X\x01\0\0\0cq\x04K\x01\x85q\x05X\x01\0\0\0dq\x06K\x01K\x02\x86q\x07\
    X\x01\0\0\0eq\x08K\x01K\x02K\x03\x87q\x09X\x01\0\0\0fq\x0a(K\x01K\x02K\x03K\x04tq\x0b\
    X\x01\0\0\0sq\x0cX\x03\0\0\0h\xc3\xa9q\x0dX\x01\0\0\0lq\x0e]q\x0f(]q\x10(X\x01\0\0\0xq\x11\
    K\x01eh\x10eX\x01\0\0\0nq\x12}q\x13X\x01\0\0\0kq\x14}q\x15su.";
const CPYTHON_4: &[u8] =
    b"\x80\x04\x95\xb2\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(N\x88\x89K\0K\xff\
    M\xff\xffJ\xff\xff\xff\xffJ\xff\xff\xff\x7fJ\0\0\0\x80\x8a\x05\0\0\0\x80\0\
    \x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\0\0\0\0\0\0\0\x80\
    \x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0G\x3f\xf8\0\0\0\0\0\0e\x8c\x01b\x94)\
    \x8c\x01c\x94K\x01\x85\x94\x8c\x01d\x94K\x01K\x02\x86\x94\
    \x8c\x01e\x94K\x01K\x02K\x03\x87\x94\x8c\x01f\x94(K\x01K\x02K\x03K\x04t\x94\
    \x8c\x01s\x94\x8c\x03h\xc3\xa9\x94\x8c\x01l\x94]\x94(]\x94(\x8c\x01x\x94\
    K\x01eh\x10e\x8c\x01n\x94}\x94\x8c\x01k\x94}\x94su.";

#[test]
fn reads_what_cpython_writes() {
    let inner = Val::List(vec!["x".into(), 1.into()]);
    let ints = [0, 255, 65535, -1, (1 << 31) - 1, -(1 << 31), 1 << 31, i64::MAX, i64::MIN];
    let mut a = vec![Val::None, true.into(), false.into()];
    a.extend(ints.map(Val::Int));
    a.push(Val::BigInt(vec![255, 255, 255, 255, 255, 255, 255, 255, 0]));
    a.push(Val::Float(1.5));
    let expected = dict([
        ("a", Val::List(a)),
        ("b", tuple([])),
        ("c", tuple([1])),
        ("d", tuple(1..=2)),
        ("e", tuple(1..=3)),
        ("f", tuple(1..=4)),
        ("s", "hé".into()),
        ("l", Val::List(vec![inner.clone(), inner])),
        ("n", dict([("k", dict([]))])),
    ]);
    for (proto, text) in [(2, CPYTHON_2), (3, CPYTHON_2), (4, CPYTHON_4), (5, CPYTHON_4)] {
        let mut text = text.to_vec();
        text[1] = proto;
        assert_eq!(decode(&text).unwrap(), expected, "protocol {proto}");
    }
    let text = b"\x80\x05\x95\x35\0\0\0\0\0\0\0}\x94(\x8c\x01y\x94C\x02\0\xff\x94\x8c\x02ba\x94\
        \x96\x02\0\0\0\0\0\0\0ab\x94\x8c\x03set\x94\x8f\x94(K\x01\x90\x8c\x02fs\x94(K\x02\x91\x94u.";
    let expected = dict([
        ("y", Val::Bytes(vec![0, 255])),
        ("ba", Val::ByteArray(b"ab".to_vec())),
        ("set", Val::Set(vec![1.into()])),
        ("fs", Val::FrozenSet(vec![2.into()])),
    ]);
    assert_eq!(decode(text).unwrap(), expected);
}

#[test]
fn opcodes_that_cpython_does_not_write_mean_what_its_reader_takes_them_for() {
    for (text, expected) in [
        (&b"\x80\x02(K\x01K\x02l."[..], list(1..=2)),
        (b"\x80\x02(U\x01kK\x02d.", dict([("k", 2.into())])),
        (b"\x80\x02T\x02\0\0\0ab.", "ab".into()),
        (b"\x80\x02K\x012\x86.", tuple([1, 1])),
        (b"\x80\x02K\x01K\x020.", 1.into()),
        (b"\x80\x02K\x01(0.", 1.into()),
        (b"\x80\x02K\x07(K\x01K\x021.", 7.into()),
        (b"\x80\x02\x8a\x00.", 0.into()),
        (b"\x80\x02\x8a\x01\xff.", (-1).into()),
        (b"\x80\x02\x8b\x02\0\0\0\x00\x80.", (-32768).into()),
        // Any number may be kept, and kept again.
        (b"\x80\x02K\x01r\xff\xff\xff\xffK\x02q\x05K\x03q\x05j\xff\xff\xff\xff.", 1.into()),
        (b"\x80\x02K\x01r\xff\xff\xff\xffK\x02q\x05K\x03q\x05h\x05.", 3.into()),
        // What follows the end is not looked at.
        (b"\x80\x02N.cos\nsystem\n", Val::None),
    ] {
        assert_eq!(decode(text).unwrap(), expected, "{}", text.escape_ascii());
    }
}

#[test]
fn lists_that_grow_in_turns_keep_their_items() {
    let mut encoder = Encoder::new(4);
    for _ in 0..2 {
        encoder.op(b']', &[]);
        encoder.memoize();
    }
    for i in 0..10 {
        encoder.get(i % 2);
        encoder.int(i64::from(i));
        encoder.op(b'a', &[]);
        encoder.op(b'0', &[]);
    }
    encoder.op(0x86, &[]);
    let expected = Val::Tuple(vec![list((0..10).step_by(2)), list((1..10).step_by(2))]);
    assert_eq!(decode(&encoder.finish()).unwrap(), expected);
}

#[test]
fn whatever_would_execute_code_is_refused_by_name_and_offset() {
    for (opcode, name) in [
        (b'c', "GLOBAL"),
        (b'R', "REDUCE"),
        (b'b', "BUILD"),
        (b'i', "INST"),
        (b'o', "OBJ"),
        (b'P', "PERSID"),
        (b'Q', "BINPERSID"),
        (0x81, "NEWOBJ"),
        (0x82, "EXT1"),
        (0x83, "EXT2"),
        (0x84, "EXT4"),
        (0x92, "NEWOBJ_EX"),
        (0x93, "STACK_GLOBAL"),
    ] {
        let text = [b"\x80\x04NN", &[opcode][..], b"os\nsystem\n."].concat();
        assert_eq!(problem(&text), (4, PickleProblem::WouldExecuteCode(name)));
    }
}

#[test]
fn malformed_instructions_are_named() {
    use PickleProblem as P;
    for (text, offset, expected) in [
        (&b"\x80\x01N."[..], 0, P::Protocol(1)),
        (b"\x80\x06N.", 0, P::Protocol(6)),
        (b"\x80\x05\x97.", 2, P::OutOfBand("NEXT_BUFFER")),
        (b"\x80\x05N\x98.", 3, P::OutOfBand("READONLY_BUFFER")),
        (b"\x80\x02I1\n.", 2, P::TextProtocol("INT")),
        (b"\x80\x02p0\n.", 2, P::TextProtocol("PUT")),
        (b"\x80\x02\xff", 2, P::UnknownOpcode(0xff)),
        (b"\x80\x02.", 2, P::StackUnderflow("STOP")),
        (b"\x80\x02N", 3, P::Truncated { needed: 1, left: 0 }),
        (b"\x80\x02J\0\0", 2, P::Truncated { needed: 4, left: 2 }),
        (b"\x80\x02e.", 2, P::NoMark("APPENDS")),
        (b"\x80\x02(e.", 3, P::StackUnderflow("APPENDS")),
        (b"\x80\x02](Na.", 5, P::StackUnderflow("APPEND")),
        (b"\x80\x02N(\x85.", 4, P::StackUnderflow("TUPLE1")),
        (b"\x80\x02N(q\0.", 4, P::StackUnderflow("BINPUT")),
        (
            b"\x80\x02](N2u.",
            6,
            P::WrongTarget { opcode: "SETITEMS", expected: "dict", found: "list" },
        ),
        (b"\x80\x02}Na.", 4, P::WrongTarget { opcode: "APPEND", expected: "list", found: "dict" }),
        (b"\x80\x02}(Nu.", 5, P::OddItems("SETITEMS")),
        (b"\x80\x02(Nd.", 4, P::OddItems("DICT")),
        (b"\x80\x02}]Ns.", 5, P::Unhashable("list")),
        (b"\x80\x04\x8f(}\x90.", 5, P::Unhashable("dict")),
        (b"\x80\x02h\x07.", 2, P::UnknownMemo(7)),
        (b"\x80\x02j\xff\xff\xff\xff.", 2, P::UnknownMemo(u64::from(u32::MAX))),
        (b"\x80\x02T\xff\xff\xff\xff.", 2, P::NegativeLength(-1)),
        (b"\x80\x02\x8b\0\0\0\x80.", 2, P::NegativeLength(i32::MIN)),
    ] {
        assert_eq!(problem(text), (offset, expected), "{}", text.escape_ascii());
    }
}

#[test]
fn huge_lengths_are_compared_with_what_is_left_before_memory_is_taken() {
    for (opcode, width) in
        [(b'X', 4), (b'B', 4), (b'T', 4), (0x8b, 4), (0x8d, 8), (0x8e, 8), (0x96, 8), (0x95, 8)]
    {
        let mut text = vec![0x80, 5, opcode];
        text.extend([0xff; 8].iter().take(width - 1));
        text.extend(b"\x7fabc.");
        let (offset, found) = problem(&text);
        let needed = if width == 4 { i32::MAX as u64 } else { i64::MAX as u64 };
        assert_eq!((offset, found), (2, PickleProblem::Truncated { needed, left: 4 }));
    }
}

#[test]
fn hostile_deep_nesting_stops_at_the_limit_however_it_is_built() {
    let n = 100_000;
    let deep = |piece: &[u8], tail: &[u8]| [b"\x80\x02", &piece.repeat(n)[..], tail].concat();
    let limits = Limits { max_depth: 50, ..Limits::default() };
    // Marks in marks; tuples around tuples; lists put into lists from the inside.
    assert_eq!(limit(&deep(b"(", b"."), &limits), (LimitKind::Depth, Position::Byte(52)));
    let around = deep(b"\x85", b".");
    let around = [b"\x80\x02)", &around[2..]].concat();
    assert_eq!(limit(&around, &limits), (LimitKind::Depth, Position::Byte(52)));
    let inside = [b"\x80\x02", &b"]".repeat(n)[..], &b"a".repeat(n - 1)[..], b"."].concat();
    assert_eq!(limit(&inside, &limits), (LimitKind::Depth, Position::Byte(2 + n as u64 + 49)));
    // What is just within is read.
    let within = [b"\x80\x02", &b"]".repeat(50)[..], &b"a".repeat(49)[..], b"."].concat();
    assert!(decode_within(&within, &limits).is_ok());
}

#[test]
fn hostile_recursive_list_is_read_and_leads_back_to_itself() {
    let limits = Limits::default();
    let mut budget = Budget::new(&limits);
    let text = b"\x80\x02]q\0h\0a.";
    let (arena, top) = pickle::read(text, &limits, &mut budget).unwrap();
    let Value::List(node) = arena.value(top) else { panic!("a list") };
    let items: Vec<Word> = arena.items(node).collect();
    assert_eq!(items, [top]);
}

#[test]
fn hostile_billion_laughs_costs_what_its_text_costs() {
    let mut encoder = Encoder::new(4);
    encoder.str("lol");
    let mut last = encoder.memoize();
    for _ in 0..100 {
        encoder.op(b'(', &[]);
        (0..10).for_each(|_| encoder.get(last));
        encoder.op(b't', &[]);
        last = encoder.memoize();
    }
    let text = encoder.finish();
    let limits = Limits { max_memory_bytes: 64 * 1024, ..Limits::default() };
    let mut budget = Budget::new(&limits);
    pickle::read(&text, &limits, &mut budget).unwrap();
}

#[test]
fn hostile_memo_numbers_take_no_memory_by_their_value() {
    let mut text = b"\x80\x02N".to_vec();
    for i in 0..1000u32 {
        text.push(b'r');
        text.extend((u32::MAX - i * 1000).to_le_bytes());
    }
    text.push(b'.');
    let limits = Limits { max_memory_bytes: 64 * 1024, ..Limits::default() };
    assert_eq!(decode_within(&text, &limits).unwrap(), Val::None);
    let limits = Limits { max_memory_bytes: 16 * 1024, ..Limits::default() };
    assert_eq!(limit(&text, &limits).0, LimitKind::Memory);
}

#[test]
fn object_string_and_memory_limits_stop_where_they_are_passed() {
    let text = [b"\x80\x02(", &b"N".repeat(1000)[..], b"t."].concat();
    let limits = Limits { max_objects: 100, ..Limits::default() };
    assert_eq!(limit(&text, &limits), (LimitKind::Objects, Position::Byte(103)));
    let limits = Limits { max_memory_bytes: 2000, ..Limits::default() };
    assert_eq!(limit(&text, &limits).0, LimitKind::Memory);
    let text = encode(&Val::Str("x".repeat(1000)), 4);
    let limits = Limits { max_string_bytes: 999, ..Limits::default() };
    assert_eq!(limit(&text, &limits), (LimitKind::StringBytes, Position::Byte(11)));
    assert!(decode_within(&text, &Limits { max_string_bytes: 1000, ..limits }).is_ok());
}

/// Values that every protocol from `proto` on can hold.
fn value(proto: u8) -> impl Strategy<Value = Val> {
    let big = prop::collection::vec(any::<u8>(), 9..300).prop_map(Val::BigInt);
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    let mut scalars = vec![
        Just(Val::None).boxed(),
        any::<bool>().prop_map(Val::Bool).boxed(),
        any::<i64>().prop_map(Val::Int).boxed(),
        (-70_000i64..70_000).prop_map(Val::Int).boxed(),
        (-(1i64 << 28)..1 << 28).prop_map(Val::Int).boxed(),
        big.boxed(),
        any::<i32>().prop_map(|x| Val::Float(f64::from(x) / 8.0)).boxed(),
        ".{0,400}".prop_map(Val::Str).boxed(),
    ];
    if proto >= 3 {
        scalars.push(bytes.clone().prop_map(Val::Bytes).boxed());
    }
    let key = prop::strategy::Union::new(scalars.clone());
    if proto >= 5 {
        scalars.push(bytes.prop_map(Val::ByteArray).boxed());
    }
    let leaf = prop::strategy::Union::new(scalars);
    leaf.prop_recursive(5, 60, 8, move |inner| {
        let items = prop::collection::vec(inner.clone(), 0..8);
        let keys = prop::collection::vec(key.clone(), 0..8);
        let pairs = prop::collection::vec((key.clone(), inner), 0..8);
        let mut containers = vec![
            items.clone().prop_map(Val::Tuple).boxed(),
            items.prop_map(Val::List).boxed(),
            pairs.prop_map(Val::Dict).boxed(),
        ];
        if proto >= 4 {
            containers.push(keys.clone().prop_map(Val::Set).boxed());
            containers.push(keys.prop_map(Val::FrozenSet).boxed());
        }
        prop::strategy::Union::new(containers)
    })
}

fn proto_and_value() -> impl Strategy<Value = (u8, Val)> {
    (2u8..=5).prop_flat_map(|proto| (Just(proto), value(proto)))
}

proptest! {
    #[test]
    fn every_value_of_every_protocol_is_read_back((proto, value) in proto_and_value()) {
        prop_assert_eq!(decode(&encode(&value, proto)).unwrap(), value);
    }

    #[test]
    fn every_cut_is_an_error((proto, value) in proto_and_value(), cut in any::<prop::sample::Index>()) {
        let text = encode(&value, proto);
        let cut = cut.index(text.len());
        let found = decode(&text[..cut]);
        prop_assert!(
            matches!(found, Err(TraceError::Pickle { offset, .. }) if offset <= cut as u64),
            "cut at {cut}: {found:?}"
        );
    }

    #[test]
    fn no_bytes_make_the_reader_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = Limits { max_memory_bytes: 1 << 16, ..Limits::default() };
        let text = [b"\x80\x04", &text[..]].concat();
        // Any answer will do; that there is one is the point.
        let _ = pickle::read(&text, &limits, &mut Budget::new(&limits));
    }
}
