//! `diffusion`: a diffusion model learns from images of mixed sizes and shapes, in batches of about as many pixels:
//! an encoder without gradients, a U-Net with them, weights averaged over time; now and then images
//! of any size are made.

use drystone_trace::Trace;

use super::GeneratorInfo;
use super::options::{Values, number};
use super::tape::{Tape, Tensor};

pub(super) const INFO: GeneratorInfo = GeneratorInfo {
    name: "diffusion",
    summary: "A U-Net trained on images of mixed sizes and shapes, which now and then makes some",
    options: &[
        number("steps", "steps of training", (1, 100_000), "36"),
        number("pixels", "pixels of a batch", (1, 1 << 30), "20971520"),
        number(
            "sample",
            "steps between two rounds of making images; 0 for never",
            (0, 100_000),
            "9",
        ),
        number("denoise", "passes of the U-Net to make an image", (1, 1_000), "12"),
    ],
    make,
};

/// Channels of the U-Net's levels, residual blocks in each.
const LEVELS: [u64; 3] = [320, 640, 1_280];
const BLOCKS: usize = 2;
/// Channels of the encoder's levels.
const ENCODER: [u64; 4] = [128, 256, 512, 512];

/// Images of one size.
#[derive(Clone, Copy)]
struct Images {
    count: u64,
    wide: u64,
    high: u64,
}

impl Images {
    /// Of random size and shape: sides are multiples of 64 pixels.
    fn random(tape: &mut Tape, pixels: u64) -> Images {
        let (wide, high) = (64 * (8 + tape.below(11)), 64 * (8 + tape.below(11)));
        Images { count: (pixels / (wide * high)).max(1), wide, high }
    }

    /// Bytes of so many channels in half precision, each side `part` times as short.
    fn bytes(&self, channels: u64, part: u64) -> u64 {
        2 * self.count * channels * (self.wide / part).max(1) * (self.high / part).max(1)
    }
}

/// A residual block: what backward needs, with the result last.
fn block(tape: &mut Tape, images: Images, channels: u64, part: u64, attends: bool) -> Vec<Tensor> {
    let bytes = images.bytes(channels, part);
    let mut kept = tape.take_all(&[bytes, 256 * images.count, bytes]);
    // A convolution works in a copy of its input in another order.
    tape.pass(bytes + (4 << 20));
    kept.extend(tape.take_all(&[bytes, bytes, bytes]));
    tape.pass(bytes + (4 << 20));
    kept.push(tape.take(bytes));
    if attends {
        kept.extend(tape.take_all(&[bytes, bytes, bytes, bytes]));
        kept.push(tape.take(bytes / channels * 20));
        kept.extend(tape.take_all(&[bytes, 8 * bytes, 4 * bytes]));
    }
    kept.push(tape.take(bytes));
    kept
}

/// The U-Net: what backward needs, block by block in order of use. Without gradients only what the
/// way up needs of the way down is kept, and in the end nothing.
fn unet(tape: &mut Tape, images: Images, gradients: bool) -> Vec<Vec<Tensor>> {
    let (mut all, mut skips) = (Vec::new(), Vec::new());
    let down = LEVELS.iter().enumerate();
    for (level, &channels) in down.clone().chain(down.rev()) {
        let part = 8 << level;
        let up = all.len() + skips.len() >= LEVELS.len() * BLOCKS;
        for _ in 0..BLOCKS {
            if up {
                // What came down is put beside what goes up.
                let joined = tape.take(2 * images.bytes(channels, part));
                if gradients {
                    all.push(vec![joined]);
                } else {
                    tape.give(joined);
                    tape.give_all(skips.pop());
                }
            }
            let mut kept = block(tape, images, channels, part, level > 0);
            if gradients {
                all.push(kept);
            } else {
                let result = kept.pop();
                tape.give_all(kept);
                if up {
                    tape.give_all(result);
                } else {
                    skips.extend(result);
                }
            }
        }
    }
    tape.give_all(skips);
    all
}

