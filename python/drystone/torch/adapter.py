"""The full adapter: a class of PyTorch's own kind in C++, compiled for the PyTorch that is there.

It is built on first use and kept, by the versions of PyTorch and of Drystone, in a folder of the user's;
``python -m drystone.torch.adapter build`` builds it ahead of time. What it takes is a C++ compiler and
the headers of CUDA's runtime, which come with the toolkit, or with PyTorch's own packages from pip; no
nvcc, no setuptools and no ninja.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drystone import _library
from drystone._version import VERSION

__all__ = ["AdapterUnavailable", "build", "install"]

CACHE_VARIABLE = "DRYSTONE_CACHE"
"""The environment variable that names the folder in which built adapters are kept."""

_SOURCES = Path(__file__).with_name("csrc")
_TORCH = "2.11"
"""The version of PyTorch whose class the sources carry. Others have other functions."""

_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
_LINK_FLAGS = ["-shared", "-nodefaultlibs"]
_MESSAGE_BYTES = 4096


class AdapterUnavailable(RuntimeError):
    """The full adapter cannot be built or put in place; the text says why, in one line."""


def install(config: str | None = None) -> None:
    """Makes the full adapter PyTorch's CUDA allocator, built first if it is not yet.

    Args:
        config: Settings as in ``DRYSTONE_CONF``; None: what was configured before, or the
            environment's.

    Raises:
        AdapterUnavailable: It cannot be had here, or CUDA is in use already.
        ConfigError: The settings are wrong.
    """
    import torch

    from drystone.torch import settings

    if torch.cuda.is_initialized():
        raise AdapterUnavailable("CUDA is in use already, and PyTorch takes another allocator only before")
    built = build()
    if config is not None:
        _library.configure(config)
    _library.library()
    try:
        adapter = ctypes.CDLL(str(built))
    except OSError as error:
        raise AdapterUnavailable(
            f"{built} cannot be loaded ({error}): remove it, and it is built again"
        ) from error
    _call(adapter.drystone_adapter_install, str(_library.path()).encode())
    settings.connect()


def build() -> Path:
    """The built adapter for this PyTorch, compiled unless it is in the folder already.

    Raises:
        AdapterUnavailable: There is no compiler, no header, or PyTorch is of another version.
    """
    torch = _torch_folder()
    made = _folder() / f"adapter-{_torch_version()}-{VERSION}-{_fingerprint()}.so"
    if made.is_file():
        return made
    compiler, headers = _compiler(), _headers(torch)
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(made), tempfile.TemporaryDirectory(dir=made.parent) as work:
            # Another process may have built it meanwhile.
            if not made.is_file():
                print(
                    f"drystone: building the adapter for PyTorch {_torch_version()}, once, into {made.parent}",
                    file=sys.stderr,
                )
                _compile(compiler, headers, torch, Path(work), made)
    except OSError as error:
        raise AdapterUnavailable(
            f"it cannot be built in {made.parent} ({error}): set {CACHE_VARIABLE} to a folder of yours"
        ) from error
    return made


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _torch_folder() -> Path:
    import torch

    version = _torch_version()
    if not version.startswith(f"{_TORCH}."):
        raise AdapterUnavailable(
            f"this is PyTorch {version}, and its allocator class is known for {_TORCH} only"
        )
    folder = Path(torch.__file__).parent
    if not (folder / "lib" / "libc10_cuda.so").is_file():
        raise AdapterUnavailable(f"PyTorch {version} was built without CUDA")
    return folder


def _folder() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drystone"


def _fingerprint() -> str:
    """What a build depends on beside PyTorch: other sources make another file."""
    digest = hashlib.sha256("\0".join([*_FLAGS, *_LINK_FLAGS, sys.platform]).encode())
    own = [source for source in _SOURCES.iterdir() if source.name != _interface().name]
    for source in [*sorted(own), _interface()]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _interface() -> Path:
    """Drystone's header for C: beside the sources, or where C programs of the package find it."""
    for folder in (_SOURCES, _SOURCES.parents[1] / "include"):
        # In a copied checkout the first one may be a link to nowhere.
        if (folder / "drystone.h").is_file():
            return folder / "drystone.h"
    raise AdapterUnavailable("this package was put together without drystone.h: install it with pip")


