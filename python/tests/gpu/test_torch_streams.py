"""Streams: memory that another stream still uses is not handed out."""

from __future__ import annotations

import pytest
from torch_fixtures import MIB, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")

CYCLES = 200_000_000
"""What ``_sleep`` waits: some tenth of a second."""


def test_a_recorded_stream_keeps_the_memory() -> None:
    side = torch.cuda.Stream()
    for _ in range(5):
        block = torch.full((64 * MIB,), 7, dtype=torch.uint8, device="cuda")
        address = block.data_ptr()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(CYCLES)
            seen = block.clone()
        block.record_stream(side)
        del block
        # On the own stream, while the other one has not read yet.
        other = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
        assert other.data_ptr() != address
        torch.cuda.synchronize()
        assert bool((seen == 7).all())
        del other, seen


def test_after_the_stream_has_passed_it_serves_again() -> None:
    side = torch.cuda.Stream()
    block = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    with torch.cuda.stream(side):
        block.fill_(1)
    block.record_stream(side)
    del block
    torch.cuda.synchronize()
    held = torch.cuda.memory_reserved()
    again = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() == held
    del again


def test_streams_do_not_meet() -> None:
    streams = [torch.cuda.Stream() for _ in range(4)]
    wrong = torch.zeros(1, dtype=torch.int64, device="cuda")
    for round_ in range(50):
        for number, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                size = (1 + (round_ * 7 + number * 3) % 32) * MIB
                stamp = (round_ * 4 + number) % 251
                block = torch.full((size,), stamp, dtype=torch.uint8, device="cuda")
                torch.cuda._sleep(100_000)
                wrong_here = (block != stamp).sum()
                wrong_here.record_stream(torch.cuda.default_stream())
                torch.cuda.default_stream().wait_stream(stream)
            wrong += wrong_here
            del block
    assert wrong.item() == 0
