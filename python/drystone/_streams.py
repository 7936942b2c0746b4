"""Streams that memory was asked for on: kept alive until the allocator has no more use for them.

The allocator names a stream again long after a request on it, so a stream may not be destroyed
before the allocator was told. Objects of other libraries destroy theirs with the last reference
and tell nobody. Therefore one reference is kept here; streams of which it is the last one are
ended from time to time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from drystone import _library

_FIRST_SWEEP = 16
"""How many streams are kept without asking which of them have been dropped."""

_ALONE = 2
"""What ``sys.getrefcount`` says of an object that only one list element and its own argument
hold."""


def _tell(device: int, stream: int) -> None:
    _library.call("drystone_stream_ends", device, stream)


class Streams:
    """The streams of one library, by device and handle."""

    def __init__(self, tell: Callable[[int, int], None] = _tell) -> None:
        self._tell = tell
        # In a list of one, so that the number of references to a stream is easily counted.
        self._kept: dict[tuple[int, int], list[Any]] = {}
        self._sweep_at = _FIRST_SWEEP
        self._lock = threading.Lock()

    def keep(self, device: int, handle: int, stream: Any) -> None:
        """Keeps a stream that memory is asked for on; handles 0 and 1 live as long as the
        device."""
        if handle <= 1 or (device, handle) in self._kept:
            return
        with self._lock:
            self._kept.setdefault((device, handle), [stream])
            crowded = len(self._kept) >= self._sweep_at
        if crowded:
            self.end_dropped()

    def end(self, device: int, handle: int) -> None:
        """Tells the allocator that a stream ends; the host waits for its work."""
        self._tell(device, handle)
        with self._lock:
            self._kept.pop((device, handle), None)

    def end_dropped(self) -> None:
        """Ends every stream that nobody else refers to. One that cannot end yet, in a capture, is
        kept."""
        with self._lock:
            dropped = [
                name for name, kept in self._kept.items() if sys.getrefcount(kept[0]) <= _ALONE
            ]
            self._sweep_at = max(_FIRST_SWEEP, 2 * (len(self._kept) - len(dropped)))
        for device, handle in dropped:
            try:
                self.end(device, handle)
            except _library.Error:
                continue

    def __len__(self) -> int:
        return len(self._kept)
