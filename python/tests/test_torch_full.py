"""PyTorch with the full adapter, over the simulated device: real PyTorch, with a CUDA that
computes nothing.

Each test is a program of its own, since a process changes its allocator once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import drystone.torch
import pytest
import torch_tools
from conftest import run_code

Torch = Callable[..., str]

START = torch_tools.program_start("full")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapter, built ahead of time; skips where it cannot be built."""
    torch_tools.torch_folder()
    folder = tmp_path_factory.mktemp("cache")
    # Some compilers link C++'s library statically, and two of them in a process do not get on.
    compiler = folder / "c++"
    real = os.environ.get("CXX", "c++")
    compiler.write_text(f'#!/bin/sh\nexec {real} -static-libstdc++ -static-libgcc "$@"\n')
    compiler.chmod(0o755)
    built = subprocess.run(
        [sys.executable, "-m", "drystone.torch.adapter", "build"],
        env=os.environ | {"DRYSTONE_CACHE": str(folder), "CXX": str(compiler)},
        capture_output=True,
        text=True,
    )
    if "there is no C++ compiler" in built.stderr or "cuda_runtime_api.h" in built.stderr:
        pytest.skip(built.stderr)
    if "is known for" in built.stderr:
        pytest.skip(built.stderr)
    assert built.returncode == 0, built.stderr
    assert Path(built.stdout.strip()).parent == folder
    return folder


