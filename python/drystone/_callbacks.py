"""Telling the program before memory is out, and when it is."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure, c_bool, c_int32, c_size_t, c_uint64
from types import TracebackType
from typing import Any, NamedTuple

from drystone import _library
from drystone._memory import device_index


class Pressure(NamedTuple):
    """What a callback for pressure is told. Sizes are in bytes."""

    device: int
    reserved: int
    """What is held of the device now."""
    watermark: int
    """What was passed."""
    limit: int
    """The limit; where there is none, the device's memory."""


class MemoryShortage(NamedTuple):
    """What a callback for out of memory is told. Sizes are in bytes."""

    device: int
    asked: int
    """What was asked for."""
    live: int
    """What is handed out."""
    reserved: int
    """What is held of the device."""
    device_free: int
    """What nobody holds."""
    device_total: int
    """What the device has."""


class _RawPressure(Structure):
    """``drystone_pressure_t``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_int32),
        ("reserved", c_uint64),
        ("watermark", c_uint64),
        ("limit", c_uint64),
    ]


class _RawShortage(Structure):
    """``drystone_out_of_memory_t``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_int32),
        ("capturing", c_bool),
        ("stream", c_uint64),
        ("pool", _library.Pool),
        ("asked", c_uint64),
        ("segment", c_uint64),
        ("live", c_uint64),
        ("reserved", c_uint64),
        ("device_free", c_uint64),
        ("device_total", c_uint64),
    ]


class Callback:
    """A registered callback. It stays until :meth:`remove`, or until the end of a ``with``."""

    def __init__(self, number: int, function: Any) -> None:
        self._number: int | None = number
        # What C calls: it has to live as long as C knows it.
        _alive[number] = function

    def remove(self) -> None:
        """Removes it. A second time does nothing."""
        if self._number is not None:
            _library.call("drystone_remove_callback", self._number)
            # A thread may be about to call it, so it is not let go of at once; it is small.
            _retired.append(_alive.pop(self._number))
            del _retired[:-_KEPT]
            self._number = None

    def __enter__(self) -> Callback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.remove()


_alive: dict[int, Any] = {}
_retired: list[Any] = []
_KEPT = 64
"""How many removed callbacks are kept for threads that were just calling them."""


def on_pressure(
    watermark: float | int, callback: Callable[[Pressure], object], device: Any = None
) -> Callback:
    """Calls ``callback`` each time the memory held of a device passes a watermark upwards.

    It runs on the thread that allocates, within that allocation: it may free tensors, empty the
    cache, or set a flag that makes the next batch smaller. What it raises is printed and ignored.

    Args:
        watermark: A float is a fraction of the limit (of the device's memory if there is none); an
            int is bytes.
        callback: Gets a :class:`Pressure`.
        device: The device; None: PyTorch's current one.
    """

    def told(at: int, _user: int) -> None:
        raw = _RawPressure.from_address(at)
        callback(Pressure(raw.device, raw.reserved, raw.watermark, raw.limit))

    is_fraction = isinstance(watermark, float)
    fraction, size = (watermark, 0) if is_fraction else (0.0, watermark)
    function = _library.PRESSURE(told)
    number = _library.number(
        "drystone_on_pressure", device_index(device), fraction, size, function, None
    )
    return Callback(number, function)


def on_out_of_memory(callback: Callable[[MemoryShortage], object]) -> Callback:
    """Calls ``callback`` when a request is about to fail for lack of memory, on any device.

    If it gives something true, having freed memory, the request is tried once more. What it
    raises is printed and counts as false.

    Args:
        callback: Gets a :class:`MemoryShortage`.
    """

    def told(at: int, _user: int) -> bool:
        raw = _RawShortage.from_address(at)
        return bool(
            callback(MemoryShortage(*(getattr(raw, name) for name in MemoryShortage._fields)))
        )

    function = _library.OUT_OF_MEMORY(told)
    number = _library.number("drystone_on_out_of_memory", function, None)
    return Callback(number, function)
