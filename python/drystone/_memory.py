"""What the allocator of the process holds, what it may hold, and giving it back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from drystone import _library


def device_index(device: Any = None) -> int:
    """The number of a device that is named as in PyTorch: a number, ``"cuda:1"``, a
    ``torch.device``, or None for PyTorch's current device (0 if PyTorch does not use CUDA yet)."""
    if isinstance(device, int) and not isinstance(device, bool):
        return device
    named = str(device)
    if device is None or named == "cuda":
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            return int(torch.cuda.current_device())
        return 0
    kind, _, number = named.partition(":")
    if kind == "cuda" and number.isdecimal():
        return int(number)
    raise _library.InvalidArgument(
        f"drystone: {named!r} is no device: allowed are a number, 'cuda', 'cuda:N' and a "
        "torch.device of these"
    )


def device_count() -> int:
    """How many devices there are."""
    return _library.number("drystone_device_count", of=ctypes.c_uint32)


def configuration() -> str:
    """The settings in force."""
    return _library.text("drystone_config_text").decode()


def stats(device: Any = None) -> dict[str, int]:
    """The statistics of a device, by the names of ``torch.cuda.memory_stats()``, such as
    ``"allocated_bytes.all.current"``, and Drystone's own beside them."""
    text = _library.text("drystone_stats_json", device_index(device))
    figures: dict[str, int] = json.loads(text)
    return figures


def reset_peak_stats(device: Any = None) -> None:
    """Lets the peaks of a device start again from what is now."""
    _library.call("drystone_reset_peak_stats", device_index(device))


def reset_stats(device: Any = None) -> None:
    """Lets what accumulates on a device (allocated, freed, counts) start again from 0."""
    _library.call("drystone_reset_accumulated_stats", device_index(device))


class MemoryInfo(NamedTuple):
    """The memory of a device, in bytes."""

    free: int
    """What nobody holds, neither this process nor another."""
    total: int
    """What the device has."""


def memory_info(device: Any = None) -> MemoryInfo:
    """The free and the total memory of a device, as its driver says."""
    free, total = ctypes.c_uint64(), ctypes.c_uint64()
    _library.call(
        "drystone_memory_info", device_index(device), ctypes.byref(free), ctypes.byref(total)
    )
    return MemoryInfo(free.value, total.value)


def reserved(device: Any = None) -> int:
    """The bytes of a device that the allocator holds, in use or cached."""
    return _library.number("drystone_reserved", device_index(device))


def empty_cache(device: Any = None) -> int:
    """Gives cached memory back to the device, or with None to all devices: the bytes."""
    index = -1 if device is None else device_index(device)
    return _library.number("drystone_empty_cache", index)


def enable_peer_access(device: Any, peer: Any) -> None:
    """Lets work of the device ``peer`` use the memory of ``device``, now and from now on.

    For several GPUs in one process on PyTorch's plain path, in both directions; the full adapter
    does it by itself. Raises :class:`Error` if the devices cannot reach each other.
    """
    _library.call("drystone_enable_peer_access", device_index(device), device_index(peer))


def stream_ends(stream: Any, device: Any = None) -> None:
    """Says that a stream is about to be destroyed, so that the allocator does not name it any more.

    PyTorch's own streams live as long as the process and need no saying. It is for streams that
    others made and PyTorch used (``torch.cuda.ExternalStream``). Waits for the stream's work.

    Args:
        stream: The stream, as a number or an object of PyTorch's, CuPy's or Numba's.
        device: Its device; None: PyTorch's current one.
    """
    for name in ("cuda_stream", "ptr", "handle"):
        stream = getattr(stream, name, stream)
    number = getattr(stream, "value", stream)
    if not isinstance(number, int):
        raise _library.InvalidArgument(f"drystone.stream_ends: {stream!r} is no stream")
    _library.call("drystone_stream_ends", device_index(device), number)


class Defragmented(NamedTuple):
    """What a defragmentation did, in bytes."""

    gathered: int
    """Free memory that was mapped elsewhere. No byte in use was copied."""
    largest_before: int
    """The largest free run of any stream and pool before,"""
    largest_after: int
    """and after."""
    given_back: int
    """Memory that went back to the device."""


def defragment(device: Any = None, *, give_back: bool = False) -> Defragmented:
    """Brings the free memory of a device together, so that the next large request finds it; with
    ``give_back``, gives it to the device instead. It waits for streams, so call it between steps,
    not within them. During the capture of a graph it does nothing."""
    out = (ctypes.c_uint64 * 4)()
    _library.call("drystone_defragment", device_index(device), int(give_back), ctypes.byref(out))
    return Defragmented(*out)


def limit(value: float | int | None, device: Any = None) -> None:
    """Bounds what the allocator may reserve of a device from now on.

    Args:
        value: A float is a fraction of the device's memory, from 0 to 1; an int is bytes; None is
            no limit. What is held above it stays held, but nothing is added.
        device: The device; None: PyTorch's current one.
    """
    index = device_index(device)
    if isinstance(value, float):
        if not 0.0 <= value <= 1.0:
            raise _library.InvalidArgument(
                f"drystone.limit: {value} is no fraction: a float is from 0.0 to 1.0, "
                "bytes are an int"
            )
        _library.call("drystone_set_memory_fraction", index, value)
        return
    if value is not None and value <= 0:
        raise _library.InvalidArgument(
            f"drystone.limit: {value} bytes: allowed are 1 and more, and None for no limit"
        )
    _library.call("drystone_set_limit", index, value or 0)


def get_limit(device: Any = None) -> int | None:
    """The limit of a device in bytes; None if there is none."""
    return _library.number("drystone_limit", device_index(device)) or None


@contextlib.contextmanager
def pause(device: Any = None) -> Iterator[int]:
    """While it lasts, Drystone leaves the rest of the device to others in the process or machine.

    What it caches goes back to the device, and nothing is added to what it holds then; requests
    that fit into that still succeed. Afterwards the limit is what it was. Gives the bytes that
    went back.
    """
    index = device_index(device)
    before = get_limit(index)
    released = empty_cache(index)
    limit(max(reserved(index), 1), index)
    try:
        yield released
    finally:
        limit(before, index)


class Phase:
    """A part of a program whose cached memory goes back when it ends; see :class:`phase`."""

    reserved_before: int = 0
    """Bytes reserved when it began."""
    reserved_after: int = 0
    """Bytes reserved when it had ended."""
    released: int = 0
    """Bytes that went back to the device when it ended."""


class phase(contextlib.AbstractContextManager[Phase]):
    """A part of a program that needs much memory for a while, such as evaluation, or the
    compilation and tuning of kernels ::

        with drystone.phase() as evaluation:
            evaluate(model)
        print(evaluation.released)

    When it ends, also by an exception, objects that only cycles keep alive are collected, and all
    cached memory of the device goes back to it. Tensors that are still referenced stay.
    """

    def __init__(self, device: Any = None) -> None:
        self._device = device
        self._phase = Phase()

    def __enter__(self) -> Phase:
        self._index = device_index(self._device)
        self._phase.reserved_before = reserved(self._index)
        return self._phase

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        gc.collect()
        self._phase.released = empty_cache(self._index)
        self._phase.reserved_after = reserved(self._index)
