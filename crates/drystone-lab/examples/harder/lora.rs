//! A language model of which each device holds a part of every layer (ZeRO-3) learns small adapters
//! (LoRA): a layer's parameters are gathered on a stream of their own just before they are needed,
//! layers differ in size, texts in length, and the adapters' gradients survive.

use super::tape::{Tape, Tensor};

const LAYERS: usize = 24;
const WIDTH: u64 = 3_072;
const HEADS: u64 = 24;
const WORDS: u64 = 32_000;
/// Devices that share the parameters.
const DEVICES: u64 = 8;
/// The rank of the adapters.
const RANK: u64 = 16;
const GATHER: u32 = 1;
const STEPS: usize = 8;
/// Texts of which the gradients are added up.
const TEXTS: usize = 4;

/// Elements of the matrices of a layer: four of attention, three behind it.
struct Layer {
    attention: u64,
    inner: u64,
}

impl Layer {
    /// Elements that are gathered at once: those of attention, and the others.
    fn groups(&self) -> [u64; 2] {
        [4 * WIDTH * self.attention, 3 * WIDTH * self.inner]
    }

    /// Elements of the adapters, one pair for each matrix.
    fn adapters(&self) -> Vec<u64> {
        let matrices = [self.attention; 4].into_iter().chain([self.inner; 3]);
        matrices.flat_map(|other| [RANK * WIDTH, RANK * other]).collect()
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
fn forward(tape: &mut Tape, layer: &Layer, half: usize, tokens: u64) -> Vec<Tensor> {
    let hidden = 2 * tokens * WIDTH;
    let mut kept = vec![tape.take(hidden), tape.take(4 * tokens)];
    let matrix = |tape: &mut Tape, kept: &mut Vec<Tensor>, width: u64| {
        let result = tape.take(2 * tokens * width);
        kept.push(tape.take(2 * tokens * RANK));
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
        kept.push(tape.take(4 * tokens * HEADS));
        matrix(tape, &mut kept, WIDTH);
    } else {
        matrix(tape, &mut kept, layer.inner);
        matrix(tape, &mut kept, layer.inner);
        kept.push(tape.take(2 * tokens * layer.inner));
        kept.push(tape.take(2 * tokens * layer.inner));
        matrix(tape, &mut kept, WIDTH);
    }
    kept.push(tape.take(hidden));
    kept
}

/// One text: forward, and backward with each layer computed again.
fn text(tape: &mut Tape, layers: &[Layer], tokens: u64, gradients: &mut Vec<Tensor>) {
    let hidden = 2 * tokens * WIDTH;
    let groups: Vec<u64> = layers.iter().flat_map(Layer::groups).collect();
    let mut gathered = Gathered(Vec::new());
    let mut inputs = vec![tape.take(hidden)];
    for (at, layer) in layers.iter().enumerate() {
        for half in 0..2 {
            gathered.need(tape, &groups, 2 * at + half);
            let mut kept = forward(tape, layer, half, tokens);
            // Only the layer's input is kept.
            let result = kept.pop();
            tape.give_all(kept);
            gathered.done(tape);
            inputs.extend(result);
        }
    }
    let scores = tape.take(2 * tokens * WORDS);
    let exact = tape.take(4 * tokens * WORDS);
    let loss = tape.take(4 * tokens * WORDS);
    tape.give(exact);
    let of_scores = tape.replace(loss, 2 * tokens * WORDS);
    tape.give(scores);
    let mut gradient = tape.replace(of_scores, hidden);
    tape.give_all(inputs.pop());

    let back: Vec<u64> = groups.iter().rev().copied().collect();
    let first = gradients.is_empty();
    for (at, layer) in layers.iter().rev().enumerate() {
        for half in 0..2 {
            gathered.need(tape, &back, 2 * at + half);
            let kept = forward(tape, layer, 1 - half, tokens);
            gradient = tape.backward(gradient, kept);
            gathered.done(tape);
            tape.give_all(inputs.pop());
        }
        for elements in layer.adapters() {
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

/// The trace as CSV.
pub(crate) fn write(seed: u64) -> String {
    let mut tape = Tape::new(seed);
    let layer = |tape: &mut Tape| Layer {
        attention: 128 * (16 + tape.below(9)),
        inner: 128 * (48 + tape.below(33)),
    };
    let layers: Vec<Layer> = (0..LAYERS).map(|_| layer(&mut tape)).collect();
    let mut lasting = Vec::new();
    for layer in &layers {
        let parts = layer.groups().map(|group| 2 * group / DEVICES);
        lasting.extend(tape.take_all(&parts));
        let adapters: Vec<u64> = layer.adapters().iter().map(|elements| 4 * elements).collect();
        lasting.extend(tape.take_all(&adapters));
    }
    lasting.push(tape.take(2 * WORDS * WIDTH));
    for step in 0..STEPS {
        let mut gradients = Vec::new();
        for _ in 0..TEXTS {
            let tokens = 8 * tape.heavy_tail(64, 512);
            text(&mut tape, &layers, tokens, &mut gradients);
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
    tape.finish()
}
