"""libdrystone.so: where it is, the functions of its header with their types, and its errors.

Everything here is over the allocator of the process, which PyTorch, CuPy, Numba and the program's
own calls share. Names are those of ``include/drystone.h``.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from pathlib import Path
from typing import Any

ABI_VERSION = 1
"""The version of the binary interface that these types describe."""

PATH_VARIABLE = "DRYSTONE_LIBRARY"
"""The environment variable that names another libdrystone.so than the package's own."""


SETTINGS_VARIABLES = ("DRYSTONE_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The environment variables with settings, of which the first that is set counts."""


class Error(RuntimeError):
    """A call of Drystone's that did nothing; its text says why."""

    status: int
    """The status of the C call, such as 4 for ``DRYSTONE_OUT_OF_MEMORY``; 0 if there was none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class ConfigError(Error, ValueError):
    """Settings that Drystone does not understand, or that contradict each other."""


class InvalidArgument(Error, ValueError):
    """An argument that is not allowed, such as a device that is not there."""


class OutOfMemory(Error, MemoryError):
    """Neither the cache nor the device has the memory, or a limit forbids to take it."""


class NoDevice(Error):
    """There is no CUDA device, or no driver for it."""


class LibraryError(ImportError):
    """libdrystone.so is not there, or not of this package's version."""


_ERRORS: dict[int, type[Error]] = {1: InvalidArgument, 2: ConfigError, 4: OutOfMemory, 5: NoDevice}


class Config(Structure):
    """``drystone_config_t``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("settings", c_char_p),
        ("device", c_char_p),
        ("sim_capacity", c_uint64),
        ("sim_devices", c_uint32),
    ]


class Pool(Structure):
    """``drystone_pool_t``: the name of a pool; (0, 0) is the default one."""

    _fields_ = [("a", c_uint64), ("b", c_uint64)]


PRESSURE = CFUNCTYPE(None, c_void_p, c_void_p)
"""A callback for pressure. Its first argument points to a ``drystone_pressure_t``."""

OUT_OF_MEMORY = CFUNCTYPE(c_bool, c_void_p, c_void_p)
"""A callback for out of memory. Its first argument points to a ``drystone_out_of_memory_t``."""

_allocator, _text = c_void_p, c_void_p
_u64, _pointer = POINTER(c_uint64), POINTER(c_void_p)

_STATUS: dict[str, list[Any]] = {
    "drystone_process_allocator": [_pointer],
    "drystone_process_configure": [POINTER(Config)],
    "drystone_process_retune": [c_char_p],
    "drystone_device_count": [_allocator, POINTER(c_uint32)],
    "drystone_allocate": [_allocator, c_size_t, c_int32, c_uint64, _pointer],
    "drystone_free": [_allocator, c_void_p],
    "drystone_record_stream": [_allocator, c_void_p, c_uint64],
    "drystone_stream_ends": [_allocator, c_int32, c_uint64],
    "drystone_end_pool": [_allocator, c_int32, Pool],
    "drystone_retain_pool": [_allocator, c_int32, Pool],
    "drystone_release_pool": [_allocator, c_int32, Pool],
    "drystone_empty_pool": [_allocator, c_int32, Pool, _u64],
    "drystone_set_use_on_oom": [_allocator, c_int32, Pool, c_bool],
    "drystone_set_unsplit": [_allocator, c_int32, Pool],
    "drystone_pool_use_count": [_allocator, c_int32, Pool, POINTER(c_uint32)],
    "drystone_empty_cache": [_allocator, c_int32, _u64],
    "drystone_defragment": [_allocator, c_int32, c_int, c_void_p],
    "drystone_set_limit": [_allocator, c_int32, c_uint64],
    "drystone_set_memory_fraction": [_allocator, c_int32, c_double],
    "drystone_limit": [_allocator, c_int32, _u64],
    "drystone_reserved": [_allocator, c_int32, _u64],
    "drystone_enable_peer_access": [_allocator, c_int32, c_int32],
    "drystone_memory_info": [_allocator, c_int32, _u64, _u64],
    "drystone_on_pressure": [
        _allocator,
        c_int32,
        c_double,
        c_uint64,
        PRESSURE,
        c_void_p,
        _u64,
    ],
    "drystone_on_out_of_memory": [_allocator, OUT_OF_MEMORY, c_void_p, _u64],
    "drystone_remove_callback": [_allocator, c_uint64],
    "drystone_stats_json": [_allocator, c_int32, _pointer],
    "drystone_reset_peak_stats": [_allocator, c_int32],
    "drystone_reset_accumulated_stats": [_allocator, c_int32],
    "drystone_history_set": [_allocator, c_size_t],
    "drystone_snapshot": [_allocator, c_int, _pointer],
    "drystone_trace": [_allocator, c_int32, _pointer],
    "drystone_config_text": [_allocator, _pointer],
    "drystone_torch_begin_thread_pool": [c_int, c_uint64, c_uint64],
    "drystone_torch_exceptions": [],
}

_OTHERS: dict[str, tuple[Any, list[Any]]] = {
    "drystone_abi_version": (c_uint32, []),
    "drystone_version": (c_char_p, []),
    "drystone_last_error": (c_char_p, []),
    "drystone_text_data": (c_void_p, [_text]),
    "drystone_text_size": (c_size_t, [_text]),
    "drystone_text_free": (None, [_text]),
}


def path() -> Path:
    """The libdrystone.so in use: the one that DRYSTONE_LIBRARY names, else the package's own."""
    named = os.environ.get(PATH_VARIABLE)
    return Path(named) if named else Path(__file__).with_name("libdrystone.so")


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded on first use.

    Raises LibraryError, with what to do, if it is not there or of another version.
    """
    at = path()
    if not at.is_file():
        raise LibraryError(
            f"there is no {at}: install the package with pip, which builds it, "
            f"or set {PATH_VARIABLE} to the path of a libdrystone.so"
        )
    loaded = ctypes.CDLL(str(at))
    types = {name: (c_int32, arguments) for name, arguments in _STATUS.items()} | _OTHERS
    for name, (result, arguments) in types.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise LibraryError(f"{at} has no {name}: it is not of this package's version") from None
        function.restype, function.argtypes = result, arguments
    found = loaded.drystone_abi_version()
    if found != ABI_VERSION:
        raise LibraryError(
            f"{at} has version {found} of the binary interface, "
            f"and this package needs {ABI_VERSION}"
        )
    return loaded


def check(status: int) -> None:
    """Raises the error of a call that answered something else than ``DRYSTONE_OK``."""
    if status != 0:
        raise _ERRORS.get(status, Error)(last_error(), status)


def last_error() -> str:
    """Why the last call of this thread that failed did so."""
    return bytes(library().drystone_last_error()).decode()


def version() -> str:
    """The library's version."""
    return bytes(library().drystone_version()).decode()


def configure(
    settings: str | None, device: str | None = None, *, simulated_devices: int = 0
) -> None:
    """Says how the allocator of the process is to be made, before its first use.

    None is what the environment says: of the settings, the first of DRYSTONE_CONF,
    PYTORCH_ALLOC_CONF and PYTORCH_CUDA_ALLOC_CONF; of the device, DRYSTONE_DEVICE.

    Args:
        settings: Such as ``"limit:12GiB,reserve:lean"``.
        device: ``"auto"`` and ``"cuda"`` are the GPUs, ``"sim"`` a simulated device.
        simulated_devices: How many simulated devices, should it be these; 0 is one.
    """
    config = Config(
        struct_size=sizeof(Config),
        settings=None if settings is None else settings.encode(),
        device=None if device is None else device.encode(),
        sim_devices=simulated_devices,
    )
    check(library().drystone_process_configure(byref(config)))


def allocator() -> c_void_p:
    """The allocator of the process, made on first use."""
    out = c_void_p()
    check(library().drystone_process_allocator(byref(out)))
    return out


def call(name: str, *arguments: Any) -> None:
    """Calls a function on the allocator of the process; raises what it answers but success."""
    handle = allocator()
    check(getattr(library(), name)(handle, *arguments))


def number(name: str, *arguments: Any, of: type = c_uint64) -> int:
    """Likewise for a function whose last parameter takes a number out."""
    out = of()
    call(name, *arguments, byref(out))
    return int(out.value)


def text(name: str, *arguments: Any) -> bytes:
    """Likewise for a function whose last parameter takes a text out."""
    out = c_void_p()
    call(name, *arguments, byref(out))
    functions = library()
    try:
        size = functions.drystone_text_size(out)
        return ctypes.string_at(functions.drystone_text_data(out), size)
    finally:
        functions.drystone_text_free(out)


def address(function: str) -> int:
    """The address of one of the library's functions, for those who call it themselves."""
    found = ctypes.cast(getattr(library(), function), c_void_p).value
    assert found is not None
    return found
