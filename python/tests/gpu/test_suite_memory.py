"""What PyTorch's own tests of its allocator check on a GPU: errors, limits, streams, settings, histories,
pools. docs/pytorch.md says which test stands for which of PyTorch's.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import json
import random
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch_fixtures import GIB, MIB, cap, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")


def new(size: int) -> "torch.Tensor":
    return torch.empty(size, dtype=torch.uint8, device="cuda")


@pytest.fixture
def settings() -> Iterator[Callable[[str], None]]:
    """Changes PyTorch's settings of the allocator; afterwards they are the defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch.cuda.memory._set_allocator_settings
        torch.cuda.memory._set_allocator_settings("pinned_use_cuda_host_register:False")


def test_errors_are_in_torch_s_words_and_disturb_no_kernel() -> None:
    tensor = torch.zeros(1024, device="cuda")
    with pytest.raises(RuntimeError, match="Tried to allocate 800000000.00 GiB. GPU 0 has a total capacity of"):
        new(800_000_000 * GIB)
    with pytest.raises(RuntimeError, match="Tried to allocate more than 1EB memory"):
        new(8_000_000_000 * GIB)
    seen: list[tuple[int, ...]] = []
    torch._C._cuda_attach_out_of_memory_observer(lambda *told: seen.append(told))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        new(4096 * GIB)
    assert len(seen) == 1 and seen[0][:2] == (0, 4096 * GIB)
    tensor.fill_(1)
    assert bool((tensor == 1).all())


def test_what_was_freed_serves_the_second_try() -> None:
    half = int(torch.cuda.get_device_properties(0).total_memory * 0.5)
    first = new(half)
    with pytest.raises(RuntimeError, match="Tried to allocate"):
        new(half)
    del first
    new(half)


def test_half_of_the_memory_is_allowed() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5, 0)
    assert torch.cuda.get_per_process_memory_fraction(0) == 0.5
    new(int(total * 0.499) - torch.cuda.max_memory_reserved())
    torch.cuda.empty_cache()
    with pytest.raises(RuntimeError, match="out of memory"):
        new(int(total * 0.5) + 2 * MIB)
    torch.cuda.set_per_process_memory_fraction(0.0)
    assert torch.cuda.get_per_process_memory_fraction() == 0.0


