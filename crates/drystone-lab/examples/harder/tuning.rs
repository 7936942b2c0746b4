//! A transformer is tuned on batches of texts of any length, mixed precision; now and then it is
//! evaluated: larger batches without gradients, then texts written word by word, whose memory of
//! keys and values grows by concatenation. The best weights so far are kept beside the present ones.

use super::tape::{Tape, Tensor};

const LAYERS: usize = 20;
const WIDTH: u64 = 1_024;
const HEADS: u64 = 16;
const WORDS: u64 = 30_522;
const STEPS: usize = 48;
/// Steps between two evaluations.
const EVALUATE: usize = 12;

/// Elements of the weights of a layer.
const WEIGHTS: [u64; 8] = [
    WIDTH * WIDTH,
    WIDTH * WIDTH,
    WIDTH * WIDTH,
    WIDTH * WIDTH,
    4 * WIDTH * WIDTH,
    4 * WIDTH * WIDTH,
    4 * WIDTH,
    2 * WIDTH,
];

/// Texts of one length.
#[derive(Clone, Copy)]
struct Batch {
    texts: u64,
    words: u64,
}

impl Batch {
    fn hidden(&self) -> u64 {
        2 * self.texts * self.words * WIDTH
    }
}

/// Bytes of all weights, with so many for each element.
fn weights(bytes: u64) -> Vec<u64> {
    let layers = std::iter::repeat_n(WEIGHTS, LAYERS).flatten();
    layers.chain([WORDS * WIDTH, 2_000 * WIDTH]).map(|elements| bytes * elements).collect()
}

/// Forward through a layer: what backward needs, with the result last.
fn forward(tape: &mut Tape, batch: Batch) -> Vec<Tensor> {
    let hidden = batch.hidden();
    let mut kept = tape.take_all(&[hidden, hidden, hidden]);
    // Attention works in blocks, and keeps a number for each word and head.
    kept.push(tape.take(4 * batch.texts * HEADS * batch.words));
    tape.pass(batch.texts * HEADS * (32 << 10));
    kept.push(tape.take(hidden));
    let added = tape.take(hidden);
    kept.push(tape.take(hidden / 2));
    let sum = tape.replace(added, 2 * hidden);
    kept.push(tape.take(2 * hidden));
    tape.give(sum);
    kept.extend(tape.take_all(&[4 * hidden, 4 * hidden]));
    let added = tape.take(hidden);
    kept.push(tape.take(hidden / 2));
    kept.push(tape.replace(added, 2 * hidden));
    kept.push(tape.take(hidden));
    kept
}

/// Forward, backward, and a step of the optimizer.
fn train(tape: &mut Tape, batch: Batch, moments: &mut Vec<Tensor>) {
    let mut layers = vec![tape.take_all(&[8 * batch.texts * batch.words, batch.hidden()])];
    // Weights in half precision stay until the step is over.
    let mut halves = Vec::new();
    for _ in 0..LAYERS {
        halves.extend(tape.take_all(&WEIGHTS[..6].iter().map(|e| 2 * e).collect::<Vec<_>>()));
        layers.push(forward(tape, batch));
    }
    let chosen = batch.texts * batch.words / 6;
    layers.push(tape.take_all(&[2 * chosen * WIDTH, 2 * chosen * WORDS, 4 * chosen * WORDS]));
    let mut gradient = tape.take(4);
    let mut gradients = Vec::new();
    for (at, kept) in layers.into_iter().enumerate().rev() {
        gradient = tape.backward(gradient, kept);
        if (1..=LAYERS).contains(&at) {
            for elements in WEIGHTS {
                let half = tape.take(2 * elements);
                gradients.push(tape.replace(half, 4 * elements));
            }
        }
    }
    gradients.extend(tape.take_all(&[4 * WORDS * WIDTH, 4 * 2_000 * WIDTH]));
    tape.give(gradient);
    tape.give_all(halves);
    if moments.is_empty() {
        let sizes: Vec<u64> = gradients.iter().flat_map(|g| [g.bytes, g.bytes]).collect();
        moments.extend(tape.take_all(&sizes));
    }
    let norms: Vec<u64> = gradients.iter().map(|_| 4).collect();
    let norms = tape.take_all(&norms);
    tape.give_all(norms);
    let sizes: Vec<u64> = gradients.iter().map(|gradient| gradient.bytes).collect();
    let steps = tape.take_all(&sizes);
    tape.give_all(steps);
    tape.give_all(gradients);
}

/// Batches without gradients, from the shortest; their results stay until the end.
fn evaluate(tape: &mut Tape) {
    let mut lengths: Vec<u64> = (0..14).map(|_| 8 * (1 + tape.heavy_tail(48, 1_200) / 8)).collect();
    lengths.sort_unstable();
    let mut results = Vec::new();
    for words in lengths {
        let batch = Batch { texts: 48, words };
        let mut input = tape.take(batch.hidden());
        for _ in 0..LAYERS {
            let mut kept = forward(tape, batch);
            let result = kept.pop();
            tape.give_all(kept);
            tape.give(input);
            input = result.unwrap_or_else(|| tape.take(batch.hidden()));
        }
        let found = 50 + tape.below(2_000);
        results.push(tape.take(4 * batch.texts * found));
        tape.give(input);
    }
    for _ in 0..3 {
        let batch = Batch { texts: 8 + tape.below(25), words: 32 + tape.below(225) };
        speak(tape, batch);
    }
    tape.give_all(results);
}

/// Writes texts word by word.
fn speak(tape: &mut Tape, batch: Batch) {
    let mut known = Vec::new();
    for word in 0..24 {
        let grown = Batch { words: batch.words + word, ..batch };
        let now = Batch { words: if word == 0 { batch.words } else { 1 }, ..batch };
        let old = std::mem::take(&mut known);
        let mut old = old.into_iter();
        for _ in 0..LAYERS {
            let parts = tape.take_all(&[now.hidden(); 3]);
            for _ in 0..2 {
                // Keys, then values: the old ones and the new one side by side.
                known.push(tape.take(grown.hidden()));
                tape.give_all(old.next());
            }
            let scores = tape.take(2 * now.texts * HEADS * now.words * grown.words);
            tape.give_all(parts);
            tape.give(scores);
            tape.pass(4 * now.hidden());
            tape.pass(now.hidden());
        }
        tape.pass(2 * batch.texts * WORDS);
    }
    tape.give_all(known);
}

/// The trace as CSV.
pub(crate) fn write(seed: u64) -> String {
    let mut tape = Tape::new(seed);
    let model = tape.take_all(&weights(4));
    let (mut moments, mut best) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let longest = (0..4).map(|_| tape.heavy_tail(48, 2_000)).max().unwrap_or(48);
        let batch = Batch { texts: 16, words: 8 * longest.div_ceil(8) };
        train(&mut tape, batch, &mut moments);
        if step % EVALUATE == EVALUATE - 1 {
            evaluate(&mut tape);
            if tape.below(2) == 0 {
                let copy = tape.take_all(&weights(4));
                tape.give_all(std::mem::replace(&mut best, copy));
            }
        }
    }
    tape.give_all(best);
    tape.give_all(moments);
    tape.give_all(model);
    tape.finish()
}
