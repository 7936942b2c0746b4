"""Numba on Drystone: its device arrays come from the same memory as PyTorch's and CuPy's. ::

    import drystone.numba
    drystone.numba.install()

or, without a change of the program, ``NUMBA_CUDA_MEMORY_MANAGER=drystone.numba``.

Numba does not say on which stream an array is used. So arrays that go are kept for a while, as
Numba does by itself, and given back some at a time after one wait for the device: right whatever
streams used them. A program that uses arrays on the default stream only can do without these
waits: ``install(stream_ordered=True)``.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import weakref
from typing import Any

from drystone import _library

_DEFAULT_STREAM = 0

_OUT_OF_MEMORY = 2
"""``CUDA_ERROR_OUT_OF_MEMORY``."""

_stream_ordered = False


def install(config: str | None = None, *, stream_ordered: bool = False) -> None:
    """Makes Drystone the allocator of Numba's device memory. Host memory (pinned, mapped) and
    managed memory stay Numba's.

    Args:
        config: Settings as in ``DRYSTONE_CONF``; None: those of the environment. Only before the
            first use of Drystone in the process.
        stream_ordered: Whether arrays are given back at once, in the order of the default stream.
            Only right where arrays are used on that stream alone.

    Raises:
        ImportError: Numba is not installed.
        ConfigError, InvalidArgument: The settings are wrong, or come too late.
        NoDevice: There is no GPU.
        Error: Numba has used a device already, with its own memory.
    """
    global _stream_ordered
    cuda = _module("numba.cuda")
    if config is not None:
        _library.configure(config)
    _library.allocator()
    manager = _manager()
    for device in _devices_in_use():
        if not isinstance(device.primary_context.memory_manager, manager):
            raise _library.Error(
                f"drystone: Numba has used device {device.id} already, with memory of its own: call"
                " drystone.numba.install() before the first kernel, array or cuda.current_context()"
            )
    _stream_ordered = stream_ordered
    cuda.set_memory_manager(manager)


def _module(name: str) -> Any:
    """A module of Numba's, none of which has types."""
    return importlib.import_module(name)


def _devices_in_use() -> list[Any]:
    """Numba's devices that have a context."""
    known = getattr(_module("numba.cuda.cudadrv.driver").driver, "devices", {})
    return [each for each in known.values() if getattr(each, "primary_context", None) is not None]


@functools.cache
def _manager() -> type:
    """The memory manager: a class, which Numba makes an object of for each context."""
    cuda = _module("numba.cuda")
    CudaAPIError = _module("numba.cuda.cudadrv.driver").CudaAPIError

    class Manager(
        cuda.GetIpcHandleMixin,  # type: ignore[misc, name-defined]
        cuda.HostOnlyCUDAMemoryManager,  # type: ignore[misc, name-defined]
    ):
        """Device memory out of Drystone."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._live: set[int] = set()
            self._pinned: set[int] = set()
            # Whether arrays were given up since the device was last waited for.
            self._unsettled = False

        @property
        def interface_version(self) -> int:
            return 1

        @property
        def _device(self) -> int:
            return int(self.context.device.id)

        def initialize(self) -> None:
            # Of it a part may be kept before it is given back.
            self.deallocations.memory_capacity = self.get_memory_info().total

        def memalloc(self, size: int) -> Any:
            try:
                address = self._attempt_allocation(lambda: self._allocate(size))
            except CudaAPIError:
                # Arrays in reference cycles.
                gc.collect()
                self.deallocations.clear()
                address = self._allocate(size)
            self._live.add(address)
            give_up = functools.partial(_give_up, weakref.ref(self), address, size)
            context = weakref.proxy(self.context)
            return cuda.MemoryPointer(
                context, ctypes.c_void_p(address), size, finalizer=give_up
            )

        def _allocate(self, size: int) -> int:
            out = ctypes.c_void_p()
            try:
                _library.call(
                    "drystone_allocate", size, self._device, _DEFAULT_STREAM, ctypes.byref(out)
                )
            except _library.OutOfMemory as error:
                raise CudaAPIError(_OUT_OF_MEMORY, str(error)) from None
            return out.value or 0

        def give_up(self, address: int, size: int) -> None:
            """The array at an address is gone."""
            if _stream_ordered:
                self._free(address)
            else:
                self._unsettled = True
                self.deallocations.add_item(self._settle_and_free, address, size)

        def _settle_and_free(self, address: int) -> None:
            if self._unsettled:
                self.context.synchronize()
                self._unsettled = False
            self._free(address)

        def _free(self, address: int) -> None:
            # After a reset everything is free already.
            if address in self._live:
                self._live.discard(address)
                if address in self._pinned:
                    self._pinned.discard(address)
                    _library.call("drystone_unpin", ctypes.c_void_p(address))
                _library.call("drystone_free", address)

        def get_memory_info(self) -> Any:
            free, total = ctypes.c_uint64(), ctypes.c_uint64()
            _library.call(
                "drystone_memory_info", self._device, ctypes.byref(free), ctypes.byref(total)
            )
            return cuda.MemoryInfo(free=free.value, total=total.value)

        def get_ipc_handle(self, memory: Any) -> Any:
            address = int(memory.owner.device_pointer_value)
            pins = address in self._live and address not in self._pinned
            if pins:
                # What another process opens has to stay where it is.
                _library.call("drystone_pin", ctypes.c_void_p(address))
            try:
                handle = super().get_ipc_handle(memory)
            except CudaAPIError as error:
                if pins:
                    _library.call("drystone_unpin", ctypes.c_void_p(address))
                raise _library.Error(
                    "drystone: CUDA gives no handle for other processes to memory that is mapped:"
                    f" set backing:malloc ({error})"
                ) from error
            if pins:
                self._pinned.add(address)
            return handle

        def reset(self) -> None:
            super().reset()
            if self._live:
                self.context.synchronize()
                for address in list(self._live):
                    self._free(address)
            _library.call("drystone_empty_cache", self._device, None)

    return Manager


def _give_up(manager: weakref.ref[Any], address: int, size: int) -> None:
    """The finalizer of an array's memory. With the context its manager is gone, and so nobody
    waits for the device any more: then the memory stays with Drystone as used."""
    alive = manager()
    if alive is not None:
        alive.give_up(address, size)


def __getattr__(name: str) -> Any:
    # What Numba looks for where NUMBA_CUDA_MEMORY_MANAGER names this module.
    if name == "_numba_memory_manager":
        return _manager()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
