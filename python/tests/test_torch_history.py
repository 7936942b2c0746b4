"""The memory history under the full adapter, over the simulated device: what happened, in which order, with
whose frames and words.
"""

from __future__ import annotations

from pathlib import Path

from torch_tools import Torch


def test_history_has_frames_contexts_and_order(on_full: Torch) -> None:
    on_full(
        """
        def baker():
            return new(3 * MIB)
        def eater(bread):
            del bread[0]
        before = new(MIB)
        torch.cuda.memory._record_memory_history(max_entries=100, stacks="python")
        assert torch._C._cuda_isHistoryEnabled()
        bread = [baker()]
        address = bread[0].data_ptr()
        eater(bread)
        kept = baker()
        raised(lambda: new(200 << 30), torch.OutOfMemoryError)
        snapshot = torch.cuda.memory._snapshot()
        trace = snapshot["device_traces"][0]
        of_block = [e for e in trace if e.get("addr") == address and not e["action"].startswith("seg")]
        assert [e["action"] for e in of_block] == [
            "alloc", "free_requested", "free_completed", "alloc"]
        names = [[frame["name"] for frame in e["frames"]] for e in of_block]
        assert "baker" in names[0] and "eater" in names[1] and "eater" in names[2]
        assert "baker" in names[3] and "eater" not in names[3]
        assert [e["action"] for e in trace].count("oom") == 1
        assert trace[-1]["action"] == "oom"
        times = [e["time_us"] for e in trace]
        assert times == sorted(times)
        import time
        assert abs(times[-1] / 1e6 - time.time()) < 60
        blocks = [b for s in snapshot["segments"] for b in s["blocks"]]
        by_address = {b["address"]: b for b in blocks}
        assert "baker" in [f["name"] for f in by_address[kept.data_ptr()]["frames"]]
        assert by_address[before.data_ptr()]["frames"] == []
        assert all(sum(b["size"] for b in s["blocks"]) == s["total_size"] for s in snapshot["segments"])
        # Off: what is live keeps its frames, and the trace is gone.
        torch.cuda.memory._record_memory_history(enabled=None)
        assert not torch._C._cuda_isHistoryEnabled()
        snapshot = torch.cuda.memory._snapshot()
        assert snapshot["device_traces"] == [[]]
        """
    )


def test_the_ring_is_bounded_and_actions_can_be_left_out(on_full: Torch) -> None:
    on_full(
        """
        torch.cuda.memory._record_memory_history(max_entries=7, stacks="python", skip_actions=["free_completed"])
        def maker():
            return new(MIB)
        for _ in range(50):
            block = maker()
            del block
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        assert 0 < len(trace) <= 7
        actions = {e["action"] for e in trace}
        assert "free_completed" not in actions and {"alloc", "free_requested"} <= actions
        assert all("maker" in [f["name"] for f in e["frames"]] for e in trace if e["action"] == "alloc")
        torch.cuda.memory._record_memory_history(max_entries=7, clear_history=True)
        assert torch.cuda.memory._snapshot()["device_traces"][0] == []
        """
    )


def test_the_users_words_are_in_the_history(on_full: Torch) -> None:
    on_full(
        """
        torch.cuda.memory._record_memory_history(max_entries=100, global_record_annotations=True)
        torch.cuda.memory._set_memory_metadata("epoch 3")
        assert torch.cuda.memory._get_memory_metadata() == "epoch 3"
        block = new(MIB)
        torch.cuda.memory._set_memory_metadata("")
        other = new(MIB)
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        words = {e["addr"]: e["user_metadata"] for e in trace if e["action"] == "alloc"}
        assert words == {block.data_ptr(): "epoch 3", other.data_ptr(): ""}
        """
    )


def test_a_dumped_snapshot_is_one_that_drystone_reads(on_full: Torch, tmp_path: Path) -> None:
    on_full(
        f"""
        torch.cuda.memory._record_memory_history()
        block = new(3 * MIB)
        torch.cuda.memory._dump_snapshot({str(tmp_path / "snapshot.pickle")!r})
        import pickle
        with open({str(tmp_path / "snapshot.pickle")!r}, "rb") as file:
            snapshot = pickle.load(file)
        assert snapshot["segments"][0]["allocated_size"] == 3 * MIB
        settings = snapshot["allocator_settings"]
        assert settings["expandable_segments"] is True and settings["PYTORCH_CUDA_ALLOC_CONF"] == "slack:5"
        """,
        DRYSTONE_CONF="slack:5",
    )


def test_emptying_the_cache_has_frames_and_words(on_full: Torch) -> None:
    on_full(
        """
        import json
        for context in ("alloc", "all", "state"):
            torch.cuda.empty_cache()
            torch.cuda.memory._set_memory_metadata("words")
            torch.cuda.memory._record_memory_history(context=context, stacks="python")
            x = new(12)
            def giver():
                global x
                del x
            giver()
            torch.cuda.memory.empty_cache()
            torch.cuda.memory._set_memory_metadata("")
            snapshot = torch.cuda.memory._snapshot()
            torch.cuda.memory._record_memory_history(None)
            text = json.dumps(snapshot)
            assert ("empty_cache" in text) == (context == "all") == ("giver" in text), context
            events = snapshot["device_traces"][0]
            assert {"alloc", "free_completed"} <= {e["action"] for e in events}
            assert all(e["user_metadata"] == "words" for e in events), events
        """
    )


def test_histories_of_the_state_keep_the_frames_of_what_is_live(on_full: Torch) -> None:
    on_full(
        """
        torch.cuda.memory._record_memory_history("state", stacks="python")
        def maker():
            return new(512)
        keep = maker()
        blocks = [maker() for _ in range(1000)]
        del blocks[::2]
        del blocks
        snapshot = torch.cuda.memory._snapshot()
        assert all("frames" in segment for segment in snapshot["segments"])
        live = {b["address"]: b for s in snapshot["segments"] for b in s["blocks"] if b["requested_size"]}
        assert list(live) == [keep.data_ptr()]
        assert [frame["name"] for frame in live[keep.data_ptr()]["frames"]][1] == "maker"
        del keep
        torch.cuda.empty_cache()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        assert [event["action"] for event in trace] == ["segment_unmap"]
        """
    )
