"""Fills the figures and outputs of docs/cases, and docs/results/cases.jsonl, anew; `scripts/cases`
runs it.

What is between `<!-- make: KIND NAME -->` and `<!-- end -->` in a page is made here:

error NAME      what PyTorch said
run COMMAND     what the command prints
figures NAME    the program's whole run under other settings
changed NAME …  whole runs of the program after a change of its user
ends NAME …     how they ended in PyTorch itself, with the memory of the case
recorded NAME   a run of such a program on a GPU

With --check nothing is written: the figures of whole runs and what is diagnosed first are made again
and compared with the file, and the pages' tables with what follows from it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PAGES = CHECKOUT / "docs/cases"
DATA = CHECKOUT / "docs/results/cases.jsonl"
GIB = 1 << 30
MIB = 1 << 20
#: What PyTorch's allocator can have in each case: the device less what others hold, or its limit.
FITS = {
    "stanza": 4 * GIB - 3 * GIB,
    "gliner": 4 * GIB - GIB,
    "volumes": 6 * GIB - 500 * MIB,
    "bert": 16 * GIB - 600 * MIB,
    "deepke": 12 * GIB - 450 * MIB,
    "weclone": 24 * GIB * 9 // 10,
}
#: What is known of the device beside the snapshot.
SAID = {"stanza": ["--capacity", "4GiB"]}
CHANGED = ["deepke-16", "deepke-256", "weclone-graphs", "weclone-cache"]
RECORDED = ["stanza_pos", "gliner_batches", "unet3d", "bert512", "deepke_bert", "weclone_qa"]
#: Settings: the policy that is replayed, how a person writes it, and what runs.json calls it.
ROWS = [
    ("pytorch", "as it was", ""),
    ("pytorch-expandable", "`expandable_segments:True`", "expandable_segments:True"),
    ("pytorch:max_split_size_mb=128", "`max_split_size_mb:128`", "max_split_size_mb:128"),
    ("pytorch:max_split_size_mb=512", "`max_split_size_mb:512`", "max_split_size_mb:512"),
    (
        "pytorch:roundup_power2_divisions=4",
        "`roundup_power2_divisions:4`",
        "roundup_power2_divisions:4",
    ),
    ("drystone", "Drystone", "drystone"),
    ("drystone:reserve=lean", "Drystone, `reserve:lean`", "drystone,reserve:lean"),
]
POLICIES = [part for policy, _, _ in ROWS for part in ("--policy", policy)]
Row = dict[str, Any]


def drystone(*arguments: str, may_fail: bool = False) -> str:
    """What the program prints; a policy that runs out of memory is exit code 1."""
    built = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target")) / "release/drystone"
    program = os.environ.get("DRYSTONE_PROGRAM", str(built))
    done = subprocess.run(
        [program, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "COLUMNS": "88"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode not in ((0, 1) if may_fail else (0,)):
        raise SystemExit(f"drystone {shlex.join(arguments)}: exit code {done.returncode}")
    return done.stdout


def lines(command: str, path: str, *arguments: str) -> list[Row]:
    """A line of JSON for each policy, in the order of ROWS."""
    printed = drystone(command, path, *POLICIES, *arguments, "--json", may_fail=True)
    return [json.loads(line) for line in printed.splitlines()]


def file_of(trace: str) -> str:
    """Where a trace is, from the checkout."""
    return f"traces/{trace}.csv.xz" if trace in RECORDED else f"traces/cases/{trace}.dst"


def played(trace: str) -> list[Row]:
    """A trace under all settings with the memory of its case; recorded ones with memory enough."""
    fits = FITS.get(trace.partition("-")[0]) if trace not in RECORDED else None
    capacity = ["--capacity", f"{fits}B"] if fits else []
    rows = []
    for (policy, _, _), one in zip(ROWS, lines("replay", file_of(trace), *capacity), strict=True):
        row = {"trace": trace, "policy": policy, "capacity_bytes": one["capacity_bytes"]}
        row |= {"completes": one["oom"] is None, "peak_live_bytes": one["peak_live_bytes"]}
        rows.append(row | {"peak_reserved_bytes": one["peak_reserved_bytes"]})
    return rows


def measured(trace: str) -> list[Row]:
    """The same, with what it holds where there is enough and the least memory that it needs."""
    enough = lines("replay", file_of(trace))
    least = lines("min-capacity", file_of(trace))
    rows = zip(played(trace), enough, least, strict=True)
    return [
        row
        | {"whole_live_bytes": much["peak_live_bytes"]}
        | {"enough_reserved_bytes": much["peak_reserved_bytes"]}
        | {"min_capacity_bytes": little["min_capacity_bytes"]}
        for row, much, little in rows
    ]


def diagnosed(name: str) -> Row:
    """What is found in a snapshot."""
    said = SAID.get(name, [])
    printed = drystone("diagnose", f"traces/cases/{name}.pickle.xz", *said, "--json")
    [device] = json.loads(printed)["devices"]
    row: Row = {"snapshot": name, "said": said, "capacity_bytes": device["capacity_bytes"]}
    row["findings"] = [finding["kind"] for finding in device["findings"]]
    row["remedies"] = [remedy["setting"] for remedy in device["remedies"] if remedy["completes"]]
    return row


def size(count: int) -> str:
    """As the program writes sizes."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; all columns but the first to the right."""
    head = list(head)
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, marks, *rows])


def torch_says(name: str, settings: str) -> str:
    """How the program itself ended in PyTorch under a setting."""
    end = json.loads((HERE / "runs.json").read_text())[name][settings]
    held = size(end["peak_reserved_bytes"])
    return f"completes, {held}" if end["error"] is None else f"out of memory at {held}"


