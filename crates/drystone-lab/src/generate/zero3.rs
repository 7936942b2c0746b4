//! `zero3`: a language model of which each device holds a part of every layer (ZeRO-3) learns small adapters
//! (LoRA): a layer's parameters are gathered on a stream of their own just before they are needed,
//! layers differ in size, texts in length, and the adapters' gradients survive.

use drystone_trace::Trace;

use super::GeneratorInfo;
use super::options::{Values, number};
use super::tape::{Tape, Tensor};

pub(super) const INFO: GeneratorInfo = GeneratorInfo {
    name: "zero3",
    summary: "Training with parameters gathered layer by layer (ZeRO-3), and LoRA adapters",
    options: &[
        number("layers", "layers of the model", (1, 1_000), "24"),
        number(
            "width",
            "elements of a token's state; layers' matrices scale with it",
            (24, 65_536),
            "3072",
        ),
        number("heads", "attention heads", (1, 1_024), "24"),
        number("vocabulary", "tokens that there are", (1, 1_000_000), "32000"),
        number("devices", "devices that share the parameters", (1, 65_536), "8"),
        number("rank", "the rank of the adapters", (1, 4_096), "16"),
        number("steps", "steps of the optimizer", (1, 10_000), "8"),
        number("texts", "texts of which the gradients are added up in a step", (1, 1_000), "4"),
    ],
    make,
};

/// The stream of gathering.
const GATHER: u32 = 1;

struct Model {
    width: u64,
    heads: u64,
    vocabulary: u64,
    rank: u64,
    layers: Vec<Layer>,
}

/// Elements of the matrices of a layer: four of attention, three behind it.
struct Layer {
    attention: u64,
    inner: u64,
}

impl Layer {
    /// Elements that are gathered at once: those of attention, and the others.
    fn groups(&self, width: u64) -> [u64; 2] {
        [4 * width * self.attention, 3 * width * self.inner]
    }

    /// Elements of the adapters, one pair for each matrix.
    fn adapters(&self, width: u64, rank: u64) -> Vec<u64> {
        let matrices = [self.attention; 4].into_iter().chain([self.inner; 3]);
        matrices.flat_map(|other| [rank * width, rank * other]).collect()
    }
}

/// The parameters that are gathered ahead of the computation.
struct Gathered(Vec<Tensor>);

impl Gathered {
    /// Group `at` of those in order of use is needed: it and the next one are gathered.
    fn need(&mut self, tape: &mut Tape, groups: &[u64], at: usize) {
        for &group in &groups[at + self.0.len()..groups.len().min(at + 2)] {
            self.0.push(tape.take_on(2 * group, GATHER));
            tape.wait_us(2 * group / 200_000);
        }
    }

    /// The first is not needed any more.
    fn done(&mut self, tape: &mut Tape) {
        tape.give_later(self.0.remove(0));
    }
}

/// Forward through half a layer: what backward needs, with the result last.
fn forward(tape: &mut Tape, model: &Model, layer: &Layer, half: usize, tokens: u64) -> Vec<Tensor> {
    let hidden = 2 * tokens * model.width;
    let mut kept = vec![tape.take(hidden), tape.take(4 * tokens)];
    let matrix = |tape: &mut Tape, kept: &mut Vec<Tensor>, width: u64| {
        let result = tape.take(2 * tokens * width);
        kept.push(tape.take(2 * tokens * model.rank));
        tape.pass(2 * tokens * width);
        kept.push(tape.replace(result, 2 * tokens * width));
    };
    if half == 0 {
        for _ in 0..3 {
            matrix(tape, &mut kept, layer.attention);
        }
        // Positions are turned into the queries and keys.
        for _ in 0..2 {
            tape.pass(2 * tokens * layer.attention);
        }
        kept.push(tape.take(2 * tokens * layer.attention));
        kept.push(tape.take(4 * tokens * model.heads));
        matrix(tape, &mut kept, model.width);
    } else {
        matrix(tape, &mut kept, layer.inner);
        matrix(tape, &mut kept, layer.inner);
        kept.push(tape.take(2 * tokens * layer.inner));
        kept.push(tape.take(2 * tokens * layer.inner));
        matrix(tape, &mut kept, model.width);
    }
    kept.push(tape.take(hidden));
    kept
}

