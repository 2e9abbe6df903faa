"""What a source archive of the package holds: everything that it takes to build it again."""

import os
import shutil
import subprocess
import sys
import tarfile
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


def test_a_source_archive_builds_all_that_the_checkout_does(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is not installed, or older than 77")
    source = tmp_path / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, source / name)
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    environment = {**os.environ, "MMCL_ROS": "off"}
    subprocess.run([sys.executable, "-c", build], cwd=source, env=environment, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not wanted - held
