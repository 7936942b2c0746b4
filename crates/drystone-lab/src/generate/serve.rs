//! `serve`: a language model answers requests, some together, each for as long as it takes: caches of
//! keys and values grow token by token, answers end at different times, and adapters are loaded
//! when a request needs one.
//!
//! With `cache=concatenated` each layer's cache is a tensor that is made anew for each token, as
//! plain programs do; with `cache=paged` all caches are pages of one pool that is taken at the
//! start (Kwon et al., "Efficient Memory Management for Large Language Model Serving with
//! PagedAttention", 2023), so that only activations come and go.

use std::collections::VecDeque;

use drystone_trace::Trace;

use super::GeneratorInfo;
use super::options::{Values, number, word};
use super::tape::{Tape, Tensor};

pub(super) const INFO: GeneratorInfo = GeneratorInfo {
    name: "serve",
    summary: "A language model that answers: growing key-value caches, adapters on demand",
    options: &[
        number("requests", "requests that are answered", (1, 100_000), "64"),
        number("batch", "the most answers underway at once", (1, 1_024), "16"),
        number("layers", "layers of the model", (1, 1_000), "16"),
        number("width", "elements of a token's state", (8, 65_536), "2048"),
        number("vocabulary", "tokens that there are", (1, 1_000_000), "32000"),
        number("prompt", "the most tokens of a question; few are long", (1, 100_000), "2048"),
        number("answer", "the most tokens of an answer; few are long", (1, 10_000), "256"),
        word("cache", "how keys and values are kept", &["concatenated", "paged"], "concatenated"),
        number("page", "tokens in a page of the cache", (1, 4_096), "16"),
        number("adapters", "different adapters that requests ask for; 0 for none", (0, 1_000), "0"),
        number("loaded", "adapters that stay loaded, the least recent goes first", (1, 1_000), "4"),
        number("rank", "the rank of the adapters", (1, 4_096), "16"),
    ],
    make,
};

/// Tokens per page and layer: keys and values of heads that queries share, four to one.
const SHARED: u64 = 4;

struct Model {
    layers: u64,
    width: u64,
    vocabulary: u64,
    paged: bool,
}

impl Model {
    /// Bytes of the keys, or the values, of so many tokens in one layer.
    fn cache(&self, tokens: u64) -> u64 {
        2 * tokens * (self.width / SHARED).max(1)
    }

    /// Bytes of the weights of a layer, in half precision.
    fn weights(&self) -> [u64; 4] {
        let square = self.width * self.width;
        [2 * square + square / SHARED * 4, 2 * square, 16 * square, 8 * square]
    }
}

/// An answer underway.
struct Answer {
    tokens: u64,
    left: u64,
    /// Keys and values of each layer, unless they are in pages.
    cache: Vec<Tensor>,
}

/// Adapters that are loaded, the least recently used first.
struct Adapters {
    loaded: VecDeque<(u64, Vec<Tensor>)>,
    most: usize,
}

impl Adapters {
    fn need(&mut self, tape: &mut Tape, model: &Model, adapter: u64, rank: u64) {
        let found = self.loaded.iter().position(|(number, _)| *number == adapter);
        let ready = match found.and_then(|at| self.loaded.remove(at)) {
            Some(ready) => ready,
            None => {
                if self.loaded.len() >= self.most
                    && let Some((_, gone)) = self.loaded.pop_front()
                {
                    tape.give_all(gone);
                }
                // Two small matrices beside each of four large ones; no rank is like another's.
                let rank = rank << (adapter % 3);
                let sizes = vec![2 * rank * model.width; (8 * model.layers) as usize];
                (adapter, tape.take_all(&sizes))
            }
        };
        self.loaded.push_back(ready);
    }
}

