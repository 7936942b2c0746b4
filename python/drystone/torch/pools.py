"""``torch.cuda.MemPool`` and ``torch.cuda.use_mem_pool`` on the plain path.

PyTorch's class asks the allocator for a pool in a way that pluggable allocators do not offer.
This one has the same interface over Drystone's pools.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from drystone import _library
from drystone._memory import device_index


class MemPool:
    """Memory kept apart from the rest: ``torch.cuda.MemPool`` under Drystone.

    Args:
        allocator: Must be None: the pool's memory comes from Drystone.
        use_on_oom: Whether the pool's free blocks serve other requests before those fail.
        no_split: Whether each block has memory of its own, whole pages.
    """

    def __init__(
        self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False
    ) -> None:
        if allocator is not None:
            raise RuntimeError(
                "drystone: torch.cuda.MemPool(allocator) is not possible on the plain path: leave it "
                "out, or use the full adapter"
            )
        self._device = torch.cuda.current_device()
        # PyTorch's own numbers, so that no graph has the same.
        first, second = torch.cuda.graph_pool_handle()
        self._id = int(first), int(second)
        self._call("drystone_retain_pool")
        if use_on_oom:
            self._call("drystone_set_use_on_oom", True)
        if no_split:
            self._call("drystone_set_unsplit")

    @property
    def id(self) -> tuple[int, int]:
        """The pool's name, also for ``torch.cuda.graph(pool=...)``."""
        return self._id

    @property
    def device(self) -> torch.device:
        """The device that was current when the pool was made."""
        return torch.device("cuda", self._device)

    @property
    def allocator(self) -> None:
        """None: the memory comes from Drystone."""
        return None

    def use_count(self) -> int:
        """How often the pool is held: by this object, by graphs, by ``use_mem_pool`` blocks."""
        return _library.number(
            "drystone_pool_use_count", self._device, _library.Pool(*self._id), of=ctypes.c_uint32
        )

    def snapshot(self, include_traces: bool = True) -> Any:
        """The pool's segments, as ``torch.cuda.memory_snapshot`` gives them."""
        return torch.cuda.memory_snapshot(self._id, include_traces=include_traces)

    def __del__(self) -> None:
        try:
            self._call("drystone_empty_pool", None)
            self._call("drystone_release_pool")
        except (AttributeError, TypeError, _library.Error):
            # It was never made, or the interpreter is ending.
            pass

    def _call(self, name: str, *arguments: Any) -> None:
        _library.call(name, self._device, _library.Pool(*self._id), *arguments)


def _begin_thread(device: Any, pool: tuple[int, int]) -> None:
    begin = _library.library().drystone_torch_begin_thread_pool
    _library.check(begin(device_index(device), *pool))


def _end(device: Any, pool: tuple[int, int]) -> None:
    _library.call("drystone_end_pool", device_index(device), _library.Pool(*pool))


def _release(device: Any, pool: tuple[int, int]) -> None:
    _library.call("drystone_release_pool", device_index(device), _library.Pool(*pool))


def connect(replace: Callable[[Any, dict[str, Any]], None]) -> None:
    """Puts all this in the place of PyTorch's."""
    functions = {
        "_cuda_beginAllocateCurrentThreadToPool": _begin_thread,
        "_cuda_endAllocateToPool": _end,
        "_cuda_releasePool": _release,
    }
    for module in (torch._C, torch.cuda.memory):
        replace(module, functions)
    for module in (torch.cuda, torch.cuda.memory):
        replace(module, {"MemPool": MemPool})