def _compiler() -> str:
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    for name in filter(None, candidates):
        found = shutil.which(name)
        if found:
            return found
    raise AdapterUnavailable(
        "there is no C++ compiler: install g++, name one in CXX, or build the adapter elsewhere and set "
        f"{CACHE_VARIABLE}"
    )


def _headers(torch: Path) -> list[Path]:
    """Folders for the compiler: PyTorch's, and the first that has all headers of CUDA's runtime.

    Python packages of the runtime may lack the folder ``crt``, which is a package of its own.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [
        *sorted(torch.parent.glob("nvidia/cu*/include")),
        torch.parent / "nvidia" / "cuda_runtime" / "include",
        *(Path(home) / "include" for home in homes if home),
    ]
    for cuda in candidates:
        if all((cuda / name).is_file() for name in ("cuda_runtime_api.h", "crt/host_config.h")):
            include = torch / "include"
            return [include, include / "torch" / "csrc" / "api" / "include", cuda]
    raise AdapterUnavailable(
        "the headers of CUDA's runtime (cuda_runtime_api.h and crt/host_config.h) are not there: install the "
        "CUDA toolkit, or the packages nvidia-cuda-runtime and nvidia-cuda-crt of PyTorch's CUDA version, or "
        "set CUDA_HOME"
    )


@contextlib.contextmanager
def _only_one(made: Path) -> Iterator[None]:
    """Lets one process build at a time; the lock of one that dies goes with it."""
    with open(made.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(compiler: str, headers: list[Path], torch: Path, work: Path, made: Path) -> None:
    import torch as module

    abi = int(module._C._GLIBCXX_USE_CXX11_ABI)
    flags = [*_FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{_interface().parent}"]
    flags += [f"-isystem{path}" for path in headers]
    log = made.with_suffix(".log")

    def run(*arguments: str) -> None:
        done = subprocess.run([compiler, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            log.write_text(done.stderr)
            lines = done.stderr.splitlines() or ["it says nothing"]
            first = next((line for line in lines if "error" in line), lines[-1])
            raise AdapterUnavailable(f"{compiler} cannot build it (all it says is in {log}): {first}")

    sources = sorted(_SOURCES.glob("*.cpp"))
    objects = [str(work / f"{source.stem}.o") for source in sources]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(run, *flags, "-c", str(source), "-o", target)
            for source, target in zip(sources, objects)
        ]
        for job in jobs:
            job.result()
    shared = work / "adapter.so"
    libraries = [f"-L{torch / 'lib'}", "-lc10", "-lc10_cuda", "-ltorch_cuda"]
    # CUDA's runtime and C++'s library are those that PyTorch has loaded. Left to itself, a compiler may
    # link C++'s statically, and two of them in one process crash at the first exception or stream.
    libraries += [str(_loaded("libstdc++.so.6")), "-lm", "-lgcc_s", "-lgcc", "-lc", "-ldl"]
    run(*_LINK_FLAGS, "-o", str(shared), *objects, *libraries)
    os.replace(shared, made)


def _loaded(name: str) -> Path:
    """The file of a library that this process has loaded."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = Path(line.split(maxsplit=5)[-1].strip())
            if path.name.startswith(name):
                return path
    raise AdapterUnavailable(f"PyTorch has not loaded {name}: it was built with another C++ library")


def _call(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    if function(*arguments, message, ctypes.c_size_t(_MESSAGE_BYTES)) != 0:
        raise AdapterUnavailable(message.value.decode(errors="replace"))


def _main(arguments: list[str]) -> int:
    if arguments != ["build"]:
        print("usage: python -m drystone.torch.adapter build", file=sys.stderr)
        return 2
    try:
        print(build())
    except AdapterUnavailable as error:
        print(f"drystone: the full adapter cannot be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
