"""Answers in the way of WeClone: 689 prompts through a serving engine that may use 0.9 of the device, fills what the
weights leave of that with its cache of keys and values, and then captures a graph for each size of batch."""

import random
from functools import partial

import torch

DEVICE = 24 << 30
OTHERS = 450 << 20
#: Of the device: what the engine may use, and up to where it fills that with its cache.
UTILIZATION = CACHE_SHARE = 0.9
LAYERS, WIDTH, SHARED, INNER, WORDS = 28, 3584, 512, 18_944, 152_064
CAPTURED = [*range(256, 0, -8), 4, 2, 1]
PROMPTS, MOST_TOKENS, MOST_ANSWERS = 689, 8192, 256
half = partial(torch.empty, device="cuda", dtype=torch.bfloat16)
full = partial(torch.empty, device="cuda")


def load():
    """The weights of a model of seven billion."""
    layer = [(WIDTH + 2 * SHARED, WIDTH), (WIDTH, WIDTH), (2 * INNER, WIDTH), (WIDTH, INNER)]
    return [half(WORDS, WIDTH), *[half(*shape) for shape in layer * LAYERS], half(WORDS, WIDTH)]


def forward(tokens):
    """All layers over so many tokens."""
    state = half(tokens, WIDTH)
    for _ in range(LAYERS):
        heads = half(tokens, WIDTH + 2 * SHARED)
        attended = half(tokens, WIDTH)
        del heads
        inner = half(tokens, 2 * INNER)
        active = half(tokens, INNER)
        del inner
        state = half(*attended.shape)
        del attended, active
    return state


def sample(answers):
    """The next token of each answer."""
    scores = half(answers, WORDS)
    scaled = full(*scores.shape)
    del scores
    chances = full(*scaled.shape)
    ordered, places = full(*scaled.shape), full(*scaled.shape, dtype=torch.int64)
    return ordered.shape[0] + chances.shape[0] + places.shape[0]


def profile():
    """A pass with the most tokens: what the engine counts as the need of its activations."""
    forward(MOST_TOKENS)
    sample(MOST_ANSWERS)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    return peak


def allocate_cache(bytes_left):
    """Keys and values of each layer, as many as there is room for."""
    return [half(bytes_left // LAYERS // 2) for _ in range(LAYERS)]


def capture(sizes):
    """A graph for each size, whose memory lies in a pool of its own."""
    graphs = []
    for size in sizes:
        pool = torch.cuda.graph_pool_handle()
        torch._C._cuda_beginAllocateCurrentThreadToPool(0, pool)
        graphs.append((pool, forward(size), half(size, WORDS)))
        torch._C._cuda_endAllocateToPool(0, pool)
    return graphs


def generate(draw):
    """Prompts are read, as many as fit a pass, and answered together."""
    left = PROMPTS
    while left:
        answers = tokens = 0
        while left and answers < MOST_ANSWERS:
            length = min(2048, int(120 * draw.paretovariate(1.3)))
            if tokens + length > MOST_TOKENS:
                break
            answers, tokens, left = answers + 1, tokens + length, left - 1
        forward(tokens)
        for _ in range(draw.randint(8, 32)):
            sample(answers)


def main():
    torch.cuda.set_per_process_memory_fraction(UTILIZATION)
    model = load()
    cache = allocate_cache(int(CACHE_SHARE * DEVICE) - profile())
    graphs = capture(CAPTURED)
    generate(random.Random(1))
    return model, cache, graphs
