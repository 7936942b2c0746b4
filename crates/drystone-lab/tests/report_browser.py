"""Looks at a report of `drystone compare --report` in Chromium: that it draws without an error and without the network,
that no task while scrubbing takes above 100 ms, and that nothing is wider than the window. With --shots DIR it also
keeps pictures, at 1280 and 390 px, light and dark. Needs only Python and a Chromium; without one it says so and passes.

    scripts/report-browser run.html [--shots DIR] [--policy NAME] [--json]

What a mouse, a wheel and fingers do is in report_hands.py.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report_hands import fingers, mouse

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
LONGEST_MS = 100
"""The longest that a task may take while somebody scrubs: beyond it, a hand notices."""


class Browser:
    """A Chromium that is spoken to through pipes: JSON, each message ended by a zero byte."""

    def __init__(self, program: str, profile: str) -> None:
        ours, theirs = os.pipe(), os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", "--no-first-run", "about:blank"]

        def wire() -> None:
            # The protocol's own numbers: 3 to be read by the browser, 4 to be written.
            low, high = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(low, 3)
            os.dup2(high, 4)

        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([program, *flags], preexec_fn=wire, close_fds=False, stdout=quiet, stderr=quiet)
        os.close(ours[0])
        os.close(theirs[1])
        self.out, self.into = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb", 0)
        self.rest, self.number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def message(self) -> dict:
        while b"\0" not in self.rest:
            more = self.into.read(1 << 20)
            if not more:
                sys.exit("report-browser: the browser went away")
            self.rest += more
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def call(self, method: str, **params) -> dict:
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if getattr(self, "session", None):
            request["sessionId"] = self.session
        self.out.write(json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"report-browser: {method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str):
        """The value of an expression in the page, awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            sys.exit(f"report-browser: {details.get('exception', {}).get('description', details['text'])}")
        return result["result"].get("value")

    def open(self, path: Path, width: int, height: int, theme: str) -> None:
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise((done) => { const wait = () => typeof page === 'object' && page.ready"
                 " || document.getElementById('problem')?.hidden === false ? done() : setTimeout(wait, 20); wait(); })")
        time.sleep(0.3)

    def problems(self) -> list[str]:
        """Errors in the page, and what it asked of the network."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:400])
            elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
            elif event.get("method") == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "about:", "blob:", "data:")):
                    found.append(f"asked the network for {url}")
        self.events.clear()
        return found

    def picture(self, path: Path, whole: bool = True) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


SCRUB = """(async () => {
  const tasks = [];
  const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((e) => e.duration)));
  observer.observe({ entryTypes: ["longtask"] });
  const slider = document.getElementById("time");
  const last = Number(slider.max);
  const frames = [];
  for (let i = 0; i <= 150; i++) {
    slider.value = Math.round((i * 37 % 151) / 150 * last);
    const began = performance.now();
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise(requestAnimationFrame);
    await new Promise((done) => setTimeout(done, 0));
    frames.push(performance.now() - began);
  }
  await new Promise((done) => setTimeout(done, 200));
  observer.disconnect();
  frames.sort((a, b) => a - b);
  return { longest: Math.max(0, ...tasks), count: tasks.length, median: frames[75], worst: frames[150] };
})()"""
"""Goes to 151 moments all over the run; the long tasks (above 50 ms) while it does."""

WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def check(browser: Browser, path: Path, policy: str | None, shots: Path | None, as_json: bool) -> list[str]:
    """What is wrong with a page. How it scrubs is printed."""
    wrong = []
    for width, height in ((1280, 900), (390, 844)):
        for theme in ("light", "dark"):
            browser.open(path, width, height, theme)
            if browser.run("!document.getElementById('problem').hidden"):
                wrong.append(browser.run("document.getElementById('problem').textContent"))
                continue
            if policy:
                wanted = f"entry().policies.findIndex(({{ label }}) => label === {json.dumps(policy)})"
                if browser.run(wanted) < 0:
                    sys.exit(f"report-browser: no policy {policy} in {path}")
                browser.run(f"showPolicy({wanted})")
                time.sleep(0.3)
            if (over := browser.run(WIDE)) > 0:
                wrong.append(f"{over} px wider than a window of {width}")
            if shots:
                browser.picture(shots / f"{path.stem}-{width}-{theme}.png")
            if theme == "light":
                # A machine that does other things delays tasks: the best of three rounds is the page's own.
                rounds = (browser.run(SCRUB) for _ in range(3))
                found = next((r for r in rounds if r["longest"] <= LONGEST_MS), None) or browser.run(SCRUB)
                text = (f"{path.name} at {width} px: longest task while scrubbing {found['longest']:.0f} ms "
                        f"({found['count']} above 50 ms), a frame {found['median']:.0f} ms, at worst {found['worst']:.0f} ms")
                print(json.dumps({"page": path.name, "width": width, **found}) if as_json else text)
                if found["longest"] > LONGEST_MS:
                    wrong.append(f"a task of {found['longest']:.0f} ms while scrubbing at {width} px")
                hand = fingers if width < 600 else mouse
                wrong += [f"{what} (at {width} px)" for what in hand(browser)]
            wrong += browser.problems()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="keep pictures in this folder")
    parser.add_argument("--policy", help="show this policy in the map")
    parser.add_argument("--json", action="store_true", help="print how a page scrubs as JSON, a line for each width")
    args = parser.parse_args()
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        print("report-browser: skipped, there is no Chromium here", file=sys.stderr)
        return 0
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    wrong = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            for path in args.pages:
                wrong += [f"{path}: {what}" for what in check(browser, path, args.policy, args.shots, args.json)]
        finally:
            browser.close()
    for what in wrong:
        print(f"report-browser: {what}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
