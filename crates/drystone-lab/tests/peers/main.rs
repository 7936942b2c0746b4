//! `cub`, `cupy` and the `rmm-` policies held to what the originals did with random requests, as
//! recorded by `oracle/`: every block's place, every call for memory, every refusal, and the peak.

mod device;

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use device::{Device, Entry, slot};
use drystone_core::{DeviceId, Driver, StreamId};
use drystone_lab::{Policy, PolicySpec, Refusal};
use liblzma::read::XzDecoder;

/// Names a file of other answers, to be replayed in place of those that are kept.
const ANSWERS: &str = "DRYSTONE_PEERS_ANSWERS";

#[test]
fn every_answer_is_that_of_the_original() {
    let kept = || format!("{}/tests/peers/oracle/answers.txt.xz", env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var(ANSWERS).unwrap_or_else(|_| kept());
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let text: Box<dyn Read> = match path.ends_with(".xz") {
        true => Box::new(XzDecoder::new(file)),
        false => Box::new(file),
    };
    let (mut run, mut wrong) = (None::<Run>, Vec::new());
    let (mut runs, mut answers) = (0, 0);
    for (number, line) in BufReader::new(text).lines().enumerate() {
        let line = line.unwrap();
        if let Some(case) = line.strip_prefix("case ") {
            run = Some(Run::new(case));
            runs += 1;
            continue;
        }
        // After the first difference the rest of a run says nothing.
        let Some(current) = run.as_mut() else { continue };
        answers += 1;
        if let Err(what) = current.line(&line) {
            let name = &current.name;
            wrong.push(format!("line {}, `{line}`: {what}, in a run of {name}", number + 1));
            run = None;
        }
    }
    println!("{runs} runs, {answers} answers");
    assert!(wrong.is_empty(), "{} runs differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(runs >= 40 && answers > 60_000, "{runs} runs, {answers} answers");
}

/// What was asked, until its answer is complete.
enum Asked {
    Nothing,
    Allocate { stream: u64, size: u64 },
    Free(usize),
}

/// A run of one policy.
struct Run {
    name: String,
    device: Arc<Device>,
    policy: Box<dyn Policy>,
    /// The addresses that were handed out, in order.
    blocks: Vec<u64>,
    asked: Asked,
    /// What the original asked of the device meanwhile.
    calls: Vec<Entry>,
}

impl Run {
    /// From `CAPACITY POLICY`.
    fn new(case: &str) -> Run {
        let (capacity, name) = case.split_once(' ').unwrap();
        let spec: PolicySpec = name.parse().unwrap_or_else(|error| panic!("{error}"));
        let device = Arc::new(Device::new(capacity.parse().unwrap()));
        let policy = (spec.make)(Arc::clone(&device) as Arc<dyn Driver>).unwrap();
        let (name, blocks, calls) = (name.to_owned(), Vec::new(), Vec::new());
        Run { name, device, policy, blocks, asked: Asked::Nothing, calls }
    }

    /// Takes a line of the answers, and compares where one is complete.
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(words) = line.strip_prefix('!') {
            return self.allocate(Err(words.trim_start()));
        }
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        let numbers = numbers.map_err(|error| error.to_string())?;
        if matches!(kind, "a" | "f" | "p" | "end") {
            self.settle_free()?;
        }
        match (kind, &numbers[..]) {
            ("a", &[stream, size]) => self.asked = Asked::Allocate { stream, size },
            ("f", &[block]) => self.asked = Asked::Free(block as usize),
            ("p", &[passed]) => self.device.set_passed(passed == 1),
            ("S", &[bytes]) => self.calls.push(Entry::Taken(bytes)),
            ("x", &[bytes]) => self.calls.push(Entry::Refused(bytes)),
            ("R", &[segment]) => self.calls.push(Entry::Given(segment)),
            ("=", &[segment, offset]) => return self.allocate(Ok(slot(segment) + offset)),
            ("end", &[held, peak]) if self.device.held() != (held, peak) => {
                return Err(format!("held {:?}", self.device.held()));
            }
            ("end", _) => {}
            _ => return Err("a line of no known kind".to_owned()),
        }
        Ok(())
    }

    /// Allocates, and compares with an address or the words at out of memory: none of C++.
    fn allocate(&mut self, expected: Result<u64, &str>) -> Result<(), String> {
        let Asked::Allocate { stream, size } = self.asked else {
            return Err("nothing was asked".to_owned());
        };
        self.asked = Asked::Nothing;
        let given = self.policy.allocate(size, DeviceId(0), StreamId(stream));
        self.compare_calls()?;
        match (given, expected) {
            (Ok(given), Ok(expected)) if given == expected => self.blocks.push(given),
            (Err(Refusal::OutOfMemory(why)), Err(words)) if words.is_empty() || *why == *words => {}
            (given, _) => return Err(format!("got {given:x?} for {size} bytes")),
        }
        Ok(())
    }

    fn settle_free(&mut self) -> Result<(), String> {
        if let Asked::Free(block) = std::mem::replace(&mut self.asked, Asked::Nothing) {
            self.policy.free(self.blocks[block])?;
            self.compare_calls()?;
        }
        Ok(())
    }

    fn compare_calls(&mut self) -> Result<(), String> {
        let (mut made, mut expected) = (self.device.entries(), std::mem::take(&mut self.calls));
        if self.name.starts_with("cupy") {
            // Of chunks of one size CuPy gives any back first, by the order in Python's sets.
            in_order(&mut made);
            in_order(&mut expected);
        }
        match made == expected {
            true => Ok(()),
            false => Err(format!("asked the device {made:?} where it was {expected:?}")),
        }
    }
}

/// Puts segments that were given back one after the other in the order of their numbers.
fn in_order(calls: &mut [Entry]) {
    let given = |entry: &Entry| matches!(entry, Entry::Given(_));
    for run in calls.chunk_by_mut(|one, next| given(one) && given(next)) {
        run.sort_unstable_by_key(|entry| match entry {
            Entry::Given(segment) => *segment,
            Entry::Taken(_) | Entry::Refused(_) => 0,
        });
    }
}
