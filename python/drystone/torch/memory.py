"""PyTorch's functions about memory, answered from Drystone on the plain path.

The functions of ``torch.cuda.memory`` are Python over functions of the module ``torch._C``, which
they look up at each call; those would ask PyTorch's object for pluggable allocators, which knows
nothing and raises. :func:`connect` puts the functions below in their place. What Drystone cannot
answer on this path raises a sentence that says what to do instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

import drystone
from drystone import _library
from drystone.torch import pools, settings

_log = logging.getLogger("drystone")
_said: set[str] = set()
_fractions: dict[int, tuple[float, int | None]] = {}
"""The fraction that was set of a device, and the limit that it came to."""

MAX_HISTORY = 1_000_000
"""The most events that are kept; PyTorch's own default is no bound."""


def connect() -> None:
    """Puts Drystone's functions in the place of those that PyTorch looks up."""
    replace(torch._C, _FUNCTIONS)
    replace(torch._C, {name: _refusal(name, advice) for name, advice in _REFUSED.items()})
    pools.connect(replace)
    settings.connect()
    torch.UntypedStorage._share_cuda_ = _refusal(
        "sharing a CUDA tensor with another process",
        "share it as a CPU tensor (tensor.cpu()), or use the full adapter",
    )


def replace(module: Any, functions: dict[str, Any]) -> None:
    """Sets those attributes of a module that it has."""
    for name, function in functions.items():
        if hasattr(module, name):
            setattr(module, name, function)


def _refusal(what: str, advice: str) -> Callable[..., Any]:
    def refuse(*_arguments: Any, **_named: Any) -> Any:
        raise RuntimeError(f"drystone: {what} is not possible on the plain path: {advice}")

    return refuse


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _log.warning("drystone: %s", text)


def _nested(flat: dict[str, int]) -> dict[str, Any]:
    """Statistics by names with dots, as dictionaries in dictionaries."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def _index(device: Any = None) -> int | None:
    return None if device is None or (isinstance(device, int) and device < 0) else device


def _memory_stats(device: Any = None) -> dict[str, Any]:
    return _nested(drystone.stats(_index(device)))


def _reset_accumulated(device: Any = None) -> None:
    drystone.reset_stats(_index(device))


def _reset_peak(device: Any = None) -> None:
    drystone.reset_peak_stats(_index(device))


def _set_fraction(fraction: float, device: int) -> None:
    _library.call("drystone_set_memory_fraction", device, fraction)
    _fractions[device] = fraction, drystone.get_limit(device)


def _fraction(device: Any = None) -> float:
    index = torch.cuda.current_device() if _index(device) is None else device
    limit, total = drystone.get_limit(index), drystone.memory_info(index).total
    fraction, bound = _fractions.get(index, (1.0, None))
    if limit == bound:
        # Bytes say less than the fraction that they came from.
        return fraction
    return min(limit / total, 1.0) if limit and total else 1.0


def _snapshot(which: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """As PyTorch's: of everything, or of the pool (a, b) in ``which``; its third entry says whether
    with traces."""
    taken = drystone.snapshot()
    for segment in taken["segments"]:
        segment["segment_pool_id"] = tuple(segment["segment_pool_id"])
    if which is not None:
        pool, with_traces = tuple(which[:2]), len(which) < 3 or which[2]
        if pool != (0, 0):
            taken["segments"] = [
                segment for segment in taken["segments"] if segment["segment_pool_id"] == pool
            ]
        if not with_traces:
            taken["device_traces"] = []
    return taken


def _record_history(
    enabled: str | None = "all",
    context: str | None = "all",
    _stacks: str = "all",
    max_entries: int = sys.maxsize,
    *_rest: Any,
    **_named: Any,
) -> None:
    if enabled not in (None, "state", "all"):
        raise RuntimeError(f"expected state or all, got {enabled!r}")
    if enabled is None:
        drystone.history(0)
        return
    if context is not None:
        _say_once(
            "the memory history has no stack traces on the plain path (the full adapter records "
            "them)"
        )
    if enabled == "all":
        drystone.history(min(max_entries, MAX_HISTORY))


def _record_history_legacy(
    enabled: bool, _context: bool = True, max_entries: int = 1, *_rest: Any, **_named: Any
) -> None:
    _record_history("all" if enabled else None, None, "all", max_entries)


def _attach_observer(observer: Callable[[int, int, int, int], object]) -> None:
    """Calls ``observer`` with the device, the bytes asked for, the device's memory and what of it
    is free, each time memory is out."""

    def told(shortage: drystone.MemoryShortage) -> bool:
        observer(shortage.device, shortage.asked, shortage.device_total, shortage.device_free)
        return False

    drystone.on_out_of_memory(told)


def _enable(value: bool) -> None:
    if not value:
        raise RuntimeError(
            "drystone: torch.cuda.caching_allocator_enable(False) is not possible: Drystone always "
            "caches; to compare, run the program without it and PYTORCH_NO_CUDA_MEMORY_CACHING=1"
        )


def _memory_info(device: Any = None) -> tuple[int, int]:
    return tuple(drystone.memory_info(_index(device)))  # type: ignore[return-value]


def _empty_cache(*_which: Any) -> None:
    drystone.empty_cache()


def _is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_cuda_memoryStats": _memory_stats,
    "_cuda_resetAccumulatedMemoryStats": _reset_accumulated,
    "_cuda_resetPeakMemoryStats": _reset_peak,
    "_cuda_setMemoryFraction": _set_fraction,
    "_cuda_getMemoryFraction": _fraction,
    "_cuda_memorySnapshot": _snapshot,
    "_cuda_record_memory_history": _record_history,
    "_cuda_record_memory_history_legacy": _record_history_legacy,
    "_cuda_attach_out_of_memory_observer": _attach_observer,
    "_cuda_cudaCachingAllocator_enable": _enable,
    # torch.accelerator would ask PyTorch's own allocator, which is idle.
    "_accelerator_isAllocatorInitialized": _is_initialized,
    "_accelerator_emptyCache": _empty_cache,
    "_accelerator_getDeviceStats": _memory_stats,
    "_accelerator_getMemoryInfo": _memory_info,
    "_accelerator_resetAccumulatedStats": _reset_accumulated,
    "_accelerator_resetPeakStats": _reset_peak,
}

_FULL = "use the full adapter: drystone.install(adapter='full'), which says what it lacks"

_REFUSED: dict[str, str] = {
    "_cuda_getCheckpointState": f"torch.compile(mode='reduce-overhead') needs it; {_FULL}",
    "_cuda_setCheckpointPoolState": f"torch.compile(mode='reduce-overhead') needs it; {_FULL}",
    "_cuda_checkPoolLiveAllocations": f"torch.compile(mode='reduce-overhead') needs it; {_FULL}",
    "_cuda_setMemoryMetadata": f"allocations carry no metadata here; {_FULL}",
    "_cuda_getMemoryMetadata": f"allocations carry no metadata here; {_FULL}",
}
