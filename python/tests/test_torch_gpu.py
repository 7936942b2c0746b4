"""What has to hold on a real GPU, on the plain path: see sources/gpu.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch_tools

PROGRAM = torch_tools.SOURCES / "gpu.py"
NO_GPU = 77


def test_on_a_real_gpu() -> None:
    torch_tools.torch_folder()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "plain"],
        env=os.environ | {"DRYSTONE_DEVICE": "auto"},
        capture_output=True,
        text=True,
    )
    if done.returncode == NO_GPU:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
