"""Replays traces through real allocators on this machine's GPU and prints what each held and how
long it took: a JSON line for each trace and library. ``beside.py`` puts what the lab's models say
beside it.

usage: real_peers.py [--kit FOLDER] [--libraries A;B] [--limit FACTOR] [--seconds N] [TRACE...]

Each library has a process of its own for each trace, on a GPU that nobody else uses. No work runs,
and frees are those that the trace says were completed. A run fills the library from nothing, one
comes again, and one has FACTOR times the peak of live bytes on the device, the rest being taken.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

CUB = "cub:bin_growth=2,min_bin=9,max_bin=30,max_cached_bytes=1TiB"
COMPILED = ["drystone", "drystone:reserve=lean", "drystone-malloc", "cuda-async", CUB]
COMPILED += ["rmm-pool:initial_pool_size=0", "rmm-arena", "rmm-binning:initial_pool_size=0"]
PYTHON = ["pytorch", "pytorch-expandable", "pytorch-cuda-async", "cupy", "cupy-async"]
FORKS = {"pytorch", "pytorch-expandable", "pytorch-cuda-async"}


def read(path: Path, events: Path) -> int:
    """Writes a CSV trace's allocations and completed frees as numbers; the peak of live bytes."""
    opened = lzma.open if path.suffix == ".xz" else open
    numbers, live, peak, held = array("Q"), {}, 0, 0
    with opened(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["op"] == "a":
                number, size, stream = int(row["id"]), int(row["size"]), int(row["stream"])
                live[number] = size
                held += size
                peak = max(peak, held)
                numbers.extend([0, number, size, stream])
            elif row["op"] == "c" and int(row["id"]) in live:
                number = int(row["id"])
                held -= live.pop(number)
                numbers.extend([1, number, 0, 0])
    events.write_bytes(numbers.tobytes())
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--kit", type=Path, default=ROOT / "device-kit", help="what was built")
    parser.add_argument("--libraries", help="names with a ; between; default: all")
    parser.add_argument("--limit", type=float, default=1.1, help="of live bytes (default: 1.1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="the most that a run may take")
    given = parser.parse_args()
    kit = given.kit.resolve()
    traces = given.traces or sorted((ROOT / "traces").glob("*.csv.xz"))
    libraries = given.libraries.split(";") if given.libraries else COMPILED + PYTHON
    environment = dict(os.environ)
    # RMM says on its standard error each time that it is refused memory.
    environment["RMM_DEBUG_LOG_FILE"] = os.devnull
    environment.setdefault("DRYSTONE_LIBRARY", str(kit / "python" / "drystone" / "libdrystone.so"))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [path.name.removesuffix(".xz").removesuffix(".csv") for path in traces]
        peaks = {name: read(path, work / name) for name, path in zip(names, traces, strict=True)}
        limits = {
            name: int(peak * given.limit) // (2 << 20) * (2 << 20) for name, peak in peaks.items()
        }
        for library in libraries:
            start = time.monotonic()
            command = [str(kit / "peers" / "replay"), library]
            if library in PYTHON:
                command = [sys.executable, str(HERE / "python_peers.py"), library]
            command.append(str(given.seconds))
            each = [[name, str(work / name), str(limits[name])] for name in names]
            # PyTorch is imported once; a process of its own for each trace it makes itself.
            together = [each] if library in FORKS else [[one] for one in each]
            for group in together:
                arguments = [word for one in group for word in one[1:]]
                run = subprocess.run(
                    [*command, *arguments], capture_output=True, text=True, env=environment
                )
                answers = run.stdout.splitlines() if run.returncode == 0 else []
                for number, (name, _, _) in enumerate(group):
                    line: dict[str, Any] = {
                        "trace": name,
                        "library": library,
                        "live_bytes": peaks[name],
                    }
                    if number < len(answers):
                        line |= json.loads(answers[number])
                    else:
                        line["error"] = run.stderr.strip()[-600:] or f"ended with {run.returncode}"
                    failed |= "error" in line
                    print(json.dumps(line), flush=True)
            print(f"{library}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
