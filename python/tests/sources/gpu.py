"""What has to hold on a real GPU under PyTorch, without a test framework:

    python gpu.py plain          every check, each in a process of its own
    python gpu.py full training  one of them, in this process

Exits with 77 and a line that says why if there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import drystone

MIB = 1 << 20
NO_GPU = 77


def out_of_memory() -> None:
    """Out of memory caught, the batch halved, and on, a thousand times: nothing leaks."""
    import torch

    drystone.limit(2 << 30)
    model = torch.nn.Linear(4096, 4096, device="cuda")

    def step(batch: int) -> None:
        model(torch.ones(batch, 4096, device="cuda")).sum().backward()
        model.zero_grad(set_to_none=True)

    step(64)
    torch.cuda.synchronize()
    live = torch.cuda.memory_allocated()
    for _ in range(1000):
        batch = 1 << 18
        while True:
            try:
                step(batch)
                break
            except torch.OutOfMemoryError as error:
                assert "Drystone" in str(error)
            batch //= 2
        assert batch < 1 << 18
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == live, (torch.cuda.memory_allocated(), live)
    assert torch.cuda.memory_stats()["num_ooms"] >= 1000
    assert torch.cuda.memory_reserved() <= 2 << 30


def streams() -> None:
    """Memory that a side stream still reads is not reused before it has been read."""
    import torch

    side = torch.cuda.Stream()
    for round_ in range(200):
        source = torch.full((16 * MIB,), round_ % 100, dtype=torch.uint8, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(1_000_000)
            copy = source.clone()
        source.record_stream(side)
        del source
        torch.full((16 * MIB,), 255, dtype=torch.uint8, device="cuda")
        torch.cuda.current_stream().wait_stream(side)
        assert bool((copy == round_ % 100).all()), round_
        copy.record_stream(torch.cuda.current_stream())


def threads() -> None:
    """Threads on streams of their own keep what they wrote."""
    import torch

    wrong: list[object] = []

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            kept: list[torch.Tensor] = []
            for round_ in range(300):
                size = (1 + (round_ * 7919 + number * 31) % 64) * MIB
                kept.append(torch.full((size,), number, dtype=torch.uint8, device="cuda"))
                if len(kept) > 5:
                    first = kept.pop(0)
                    if not bool((first == number).all()):
                        wrong.append((number, round_))

    running = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong, wrong


def graphs() -> None:
    """A graph's memory is its own: what others stamp between its replays does not change them."""
    import torch

    drystone.limit(4 << 30)
    static = torch.zeros(1024, 1024, device="cuda")
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            (static @ static).relu()
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        middle = [static + step for step in range(20)]
        result = torch.stack(middle).sum(0)
        del middle
    for round_ in range(50):
        others = [torch.full((8 * MIB,), 255, dtype=torch.uint8, device="cuda") for _ in range(64)]
        static.fill_(round_)
        graph.replay()
        expected = 20 * round_ + sum(range(20))
        assert bool((result == expected).all()), round_
        assert all(bool((other == 255).all()) for other in others), round_
        del others
        torch.cuda.empty_cache()
    second = torch.cuda.CUDAGraph()
    with torch.cuda.graph(second, pool=graph.pool()):
        twice = result * 2
    graph.replay()
    second.replay()
    assert bool((twice == 2 * expected).all())
    del graph, second, result, twice
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def graphed_callables() -> None:
    """torch.cuda.make_graphed_callables trains as without."""
    import torch

    def losses(graphed: bool) -> list[float]:
        torch.manual_seed(3)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)
        ).cuda()
        call: Callable[[torch.Tensor], torch.Tensor] = model
        if graphed:
            call = torch.cuda.make_graphed_callables(model, (torch.randn(32, 64, device="cuda"),))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator("cuda").manual_seed(5)
        seen = []
        for _ in range(20):
            optimizer.zero_grad(set_to_none=True)
            loss = call(torch.randn(32, 64, device="cuda", generator=generator)).square().mean()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    plain, graphed = losses(False), losses(True)
    assert all(abs(a - b) <= 1e-5 * abs(a) for a, b in zip(plain, graphed, strict=True))


def pools() -> None:
    """torch.cuda.MemPool keeps its memory apart, also as the pool of a graph."""
    import torch

    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = torch.ones(MIB, device="cuda")
    outside = torch.ones(MIB, device="cuda")
    blocks = [b["address"] for s in pool.snapshot() for b in s["blocks"]]
    assert inside.data_ptr() in blocks and outside.data_ptr() not in blocks
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool.id):
        doubled = outside * 2
    graph.replay()
    assert bool((doubled == 2).all()) and bool((inside == 1).all())


def training() -> None:
    """Prints the losses of a deterministic training, to be compared with PyTorch's own."""
    import torch

    torch.manual_seed(11)
    torch.use_deterministic_algorithms(True)
    layer = torch.nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 4).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(30):
        batch = torch.randn(8, 32 + step % 7 * 16, 256, device="cuda")
        optimizer.zero_grad(set_to_none=True)
        loss = (model(batch) - batch).square().mean()
        loss.backward()
        optimizer.step()
        print(loss.item().hex())


def reports() -> None:
    """torch.cuda's functions agree with the device and with each other."""
    import torch

    kept = torch.ones(50 * MIB, dtype=torch.uint8, device="cuda")
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total and total == drystone.memory_info().total
    assert torch.cuda.memory_allocated() == 50 * MIB <= torch.cuda.memory_reserved()
    live = sum(s["allocated_size"] for s in torch.cuda.memory_snapshot())
    assert live == torch.cuda.memory_allocated(), live
    assert "PyTorch CUDA memory summary" in torch.cuda.memory_summary()
    del kept
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0
    assert torch.cuda.mem_get_info()[0] >= free + 50 * MIB


CHECKS = [
    out_of_memory, streams, threads, graphs, graphed_callables, pools, training, reports,
]  # fmt: skip


def main(adapter: str, only: str | None = None) -> int:
    """Runs the checks; the exit code."""
    import torch

    if not torch.cuda.is_available():
        print("skipped: there is no GPU that PyTorch can use")
        return NO_GPU
    if only is not None:
        if adapter != "native":
            drystone.install(adapter=adapter)
        next(check for check in CHECKS if check.__name__ == only)()
        return 0
    failed = 0
    for check in CHECKS:
        done = _alone(adapter, check.__name__)
        same = True
        if check is training and done.returncode == 0:
            same = done.stdout == _alone("native", "training").stdout
        well = done.returncode == 0 and same
        print(f"{check.__name__}: {'ok' if well else 'FAILED'}", flush=True)
        if not well:
            failed += 1
            print(
                done.stdout[-2000:] if same else "other losses than PyTorch's", done.stderr[-4000:]
            )
    return 1 if failed else 0


def _alone(adapter: str, check: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, __file__, adapter, check]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
