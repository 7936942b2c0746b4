"""What an allocation and its free cost through PyTorch: in C++ and through ``torch.empty``.

usage: pair.py [--modes native,full,...] [--pairs N] [--rounds N]

Prints one JSON line for each mode, round and case: nanoseconds for a pair. Each measurement has a process
of its own; rounds go through the modes in turn, so that a machine that gets slower does so for all.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = ("native", "expandable", "async", "nothing", "plain", "full")
SETTINGS = {"expandable": "expandable_segments:True", "async": "backend:cudaMallocAsync"}
CASES = {
    "512 B": ("pair_of", 512),
    "1 MiB": ("pair_of", 1 << 20),
    "4 MiB": ("pair_of", 4 << 20),
    "random, 100 live": ("pair_among", 100),
    "random, 1000 live": ("pair_among", 1000),
}


def compiled(folder: Path) -> Path:
    """The C++ part, built against this PyTorch."""
    sys.path.insert(0, str(HERE.parent))
    from drystone.torch import adapter

    torch = adapter._torch_folder()
    headers = [f"-isystem{path}" for path in adapter._headers(torch)]
    made = folder / "pair.so"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", *headers, f"-L{torch / 'lib'}"]
    libraries = ["-lc10", "-lc10_cuda"]
    command = [adapter._compiler(), *flags, str(HERE / "pair.cpp"), *libraries, "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def measure(mode: str, built: str, pairs: int) -> None:
    """Measures one mode in this process and prints its lines."""
    if mode in ("plain", "full"):
        import drystone

        assert drystone.install(adapter=mode) == mode
    import torch

    if mode == "nothing":
        from torch.cuda.memory import CUDAPluggableAllocator, change_current_allocator

        change_current_allocator(CUDAPluggableAllocator(built, "nothing_alloc", "nothing_free"))
    torch.cuda.init()
    torch.cuda.current_stream()
    functions = ctypes.CDLL(built)
    for case, (name, argument) in CASES.items():
        function = getattr(functions, name)
        function.restype = ctypes.c_double
        ns = function(ctypes.c_uint64(argument), ctypes.c_uint64(pairs))
        print(json.dumps({"mode": mode, "case": case, "ns": round(ns, 1)}), flush=True)
    for label, size in (("torch.empty 512 B", 512), ("torch.empty 4 MiB", 4 << 20)):
        count = max(pairs // 10, 1000)
        for repeat in (count // 10, count):
            start = time.perf_counter_ns()
            for _ in range(repeat):
                torch.empty(size, dtype=torch.uint8, device="cuda")
            ns = (time.perf_counter_ns() - start) / repeat
        print(json.dumps({"mode": mode, "case": label, "ns": round(ns, 1)}), flush=True)


def main() -> int:
    """Runs every mode in turn, or with --measure one of them here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between; of " + ", ".join(MODES))
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs for each case")
    parser.add_argument("--rounds", type=int, default=3, help="how often each mode is measured")
    parser.add_argument("--measure", metavar="LIBRARY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    modes = options.modes.split(",")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        parser.error(f"no such mode: {', '.join(unknown)}; allowed are {', '.join(MODES)}")
    if options.measure:
        measure(modes[0], options.measure, options.pairs)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="drystone-pair-"))
    try:
        built = compiled(folder)
        for number in range(options.rounds):
            for mode in modes:
                around = dict(os.environ, PYTHONPATH=str(HERE.parent))
                if mode in SETTINGS:
                    around["PYTORCH_CUDA_ALLOC_CONF"] = SETTINGS[mode]
                command = [sys.executable, __file__, "--modes", mode, "--pairs", str(options.pairs)]
                command += ["--measure", str(built)]
                done = subprocess.run(command, env=around, capture_output=True, text=True)
                if done.returncode != 0:
                    print(done.stderr, file=sys.stderr)
                    return 1
                for line in done.stdout.splitlines():
                    print(json.dumps(json.loads(line) | {"round": number}), flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
