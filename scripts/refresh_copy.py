"""Bring the copy of the package in an environment up to the checkout, without building the messages again.

usage: python scripts/refresh_copy.py [PREFIX]

PREFIX is an environment in which the package was installed; default: that of the interpreter.
"""

import filecmp
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: As package-data of pyproject.toml and CMakeLists.txt have it.
PACKAGES = {"mmcl_core": (".py", ".typed", ".safetensors", ".md"), "mmcl_ros": (".py", ".typed")}
GENERATED = ("msg", "srv")


def files(folder: Path, suffixes: Iterable[str]) -> set[Path]:
    """The files below a folder, relative to it, less those that Python or the message generators have made."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes}
    return {path for path in found if "__pycache__" not in path.parts and path.parts[0] not in GENERATED}


def copy(source: Path, target: Path, suffixes: Iterable[str]) -> None:
    """Make the files of the target those of the source."""
    wanted = files(source, suffixes)
    for path in files(target, suffixes) - wanted:
        (target / path).unlink()
    for path in wanted:
        if not (target / path).is_file() or not filecmp.cmp(source / path, target / path, shallow=False):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, target / path)


def refresh(prefix: Path) -> None:
    """Copy the Python packages and, where the ROS part was installed, its launch files, settings and executables."""
    site = Path(sysconfig.get_path("platlib", vars={"base": str(prefix), "platbase": str(prefix)}))
    if not (site / "mmcl_core").is_dir():
        raise SystemExit(f"mmcl_ros is not installed in {prefix}: there is no {site / 'mmcl_core'}")
    for package, suffixes in PACKAGES.items():
        copy(ROOT / package, site / package, suffixes)
    share, executables = prefix / "share" / "mmcl_ros", prefix / "lib" / "mmcl_ros"
    if share.is_dir():
        for name in ("config", "launch"):
            copy(ROOT / name, share / name, (".py", ".yaml", ".xml", ".rviz"))
    for path in executables.glob("*"):
        if path.is_file() and (ROOT / "scripts" / path.name).is_file():
            shutil.copy2(ROOT / "scripts" / path.name, path)


if __name__ == "__main__":
    refresh(Path(sys.argv[1] if len(sys.argv) > 1 else sys.prefix).resolve())
