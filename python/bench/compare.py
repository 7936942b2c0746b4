"""Runs the workloads under every allocator, without a cap and at caps, and compares them.

usage: compare.py --out FILE [--workloads A,B] [--modes A,B] [--caps 1.05,1.02] [--rounds N] [--scale F]
       compare.py --summary FILE

A cap is a factor of the requested peak: what the program's live tensors ask for at most, as measured under
PyTorch's own allocator. Each run is a process of its own and a JSON line in FILE; runs that are there already
are not made again, so that a comparison can go on after it was cut off. Rounds go through the modes in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from workloads import MODES, WORKLOADS

PROGRAM = Path(__file__).with_name("workloads.py")
CAPS = "none,1.05,1.02,1.01"
TIMEOUT_S = 900

Line = dict[str, object]


def lines_of(path: Path) -> list[Line]:
    """What was run before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(workload: str, mode: str, cap: int | None, scale: float) -> Line:
    """One run in a process of its own; if that dies, a line which says so."""
    command = [sys.executable, str(PROGRAM), workload, "--mode", mode, "--scale", str(scale)]
    if cap is not None:
        command += ["--cap", str(cap)]
    line: Line = {"workload": workload, "mode": mode, "cap": cap, "ok": False}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return line | {"error": f"not done after {TIMEOUT_S} s"}
    if done.returncode != 0:
        return line | {"error": done.stderr[-1500:]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> None:
    """Makes the runs that are missing."""
    known = lines_of(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def made(workload: str, mode: str, factor: str, number: int, cap: int | None) -> Line:
        key = (workload, mode, factor, number, options.scale)
        for line in known:
            if tuple(line.get(name) for name in ("workload", "mode", "factor", "round", "scale")) == key:
                return line
        line = run(workload, mode, cap, options.scale)
        line |= {"factor": factor, "round": number, "scale": options.scale}
        known.append(line)
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(shown(line), flush=True)
        return line

    for workload in options.workloads:
        peak = made(workload, "native", "none", 0, None).get("requested_bytes_peak")
        if not isinstance(peak, int):
            print(f"{workload}: native did not end, so its requested peak is not known", file=sys.stderr)
            continue
        for factor in options.caps:
            cap = None if factor == "none" else int(peak * float(factor))
            for number in range(options.rounds):
                for mode in options.modes:
                    made(workload, mode, factor, number, cap)


def shown(line: Line) -> str:
    """A run in one line for people."""
    held = line.get("reserved_bytes_peak")
    what = f"{line['seconds']} s, {int(held) / 2**30:.2f} GiB held" if isinstance(held, int) else ""
    end = "" if line["ok"] else f"  DIED: {str(line.get('error'))[:100]!r}"
    return f"{line['workload']:12} {line['mode']:10} cap {line['factor']:5} {what}{end}"


def summary(path: Path) -> None:
    """Prints a table in Markdown: for each workload, cap and mode the peak, the time, and whether what it
    computed is what native computed without a cap."""
    lines = lines_of(path)
    print("| workload | cap | mode | ended | reserved / requested peak | seconds (median) | same as native |")
    print("|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((str(line["workload"]), str(line["factor"]), str(line["mode"])), []).append(line)
    for (workload, factor, mode), runs in groups.items():
        reference = groups[workload, "none", "native"][0]
        good = [one for one in runs if one["ok"]]
        ratio = seconds = same = ""
        if good:
            peak = max(int(str(one["reserved_bytes_peak"])) for one in good)
            ratio = f"{peak / int(str(reference['requested_bytes_peak'])):.3f}"
            seconds = f"{statistics.median(float(str(one['seconds'])) for one in good):.2f}"
            if workload in varying(lines):
                same = "varies from run to run"
            else:
                same = "yes" if {computed(one) for one in good} == {computed(reference)} else "NO"
        print(f"| {workload} | {factor} | {mode} | {len(good)}/{len(runs)} | {ratio} | {seconds} | {same} |")


def varying(lines: list[Line]) -> set[str]:
    """Workloads that do not compute the same twice, under one and the same allocator."""
    results: dict[tuple[object, object], set[str]] = {}
    for line in lines:
        if line["ok"]:
            results.setdefault((line["workload"], line["mode"]), set()).add(computed(line))
    return {str(workload) for (workload, _), several in results.items() if len(several) > 1}


def computed(line: Line) -> str:
    """Every loss and output of a run."""
    return json.dumps([line.get("losses"), line.get("outputs")])


def main() -> int:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description="Compares allocators over the workloads.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the runs are and go")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="shows the runs of a file and makes none")
    for name, all_of in (("workloads", ",".join(WORKLOADS)), ("modes", ",".join(MODES)), ("caps", CAPS)):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=all_of.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the steps to run")
    options = parser.parse_args()
    if options.summary is not None:
        summary(options.summary)
        return 0
    if options.out is None:
        parser.error("--out or --summary is needed")
    unknown = set(options.workloads) - set(WORKLOADS) | set(options.modes) - set(MODES)
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    compare(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
