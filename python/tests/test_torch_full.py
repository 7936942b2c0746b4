"""PyTorch with the full adapter, over the simulated device: real PyTorch, with a CUDA that
computes nothing.

Each test is a program of its own, since a process changes its allocator once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import drystone.torch
import pytest
import torch_tools
from conftest import run_code
from torch_tools import Torch


def test_tensors_come_and_go(on_full: Torch) -> None:
    on_full(
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


def test_out_of_memory_is_torch_s_and_observers_hear_of_it(on_full: Torch) -> None:
    on_full(
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


def test_limits(on_full: Torch) -> None:
    on_full(
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


def test_pools_keep_apart(on_full: Torch) -> None:
    on_full(
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


def test_a_pool_goes_back_to_a_state(on_full: Torch) -> None:
    on_full(
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


def test_a_state_whose_place_is_taken_is_an_error_and_frees_nothing(on_full: Torch) -> None:
    on_full(
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


def test_recorded_streams_delay_reuse(on_full: Torch) -> None:
    on_full(
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


def test_what_cannot_be_done_says_so(on_full: Torch) -> None:
    on_full(
        """
        new(MIB)
        other = torch.cuda.memory.CUDAPluggableAllocator(str(drystone._library.path()),
                                                        "drystone_torch_alloc", "drystone_torch_free")
        assert "initialized" in raised(lambda: torch.cuda.memory.change_current_allocator(other))
        """
    )


def test_requests_go_past_the_cache_if_they_are_to(on_full: Torch) -> None:
    on_full(
        """
        new(MIB)
        def counted(size):
            before = torch.cuda.memory_stats()["requested_bytes.all.allocated"]
            pointer = torch._C._cuda_cudaCachingAllocator_raw_alloc(size, 0)
            torch._C._cuda_cudaCachingAllocator_raw_delete(pointer)
            return torch.cuda.memory_stats()["requested_bytes.all.allocated"] - before
        torch.cuda.caching_allocator_enable(False)
        assert counted(MIB) == 0
        block = new(3 * MIB)
        block.record_stream(torch.cuda.Stream())
        assert torch.cuda.memory_allocated() == 0
        torch.cuda.caching_allocator_enable(True)
        assert counted(MIB) == MIB
        del block
        assert new(3 * MIB).numel() == 3 * MIB
        """
    )


def test_settings_of_pinned_memory_are_torch_s_own(on_full: Torch) -> None:
    on_full(
        """
        new(MIB)
        def settings():
            return torch.cuda.memory._snapshot()["allocator_settings"]
        torch._C._accelerator_setAllocatorSettings(
            "pinned_use_cuda_host_register:True,pinned_num_register_threads:8,max_split_size_mb:64")
        assert settings()["pinned_use_cuda_host_register"] is True
        assert settings()["pinned_num_register_threads"] == 8
        assert settings()["max_split_size"] == 64 * MIB
        torch._C._accelerator_setAllocatorSettings("pinned_use_cuda_host_register:False")
        assert settings()["pinned_use_cuda_host_register"] is False and settings()["max_split_size"] == -1
        """
    )


def test_the_profiler_sees_memory(on_full: Torch) -> None:
    on_full(
        """
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            block = new(3 * MIB)
        used = [e.self_device_memory_usage for e in seen.events() if e.name == "aten::empty"]
        assert used == [3 * MIB], used
        """
    )


def test_after_cuda_is_in_use_it_says_so(on_full: Torch, adapter_cache: Path) -> None:
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
    on_full("")
    around = torch_tools.fake_cuda(adapter_cache) | {"DRYSTONE_CACHE": str(adapter_cache)}
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
