"""Replays the requests of a trace through PyTorch's or CuPy's own allocator on this machine's GPU,
without work. For ``real_peers.py``, which starts it; what it prints is what ``replay.cpp`` does.

usage: python_peers.py LIBRARY SECONDS (EVENTS LIMIT)...

Several traces have a process each, forked once the library is imported and before CUDA is used.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from array import array
from typing import Any

#: `cudaErrorMemoryAllocation`.
OUT_OF_MEMORY = 2

TORCH = {
    "pytorch": "",
    "pytorch-expandable": "expandable_segments:True",
    "pytorch-cuda-async": "backend:cudaMallocAsync",
}


class Torch:
    """PyTorch's caching allocator, as its settings in the environment say."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def start(self, streams: int) -> None:
        torch = self.torch
        torch.cuda.init()
        torch.cuda.current_stream()
        self.take = torch._C._cuda_cudaCachingAllocator_raw_alloc
        self.give = torch._C._cuda_cudaCachingAllocator_raw_delete
        self.streams = [torch.cuda.Stream() for _ in range(streams - 1)]
        self.handles = [0, *(stream.cuda_stream for stream in self.streams)]
        self.out_of_memory = torch.OutOfMemoryError

    def run(self, events: list[tuple[int, int, int, int]], most: float) -> dict[str, Any]:
        """Plays the events; blocks still live at the end are freed."""
        take, give, handles, clock = self.take, self.give, self.handles, time.perf_counter
        blocks: dict[int, int] = {}
        done, failed, start = 0, False, clock()
        try:
            for free, number, size, stream in events:
                if free:
                    give(blocks.pop(number))
                else:
                    blocks[number] = take(size, handles[stream])
                done += 1
                if not done & 1023 and clock() - start > most:
                    break
        except self.out_of_memory:
            failed = True
        seconds, left = clock() - start, self.available()
        for block in blocks.values():
            give(block)
        self.torch.cuda.synchronize()
        return {"seconds": seconds, "done": done, "oom": failed, "left": left}

    def taken(self) -> int:
        """The most that was reserved, by its own count."""
        return int(self.torch.cuda.max_memory_reserved())

    def clear(self) -> None:
        self.torch.cuda.empty_cache()

    def available(self) -> int:
        return int(self.torch.cuda.mem_get_info()[0])


class CuPy:
    """CuPy's pool, its own or over the driver's."""

    def __init__(self, pool: str) -> None:
        import cupy

        self.cupy, self.kind = cupy, pool

    def start(self, streams: int) -> None:
        cupy = self.cupy
        cupy.cuda.runtime.free(0)
        self.pool = getattr(cupy.cuda, self.kind)()
        null = cupy.cuda.Stream.null
        self.streams = [null, *(cupy.cuda.Stream(non_blocking=True) for _ in range(streams - 1))]
        self.peak = 0

    def run(self, events: list[tuple[int, int, int, int]], most: float) -> dict[str, Any]:
        """Plays the events; blocks still live at the end are freed."""
        take, streams, clock = self.pool.malloc, self.streams, time.perf_counter
        out_of_memory = self.cupy.cuda.memory.OutOfMemoryError
        of_runtime = self.cupy.cuda.runtime.CUDARuntimeError
        blocks: dict[int, Any] = {}
        done, failed, current, start = 0, False, 0, clock()
        streams[0].use()
        try:
            for free, number, size, stream in events:
                if free:
                    # The driver's pool frees on the stream that it allocated on; CuPy's too.
                    del blocks[number]
                else:
                    if stream != current:
                        streams[stream].use()
                        current = stream
                    blocks[number] = take(size)
                done += 1
                if not done & 1023 and clock() - start > most:
                    break
        except out_of_memory:
            failed = True
        except of_runtime as error:
            if error.status != OUT_OF_MEMORY:
                raise
            failed = True
        seconds, left = clock() - start, self.available()
        streams[0].use()
        self.peak = max(self.peak, int(self.pool.total_bytes()))
        blocks.clear()
        self.cupy.cuda.runtime.deviceSynchronize()
        return {"seconds": seconds, "done": done, "oom": failed, "left": left}

    def taken(self) -> int:
        """What it holds at the end, by its own count: it gives back only when memory is out."""
        return self.peak

    def clear(self) -> None:
        self.pool.free_all_blocks()
        self.cupy.cuda.runtime.deviceSynchronize()

    def available(self) -> int:
        return int(self.cupy.cuda.runtime.memGetInfo()[0])


def ballast(size: int) -> None:
    """Takes memory from CUDA itself, for as long as this process lives."""
    cuda, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    failed = cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
    if failed:
        raise RuntimeError(f"cuMemAlloc of {size} bytes: error {failed}")


def play(library: Torch | CuPy, path: str, limit: int, most: float) -> dict[str, Any]:
    """All runs over one trace: from nothing, again, and with `limit` bytes on the device."""
    numbers = array("Q")
    with open(path, "rb") as file:
        numbers.frombytes(file.read())
    events = list(zip(numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True))
    library.start(max(event[3] for event in events) + 1)
    before = library.available()
    first = library.run(events, most)
    # No library gives memory back before there is none left: what was gone at the end is the most.
    found: dict[str, Any] = {
        "free": before,
        "events": len(events),
        "done": first["done"],
        "oom": first["oom"],
        "peak_library_bytes": library.taken(),
        "peak_device_bytes": before - first["left"],
    }
    if first["done"] < len(events):
        return found
    again = library.run(events, most)
    found["first_s"] = first["seconds"]
    found["first_ns"] = first["seconds"] * 1e9 / len(events)
    found["again_ns"] = again["seconds"] * 1e9 / len(events)
    library.clear()
    left = library.available()
    if 0 < limit < left:
        ballast(left - limit)
        limited = library.run(events, most)
        found["limit_bytes"] = limit
        found["fits_limit"] = limited["done"] == len(events)
        found["limit_done"] = limited["done"]
    return found


def main() -> None:
    name, most, *traces = sys.argv[1:]
    if name in TORCH:
        os.environ["PYTORCH_ALLOC_CONF"] = TORCH[name]
    library = (
        Torch()
        if name in TORCH
        else CuPy({"cupy": "MemoryPool", "cupy-async": "MemoryAsyncPool"}[name])
    )
    each = list(zip(traces[0::2], traces[1::2], strict=True))
    for events, limit in each:
        child = os.fork() if len(each) > 1 else 0
        if child == 0:
            try:
                found = play(library, events, int(limit), float(most))
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(found), flush=True)
            # Without taking anything apart: the process ends, and the device has all back.
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            print(json.dumps({"error": f"ended with status {status}"}), flush=True)


if __name__ == "__main__":
    main()
