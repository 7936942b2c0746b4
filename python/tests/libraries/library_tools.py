"""Programs on a real GPU: whether there is one, and running a piece of code there."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2]
"""The folder of the package, for a checkout in which it is not installed."""


def no_gpu() -> str | None:
    """Why there is no GPU here; None if there is one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver here"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the CUDA driver does not work here"
    return None if count.value else "no GPU here"


def on_gpu(code: str, *needs: str, settings: str = "") -> None:
    """Runs code in a process of its own, which has to succeed. Skips where there is no GPU or one of
    the packages in ``needs`` is missing; with DRYSTONE_REQUIRE_GPU set, a missing GPU fails."""
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package} here")
    reason = no_gpu()
    if reason is not None:
        assert "DRYSTONE_REQUIRE_GPU" not in os.environ, reason
        pytest.skip(reason)
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    changes = {"DRYSTONE_DEVICE": "cuda", "DRYSTONE_CONF": settings, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | changes,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
