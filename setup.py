"""The pip build; colcon reads package.xml and CMakeLists.txt instead and never this file.

``pip install .`` always installs the Python packages. Where the ROS 2 message generators are in the environment, as
wheels, it also runs CMakeLists.txt and installs the messages, launch files, configuration and executables, with the
environment as their prefix. The variable ``MMCL_ROS`` decides otherwise: ``off`` leaves the ROS part out, ``on`` makes
its absence an error. A ROS 2 that is sourced is none to build for: its libraries would not find those of the messages.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "mmcl_ros"
SEARCH = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")])


def ros_wanted() -> bool:
    """Whether to build the messages; says on stderr why not."""
    choice = os.environ.get("MMCL_ROS", "auto")
    if choice not in ("auto", "on", "off"):
        raise SystemExit(f"MMCL_ROS is {choice!r}; choose from auto, on, off")
    if choice == "off":
        return False
    missing = [tool for tool in ("cmake", "c++") if not shutil.which(tool, path=SEARCH)]
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append("Python.h (apt install python3-dev)")
    if not Path(sys.prefix, "share/rosidl_default_generators").is_dir():
        missing.append("the wheels of scripts/ros-kilted.txt (for a ROS 2 that is sourced build with colcon)")
    if missing and choice == "on":
        raise SystemExit(f"MMCL_ROS=on, but not found: {', '.join(missing)}")
    if missing:
        print(f"{PACKAGE}: installing without ROS messages; not found: {', '.join(missing)}", file=sys.stderr)
    return not missing


@contextlib.contextmanager
def plain_path() -> Iterator[Path]:
    """The sources by a path that the message generators can read: they end it at a space and the like."""
    if not re.search(r"[^\w./+-]", str(ROOT)):
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "source")
        link.symlink_to(ROOT, target_is_directory=True)
        yield link


ROS = ros_wanted()


class PlatformDistribution(Distribution):
    """A wheel with compiled messages is bound to the machine and the interpreter."""

    def has_ext_modules(self) -> bool:
        """Whether the wheel holds compiled code."""
        return ROS


class BuildWithMessages(build_py):
    """Adds what CMake installs to what setuptools installs."""

    def run(self) -> None:
        """Copy the Python packages, then build and add the messages."""
        if not self.editable_mode:  # remove what an earlier build left there: deleted modules, messages
            for package in ("mmcl_core", PACKAGE):
                shutil.rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()
        if ROS:
            self.collect(self.cmake())

    def cmake(self) -> Path:
        """Configure, build and install into a scratch prefix; an unchanged source is not compiled again."""
        scratch = Path("build", f"pip-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]}")
        shutil.rmtree(ROOT / scratch / "prefix", ignore_errors=True)
        environment = dict(os.environ, PATH=SEARCH)
        # pip's isolated build environment would hide the generators' Python packages from the interpreter CMake runs.
        environment.pop("PYTHONPATH", None)
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = sys.prefix
        with plain_path() as root:
            if root != ROOT:  # another path at every build, which CMake refuses in one that was configured
                shutil.rmtree(ROOT / scratch, ignore_errors=True)
            build = str(root / scratch / "build")
            configure = [
                "cmake",
                *("-S", str(root), "-B", build),
                f"-DCMAKE_INSTALL_PREFIX={root / scratch / 'prefix'}",
                f"-DCMAKE_PROJECT_INCLUDE={root / 'cmake' / 'ros_wheels.cmake'}",
                f"-DPython3_EXECUTABLE={sys.executable}",
                "-DCMAKE_BUILD_TYPE=Release",
                "-DBUILD_TESTING=OFF",
            ]
            if shutil.which("ninja", path=SEARCH):
                configure += ["-G", "Ninja"]
            for command in (configure, ["cmake", "--build", build, "--target", "install"]):
                subprocess.run(command, env=environment, check=True)
        return ROOT / scratch / "prefix"

    def collect(self, prefix: Path) -> None:
        """Generated Python goes beside our sources, everything else to the same place under the environment."""
        site = next(prefix.rglob(f"{PACKAGE}/msg/__init__.py")).parents[2]
        data = {}
        for file in sorted(path for path in prefix.rglob("*") if path.is_file()):
            place = file.relative_to(prefix)
            if file.is_relative_to(site):
                inside = file.relative_to(site)
                if inside.parts[0] == PACKAGE and inside.suffix in (".py", ".so") and not (ROOT / inside).exists():
                    target = Path(self.build_lib) / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, target)
            elif place.parts[0] in ("lib", "share") and not {"__pycache__", "parent_prefix_path"} & set(place.parts):
                data.setdefault(str(place.parent), []).append(os.path.relpath(file, ROOT))
        self.distribution.data_files = sorted(data.items())


setup(distclass=PlatformDistribution, cmdclass={"build_py": BuildWithMessages})
