"""CuPy on Drystone: its arrays come from the same memory as PyTorch's and Numba's. ::

    import drystone.cupy
    drystone.cupy.install()

Arrays are handed out on CuPy's current stream and freed in the order of the stream that they were
made on, without a wait, like those of CuPy's own pool. An array that is used on another stream
must be kept until that stream is done, or be recorded: :func:`record_stream`.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

from drystone import _library
from drystone._streams import Streams

_before: Any = None
"""CuPy's allocator before ours; None where ours is not in use."""

_streams = Streams()


def install(config: str | None = None) -> None:
    """Makes Drystone the allocator of CuPy's device memory, in all threads, from now on.

    Arrays that exist keep their memory. What CuPy's pool has cached goes back to the device. May be
    called before or after :func:`drystone.install`, and twice.

    Args:
        config: Settings as in ``DRYSTONE_CONF``; None: those of the environment. Only before the
            first use of Drystone in the process.

    Raises:
        ImportError: CuPy is not installed.
        ConfigError, InvalidArgument: The settings are wrong, or come too late.
        NoDevice: There is no GPU.
    """
    global _before
    import cupy

    if config is not None:
        _library.configure(config)
    _library.allocator()
    if _before is None:
        _before = cupy.cuda.get_allocator()
        source = _Source()
        ours = cupy.cuda.memory.PythonFunctionAllocator(source.malloc, source.free)
        cupy.cuda.set_allocator(ours.malloc)
        cupy.get_default_memory_pool().free_all_blocks()


def uninstall() -> None:
    """Gives CuPy the allocator back that it had before :func:`install`. Arrays out of Drystone stay
    valid and go back to Drystone."""
    global _before
    import cupy

    if _before is not None:
        cupy.cuda.set_allocator(_before)
        _before = None


def installed() -> bool:
    """Whether CuPy's memory comes from Drystone."""
    return _before is not None


def record_stream(array: Any, stream: Any) -> None:
    """Says that work on ``stream`` uses an array: after the array is gone, its memory is not used
    again before that stream has passed this point.

    Args:
        array: An array, or a view of one, whose memory is Drystone's.
        stream: A ``cupy.cuda.Stream`` or ``ExternalStream`` of the array's device.

    Raises:
        Error: The memory is not Drystone's.
    """
    memory = array.data.mem
    _streams.keep(memory.device_id, stream.ptr, stream)
    _library.call("drystone_record_stream", memory.ptr, stream.ptr)


def end_stream(stream: Any, device: int | None = None) -> None:
    """Says that an ``ExternalStream`` is about to be destroyed by its owner. The host waits for its
    work. Streams that CuPy made need no saying, and neither do PyTorch's, which live as long as the
    process.

    Args:
        stream: The stream; its arrays should be gone.
        device: Its device; None: CuPy's current one.
    """
    if device is None:
        import cupy

        device = cupy.cuda.runtime.getDevice()
    _streams.end(device, stream.ptr)


class _Source:
    """Memory for CuPy. It holds all that a free needs: CuPy frees in its finalizers, in any thread,
    and also while the interpreter ends, when names of modules may be gone."""

    def __init__(self) -> None:
        import cupy

        library = _library.library()
        self._cuda = cupy.cuda
        self._handle = _library.allocator()
        self._allocate = library.drystone_allocate
        self._free = library.drystone_free
        self._check = _library.check

    def malloc(self, size: int, device: int) -> int:
        """The address of ``size`` bytes, to be used on CuPy's current stream."""
        current = self._cuda.get_current_stream()
        stream = current.ptr
        _streams.keep(device, stream, current)
        try:
            return self._take(size, device, stream)
        except _library.OutOfMemory:
            # Arrays in reference cycles: CuPy's own pool collects them before it gives up, too.
            gc.collect()
        try:
            return self._take(size, device, stream)
        except _library.OutOfMemory as error:
            reserved = _library.number("drystone_reserved", device)
            limit = _library.number("drystone_limit", device)
            raised = self._cuda.memory.OutOfMemoryError(size, reserved, limit)
            raised.args = (str(error),)
            raise raised from None

    def _take(self, size: int, device: int, stream: int) -> int:
        out = ctypes.c_void_p()
        status = self._allocate(self._handle, size, device, stream, ctypes.byref(out))
        if status:
            self._check(status)
        return out.value or 0

    def free(self, address: int, device: int) -> None:
        """Takes memory back, in the order of the stream that it was made on."""
        status = self._free(self._handle, address)
        if status:
            self._check(status)
