"""What hands do to a page of `drystone compare --report`, through the browser's own events: a mouse and its wheel on a
wide window, fingers on a narrow one. Each function returns what did not happen as it should."""

import time

STATE = """(() => ({ us: timeNow(), view: page.view, map: map.view, block: page.block, all: entry().run_us,
  scroll: scrollY, tip: !$("tip").hidden }))()"""

BOX = """(() => {
  $("%s").scrollIntoView({ block: "center" });
  const { left, top, width, height } = $("%s").getBoundingClientRect();
  return { left, top, width, height };
})()"""

NEAREST = """(() => {
  const us = memory.timeAt(%f);
  return page.trace.times.reduce((best, at) => (Math.abs(at - us) < Math.abs(best - us) ? at : best));
})()"""
"""The moment's time that is nearest to a place of the chart."""

A_BLOCK = """(() => {
  const { left, top } = $("map").getBoundingClientRect();
  const cell = map.owners.findIndex((owner, at) => owner >= 0 && map.owners[at + 2] === owner);
  const [row, column] = [Math.floor(cell / map.columns), cell % map.columns];
  const x = left + ((column + 1.5) / map.columns) * $("map").clientWidth;
  return { x, y: top + (row + 0.5) * map.rowHeight, block: map.owners[cell] };
})()"""
"""A place of the map with a block, and its number."""


class Page:
    """A page under a hand."""

    def __init__(self, browser) -> None:
        self.browser = browser
        self.wrong = []

    def box(self, name: str) -> dict:
        """Where it is, after it was scrolled into view."""
        box = self.browser.run(BOX % (name, name))
        self.settle()
        return box

    def state(self) -> dict:
        self.settle()
        return self.browser.run(STATE)

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def at_the_moment_of(self, x: float, what: str) -> None:
        wanted = self.browser.run(NEAREST % x)
        found = self.state()["us"]
        self.expect(found == wanted, f"{what} went to {found} us instead of {wanted}")

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def pinch(self, box: dict, before: float, after: float) -> None:
        """Two fingers that were so far apart, as a part of the box's width, and then so far."""
        y = box["top"] + box["height"] / 2

        def both(apart: float) -> list[tuple[float, float]]:
            return [(box["left"] + box["width"] * (0.5 + side * apart / 2), y) for side in (-1, 1)]

        first, second = both(before)
        self.touch("touchStart", first)
        self.touch("touchStart", first, second)
        for step in range(1, 9):
            self.touch("touchMove", *both(before + (after - before) * step / 8))
        self.touch("touchEnd", second)
        self.touch("touchEnd")


def length(view: list[float]) -> float:
    return view[1] - view[0]


def mouse(browser) -> list[str]:
    """Pressing, dragging, hovering; the wheel alone, with Ctrl and with Shift; a double click."""
    page = Page(browser)
    box = page.box("chart")
    y = box["top"] + box["height"] / 2
    x = [box["left"] + box["width"] * part for part in (0.25, 0.5, 0.75)]
    page.mouse("mouseMoved", x[1], y)
    page.expect(page.state()["tip"], "a mouse above the chart is told nothing")
    left = {"button": "left", "clickCount": 1}
    page.mouse("mousePressed", x[0], y, **left)
    page.at_the_moment_of(x[0], "a press")
    page.mouse("mouseMoved", x[1], y, buttons=1, **left)
    page.mouse("mouseMoved", x[2], y, buttons=1, **left)
    page.mouse("mouseReleased", x[2], y, **left)
    page.at_the_moment_of(x[2], "a drag")

    before = page.state()
    page.mouse("mouseWheel", x[1], y, deltaX=0, deltaY=-200, modifiers=2)
    after = page.state()
    page.expect(length(after["view"]) < 0.6 * length(before["view"]), "Ctrl and the wheel did not zoom the chart")
    page.expect(after["scroll"] == before["scroll"], "Ctrl and the wheel scrolled the page")
    page.mouse("mouseWheel", x[1], y, deltaX=0, deltaY=100, modifiers=8)
    moved = page.state()["view"]
    page.expect(moved[0] > after["view"][0], "Shift and the wheel did not move along")
    page.expect(abs(length(moved) - length(after["view"])) < 1, "Shift and the wheel zoomed")
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.mouse(kind, x[1], y, button="left", clickCount=count)
    page.expect(page.state()["view"] == [0, max(1, before["all"])], "a double click did not show all")
    before = page.state()
    page.mouse("mouseWheel", x[1], y, deltaX=0, deltaY=150)
    time.sleep(0.3)
    after = page.state()
    page.expect(after["view"] == before["view"], "the wheel alone zoomed")
    page.expect(after["scroll"] > before["scroll"], "the wheel alone did not scroll the page")

    box = page.box("map")
    place = browser.run(A_BLOCK)
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, place["x"], place["y"], **left)
    page.expect(page.state()["block"] == place["block"], "a click on the map did not choose the block there")
    before = page.state()
    page.mouse("mouseWheel", place["x"], place["y"], deltaX=0, deltaY=-300, modifiers=2)
    after = page.state()
    page.expect(length(after["map"]) < length(before["map"]), "Ctrl and the wheel did not zoom the map")
    x, y = (box["left"] + box["width"] / 2, box["top"] + box["height"] / 2)
    page.mouse("mousePressed", x, y, **left)
    page.mouse("mouseMoved", x, y - 60, buttons=1, **left)
    page.mouse("mouseReleased", x, y - 60, **left)
    dragged = page.state()
    page.expect(dragged["map"] != after["map"], "dragging did not move the map")
    page.expect(dragged["block"] == place["block"], "dragging chose a block")
    return page.wrong


