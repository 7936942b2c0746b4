"""``python -m drystone``: programs run as they are, reports are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_program

from drystone import _run

Script = Callable[[str], str]

ALLOCATES = """
import ctypes, drystone
from drystone import _library
for size in (5, 9, 3):
    out = ctypes.c_void_p()
    _library.call("drystone_allocate", size << 20, 0, 0, ctypes.byref(out))
    _library.call("drystone_free", out)
"""


def drystone(*arguments: str, **options: object) -> str:
    done = run_program("-m", "drystone", *arguments, **options)  # type: ignore[arg-type]
    return done.stderr if options.get("fails") else done.stdout


def test_a_script_sees_itself_as_python_would_show_it(script: Script) -> None:
    path = script(
        """
        import json, sys
        print(json.dumps([__name__, __file__, sys.argv, sys.path[0]]))
        """
    )
    said = drystone("run", "--without-torch", path, "--report", "-m", "x")
    expected = ["__main__", path, [path, "--report", "-m", "x"], str(Path(path).parent)]
    assert json.loads(said) == expected


def test_a_module_runs_too(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(script("import sys; print(__name__, sys.argv[1:])"))
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(_run.__file__).parents[1]))
    said = drystone("run", "--without-torch", "-m", "script", "--config", "x")
    assert said.split(maxsplit=1) == ["__main__", "['--config', 'x']\n"]


def test_the_exit_code_is_the_program_s(script: Script) -> None:
    path = script("import sys; sys.exit(7)")
    done = run_program("-m", "drystone", "run", "--without-torch", path, fails=True)
    assert done.returncode == 7


def test_settings_reach_the_allocator(script: Script) -> None:
    path = script("import drystone; print(drystone.get_limit())")
    assert drystone("run", "--without-torch", "--config", "limit:1GiB", path) == f"{1 << 30}\n"
    assert drystone("run", "--without-torch", "--config=limit:2GiB", path) == f"{2 << 30}\n"


def test_the_history_comes_beside_the_settings_of_the_environment(
    script: Script, tmp_path: Path
) -> None:
    path = script("import drystone; print(drystone.get_limit())")
    options = ["--trace", str(tmp_path / "out.csv"), "--history", "5"]
    environment = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64", "DRYSTONE_CONF": "limit:1GiB"}
    said = drystone("run", "--without-torch", *options, path, environment=environment)
    assert said == f"{1 << 30}\n"


def test_a_report_that_cannot_be_made_does_not_hide_the_program_s_end(
    script: Script, tmp_path: Path
) -> None:
    path = script("print('done')")
    options = ["--report", str(tmp_path / "out.html")]
    nowhere = {"DRYSTONE_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    done = run_program(
        "-m", "drystone", "run", "--without-torch", *options, path, environment=nowhere
    )
    assert done.stdout == "done\n"
    assert "the report could not be written: " in done.stderr


def test_an_error_of_the_program_is_its_own(script: Script) -> None:
    path = script("import drystone; drystone.stats(99)")
    said = drystone("run", "--without-torch", path, fails=True)
    assert "Traceback" in said and "InvalidArgument" in said


@pytest.mark.parametrize("end", ["", "raise KeyError('by design')"])
def test_the_report_and_the_trace_are_written(script: Script, tmp_path: Path, end: str) -> None:
    path = script(ALLOCATES + end)
    report, trace = tmp_path / "out.html", tmp_path / "out.csv"
    options = ["--report", str(report), "--trace", str(trace)]
    drystone("run", "--without-torch", *options, path, "<argument>", fails=bool(end))
    page = report.read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "Peak reserved" in page
    assert "&lt;argument&gt;" in page and "<argument>" not in page
    assert "src=" not in page and "href=" not in page, "it needs nothing else"
    rows = [row.split(",") for row in trace.read_text().splitlines()[1:]]
    assert [row[3] for row in rows if row[1] == "a"] == [str(size << 20) for size in (5, 9, 3)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "which program?"),
        (["run", "-m"], "which program?"),
        (["run", "--without-torch", "no-such-script.py"], "there is no 'no-such-script.py'"),
        (["run", "--without-torch", "--history", "0", __file__], "1 or more are allowed"),
        (["run", "--without-torch", "--config", "limitt:1", __file__], "limitt"),
        (["run", "--without-torch", "--report", "/no/such/folder/x", __file__], "No such file"),
        (["run", "--no-such-option", "x", __file__], "unrecognized arguments"),
        ([], "COMMAND"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], words: str) -> None:
    assert words in drystone(*arguments, fails=True)


def test_info_says_what_there_is() -> None:
    said = drystone("info")
    for word in ("library:", "devices:", "1, with 80.00 GiB", "PyTorch:"):
        assert word in said
