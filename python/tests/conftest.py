"""What the tests share: the simulated device, and programs in processes of their own, since a
process has one allocator and its settings are fixed once it is in use."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch_tools

from drystone import _library

os.environ.setdefault("DRYSTONE_DEVICE", "sim")

MIB = 1 << 20


def run_program(
    *arguments: str, environment: dict[str, str] | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments and without the settings around it; it has to succeed, or
    with ``fails`` to fail."""
    around = {
        name: value for name, value in os.environ.items() if name not in _library.SETTINGS_VARIABLES
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env=around | {"DRYSTONE_DEVICE": "sim"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def run_code(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a piece of code in a process of its own; see :func:`run_program`."""
    return run_program("-c", textwrap.dedent(code), **options)  # type: ignore[arg-type]


class Blocks:
    """Blocks of the process's allocator that are freed at the end of a test."""

    def __init__(self) -> None:
        self._live: list[int] = []

    def take(self, size: int, device: int = 0, stream: int = 0) -> int:
        out = ctypes.c_void_p()
        _library.call("drystone_allocate", size, device, stream, ctypes.byref(out))
        assert out.value
        self._live.append(out.value)
        return out.value

    def give(self, address: int) -> None:
        self._live.remove(address)
        _library.call("drystone_free", address)

    def give_all(self) -> None:
        for address in list(self._live):
            self.give(address)


@pytest.fixture
def blocks() -> Iterator[Blocks]:
    import drystone

    taken = Blocks()
    yield taken
    taken.give_all()
    drystone.history(0)
    drystone.limit(None)
    drystone.empty_cache()
    drystone.reset_peak_stats()
    drystone.reset_stats()


@pytest.fixture(scope="session")
def adapter_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the full adapter, built ahead of time; skips where it cannot be built."""
    torch_tools.torch_folder()
    folder = tmp_path_factory.mktemp("cache")
    # Some compilers link C++'s library statically, and two of them in a process do not get on.
    compiler = folder / "c++"
    real = os.environ.get("CXX", "c++")
    compiler.write_text(f'#!/bin/sh\nexec {real} -static-libstdc++ -static-libgcc "$@"\n')
    compiler.chmod(0o755)
    built = subprocess.run(
        [sys.executable, "-m", "drystone.torch.adapter", "build"],
        env=os.environ | {"DRYSTONE_CACHE": str(folder), "CXX": str(compiler)},
        capture_output=True,
        text=True,
    )
    if "there is no C++ compiler" in built.stderr or "cuda_runtime_api.h" in built.stderr:
        pytest.skip(built.stderr)
    if "is known for" in built.stderr:
        pytest.skip(built.stderr)
    assert built.returncode == 0, built.stderr
    assert Path(built.stdout.strip()).parent == folder
    return folder


def _torch_under(adapter: str, cache: Path, folder: Path) -> torch_tools.Torch:
    around = torch_tools.fake_cuda(folder) | {"DRYSTONE_CACHE": str(cache)}

    def run(code: str, **environment: str) -> str:
        whole = torch_tools.program_start(adapter) + textwrap.dedent(code)
        return run_code(whole, environment=around | environment).stdout

    return run


@pytest.fixture
def on_full(adapter_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> torch_tools.Torch:
    """Runs a piece of code with PyTorch under Drystone, connected by the full adapter."""
    return _torch_under("full", adapter_cache, tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["full", "plain"])
def on_either_way(
    request: pytest.FixtureRequest, adapter_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> torch_tools.Torch:
    """Likewise, connected in either way."""
    return _torch_under(request.param, adapter_cache, tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script to a file of the test: its path."""

    def write(code: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(code))
        return str(path)

    return write
