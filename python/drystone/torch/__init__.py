"""Drystone under PyTorch: which way it is connected.

There are two ways. The *full* adapter is a class of PyTorch's own kind in C++, compiled for the
PyTorch that is there; the *plain* path is PyTorch's interface for pluggable allocators, over the
functions of libdrystone.so, and needs no compiler. docs/pytorch.md says what each PyTorch
function does under either.
"""

from __future__ import annotations

import sys
import threading

from drystone import _library

__all__ = ["InstallError", "install", "installed"]

_lock = threading.Lock()
_installed: tuple[str, str | None] | None = None
"""Which way, and with which settings."""


class InstallError(_library.Error):
    """Drystone cannot become PyTorch's allocator in this process; the text says what to do."""


_TOO_LATE = """\
drystone.install(): CUDA is in use already in this process, and PyTorch takes another allocator \
only before. Do one of these:
  - call drystone.install() right after `import torch`, before the first tensor on the GPU and \
before torch.cuda.init(), torch.cuda.set_device() or anything that asks for the device;
  - or leave the program as it is, and start it with `python -m drystone run script.py`."""


def install(config: str | None = None, *, adapter: str = "auto") -> str:
    """Makes Drystone PyTorch's CUDA allocator in this process; see :func:`drystone.install`."""
    global _installed
    if adapter not in ("auto", "full", "plain"):
        raise _library.InvalidArgument(
            f"drystone.install(): adapter={adapter!r}: allowed are 'auto', 'full' and 'plain'"
        )
    with _lock:
        if _installed is not None:
            return _again(_installed, config, adapter)
        _require_torch()
        if _is_used():
            raise InstallError(_TOO_LATE)
        _library.configure(config)
        way = _connect(config, adapter)
        _installed = way, config
        return way


def installed() -> str | None:
    """How PyTorch is connected: ``"full"``, ``"plain"``, or None if it is not."""
    return _installed[0] if _installed else None


def _again(known: tuple[str, str | None], config: str | None, adapter: str) -> str:
    way, settings = known
    if config not in (None, settings) or adapter not in ("auto", way):
        raise InstallError(
            f"drystone.install(): Drystone is installed already, adapter {way!r}, settings "
            f"{settings!r}, and cannot be installed anew in this process: call it once, with the "
            "settings that you want"
        )
    return way


def _require_torch() -> None:
    try:
        import torch
    except ImportError as error:
        raise InstallError(
            f"drystone.install(): PyTorch cannot be imported ({error}): install it, or use "
            "Drystone through drystone.cupy or drystone.numba"
        ) from error
    if not torch.backends.cuda.is_built():
        raise InstallError(
            f"drystone.install(): this PyTorch ({torch.__version__}) was built without CUDA: "
            "install a build with CUDA"
        )


def _is_used() -> bool:
    torch = sys.modules["torch"]
    return bool(torch.cuda.is_initialized())


def _connect(config: str | None, adapter: str) -> str:
    if adapter != "plain":
        reason = _connect_full(config)
        if reason is None:
            return "full"
        if adapter == "full":
            raise InstallError(f"drystone.install(): the full adapter cannot be used: {reason}")
        print(f"drystone: PyTorch is connected by the plain path: {reason}", file=sys.stderr)
    from drystone.torch import plain

    try:
        plain.install()
    except RuntimeError as error:
        if "initialized" in str(error):
            raise InstallError(_TOO_LATE) from error
        raise
    return "plain"


def _connect_full(config: str | None) -> str | None:
    """Connects the full adapter; why not, if it cannot be."""
    from drystone.torch import adapter

    try:
        adapter.install(config)
    except adapter.AdapterUnavailable as error:
        return str(error)
    return None
