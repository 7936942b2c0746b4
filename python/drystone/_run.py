"""``python -m drystone run``: a program as it is, with Drystone below it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

import drystone
from drystone import _report

HISTORY = 1_000_000
"""How many events are kept for a report or a trace, unless another number is asked for."""


def prepare(options: argparse.Namespace, program: list[str]) -> _report.Recorder:
    """Makes ready what the options ask for, before the program (a script, or ``-m`` and a module,
    with its arguments) runs. Raises what is wrong with either."""
    if program[0] != "-m" and not os.path.exists(program[0]):
        raise drystone.InvalidArgument(f"run: there is no {program[0]!r}")
    if options.history < 1:
        raise drystone.InvalidArgument(f"run: --history {options.history}: 1 or more are allowed")
    if options.without_torch:
        drystone.configure(options.config)
    else:
        drystone.install(options.config, adapter=options.adapter)
    return _report.Recorder(options.report, options.trace, options.history)


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
