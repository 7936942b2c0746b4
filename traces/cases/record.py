"""Records the cases of docs/cases: PyTorch's own allocator under the programs beside this file.

The programs ask for the tensors that such a model asks for, in PyTorch, on a CUDA that has memory
but computes nothing (`fake_cuda.c` of the lab's oracle). So allocator, errors, frames and snapshots
are PyTorch's; the sizes are the program's. That device has no clock: a kernel is given 8 us and the
time in which a busy GPU writes its bytes.

usage: python traces/cases/record.py [--check] [NAME ...]

Needs PyTorch 2.11 with CUDA 13, a C and a C++ compiler, the program `drystone`, and the library for
the Python package (DRYSTONE_LIBRARY), but no GPU. --check writes nothing and fails where a file
would differ. Files:

NAME.pickle.xz  the snapshot at the failure, on the case's device
NAME.dst        the whole run, on a device with memory enough; NAME-WHAT.dst: with other settings
runs.json       on the case's device under other settings of PyTorch, and with Drystone in PyTorch:
                how it ends, and what is held; also of the programs with other settings
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

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
NAMES = ["stanza", "gliner", "volumes", "bert", "deepke", "weclone"]
#: Whole runs of a program whose user has changed something in it.
CHANGED = {
    "deepke-16": ("deepke", {"TEXTS": 16}),
    "deepke-256": ("deepke", {"MOST_WORDS": 256}),
    "weclone-graphs": ("weclone", {"CAPTURED": [256, 128, 64, 32, 16, 8, 4, 2, 1]}),
    "weclone-cache": ("weclone", {"CACHE_SHARE": 0.8}),
}
#: What only changes how a run ends, not what is asked for: no trace of its own.
SAME = {
    "gliner-emptied": ("gliner", {"EMPTIED": True}),
    "weclone-0.96": ("weclone", {"UTILIZATION": 0.96}),
    "weclone-0.97": ("weclone", {"UTILIZATION": 0.97}),
    "weclone-0.98": ("weclone", {"UTILIZATION": 0.98}),
}
#: Settings of PyTorch under which each case is run on its own device; and Drystone in PyTorch, with
#: a simulated device and what PyTorch would have had as a limit.
SETTINGS = [
    "",
    "expandable_segments:True",
    "max_split_size_mb:128",
    "max_split_size_mb:512",
    "roundup_power2_divisions:4",
    "drystone",
    "drystone,reserve:lean",
]
ENOUGH = 1 << 40
#: What Drystone's simulated device has.
SIMULATED = 80 << 30
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
#: What the host takes to launch a kernel, and what a busy device writes in a microsecond.
LAUNCH_US, BYTES_PER_US = 8, 250_000


def tidy(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What is the same on every machine: times of a made-up clock, frames of the program only."""
    stacks: dict[tuple[tuple[str, str, int], ...], list[dict[str, Any]]] = {}

    def of_program(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        paths = [(f["name"], Path(f["filename"]), f["line"]) for f in frames]
        # Comprehensions are frames of their own in some Pythons only.
        mine = [of for of in paths if of[1].stem in NAMES and of[0] not in COMPREHENSIONS]
        own = tuple((name, path.name, line) for name, path, line in mine)
        stack = [dict(zip(("name", "filename", "line"), frame, strict=True)) for frame in own]
        return stacks.setdefault(own, stack)

    now = 0
    for entry in snapshot["device_traces"][0]:
        if entry["action"] == "alloc":
            now += LAUNCH_US + entry["size"] // BYTES_PER_US
        entry["time_us"] = now
        entry["frames"] = of_program(entry.get("frames", []))
    for segment in snapshot["segments"]:
        for one in (segment, *segment["blocks"]):
            one["frames"] = of_program(one.get("frames", []))
    return snapshot


def install(settings: str, case: Any) -> None:
    """Connects Drystone, with the memory that PyTorch would have had; a fraction is one of that
    device, not of the simulated one."""
    import drystone
    import torch

    limit = case.DEVICE - case.OTHERS
    drystone.install(f"limit:{limit}B{settings.removeprefix('drystone')}", adapter="full")
    of_all = torch.cuda.set_per_process_memory_fraction
    torch.cuda.set_per_process_memory_fraction = lambda part: of_all(part * case.DEVICE / SIMULATED)


def run(
    name: str, changed: dict[str, Any], settings: str, history: bool
) -> tuple[str | None, int, bytes]:
    """Runs a program in this process: the error or None, the peak of what was held, and with the
    history a snapshot as a pickle."""
    import torch

    case = importlib.import_module(name)
    vars(case).update(changed)
    if settings.startswith("drystone"):
        install(settings, case)
    torch.cuda.init()
    others = ctypes.c_void_p()
    fake = ctypes.CDLL(os.environ["LD_PRELOAD"])
    if fake.cudaMalloc(ctypes.byref(others), ctypes.c_size_t(case.OTHERS)) != 0:
        raise SystemExit(f"{name}: what the others hold does not fit on the device")
    if history:
        torch.cuda.memory._record_memory_history(stacks="python", max_entries=1_000_000)
    error = None
    try:
        case.main()
    except torch.OutOfMemoryError as why:
        error = str(why)
        # Here, while what the program held is still held.
        snapshot = torch.cuda.memory._snapshot()
    else:
        snapshot = torch.cuda.memory._snapshot()
    held = torch.cuda.memory_stats()["reserved_bytes.all.peak"]
    return error, held, pickle.dumps(tidy(snapshot), 4) if history else b""


def elsewhere(
    name: str, changed: dict[str, Any], settings: str, history: bool, device: int, fake: Path
) -> tuple[str | None, int, bytes]:
    """The same in a process of its own, as PyTorch reads its settings once."""
    environment = {"FAKE_CAPACITY": str(device), "LD_PRELOAD": str(fake)}
    own = settings.startswith("drystone")
    environment["PYTORCH_ALLOC_CONF"] = "" if own else settings
    if own:
        environment["FAKE_CAPACITY"] = str(SIMULATED)
        path = [str(CHECKOUT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {"DRYSTONE_DEVICE": "sim", "PYTHONPATH": os.pathsep.join(path)}
    what = [name, changed, settings, history]
    done = subprocess.run(
        [sys.executable, __file__, "--run", json.dumps(what)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    ending, _, snapshot = done.stdout.partition(b"\n")
    error, held = json.loads(ending)
    return error, held, snapshot


def program() -> str:
    """The program `drystone`, which writes the whole runs."""
    built = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target")) / "release/drystone"
    return os.environ.get("DRYSTONE_PROGRAM", str(built))


def whole(name: str, changed: dict[str, Any], fake: Path, folder: Path) -> bytes:
    """A run to the end, in Drystone's own format."""
    error, _, snapshot = elsewhere(name, changed, "", True, ENOUGH, fake)
    if error is not None:
        raise SystemExit(f"{name}: it does not end where there is memory enough: {error}")
    (folder / "whole.pickle").write_bytes(snapshot)
    files = [str(folder / "whole.pickle"), str(folder / "whole.dst")]
    subprocess.run([program(), "convert", "--force", *files], stdout=subprocess.PIPE, check=True)
    return (folder / "whole.dst").read_bytes()


def ends_of(name: str, changed: dict[str, Any], fake: Path) -> tuple[dict[str, Any], bytes]:
    """How a program ends on its device under each of the settings, and its snapshot as it was."""
    device = importlib.import_module(name).DEVICE
    ends, snapshot = {}, b""
    for settings in SETTINGS:
        error, held, made = elsewhere(name, changed, settings, not settings, device, fake)
        ends[settings] = {"error": error, "peak_reserved_bytes": held}
        snapshot = snapshot or made
    return ends, snapshot


def files_of(name: str, fake: Path, folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a case, and how it and its changes end."""
    ends = {}
    ends[name], snapshot = ends_of(name, {}, fake)
    files = {f"{name}.pickle.xz": snapshot, f"{name}.dst": whole(name, {}, fake, folder)}
    for other, (of, changed) in {**CHANGED, **SAME}.items():
        if of == name:
            ends[other], _ = ends_of(name, changed, fake)
            if other in CHANGED:
                files[f"{other}.dst"] = whole(name, changed, fake, folder)
    return files, ends


def content(path: Path) -> bytes | None:
    """What a file holds, without the compression."""
    if not path.exists():
        return None
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def main() -> None:
    """Records what is asked for, or compares it with what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--run", metavar="WHAT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        error, held, snapshot = run(*json.loads(given.run))
        ending = json.dumps([error, held]).encode()
        sys.stdout.buffer.write(ending + b"\n" + snapshot)
        return
    names = given.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    sys.path[:0] = [str(HERE), str(CHECKOUT / "crates/drystone-lab/tests/oracle")]
    import oracle

    kept = HERE / "runs.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    ends, differs = dict(before), []
    with tempfile.TemporaryDirectory() as folder:
        # An expandable segment has more addresses than the device has memory.
        fake = oracle.build(Path(folder), "-DSLOT_BITS=36")
        for name in names:
            files, found = files_of(name, fake, Path(folder))
            ends |= found
            for file, data in files.items():
                if given.check:
                    differs += [file] if content(HERE / file) != data else []
                else:
                    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
                    (HERE / file).write_bytes(packed if file.endswith(".xz") else data)
    if not given.check:
        order = [*NAMES, *CHANGED, *SAME]
        ordered = {name: ends[name] for name in order if name in ends}
        kept.write_text(json.dumps(ordered, indent=1) + "\n")
    elif differs := differs + ([kept.name] if ends != before else []):
        raise SystemExit(f"not what the programs give: {', '.join(differs)}")


if __name__ == "__main__":
    main()
