"""What PyTorch's own tests of CUDA graphs and of checkpoints check of an allocator. docs/pytorch.md says
which test stands for which of PyTorch's.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from torch_fixtures import MIB, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")

SMALL, SMALL_SEGMENT, LARGE_SEGMENT = MIB, 2 * MIB, 20 * MIB
"""PyTorch's sizes: what counts as small, and its segments."""


def bytes_of(size: int) -> "torch.Tensor":
    return torch.ones([size], device="cuda", dtype=torch.uint8)


def segments_of(pool: tuple[int, int]) -> list[dict[str, Any]]:
    return [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == pool]


def live_in(pool: tuple[int, int]) -> int:
    blocks = [b for s in segments_of(pool) for b in s["blocks"]]
    return sum(block["state"] == "active_allocated" for block in blocks)


def captured(
    call: Callable[[], Any], pool: tuple[int, int] | None = None
) -> tuple["torch.cuda.CUDAGraph", Any]:
    """A graph of what the call does after one warm-up, and what it gave."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, pool=pool):
        out = call()
    return graph, out


def set_state(state: object, stale: Sequence[Any] = (), owners: Sequence[Any] = ()) -> None:
    storages = [[t.untyped_storage()._cdata for t in tensors] for tensors in (stale, owners)]
    torch._C._cuda_setCheckpointPoolState(0, state, *storages)


def test_out_of_memory_in_a_capture_is_said() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(2**40, device="cuda")
    graph, out = captured(lambda: torch.ones(1000, device="cuda") + 1)
    graph.replay()
    assert out.sum().item() == 2000


def test_each_stream_of_a_capture_has_its_segment() -> None:
    x = torch.randn(10_240_000, device="cuda")
    y = torch.rand_like(x)
    known = {s["segment_pool_id"] for s in torch.cuda.memory_snapshot()}
    graph, first, second = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.Stream()
    first.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(first):
        graph.capture_begin()
        z = x + y
    with torch.cuda.stream(second):
        second.wait_stream(first)
        z + y
    first.wait_stream(second)
    with torch.cuda.stream(first):
        graph.capture_end()
    of_graph = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] not in known]
    assert len({s["segment_pool_id"] for s in of_graph}) == 1
    assert len({s["stream"] for s in of_graph}) == 2
    del graph, z


def test_graphs_that_share_a_pool_share_its_memory() -> None:
    # The second graph of the pool uses what the first has freed; replayed out of order they show it.
    size, stream = 1000, torch.cuda.Stream()
    for shared in (False, True):
        a = torch.ones((size,), device="cuda")
        graphs = [torch.cuda.CUDAGraph() for _ in range(3)]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            pool = (torch.cuda.graph_pool_handle(),) if shared else ()
            graphs[0].capture_begin(*pool)
            b = a.clone()
            c, d = b + 1, b + 2
            graphs[0].capture_end()
            graphs[1].capture_begin(*pool)
            e = c + 3
            del c
            graphs[1].capture_end()
            graphs[2].capture_begin(*pool)
            f = d + 4
            graphs[2].capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        for graph in graphs:
            graph.replay()
        assert (e.sum().item(), f.sum().item()) == (size * 5, size * 7)
        for graph in (graphs[0], graphs[2], graphs[1]):
            graph.replay()
        assert e.sum().item() == size * (10 if shared else 5)
        torch.cuda.synchronize()
        del a, b, d, e, f, graph, graphs
        torch.cuda.empty_cache()


def test_a_result_outlives_its_graph() -> None:
    for size in (128, SMALL // 4, SMALL // 4 + 128, 10 * MIB // 4):
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            a = torch.ones((size,), device="cuda")
            graph.capture_begin()
            b = a.clone()
            for _ in range(5):
                b = b.clone() + 1
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        before = torch.cuda.memory_stats()["active_bytes.all.current"]
        for _ in range(2):
            graph.replay()
            assert b.sum().item() == 6 * size
            torch.cuda.empty_cache()
        del graph
        gc.collect()
        torch.cuda.empty_cache()
        assert b.sum().item() == 6 * size
        assert torch.cuda.memory_stats()["active_bytes.all.current"] <= before
        torch.cuda.synchronize()
        del a, b


def test_repeated_captures_take_no_more_memory() -> None:
    a, b = torch.rand((1024, 512), device="cuda"), torch.rand((512, 64), device="cuda")
    torch.mm(a, b)
    free = torch.cuda.mem_get_info()[0]
    for _ in range(100):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.mm(a, b)
        graph.replay()
    assert torch.cuda.mem_get_info()[0] > free - 100 * MIB
    del graph


def test_states_of_random_generators_are_the_only_extra_blocks() -> None:
    def active() -> tuple[int, int]:
        stats = torch.cuda.memory_stats()
        return stats["active.all.current"], stats["active_bytes.all.current"]

    generator = torch.cuda.default_generators[0]
    for count, states in ((1, 1), (3, 2), (10, 20)):
        before = active()
        graphs = [torch.cuda.CUDAGraph() for _ in range(count)]
        generators = [generator.graphsafe_get_state(), *(generator.clone_state() for _ in range(states - 1))]
        stream = torch.cuda.Stream()
        for graph in graphs:
            for state in generators:
                graph.register_generator_state(state)
            with torch.cuda.stream(stream):
                graph.capture_begin()
                torch.rand(1, device="cuda")
                graph.capture_end()
            torch.cuda.current_stream().wait_stream(stream)
            graph.replay()
        now = active()
        assert (now[0] - before[0], now[1] - before[1]) == (2 * states, 1024 * states)
        torch.cuda.synchronize()
        del graph, graphs, state, generators
        gc.collect()
        torch.cuda.empty_cache()
        assert active() == before


STATES: dict[str, Callable[[], Any]] = {
    "sums of small and large": lambda: (
        bytes_of(8 * SMALL),
        bytes_of(SMALL) + bytes_of(SMALL) + bytes_of(SMALL),
        bytes_of(SMALL),
    ),
    "one in the middle": lambda: [bytes_of(512) for _ in range(11)][5].add_(2),
    "two in the middle": lambda: [bytes_of(512) for _ in range(11)][5:9:3],
    "two side by side": lambda: [bytes_of(512) for _ in range(11)][5:7],
}


@pytest.mark.parametrize("name", STATES)
def test_going_to_the_state_of_now_changes_nothing(full: None, name: str) -> None:
    graph, out = captured(STATES[name])
    before = segments_of(graph.pool())
    set_state(torch._C._cuda_getCheckpointState(0, graph.pool()))
    after = {segment["address"]: segment for segment in segments_of(graph.pool())}
    for segment in before:
        for field in ("total_size", "allocated_size", "active_size", "segment_type", "segment_pool_id"):
            assert segment[field] == after[segment["address"]][field], field
        pairs = zip(segment["blocks"], after[segment["address"]]["blocks"], strict=True)
        assert all((a["size"], a["state"]) == (b["size"], b["state"]) for a, b in pairs)
    del graph, out


def test_what_came_after_a_state_is_freed_with_it(full: None) -> None:
    graph, out = captured(lambda: (bytes_of(512),))
    before = live_in(graph.pool())
    state = torch._C._cuda_getCheckpointState(0, graph.pool())
    second, later = captured(lambda: (bytes_of(512),), pool=graph.pool())
    set_state(state, stale=later)
    del later
    assert live_in(graph.pool()) == before
    del graph, second, out


def test_a_state_brings_blocks_back_that_died(full: None) -> None:
    graph, out = captured(lambda: (bytes_of(512), bytes_of(512)))
    pool = graph.pool()
    state = torch._C._cuda_getCheckpointState(0, pool)
    addresses = [tensor.data_ptr() for tensor in out]
    del out
    set_state(state)
    for left, address in zip((2, 1), addresses):
        assert live_in(pool) == left
        torch._C._cuda_cudaCachingAllocator_raw_delete(address)
    assert live_in(pool) == 0
    del graph


def test_tensors_can_own_the_blocks_of_a_state(full: None) -> None:
    x = torch.tensor([1], device="cuda")
    sizes = (SMALL_SEGMENT, SMALL_SEGMENT, LARGE_SEGMENT)
    graph, out = captured(lambda: [bytes_of(size) + x for size in sizes])
    pool = graph.pool()
    graph.replay()
    state = torch._C._cuda_getCheckpointState(0, pool)
    addresses = [tensor.untyped_storage().data_ptr() for tensor in out]
    shapes = [(t.untyped_storage().nbytes(), t.dtype, t.size(), t.stride()) for t in out]
    assert live_in(pool) == 3
    del out
    assert live_in(pool) == 0
    again: list[Any] = []
    for address, (size, dtype, shape, stride) in zip(addresses, shapes):
        storage = torch._C._construct_storage_from_data_pointer(address, torch.device("cuda", 0), size)
        again.append(torch.empty([0], device="cuda", dtype=dtype).set_(storage, 0, shape, stride))
    x.add_(1)
    graph.replay()
    assert all(bool((tensor == 3).all()) for tensor in again)
    set_state(state, owners=again[:2])
    for left, which in ((3, 0), (2, 1), (1, 2)):
        assert live_in(pool) == left
        again[which] = None
    assert live_in(pool) == 1, "the last was given no owner"
    torch._C._cuda_cudaCachingAllocator_raw_delete(addresses[2])
    assert live_in(pool) == 0
    del graph


def test_live_blocks_of_a_pool_are_known(full: None) -> None:
    pool = torch.cuda.graph_pool_handle()
    graph, out = captured(lambda: torch.ones([4], device="cuda"), pool=pool)

    def check(addresses: set[int]) -> bool:
        return bool(torch._C._cuda_checkPoolLiveAllocations(0, pool, addresses))

    assert check({out.data_ptr()})
    assert not check({out.data_ptr(), 0}) and not check(set())
    del out
    assert check(set())
    del graph


def test_a_thread_allocates_in_a_graph_s_pool_and_others_do_not() -> None:
    pool = torch.cuda.graph_pool_handle()
    graph, out = captured(lambda: torch.rand([4], device="cuda"), pool=pool)
    del out
    held = len(segments_of(pool))
    assert held == 1

    @contextlib.contextmanager
    def in_pool() -> Iterator[None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch._C._cuda_beginAllocateCurrentThreadToPool(0, pool)
            try:
                yield
            finally:
                torch._C._cuda_endAllocateToPool(0, pool)
                torch._C._cuda_releasePool(0, pool)
        torch.cuda.current_stream().wait_stream(stream)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            a, b = bytes_of(LARGE_SEGMENT), bytes_of(LARGE_SEGMENT)
            del a, b

    def pooled() -> None:
        with in_pool():
            work(10)
        work(1)

    threads = [threading.Thread(target=pooled), threading.Thread(target=work, args=(10,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = sum(segment["total_size"] for segment in segments_of(pool))
    assert 2 * LARGE_SEGMENT <= used <= 4 * LARGE_SEGMENT
    del graph
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    assert segments_of(pool) == []
