"""``python -m drystone run``: a program as it is, with Drystone below it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

import drystone
from drystone import _library, _report

HISTORY = 1_000_000
"""How many events are kept for a report or a trace, unless another number is asked for."""


def prepare(options: argparse.Namespace, program: list[str]) -> _report.Recorder:
    """Makes ready what the options ask for, before the program (a script, or ``-m`` and a module,
    with its arguments) runs. Raises what is wrong with either."""
    if program[0] != "-m" and not os.path.exists(program[0]):
        raise drystone.InvalidArgument(f"run: there is no {program[0]!r}")
    if options.history < 1:
        raise drystone.InvalidArgument(f"run: --history {options.history}: 1 or more are allowed")
    recorder = _report.Recorder(options.report, options.trace)
    settings = options.config
    if recorder.records:
        # As a setting: turned on by a call, it would open the device before the program can say
        # which devices it sees.
        settings = _with_history(settings, options.history)
    if options.without_torch:
        drystone.configure(settings)
    else:
        drystone.install(settings, adapter=options.adapter)
    return recorder


def _with_history(settings: str | None, events: int) -> str:
    if settings is None:
        named = (os.environ.get(name) for name in _library.SETTINGS_VARIABLES)
        settings = next((value for value in named if value is not None), "")
    return ",".join(part for part in [settings, f"history:{events}"] if part)


def run(program: list[str], recorder: _report.Recorder) -> None:
    """Runs the program. Its exceptions, and its exit, pass through after the reports are
    written."""
    try:
        _execute(program)
    finally:
        recorder.finish(" ".join(["python", *program]))


def _execute(program: list[str]) -> None:
    # Arguments and the first place to import from, as Python itself sets them.
    if program[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        return
    sys.path[0] = os.path.dirname(os.path.abspath(program[0]))
    sys.argv = program
    runpy.run_path(program[0], run_name="__main__")
