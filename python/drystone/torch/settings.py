"""``torch.cuda.memory._set_allocator_settings`` under Drystone, on either way of being connected.

The text goes to PyTorch's own parser first: its errors are PyTorch's, and what concerns pinned host
memory takes effect there. Then Drystone takes what it can change while it is in use.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from drystone import _library

_FUNCTIONS = (
    "_accelerator_setAllocatorSettings",
    "_cuda_cudaCachingAllocator_set_allocator_settings",
)
"""What programs call, by its names in ``torch._C``."""


def connect() -> None:
    """Puts Drystone's function in the place of PyTorch's."""
    for name in _FUNCTIONS:
        if hasattr(torch._C, name):
            setattr(torch._C, name, _before_drystone(getattr(torch._C, name)))


def _before_drystone(parse: Callable[[str], None]) -> Callable[[str], None]:
    def set_settings(settings: str) -> None:
        parse(settings)
        _library.check(_library.library().drystone_process_retune(settings.encode()))

    return set_settings
