//! The two policies against answers of PyTorch's own allocator, block for block: each address, each
//! call to the device, each message at out of memory. `tests/oracle` says where they are from.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use drystone_core::{DeviceId, Driver, StreamId};
use drystone_lab::{Policy, PolicySpec, Refusal};
use liblzma::read::XzDecoder;

use crate::ledger::{Entry, Ledger, Placement};

/// Names a file of other answers, to be replayed in place of those that are kept.
const ANSWERS: &str = "DRYSTONE_ORACLE_ANSWERS";

#[test]
fn every_answer_is_that_of_pytorch() {
    let kept = || format!("{}/tests/oracle/answers.txt.xz", env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var(ANSWERS).unwrap_or_else(|_| kept());
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let text: Box<dyn Read> = match path.ends_with(".xz") {
        true => Box::new(XzDecoder::new(file)),
        false => Box::new(file),
    };
    let (mut run, mut runs, mut answers) = (None, 0, 0);
    for (number, line) in BufReader::new(text).lines().enumerate() {
        let line = line.unwrap();
        let wrong = |what: String| panic!("{path}, line {}, `{line}`: {what}", number + 1);
        if let Some(case) = line.strip_prefix("case ") {
            run = Some(Run::new(case));
            runs += 1;
            continue;
        }
        let run = run.as_mut().expect("a file begins with a case");
        answers += 1;
        if let Err(what) = run.answer(&line) {
            wrong(format!("{what}, in a run of {}", run.name));
        }
    }
    println!("{runs} runs, {answers} answers");
    assert!(runs >= 32, "{runs} runs");
}

/// A run of one policy.
struct Run {
    name: String,
    ledger: Arc<Ledger>,
    policy: Box<dyn Policy>,
    /// What requests are made in: 0 for the default pool.
    pool: u32,
    /// The addresses that were handed out, in order.
    blocks: Vec<u64>,
    /// Calls to the device that the oracle has yet to name.
    calls: VecDeque<Entry>,
}

impl Run {
    /// From `CAPACITY POLICY OPTIONS`.
    fn new(case: &str) -> Run {
        let mut words = case.split(' ');
        let capacity = words.next().unwrap().parse().unwrap();
        let (policy, options) = (words.next().unwrap(), words.next().unwrap_or(""));
        let name = format!("{policy}:{}", in_our_syntax(options));
        let spec: PolicySpec = name.parse().unwrap_or_else(|error| panic!("{error}"));
        let ledger = Arc::new(Ledger::new(capacity, Placement::Slots));
        let policy = (spec.make)(Arc::clone(&ledger) as Arc<dyn Driver>).unwrap();
        let (blocks, calls) = (Vec::new(), VecDeque::new());
        Run { name, ledger, policy, pool: 0, blocks, calls }
    }

    /// Does what a line says, and compares what comes of it.
    fn answer(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.splitn(5, ' ');
        let kind = words.next().unwrap_or_default();
        if matches!(kind, "a" | "f" | "p" | "stats") && !self.calls.is_empty() {
            return Err(format!("before it came {:?}", self.calls));
        }
        let mut next = || words.next().ok_or("a word is missing");
        let number = |word: &str| word.parse::<u64>().map_err(|error| error.to_string());
        match kind {
            "a" => {
                let (stream, size) = (number(next()?)?, number(next()?)?);
                let ok = next()? == "=";
                let expected = if ok { Ok(number(next()?)?) } else { Err(next()?) };
                let stream = StreamId(stream);
                let given = self.policy.allocate_in(self.pool, size, DeviceId(0), stream);
                self.calls.extend(self.ledger.entries());
                self.blocks.extend(&given);
                match (&given, expected) {
                    (Ok(address), Ok(expected)) if *address == expected => Ok(()),
                    (Err(Refusal::OutOfMemory(why)), Err(expected)) if **why == *expected => Ok(()),
                    _ => Err(format!("got {given:x?}")),
                }
            }
            "f" => {
                let block = self.blocks[number(next()?)? as usize];
                self.policy.free(block)?;
                self.calls.extend(self.ledger.entries());
                Ok(())
            }
            "p" => {
                self.pool = number(next()?)? as u32;
                Ok(())
            }
            "stats" => self.statistics(&line["stats ".len()..]),
            _ => {
                let (piece, offset, bytes) = (number(next()?)?, number(next()?)?, number(next()?)?);
                let address = Placement::slot(piece) + offset;
                let expected = Entry { kind: kind.chars().next().unwrap_or(' '), address, bytes };
                match self.calls.pop_front() {
                    Some(call) if call == expected => Ok(()),
                    call => Err(format!("got {call:x?}")),
                }
            }
        }
    }

    /// Compares PyTorch's statistics at the end of a run.
    fn statistics(&mut self, expected: &str) -> Result<(), String> {
        let counters = self.policy.counters();
        let of = |name| counters.iter().find(|(key, _)| *key == name).map(|(_, count)| *count);
        let names = ["retries", "ooms", "device_allocs", "device_frees"];
        let mut found: Vec<_> = names.iter().filter_map(|&name| of(name)).collect();
        found.push(self.ledger.held());
        let found: Vec<_> = found.iter().map(u64::to_string).collect();
        match found.join(" ") == expected {
            true => Ok(()),
            false => Err(format!("got {found:?}")),
        }
    }
}

/// `key:value,key:value` with `=` for the first colon of each.
fn in_our_syntax(options: &str) -> String {
    let mut inside = false;
    let mut value = false;
    let letter = |letter: char| {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => value = false,
            ':' if !value => {
                value = true;
                return '=';
            }
            _ => {}
        }
        letter
    };
    options.chars().map(letter).collect()
}
