"""Snapshots that Drystone writes, in PyTorch's own viewer code (``torch.cuda._memory_viz``): those
of the allocator, and those that ``drystone convert`` makes of traces.

Needs PyTorch, not a GPU; the second kind needs the program, from ``DRYSTONE_PROGRAM``, the
checkout's ``target`` or the path.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Blocks

import drystone

viewer = pytest.importorskip(
    "torch.cuda._memory_viz", reason="needs PyTorch, whose viewer this is about"
)

CHECKOUT = Path(__file__).parents[2]


def program() -> str:
    """The program, or the test is skipped."""
    built = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    named = os.environ.get("DRYSTONE_PROGRAM")
    places = [named, built / "release/drystone", built / "debug/drystone"]
    found = [str(place) for place in places if place and Path(place).is_file()]
    found += [path for path in [shutil.which("drystone")] if path]
    if not found:
        pytest.skip("needs the program: cargo build -p drystone-cli, or DRYSTONE_PROGRAM=PATH")
    return found[0]


def opens(snapshot: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs all of the viewer that takes snapshots; what it says of the events."""
    reserved = sum(segment["total_size"] for segment in snapshot["segments"])
    summary = viewer.segsum(snapshot)
    assert f"total_reserved: {viewer.Bytes(reserved)}" in summary
    flat: list[str] = []
    for flames in viewer.segments, viewer.memory:
        flames(snapshot, format_flamegraph=flat.append)
    blocks = sum(len(segment["blocks"]) for segment in snapshot["segments"])
    assert all(text.count("\n") >= blocks for text in flat)
    viewer.compare([], snapshot["segments"], format_flamegraph=flat.append)
    events = viewer.trace(snapshot)
    for page in viewer.segment_plot(snapshot), viewer.trace_plot(snapshot, plot_segments=True):
        assert "add_local_files(local_files" in page
    capsys.readouterr()
    filtered = viewer.trace_plot(pickle.loads(pickle.dumps(snapshot)), filter_freed=True)
    assert len(filtered) <= len(viewer.trace_plot(snapshot))
    assert capsys.readouterr().out == "", "frees that nobody asked for"
    assert isinstance(events, str)
    return events


def test_a_snapshot_of_the_allocator(
    blocks: Blocks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = blocks.take(30 * MIB)
    drystone.history()
    kept = [blocks.take(size) for size in (1000, 3 * MIB, 25 * MIB + 1)]
    blocks.give(kept[1])
    blocks.give(before)
    drystone.limit(64 * MIB)
    with pytest.raises(drystone.OutOfMemory):
        blocks.take(100 * MIB)
    drystone.save_snapshot(tmp_path / "run.pickle")
    as_json = drystone.snapshot()
    read = pickle.loads((tmp_path / "run.pickle").read_bytes())
    for snapshot in read, as_json:
        # A key that PyTorch's snapshots do not have.
        pools = {tuple(entry["pool_id"]) for ring in snapshot["device_traces"] for entry in ring}
        assert pools == {(0, 0)}
        events = opens(snapshot, capsys)
        assert "raise OutOfMemoryError # 100.0MiB requested" in events
        assert events.count("free completed") == 2


@pytest.mark.parametrize("name", ["stanza_pos.csv.xz", "prefetch_streams.csv.xz"])
def test_traces_that_become_snapshots(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in "run.pickle", "run.json":
        command = [program(), "convert", str(CHECKOUT / "traces" / name), output, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    left_out = json.loads(done.stdout)["left_out"]
    taken = json.loads(done.stdout)["events"] - sum(one["count"] for one in left_out)
    from_pickle = pickle.loads((tmp_path / "run.pickle").read_bytes())
    from_json = json.loads((tmp_path / "run.json").read_text())
    assert json.loads(json.dumps(from_pickle)) == from_json
    events = opens(from_pickle, capsys)
    assert events.startswith("Device 0 ----------------\n") and f"{taken} entries" in events


def test_recorded_snapshots_that_went_through_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = str(CHECKOUT / "traces" / "stanza_pos.pickle.xz")
    steps = [(recorded, "same.pickle"), (recorded, "a.dst"), ("a.dst", "made.pickle")]
    for source, output in steps:
        command = [program(), "convert", source, output]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    same = pickle.loads((tmp_path / "same.pickle").read_bytes())
    made = pickle.loads((tmp_path / "made.pickle").read_bytes())
    assert opens(same, capsys).count(" = ") < opens(made, capsys).count(" = ")
    stacks = [entry.get("frames", ()) for entry in made["device_traces"][0]]
    files = {frame["filename"] for frames in stacks for frame in frames}
    assert "torch/nn/modules/linear.py" in files
