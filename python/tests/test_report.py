"""The curve of a report: memory over time by the last events."""

from __future__ import annotations

from drystone._report import Point, curve, picture, thin


def event(time: int, action: str, size: int) -> dict[str, object]:
    return {"time_us": time, "action": action, "size": size}


def test_what_was_there_before_the_first_event_follows_from_the_end() -> None:
    events = [
        event(1, "segment_map", 40),
        event(2, "alloc", 30),
        event(3, "free_requested", 10),
        event(4, "free_completed", 10),
        event(5, "segment_unmap", 20),
        event(6, "snapshot", 0),
    ]
    assert curve(events, live=120, reserved=220) == [
        Point(1, 100, 240),
        Point(2, 130, 240),
        Point(4, 120, 240),
        Point(5, 120, 220),
    ]
    assert curve([], live=1, reserved=2) == []


def test_thinning_keeps_the_peaks() -> None:
    points = [Point(at, at % 97, 2 * (at % 89)) for at in range(10_000)]
    fewer = thin(points, 100)
    assert len(fewer) == 100
    assert max(p.live for p in fewer) == 96 and max(p.reserved for p in fewer) == 176
    assert fewer[-1].time_us == 9_999
    assert thin(points[:3], 100) == points[:3]


def test_a_picture_of_one_point() -> None:
    assert picture([Point(5, 0, 0)]).startswith("<svg")