def test_a_recorded_stream_delays_reuse_and_then_does_not() -> None:
    source = torch.tensor([1.0, 2.0, 3.0, 4.0]).pin_memory()
    result = torch.empty(4, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        block = source.cuda(non_blocking=True)
    address = block.data_ptr()
    torch.cuda.current_stream().wait_stream(side)
    block.record_stream(torch.cuda.current_stream())
    torch.cuda._sleep(100_000_000)
    result.copy_(block)
    del block
    with torch.cuda.stream(side):
        early = torch.empty(4, device="cuda").zero_()
    assert early.data_ptr() != address
    assert result.tolist() == [1, 2, 3, 4]
    torch.cuda.current_stream().synchronize()
    with torch.cuda.stream(side):
        assert torch.empty(4, device="cuda").data_ptr() == address


def test_a_view_records_the_stream_of_its_block() -> None:
    own, other = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(own):
        base = torch.ones(100, device="cuda")
    view = base[5:]
    with torch.cuda.stream(other):
        torch.cuda._sleep(100_000_000)
    view.record_stream(other)
    address = base.data_ptr()
    del base, view
    own.synchronize()
    with torch.cuda.stream(own):
        assert torch.empty(100, device="cuda").data_ptr() != address


def test_recorded_blocks_come_back_before_memory_is_out() -> None:
    cap(4 * GIB)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        total = torch.zeros(40 * MIB, device="cuda")
    for _ in range(100):
        block = torch.ones(40 * MIB, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            total += block
        block.record_stream(side)
        del block
    side.synchronize()
    assert bool((total == 100).all())


def test_statistics_are_those_of_the_snapshot() -> None:
    random.seed(1)
    live: list[torch.Tensor] = []
    for _ in range(100):
        if live and random.random() < 0.45:
            live.pop(random.randrange(len(live)))
        else:
            live.append(torch.zeros(random.choice([4, 700, 40_000, MIB, MIB + 1, 21 * MIB]), device="cuda"))
        expected: collections.Counter[str] = collections.Counter()
        for segment in torch.cuda.memory_snapshot():
            for pool in ("all", segment["segment_type"] + "_pool"):
                expected[f"allocated_bytes.{pool}"] += segment["allocated_size"]
                expected[f"reserved_bytes.{pool}"] += segment["total_size"]
                expected[f"active_bytes.{pool}"] += segment["active_size"]
                expected[f"requested_bytes.{pool}"] += segment["requested_size"]
                states = [block["state"] for block in segment["blocks"]]
                expected[f"allocation.{pool}"] += states.count("active_allocated")
        stats = torch.cuda.memory_stats()
        assert {name: stats[name + ".current"] for name in expected} == expected
    before = torch.cuda.memory_stats()["num_sync_all_streams"]
    torch.cuda.empty_cache()
    assert torch.cuda.memory_stats()["num_sync_all_streams"] == before + 1


def test_settings_take_effect(settings: Callable[[str], None]) -> None:
    def active() -> int:
        return torch.cuda.memory_stats()["active_bytes.all.allocated"]

    for text, size in [
        ("roundup_power2_divisions:4", 96 * MIB),
        ("garbage_collection_threshold:0.5,max_split_size_mb:40", 84 * MIB),
        ("expandable_segments:True", 84 * MIB),
        ("roundup_power2_divisions:[64:8,128:2,256:2,512:2,1024:1,>:1]", 88 * MIB),
        ("release_lock_on_cudamalloc:True", 84 * MIB),
    ]:
        settings(text)
        before = active()
        torch.rand(21 * MIB, device="cuda")
        assert active() - before == size, text
    with pytest.raises(ValueError):
        settings("foo:1")
    settings("pinned_use_cuda_host_register:True,pinned_num_register_threads:8")
    assert torch.ones(1 << 21).pin_memory().is_pinned()


def test_frames_of_cpp_and_of_scripts(full: None) -> None:
    @torch.jit.script
    def scripted() -> torch.Tensor:
        return torch.rand(311, 411, device="cuda")

    for stacks, words in (("all", ["::rand"]), ("python", ["scripted"])):
        torch.cuda.memory._record_memory_history("state", stacks=stacks)
        kept = scripted()
        blocks = [b for s in torch.cuda.memory._snapshot()["segments"] for b in s["blocks"]]
        frames = [str(b["frames"]) for b in blocks if b["address"] == kept.data_ptr()]
        assert frames and all(word in frames[0] for word in words), frames
        torch.cuda.memory._record_memory_history(None)


def test_torch_draws_what_was_recorded(full: None) -> None:
    from torch.cuda._memory_viz import segment_plot, trace_plot

    for context, stacks in (("all", "all"), ("all", "python"), (None, "python")):
        torch.cuda.memory._record_memory_history("all", context=context, stacks=stacks)

        def baker() -> None:
            flour = torch.rand(128, 128, device="cuda")
            flour * flour + flour * flour

        baker()
        snapshot = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(None)
        # One of the plots takes events out of it.
        text = json.dumps(snapshot)
        trace_plot(snapshot)
        segment_plot(snapshot)
        trace_plot(snapshot, filter_freed=True)
        assert ("baker" in text) == (context is not None)
        assert ("::rand" in text) == (stacks == "all")
        assert str(128 * 128 * 4) in text


def test_random_allocations_keep_what_was_written() -> None:
    random.seed(123)
    live: list[tuple[int, torch.Tensor]] = []
    total = 0
    for count in range(2000):
        while total >= 100 * MIB:
            value, block = live.pop(random.randrange(len(live)))
            assert bool((block == value).all())
            total -= block.numel() * 4
        what = random.choices(["take", "give", "empty"], [1, 1 if live else 0, 0.1])[0]
        if what == "take":
            size = random.randrange(2 * MIB // 4, 20 * MIB // 4)
            live.append((count, torch.full((size,), count, dtype=torch.int32, device="cuda")))
            total += size * 4
        elif what == "give":
            value, block = live.pop(random.randrange(len(live)))
            assert bool((block == value).all())
            total -= block.numel() * 4
        else:
            torch.cuda.empty_cache()


def test_requests_go_past_the_cache_if_they_are_to(full: None) -> None:
    new(MIB)
    torch.cuda.caching_allocator_enable(False)
    try:
        before = torch.cuda.memory_stats()["requested_bytes.all.allocated"]
        block = torch.full((MIB,), 7, dtype=torch.uint8, device="cuda")
        assert bool((block == 7).all())
        assert torch.cuda.memory_stats()["requested_bytes.all.allocated"] == before
        del block
    finally:
        torch.cuda.caching_allocator_enable(True)
    new(MIB)
    assert torch.cuda.memory_stats()["requested_bytes.all.allocated"] == before + MIB


def test_a_pool_helps_out_and_another_does_not() -> None:
    idle, helps = torch.cuda.MemPool(), torch.cuda.MemPool(use_on_oom=True)
    cap(torch.cuda.memory_reserved() + 80 * MIB)
    with torch.cuda.use_mem_pool(idle):
        a = new(40 * MIB)
    with torch.cuda.use_mem_pool(helps):
        b = new(40 * MIB)
    address = b.data_ptr()
    del a, b
    c = new(30 * MIB)
    assert c.data_ptr() == address
    with pytest.raises(torch.OutOfMemoryError):
        new(30 * MIB)
    del c, idle, helps


PLUGIN = """
#include <stddef.h>
int cudaMalloc(void **, size_t);
int cudaFree(void *);
static int live;
void *plugin_alloc(size_t size, int device, void *stream) {
  void *made = NULL;
  (void)device, (void)stream;
  live += cudaMalloc(&made, size) == 0;
  return made;
}
void plugin_free(void *pointer, size_t size, int device, void *stream) {
  (void)size, (void)device, (void)stream;
  live -= cudaFree(pointer) == 0;
}
int plugin_live(void) { return live; }
"""


def test_a_pool_with_an_allocator_of_its_own(full: None, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "plugin.c", tmp_path / "plugin.so"
    source.write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    live = ctypes.CDLL(str(library)).plugin_live
    plugin = torch.cuda.memory.CUDAPluggableAllocator(str(library), "plugin_alloc", "plugin_free")
    pool = torch.cuda.MemPool(plugin.allocator(), use_on_oom=True)
    with torch.cuda.use_mem_pool(pool):
        blocks = [torch.full((MIB,), value, dtype=torch.uint8, device="cuda") for value in range(3)]
        large = torch.full((10 * MIB,), 9, dtype=torch.uint8, device="cuda")
    assert live() == 3 == len(pool.snapshot()) and pool.use_count() == 1
    assert all(bool((block == value).all()) for value, block in enumerate(blocks))
    assert bool((large == 9).all())
    del blocks, large
    cap(torch.cuda.memory_reserved() + 8 * MIB)
    assert new(10 * MIB).numel() == 10 * MIB, "the pool helps out"
    torch.cuda.synchronize()
    del pool
    gc.collect()
    torch.cuda.empty_cache()
    assert live() == 0
