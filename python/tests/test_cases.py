"""The snapshots of docs/cases are what PyTorch records today, byte for byte, and the programs end as
the pages say: in PyTorch under its settings, and with Drystone in PyTorch.

Needs PyTorch 2.11 with CUDA, compilers and the program ``drystone``, not a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch_tools
from test_viewer import program

RECORD = Path(__file__).parents[2] / "traces/cases/record.py"


@pytest.mark.parametrize("name", ["stanza", "gliner", "volumes", "bert", "deepke", "weclone"])
def test_a_case_is_recorded_again(name: str, adapter_cache: Path, tmp_path: Path) -> None:
    torch_tools.fake_cuda(tmp_path)  # skips where it cannot be built
    done = subprocess.run(
        [sys.executable, str(RECORD), "--check", name],
        env=os.environ | {"DRYSTONE_PROGRAM": program(), "DRYSTONE_CACHE": str(adapter_cache)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
