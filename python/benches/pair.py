"""What an allocate and free pair costs under PyTorch: prints JSON, one line for each case.

    python python/benches/pair.py

In C++, through PyTorch's class for pluggable allocators (pair.cpp, compiled against this PyTorch;
needs no GPU with DRYSTONE_DEVICE=sim), and in Python, as ``torch.empty`` (needs a GPU): under hooks
that do nothing, Drystone's plain path and full adapter, and PyTorch's own allocator.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PAIRS, ROUNDS = 20_000, 9


def cpp(folder: Path) -> None:
    """Compiles and runs pair.cpp."""
    from torch.utils import cpp_extension

    from drystone import _library

    program = folder / "pair"
    torch = Path(cpp_extension.__file__).parents[1]
    site = torch.parent
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    headers = [*cpp_extension.include_paths("cpu"), *site.glob("nvidia/cu1*/include")]
    runtimes = [*site.glob("nvidia/cu1*/lib/libcudart.so.*"), *toolkit.glob("lib64/libcudart.so")]
    options = [f"-isystem{path}" for path in [*headers, toolkit / "include"]]
    options += [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-Wl,--no-as-needed"]
    libraries = ["-ltorch_cuda", "-ltorch_cpu", "-lc10_cuda", "-lc10", "-ldl", str(runtimes[0])]
    command = ["c++", "-std=c++20", "-O2", str(HERE / "pair.cpp"), "-o", str(program)]
    subprocess.run([*command, *options, *libraries], check=True)
    nvidia = ":".join(str(path) for path in site.glob("nvidia/*/lib"))
    subprocess.run(
        [str(program), str(_library.path())],
        env=os.environ | {"LD_LIBRARY_PATH": nvidia},
        check=True,
    )


def empty(way: str, nothing: str) -> None:
    """Measures ``torch.empty`` in this process."""
    import torch

    if way == "nothing":
        allocator = torch.cuda.memory.CUDAPluggableAllocator(
            nothing, "nothing_alloc", "nothing_free"
        )
        torch.cuda.memory.change_current_allocator(allocator)
    elif way != "native":
        import drystone

        drystone.install(adapter=way)

    def one(size: int) -> float:
        def round_() -> float:
            start = time.perf_counter_ns()
            for _ in range(PAIRS):
                torch.empty(size, dtype=torch.uint8, device="cuda")
            return (time.perf_counter_ns() - start) / PAIRS

        round_()
        return round(statistics.median(round_() for _ in range(ROUNDS)), 1)

    figures = {"torch.empty": way, "unit": "ns", "small": one(4096), "large": one(8 << 20)}
    print(json.dumps(figures), flush=True)


def main() -> int:
    """Runs everything; the exit code."""
    if len(sys.argv) == 3:
        empty(sys.argv[1], sys.argv[2])
        return 0
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpp(folder)
        if not torch.cuda.is_available():
            print("torch.empty: skipped, there is no GPU", file=sys.stderr)
            return 0
        nothing = folder / "nothing.so"
        source = str(HERE / "nothing.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", str(nothing)], check=True)
        ways = ("native", "nothing", "plain", "full")
        codes = [
            subprocess.run([sys.executable, __file__, way, str(nothing)]).returncode for way in ways
        ]
        return max(codes)


if __name__ == "__main__":
    sys.exit(main())
