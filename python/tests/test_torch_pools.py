"""Options of ``torch.cuda.MemPool``, over the simulated device: pools that serve others before they fail,
pools whose blocks are not split, pools with another allocator.
"""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest
import torch_tools
from conftest import run_code
from torch_tools import Torch

PLUGIN = """
#include <stddef.h>
#include <stdint.h>
static int live;
static uintptr_t next = (uintptr_t)1 << 46;
void *plugin_alloc(size_t size, int device, void *stream) {
  (void)device, (void)stream;
  ++live;
  void *made = (void *)next;
  next += 2 * size;
  return made;
}
void plugin_free(void *pointer, size_t size, int device, void *stream) {
  (void)pointer, (void)size, (void)device, (void)stream;
  --live;
}
int plugin_live(void) { return live; }
"""



@pytest.fixture
def with_plugin(adapter_cache: Path, tmp_path: Path) -> Torch:
    """Runs a piece of code under the full adapter, with an allocator of the test's own: ``plugin``, and
    ``live()``, how many segments it has handed out."""
    source, library = tmp_path / "plugin.c", tmp_path / "plugin.so"
    source.write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    around = torch_tools.fake_cuda(tmp_path) | {"DRYSTONE_CACHE": str(adapter_cache)}
    start = f"""
import ctypes
live = ctypes.CDLL({str(library)!r}).plugin_live
path = {str(library)!r}
plugin = torch.cuda.memory.CUDAPluggableAllocator(path, "plugin_alloc", "plugin_free").allocator()
def cap(size):
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])
"""

    def run(code: str, **environment: str) -> str:
        whole = torch_tools.program_start("full") + start + textwrap.dedent(code)
        return run_code(whole, environment=around | environment).stdout

    return run


def test_a_pool_serves_others_before_they_fail(on_either_way: Torch) -> None:
    on_either_way(
        """
        idle, helps = torch.cuda.MemPool(), torch.cuda.MemPool(use_on_oom=True)
        torch.cuda.set_per_process_memory_fraction(80 * MIB / torch.cuda.mem_get_info()[1])
        with torch.cuda.use_mem_pool(idle):
            a = new(40 * MIB)
        with torch.cuda.use_mem_pool(helps):
            b = new(40 * MIB)
        address = b.data_ptr()
        raised(lambda: new(40 * MIB), torch.OutOfMemoryError)
        del a, b
        c = new(30 * MIB)
        assert c.data_ptr() == address
        raised(lambda: new(30 * MIB), torch.OutOfMemoryError)
        del c
        with torch.cuda.use_mem_pool(helps):
            assert new(20 * MIB).data_ptr() == address
        """
    )


def test_blocks_of_a_pool_have_segments_of_their_own(on_either_way: Torch) -> None:
    on_either_way(
        """
        packed, whole = torch.cuda.MemPool(), torch.cuda.MemPool(no_split=True)
        sizes, blocks = [4 * MIB, 512, 512, 3 * MIB, 4 * MIB], []
        for pool in (packed, whole):
            with torch.cuda.use_mem_pool(pool):
                blocks += [new(size) for size in sizes]
        assert len(whole.snapshot()) > len(packed.snapshot())
        assert all(len(segment["blocks"]) == 1 for segment in whole.snapshot())
        assert sorted(s["total_size"] // MIB for s in whole.snapshot()) == [2, 2, 4, 4, 4]
        """
    )


def test_pools_within_pools(on_either_way: Torch) -> None:
    on_either_way(
        """
        pools = [torch.cuda.MemPool() for _ in range(3)]
        kept = []
        def take():
            kept.append(new(20 * MIB))
        with torch.cuda.use_mem_pool(pools[0]):
            take()
            with torch.cuda.use_mem_pool(pools[1]):
                take()
                with torch.cuda.use_mem_pool(pools[2]):
                    take()
                take()
            take()
        used = [sum(s["allocated_size"] for s in pool.snapshot()) for pool in pools]
        assert used == [40 * MIB, 40 * MIB, 20 * MIB]
        """
    )


def test_emptying_the_cache_leaves_pools_that_are_held(on_either_way: Torch) -> None:
    on_either_way(
        """
        import threading
        pools = [torch.cuda.MemPool() for _ in range(4)]
        assert len({pool.id for pool in pools}) == 4 and all(pool.id[0] == 0 for pool in pools)
        def work(pool):
            with torch.cuda.use_mem_pool(pool):
                block = new(16)
                del block
                torch.cuda.empty_cache()
        threads = [threading.Thread(target=work, args=(pool,)) for pool in pools]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert [len(pool.snapshot()) for pool in pools] == [1] * 4
        """
    )


