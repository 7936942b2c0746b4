"""What happened and what is: the history of events, as a trace, and snapshots of all blocks."""

from __future__ import annotations

import json
import os
from typing import Any

from drystone import _library
from drystone._memory import device_index

_JSON, _PICKLE = 0, 1

DEFAULT_ENTRIES = 1_000_000
"""How many events are kept unless another number is asked for; each takes about 64 bytes."""


def history(entries: int = DEFAULT_ENTRIES) -> None:
    """Keeps the last ``entries`` events (allocations, frees, what came from and went to the driver)
    from now on; 0 stops it and forgets what was kept."""
    if entries < 0:
        raise _library.InvalidArgument(
            f"drystone.history: {entries} entries: 0 or more are allowed"
        )
    _library.call("drystone_history_set", entries)


def trace(device: Any = None) -> str:
    """The history of a device as a trace of Drystone's, in CSV."""
    return _library.text("drystone_trace", device_index(device)).decode()


def save_trace(path: str | os.PathLike[str], device: Any = None) -> None:
    """Writes the history of a device to a file that ``drystone compare`` and ``drystone replay``
    read. Call :func:`history` at the start of what is to be studied."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(trace(device))


def snapshot() -> dict[str, Any]:
    """All segments and blocks, and the history if it is kept, as ``torch.cuda.memory._snapshot()``
    gives them."""
    taken: dict[str, Any] = json.loads(_library.text("drystone_snapshot", _JSON))
    return taken


def save_snapshot(path: str | os.PathLike[str]) -> None:
    """Writes a snapshot to a file that PyTorch's viewer (pytorch.org/memory_viz) and ``drystone
    compare`` open."""
    taken = _library.text("drystone_snapshot", _PICKLE)
    with open(path, "wb") as file:
        file.write(taken)
