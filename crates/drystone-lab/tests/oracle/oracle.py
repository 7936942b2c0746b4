"""Asks PyTorch's own allocator what it does with random requests, on a CUDA that has nothing but
addresses, and writes its answers down for `tests/pytorch/oracle.rs`. See README.md beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TextIO

HERE = Path(__file__).parent
MIB = 1 << 20
ENTRIES = 1 << 20

#: Options of PYTORCH_ALLOC_CONF, and the MiB that the device has.
CASES = [
    ("", 1024),
    ("", 192),
    ("max_split_size_mb:20", 384),
    ("max_split_size_mb:32,max_non_split_rounding_mb:24", 256),
    ("max_split_size_mb:64,max_non_split_rounding_mb:48", 1024),
    ("roundup_power2_divisions:4", 512),
    ("roundup_power2_divisions:[1:2,4:8,16:1,64:4,>:16]", 512),
    ("roundup_power2_divisions:[>:1]", 320),
    ("per_process_memory_fraction:0.5", 512),
    ("per_process_memory_fraction:1.0,garbage_collection_threshold:0.3", 512),
    ("per_process_memory_fraction:0.9,garbage_collection_threshold:0.6", 768),
    ("per_process_memory_fraction:0.75,garbage_collection_threshold:0.2,max_split_size_mb:24", 640),
    ("garbage_collection_threshold:0.5", 512),
    ("large_segment_size_mb:32", 512),
    ("large_segment_size_mb:11,max_split_size_mb:12,max_non_split_rounding_mb:11", 256),
    ("max_split_size_mb:40,roundup_power2_divisions:8,per_process_memory_fraction:0.8", 640),
]


def random_case(draw: random.Random) -> tuple[str, int]:
    """Options at random, each more often left out than not, and a device for them."""
    large = draw.choice([11, 16, 20, 32, 40])
    options = {
        "large_segment_size_mb": str(large),
        "max_split_size_mb": str(large + int(2 ** draw.uniform(0, 7)) - 1),
        "max_non_split_rounding_mb": str(large + int(2 ** draw.uniform(0, 6)) - 1),
        "roundup_power2_divisions": draw.choice(["2", "4", "8", "16", "64", "[2:4,8:1,32:8,>:2]"]),
        "garbage_collection_threshold": f"{draw.uniform(0.05, 0.95):.3f}",
        "per_process_memory_fraction": f"{draw.uniform(0.3, 1):.3f}",
    }
    chosen = {key: value for key, value in options.items() if draw.random() < 0.45}
    if "large_segment_size_mb" not in chosen:
        # The sizes that it bounds are then to be at least 20 MiB.
        for key in ("max_split_size_mb", "max_non_split_rounding_mb"):
            if key in chosen:
                chosen[key] = str(max(20, int(chosen[key])))
    return ",".join(f"{key}:{value}" for key, value in chosen.items()), draw.randrange(96, 1536)


class Entry(ctypes.Structure):
    """A line of the fake's ledger."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("what", "piece", "offset", "bytes")]


def build(folder: Path, *flags: str) -> Path:
    """The fake CUDA, compiled against the headers that come with PyTorch, with these flags too."""
    found = [Path(path) / "nvidia" for path in sys.path]
    headers = [path for root in found for path in root.glob("cu1*/include")]
    made = folder / "libfakecuda.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", str(HERE / "fake_cuda.c")]
        + [*flags]
        + [f"-isystem{path}" for path in headers]
        + ["-o", str(made)],
        check=True,
    )
    return made


def a_size(draw: random.Random, capacity: int) -> int:
    """Requests of all the kinds that are treated differently, often the same again."""
    kind = draw.random()
    if kind < 0.35:
        return int(2 ** draw.uniform(0, 20))
    if kind < 0.6:
        return int(2 ** draw.uniform(20, 23.4))
    if kind < 0.85:
        return draw.choice([1, 2, 3, 4, 6, 9, 10, 12, 19, 20, 21, 24, 32, 41]) * MIB
    if kind < 0.88:
        return draw.choice([511, 512, 513, MIB - 512, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB + 512])
    return int(2 ** draw.uniform(23, 0.7 + capacity.bit_length() - 2))


