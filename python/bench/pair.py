"""What an allocation and its free cost through PyTorch: in C++ and through ``torch.empty``.

usage: pair.py [--modes native,full,...] [--pairs N] [--rounds N] [--summary]

Prints one JSON line for each mode, round and case: nanoseconds for a pair. Each mode has a process of its
own, all are started first, and rounds go through the modes in turn: a machine that gets slower does so for
all. What Drystone itself costs on the plain path is what stands above ``nothing``, a pluggable allocator that
does nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
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
EMPTIES = {"torch.empty 512 B": 512, "torch.empty 4 MiB": 4 << 20}


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
    """Measures one mode in this process: a line of all cases for each line that comes in."""
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
    print("ready", flush=True)
    for _ in sys.stdin:
        found = {}
        for case, (name, argument) in CASES.items():
            function = getattr(functions, name)
            function.restype = ctypes.c_double
            found[case] = function(ctypes.c_uint64(argument), ctypes.c_uint64(pairs))
        count = max(pairs // 10, 1000)
        for case, size in EMPTIES.items():
            for repeat in (count // 10, count):
                start = time.perf_counter_ns()
                for _ in range(repeat):
                    torch.empty(size, dtype=torch.uint8, device="cuda")
                found[case] = (time.perf_counter_ns() - start) / repeat
        print(json.dumps(found), flush=True)


class Mode:
    """A process in which one mode is measured."""

    def __init__(self, name: str, built: Path, pairs: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        around = dict(os.environ, PYTHONPATH=str(HERE.parent))
        if name in SETTINGS:
            around["PYTORCH_CUDA_ALLOC_CONF"] = SETTINGS[name]
        command = [sys.executable, __file__, "--modes", name, "--pairs", str(pairs), "--measure", str(built)]
        self._process = subprocess.Popen(
            command,
            env=around,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def wait(self) -> None:
        """Waits until it can measure."""
        self._line()

    def round(self) -> dict[str, float]:
        """Measures once: nanoseconds by case."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, float] = json.loads(self._line())
        return found

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._errors.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self.name}: it ended early\n{self._errors.read()}")
        return line


def summary(found: dict[tuple[str, str], list[float]]) -> str:
    """A table of medians: a row for each case, a column for each mode."""
    modes = list(dict.fromkeys(mode for mode, _ in found))
    rows = [f"{'median ns a pair':20}" + "".join(f"{mode:>12}" for mode in modes)]
    for case in dict.fromkeys(case for _, case in found):
        medians = (statistics.median(found[mode, case]) for mode in modes)
        rows.append(f"{case:20}" + "".join(f"{median:12.1f}" for median in medians))
    return "\n".join(rows)


def main() -> int:
    """Runs every mode in turn, or with --measure one of them here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between; of " + ", ".join(MODES))
    parser.add_argument("--pairs", type=int, default=200_000, help="pairs for each case")
    parser.add_argument("--rounds", type=int, default=5, help="how often each mode is measured")
    parser.add_argument("--summary", action="store_true", help="print the medians too, as a table on stderr")
    parser.add_argument("--measure", metavar="LIBRARY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.modes.split(",")
    unknown = [name for name in names if name not in MODES]
    if unknown:
        parser.error(f"no such mode: {', '.join(unknown)}; allowed are {', '.join(MODES)}")
    if options.measure:
        measure(names[0], options.measure, options.pairs)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="drystone-pair-"))
    found: dict[tuple[str, str], list[float]] = {}
    try:
        built = compiled(folder)
        modes = [Mode(name, built, options.pairs) for name in names]
        for mode in modes:
            mode.wait()
        for number in range(options.rounds):
            for mode in modes:
                for case, ns in mode.round().items():
                    found.setdefault((mode.name, case), []).append(ns)
                    line = {"mode": mode.name, "case": case, "ns": round(ns, 1), "round": number}
                    print(json.dumps(line), flush=True)
        for mode in modes:
            mode.end()
    finally:
        shutil.rmtree(folder)
    if options.summary:
        print(summary(found), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
