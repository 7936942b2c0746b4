"""The plain path: PyTorch's CUDAPluggableAllocator over the functions of libdrystone.so.

PyTorch calls ``drystone_torch_alloc`` and its siblings directly, without Python in between. What
such an allocator cannot answer in PyTorch, the Python functions of ``torch.cuda`` ask Drystone
instead (see
:mod:`drystone.torch.memory`).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from drystone import _library
from drystone.torch import memory

_log = logging.getLogger("drystone")

_HOOKS = {
    "set_init_fn": "drystone_torch_init",
    "set_reset_fn": "drystone_torch_reset",
    "set_memory_fraction_fn": "drystone_torch_memory_fraction",
    "set_base_alloc_fn": "drystone_torch_base_alloc",
    "set_record_stream_fn": "drystone_torch_record_stream",
    "set_begin_allocate_to_pool": "drystone_torch_begin_pool",
    "set_end_allocate_to_pool_fn": "drystone_torch_end_pool",
    "set_release_pool": "drystone_torch_release_pool",
}
"""PyTorch's hooks, and what each calls. All are needed: without the one for streams, memory would
be reused while another stream still reads it; without those for pools, a captured graph would
share its memory with the rest of the program."""

_allocator: Any = None
"""PyTorch's object, which has to live as long as the process."""


def install() -> None:
    """Makes Drystone PyTorch's CUDA allocator. Raises RuntimeError if CUDA is in use already."""
    global _allocator
    status = _library.library().drystone_torch_exceptions()
    if status != 0:
        _log.warning("drystone: %s", _library.last_error())
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        str(_library.path()), "drystone_torch_alloc", "drystone_torch_free"
    )
    raw = allocator.allocator()
    missing = [hook for hook in _HOOKS if not hasattr(raw, hook)]
    if missing:
        raise _library.Error(
            f"drystone: PyTorch {torch.__version__} has no {', '.join(missing)}: use PyTorch 2.11"
        )
    for hook, function in _HOOKS.items():
        getattr(raw, hook)(_library.address(function))
    torch.cuda.memory.change_current_allocator(allocator)
    _allocator = allocator
    memory.connect()
