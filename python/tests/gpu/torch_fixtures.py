"""For tests on a GPU with Drystone installed in the process of the tests. Run them by themselves:

    python -m pytest python/tests/gpu

DRYSTONE_CONF sets Drystone up, DRYSTONE_ADAPTER (``full`` or ``plain``) says how PyTorch is connected. A
module gets the fixtures by importing them. Without a GPU each test is skipped.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

__all__ = ["GIB", "MIB", "cap", "clean", "full", "installed", "need_gpu"]

MIB = 1 << 20
GIB = 1 << 30
KEPT = 1 << 20
"""What PyTorch and its compiler may keep after a test: states of random numbers and such."""


def need_gpu() -> None:
    """Skips the test where PyTorch has no GPU; with DRYSTONE_REQUIRE_GPU set, that fails."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        assert "DRYSTONE_REQUIRE_GPU" not in os.environ, "PyTorch finds no GPU here"
        pytest.skip("PyTorch finds no GPU here")


@pytest.fixture(scope="session", autouse=True)
def installed(request: pytest.FixtureRequest) -> str:
    """How Drystone is installed; skips the tests where that cannot be."""
    need_gpu()
    # The process's allocator is either the simulated device's or the GPU's.
    if not all("gpu" in argument for argument in request.config.args):
        pytest.skip("run these tests by themselves: python -m pytest python/tests/gpu")
    import drystone

    os.environ["DRYSTONE_DEVICE"] = "cuda"
    return drystone.install(adapter=os.environ.get("DRYSTONE_ADAPTER", "full"))


@pytest.fixture
def full(installed: str) -> None:
    """For tests of what only the full adapter can do."""
    if installed != "full":
        pytest.skip("needs the full adapter")


@pytest.fixture(autouse=True)
def clean(installed: str) -> Iterator[None]:
    """Nothing of one test is left for the next, and nothing leaks."""
    import torch

    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.memory._record_memory_history(enabled=None)
    torch.cuda.synchronize()
    gc.collect()
    # cuBLAS keeps a workspace of its own once it was used.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    left = torch.cuda.memory_allocated() - before
    assert left <= KEPT, f"{left} bytes were left"


def cap(size: int) -> None:
    """Lets Drystone reserve so many bytes in all."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)
