"""What scripts that measure the program share: its build, runs with time and memory, snapshots that are large."""

import json
import lzma
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CORES, TURNS = 2, 50


def processor():
    """The processor's name, as far as the system has one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def few_cores():
    """From here on, this and what it starts has no more than two cores; how many they are."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return len(cores)


def program():
    """The program, built anew in release."""
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "drystone-cli"], cwd=CHECKOUT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target")) / "release/drystone"


def measured(command):
    """One run of a command: seconds, seconds of the processor, the most bytes it held, what it printed."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss << 10, printed.decode()


def large_snapshots(drystone, folder):
    """Snapshots of 300,000 events: a made run of `zero3` without stacks, as a pickle and as JSON, and the recorded ring
    of `stanza_pos` fifty times over, with its stacks."""
    made = [folder / "zero3.pickle", folder / "zero3.json"]
    for path in made:
        subprocess.run([drystone, "generate", "zero3", "-o", path], check=True, stdout=subprocess.DEVNULL)
    # Elsewhere: the most memory of a child counts what its parent had when it was made.
    writer = multiprocessing.Process(target=_write_repeated, args=(folder / "stanza50.pickle",))
    writer.start()
    writer.join()
    return [*made, folder / "stanza50.pickle"]


def events_of(drystone, path):
    """How many events a trace has."""
    return json.loads(measured([drystone, "replay", path, "--policy", "optimal", "--json"])[3])["events"]


def _write_repeated(path):
    """The first device's ring so many times, one after the other."""
    snapshot = pickle.loads(lzma.decompress((CHECKOUT / "traces/stanza_pos.pickle.xz").read_bytes()))
    ring = snapshot["device_traces"][0]
    span = ring[-1]["time_us"] - ring[0]["time_us"] + 1000
    later = [{**entry, "time_us": entry["time_us"] + turn * span} for turn in range(TURNS) for entry in ring]
    with open(path, "wb") as out:
        pickle.dump({**snapshot, "device_traces": [later]}, out, protocol=4)
