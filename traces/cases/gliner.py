"""Named entities in the way of GLiNER: a DeBERTa encoder and a vector for every span, one call of prediction after the
other, with batches of another shape each time."""

import random
from functools import partial

import torch

DEVICE = 4 << 30
OTHERS = 1 << 30
LAYERS, WIDTH, HEADS, SPAN = 24, 1024, 16, 12
#: Whether the cache is emptied after each call.
EMPTIED = False
empty = partial(torch.empty, device="cuda")


def attention(batch, length):
    """Attention with scores for relative positions, from content to position and back."""
    queries, keys, values = (empty(batch, length, WIDTH) for _ in range(3))
    scores = empty(batch * HEADS, length, length)
    for _ in range(2):
        positions = empty(batch * HEADS, length, 512)
        gathered = empty(*scores.shape)
        scores = empty(*gathered.shape)
        del positions
    chances = empty(*scores.shape)
    del scores, gathered
    return empty(batch, length, WIDTH), (queries, keys, values, chances)[:0]


def layer(batch, length):
    """A layer of the encoder."""
    context, _ = attention(batch, length)
    added = empty(*context.shape)
    inner = empty(batch, length, 4 * WIDTH)
    active = empty(*inner.shape)
    del inner
    outer = empty(*added.shape)
    del active
    return empty(*outer.shape)


def encode(batch, length):
    """The texts' vectors."""
    state = empty(batch, length, WIDTH)
    for _ in range(LAYERS):
        state = layer(batch, length)
    return state


def spans(state):
    """A vector for each span of up to twelve words."""
    batch, length, _ = state.shape
    starts, ends = empty(batch, length, WIDTH), empty(batch, length, WIDTH)
    taken = empty(batch, length, SPAN, ends.shape[-1])
    joined = empty(batch, length, SPAN, starts.shape[-1] + taken.shape[-1])
    projected = empty(batch, length, SPAN, WIDTH)
    del joined
    return empty(*projected.shape)


def predict(batch, length, classes):
    """Which spans are entities."""
    vectors = spans(encode(batch, length))
    scores = empty(batch, length, SPAN, classes)
    chances = empty(*scores.shape)
    return vectors.shape[0] + chances.shape[0]


def main():
    draw = random.Random(1)
    layers = [empty(size) for _ in range(LAYERS) for size in [WIDTH * WIDTH] * 4 + [4 * WIDTH * WIDTH] * 2]
    model = [empty(30_000, WIDTH), *layers]
    for _ in range(70):
        predict(draw.randint(4, 28), draw.randint(40, 380), draw.randint(3, 25))
        if EMPTIED:
            torch.cuda.empty_cache()
    return model
