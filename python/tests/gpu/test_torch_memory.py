"""What torch.cuda and torch.accelerator say of memory and do to it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from torch_fixtures import GIB, MIB, cap, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")


def new(size: int, **options: object) -> "torch.Tensor":
    return torch.empty(size, dtype=torch.uint8, device="cuda", **options)


def test_figures_follow_tensors() -> None:
    before, held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    block = new(10 * MIB)
    assert torch.cuda.memory_allocated() == before + 10 * MIB
    assert torch.cuda.memory_reserved() >= held + 10 * MIB
    assert torch.cuda.max_memory_allocated() == before + 10 * MIB
    del block
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() == before + 10 * MIB
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == before
    torch.cuda.reset_accumulated_memory_stats()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == 0
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == held


def test_every_key_of_the_statistics_is_there() -> None:
    new(MIB)
    stats = torch.cuda.memory_stats()
    figures = [
        "allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes",
        "active_bytes", "inactive_split_bytes", "requested_bytes",
    ]
    for figure in figures:
        for kind in ("all", "small_pool", "large_pool"):
            for what in ("current", "peak", "allocated", "freed"):
                assert f"{figure}.{kind}.{what}" in stats
        for what in ("current", "allocated", "freed"):
            small, large = (stats[f"{figure}.{kind}.{what}"] for kind in ("small_pool", "large_pool"))
            assert stats[f"{figure}.all.{what}"] == small + large, (figure, what)
    for count in ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free", "max_split_size"):
        assert count in stats
    assert "Allocated memory" in torch.cuda.memory_summary()
    assert "Allocated memory" in torch.cuda.memory_summary(abbreviated=True)


def test_accelerator_says_the_same() -> None:
    block = new(5 * MIB)
    assert torch.accelerator.memory_allocated() == torch.cuda.memory_allocated()
    assert torch.accelerator.max_memory_allocated() == torch.cuda.max_memory_allocated()
    assert torch.accelerator.memory_reserved() == torch.cuda.memory_reserved()
    assert torch.accelerator.max_memory_reserved() == torch.cuda.max_memory_reserved()
    assert torch.accelerator.memory_stats() == torch.cuda.memory_stats()
    assert torch.accelerator.get_memory_info() == torch.cuda.mem_get_info()
    del block
    torch.accelerator.reset_peak_memory_stats()
    torch.accelerator.reset_accumulated_memory_stats()
    torch.accelerator.empty_cache()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == 0


def test_empty_cache_gives_memory_back_to_the_device() -> None:
    free = torch.cuda.mem_get_info()[0]
    block = new(GIB)
    assert torch.cuda.mem_get_info()[0] <= free - GIB
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] > free - 64 * MIB


def test_raw_blocks() -> None:
    before = torch.cuda.memory_allocated()
    pointer = torch.cuda.caching_allocator_alloc(3 * MIB)
    assert torch.cuda.memory_allocated() == before + 3 * MIB
    torch.cuda.caching_allocator_delete(pointer)
    assert torch.cuda.memory_allocated() == before


def test_a_fraction_is_a_bound() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.01)
    assert abs(torch.cuda.get_per_process_memory_fraction() - 0.01) < 1e-4
    with pytest.raises(torch.OutOfMemoryError):
        new(int(total * 0.011))
    new(int(total * 0.005))


def test_a_thousand_times_out_of_memory_and_on(full: None) -> None:
    cap(2 * GIB)
    kept = torch.full((256, MIB), 7, dtype=torch.uint8, device="cuda")
    seen: list[tuple[int, ...]] = []
    torch._C._cuda_attach_out_of_memory_observer(lambda *figures: seen.append(figures))
    before = torch.cuda.memory_allocated()
    failures = 0
    for round_ in range(1000):
        batch = 4096
        while True:
            try:
                work = torch.empty(batch, MIB, dtype=torch.uint8, device="cuda")
                work[0].fill_(round_ % 251)
                assert work[0].max().item() == round_ % 251
                del work
                break
            except torch.OutOfMemoryError as error:
                assert "CUDA out of memory" in str(error)
                batch //= 2
                failures += 1
    assert failures >= 1000 and len(seen) == failures
    assert torch.cuda.memory_allocated() == before
    assert bool((kept == 7).all())


def test_training_goes_on_after_out_of_memory() -> None:
    cap(1 * GIB)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 1024)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    batch, failures, steps = 1 << 17, 0, 0
    while steps < 20:
        optimizer.zero_grad(set_to_none=True)
        try:
            model(torch.randn(batch, 1024, device="cuda")).square().mean().backward()
        except torch.OutOfMemoryError:
            failures += 1
            batch //= 2
            continue
        optimizer.step()
        steps += 1
    assert failures > 0
    assert torch.cuda.max_memory_reserved() <= 1 * GIB


def test_snapshots_and_history_have_frames(tmp_path: Path) -> None:
    def baker() -> "torch.Tensor":
        return new(3 * MIB)

    torch.cuda.memory._record_memory_history(max_entries=1000, stacks="python")
    bread = baker()
    address = bread.data_ptr()
    torch.cuda.memory._dump_snapshot(str(tmp_path / "snapshot.pickle"))
    snapshot = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())
    block = next(
        b for s in snapshot["segments"] for b in s["blocks"] if b["address"] == address
    )
    assert block["state"] == "active_allocated" and block["requested_size"] == 3 * MIB
    trace = snapshot["device_traces"][0]
    assert [e["action"] for e in trace if e.get("addr") == address][-1] == "alloc"
    assert set(torch.cuda.memory_snapshot()[0]) >= {"address", "blocks", "total_size", "stream"}


def test_frames_of_python_are_recorded(full: None) -> None:
    def baker() -> "torch.Tensor":
        return new(3 * MIB)

    torch.cuda.memory._record_memory_history(max_entries=1000, stacks="python")
    bread = baker()
    trace = torch.cuda.memory._snapshot()["device_traces"][0]
    alloc = next(e for e in trace if e["action"] == "alloc" and e["addr"] == bread.data_ptr())
    assert "baker" in [frame["name"] for frame in alloc["frames"]]


def test_pools() -> None:
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = torch.full((4 * MIB,), 3, dtype=torch.uint8, device="cuda")
    outside = torch.full((4 * MIB,), 5, dtype=torch.uint8, device="cuda")
    assert bool((inside == 3).all()) and bool((outside == 5).all())
    own = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == pool.id]
    assert any(s["address"] <= inside.data_ptr() < s["address"] + s["total_size"] for s in own)
    assert not any(s["address"] <= outside.data_ptr() < s["address"] + s["total_size"] for s in own)
    del inside, outside, pool
