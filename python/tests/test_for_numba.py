"""The memory manager for Numba, with a stand-in for Numba on the simulated device. What needs a GPU is
in ``tests/libraries``."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import drystone
import drystone.numba
from conftest import MIB, Blocks


class CudaAPIError(RuntimeError):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class MemoryInfo(NamedTuple):
    free: int
    total: int


class MemoryPointer:
    def __init__(self, context: Any, pointer: ctypes.c_void_p, size: int, finalizer: Any) -> None:
        self.device_pointer_value = pointer.value
        self.size = size
        weakref.finalize(self, finalizer)

    @property
    def owner(self) -> MemoryPointer:
        return self


class Deallocations:
    """As Numba's: what is given up waits until there are more than ten."""

    def __init__(self) -> None:
        self.items: list[tuple[Any, int]] = []
        self.memory_capacity = 0
        self.disabled = False

    def add_item(self, free: Any, handle: int, size: int) -> None:
        self.items.append((free, handle))
        if len(self.items) > 10:
            self.clear()

    def clear(self) -> None:
        while self.items and not self.disabled:
            free, handle = self.items.pop(0)
            free(handle)


class HostOnlyCUDAMemoryManager:
    def __init__(self, context: Any) -> None:
        self.context = context
        self.deallocations = Deallocations()

    def _attempt_allocation(self, allocate: Any) -> int:
        try:
            return int(allocate())
        except CudaAPIError as error:
            assert error.code == 2
            self.deallocations.clear()
            return int(allocate())

    def reset(self) -> None:
        self.deallocations.clear()

    @contextlib.contextmanager
    def defer_cleanup(self) -> Iterator[None]:
        self.deallocations.disabled = True
        yield
        self.deallocations.disabled = False


class GetIpcHandleMixin:
    fails = False

    def get_ipc_handle(self, memory: Any) -> str:
        if self.fails:
            raise CudaAPIError(1, "invalid value")
        return f"handle of {memory.size} bytes"


class Context:
    """A context of device 0, which counts how often it was waited for."""

    def __init__(self) -> None:
        self.device = types.SimpleNamespace(id=0)
        self.waits = 0
        self.memory_manager: Any = None

    def synchronize(self) -> None:
        self.waits += 1


@pytest.fixture
def numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in; its ``manager`` is what was set."""
    names = ("numba", "numba.cuda", "numba.cuda.cudadrv", "numba.cuda.cudadrv.driver")
    fake = {name: types.ModuleType(name) for name in names}
    for name, module in fake.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(fake[parent], last, module)
    cuda: Any = fake["numba.cuda"]
    for part in (HostOnlyCUDAMemoryManager, GetIpcHandleMixin, MemoryPointer, MemoryInfo):
        setattr(cuda, part.__name__, part)
    cuda.set_memory_manager = lambda manager: setattr(cuda, "manager", manager)
    driver: Any = fake["numba.cuda.cudadrv.driver"]
    driver.CudaAPIError = CudaAPIError
    driver.driver = types.SimpleNamespace(devices={})
    drystone.numba._manager.cache_clear()
    yield fake["numba"]
    drystone.numba._manager.cache_clear()


@pytest.fixture
def context(numba: Any, blocks: Blocks) -> Iterator[Context]:
    """A context with the memory manager that was installed."""
    drystone.numba.install()
    made = Context()
    made.memory_manager = numba.cuda.manager(context=made)
    made.memory_manager.initialize()
    yield made
    made.memory_manager.reset()


def live() -> int:
    return drystone.stats()["allocated_bytes.all.current"]


def test_arrays_are_given_back_after_one_wait(context: Context) -> None:
    manager = context.memory_manager
    arrays = [manager.memalloc(MIB) for _ in range(11)]
    assert live() == 11 * MIB and arrays[0].size == MIB
    arrays.pop()
    assert live() == 11 * MIB and context.waits == 0, "work on any stream may still use it"
    arrays.clear()
    assert live() == 0 and context.waits == 1


def test_no_cleanup_where_numba_defers_it(context: Context) -> None:
    manager = context.memory_manager
    with manager.defer_cleanup():
        for _ in range(20):
            manager.memalloc(MIB)
        assert live() == 20 * MIB and context.waits == 0


def test_on_the_default_stream_alone_nothing_is_waited_for(context: Context) -> None:
    drystone.numba.install(stream_ordered=True)
    array = context.memory_manager.memalloc(MIB)
    address = array.device_pointer_value
    del array
    assert live() == 0 and context.waits == 0
    assert context.memory_manager.memalloc(MIB).device_pointer_value == address


def test_out_of_memory_is_numbas_with_drystones_words(context: Context) -> None:
    drystone.limit(64 * MIB)
    manager = context.memory_manager
    held = manager.memalloc(40 * MIB)
    with pytest.raises(CudaAPIError, match="out of memory on device 0") as caught:
        manager.memalloc(40 * MIB)
    assert caught.value.code == 2
    del held, caught
    assert manager.memalloc(40 * MIB).size == 40 * MIB, "what was given up is taken back first"


def test_memory_info_and_version(context: Context) -> None:
    info = context.memory_manager.get_memory_info()
    assert info == drystone.memory_info(0)
    assert context.memory_manager.deallocations.memory_capacity == info.total
    assert context.memory_manager.interface_version == 1


def test_a_reset_frees_everything_once(context: Context) -> None:
    array = context.memory_manager.memalloc(MIB)
    context.memory_manager.reset()
    assert live() == 0 and drystone.reserved(0) == 0
    del array
    context.memory_manager.deallocations.clear()


def test_memory_for_other_processes_is_pinned(context: Context) -> None:
    manager = context.memory_manager
    array = manager.memalloc(4 * MIB)
    assert manager.get_ipc_handle(array) == f"handle of {4 * MIB} bytes"
    assert manager.get_ipc_handle(array) == f"handle of {4 * MIB} bytes"
    del array
    manager.deallocations.clear()
    assert live() == 0
    drystone.empty_cache()
    assert drystone.reserved(0) == 0, "it is pinned no more"


def test_mapped_memory_has_no_handle(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GetIpcHandleMixin, "fails", True)
    array = context.memory_manager.memalloc(MIB)
    with pytest.raises(drystone.Error, match="set backing:malloc"):
        context.memory_manager.get_ipc_handle(array)


def test_install_is_refused_once_numba_has_memory_of_its_own(numba: Any) -> None:
    used = types.SimpleNamespace(id=1, primary_context=types.SimpleNamespace(memory_manager=None))
    unused = types.SimpleNamespace(id=0, primary_context=None)
    numba.cuda.cudadrv.driver.driver.devices = {0: unused, 1: used}
    with pytest.raises(drystone.Error, match="device 1 already"):
        drystone.numba.install()


def test_numba_finds_the_manager_by_the_modules_name(numba: Any) -> None:
    assert issubclass(drystone.numba._numba_memory_manager, HostOnlyCUDAMemoryManager)
    with pytest.raises(AttributeError):
        drystone.numba.no_such_name
