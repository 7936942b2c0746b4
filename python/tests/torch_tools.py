"""PyTorch for the tests that need no GPU: where its headers are, and a CUDA for it that computes
nothing.

Each part says, as a reason to skip, what is missing.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Torch = Callable[..., str]
"""Runs a piece of code in a process of its own, with more of its environment by name; what it printed."""

SOURCES = Path(__file__).with_name("sources")


@functools.cache
def torch_folder() -> Path:
    """Where PyTorch is; skips the test if it is not installed, or without CUDA."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        pytest.skip("PyTorch is not installed")
    folder = Path(found.origin).parent
    if not (folder / "lib" / "libc10_cuda.so").exists():
        pytest.skip("this PyTorch was built without CUDA")
    return folder


@functools.cache
def _headers() -> tuple[Path, ...]:
    """Folders with CUDA's headers: of the toolkit, of PyTorch's packages, of Triton's."""
    site = torch_folder().parent
    candidates = [
        *(Path(os.environ[name]) / "include" for name in ("CUDA_HOME",) if name in os.environ),
        *site.glob("nvidia/cu1*/include"),
        site / "triton" / "backends" / "nvidia" / "include",
        Path("/usr/local/cuda/include"),
    ]
    return tuple(folder for folder in candidates if folder.is_dir())


def _compile(compiler: str, arguments: list[str], made: Path) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    headers = [f"-isystem{folder}" for folder in _headers()]
    command = [compiler, "-Wall", "-Wextra", "-Werror", *arguments, *headers, "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cuda_runtime_api.h: No such file" in done.stderr:
        pytest.skip("there are no headers of CUDA")
    assert done.returncode == 0, done.stderr
    return made


def fake_cuda(folder: Path) -> dict[str, str]:
    """The environment in which PyTorch finds a device that computes nothing."""
    torch_folder()
    made = folder / "libfakecuda.so"
    source = str(SOURCES / "fake_cuda.c")
    _compile("cc", ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", source], made)
    return {"LD_PRELOAD": str(made)}


def hooks_program(folder: Path) -> Path:
    """The C++ program of the hooks, compiled against this PyTorch."""
    torch = torch_folder()
    library = torch / "lib"
    libraries = [str(path) for path in torch.parent.glob("nvidia/cu1*/lib/libcudart.so.*")]
    return _compile(
        "c++",
        [
            "-std=c++20",
            str(SOURCES / "hooks.cpp"),
            f"-isystem{torch / 'include'}",
            f"-isystem{torch / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
            f"-L{library}",
            f"-Wl,-rpath,{library}",
            "-Wl,--no-as-needed",
            "-ltorch_cuda",
            "-ltorch_cpu",
            "-lc10_cuda",
            "-lc10",
            *libraries,
            "-ldl",
        ],
        folder / "hooks",
    )


def program_start(adapter: str) -> str:
    """How each test's program begins: with Drystone installed that way, and what all of them use."""
    return f"""
import drystone
assert drystone.install(adapter={adapter!r}) == {adapter!r}
import torch
MIB = 1 << 20
def new(size, **options):
    return torch.empty(size, dtype=torch.uint8, device="cuda", **options)
def raised(call, kind=RuntimeError):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError("nothing was raised")
"""
