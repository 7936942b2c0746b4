"""Training of a 3-D U-Net on volumes: patches of random shape in half precision, the upper levels computed again for
backward, and every tenth step a whole volume, slab by slab."""

import random
from functools import partial

import torch

DEVICE = 6 << 30
OTHERS = 500 << 20
CHANNELS = [40, 80, 160, 320]
empty = partial(torch.empty, device="cuda")
half = partial(torch.empty, device="cuda", dtype=torch.float16)


def block(batch, channels, size):
    """Twice convolution, norm and activation; the last one is the result."""
    return [half(batch, channels, *size) for _ in range(6)]


def halved(size, times):
    return [side >> times for side in size]


def forward(batch, size, keep):
    """What backward needs, level by level; the upper two levels keep their results only."""
    kept, results = [], []
    for level, channels in enumerate(CHANNELS):
        made = block(batch, channels, halved(size, level))
        results.append(made[-1])
        if keep and level > 1:
            kept += made
        del made
        if level < 3:
            pooled = half(batch, channels, *halved(size, level + 1))
            kept += [pooled] if keep else []
    for level in (2, 1, 0):
        raised = half(batch, CHANNELS[level], *halved(size, level))
        joined = half(batch, 2 * CHANNELS[level], *halved(size, level))
        made = block(batch, CHANNELS[level], halved(size, level))
        kept += [raised, joined, *made] if keep else []
        del raised, joined
        results[level] = made[-1]
        del made
    return kept, results


def backward(kept, results, batch, size):
    """A gradient for each tensor, from the last to the first, and the upper levels once more."""
    gradient = half(batch, 4, *size)
    while kept:
        tensor = kept.pop()
        gradient = half(*tensor.shape)
        del tensor
    for level in (1, 0):
        again = block(batch, CHANNELS[level], halved(size, level))
        while again:
            gradient = half(*again.pop().shape)
        results.pop()
    del gradient


def train(batch, size):
    """A step."""
    volume = empty(batch, 1, *size)
    kept, results = forward(batch, size, keep=True)
    scores = half(batch, 4, *size)
    chances = empty(batch, 4, *size)
    del scores
    kept.append(chances)
    del chances
    backward(kept, results, batch, size)
    return volume.shape[0]


def validate(side):
    """A whole volume: the scores of all of it, and slabs through the network."""
    scores = half(4, side, side, side)
    for _ in range(0, side - 63, 64):
        slab = empty(1, 1, 64, side, side)
        forward(1, (64, side, side), keep=False)
        part = half(4, *slab.shape[2:])
        del slab, part
    return empty(side, side, side, dtype=torch.int64), scores.shape[0]


def main():
    draw = random.Random(1)
    model = [empty(4, inputs * outputs * 27) for inputs, outputs in zip([1, *CHANNELS], CHANNELS)]
    for step in range(40):
        train(draw.randint(1, 3), [draw.choice((64, 80, 96, 112, 128)) for _ in range(3)])
        if step % 10 == 9:
            validate(draw.choice((192, 224, 256)))
    return model