/// The layers over `tokens` new tokens, with `seen` tokens of attention; what they leave is cached.
fn layers(tape: &mut Tape, model: &Model, tokens: u64, seen: u64, caches: &mut [&mut Answer]) {
    let hidden = 2 * tokens * model.width;
    let mut state = tape.take(hidden);
    for layer in 0..model.layers as usize {
        let normed = tape.take(hidden);
        let query = tape.take(hidden + 2 * model.cache(tokens));
        tape.give(normed);
        for answer in caches.iter_mut().filter(|_| !model.paged) {
            for part in [2 * layer, 2 * layer + 1] {
                let grown = tape.take(model.cache(answer.tokens));
                if part < answer.cache.len() {
                    tape.give(std::mem::replace(&mut answer.cache[part], grown));
                } else {
                    answer.cache.push(grown);
                }
            }
        }
        tape.pass(4 * seen);
        let attended = tape.replace(query, hidden);
        let inner = tape.replace(attended, 4 * hidden);
        let outer = tape.replace(inner, hidden);
        state = tape.replace(state, hidden);
        tape.give(outer);
    }
    tape.give(state);
}

/// A question is read.
fn read(tape: &mut Tape, model: &Model, question: u64, left: u64) -> Answer {
    let mut answer = Answer { tokens: question, left, cache: Vec::new() };
    layers(tape, model, question, question, &mut [&mut answer]);
    tape.pass(4 * model.vocabulary);
    answer
}

/// All answers grow by a token.
fn grow(tape: &mut Tape, model: &Model, answers: &mut [Answer]) {
    for answer in answers.iter_mut() {
        answer.tokens += 1;
        answer.left -= 1;
    }
    let (count, seen) = (answers.len() as u64, answers.iter().map(|a| a.tokens).sum());
    layers(tape, model, count, seen, &mut answers.iter_mut().collect::<Vec<_>>());
    let scores = tape.take(4 * count * model.vocabulary);
    tape.pass(8 * count);
    tape.give(scores);
}

fn make(values: &Values, seed: u64) -> Result<Trace, String> {
    let mut tape = Tape::new(seed);
    let model = Model {
        layers: values.number("layers"),
        width: values.number("width"),
        vocabulary: values.number("vocabulary"),
        paged: values.is("cache", "paged"),
    };
    let mut lasting = Vec::new();
    for _ in 0..model.layers {
        lasting.extend(tape.take_all(&model.weights()));
    }
    lasting.push(tape.take(2 * model.vocabulary * model.width));
    let (question, answer) = (values.number("prompt"), values.number("answer"));
    let batch = values.number("batch");
    if model.paged {
        // As many pages as all answers at once could need at half of their greatest length.
        let page = values.number("page");
        let pages = (batch * (question + answer) / 2).div_ceil(page).max(1);
        let sizes = vec![2 * pages * model.cache(page); model.layers as usize];
        lasting.extend(tape.take_all(&sizes));
    }
    let most = values.number("loaded") as usize;
    let mut adapters = Adapters { loaded: VecDeque::new(), most };
    let mut underway: Vec<Answer> = Vec::new();
    let mut waiting = values.number("requests");
    while !tape.is_full() && (waiting > 0 || !underway.is_empty()) {
        while waiting > 0 && (underway.len() as u64) < batch {
            waiting -= 1;
            let tokens = tape.heavy_tail(question.min(64), question);
            let left = tape.heavy_tail(answer.min(32), answer);
            let kinds = values.number("adapters");
            if kinds > 0 {
                // Some are asked for often: the lesser of two draws.
                let adapter = tape.below(kinds).min(tape.below(kinds));
                adapters.need(&mut tape, &model, adapter, values.number("rank"));
            }
            underway.push(read(&mut tape, &model, tokens, left));
        }
        grow(&mut tape, &model, &mut underway);
        let (still, ended): (Vec<_>, Vec<_>) = underway.into_iter().partition(|a| a.left > 0);
        underway = still;
        for answer in ended {
            tape.give_all(answer.cache);
        }
    }
    for (_, adapter) in adapters.loaded {
        tape.give_all(adapter);
    }
    tape.give_all(lasting);
    tape.finish(INFO.name)
}