/// One text: forward, and backward with each layer computed again.
fn text(tape: &mut Tape, model: &Model, tokens: u64, gradients: &mut Vec<Tensor>) {
    let Model { width, vocabulary, rank, layers, .. } = model;
    let hidden = 2 * tokens * width;
    let groups: Vec<u64> = layers.iter().flat_map(|layer| layer.groups(*width)).collect();
    let mut gathered = Gathered(Vec::new());
    let mut inputs = vec![tape.take(hidden)];
    for (at, layer) in layers.iter().enumerate() {
        for half in 0..2 {
            gathered.need(tape, &groups, 2 * at + half);
            let mut kept = forward(tape, model, layer, half, tokens);
            // Only the layer's input is kept.
            let result = kept.pop();
            tape.give_all(kept);
            gathered.done(tape);
            inputs.extend(result);
        }
    }
    let scores = tape.take(2 * tokens * vocabulary);
    let exact = tape.take(4 * tokens * vocabulary);
    let loss = tape.take(4 * tokens * vocabulary);
    tape.give(exact);
    let of_scores = tape.replace(loss, 2 * tokens * vocabulary);
    tape.give(scores);
    let mut gradient = tape.replace(of_scores, hidden);
    tape.give_all(inputs.pop());

    let back: Vec<u64> = groups.iter().rev().copied().collect();
    let first = gradients.is_empty();
    for (at, layer) in layers.iter().rev().enumerate() {
        for half in 0..2 {
            gathered.need(tape, &back, 2 * at + half);
            let kept = forward(tape, model, layer, 1 - half, tokens);
            gradient = tape.backward(gradient, kept);
            gathered.done(tape);
            tape.give_all(inputs.pop());
        }
        for elements in layer.adapters(*width, *rank) {
            let new = tape.take(4 * elements);
            // Later texts add theirs to what is there.
            if first {
                gradients.push(new);
            } else {
                tape.give(new);
            }
        }
    }
    tape.give(gradient);
}

fn make(values: &Values, seed: u64) -> Result<Trace, String> {
    let mut tape = Tape::new(seed);
    let width = values.number("width");
    let unit = width / 24;
    let layer = |tape: &mut Tape| Layer {
        attention: unit * (16 + tape.below(9)),
        inner: unit * (48 + tape.below(33)),
    };
    let model = Model {
        width,
        heads: values.number("heads"),
        vocabulary: values.number("vocabulary"),
        rank: values.number("rank"),
        layers: (0..values.number("layers")).map(|_| layer(&mut tape)).collect(),
    };
    let mut lasting = Vec::new();
    for layer in &model.layers {
        let parts = layer.groups(width).map(|group| 2 * group / values.number("devices"));
        lasting.extend(tape.take_all(&parts));
        let adapters = layer.adapters(width, model.rank);
        let adapters: Vec<u64> = adapters.iter().map(|elements| 4 * elements).collect();
        lasting.extend(tape.take_all(&adapters));
    }
    lasting.push(tape.take(2 * model.vocabulary * width));
    for step in 0..values.number("steps") {
        if tape.is_full() {
            break;
        }
        let mut gradients = Vec::new();
        for _ in 0..values.number("texts") {
            let tokens = 8 * tape.heavy_tail(64, 512);
            text(&mut tape, &model, tokens, &mut gradients);
        }
        for gradient in &gradients {
            let bytes = gradient.bytes;
            if step == 0 {
                // The optimizer's two moments.
                lasting.extend(tape.take_all(&[bytes, bytes]));
            }
            tape.pass(bytes);
        }
        tape.give_all(gradients);
    }
    tape.give_all(lasting);
    tape.finish(INFO.name)
}