def test_a_pool_can_have_another_allocator(with_plugin: Torch) -> None:
    with_plugin(
        """
        pool = torch.cuda.MemPool(plugin)
        assert pool.use_count() == 1
        outside = new(4 * MIB)
        before, held = torch.cuda.memory_allocated(), drystone.reserved()
        with torch.cuda.use_mem_pool(pool):
            inside, other = new(4 * MIB), new(100)
            assert pool.use_count() == 2
        assert live() == 2 and torch.cuda.memory_allocated() == before
        assert drystone.reserved() == held + 22 * MIB, "it counts against the limit"
        assert {s["total_size"] for s in pool.snapshot()} == {20 * MIB, 2 * MIB}
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
        assert more.data_ptr() == address + 4 * MIB, "another stream may be using the block before it"
        assert live() == 2 and pool.use_count() == 1
        del pool, plugin
        assert live() == 2, "what is live stays"
        del again, more, after
        torch.cuda.empty_cache()
        assert live() == 0 and drystone.reserved() == held
        """
    )


def test_what_a_graph_holds_of_another_allocator_stays(with_plugin: Torch) -> None:
    with_plugin(
        """
        pool = torch.cuda.MemPool(plugin)
        # As a capture does: a scope that is not released while its graph lives.
        torch._C._cuda_beginAllocateCurrentThreadToPool(0, pool.id)
        new(4 * MIB)
        torch._C._cuda_endAllocateToPool(0, pool.id)
        held = pool.id
        del pool
        torch.cuda.empty_cache()
        assert live() == 1, "the graph replays over it"
        torch._C._cuda_releasePool(0, held)
        assert live() == 0
        """
    )


def test_the_innermost_pool_serves(with_plugin: Torch) -> None:
    with_plugin(
        """
        theirs, own = torch.cuda.MemPool(plugin), torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(theirs):
            with torch.cuda.use_mem_pool(own):
                block = new(4 * MIB)
            assert live() == 0
            other = new(4 * MIB)
        assert live() == 1
        addresses = [b["address"] for s in own.snapshot() for b in s["blocks"]]
        assert block.data_ptr() in addresses and other.data_ptr() not in addresses
        """
    )


def test_small_blocks_of_another_allocator_share_segments(with_plugin: Torch) -> None:
    with_plugin(
        """
        pool = torch.cuda.MemPool(plugin)
        segments = []
        with torch.cuda.use_mem_pool(pool):
            blocks = []
            for _ in range(3):
                blocks.append(new(MIB))
                segments.append(len(pool.snapshot()))
            assert segments == [1, 1, 2]
            first = blocks[0].data_ptr()
            del blocks[:2]
            assert new(MIB + 1).data_ptr() != first, "that is not small"
            new(512)
            assert live() == 3
        blocks.clear()
        del pool
        assert live() == 0
        """
    )


def test_another_allocator_is_bounded_and_helps_out(with_plugin: Torch) -> None:
    with_plugin(
        """
        idle = torch.cuda.MemPool(plugin)
        helps = torch.cuda.MemPool(plugin, use_on_oom=True)
        cap(80 * MIB)
        with torch.cuda.use_mem_pool(idle):
            a = new(40 * MIB)
        with torch.cuda.use_mem_pool(helps):
            b = new(40 * MIB)
            text = raised(lambda: new(40 * MIB), torch.OutOfMemoryError)
        assert "limit" in text, text
        address = b.data_ptr()
        raised(lambda: new(40 * MIB), torch.OutOfMemoryError)
        del a, b
        c = new(30 * MIB)
        assert c.data_ptr() == address
        raised(lambda: new(30 * MIB), torch.OutOfMemoryError)
        del c
        with torch.cuda.use_mem_pool(helps):
            assert new(20 * MIB).data_ptr() == address
        del helps, idle
        assert live() == 0
        cap(40 * MIB)
        for _ in range(10):
            pool = torch.cuda.MemPool(plugin, use_on_oom=True)
            with torch.cuda.use_mem_pool(pool):
                new(40 * MIB)
            del pool
        pool = torch.cuda.MemPool(plugin, use_on_oom=True)
        with torch.cuda.use_mem_pool(pool):
            new(40 * MIB)
        b, c = new(20 * MIB), new(20 * MIB)
        """
    )


def test_another_allocator_without_splitting(with_plugin: Torch) -> None:
    with_plugin(
        """
        pool = torch.cuda.MemPool(plugin, no_split=True)
        with torch.cuda.use_mem_pool(pool):
            blocks = [new(4 * MIB), new(4 * MIB), new(512)]
        assert [len(segment["blocks"]) for segment in pool.snapshot()] == [1, 1, 1] and live() == 3
        """
    )