class Oracle:
    """PyTorch's allocator, in this process."""

    def __init__(self, fake: Path) -> None:
        import torch

        torch.cuda.init()
        self.torch = torch
        self.fake = ctypes.CDLL(str(fake))
        self.entries = (Entry * ENTRIES)()

    def ledger(self) -> list[str]:
        """What was asked of the device since the last time."""
        count = self.fake.fake_entries(self.entries, ENTRIES)
        return [f"{chr(e.what)} {e.piece} {e.offset} {e.bytes}" for e in self.entries[:count]]

    def case(self, name: str, seed: int, steps: int, most_pools: int, out: TextIO) -> None:
        """One run of random requests, from a device that is empty to one that is."""
        capacity = int(os.environ["FAKE_CAPACITY"])
        # Runs with pools draw numbers of their own, so that those without stay as they are.
        draw = random.Random(f"{name} {seed} {most_pools}" if most_pools else f"{name} {seed}")
        streams = draw.choice([1, 1, 2, 4])
        fill = draw.choice([0.3, 0.6, 0.9, 1.2]) * capacity
        pools = Pools(self.torch, draw.randint(1, most_pools) if most_pools else 0)
        allocate = self.torch._C._cuda_cudaCachingAllocator_raw_alloc
        free = self.torch._C._cuda_cudaCachingAllocator_raw_delete
        self.torch.cuda.reset_accumulated_memory_stats()
        self.fake.fake_begin()
        print(f"case {capacity} {name}", file=out)
        live: list[tuple[int, int, int]] = []
        held, number = 0, 0
        for _ in range(steps):
            if most_pools and draw.random() < 0.06:
                # As often in the default pool as in all others.
                pools.enter(draw.choice([0, draw.randint(1, pools.count)]))
                print(f"p {pools.current}", file=out)
            if live and draw.random() < (0.35 if held < fill else 0.65):
                # A few old ones stay for long.
                at = draw.randrange(len(live) // 4, len(live)) if draw.random() < 0.9 else 0
                freed, address, size = live.pop(at)
                free(address)
                held -= size
                print(f"f {freed}", file=out)
            else:
                stream, size = draw.randrange(streams), a_size(draw, capacity)
                try:
                    address = allocate(size, stream)
                except self.torch.OutOfMemoryError as error:
                    print(f"a {stream} {size} ! {error}", file=out)
                else:
                    print(f"a {stream} {size} = {address}", file=out)
                    live.append((number, address, size))
                    held += size
                    number += 1
            for line in self.ledger():
                print(line, file=out)
        stats = self.torch.cuda.memory_stats()
        keys = ["num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free"]
        counts = [stats[key] for key in [*keys, "reserved_bytes.all.current"]]
        print("stats", *counts, file=out)
        for _, address, _ in live:
            free(address)
        pools.release()
        self.empty(streams)

    def empty(self, streams: int) -> None:
        """Gives back what is cached, so that the next run finds an empty device."""
        allocate = self.torch._C._cuda_cudaCachingAllocator_raw_alloc
        free = self.torch._C._cuda_cudaCachingAllocator_raw_delete
        self.torch.cuda.empty_cache()
        self.ledger()
        # Reserved addresses behind which nothing was ever mapped stay until something was.
        for size in (1, 2 * MIB):
            for stream in range(streams):
                free(allocate(size, stream))
        self.torch.cuda.empty_cache()
        self.ledger()


class Pools:
    """The private pools of a run, as captured graphs have them, from 1; 0 is the default pool."""

    def __init__(self, torch: ModuleType, count: int) -> None:
        self.torch = torch
        self.count = count
        self.handles = [torch.cuda.graph_pool_handle() for _ in range(count)]
        self.begun = [0] * count
        self.current = 0

    def enter(self, number: int) -> None:
        """From here on requests are made in this pool."""
        if self.current:
            self.torch._C._cuda_endAllocateToPool(0, self.handles[self.current - 1])
        self.current = number
        if number:
            self.begun[number - 1] += 1
            handle = self.handles[number - 1]
            self.torch._C._cuda_beginAllocateCurrentThreadToPool(0, handle)

    def release(self) -> None:
        """Nobody holds them any more: each beginning was a hold."""
        self.enter(0)
        for handle, begun in zip(self.handles, self.begun, strict=True):
            for _ in range(begun):
                self.torch._C._cuda_releasePool(0, handle)


def main() -> None:
    """Runs every case, each in a process of its own, since PyTorch reads its options once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the file that is written")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each case")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=1000, help="requests and frees of a run")
    pools_help = "in each run up to so many private pools beside the default one"
    parser.add_argument("--pools", type=int, default=0, metavar="N", help=pools_help)
    random_help = "so many cases with random options in place of the usual ones"
    parser.add_argument("--options", type=int, metavar="N", help=random_help)
    parser.add_argument("--case", nargs=2, metavar=("POLICY", "OPTIONS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.case:
        oracle = Oracle(Path(os.environ["LD_PRELOAD"]))
        with given.out.open("a") as out:
            for seed in seeds:
                oracle.case(" ".join(given.case).strip(), seed, given.steps, given.pools, out)
        return
    fake = build(given.out.resolve().parent)
    given.out.write_text("")
    again = [f"--{key}={getattr(given, key)}" for key in ("seeds", "first", "steps", "pools")]
    cases = CASES
    if given.options:
        cases = [random_case(random.Random(given.first + n)) for n in range(given.options)]
    for options, capacity in cases:
        for policy, switch in (("pytorch", ""), ("pytorch-expandable", "expandable_segments:True")):
            conf = ",".join(filter(None, (options, switch)))
            environment = {"FAKE_CAPACITY": str(capacity * MIB), "LD_PRELOAD": str(fake)}
            subprocess.run(
                [sys.executable, __file__, str(given.out), *again, "--case", policy, options],
                env=os.environ | environment | {"PYTORCH_ALLOC_CONF": conf},
                check=True,
            )


if __name__ == "__main__":
    main()
