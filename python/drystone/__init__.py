"""Drystone: a caching allocator for GPU memory, under PyTorch and others.

For a program that uses PyTorch, either change the command ::

    python -m drystone run train.py --its --arguments

or the program, before anything of CUDA is used ::

    import drystone
    drystone.install()

Everything of ``torch.cuda`` that reports or steers memory goes on working. Beyond it, this package
says what the allocator holds (:func:`stats`, :func:`memory_summary`, :func:`snapshot`), bounds it
(:func:`limit`, :func:`pause`), gives memory back (:func:`empty_cache`, :class:`phase`), tells the
program before memory is out (:func:`on_pressure`), and records what happened for the program
``drystone compare`` (:func:`history`, :func:`save_trace`).

Settings are those of ``DRYSTONE_CONF``, else ``PYTORCH_ALLOC_CONF``, unless :func:`install` is
given others. ``DRYSTONE_DEVICE=sim`` is a simulated device, to try all this without a GPU.
"""

from __future__ import annotations

from drystone._callbacks import Callback, MemoryShortage, Pressure, on_out_of_memory, on_pressure
from drystone._history import history, save_snapshot, save_trace, snapshot, trace
from drystone._library import (
    ConfigError,
    Error,
    InvalidArgument,
    LibraryError,
    NoDevice,
    OutOfMemory,
    configure,
)
from drystone._memory import (
    Defragmented,
    MemoryInfo,
    Phase,
    configuration,
    defragment,
    device_count,
    empty_cache,
    enable_peer_access,
    get_limit,
    limit,
    memory_info,
    pause,
    phase,
    reserved,
    reset_peak_stats,
    reset_stats,
    stats,
    stream_ends,
)
from drystone._summary import memory_summary
from drystone._version import VERSION

__version__ = VERSION

__all__ = [
    "Callback",
    "ConfigError",
    "Defragmented",
    "Error",
    "InvalidArgument",
    "LibraryError",
    "MemoryInfo",
    "MemoryShortage",
    "NoDevice",
    "OutOfMemory",
    "Phase",
    "Pressure",
    "configuration",
    "configure",
    "defragment",
    "device_count",
    "empty_cache",
    "enable_peer_access",
    "get_limit",
    "history",
    "install",
    "installed",
    "limit",
    "memory_info",
    "memory_summary",
    "on_out_of_memory",
    "on_pressure",
    "pause",
    "phase",
    "reserved",
    "reset_peak_stats",
    "reset_stats",
    "save_snapshot",
    "save_trace",
    "snapshot",
    "stats",
    "stream_ends",
    "trace",
]


def install(config: str | None = None, *, adapter: str = "auto") -> str:
    """Makes Drystone the CUDA allocator of PyTorch in this process; see :mod:`drystone.torch`.

    Call it before anything of CUDA is used; importing torch is not using CUDA.

    Args:
        config: Settings as in ``DRYSTONE_CONF``, such as ``"limit:12GiB,reserve:lean"``; None:
            those of the environment.
        adapter: ``"plain"``: PyTorch's interface for pluggable allocators, which needs no compiler and
            lacks a few functions, each of which says so. ``"full"``: a class of PyTorch's own kind,
            compiled for this PyTorch on first use. ``"auto"``: full; where that cannot be had, plain,
            and a line on stderr says why.

    Returns:
        Which of them it is: ``"full"`` or ``"plain"``.

    Raises:
        drystone.torch.InstallError: It is too late in this process, or PyTorch is missing or cannot
            be served; the text says exactly what to do.
        ConfigError: The settings are wrong.
    """
    from drystone import torch as adapters

    return adapters.install(config, adapter=adapter)


def installed() -> str | None:
    """How PyTorch is connected: ``"full"``, ``"plain"``, or None if it is not."""
    from drystone import torch as adapters

    return adapters.installed()
