"""Pre-training of BERT-large in the way of its authors (Devlin et al., 2019): most steps at length 128, then at 512;
half precision for what is computed, gradients over four batches, AdamW."""

from functools import partial

import torch

DEVICE = 16 << 30
OTHERS = 600 << 20
LAYERS, WIDTH, HEADS, WORDS = 24, 1024, 16, 30_522
empty = partial(torch.empty, device="cuda")
half = partial(torch.empty, device="cuda", dtype=torch.bfloat16)
mask = partial(torch.empty, device="cuda", dtype=torch.bool)


def parameters():
    """Shapes of the weights."""
    square = (WIDTH, WIDTH)
    layer = [*[square] * 4, (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), *[(WIDTH,)] * 9, (4 * WIDTH,)]
    return [(WORDS, WIDTH), (512, WIDTH), *layer * LAYERS, square]


def cast(shapes):
    """The weights in half precision, for as long as the step takes."""
    return [half(*shape) for shape in shapes if len(shape) > 1]


def attention(texts, length):
    """What backward needs of it, with the scores of all pairs of words."""
    kept = [half(texts, length, WIDTH) for _ in range(3)]
    scores = half(texts * HEADS, length, length)
    chances = half(*scores.shape)
    del scores
    kept += [chances, mask(*chances.shape), half(*chances.shape)]
    return [*kept, half(texts, length, WIDTH), half(texts, length, WIDTH), mask(texts, length, WIDTH)]


def layer(texts, length):
    """What backward needs of a layer."""
    kept = attention(texts, length)
    added = half(texts, length, WIDTH)
    kept += [empty(texts, length, WIDTH), half(texts, length, 4 * WIDTH)]
    kept += [half(texts, length, 4 * WIDTH), half(*added.shape), mask(*added.shape)]
    return [*kept, empty(texts, length, WIDTH)]


def backward(kept, gradients, shapes):
    """Gradients of what was kept, from the last to the first; those of the weights stay."""
    flow = half(1)
    while kept:
        tensors = kept.pop()
        while tensors:
            flow = empty(*tensors.pop().shape, dtype=torch.bfloat16)
    if not gradients:
        gradients += [empty(*shape) for shape in shapes]
    else:
        for shape in shapes:
            empty(*shape)
    del flow


def step(shapes, gradients, texts, length):
    """A batch forward and backward."""
    casts = cast(shapes)
    kept = [[half(texts, length, WIDTH)]]
    for _ in range(LAYERS):
        kept.append(layer(texts, length))
    scores = half(texts * length, WORDS)
    kept.append([scores, empty(*scores.shape), empty(*scores.shape)])
    del scores
    backward(kept, gradients, shapes)
    del casts


def update(gradients, moments):
    """AdamW, which takes all weights at once."""
    if not moments:
        moments += [empty(*gradient.shape) for gradient in gradients for _ in range(2)]
    roots = [empty(*gradient.shape) for gradient in gradients]
    del roots
    gradients.clear()


def main():
    shapes = parameters()
    model, gradients, moments = [empty(*shape) for shape in shapes], [], []
    for texts, length, updates in ((44, 128, 6), (9, 512, 2)):
        for _ in range(updates):
            for _ in range(4):
                step(shapes, gradients, texts, length)
            update(gradients, moments)
    return model
