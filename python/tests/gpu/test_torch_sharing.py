"""Tensors sent between processes, over pages and over segments of the driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_program
from torch_fixtures import need_gpu

PROGRAM = Path(__file__).with_name("sharing_program.py")


@pytest.mark.parametrize("settings", ["backing:vmm", "backing:malloc"])
def test_two_processes_share_tensors(settings: str) -> None:
    need_gpu()
    around = {"DRYSTONE_DEVICE": "cuda", "DRYSTONE_CONF": settings}
    around["PYTHONPATH"] = str(PROGRAM.parents[2])
    done = run_program(str(PROGRAM), environment=around)
    assert "shared" in done.stdout
