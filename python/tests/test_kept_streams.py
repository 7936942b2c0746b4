"""Streams of other libraries are kept until nobody else holds them."""

from __future__ import annotations

import pytest

from drystone import InvalidArgument
from drystone._streams import Streams


class Stream:
    """What a library's stream is here: an object."""


def streams(refuses: bool = False) -> tuple[Streams, list[tuple[int, int]]]:
    ended: list[tuple[int, int]] = []

    def tell(device: int, handle: int) -> None:
        if refuses:
            raise InvalidArgument("a capture is underway")
        ended.append((device, handle))

    return Streams(tell), ended


def test_a_stream_in_use_is_kept_and_a_dropped_one_ends() -> None:
    kept, ended = streams()
    stream = Stream()
    kept.keep(0, 77, stream)
    kept.keep(1, 77, Stream())
    kept.end_dropped()
    assert ended == [(1, 77)] and len(kept) == 1
    del stream
    kept.end_dropped()
    assert ended == [(1, 77), (0, 77)] and len(kept) == 0


def test_the_default_stream_is_not_kept() -> None:
    kept, _ = streams()
    kept.keep(0, 0, Stream())
    kept.keep(0, 1, Stream())
    assert len(kept) == 0


def test_many_streams_are_swept_now_and_then() -> None:
    kept, ended = streams()
    for handle in range(100, 1100):
        kept.keep(0, handle, Stream())
    assert len(kept) < 20 and len(ended) > 980


def test_a_stream_that_cannot_end_is_kept() -> None:
    kept, _ = streams(refuses=True)
    kept.keep(0, 5, Stream())
    kept.end_dropped()
    assert len(kept) == 1
    with pytest.raises(InvalidArgument):
        kept.end(0, 5)
