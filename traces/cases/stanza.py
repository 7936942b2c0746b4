"""Tagging in the way of Stanza: reviews whose sentences are not split, so that a few are very long, in one process
with another framework, which holds most of the device."""

import random
from functools import partial

import torch

DEVICE = 4 << 30
OTHERS = 3 << 30
empty = partial(torch.empty, device="cuda")


def lstm(batch, length, width, layers, directions):
    """Results and states stay with who called, the gates' room only while it runs."""
    output = empty(batch, length, directions * width)
    state = empty(2, layers * directions, batch, width)
    gates = empty(batch, length, directions * 4 * width)
    del gates
    return output, state


def characters(words, longest):
    """A vector for each word, from its letters."""
    letters = empty(words, longest, dtype=torch.int64)
    embedded = empty(*letters.shape, 100)
    output, _ = lstm(words, longest, 200, 1, 1)
    del embedded
    return empty(words, output.shape[-1])


def tag(batch, length, longest):
    """Tags for a batch of padded texts."""
    words = batch * length
    vectors = characters(words, longest)
    joined = empty(batch, length, 175 + vectors.shape[-1])
    output, _ = lstm(batch, length, 400, 3, 2)
    del joined
    hidden = empty(words, output.shape[-1])
    features = empty(words, 400)
    parts = empty(words, 100)
    products = empty(words, 60, parts.shape[-1])
    scores = empty(words, 60)
    return scores.shape[0] + features.shape[0] + hidden.shape[0] + products.shape[0]


def weights():
    """Embeddings, the three LSTM layers and the heads."""
    sizes = [30_000 * 175, 300 * 100, 4 * 200 * 300]
    sizes += [2 * 4 * 400 * inputs for inputs in (775, 1200, 1200)]
    sizes += [800 * 800, 800 * 100 * 60, 800 * 400]
    return [empty(size) for size in sizes]


def main():
    draw = random.Random(1)
    model = weights()
    texts = [min(2500, int(40 * draw.paretovariate(1.3))) for _ in range(1500)]
    while texts:
        batch = [texts.pop()]
        while texts and max(*batch, texts[-1]) * (len(batch) + 1) < 5000:
            batch.append(texts.pop())
        tag(len(batch), max(batch), draw.randint(8, 40))
    return model
