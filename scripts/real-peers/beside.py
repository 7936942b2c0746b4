"""Prints the lines of ``real_peers.py`` as a table, and beside each what the lab's model of the
library says on a device with as much memory, where nothing is pending. Needs no GPU.

usage: beside.py FILE [DRYSTONE]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
FORMAT = "{:17} {:34} {:>8} {:>8} {:>8} {:>5} {:>5} {:>9} {:>9}"
COLUMNS = [
    "trace",
    "library",
    "own MiB",
    "device",
    "model",
    "fits",
    "model",
    "first ns",
    "again ns",
]
MIB = 1 << 20
#: The driver's own pool is not modelled.
NO_MODEL = {"cuda-async", "pytorch-cuda-async", "cupy-async"}


def model(program: str, line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the model says with all of the device, and at the limit."""
    trace = ROOT / "traces" / f"{line['trace']}.csv.xz"
    command = [program, "compare", str(trace), "--no-svg", "--json", "--host-lead", "0s"]
    for capacity in (line["free"], line["limit_bytes"]):
        more = ["--policy", line["library"], "--capacity", str(capacity)]
        # Out of memory is an error to the program, but it prints what it found.
        run = subprocess.run([*command, *more], capture_output=True, text=True)
        if not run.stdout:
            sys.exit(run.stderr)
        yield json.loads(run.stdout)


def text(value: float | bool | None, unit: float = 1.0) -> str:
    """A figure in a unit; - where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value / unit:,.0f}"


def main() -> None:
    program = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "target/release/drystone")
    print(FORMAT.format(*COLUMNS))
    with open(sys.argv[1]) as file:
        lines = [json.loads(line) for line in file]
    for line in lines:
        peak = fits = None
        if line["library"] not in NO_MODEL and "limit_bytes" in line:
            free, limited = model(program, line)
            peak, fits = free["peak_reserved_bytes"], limited.get("oom") is None
        figures = [
            text(line.get("peak_library_bytes"), MIB),
            text(line.get("peak_device_bytes"), MIB),
        ]
        figures += [text(peak, MIB), text(line.get("fits_limit")), text(fits)]
        figures += [text(line.get("first_ns")), text(line.get("again_ns"))]
        print(FORMAT.format(line["trace"], line["library"][:34], *figures))
        if "error" in line:
            print(f"    {line['error']}")


if __name__ == "__main__":
    main()
