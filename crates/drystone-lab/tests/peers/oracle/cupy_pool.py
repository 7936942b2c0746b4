"""Asks CuPy's own `MemoryPool` what it does with random requests, on a CUDA that has nothing but
addresses, and prints its answers for `tests/peers`. See README.md beside it.

Usage: python cupy_pool.py FIRST-SEED SEEDS STEPS
"""

from __future__ import annotations

import ctypes
import random
import sys
from typing import Any

import cupy_backends.cuda.api.runtime as runtime

MIB = 1 << 20
UNIT = 512
#: `cudaErrorMemoryAllocation`.
OUT_OF_MEMORY = 2
SLOTS = 16384


def answer(name: str, value: int) -> Any:
    """Has CuPy's compiled modules get `value` from a function of the CUDA runtime, which is built
    into them and finds no GPU. They look functions of each other up by name when they are imported.
    """
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype = ctypes.c_char_p
    python.PyCapsule_GetName.argtypes = [ctypes.py_object]
    python.PyCapsule_New.restype = ctypes.py_object
    python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name_of = python.PyCapsule_GetName(runtime.__pyx_capi__[name])
    # Functions of several arguments find their answer in the same register.
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda _: value)
    KEPT.extend([name_of, function])
    address = ctypes.cast(function, ctypes.c_void_p)
    runtime.__pyx_capi__[name] = python.PyCapsule_New(address, name_of, None)


KEPT: list[Any] = []
for asked, told in (("getDevice", 0), ("getDeviceCount", 1), ("streamIsCapturing", 0)):
    answer(asked, told)

import cupy  # noqa: E402, the answers come first
from cupy.cuda import memory  # noqa: E402

#: Options as Drystone's lab writes them, the MiB of the device, and CuPy's limit in bytes.
CASES = [("cupy", 256, 0), ("cupy", 64, 0), ("cupy:limit=99999999", 256, 99999999)]
CASES += [("cupy:limit=50%", 128, 64 * MIB), ("cupy", 24, 0)]


class Device:
    """The device of a run; `fake_device.hpp` says where memory lies."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.held, self.peak = capacity, 0, 0
        self.pieces: list[int] = []
        #: Addresses and bytes of what is free in each piece, and the stream of each.
        self.free: list[dict[int, int]] = []
        self.noted = True

    def note(self, line: str) -> None:
        if self.noted:
            print(line)

    @staticmethod
    def address_of(piece: int) -> int:
        return (piece * 40503 % SLOTS + 1) << 33

    def piece_at(self, address: int) -> int:
        return next(n for n in range(len(self.pieces)) if self.address_of(n) >> 33 == address >> 33)

    def take(self, size: int, _device: int) -> int:
        if size > self.capacity - self.held:
            self.note(f"x {size}")
            raise runtime.CUDARuntimeError(OUT_OF_MEMORY)
        self.note(f"S {size}")
        self.held += size
        self.peak = max(self.peak, self.held)
        self.pieces.append(size)
        return self.address_of(len(self.pieces) - 1)

    def give(self, address: int, _device: int) -> None:
        piece = self.piece_at(address)
        self.held -= self.pieces[piece]
        self.pieces[piece] = 0
        self.note(f"R {piece}")


class Free:
    """What is free in each piece, to know which requests have two chunks to choose from: CuPy takes
    any of one size, by the order in Python's sets.
    """

    def __init__(self) -> None:
        self.spans: dict[int, list[tuple[int, int]]] = {}
        self.streams: dict[int, int] = {}

    def is_a_tie(self, stream: int, size: int) -> bool:
        sizes = sorted(
            end - start
            for piece, spans in self.spans.items()
            if self.streams[piece] == stream
            for start, end in spans
            if end - start >= size
        )
        return len(sizes) > 1 and sizes[0] == sizes[1]

    def taken(self, piece: int, stream: int, start: int, end: int) -> None:
        self.streams.setdefault(piece, stream)
        spans = []
        for first, last in self.spans.get(piece, []):
            spans += [(first, min(last, start)), (max(first, end), last)]
        self.spans[piece] = [(first, last) for first, last in spans if first < last]

    def given(self, piece: int, start: int, end: int) -> None:
        spans = [(start, end)]
        for first, last in sorted(self.spans[piece]):
            if last == spans[0][0]:
                spans[0] = (first, spans[0][1])
            elif first == spans[0][1]:
                spans[0] = (spans[0][0], last)
            else:
                spans.append((first, last))
        self.spans[piece] = spans


def a_size(draw: random.Random) -> int:
    """Requests over all magnitudes."""
    kind = draw.random()
    if kind < 0.3:
        return draw.randrange(1, 1 << 14)
    if kind < 0.9:
        return int(2 ** draw.uniform(9, 24))
    return (1 << draw.randrange(9, 23)) + draw.randrange(-1, 2)


def run(name: str, mib: int, limit: int, seed: int, steps: int) -> None:
    """One run of random requests, from a device that is empty."""
    draw = random.Random(f"{name} {mib} {seed}")
    device, free = Device(mib * MIB), Free()
    pool = memory.MemoryPool(memory.PythonFunctionAllocator(device.take, device.give).malloc)
    pool.set_limit(size=limit)
    streams = [cupy.cuda.ExternalStream(0x100 * (n + 1)) for n in range(draw.choice([1, 2, 4]))]
    fill = draw.choice([0.3, 0.6, 0.9]) * device.capacity
    print(f"case {device.capacity} {name}")
    live: list[tuple[int, Any, int]] = []
    held, number = 0, 0
    for _ in range(steps):
        if live and draw.random() < (0.35 if held < fill else 0.65):
            freed, block, size = live.pop(draw.randrange(len(live)))
            print(f"f {freed}")
            piece = device.piece_at(block.ptr)
            start = block.ptr - device.address_of(piece)
            free.given(piece, start, start + size)
            del block
            held -= size
            continue
        at, asked = draw.randrange(len(streams)), a_size(draw)
        size = -(-asked // UNIT) * UNIT
        if free.is_a_tie(at, size):
            continue
        print(f"a {at} {asked}")
        try:
            with streams[at]:
                block = pool.malloc(asked)
        except memory.OutOfMemoryError as error:
            print(f"! {error}")
            refused = True
        else:
            refused = False
        for piece in [piece for piece in free.spans if device.pieces[piece] == 0]:
            del free.spans[piece]
        if refused:
            continue
        piece = device.piece_at(block.ptr)
        start = block.ptr - device.address_of(piece)
        free.spans.setdefault(piece, [(0, device.pieces[piece])])
        free.taken(piece, at, start, start + size)
        print(f"= {piece} {start}")
        live.append((number, block, size))
        number, held = number + 1, held + size
    print(f"end {device.held} {device.peak}")
    device.noted = False


def main() -> None:
    first, seeds, steps = map(int, sys.argv[1:])
    for name, mib, limit in CASES:
        for seed in range(first, first + seeds):
            run(name, mib, limit, seed, steps)


if __name__ == "__main__":
    main()
