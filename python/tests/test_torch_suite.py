"""What PyTorch's own tests of its allocator check, as far as it shows without a GPU: over the simulated
device, under either way of being connected. docs/pytorch.md says which test stands for which of PyTorch's.
"""

from __future__ import annotations

from torch_tools import Torch

SETTINGS = """
        import warnings
        warnings.simplefilter("ignore")
        change = torch.cuda.memory._set_allocator_settings
        def bytes_of(size):
            torch.cuda.init()
            before = torch.cuda.memory_stats()["active_bytes.all.allocated"]
            new(size)
            return torch.cuda.memory_stats()["active_bytes.all.allocated"] - before
"""


def test_settings_change_how_requests_are_rounded(on_either_way: Torch) -> None:
    on_either_way(
        SETTINGS
        + """
        # Before CUDA is in use, too.
        change("roundup_power2_divisions:4")
        assert bytes_of(84 * MIB) == 96 * MIB
        change("garbage_collection_threshold:0.5,max_split_size_mb:40")
        assert bytes_of(84 * MIB) == 84 * MIB, "what is left out has its default again"
        change("garbage_collection_threshold:0.5,roundup_power2_divisions:[64:8,128:2,256:2,512:2,1024:1,>:1]")
        assert bytes_of(84 * MIB) == 88 * MIB and bytes_of(400 * MIB) == 512 * MIB
        assert "roundup_power2_divisions" in drystone.configuration()
        change("")
        assert bytes_of(84 * MIB) == 84 * MIB
        assert drystone.configuration() == "limit:8GiB"
        """,
        DRYSTONE_CONF="limit:8GiB",
    )


def test_settings_that_do_nothing_here_are_taken(on_either_way: Torch) -> None:
    on_either_way(
        SETTINGS
        + """
        for settings in [
            "expandable_segments:True", "expandable_segments:False", "release_lock_on_cudamalloc:True",
            "graph_capture_record_stream_reuse:True", "max_split_size_mb:40", "max_non_split_rounding_mb:64",
            "garbage_collection_threshold:0.9", "per_process_memory_fraction:0.5",
        ]:
            change(settings)
            assert bytes_of(3 * MIB) == 3 * MIB
        """
    )


def test_wrong_settings_are_torch_s_errors_and_change_nothing(on_either_way: Torch) -> None:
    on_either_way(
        SETTINGS
        + """
        change("roundup_power2_divisions:4")
        for settings in [
            "foo:1,bar:2", "garbage_collection_threshold:1.2", "max_split_size_mb:2",
            "release_lock_on_cudamalloc:none", "pinned_use_cuda_host_register:none",
            "pinned_num_register_threads:none", "pinned_num_register_threads:1024", "limit:1GiB",
        ]:
            raised(lambda: torch._C._accelerator_setAllocatorSettings(settings), ValueError)
            assert bytes_of(84 * MIB) == 96 * MIB, settings
        """
    )


def test_settings_change_while_memory_is_short(on_either_way: Torch) -> None:
    on_either_way(
        SETTINGS
        + """
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(120 * MIB / total)
        change("expandable_segments:False,max_split_size_mb:40")
        a = new(40 * MIB)
        change("expandable_segments:True,max_split_size_mb:40")
        b = new(40 * MIB)
        change("expandable_segments:False,max_split_size_mb:40")
        c = new(40 * MIB)
        raised(lambda: new(40 * MIB), torch.OutOfMemoryError)
        del a, b, c
        new(120 * MIB)
        torch.cuda.empty_cache()
        change("garbage_collection_threshold:0.5")
        a, b = new(40 * MIB), new(40 * MIB)
        del a, b
        new(80 * MIB)
        """
    )


def test_out_of_memory_is_said_in_torch_s_words(on_either_way: Torch) -> None:
    on_either_way(
        """
        gib = 1 << 30
        kept = new(1024)
        text = raised(lambda: new(800_000_000 * gib))
        assert "Tried to allocate 800000000.00 GiB. GPU 0 has a total capacity of" in text, text
        assert "Tried to allocate more than 1EB memory" in raised(lambda: new(8_000_000_000 * gib))
        half = 40 * gib
        first = new(half)
        assert "Tried to allocate" in raised(lambda: new(half))
        del first
        new(half)
        seen = []
        torch._C._cuda_attach_out_of_memory_observer(lambda *told: seen.append(told))
        raised(lambda: new(4096 * gib), torch.cuda.OutOfMemoryError)
        assert len(seen) == 1 and seen[0][:2] == (0, 4096 * gib)
        assert torch.cuda.memory_allocated() == 1024
        """
    )


def test_fractions_are_what_was_set(on_either_way: Torch) -> None:
    on_either_way(
        """
        import random
        set_it, get_it = torch.cuda.set_per_process_memory_fraction, torch.cuda.get_per_process_memory_fraction
        assert get_it() == 1.0
        assert "Invalid type" in raised(lambda: set_it(1), TypeError)
        for wrong in (-0.1, 2.0):
            assert "Invalid fraction value" in raised(lambda: set_it(wrong), ValueError)
        for fraction in [1.0, 0.0, *(random.random() for _ in range(3))]:
            set_it(fraction)
            assert get_it() == fraction == get_it(0)
        set_it(0.5, 0)
        total = torch.cuda.mem_get_info()[1]
        new(int(total * 0.499))
        torch.cuda.empty_cache()
        new(int(total * 0.5))
        assert "out of memory" in raised(lambda: new(int(total * 0.501)))
        drystone.limit(total // 4)
        assert get_it() == 0.25
        """
    )


