"""The report of ``python -m drystone run --report``: memory over time, and the statistics, as one
page of HTML that needs nothing else."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import drystone
from drystone._summary import bytes_text, memory_summary

_POINTS = 1500
"""The most points of a curve: about as many as a screen shows."""
_WIDTH, _HEIGHT = 960, 320

_GROWS = {"segment_alloc", "segment_map"}
_SHRINKS = {"segment_free", "segment_unmap"}


class Recorder:
    """Writes what was recorded of a program, at its end. The history has to be on.

    Args:
        report: Where to write the page; None: nowhere.
        trace: Where to write the history of device 0; None: nowhere.
    """

    def __init__(self, report: str | None, trace: str | None) -> None:
        self._report, self._trace = report, trace
        # A path that cannot be written is said before the run, not after it.
        for path in filter(None, [report, trace]):
            with open(path, "a", encoding="utf-8"):
                pass

    @property
    def records(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._report or self._trace)

    def finish(self, command: str) -> None:
        """Writes what was asked for; ``command`` is what ran. What hinders it is said on the
        standard error stream, and the program ends as it would."""
        try:
            if self._trace:
                drystone.save_trace(self._trace, 0)
            if self._report:
                with open(self._report, "w", encoding="utf-8") as file:
                    file.write(page(command))
        except (drystone.Error, OSError) as error:
            print(f"drystone: the report could not be written: {error}", file=sys.stderr)


class Point(NamedTuple):
    """The memory of a device at one time."""

    time_us: int
    live: int
    """Bytes that the program had asked for and not freed."""
    reserved: int
    """Bytes held of the device."""


def curve(events: list[dict[str, Any]], live: int, reserved: int) -> list[Point]:
    """Memory over time by a device's events, of which ``live`` and ``reserved`` bytes were there
    at the end. What was there before the first event follows from that."""
    steps = []
    for event in events:
        action, size = event["action"], event["size"]
        change = {"alloc": size, "free_completed": -size}.get(action, 0)
        held = size if action in _GROWS else -size if action in _SHRINKS else 0
        if change or held:
            steps.append((event["time_us"], change, held))
    live -= sum(change for _, change, _ in steps)
    reserved -= sum(held for _, _, held in steps)
    points = []
    for time, change, held in steps:
        live, reserved = live + change, reserved + held
        points.append(Point(time, live, reserved))
    return points


def thin(points: list[Point], most: int = _POINTS) -> list[Point]:
    """At most ``most`` points, each the highest of its neighbours."""
    every = max(1, -(-len(points) // most))
    parts = (points[at : at + every] for at in range(0, len(points), every))
    return [
        Point(part[-1].time_us, max(p.live for p in part), max(p.reserved for p in part))
        for part in parts
    ]


def picture(points: list[Point]) -> str:
    """The curves as SVG."""
    top = max(max(p.reserved, p.live) for p in points) or 1
    first, last = points[0].time_us, points[-1].time_us
    span = max(last - first, 1)

    def line(values: Iterable[tuple[int, int]], name: str) -> str:
        places = [
            (round((time - first) / span * _WIDTH, 1), round(_HEIGHT * (1 - value / top), 1))
            for time, value in values
        ]
        # A step: memory changes at once.
        path = f"M{places[0][0]},{places[0][1]}" + "".join(f"H{x}V{y}" for x, y in places[1:])
        return f'<path class="{name}" d="{path}"/>'

    grid = "".join(
        f'<line x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/><text x="4" y="{y + 14}">{label}</text>'
        for y, label in (
            (_HEIGHT * part // 4, bytes_text(top * (4 - part) / 4)) for part in range(4)
        )
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 24}" role="img" '
        f'aria-label="reserved and live memory over time">{grid}'
        + line(((p.time_us, p.reserved) for p in points), "reserved")
        + line(((p.time_us, p.live) for p in points), "live")
        + f'<text x="{_WIDTH}" y="{_HEIGHT + 18}" text-anchor="end">{span / 1e6:.3f} s</text></svg>'
    )


def page(command: str) -> str:
    """The whole page, of all devices that were used."""
    traces = drystone.snapshot()["device_traces"]
    parts = []
    for device in range(drystone.device_count()):
        figures = drystone.stats(device)
        if figures["reserved_bytes.all.peak"] == 0:
            continue
        live = figures["requested_bytes.all.current"]
        events = traces[device] if device < len(traces) else []
        points = curve(events, live, drystone.reserved(device))
        parts.append(_section(device, figures, points))
    body = "".join(parts) or "<p>No device memory was asked for.</p>"
    return _PAGE.format(
        command=html.escape(command),
        settings=html.escape(drystone.configuration() or "the defaults"),
        version=html.escape(drystone.__version__),
        body=body,
    )


def _section(device: int, figures: dict[str, int], points: list[Point]) -> str:
    peak, asked = figures["reserved_bytes.all.peak"], figures["requested_bytes.all.peak"]
    ratio = f"{peak / asked:.3f}" if asked else "–"
    drawing = picture(thin(points)) if points else "<p>No events were recorded.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value}</td></tr>"
        for name, value in sorted(figures.items())
    )
    return (
        f"<h2>Device {device}</h2>"
        f"<p>Peak reserved <b>{bytes_text(peak)}</b>, peak asked for <b>{bytes_text(asked)}</b>, "
        f"ratio <b>{ratio}</b>; out of memory {figures['num_ooms']} times.</p>"
        f'{drawing}<p class="key"><span class="reserved">reserved</span> '
        f'<span class="live">asked for</span></p>'
        f"<pre>{html.escape(memory_summary(device))}</pre>"
        f"<details><summary>All figures</summary><table>{rows}</table></details>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Drystone: {command}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }}
svg {{ width: 100%; height: auto; font-size: 11px; fill: #777; }}
svg line {{ stroke: #ddd; }}
svg path {{ fill: none; stroke-width: 1.5; }}
svg .reserved {{ stroke: #b5541c; }}
svg .live {{ stroke: #1c6fb5; }}
.key .reserved {{ color: #b5541c; }}
.key .live {{ color: #1c6fb5; }}
pre {{ overflow-x: auto; background: #f6f6f4; padding: 1rem; }}
td {{ padding: 0 1rem 0 0; font-variant-numeric: tabular-nums; }}
</style></head><body>
<h1>Memory of <code>{command}</code></h1>
<p>Drystone {version}, settings: <code>{settings}</code></p>
{body}
</body></html>
"""
