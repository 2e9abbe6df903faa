"""A source archive holds all that it takes to build the package again, a wheel what there is now and no more."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cmake", "config", "docs", "launch", "mmcl_core", "mmcl_ros", "msg", "scripts", "srv", "test")
FILES = (
    "CMakeLists.txt",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "package.xml",
    "pyproject.toml",
    "setup.py",
)


@pytest.fixture
def source(tmp_path):
    """A copy of what a checkout holds, to be built in."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is not installed, or older than 77")
    folder = tmp_path / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(source, what, first="", **environment):
    """The file that is built, without ROS messages unless the environment says otherwise."""
    out = source.parent / "out"
    out.mkdir()
    command = f"{first}import setuptools.build_meta as build; build.build_{what}({str(out)!r})"
    environment = {**os.environ, "MMCL_ROS": "off", **environment}
    subprocess.run([sys.executable, "-c", command], cwd=source, env=environment, check=True, capture_output=True)
    return next(out.iterdir())


def test_a_source_archive_builds_all_that_the_checkout_does(source):
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    with tarfile.open(build(source, "sdist")) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not wanted - held


def test_a_wheel_holds_nothing_that_an_earlier_build_has_left(source):
    (source / "build/lib/mmcl_core").mkdir(parents=True)
    (source / "build/lib/mmcl_core/gone.py").touch()
    with zipfile.ZipFile(build(source, "wheel")) as wheel:
        held = wheel.namelist()
    assert "mmcl_core/config.py" in held
    assert "mmcl_core/gone.py" not in held


def test_messages_are_built_in_a_path_that_their_generators_cannot_read(source, tmp_path):
    tools = tmp_path / "prefix" / "bin"
    for folder in (tools, tmp_path / "prefix/share/ament_index", tmp_path / "prefix/share/rosidl_default_generators"):
        folder.mkdir(parents=True)
    (tools / "c++").write_text("#!/bin/sh\n")
    (tools / "cmake").write_text(
        f'#!/bin/sh\nfor word; do echo "$word" >> "{tmp_path}/words"; done\n'
        '[ "$1" = --build ] || exit 0\n'
        'mkdir -p "$2/../prefix/lib/site-packages/mmcl_ros/msg"\n'
        'touch "$2/../prefix/lib/site-packages/mmcl_ros/msg/__init__.py"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    source = source.rename(tmp_path / "my sources (new)")
    wheel = build(source, "wheel", f"import sys; sys.prefix = {str(tmp_path / 'prefix')!r}; ", MMCL_ROS="on")
    with zipfile.ZipFile(wheel) as archive:
        assert "mmcl_ros/msg/__init__.py" in archive.namelist()
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == "-S"
    assert not any(" " in word for word in words)
