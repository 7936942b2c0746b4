"""The allocator for CuPy, with a stand-in for CuPy on the simulated device. What needs a GPU is in
``tests/libraries``."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import drystone
import drystone.cupy
from conftest import MIB, Blocks


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"{size} {total} {limit}")
        self.size, self.total, self.limit = size, total, limit


class Memory:
    """As CuPy's: asks for memory when made and frees it in its finalizer."""

    def __init__(self, size: int, device: int, malloc: Any, free: Any) -> None:
        self.device_id, self.size, self._free, self.ptr = device, size, free, 0
        self.ptr = malloc(size, device)

    def __del__(self) -> None:
        if self.ptr:
            self._free(self.ptr, self.device_id)


class PythonFunctionAllocator:
    def __init__(self, malloc: Any, free: Any) -> None:
        self._functions = malloc, free

    def malloc(self, size: int) -> Memory:
        return Memory(size, 0, *self._functions)


class Stream:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class FakePool:
    emptied = 0

    def malloc(self, size: int) -> str:
        return f"{size} bytes of CuPy's own"

    def free_all_blocks(self) -> None:
        self.emptied += 1


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, with Drystone installed."""
    fake: Any = types.ModuleType("cupy")
    fake.pool = FakePool()
    fake.get_default_memory_pool = lambda: fake.pool
    fake.cuda = types.SimpleNamespace()
    fake.cuda.memory = types.SimpleNamespace(
        OutOfMemoryError=OutOfMemoryError, PythonFunctionAllocator=PythonFunctionAllocator
    )
    fake.current = fake.pool.malloc
    fake.cuda.get_allocator = lambda: fake.current
    fake.cuda.set_allocator = lambda allocator: setattr(fake, "current", allocator)
    fake.stream = Stream(0)
    fake.cuda.get_current_stream = lambda: fake.stream
    fake.cuda.runtime = types.SimpleNamespace(getDevice=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    drystone.cupy.install()
    yield fake
    drystone.cupy.uninstall()


def live() -> int:
    return drystone.stats()["allocated_bytes.all.current"]


def test_arrays_come_from_drystone_and_go_back(cupy: Any, blocks: Blocks) -> None:
    before = live()
    array = cupy.current(MIB)
    assert array.ptr % 512 == 0 and live() == before + MIB
    address = array.ptr
    del array
    assert live() == before
    assert cupy.current(MIB).ptr == address, "memory of the same stream is used again at once"


def test_another_stream_has_memory_of_its_own(cupy: Any, blocks: Blocks) -> None:
    first = cupy.current(MIB)
    address = first.ptr
    cupy.stream = Stream(0x100)
    other = cupy.current(MIB)
    assert other.ptr != address
    drystone.cupy.record_stream(types.SimpleNamespace(data=types.SimpleNamespace(mem=first)), cupy.stream)
    del first, other
    assert live() == 0
    drystone.cupy.end_stream(cupy.stream)


def test_out_of_memory_is_cupys_with_drystones_words(cupy: Any, blocks: Blocks) -> None:
    drystone.limit(64 * MIB)
    held = cupy.current(40 * MIB)
    for _ in range(3):
        with pytest.raises(OutOfMemoryError, match="out of memory on device 0") as caught:
            cupy.current(40 * MIB)
        assert caught.value.size == 40 * MIB and caught.value.limit == 64 * MIB
    del held, caught
    assert cupy.current(40 * MIB).ptr


def test_memory_in_reference_cycles_is_found(cupy: Any, blocks: Blocks) -> None:
    drystone.limit(64 * MIB)
    cycle: list[Any] = [cupy.current(40 * MIB)]
    cycle.append(cycle)
    del cycle
    assert cupy.current(40 * MIB).ptr


def test_install_and_uninstall(cupy: Any, blocks: Blocks) -> None:
    assert drystone.cupy.installed() and cupy.pool.emptied == 1
    ours = cupy.current
    drystone.cupy.install()
    assert cupy.current is ours
    array = cupy.current(MIB)
    drystone.cupy.uninstall()
    drystone.cupy.uninstall()
    assert not drystone.cupy.installed()
    assert cupy.current(5) == "5 bytes of CuPy's own"
    before = live()
    del array
    assert live() == before - MIB


def test_settings_that_come_too_late_are_an_error(cupy: Any) -> None:
    with pytest.raises(drystone.Error):
        drystone.cupy.install("limit:1GiB")
    with pytest.raises(drystone.Error):
        drystone.cupy.install("no_such_key:1")
