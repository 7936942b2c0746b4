"""CUDA graphs: capture, replay, graphed callables, reduce-overhead compile, under a cap too; the memory of
a graph is nobody else's."""

from __future__ import annotations

import gc
import os

import pytest
from torch_fixtures import GIB, MIB, cap, clean, full, installed  # noqa: F401

torch = pytest.importorskip("torch")


def model(width: int = 512) -> "torch.nn.Module":
    torch.manual_seed(0)
    layers = [torch.nn.Linear(width, 4 * width), torch.nn.GELU(), torch.nn.Linear(4 * width, width)]
    return torch.nn.Sequential(*layers).cuda()


def warmed(call: "object") -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)


def churn(rounds: int) -> None:
    """Takes and gives memory of many sizes, and writes all over it."""
    kept = []
    for round_ in range(rounds):
        size = (1 + round_ * 37 % 61) * MIB // 2 + 512 * (round_ % 5)
        kept.append(torch.full((size,), 255, dtype=torch.uint8, device="cuda"))
        if len(kept) > 12:
            del kept[round_ % 12]
    del kept
    torch.cuda.empty_cache()


@pytest.mark.parametrize("capped", [False, True])
def test_a_graph_replays_what_was_captured(capped: bool) -> None:
    if capped:
        cap(1 * GIB)
    net = model().eval()
    static = torch.zeros(256, 512, device="cuda")
    with torch.no_grad():
        warmed(lambda: net(static))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = net(static)
        for seed in range(20):
            torch.manual_seed(seed)
            value = torch.randn(256, 512, device="cuda")
            static.copy_(value)
            churn(30)
            graph.replay()
            torch.testing.assert_close(out, net(value))
    del graph, out


def test_a_graphs_memory_is_touched_by_nobody() -> None:
    # The graph writes a stamp into memory of its own in one launch and checks it in another, with
    # other work between; what it freed inside the capture is its own too.
    stamp = torch.zeros(1, dtype=torch.int32, device="cuda")
    pool = torch.cuda.graph_pool_handle()
    write, check = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(write, pool=pool):
        scratch = torch.ones(8 * MIB, dtype=torch.int32, device="cuda")
        kept = scratch * stamp
        del scratch
    with torch.cuda.graph(check, pool=pool):
        wrong = (kept != stamp).sum()
    for round_ in range(20):
        stamp.fill_(round_ + 1)
        write.replay()
        churn(30)
        check.replay()
        churn(5)
        assert wrong.item() == 0
    del write, check, kept, wrong


def test_after_its_graphs_a_pool_gives_its_memory_back() -> None:
    held = torch.cuda.memory_reserved()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
    graph.replay()
    assert torch.cuda.memory_reserved() >= held + 64 * MIB
    del graph, out
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held + 2 * MIB


def test_graphs_share_a_pool() -> None:
    static = torch.full((4 * MIB,), 2.0, device="cuda")
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first):
        between = static * 3
    with torch.cuda.graph(second, pool=first.pool()):
        out = between + 1
    for value in (2.0, 5.0):
        static.fill_(value)
        first.replay()
        second.replay()
        assert bool((out == value * 3 + 1).all())
    del first, second, between, out


def test_recorded_streams_in_a_capture() -> None:
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        block = torch.ones(4 * MIB, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            twice = block * 2
        block.record_stream(side)
        twice.record_stream(torch.cuda.current_stream())
        torch.cuda.current_stream().wait_stream(side)
        del block
        out = twice + torch.full((4 * MIB,), 3.0, device="cuda")
    for _ in range(5):
        churn(10)
        graph.replay()
        assert bool((out == 5).all())
    del graph, out, twice


def test_graphed_callables_train_as_plain_ones() -> None:
    losses = {}
    for graphed in (False, True):
        net = model()
        sample = torch.randn(64, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
        call = torch.cuda.make_graphed_callables(net, (sample.clone(),)) if graphed else net
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        losses[graphed] = []
        for _ in range(10):
            optimizer.zero_grad(set_to_none=True)
            loss = call(sample).square().mean()
            loss.backward()
            optimizer.step()
            losses[graphed].append(loss.item())
        del net, call, optimizer, loss, sample
        gc.collect()
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.mark.parametrize("capped", [False, True])
def test_reduce_overhead_computes_the_same(full: None, capped: bool) -> None:
    pytest.importorskip("triton")
    if capped:
        cap(2 * GIB)
    torch._dynamo.reset()
    net = model()
    compiled = torch.compile(net, mode="reduce-overhead")
    for step in range(12):
        # Three shapes, so that recordings follow one another in every order.
        value = torch.randn((32, 64, 96)[step % 3], 512, device="cuda")
        # Gradients are outputs of a graph, which the next step overwrites.
        net.zero_grad(set_to_none=True)
        torch.compiler.cudagraph_mark_step_begin()
        churn(10)
        out = compiled(value)
        torch.testing.assert_close(out, net(value), rtol=1e-3, atol=1e-3)
        out.square().mean().backward()
    reset_compiler()


def test_graph_trees_go_back_to_states(full: None) -> None:
    pytest.importorskip("triton")
    torch._dynamo.reset()
    import torch._inductor.config as config

    with config.patch({"triton.slow_path_cudagraph_asserts": True, "triton.fast_path_cudagraph_asserts": True}):

        @torch.compile(mode="reduce-overhead")
        def first(x: "torch.Tensor") -> "torch.Tensor":
            return x * 2 + 1

        @torch.compile(mode="reduce-overhead")
        def second(x: "torch.Tensor") -> "torch.Tensor":
            return (x * 3).relu() - 1

        @torch.compile(mode="reduce-overhead")
        def third(x: "torch.Tensor") -> "torch.Tensor":
            return x.square() + x

        with torch.no_grad():
            for step in range(24):
                torch.compiler.cudagraph_mark_step_begin()
                x = torch.full((MIB,), float(step), device="cuda")
                y = first(x)
                # Paths that part: each needs the state after `first` once more.
                z = (second, third)[step % 2](y)
                if step % 3 == 0:
                    z = third(z)
                expected = x * 2 + 1
                expected = (expected * 3).relu() - 1 if step % 2 == 0 else expected.square() + expected
                if step % 3 == 0:
                    expected = expected.square() + expected
                torch.testing.assert_close(z, expected)
                del y, z
    reset_compiler()


def reset_compiler() -> None:
    """Lets go of all that was compiled, and of its graphs."""
    torch._dynamo.reset()
    gc.collect()
    from torch._inductor import cudagraph_trees

    cudagraph_trees.reset_cudagraph_trees()
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def few_workers() -> None:
    """The compiler's workers are processes that cost more than these tests save."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
