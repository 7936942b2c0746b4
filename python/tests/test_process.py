"""How the library is found and how the allocator of a process gets its settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_code


def test_the_library_is_of_this_package() -> None:
    import drystone
    from drystone import _library

    assert _library.version() == drystone.__version__


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({"DRYSTONE_CONF": "limit:1GiB"}, 1 << 30),
        ({"DRYSTONE_CONF": "limit:1GiB", "PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, 1 << 30),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, None),
        ({}, None),
    ],
)
def test_settings_of_the_environment(environment: dict[str, str], limit: int | None) -> None:
    code = "import drystone; print(drystone.get_limit(), drystone.configuration())"
    said = run_code(code, environment=environment).stdout
    assert said.startswith(f"{limit} ")
    if "PYTORCH_ALLOC_CONF" in environment and "DRYSTONE_CONF" not in environment:
        assert "max_split_size_mb:64" in said


def test_settings_of_the_program_come_before_the_environment() -> None:
    code = "import drystone; drystone.configure('limit:2GiB'); print(drystone.get_limit())"
    done = run_code(code, environment={"DRYSTONE_CONF": "limit:1GiB"})
    assert done.stdout.strip() == str(2 << 30)


def test_settings_come_too_late_once_it_is_in_use() -> None:
    done = run_code(
        """
        import drystone
        drystone.stats()
        try:
            drystone.configure("limit:2GiB")
        except drystone.InvalidArgument as error:
            print(error)
        """
    )
    assert "before the first allocation" in done.stdout


def test_several_devices_and_access_between_them() -> None:
    run_code(
        """
        import drystone
        drystone.configure(None, "sim", simulated_devices=2)
        assert drystone.device_count() == 2
        drystone.limit(1 << 30, "cuda:1")
        assert [drystone.get_limit(0), drystone.get_limit(1)] == [None, 1 << 30]
        drystone.enable_peer_access(0, 1)
        try:
            drystone.enable_peer_access(0, 7)
        except drystone.InvalidArgument as error:
            assert "there is no device 7" in str(error)
        else:
            raise AssertionError("device 7?")
        """
    )


def test_a_setting_that_is_not_known_names_the_nearest() -> None:
    done = run_code(
        """
        import drystone
        try:
            drystone.configure("limitt:2GiB")
        except drystone.ConfigError as error:
            print(error)
        """
    )
    assert "limitt" in done.stdout and "limit" in done.stdout.replace("limitt", "")


def test_no_device_says_how_to_try_without_one() -> None:
    done = run_code(
        """
        import drystone
        try:
            drystone.stats()
        except drystone.NoDevice as error:
            print(error)
        else:
            print("there is one")
        """,
        environment={"DRYSTONE_DEVICE": "cuda"},
    )
    assert "DRYSTONE_DEVICE=sim" in done.stdout or "there is one" in done.stdout


def test_a_library_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    missing = str(tmp_path / "libdrystone.so")
    done = run_code(
        "import drystone; drystone.stats()", environment={"DRYSTONE_LIBRARY": missing}, fails=True
    )
    assert f"there is no {missing}" in done.stderr and "pip" in done.stderr


def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make another library with")
    other = tmp_path / "libdrystone.so"
    source = tmp_path / "other.c"
    source.write_text("int something_else(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    done = run_code(
        "import drystone; drystone.stats()",
        environment={"DRYSTONE_LIBRARY": str(other)},
        fails=True,
    )
    assert "not of this package's version" in done.stderr