def figures(name: str, rows: list[Row]) -> str:
    """The program's whole run."""
    mine = {row["policy"]: row for row in rows if row.get("trace") == name}
    fits = size(FITS[name])
    head = ["setting", "holds, with memory enough", "needs at least", f"with {fits}"]
    body = []
    for policy, written, settings in ROWS:
        row = mine[policy]
        end = "completes" if row["completes"] else "out of memory"
        cells = [written, size(row["enough_reserved_bytes"]), size(row["min_capacity_bytes"]), end]
        body.append([*cells, torch_says(name, settings)])
    live = size(mine["pytorch"]["whole_live_bytes"])
    return f"At most {live} are live.\n\n" + table([*head, f"in PyTorch itself, with {fits}"], body)


def changed(names: list[str], rows: list[Row]) -> str:
    """Whole runs beside each other: what each needs at least."""
    runs = [{row["policy"]: row for row in rows if row.get("trace") == name} for name in names]
    body = [["*live at most*", *(size(run["pytorch"]["whole_live_bytes"]) for run in runs)]]
    for policy, written, _ in ROWS:
        cells = (size(run[policy]["min_capacity_bytes"]) for run in runs)
        body.append([written, *(f"{cell}" for cell in cells)])
    return table(["needs at least", *(f"`{name}`" for name in names)], body)


def ends(names: list[str]) -> str:
    """Runs in PyTorch itself beside each other."""
    body = [[row[1], *(torch_says(name, row[2]) for name in names)] for row in ROWS]
    return table(["in PyTorch itself", *(f"`{name}`" for name in names)], body)


def recorded(name: str, rows: list[Row]) -> str:
    """A run that was recorded on a GPU."""
    mine = [row for row in rows if row.get("trace") == name]
    head = ["setting", "holds, with memory enough", "× live", "needs at least", "× live"]
    body = []
    for (_, written, _), row in zip(ROWS, mine, strict=True):
        cells = [written]
        for count in (row["enough_reserved_bytes"], row["min_capacity_bytes"]):
            cells += [size(count), f"{count / row['whole_live_bytes']:.3f}"]
        body.append(cells)
    return f"At most {size(mine[0]['whole_live_bytes'])} are live.\n\n" + table(head, body)


def error(name: str) -> str:
    """PyTorch's words, without the advice that they all end with."""
    said = json.loads((HERE / "runs.json").read_text())[name][""]["error"]
    return "> torch.OutOfMemoryError: " + said.partition(" If reserved but")[0]


def output(command: str) -> str:
    """A command and what it prints."""
    printed = drystone(*shlex.split(command)[1:], may_fail=True)
    shown = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return f"```text\n$ {command}\n{shown}\n```"


def filled(page: Path, rows: list[Row], outputs: bool) -> str:
    """A page with its parts made anew; outputs only where that is asked for."""

    def part(found: re.Match[str]) -> str:
        kind, what = found["kind"], found["what"]
        if kind == "run":
            made = output(what) if outputs else found["old"].strip()
        else:
            makers = {"error": lambda: error(what), "figures": lambda: figures(what, rows)}
            makers |= {"changed": lambda: changed(what.split(), rows)}
            makers |= {"ends": lambda: ends(what.split())}
            makers |= {"recorded": lambda: recorded(what, rows)}
            made = makers[kind]()
        return f"<!-- make: {kind} {what} -->\n\n{made}\n\n<!-- end -->"

    mark = r"<!-- make: (?P<kind>\w+) (?P<what>.*?) -->(?P<old>.*?)<!-- end -->"
    return re.sub(mark, part, page.read_text(), flags=re.S)


def check(rows: list[Row]) -> None:
    """Fails where the file or a page is not what the program gives today."""
    wrong = []
    for trace in [*FITS, *CHANGED]:
        known = [row for row in rows if row.get("trace") == trace]
        new = played(trace)
        short = [{key: row.get(key) for key in new[0]} for row in known]
        wrong += [f"the figures of {trace}"] if short != new else []
    for name in FITS:
        [known] = [row for row in rows if row.get("snapshot") == name]
        now = diagnosed(name)
        same = all(known[what][:1] == now[what][:1] for what in ("findings", "remedies"))
        wrong += [] if same else [f"the diagnosis of {name}"]
    for page in sorted(PAGES.glob("*.md")):
        wrong += [page.name] if filled(page, rows, outputs=False) != page.read_text() else []
    if wrong:
        raise SystemExit(f"stale: {', '.join(wrong)}; scripts/cases makes them anew")


def main() -> None:
    """Makes all anew, or checks it."""
    if sys.argv[1:] == ["--check"]:
        check([json.loads(line) for line in DATA.read_text().splitlines()])
        return
    if sys.argv[1:] not in ([], ["--outputs"]):
        raise SystemExit(__doc__)
    rows = [diagnosed(name) for name in FITS]
    if sys.argv[1:]:
        # The figures of runs do not depend on what is said of them.
        rows += [row for row in map(json.loads, DATA.read_text().splitlines()) if "trace" in row]
    else:
        for trace in [*FITS, *CHANGED, *RECORDED]:
            print(trace, file=sys.stderr)
            rows += measured(trace)
    DATA.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in FITS:
        shown = ["--policy", "pytorch", "--policy", "pytorch-expandable", "--policy", "drystone"]
        files = [file_of(name), "--capacity", f"{FITS[name]}B", "--svg", f"docs/cases/{name}.svg"]
        drystone("compare", *files, *shown, may_fail=True)
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page, rows, outputs=True))


if __name__ == "__main__":
    main()
