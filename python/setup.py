"""Builds libdrystone.so with cargo into the package, and a wheel for this platform around it.

Set DRYSTONE_LIBRARY to the path of a libdrystone.so to put that one in and build nothing.
"""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parent


def library() -> Path:
    """The library to put in, built unless one is given."""
    given = os.environ.get("DRYSTONE_LIBRARY")
    if given:
        return Path(given)
    if not (WORKSPACE / "crates" / "drystone-capi" / "Cargo.toml").is_file():
        raise SystemExit(
            "drystone: the Rust sources are not beside this folder: install from a checkout of the "
            "repository, or set DRYSTONE_LIBRARY to the path of a libdrystone.so"
        )
    if shutil.which("cargo") is None:
        raise SystemExit(
            "drystone: cargo is not there: install Rust (https://rustup.rs), or set "
            "DRYSTONE_LIBRARY to the path of a libdrystone.so"
        )
    command = ["cargo", "build", "--release", "--locked", "--package", "drystone-capi"]
    subprocess.run(command, cwd=WORKSPACE, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    return WORKSPACE / target / "release" / "libdrystone.so"


class BuildWithLibrary(build_py):
    """Copies the library beside the modules; an editable install gets it into the source folder."""

    def run(self) -> None:
        # What an earlier build left would get into the wheel.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        folder = HERE if self.editable_mode else Path(self.build_lib)
        shutil.copy2(library(), folder / "drystone" / "libdrystone.so")


class WheelForPlatform(bdist_wheel):
    """Any Python 3, but this platform: the library is called through ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class WithBinary(Distribution):
    """A distribution that is not the same on all platforms."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=WithBinary,
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelForPlatform},
)