/// Pixels become latents, or latents pixels: no gradients, but large.
fn code(tape: &mut Tape, images: Images, decode: bool) -> Tensor {
    let mut levels: Vec<usize> = (0..ENCODER.len()).collect();
    if decode {
        levels.reverse();
    }
    let mut now = tape.take(images.bytes(4, 8));
    for level in levels {
        let bytes = images.bytes(ENCODER[level], 1 << level);
        for _ in 0..2 {
            let normed = tape.take(bytes);
            let shown = tape.replace(normed, bytes);
            let first = tape.replace(shown, bytes);
            let second = tape.replace(first, bytes);
            now = tape.replace(now, bytes);
            tape.give(second);
        }
    }
    let (channels, part) = if decode { (3, 1) } else { (8, 8) };
    tape.replace(now, images.bytes(channels, part))
}

/// Elements of the weights.
fn weights() -> Vec<u64> {
    let mut all = Vec::new();
    for channels in LEVELS {
        for _ in 0..2 * BLOCKS {
            all.extend([9 * channels * channels, 9 * channels * channels, channels, 2 * channels]);
            all.extend([channels * channels; 4]);
            all.extend([8 * channels * channels, 4 * channels * channels]);
        }
    }
    all
}

fn train(tape: &mut Tape, pixels: u64, moments: &mut Vec<Tensor>) {
    let images = Images::random(tape, pixels);
    let pixels = tape.take(2 * images.bytes(3, 1));
    // One image after the other.
    let single = Images { count: 1, ..images };
    let parts: Vec<Tensor> = (0..images.count).map(|_| code(tape, single, false)).collect();
    let latents = tape.take(images.bytes(8, 8));
    tape.give_all(parts);
    tape.give(pixels);
    let noisy = tape.take_all(&[images.bytes(4, 8); 2]);
    let all = unet(tape, images, true);
    let mut gradient = tape.take(2 * images.bytes(4, 8));
    let mut gradients = Vec::new();
    let mut weights = weights();
    let each = weights.len().div_ceil(all.len());
    for kept in all.into_iter().rev() {
        gradient = tape.backward(gradient, kept);
        for elements in weights.split_off(weights.len().saturating_sub(each)).into_iter().rev() {
            tape.pass(2 * elements);
            gradients.push(tape.take(4 * elements));
        }
    }
    tape.give(gradient);
    tape.give_all(noisy);
    tape.give(latents);
    if moments.is_empty() {
        let sizes: Vec<u64> = gradients.iter().flat_map(|g| [g.bytes, g.bytes]).collect();
        moments.extend(tape.take_all(&sizes));
    }
    for gradient in gradients {
        tape.pass(gradient.bytes);
        tape.give(gradient);
    }
}

/// Makes some images of one size.
fn sample(tape: &mut Tape, passes: u64) {
    let images = Images { count: 1, ..Images::random(tape, 1) };
    let twice = Images { count: 2 * images.count, ..images };
    let mut latents = tape.take(images.bytes(4, 8));
    for _ in 0..passes {
        let both = tape.take(twice.bytes(4, 8));
        unet(tape, twice, false);
        tape.give(both);
        latents = tape.replace(latents, images.bytes(4, 8));
    }
    let pixels = code(tape, images, true);
    tape.give(latents);
    let shown = tape.replace(pixels, images.bytes(3, 1) / 2);
    tape.give(shown);
}

fn make(values: &Values, seed: u64) -> Result<Trace, String> {
    let mut tape = Tape::new(seed);
    // The weights and their average.
    let sizes: Vec<u64> = weights().iter().map(|elements| 4 * elements).collect();
    let mut lasting = tape.take_all(&sizes);
    lasting.extend(tape.take_all(&sizes));
    let mut moments = Vec::new();
    let between = values.number("sample");
    for step in 1..=values.number("steps") {
        if tape.is_full() {
            break;
        }
        train(&mut tape, values.number("pixels"), &mut moments);
        if between > 0 && step % between == 0 {
            (0..3).for_each(|_| sample(&mut tape, values.number("denoise")));
        }
    }
    tape.give_all(moments);
    tape.give_all(lasting);
    tape.finish(INFO.name)
}
