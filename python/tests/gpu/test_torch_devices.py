"""Two GPUs: copies between them, access in place, DistributedDataParallel and FSDP over NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch_fixtures import MIB, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")

PROGRAM = Path(__file__).with_name("distributed_program.py")


@pytest.fixture(autouse=True)
def two(installed: str) -> None:  # noqa: F811
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def test_tensors_go_from_device_to_device() -> None:
    here = torch.arange(4 * MIB, device="cuda:0")
    there = here.to("cuda:1")
    assert there.device.index == 1 and torch.equal(there.cpu(), here.cpu())
    back = torch.empty_like(here).copy_(there)
    assert torch.equal(back, here)


def test_strided_copies_reach_over() -> None:
    # A kernel of one device reads memory of the other, where that is possible at all.
    here = torch.arange(1 << 20, device="cuda:0").view(1024, 1024).t()
    there = torch.empty(1024, 1024, dtype=torch.int64, device="cuda:1")
    there.copy_(here)
    assert torch.equal(there.cpu(), here.cpu())
    # Memory that is mapped after the access was given, too.
    more = torch.arange(64 << 20, device="cuda:0").view(8192, 8192).t()
    other = torch.empty(8192, 8192, dtype=torch.int64, device="cuda:1")
    other.copy_(more)
    assert torch.equal(other.cpu(), more.cpu())


def test_each_device_has_its_own_figures() -> None:
    before = [torch.cuda.memory_allocated(device) for device in (0, 1)]
    block = torch.empty(8 * MIB, dtype=torch.uint8, device="cuda:1")
    assert torch.cuda.memory_allocated(0) == before[0]
    assert torch.cuda.memory_allocated(1) == before[1] + 8 * MIB
    del block


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_distributed_training_is_the_same(way: str) -> None:
    losses = {}
    for allocator in ("native", "drystone"):
        environment = dict(os.environ, PYTHONPATH=str(PROGRAM.parents[2]), DRYSTONE_DEVICE="cuda")
        # Sums in a fixed order, so that runs can be compared bit for bit.
        environment |= {"NCCL_ALGO": "Ring", "NCCL_NVLS_ENABLE": "0"}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [*command, str(PROGRAM), way, allocator],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        losses[allocator] = [line for line in done.stdout.splitlines() if line.startswith("loss")]
    assert len(losses["native"]) == 20
    assert losses["native"] == losses["drystone"]
