"""The entry points for PyTorch, called by PyTorch's own class in C++: see sources/hooks.cpp."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch_tools

from drystone import _library


def test_every_hook_under_torch_s_own_class(tmp_path: Path) -> None:
    program = torch_tools.hooks_program(tmp_path)
    site = torch_tools.torch_folder().parent
    folders = [str(folder) for folder in site.glob("nvidia/*/lib")]
    done = subprocess.run(
        [str(program), str(_library.path())],
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(folders), "DRYSTONE_DEVICE": "sim"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "all checks passed\n", done.stdout + done.stderr
