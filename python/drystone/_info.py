"""``python -m drystone info``: what there is on this machine."""

from __future__ import annotations

from collections.abc import Callable

import drystone
from drystone import _library
from drystone._summary import bytes_text


def text() -> str:
    """The library, the devices, the settings and PyTorch, a line each. What cannot be found out
    says why."""
    lines = {
        "library": lambda: f"{_library.path()}, version {_library.version()}",
        "settings": lambda: drystone.configuration() or "(defaults)",
        "devices": _devices,
        "PyTorch": _torch,
        "out of memory": _exceptions,
    }
    return "".join(f"{name + ':':15}{_answer(line)}\n" for name, line in lines.items())


def _answer(line: Callable[[], str]) -> str:
    try:
        return line()
    except (drystone.Error, ImportError) as error:
        return f"({error})"


def _devices() -> str:
    count = drystone.device_count()
    sizes = [bytes_text(drystone.memory_info(device).total) for device in range(count)]
    return f"{count}, with {', '.join(sizes)}"


def _torch() -> str:
    import torch

    return f"{torch.__version__}, CUDA {torch.version.cuda}"


def _exceptions() -> str:
    import torch

    _library.check(_library.library().drystone_torch_exceptions())
    return f"torch.OutOfMemoryError of PyTorch {torch.__version__}"
