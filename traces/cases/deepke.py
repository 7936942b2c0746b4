"""Relation extraction in the way of DeepKE: BERT-base is tuned in single precision, batches of 32 texts, as long as the
longest of them, at most 512."""

import random
from functools import partial

import torch

DEVICE = 12 << 30
OTHERS = 450 << 20
TEXTS, MOST_WORDS = 32, 512
LAYERS, WIDTH, HEADS, WORDS = 12, 768, 12, 21_128
empty = partial(torch.empty, device="cuda")
mask = partial(torch.empty, device="cuda", dtype=torch.bool)


def parameters():
    """Shapes of the weights."""
    square = (WIDTH, WIDTH)
    layer = [*[square] * 4, (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), *[(WIDTH,)] * 9, (4 * WIDTH,)]
    return [(WORDS, WIDTH), (512, WIDTH), *layer * LAYERS, square, (51, 2 * WIDTH)]


def attention(length):
    """What backward needs of it, with the scores of all pairs of words."""
    kept = [empty(TEXTS, length, WIDTH) for _ in range(3)]
    scores = empty(TEXTS * HEADS, length, length)
    chances = empty(*scores.shape)
    del scores
    kept += [chances, mask(*chances.shape), empty(*chances.shape)]
    return [*kept, empty(TEXTS, length, WIDTH), empty(TEXTS, length, WIDTH), mask(TEXTS, length, WIDTH)]


def feed_forward(length):
    """The wide part of a layer."""
    inner = empty(TEXTS, length, 4 * WIDTH)
    active = empty(*inner.shape)
    return [inner, active, empty(TEXTS, length, WIDTH), mask(TEXTS, length, WIDTH)]


def layer(length):
    """What backward needs of a layer."""
    kept = attention(length)
    kept.append(empty(TEXTS, length, WIDTH))
    kept += feed_forward(length)
    return [*kept, empty(TEXTS, length, WIDTH)]


def backward(kept, shapes):
    """Gradients of what was kept, from the last to the first, and those of the weights."""
    flow = empty(1)
    while kept:
        tensors = kept.pop()
        while tensors:
            flow = empty(*tensors.pop().shape)
    del flow
    return [empty(*shape) for shape in shapes]


def step(shapes, moments, length):
    """A batch forward and backward, and AdamW."""
    kept = [[empty(TEXTS, length, WIDTH)]]
    for _ in range(LAYERS):
        kept.append(layer(length))
    gradients = backward(kept, shapes)
    if not moments:
        moments += [empty(*shape) for shape in shapes for _ in range(2)]
    roots = [empty(*gradient.shape) for gradient in gradients]
    del roots


def main():
    draw = random.Random(1)
    shapes = parameters()
    model, moments = [empty(*shape) for shape in shapes], []
    for _ in range(70):
        step(shapes, moments, min(MOST_WORDS, 16 + int(60 * draw.paretovariate(1.3))))
    return model
