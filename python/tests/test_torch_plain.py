"""PyTorch on the plain path, over the simulated device: real PyTorch, with a CUDA that computes
nothing.

Each test is a program of its own, since a process changes its allocator once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch_tools
from conftest import run_code, run_program

Torch = Callable[..., str]

START = torch_tools.program_start("plain")


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return torch_tools.fake_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def torch_program(fake: dict[str, str]) -> Torch:
    """Runs a piece of code with Drystone installed; what it printed."""

    def run(code: str, **environment: str) -> str:
        whole = START + textwrap.dedent(code)
        return run_code(whole, environment=fake | environment).stdout

    return run


def test_out_of_memory_is_torch_s_and_the_program_goes_on(torch_program: Torch) -> None:
    torch_program(
        """
        kept = new(10 * MIB)
        for _ in range(1000):
            text = raised(lambda: new(200 << 30), torch.OutOfMemoryError)
        beginning = "CUDA out of memory. Tried to allocate 200.00 GiB. GPU 0 has a total capacity "
        assert text.startswith(beginning), text
        assert "Drystone: out of memory on device 0" in text
        assert torch.cuda.memory_stats()["num_ooms"] == 1000
        assert torch.cuda.memory_allocated() == 10 * MIB
        new(20 * MIB)
        del kept
        assert torch.cuda.memory_allocated() == 0
        assert "more than 1EB" in raised(lambda: new(1 << 62), torch.OutOfMemoryError)
        """
    )


def test_other_failures_are_runtime_errors(torch_program: Torch) -> None:
    torch_program(
        """
        torch.cuda.init()
        text = raised(lambda: torch._C._cuda_setMemoryFraction(0.5, 7))
        assert "there is no device 7" in text, text
        """
    )


def test_nothing_is_asked_for_and_nothing_given(torch_program: Torch) -> None:
    torch_program(
        """
        empty = new(0)
        assert empty.data_ptr() == 0
        empty.record_stream(torch.cuda.Stream())
        assert torch.cuda.memory_allocated() == 0
        """
    )


def test_statistics_and_peaks(torch_program: Torch) -> None:
    torch_program(
        """
        assert torch.cuda.memory_stats() == {}
        tensor = new(30 * MIB)
        figures = torch.cuda.memory_stats()
        assert figures["allocated_bytes.all.current"] == torch.cuda.memory_allocated() == 30 * MIB
        assert torch.cuda.memory_reserved() == drystone.reserved()
        assert figures["allocation.large_pool.current"] == 1
        del tensor
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.max_memory_allocated() == 30 * MIB
        torch.cuda.reset_peak_memory_stats()
        assert torch.cuda.max_memory_allocated() == 0
        torch.cuda.reset_accumulated_memory_stats()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == 0
        assert "PyTorch CUDA memory summary" in torch.cuda.memory_summary()
        assert "30" in torch.cuda.memory_summary(abbreviated=True)
        """
    )


def test_the_names_of_the_statistics_are_torch_s(
    torch_program: Torch, fake: dict[str, str]
) -> None:
    names = "new = sorted(torch.cuda.memory_stats()); print('\\n'.join(new))"
    ours = set(torch_program("new(MIB)\n" + names).split())
    native = run_code("import torch; torch.cuda.init(); " + names, environment=fake).stdout.split()
    assert len(native) > 60
    assert set(native) - ours == set()


def test_emptying_the_cache_and_the_fraction(torch_program: Torch) -> None:
    torch_program(
        """
        new(100 * MIB)
        assert torch.cuda.memory_reserved() >= 100 * MIB
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 0
        assert torch.cuda.get_per_process_memory_fraction() == 1.0
        torch.cuda.set_per_process_memory_fraction(0.25)
        assert torch.cuda.get_per_process_memory_fraction() == 0.25
        raised(lambda: new(30 << 30), torch.OutOfMemoryError)
        new(10 << 30)
        """
    )


def test_snapshots_and_the_history(torch_program: Torch, tmp_path: Path) -> None:
    torch_program(
        f"""
        import pickle
        torch.cuda.memory._record_memory_history(max_entries=1000, context=None)
        tensor = new(5 * MIB)
        segments = torch.cuda.memory_snapshot()
        live = [b for s in segments for b in s["blocks"] if b["state"] == "active_allocated"]
        assert [(b["address"], b["requested_size"]) for b in live] == [(tensor.data_ptr(), 5 * MIB)]
        assert segments[0]["segment_pool_id"] == (0, 0)
        torch.cuda.memory._dump_snapshot({str(tmp_path / "dump.pickle")!r})
        with open({str(tmp_path / "dump.pickle")!r}, "rb") as file:
            dumped = pickle.load(file)
        actions = [event["action"] for event in dumped["device_traces"][0]]
        assert "alloc" in actions, actions
        torch.cuda.memory._record_memory_history(None)
        assert torch.cuda.memory._snapshot()["device_traces"][0] == []
        """
    )


def test_streams_are_minded(torch_program: Torch) -> None:
    torch_program(
        """
        side = torch.cuda.Stream()
        tensor = new(30 * MIB)
        view = tensor[MIB:]
        view.record_stream(side)
        address = tensor.data_ptr()
        del tensor, view
        pending = [
            b for s in torch.cuda.memory_snapshot() for b in s["blocks"]
            if b["state"] == "active_pending_free"
        ]
        assert [b["address"] for b in pending] == [address], pending
        with torch.cuda.stream(side):
            other = new(MIB)
        assert side.cuda_stream in {s["stream"] for s in torch.cuda.memory_snapshot()}
        """
    )


def test_pools(torch_program: Torch) -> None:
    torch_program(
        """
        import gc, threading
        pool = torch.cuda.MemPool()
        assert pool.id != torch.cuda.graph_pool_handle() and pool.use_count() == 1
        outside = new(4 * MIB)
        elsewhere = []
        with torch.cuda.use_mem_pool(pool):
            assert pool.use_count() == 2
            inside = new(4 * MIB)
            thread = threading.Thread(target=lambda: elsewhere.append(new(4 * MIB)))
            thread.start()
            thread.join()
        assert pool.use_count() == 1
        live = [
            b["address"] for s in pool.snapshot() for b in s["blocks"]
            if b["state"] == "active_allocated"
        ]
        assert live == [inside.data_ptr()]
        assert pool.device == torch.device("cuda", 0) and pool.allocator is None
        name = pool.id
        del pool, inside
        gc.collect()
        torch.cuda.empty_cache()
        assert torch.cuda.memory_snapshot(name) == []
        assert "not possible on the plain path" in raised(lambda: torch.cuda.MemPool(object()))
        """
    )


def test_raw_allocations(torch_program: Torch) -> None:
    torch_program(
        """
        address = torch.cuda.caching_allocator_alloc(3 * MIB)
        assert torch.cuda.memory_allocated() == 3 * MIB
        torch.cuda.caching_allocator_delete(address)
        assert torch.cuda.memory_allocated() == 0
        """
    )


def test_accelerator_answers_from_drystone(torch_program: Torch) -> None:
    torch_program(
        """
        tensor = new(3 * MIB)
        assert torch.accelerator.memory_allocated() == 3 * MIB
        assert torch.accelerator.memory_stats() == torch.cuda.memory_stats()
        assert torch.accelerator.get_memory_info()[1] == 80 << 30
        del tensor
        torch.accelerator.empty_cache()
        assert torch.accelerator.memory_reserved() == 0
        torch.accelerator.reset_peak_memory_stats()
        assert torch.accelerator.max_memory_allocated() == 0
        """
    )


def test_an_observer_of_out_of_memory(torch_program: Torch) -> None:
    torch_program(
        """
        seen = []
        torch._C._cuda_attach_out_of_memory_observer(lambda *told: seen.append(told))
        raised(lambda: new(200 << 30), torch.OutOfMemoryError)
        assert seen[0][:3] == (0, 200 << 30, 80 << 30), seen
        """
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("new(8).untyped_storage()._share_cuda_()", "sharing a CUDA tensor"),
        ("torch._C._cuda_getCheckpointState(0, (1, 0))", "reduce-overhead"),
        ("torch.cuda.memory._set_memory_metadata('x')", "no metadata here"),
        ("torch.cuda.caching_allocator_enable(False)", "always caches"),
    ],
)
def test_what_is_not_possible_says_what_to_do(torch_program: Torch, call: str, words: str) -> None:
    torch_program(
        f"""
        torch.cuda.init()
        text = raised(lambda: {call})
        assert text.startswith("drystone: ") and {words!r} in text, text
        """
    )


def test_stack_traces_are_said_to_be_missing(torch_program: Torch) -> None:
    assert "logged" in torch_program(
        """
        import logging
        class Said(logging.Handler):
            def emit(self, record):
                print("logged", record.getMessage())
        logging.getLogger("drystone").addHandler(Said())
        torch.cuda.memory._record_memory_history()
        """
    )


def test_wrong_settings_are_said_at_install(fake: dict[str, str]) -> None:
    done = run_code(
        "import drystone; drystone.install('limitt:1GiB', adapter='plain')",
        environment=fake,
        fails=True,
    )
    assert "drystone._library.ConfigError" in done.stderr and "limitt" in done.stderr


def test_too_late_says_what_to_do(fake: dict[str, str]) -> None:
    done = run_code(
        "import torch; torch.cuda.init()\nimport drystone; drystone.install(adapter='plain')",
        environment=fake,
        fails=True,
    )
    assert "right after `import torch`" in done.stderr and "python -m drystone run" in done.stderr


def test_installing_twice(torch_program: Torch) -> None:
    torch_program(
        """
        assert drystone.install() == drystone.installed() == "plain"
        text = raised(lambda: drystone.install("limit:1GiB"), drystone.Error)
        assert "installed already" in text
        assert "allowed are" in raised(lambda: drystone.install(adapter="x"), drystone.Error)
        """
    )


def test_without_a_compiler_it_is_the_plain_path(fake: dict[str, str], tmp_path: Path) -> None:
    bare = {"PATH": "", "DRYSTONE_CACHE": str(tmp_path)}
    done = run_code("import drystone; print(drystone.install())", environment=fake | bare)
    assert done.stdout == "plain\n"
    assert done.stderr.startswith("drystone: PyTorch is connected by the plain path: there is no C++ compiler")
    assert done.stderr.count("\n") == 1
    done = run_code(
        "import drystone; drystone.install(adapter='full')", environment=fake | bare, fails=True
    )
    assert "the full adapter cannot be used: there is no C++ compiler" in done.stderr


def test_a_program_that_is_not_changed(fake: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n"
        "for _ in range(3):\n"
        "    torch.empty(30 << 20, dtype=torch.uint8, device='cuda')\n"
        "print(torch.cuda.get_allocator_backend(), torch.cuda.max_memory_allocated())\n"
    )
    report = tmp_path / "out.html"
    options = ["--adapter", "plain", "--config", "limit:40GiB", "--report", str(report)]
    done = run_program("-m", "drystone", "run", *options, str(program), environment=fake)
    assert done.stdout == f"pluggable {30 << 20}\n"
    assert "limit:40GiB" in report.read_text()
    info = run_program("-m", "drystone", "info", environment=fake).stdout
    assert "torch.OutOfMemoryError of PyTorch" in info
