"""The statistics of a device as a table for people."""

from __future__ import annotations

from typing import Any

from drystone._memory import device_index, get_limit, memory_info, stats

_ROWS = [
    ("requested_bytes", "asked for by the program"),
    ("allocated_bytes", "handed out"),
    ("active_bytes", "handed out or awaited"),
    ("reserved_bytes", "held of the device"),
    ("inactive_split_bytes", "free beside live blocks"),
    ("allocation", "blocks handed out"),
    ("segment", "segments"),
]
_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"]


def bytes_text(count: float) -> str:
    """Bytes in the largest unit of which there is one."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.2f} {_UNITS[unit]}"


def memory_summary(device: Any = None, *, abbreviated: bool = False) -> str:
    """The statistics of a device as a table: now, at the peak, and summed up since the start.

    Args:
        device: The device; None: PyTorch's current one.
        abbreviated: Whether to leave out the lines for small and for large blocks.
    """
    index = device_index(device)
    figures = stats(index)
    free, total = memory_info(index)
    bound = get_limit(index)
    lines = [
        f"Drystone, device {index}: {bytes_text(total)}, of which free {bytes_text(free)}; "
        f"limit {bytes_text(bound) if bound else 'none'}",
        f"{'':34} {'now':>12} {'peak':>12} {'in total':>12} {'given back':>12}",
    ]
    pools = ["all"] if abbreviated else ["all", "small_pool", "large_pool"]
    for key, words in _ROWS:
        text = bytes_text if key.endswith("bytes") else str
        for pool in pools:
            name = words if pool == "all" else f"  {pool.removesuffix('_pool')} blocks"
            cells = [
                text(figures.get(f"{key}.{pool}.{which}", 0))
                for which in ("current", "peak", "allocated", "freed")
            ]
            lines.append(f"{name:34} " + " ".join(f"{cell:>12}" for cell in cells))
    lines.append(
        f"out of memory: {figures.get('num_ooms', 0)}; requests that emptied the cache first: "
        f"{figures.get('num_alloc_retries', 0)}"
    )
    return "\n".join(lines) + "\n"