def fingers(browser) -> list[str]:
    """A tap, a finger that moves along and one that scrolls, two that move apart and together."""
    page = Page(browser)
    box = page.box("chart")
    y = box["top"] + box["height"] / 2
    x = [box["left"] + box["width"] * part for part in (0.25, 0.5, 0.75)]
    page.touch("touchStart", (x[0], y))
    page.touch("touchEnd")
    page.at_the_moment_of(x[0], "a tap")
    before = page.state()
    page.expect(not before["tip"], "the tip stays when the finger is gone")
    page.touch("touchStart", (x[0], y))
    for step in range(1, 9):
        page.touch("touchMove", (x[0] + (x[2] - x[0]) * step / 8, y))
    page.expect(page.state()["tip"], "a finger that moves along is told nothing")
    page.touch("touchEnd")
    page.at_the_moment_of(x[2], "a finger that moves along")
    after = page.state()
    page.expect(after["view"] == before["view"], "one finger zoomed")
    page.expect(after["scroll"] == before["scroll"], "a finger that moves along scrolled the page")

    page.pinch(box, 0.1, 0.5)
    wide = page.state()["view"]
    times = length(before["view"]) / max(1, length(wide))
    page.expect(3.5 < times < 7 or length(wide) <= 20, f"fingers five times as far apart zoomed {times:.2f} times")
    page.pinch(box, 0.6, 0.06)
    page.expect(page.state()["view"] == before["view"], "fingers that moved together did not show all again")
    page.touch("touchStart", (x[1], y))
    for step in range(1, 9):
        page.touch("touchMove", (x[1], y - 15 * step))
        time.sleep(0.02)
    page.touch("touchEnd")
    time.sleep(0.3)
    page.expect(page.state()["scroll"] > before["scroll"], "a finger that moves up did not scroll the page")

    box = page.box("map")
    place = browser.run(A_BLOCK)
    page.touch("touchStart", (place["x"], place["y"]))
    page.touch("touchEnd")
    page.expect(page.state()["block"] == place["block"], "a tap on the map did not choose the block there")
    before = page.state()
    page.pinch(box, 0.1, 0.5)
    after = page.state()
    times = length(before["map"]) / length(after["map"])
    page.expect(3.5 < times < 7 or length(after["map"]) <= 4096, f"the map zoomed {times:.2f} times instead of five")
    page.expect(after["block"] == before["block"], "two fingers chose a block")
    page.expect(after["scroll"] == before["scroll"], "two fingers scrolled the page")
    page.pinch(box, 0.6, 0.06)
    page.expect(page.state()["map"] == before["map"], "fingers that moved together did not show all of the map again")
    return page.wrong
