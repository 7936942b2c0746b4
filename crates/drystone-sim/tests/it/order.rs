//! Time and order of work against a naive model: a graph of everything that was ever submitted,
//! searched anew for each question.

use drystone_core::driver::{Driver, EventId, HandleKind, StreamId};
use drystone_sim::{Access, Misuse, SimDriver};
use proptest::prelude::*;

use crate::{D0, sim};

/// The bytes that the work plays on.
const BYTES: u64 = 12;
/// How long work takes in `sim()`.
const LEAD: u64 = 1000;

#[derive(Clone, Debug)]
enum Op {
    Launch { stream: usize, alias: usize, at: u64, len: u64, write: bool },
    Record { event: usize, stream: usize },
    Wait { stream: usize, event: usize },
    Query { event: usize },
    Synchronize { event: usize },
    DeviceSynchronize,
    Advance { ns: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (stream, event) = (0..3_usize, 0..3_usize);
    let range = (0..BYTES, 1..6_u64).prop_map(|(at, len)| (at, len.min(BYTES - at)));
    let launch = (stream.clone(), 0..3_usize, range, any::<bool>())
        .prop_map(|(stream, alias, (at, len), write)| Op::Launch { stream, alias, at, len, write });
    prop_oneof![
        8 => launch,
        5 => (event.clone(), stream.clone())
            .prop_map(|(event, stream)| Op::Record { event, stream }),
        5 => (stream, event.clone()).prop_map(|(stream, event)| Op::Wait { stream, event }),
        3 => event.clone().prop_map(|event| Op::Query { event }),
        2 => event.prop_map(|event| Op::Synchronize { event }),
        1 => Just(Op::DeviceSynchronize),
        3 => (1..2 * LEAD).prop_map(|ns| Op::Advance { ns }),
    ]
}

/// One thing in the order of a stream.
struct Node {
    /// What comes before it, by index.
    after: Vec<usize>,
    /// When it would be done if it were alone: 0 for a record or a wait.
    alone_done: u64,
    /// The bytes of a launch, and whether it writes.
    touches: Option<(u64, u64, bool)>,
    /// The alias through which it does.
    alias: usize,
}

#[derive(Default)]
struct Model {
    now: u64,
    nodes: Vec<Node>,
    last: [Option<usize>; 3],
    /// The node of each event's last record.
    records: [Option<usize>; 3],
    /// Nodes that the host knows to be done.
    host: Vec<usize>,
}

impl Model {
    fn push(&mut self, stream: usize, more: Option<usize>, alone_done: u64) -> usize {
        let after = self.host.iter().copied().chain(self.last[stream]).chain(more).collect();
        self.nodes.push(Node { after, alone_done, touches: None, alias: 0 });
        self.last[stream] = Some(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// The nodes that come before or are one of these.
    fn closure(&self, mut open: Vec<usize>) -> Vec<bool> {
        let mut seen = vec![false; self.nodes.len()];
        while let Some(node) = open.pop() {
            if !seen[node] {
                seen[node] = true;
                open.extend(&self.nodes[node].after);
            }
        }
        seen
    }

    fn done(&self, node: usize) -> u64 {
        let before = self.closure(vec![node]);
        let times = self.nodes.iter().zip(before).filter(|(_, before)| *before);
        times.map(|(node, _)| node.alone_done).max().unwrap_or(0)
    }

    /// The bytes on which the launch `node` clashes with any earlier one.
    fn clashes(&self, node: usize) -> Vec<u64> {
        let Some((at, end, write)) = self.nodes[node].touches else { return Vec::new() };
        let before = self.closure(vec![node]);
        let hit = |byte: &u64| {
            self.nodes[..node].iter().zip(&before).any(|(earlier, before)| {
                !before
                    && earlier.touches.is_some_and(|(at, end, wrote)| {
                        (write || wrote) && (at..end).contains(byte)
                    })
            })
        };
        (at..end).filter(hit).collect()
    }

    /// Whether the host knows that all launches through one of these aliases are done.
    fn all_known(&self, aliases: &[usize]) -> bool {
        let known = self.closure(self.host.clone());
        self.nodes
            .iter()
            .zip(known)
            .all(|(node, known)| known || node.touches.is_none() || !aliases.contains(&node.alias))
    }
}

/// The bytes, from `base`, of the clashes logged since `from`.
fn clashing(misuses: &[Misuse], base: u64) -> Vec<u64> {
    let mut all = Vec::new();
    for misuse in misuses {
        let Misuse::Unordered { address, bytes, .. } = misuse else { panic!("{misuse}") };
        all.extend(address - base..address - base + bytes);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Plays the program on the device and on the model, with the bytes at each of three addresses;
/// the model at the end, and the number of misuses.
fn play(sim: &SimDriver, bases: [u64; 3], ops: Vec<Op>) -> Result<(Model, usize), TestCaseError> {
    let events: Vec<EventId> = (0..3).map(|_| sim.event_create(D0).unwrap()).collect();
    let name = |stream: usize| StreamId(stream as u64 * 77);
    let mut model = Model::default();
    let mut logged = 0;
    for op in ops {
        match op {
            Op::Launch { stream, alias, at, len, write } => {
                let node = model.push(stream, None, model.now + LEAD);
                model.nodes[node].touches = Some((at, at + len, write));
                model.nodes[node].alias = alias;
                let access = if write { Access::Write } else { Access::Read };
                let base = bases[alias];
                let result = sim.launch(D0, name(stream), &[(base + at, len)], access);
                let misuses = sim.misuses();
                prop_assert_eq!(clashing(&misuses[logged..], base), model.clashes(node));
                prop_assert_eq!(result.err(), misuses.get(logged).cloned());
                logged = misuses.len();
            }
            Op::Record { event, stream } => {
                model.records[event] = Some(model.push(stream, None, 0));
                sim.event_record(D0, events[event], name(stream)).unwrap();
            }
            Op::Wait { stream, event } => {
                model.push(stream, model.records[event], 0);
                sim.stream_wait_event(D0, name(stream), events[event]).unwrap();
            }
            Op::Query { event } => {
                let node = model.records[event];
                let done = node.is_none_or(|node| model.done(node) <= model.now);
                prop_assert_eq!(sim.event_query(D0, events[event]), Ok(done));
                model.host.extend(node.filter(|_| done));
            }
            Op::Synchronize { event } => {
                if let Some(node) = model.records[event] {
                    model.now = model.now.max(model.done(node));
                    model.host.push(node);
                }
                sim.event_synchronize(D0, events[event]).unwrap();
            }
            Op::DeviceSynchronize => {
                let all = model.nodes.iter().map(|node| node.alone_done).max();
                model.now = model.now.max(all.unwrap_or(0));
                model.host = (0..model.nodes.len()).collect();
                sim.device_synchronize(D0).unwrap();
            }
            Op::Advance { ns } => {
                model.now += ns;
                sim.advance(ns);
            }
        }
        prop_assert_eq!(sim.now_ns(), model.now);
    }
    Ok((model, logged))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn time_and_order_agree_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let sim = sim();
        let base = sim.segment_alloc(D0, BYTES).unwrap();
        let (model, logged) = play(&sim, [base; 3], ops)?;
        sim.segment_free(D0, base).unwrap();
        let freed_in_flight = sim.misuses().len() > logged;
        prop_assert_eq!(freed_in_flight, !model.all_known(&[0, 1, 2]));
    }

    /// Order does not care through which alias bytes are used; unmapping cares for nothing else.
    #[test]
    fn aliases_are_one_memory_and_three_mappings(ops in prop::collection::vec(op(), 1..60)) {
        let sim = sim();
        let page = sim.page_bytes(D0).unwrap();
        let handle = sim.handle_create(D0, page, HandleKind::Device).unwrap();
        let base = sim.address_reserve(D0, 3 * page).unwrap();
        let bases = [0, 1, 2].map(|alias| base + alias * page);
        for at in bases {
            sim.map(D0, at, handle).unwrap();
            sim.set_access(D0, at, page, &[D0]).unwrap();
        }
        let (model, mut logged) = play(&sim, bases, ops)?;
        for (alias, at) in bases.into_iter().enumerate() {
            sim.unmap(D0, at, page).unwrap();
            let misuses = sim.misuses();
            prop_assert_eq!(misuses.len() > logged, !model.all_known(&[alias]));
            logged = misuses.len();
        }
    }
}

/// More launches than the detector keeps: it forgets what is over and nothing else.
#[test]
fn a_hundred_thousand_launches() {
    let sim = sim();
    let base = sim.segment_alloc(D0, 1 << 30).unwrap();
    let event = sim.event_create(D0).unwrap();
    let (a, b) = (StreamId(1), StreamId(2));
    for round in 0..50_000_u64 {
        // Every second page, so that no two uses grow together.
        let range = [(base + round % 8192 * 8192, 4096)];
        sim.launch(D0, a, &range, Access::Write).unwrap();
        sim.event_record(D0, event, a).unwrap();
        sim.stream_wait_event(D0, b, event).unwrap();
        sim.launch(D0, b, &range, Access::Read).unwrap();
        if round % 4000 == 3999 {
            sim.event_record(D0, event, b).unwrap();
            sim.event_synchronize(D0, event).unwrap();
        } else if round % 100 == 99 {
            sim.event_record(D0, event, b).unwrap();
            sim.stream_wait_event(D0, a, event).unwrap();
        }
    }
    assert_eq!(sim.misuses(), []);
    // The last round's read is known to nobody.
    let last = base + 49_999 % 8192 * 8192;
    sim.launch(D0, StreamId(3), &[(last, 1)], Access::Write).unwrap_err();
}
