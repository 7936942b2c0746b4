//! `train`: a transformer is tuned on batches of texts of any length, mixed precision; now and then it is
//! evaluated: larger batches without gradients, then texts written word by word, whose memory of
//! keys and values grows by concatenation. The best weights so far are kept beside the present ones.

use drystone_trace::Trace;

use super::GeneratorInfo;
use super::options::{Values, number, word};
use super::tape::{Tape, Tensor};

pub(super) const INFO: GeneratorInfo = GeneratorInfo {
    name: "train",
    summary: "A transformer tuned on texts of any length, with evaluation and writing in between",
    options: &[
        number("layers", "layers of the model", (1, 1_000), "20"),
        number("width", "elements of a word's state", (1, 65_536), "1024"),
        number("heads", "attention heads", (1, 1_024), "16"),
        number("vocabulary", "words that there are", (1, 1_000_000), "30522"),
        number("steps", "steps of training", (1, 10_000), "48"),
        number("texts", "texts of a batch", (1, 10_000), "16"),
        number("evaluate", "steps between two evaluations; 0 for never", (0, 10_000), "12"),
        word("recompute", "whether layers are computed again for backward", &["off", "on"], "off"),
    ],
    make,
};

/// Positions of which the model knows.
const POSITIONS: u64 = 2_000;

struct Model {
    layers: usize,
    width: u64,
    heads: u64,
    vocabulary: u64,
}

impl Model {
    /// Elements of the weights of a layer.
    fn layer(&self) -> [u64; 8] {
        let (wide, square) = (self.width, self.width * self.width);
        [square, square, square, square, 4 * square, 4 * square, 4 * wide, 2 * wide]
    }

    /// Bytes of all weights, with so many for each element.
    fn weights(&self, bytes: u64) -> Vec<u64> {
        let layers = std::iter::repeat_n(self.layer(), self.layers).flatten();
        let others = [self.vocabulary * self.width, POSITIONS * self.width];
        layers.chain(others).map(|elements| bytes * elements).collect()
    }
}

/// Texts of one length.
#[derive(Clone, Copy)]
struct Batch {
    texts: u64,
    words: u64,
    /// Of the model.
    width: u64,
}

impl Batch {
    fn hidden(&self) -> u64 {
        2 * self.texts * self.words * self.width
    }
}

/// Forward through a layer: what backward needs, with the result last.
fn forward(tape: &mut Tape, model: &Model, batch: Batch) -> Vec<Tensor> {
    let hidden = batch.hidden();
    let mut kept = tape.take_all(&[hidden, hidden, hidden]);
    // Attention works in blocks, and keeps a number for each word and head.
    kept.push(tape.take(4 * batch.texts * model.heads * batch.words));
    tape.pass(batch.texts * model.heads * (32 << 10));
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

/// Forward, backward, and a step of the optimizer. With `again` only what goes from layer to layer
/// is kept, and backward computes each layer again.
fn train(tape: &mut Tape, model: &Model, batch: Batch, again: bool, moments: &mut Vec<Tensor>) {
    let Model { layers: depth, width, vocabulary, .. } = *model;
    let mut layers = vec![tape.take_all(&[8 * batch.texts * batch.words, batch.hidden()])];
    // Weights in half precision stay until the step is over.
    let mut halves = Vec::new();
    for _ in 0..depth {
        halves.extend(tape.take_all(&model.layer()[..6].iter().map(|e| 2 * e).collect::<Vec<_>>()));
        let mut kept = forward(tape, model, batch);
        if again {
            let result = kept.pop();
            tape.give_all(kept.drain(..));
            kept.extend(result);
        }
        layers.push(kept);
    }
    let chosen = batch.texts * batch.words / 6;
    let scores = [2 * chosen * width, 2 * chosen * vocabulary, 4 * chosen * vocabulary];
    layers.push(tape.take_all(&scores));
    let mut gradient = tape.take(4);
    let mut gradients = Vec::new();
    for (at, mut kept) in layers.into_iter().enumerate().rev() {
        let of_layer = (1..=depth).contains(&at);
        if of_layer && again {
            kept.extend(forward(tape, model, batch));
        }
        gradient = tape.backward(gradient, kept);
        if of_layer {
            for elements in model.layer() {
                let half = tape.take(2 * elements);
                gradients.push(tape.replace(half, 4 * elements));
            }
        }
    }
    gradients.extend(tape.take_all(&[4 * vocabulary * width, 4 * POSITIONS * width]));
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
fn evaluate(tape: &mut Tape, model: &Model) {
    let mut lengths: Vec<u64> = (0..14).map(|_| 8 * (1 + tape.heavy_tail(48, 1_200) / 8)).collect();
    lengths.sort_unstable();
    let mut results = Vec::new();
    for words in lengths {
        let batch = Batch { texts: 48, words, width: model.width };
        let mut input = tape.take(batch.hidden());
        for _ in 0..model.layers {
            let mut kept = forward(tape, model, batch);
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
        let (texts, words) = (8 + tape.below(25), 32 + tape.below(225));
        speak(tape, model, Batch { texts, words, width: model.width });
    }
    tape.give_all(results);
}

/// Writes texts word by word.
fn speak(tape: &mut Tape, model: &Model, batch: Batch) {
    let mut known = Vec::new();
    for word in 0..24 {
        let grown = Batch { words: batch.words + word, ..batch };
        let now = Batch { words: if word == 0 { batch.words } else { 1 }, ..batch };
        let old = std::mem::take(&mut known);
        let mut old = old.into_iter();
        for _ in 0..model.layers {
            let parts = tape.take_all(&[now.hidden(); 3]);
            for _ in 0..2 {
                // Keys, then values: the old ones and the new one side by side.
                known.push(tape.take(grown.hidden()));
                tape.give_all(old.next());
            }
            let scores = tape.take(2 * now.texts * model.heads * now.words * grown.words);
            tape.give_all(parts);
            tape.give(scores);
            tape.pass(4 * now.hidden());
            tape.pass(now.hidden());
        }
        tape.pass(2 * batch.texts * model.vocabulary);
    }
    tape.give_all(known);
}

fn make(values: &Values, seed: u64) -> Result<Trace, String> {
    let mut tape = Tape::new(seed);
    let model = Model {
        layers: values.number("layers") as usize,
        width: values.number("width"),
        heads: values.number("heads"),
        vocabulary: values.number("vocabulary"),
    };
    let (texts, width) = (values.number("texts"), model.width);
    let (between, again) = (values.number("evaluate"), values.is("recompute", "on"));
    let weights = tape.take_all(&model.weights(4));
    let (mut moments, mut best) = (Vec::new(), Vec::new());
    for step in 1..=values.number("steps") {
        if tape.is_full() {
            break;
        }
        let longest = (0..4).map(|_| tape.heavy_tail(48, 2_000)).max().unwrap_or(48);
        let batch = Batch { texts, words: 8 * longest.div_ceil(8), width };
        train(&mut tape, &model, batch, again, &mut moments);
        if between > 0 && step % between == 0 {
            evaluate(&mut tape, &model);
            if tape.below(2) == 0 {
                // The best weights so far.
                let copy = tape.take_all(&model.weights(4));
                tape.give_all(std::mem::replace(&mut best, copy));
            }
        }
    }
    tape.give_all(best);
    tape.give_all(moments);
    tape.give_all(weights);
    tape.finish(INFO.name)
}