def test_the_statistics_are_those_of_the_snapshot(on_either_way: Torch) -> None:
    on_either_way(
        """
        import collections, random
        random.seed(1)
        def check():
            expected = collections.Counter()
            for segment in torch.cuda.memory_snapshot():
                for pool in ("all", segment["segment_type"] + "_pool"):
                    expected[f"allocated_bytes.{pool}"] += segment["allocated_size"]
                    expected[f"reserved_bytes.{pool}"] += segment["total_size"]
                    expected[f"active_bytes.{pool}"] += segment["active_size"]
                    expected[f"requested_bytes.{pool}"] += segment["requested_size"]
                    if not segment["is_expandable"]:
                        expected[f"segment.{pool}"] += 1
                    for block in segment["blocks"]:
                        active = block["state"].startswith("active_")
                        expected[f"allocation.{pool}"] += block["state"] == "active_allocated"
                        expected[f"active.{pool}"] += active
                        if not active and len(segment["blocks"]) > 1 and not segment["is_expandable"]:
                            expected[f"inactive_split.{pool}"] += 1
                            expected[f"inactive_split_bytes.{pool}"] += block["size"]
                active = [b for b in segment["blocks"] if b["state"].startswith("active_")]
                assert sum(b["requested_size"] for b in active) == segment["requested_size"]
            stats = torch.cuda.memory_stats()
            for name, value in expected.items():
                assert stats[name + ".current"] == value, (name, stats[name + ".current"], value)
        side = torch.cuda.Stream()
        live = []
        for round_ in range(300):
            if live and random.random() < 0.45:
                live.pop(random.randrange(len(live)))
            else:
                live.append(new(random.choice([4, 700, 40_000, MIB, MIB + 1, 3 * MIB, 21 * MIB])))
                if round_ % 7 == 0:
                    live[-1].record_stream(side)
            check()
            if round_ % 50 == 49:
                before = torch.cuda.memory_stats()
                torch.cuda.empty_cache()
                after = torch.cuda.memory_stats()
                assert after["num_sync_all_streams"] == before["num_sync_all_streams"] + 1
                assert after["num_device_free"] >= before["num_device_free"]
                assert after["reserved_bytes.all.current"] <= before["reserved_bytes.all.current"]
                check()
        live.clear()
        assert torch.cuda.memory_allocated() == 0
        """,
    )


def test_the_statistics_are_those_of_the_snapshot_with_segments(on_either_way: Torch) -> None:
    on_either_way(
        """
        live = [new(size) for size in [512, 3 * MIB, MIB, 700, 21 * MIB] * 5]
        del live[::2]
        segments = torch.cuda.memory_snapshot()
        stats = torch.cuda.memory_stats()
        assert not any(segment["is_expandable"] for segment in segments)
        assert stats["segment.all.current"] == len(segments)
        split = [s for s in segments if len(s["blocks"]) > 1]
        idle = [b["size"] for s in split for b in s["blocks"] if b["state"] == "inactive"]
        assert stats["inactive_split.all.current"] == len(idle)
        assert stats["inactive_split_bytes.all.current"] == sum(idle)
        """,
        DRYSTONE_CONF="backing:malloc",
    )


def test_active_bytes_come_and_go(on_either_way: Torch) -> None:
    on_either_way(
        """
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        assert torch.accelerator.memory_allocated() == torch.accelerator.max_memory_allocated()
        before = torch.accelerator.memory_stats()["active_bytes.all.current"]
        block = new(1024)
        assert torch.accelerator.memory_stats()["active_bytes.all.current"] == before + 1024
        assert torch.accelerator.memory_stats()["active_bytes.all.freed"] == 0
        del block
        torch.accelerator.empty_cache()
        assert torch.accelerator.memory_stats()["active_bytes.all.current"] == before
        assert torch.accelerator.memory_stats()["active_bytes.all.freed"] == 1024
        torch.accelerator.reset_peak_memory_stats()
        assert torch.accelerator.max_memory_allocated() == before
        pointer = torch.cuda.caching_allocator_alloc(1)
        assert torch.cuda.memory_allocated() > before
        torch.cuda.caching_allocator_delete(pointer)
        assert torch.cuda.memory_allocated() == before
        """
    )


def test_the_last_event_is_what_happened_last(on_either_way: Torch) -> None:
    on_either_way(
        """
        def last():
            return torch.cuda.memory._snapshot()["device_traces"][0][-1]
        torch.cuda.memory._record_memory_history(max_entries=10, context=None)
        block = new(511_284)
        assert (last()["action"], last()["action"]) == ("alloc", "snapshot")
        torch.cuda.memory._record_memory_history(None)
        torch.cuda.memory._record_memory_history(max_entries=10, context=None)
        del block
        torch.cuda.empty_cache()
        assert last()["action"] in ("segment_free", "segment_unmap")
        """
    )


def test_random_allocations_frees_and_emptyings(on_either_way: Torch) -> None:
    on_either_way(
        """
        import random
        random.seed(123)
        live, total = {}, 0
        for count in range(3000):
            while total >= 100 * MIB:
                block = live.pop(random.choice(list(live)))
                total -= block.numel()
            what = random.choices(["take", "give", "empty"], [1, 1 if live else 0, 0.1])[0]
            if what == "take":
                block = new(random.randrange(2 * MIB, 20 * MIB))
                ends = [(b.data_ptr(), b.data_ptr() + b.numel()) for b in live.values()]
                start, end = block.data_ptr(), block.data_ptr() + block.numel()
                assert all(end <= low or high <= start for low, high in ends)
                live[count] = block
                total += block.numel()
            elif what == "give":
                total -= live.pop(random.choice(list(live))).numel()
            else:
                torch.cuda.empty_cache()
            block = None
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] == total
        """
    )
