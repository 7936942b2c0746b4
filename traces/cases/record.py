"""Records the snapshots of the cases in docs/cases: PyTorch's own allocator under the programs beside this file.

The programs ask for the tensors that such a model asks for, in PyTorch, on a CUDA that has memory but computes nothing
(`fake_cuda.c` of the lab's oracle). So allocator, error, frames and snapshot are PyTorch's; the sizes are the program's.
The device has no clock: each kernel is given 8 us and as many bytes as a GPU writes in the rest of its time.

usage: python traces/cases/record.py [--check] [NAME ...]

Needs PyTorch 2.11 with CUDA 13 and a C compiler, and no GPU. --check writes nothing and fails where a file would differ.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import lzma
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ["stanza", "gliner", "unet3d", "bert", "deepke", "weclone"]
#: Where PyTorch's allocator fails in each case, in its own words.
ERRORS = HERE / "errors.json"
#: What the host takes to launch a kernel, and what a busy device writes in a microsecond.
LAUNCH_US, BYTES_PER_US = 8, 250_000


def tidy(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What is the same on every machine: times of a made-up clock, and frames of the program only."""
    kept: dict[tuple[tuple[str, str, int], ...], list[dict[str, Any]]] = {}

    def of_program(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        own = [frame for frame in frames if Path(frame["filename"]).stem in NAMES]
        named = tuple((f["name"], Path(f["filename"]).name, f["line"]) for f in own)
        stack = [dict(zip(("name", "filename", "line"), frame)) for frame in named]
        return kept.setdefault(named, stack)

    now = 0
    for entry in snapshot["device_traces"][0]:
        if entry["action"] == "alloc":
            now += LAUNCH_US + entry["size"] // BYTES_PER_US
        entry["time_us"] = now
        entry["frames"] = of_program(entry.get("frames", []))
    for segment in snapshot["segments"]:
        segment["frames"] = of_program(segment.get("frames", []))
        for block in segment["blocks"]:
            block["frames"] = of_program(block.get("frames", []))
    return snapshot


def recorded(name: str) -> tuple[dict[str, Any], str]:
    """Runs a program in this process until memory is out: the snapshot, and the error."""
    import torch

    case = importlib.import_module(name)
    torch.cuda.init()
    others = ctypes.c_void_p()
    fake = ctypes.CDLL(os.environ["LD_PRELOAD"])
    if fake.cudaMalloc(ctypes.byref(others), ctypes.c_size_t(case.OTHERS)) != 0:
        raise SystemExit(f"{name}: the others do not fit on the device")
    torch.cuda.memory._record_memory_history(stacks="python", max_entries=1_000_000)
    try:
        case.main()
    except torch.OutOfMemoryError as error:
        return tidy(torch.cuda.memory._snapshot()), str(error)
    raise SystemExit(f"{name}: it has memory enough, which makes no case")


def made(name: str, fake: Path) -> tuple[bytes, str]:
    """The pickle and the error of a case, from a process of its own."""
    sys.path.insert(0, str(HERE))
    device = importlib.import_module(name).DEVICE
    environment = {"FAKE_CAPACITY": str(device), "LD_PRELOAD": str(fake)}
    done = subprocess.run(
        [sys.executable, __file__, "--record", name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    error, _, snapshot = done.stdout.partition(b"\n")
    return snapshot, json.loads(error)


def main() -> None:
    """Records what is asked for, or compares it with what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--record", metavar="NAME", choices=NAMES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.record:
        snapshot, error = recorded(given.record)
        sys.stdout.buffer.write(json.dumps(error).encode() + b"\n" + pickle.dumps(snapshot, 4))
        return
    names = given.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    sys.path.insert(0, str(HERE.parents[1] / "crates/drystone-lab/tests/oracle"))
    import oracle

    errors = json.loads(ERRORS.read_text()) if ERRORS.exists() else {}
    before, differs = dict(errors), []
    with tempfile.TemporaryDirectory() as folder:
        fake = oracle.build(Path(folder))
        for name in names:
            snapshot, errors[name] = made(name, fake)
            path = HERE / f"{name}.pickle.xz"
            print(f"{name}: {len(snapshot)} bytes; {errors[name].partition(' If reserved')[0]}")
            if given.check:
                if not path.exists() or lzma.decompress(path.read_bytes()) != snapshot:
                    differs.append(path.name)
            else:
                path.write_bytes(lzma.compress(snapshot, preset=9 | lzma.PRESET_EXTREME))
    if given.check:
        differs += [ERRORS.name] if errors != before else []
        if differs:
            raise SystemExit(f"not what the programs give: {', '.join(differs)}")
        return
    ERRORS.write_text(json.dumps({name: errors[name] for name in NAMES if name in errors}, indent=1) + "\n")


if __name__ == "__main__":
    main()
