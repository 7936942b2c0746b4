"""The command ``python -m drystone``: run a program under Drystone, or say what there is."""

from __future__ import annotations

import argparse
import sys

from drystone import _info, _library, _run
from drystone._version import VERSION


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m drystone",
        description="Drystone, a caching allocator for GPU memory.",
    )
    parser.add_argument("--version", action="version", version=f"drystone {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a Python program with Drystone as PyTorch's allocator",
        description="Runs a Python program as `python script.py ...` would, with Drystone as "
        "PyTorch's CUDA allocator. Options of Drystone's stand before the script.",
        usage="%(prog)s [options] (script.py | -m module) [arguments ...]",
        allow_abbrev=False,
    )
    run.add_argument(
        "--config",
        metavar="SETTINGS",
        help="settings, such as limit:12GiB,reserve:lean (default: DRYSTONE_CONF, else "
        "PYTORCH_ALLOC_CONF)",
    )
    run.add_argument(
        "--adapter",
        choices=["auto", "full", "plain"],
        default="auto",
        help="how PyTorch is connected (default: auto, which is full where it can be)",
    )
    run.add_argument(
        "--report",
        metavar="FILE.html",
        help="at the end, write memory over time and the statistics as one HTML page",
    )
    run.add_argument(
        "--trace",
        metavar="FILE.csv",
        help="at the end, write the history of device 0 for `drystone compare`",
    )
    run.add_argument(
        "--history",
        metavar="EVENTS",
        type=int,
        default=_run.HISTORY,
        help="how many events --report and --trace keep, the last ones (default: %(default)s)",
    )
    run.add_argument(
        "--without-torch",
        action="store_true",
        help="connect nothing: for programs that use Drystone through CuPy, Numba or its own "
        "functions",
    )
    commands.add_parser(
        "info",
        help="say which library, device, settings and PyTorch there are",
        description="Says which library, device, settings and PyTorch there are.",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; its exit code."""
    own, program = _split(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(own)
    if options.command == "info":
        print(_info.text(), end="")
        return 0
    if not program or program == ["-m"]:
        parser.error("run: which program? Give a script, or -m and a module")
    try:
        recorder = _run.prepare(options, program)
    except (_library.Error, _library.LibraryError, OSError) as error:
        print(f"drystone: {error}", file=sys.stderr)
        return 2
    _run.run(program, recorder)
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Drystone's arguments, and those from the program on, which may look like Drystone's."""
    if arguments[:1] != ["run"]:
        return arguments, []
    at = 1
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "-m":
        alone = "=" in arguments[at] or arguments[at] in _FLAGS
        at += 1 if alone else 2
    return arguments[:at], arguments[at:]


_FLAGS = ("--without-torch", "--help", "-h")
"""The options of ``run`` that take no value."""


if __name__ == "__main__":
    sys.exit(main())