@pytest.fixture
def torch_program(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Torch:
    """Runs a piece of code with Drystone installed; what it printed."""
    around = torch_tools.fake_cuda(tmp_path_factory.mktemp("cuda")) | {"DRYSTONE_CACHE": str(cache)}

    def run(code: str, **environment: str) -> str:
        whole = START + textwrap.dedent(code)
        return run_code(whole, environment=around | environment).stdout

    return run


def test_tensors_come_and_go(torch_program: Torch) -> None:
    torch_program(
        """
        a, b, nothing = new(10 * MIB), new(100), new(0)
        assert a.data_ptr() % 512 == 0 and nothing.data_ptr() == 0
        assert torch.cuda.memory_allocated() == 10 * MIB + 512
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] == 10 * MIB + 100
        assert torch.cuda.get_allocator_backend() == "drystone"
        assert torch.accelerator.memory_allocated() == torch.cuda.memory_allocated()
        assert torch.accelerator.memory_stats() == torch.cuda.memory_stats()
        first = a.data_ptr()
        del a
        assert new(10 * MIB).data_ptr() == first
        raw = torch._C._cuda_cudaCachingAllocator_raw_alloc(3 * MIB, 0)
        assert torch.cuda.memory_allocated() == 3 * MIB + 512
        torch._C._cuda_cudaCachingAllocator_raw_delete(raw)
        del b
        assert torch.cuda.memory_allocated() == 0
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        stats = torch.cuda.memory_stats()
        assert stats["allocated_bytes.all.peak"] == 0 == stats["allocation.all.allocated"]
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 0 == torch.accelerator.memory_reserved()
        assert "Drystone" not in torch.cuda.memory_summary()
        """
    )


def test_out_of_memory_is_torch_s_and_observers_hear_of_it(torch_program: Torch) -> None:
    torch_program(
        """
        heard = []
        torch._C._cuda_attach_out_of_memory_observer(lambda *figures: heard.append(figures))
        kept = new(10 * MIB)
        for _ in range(1000):
            text = raised(lambda: new(200 << 30), torch.OutOfMemoryError)
        assert text.startswith("CUDA out of memory. Tried to allocate 200.00 GiB. GPU 0 has a total "), text
        assert "Drystone: out of memory on device 0" in text and "live 10.00 MiB" in text
        assert torch.cuda.memory_stats()["num_ooms"] == 1000 == len(heard)
        device, size, total, free = heard[0]
        assert (device, size, total) == (0, 200 << 30, 80 << 30) and 0 < free < total
        assert torch.cuda.memory_allocated() == 10 * MIB
        new(20 * MIB)
        """
    )


def test_limits(torch_program: Torch) -> None:
    torch_program(
        """
        assert torch.cuda.get_per_process_memory_fraction() == 1
        torch.cuda.set_per_process_memory_fraction(0.001)
        assert abs(torch.cuda.get_per_process_memory_fraction() - 0.001) < 1e-6
        limit = 80 * 1024 * MIB // 1000
        raised(lambda: new(limit + MIB), torch.OutOfMemoryError)
        new(limit - 4 * MIB)
        raised(lambda: torch.cuda.set_per_process_memory_fraction(1.5), ValueError)
        drystone.limit(2 << 30)
        assert torch.cuda.get_per_process_memory_fraction() == 2 / 80
        """
    )


def test_history_has_frames_contexts_and_order(torch_program: Torch) -> None:
    torch_program(
        """
        def baker():
            return new(3 * MIB)
        def eater(bread):
            del bread[0]
        before = new(MIB)
        torch.cuda.memory._record_memory_history(max_entries=100, stacks="python")
        assert torch._C._cuda_isHistoryEnabled()
        bread = [baker()]
        address = bread[0].data_ptr()
        eater(bread)
        kept = baker()
        raised(lambda: new(200 << 30), torch.OutOfMemoryError)
        snapshot = torch.cuda.memory._snapshot()
        trace = snapshot["device_traces"][0]
        of_block = [e for e in trace if e.get("addr") == address and not e["action"].startswith("seg")]
        assert [e["action"] for e in of_block] == [
            "alloc", "free_requested", "free_completed", "alloc"]
        names = [[frame["name"] for frame in e["frames"]] for e in of_block]
        assert "baker" in names[0] and "eater" in names[1] and "eater" in names[2]
        assert "baker" in names[3] and "eater" not in names[3]
        assert [e["action"] for e in trace].count("oom") == 1
        assert trace[-1]["action"] == "snapshot"
        times = [e["time_us"] for e in trace]
        assert times == sorted(times)
        import time
        assert abs(times[-1] / 1e6 - time.time()) < 60
        blocks = [b for s in snapshot["segments"] for b in s["blocks"]]
        by_address = {b["address"]: b for b in blocks}
        assert "baker" in [f["name"] for f in by_address[kept.data_ptr()]["frames"]]
        assert by_address[before.data_ptr()]["frames"] == []
        assert all(sum(b["size"] for b in s["blocks"]) == s["total_size"] for s in snapshot["segments"])
        # Off: what is live keeps its frames, and the trace is gone.
        torch.cuda.memory._record_memory_history(enabled=None)
        assert not torch._C._cuda_isHistoryEnabled()
        snapshot = torch.cuda.memory._snapshot()
        assert snapshot["device_traces"] == [[]]
        """
    )


def test_the_ring_is_bounded_and_actions_can_be_left_out(torch_program: Torch) -> None:
    torch_program(
        """
        torch.cuda.memory._record_memory_history(max_entries=7, stacks="python", skip_actions=["free_completed"])
        def maker():
            return new(MIB)
        for _ in range(50):
            block = maker()
            del block
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        assert 0 < len(trace) <= 7
        actions = {e["action"] for e in trace}
        assert "free_completed" not in actions and {"alloc", "free_requested"} <= actions
        assert all("maker" in [f["name"] for f in e["frames"]] for e in trace if e["action"] == "alloc")
        torch.cuda.memory._record_memory_history(max_entries=7, clear_history=True)
        assert torch.cuda.memory._snapshot()["device_traces"][0][0]["action"] == "snapshot"
        """
    )


def test_the_users_words_are_in_the_history(torch_program: Torch) -> None:
    torch_program(
        """
        torch.cuda.memory._record_memory_history(max_entries=100, global_record_annotations=True)
        torch.cuda.memory._set_memory_metadata("epoch 3")
        assert torch.cuda.memory._get_memory_metadata() == "epoch 3"
        block = new(MIB)
        torch.cuda.memory._set_memory_metadata("")
        other = new(MIB)
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        words = {e["addr"]: e["user_metadata"] for e in trace if e["action"] == "alloc"}
        assert words == {block.data_ptr(): "epoch 3", other.data_ptr(): ""}
        """
    )


def test_a_dumped_snapshot_is_one_that_drystone_reads(torch_program: Torch, tmp_path: Path) -> None:
    torch_program(
        f"""
        torch.cuda.memory._record_memory_history()
        block = new(3 * MIB)
        torch.cuda.memory._dump_snapshot({str(tmp_path / "snapshot.pickle")!r})
        import pickle
        with open({str(tmp_path / "snapshot.pickle")!r}, "rb") as file:
            snapshot = pickle.load(file)
        assert snapshot["segments"][0]["allocated_size"] == 3 * MIB
        settings = snapshot["allocator_settings"]
        assert settings["expandable_segments"] is True and settings["PYTORCH_CUDA_ALLOC_CONF"] == "slack:5"
        """,
        DRYSTONE_CONF="slack:5",
    )


def test_pools_keep_apart(torch_program: Torch) -> None:
    torch_program(
        """
        outside = new(4 * MIB)
        pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool):
            inside = new(4 * MIB)
            small = new(100)
        after = new(4 * MIB)
        own = {b["address"] for s in pool.snapshot() for b in s["blocks"]}
        assert inside.data_ptr() in own and small.data_ptr() in own
        assert outside.data_ptr() not in own and after.data_ptr() not in own
        assert pool.use_count() == 1
        of_pool = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == pool.id]
        assert sum(s["allocated_size"] for s in of_pool) == 4 * MIB + 512
        freed = inside.data_ptr()
        del inside, small
        assert new(4 * MIB).data_ptr() != freed
        with torch.cuda.use_mem_pool(pool):
            assert new(4 * MIB).data_ptr() == freed
        held = torch.cuda.memory_reserved()
        del pool
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() < held
        for options in [{"use_on_oom": True}, {"no_split": True}]:
            text = raised(lambda: torch.cuda.MemPool(**options))
            assert "Drystone" in text, text
        """
    )


CHECKPOINT = """
        handle = torch.cuda.graph_pool_handle()
        def begin():
            torch._C._cuda_beginAllocateCurrentThreadToPool(0, handle)
        def end():
            torch._C._cuda_endAllocateToPool(0, handle)
            torch._C._cuda_releasePool(0, handle)
        hold = torch._C._cuda_beginAllocateCurrentThreadToPool(0, handle)
        torch._C._cuda_endAllocateToPool(0, handle)
"""


def test_a_pool_goes_back_to_a_state(torch_program: Torch) -> None:
    torch_program(
        CHECKPOINT
        + """
        begin()
        sizes = [3 * MIB, 700, 40 * 1024, 9 * MIB + 5, MIB, 2 * MIB, 512]
        outputs = [new(size) for size in sizes]
        del outputs[5], outputs[1]
        end()
        addresses = [tensor.data_ptr() for tensor in outputs]
        assert torch._C._cuda_checkPoolLiveAllocations(0, handle, set(addresses))
        assert not torch._C._cuda_checkPoolLiveAllocations(0, handle, set(addresses[1:]))
        state = torch._C._cuda_getCheckpointState(0, handle)
        # The outputs die; another recording cuts the memory otherwise, and dies too.
        outputs.clear()
        begin()
        other = [new(size) for size in [9 * MIB, 2 * MIB, 5 * 1024]]
        end()
        del other
        assert torch._C._cuda_checkPoolLiveAllocations(0, handle, set())
        torch._C._cuda_setCheckpointPoolState(0, state, [], [])
        assert torch._C._cuda_checkPoolLiveAllocations(0, handle, set(addresses))
        # Going to where one is changes nothing.
        torch._C._cuda_setCheckpointPoolState(0, state, [], [])
        assert torch._C._cuda_checkPoolLiveAllocations(0, handle, set(addresses))
        begin()
        more = new(3 * MIB)
        end()
        assert more.data_ptr() not in addresses
        del more
        for address in addresses:
            torch._C._cuda_cudaCachingAllocator_raw_delete(address)
        assert torch._C._cuda_checkPoolLiveAllocations(0, handle, set())
        torch._C._cuda_releasePool(0, handle)
        """
    )


def test_a_state_whose_place_is_taken_is_an_error_and_frees_nothing(torch_program: Torch) -> None:
    torch_program(
        CHECKPOINT
        + """
        begin()
        output = new(3 * MIB)
        end()
        address = output.data_ptr()
        state = torch._C._cuda_getCheckpointState(0, handle)
        del output
        torch._C._cuda_releasePool(0, handle)
        torch.cuda.empty_cache()
        text = raised(lambda: torch._C._cuda_setCheckpointPoolState(0, state, [], []))
        assert "not free" in text, text
        assert torch.cuda.memory_allocated() == 0
        """
    )


PLUGIN = """
#include <stddef.h>
#include <stdint.h>
static int live;
static uintptr_t next = (uintptr_t)1 << 46;
void *plugin_alloc(size_t size, int device, void *stream) {
  (void)device, (void)stream;
  ++live;
  next += 2 * size;
  return (void *)next;
}
void plugin_free(void *pointer, size_t size, int device, void *stream) {
  (void)pointer, (void)size, (void)device, (void)stream;
  --live;
}
int plugin_live(void) { return live; }
"""


def test_a_pool_can_have_another_allocator(torch_program: Torch, tmp_path: Path) -> None:
    source, library = tmp_path / "plugin.c", tmp_path / "plugin.so"
    source.write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    torch_program(
        f"""
        import ctypes
        live = ctypes.CDLL({str(library)!r}).plugin_live
        plugin = torch.cuda.memory.CUDAPluggableAllocator({str(library)!r}, "plugin_alloc", "plugin_free")
        pool = torch.cuda.MemPool(plugin.allocator())
        outside = new(4 * MIB)
        before = torch.cuda.memory_allocated()
        with torch.cuda.use_mem_pool(pool):
            inside, other = new(4 * MIB), new(100)
        assert live() == 2 and torch.cuda.memory_allocated() == before
        assert {{s["total_size"] for s in pool.snapshot()}} == {{4 * MIB, 512}}
        address = inside.data_ptr()
        other.record_stream(torch.cuda.current_stream())
        inside.record_stream(torch.cuda.Stream())
        other_address = other.data_ptr()
        del inside, other
        assert live() == 2, "kept for the pool"
        after = new(100)
        assert after.data_ptr() != other_address
        with torch.cuda.use_mem_pool(pool):
            again, more = new(90), new(4 * MIB)
        assert again.data_ptr() == other_address
        assert more.data_ptr() != address, "another stream may be using it"
        assert live() == 3 and pool.use_count() == 1
        del pool
        assert live() == 2, "what is free went back"
        del again, more
        torch.cuda.empty_cache()
        assert live() == 0
        """
    )


def test_recorded_streams_delay_reuse(torch_program: Torch) -> None:
    torch_program(
        """
        side = torch.cuda.Stream()
        block = new(4 * MIB)
        block.record_stream(side)
        block.record_stream(torch.cuda.current_stream())
        new(0).record_stream(side)
        address = block.data_ptr()
        del block
        states = {b["state"] for s in torch.cuda.memory_snapshot() for b in s["blocks"] if b["address"] == address}
        assert states <= {"active_pending_free", "inactive"}, states
        with torch.cuda.stream(side):
            other = new(4 * MIB)
        of_side = [s for s in torch.cuda.memory_snapshot() if s["stream"] == side.cuda_stream]
        assert any(b["address"] == other.data_ptr() for s in of_side for b in s["blocks"])
        """
    )


def test_what_cannot_be_done_says_so(torch_program: Torch) -> None:
    torch_program(
        """
        new(MIB)
        assert "cannot go past the cache" in raised(lambda: torch.cuda.caching_allocator_enable(False))
        torch.cuda.caching_allocator_enable(True)
        text = raised(lambda: torch.cuda.memory._set_allocator_settings("expandable_segments:True"))
        assert "settings are fixed" in text
        other = torch.cuda.memory.CUDAPluggableAllocator(str(drystone._library.path()),
                                                        "drystone_torch_alloc", "drystone_torch_free")
        assert "initialized" in raised(lambda: torch.cuda.memory.change_current_allocator(other))
        """
    )


def test_the_profiler_sees_memory(torch_program: Torch) -> None:
    torch_program(
        """
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            block = new(3 * MIB)
        used = [e.self_device_memory_usage for e in seen.events() if e.name == "aten::empty"]
        assert used == [3 * MIB], used
        """
    )


def test_after_cuda_is_in_use_it_says_so(torch_program: Torch, cache: Path) -> None:
    code = """
    import torch
    torch.cuda.init()
    from drystone.torch import adapter
    try:
        adapter.install()
    except adapter.AdapterUnavailable as error:
        assert "in use already" in str(error)
    else:
        raise AssertionError("nothing was raised")
    """
    torch_program("")
    around = torch_tools.fake_cuda(cache) | {"DRYSTONE_CACHE": str(cache)}
    run_code(code, environment=around)


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    torch_tools.torch_folder()
    code = """
    from drystone.torch import adapter
    try:
        adapter.build()
    except adapter.AdapterUnavailable as error:
        print(error)
    """
    done = run_code(code, environment={"DRYSTONE_CACHE": str(tmp_path), "PATH": "", "CXX": ""})
    assert "there is no C++ compiler" in done.stdout or "is known for" in done.stdout


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    torch_tools.torch_folder()
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: nothing works' >&2\nexit 1\n")
    compiler.chmod(0o755)
    code = """
    from drystone.torch import adapter
    try:
        adapter.build()
    except adapter.AdapterUnavailable as error:
        print(error)
    """
    done = run_code(code, environment={"DRYSTONE_CACHE": str(tmp_path / "made"), "CXX": str(compiler)})
    if "cuda_runtime_api.h" in done.stdout or "is known for" in done.stdout:
        pytest.skip(done.stdout)
    assert "nothing works" in done.stdout and str(tmp_path / "made") in done.stdout
    assert done.stdout.count("\n") == 1


def test_descriptors_go_from_process_to_process(tmp_path: Path) -> None:
    torch = torch_tools.torch_folder()
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no c++")
    sources = Path(drystone.torch.__file__).with_name("csrc")
    program = tmp_path / "descriptors"
    subprocess.run(
        [
            compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-pthread",
            f"-isystem{torch / 'include'}", f"-I{sources}",
            str(torch_tools.SOURCES / "descriptors.cpp"), str(sources / "descriptors.cpp"),
            f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-o", str(program),
        ],
        check=True,
    )
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "fetched\n", done.stderr


def test_the_sources_have_no_warnings(tmp_path: Path) -> None:
    from drystone.torch import adapter

    try:
        headers = adapter._headers(torch_tools.torch_folder())
        compiler = adapter._compiler()
    except adapter.AdapterUnavailable as error:
        pytest.skip(str(error))
    include = [f"-isystem{folder}" for folder in headers]
    for source in sorted(adapter._SOURCES.glob("*.cpp")):
        command = [compiler, *adapter._FLAGS, "-O0", "-Werror", "-fsyntax-only", *include, str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
