"""What the package says of the allocator, and how it bounds and empties it, on the simulated
device."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import pytest
from conftest import MIB, Blocks

import drystone


def test_statistics_follow_the_blocks(blocks: Blocks) -> None:
    first = blocks.take(3 * MIB + 1)
    figures = drystone.stats()
    assert figures["requested_bytes.all.current"] == 3 * MIB + 1
    assert figures["allocation.large_pool.current"] == 1
    assert figures["reserved_bytes.all.current"] == drystone.reserved() >= 3 * MIB
    blocks.give(first)
    after = drystone.stats("cuda:0")
    assert after["requested_bytes.all.current"] == 0
    assert after["requested_bytes.all.peak"] == 3 * MIB + 1
    drystone.reset_peak_stats()
    assert drystone.stats()["requested_bytes.all.peak"] == 0


def test_the_summary_names_what_is_held(blocks: Blocks) -> None:
    blocks.take(64 * MIB)
    text = drystone.memory_summary()
    assert "asked for by the program" in text and "64.00 MiB" in text
    assert "small blocks" not in drystone.memory_summary(abbreviated=True)


def test_emptying_gives_back_what_nobody_uses(blocks: Blocks) -> None:
    kept = blocks.take(10 * MIB)
    blocks.give(blocks.take(100 * MIB))
    assert drystone.reserved() >= 110 * MIB
    assert drystone.empty_cache() >= 90 * MIB
    assert 10 * MIB <= drystone.reserved() < 20 * MIB
    blocks.give(kept)


def test_a_limit_is_kept_and_said(blocks: Blocks) -> None:
    assert drystone.get_limit() is None
    drystone.limit(64 * MIB)
    assert drystone.get_limit() == 64 * MIB
    with pytest.raises(drystone.OutOfMemory, match=r"limit 64.00 MiB") as raised:
        blocks.take(100 * MIB)
    assert raised.value.status == 4
    assert isinstance(raised.value, MemoryError)
    drystone.limit(0.5)
    assert drystone.get_limit() == drystone.memory_info().total // 2
    drystone.limit(None)
    blocks.take(100 * MIB)


@pytest.mark.parametrize("value", [-0.1, 1.5, 0, -5])
def test_limits_that_are_none(value: float) -> None:
    with pytest.raises(drystone.InvalidArgument, match=r"allowed|from 0.0 to 1.0"):
        drystone.limit(value)


@pytest.mark.parametrize("device", [99, "cuda:99"])
def test_a_device_that_is_not_there(device: object) -> None:
    with pytest.raises(drystone.InvalidArgument, match="there is no device 99"):
        drystone.stats(device)


@pytest.mark.parametrize("device", ["cpu", "cuda:x", 1.5, True])
def test_what_is_no_device(device: object) -> None:
    with pytest.raises(drystone.InvalidArgument, match=r"is no device: allowed are"):
        drystone.stats(device)


def test_pausing_leaves_the_device_to_others(blocks: Blocks) -> None:
    kept = blocks.take(10 * MIB)
    blocks.give(blocks.take(100 * MIB))
    drystone.limit(0.9)
    limit = drystone.get_limit()
    with drystone.pause() as released:
        assert released >= 90 * MIB
        with pytest.raises(drystone.OutOfMemory):
            blocks.take(100 * MIB)
        blocks.give(kept)
        blocks.take(9 * MIB)
    assert drystone.get_limit() == limit
    blocks.take(100 * MIB)


def test_a_phase_gives_back_what_it_cached(blocks: Blocks) -> None:
    blocks.take(10 * MIB)
    before = drystone.reserved()

    class Cycle:
        def __init__(self) -> None:
            self.itself = self
            self.block = blocks.take(50 * MIB)

        def __del__(self) -> None:
            blocks.give(self.block)

    gc.collect()
    with drystone.phase() as phase:
        Cycle()
        blocks.give(blocks.take(100 * MIB))
    assert phase.reserved_before == before
    assert phase.released >= 140 * MIB
    assert phase.reserved_after == drystone.reserved() <= before + 2 * MIB


def test_a_phase_that_fails_gives_back_too(blocks: Blocks) -> None:
    with pytest.raises(KeyError), drystone.phase() as phase:
        blocks.give(blocks.take(100 * MIB))
        raise KeyError
    assert phase.released >= 100 * MIB


def test_defragmenting_gathers_and_gives_back(blocks: Blocks) -> None:
    taken = [blocks.take(8 * MIB) for _ in range(20)]
    for address in taken[::2]:
        blocks.give(address)
    done = drystone.defragment()
    assert done.gathered > 0 and done.largest_after > done.largest_before
    assert drystone.defragment(give_back=True).given_back >= 80 * MIB


def test_a_stream_may_end(blocks: Blocks) -> None:
    class External:
        cuda_stream = 0x5000

    blocks.give(blocks.take(10 * MIB, stream=External.cuda_stream))
    drystone.stream_ends(External())
    drystone.stream_ends(0x6000)
    assert drystone.empty_cache() >= 10 * MIB, "what it had cached is there for others"
    with pytest.raises(drystone.InvalidArgument, match="is no stream"):
        drystone.stream_ends("main")


def test_pressure_is_told_once_for_each_passing(blocks: Blocks) -> None:
    told: list[drystone.Pressure] = []
    with drystone.on_pressure(64 * MIB, told.append):
        blocks.take(40 * MIB)
        assert told == []
        blocks.take(40 * MIB)
        blocks.take(40 * MIB)
        assert len(told) == 1
    assert told[0].watermark == 64 * MIB and told[0].reserved >= 80 * MIB
    assert told[0].device == 0 and told[0].limit == drystone.memory_info().total
    blocks.give_all()
    drystone.empty_cache()
    blocks.take(100 * MIB)
    assert len(told) == 1, "it was removed"


def test_pressure_as_a_fraction_of_the_limit(blocks: Blocks) -> None:
    told: list[drystone.Pressure] = []
    drystone.limit(100 * MIB)
    callback = drystone.on_pressure(0.5, told.append)
    blocks.take(60 * MIB)
    callback.remove()
    callback.remove()
    assert [told[0].watermark, told[0].limit] == [50 * MIB, 100 * MIB]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_callback_that_raises_does_no_harm(blocks: Blocks) -> None:
    def fail(_: drystone.Pressure) -> None:
        raise ValueError("by design")

    with drystone.on_pressure(MIB, fail):
        assert blocks.take(10 * MIB)


def test_out_of_memory_is_told_and_may_be_averted(blocks: Blocks) -> None:
    told: list[drystone.MemoryShortage] = []
    drystone.limit(100 * MIB)
    hoard = [blocks.take(60 * MIB)]

    def free(shortage: drystone.MemoryShortage) -> bool:
        told.append(shortage)
        if hoard:
            blocks.give(hoard.pop())
            return True
        return False

    with drystone.on_out_of_memory(free):
        blocks.take(80 * MIB)
        assert told[0].asked == 80 * MIB and told[0].live == 60 * MIB
        with pytest.raises(drystone.OutOfMemory):
            blocks.take(80 * MIB)


def test_the_history_becomes_a_trace_and_snapshots(blocks: Blocks, tmp_path: Path) -> None:
    drystone.history(100)
    blocks.give(blocks.take(5 * MIB))
    blocks.take(7 * MIB)
    drystone.save_trace(tmp_path / "trace.csv")
    rows = [row.split(",") for row in (tmp_path / "trace.csv").read_text().splitlines()]
    assert rows[0][:4] == ["t_us", "op", "id", "size"]
    assert [row[1:4] for row in rows if row[1] in "af"] == [
        ["a", "0", str(5 * MIB)],
        ["f", "0", str(5 * MIB)],
        ["a", "1", str(7 * MIB)],
    ]
    taken = drystone.snapshot()
    assert [e["action"] for e in taken["device_traces"][0]].count("alloc") == 2
    drystone.save_snapshot(tmp_path / "snapshot.pickle")
    with open(tmp_path / "snapshot.pickle", "rb") as file:
        again = pickle.load(file)
    assert [s["address"] for s in again["segments"]] == [s["address"] for s in taken["segments"]]
    drystone.history(0)
    assert drystone.snapshot()["device_traces"][0] == []


def test_a_history_of_less_than_nothing() -> None:
    with pytest.raises(drystone.InvalidArgument, match="0 or more"):
        drystone.history(-1)
