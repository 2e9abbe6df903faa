"""A source archive holds all that it takes to build the package again, a wheel what there is now and no more."""

import os
import shutil
import subprocess
import sys
import sysconfig
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


def test_without_headers_of_python_the_messages_are_left_out_and_it_is_said(source, tmp_path):
    (source.parent / "out").mkdir()
    first = f"import sysconfig; sysconfig.get_path = lambda name, real=sysconfig.get_path: {str(tmp_path)!r} "
    first += "if name == 'include' else real(name); "
    command = first + "import setuptools.build_meta as build; build.build_wheel('../out')"
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=source,
        env={**os.environ, "MMCL_ROS": "auto"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "installing without ROS messages; not found: " in done.stderr
    assert "Python.h (apt install python3-dev)" in done.stderr


@pytest.mark.parametrize("tests", [False, True])
def test_the_build_of_a_workspace_configures_where_tests_are_on(tmp_path, tests):
    """As colcon has it, whose BUILD_TESTING is on; the tests of the nodes are there for the Python that is named."""
    share = Path(sys.prefix, "share")
    if not (shutil.which("cmake") and (share / "ament_cmake_pytest").is_dir()):
        pytest.skip("the ROS 2 wheels of scripts/ros-kilted.txt are not installed")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    words = ["cmake", "-S", ROOT, "-B", tmp_path / "build", f"-DCMAKE_PROJECT_INCLUDE={ROOT}/cmake/ros_wheels.cmake"]
    words += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=ON"]
    words += [f"-DMMCL_TEST_PYTHON={sys.executable}"] if tests else []
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["ctest", "-N"], cwd=tmp_path / "build", capture_output=True, text=True).stdout
    assert f"Total Tests: {int(tests)}" in listed


@pytest.mark.parametrize("ros", [True, False])
def test_the_copy_in_an_environment_is_brought_up_to_the_checkout(source, tmp_path, ros):
    prefix, old = tmp_path / "env", ["mmcl_core/gone.py", "mmcl_core/config.py", "mmcl_ros/__init__.py"]
    site = Path(sysconfig.get_path("platlib", vars={"base": str(prefix), "platbase": str(prefix)}))
    made = ["mmcl_ros/msg/__init__.py", "mmcl_ros/srv/_one.py", "mmcl_ros/typesupport.so"] if ros else []
    places = [*(site / name for name in (*old, *made))]
    places += [prefix / name for name in ("share/mmcl_ros/config/demo.yaml", "lib/mmcl_ros/recognizer") if ros]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("old")
    subprocess.run([sys.executable, "-I", "scripts/refresh_copy.py", str(prefix)], cwd=source, check=True)
    for package in ("mmcl_core", "mmcl_ros"):
        copied = {path.relative_to(source) for path in (source / package).rglob("*") if path.is_file()}
        assert all((site / path).read_bytes() == (source / path).read_bytes() for path in copied)
    assert not (site / "mmcl_core/gone.py").exists()
    assert all((site / name).read_text() == "old" for name in made)
    assert [path.read_text() == "old" for path in places[-2:]] == [False, False]
    assert (prefix / "share/mmcl_ros/launch/recognizer.launch.py").exists() == ros
    assert (prefix / "lib/mmcl_ros").exists() == ros


def test_what_is_not_installed_is_not_brought_up_to_the_checkout(tmp_path):
    command = [sys.executable, "-I", str(ROOT / "scripts/refresh_copy.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"mmcl_ros is not installed in {tmp_path}: there is no " in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_every_test_module_can_be_read_without_ros_and_its_tools():
    hidden = ("rclpy", "mmcl_ros.msg", "mmcl_ros.srv", "rosbags", "launch", "launch_ros", "embreex", "onnx", "h5py")
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); import pytest"
    run = f"raise SystemExit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', {str(ROOT / 'test')!r}]))"
    found = subprocess.run([sys.executable, "-c", f"{hide}; {run}"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:]
    assert "test_ros_pairing.py" in found.stdout, "what needs no ROS is tested none the less"


@pytest.mark.parametrize("name", ["recognizer_node", "overlay_node", "play_bag"])
def test_without_ros_nodes_end_in_a_plain_word(name):
    hidden = ("rclpy", "rcl_interfaces", "std_srvs", "sensor_msgs", "mmcl_ros.msg", "mmcl_ros.srv")
    hide = f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden!r}))"
    run = f"runpy.run_module('mmcl_ros.{name}', run_name='__main__')"
    found = subprocess.run([sys.executable, "-c", f"{hide}; {run}"], cwd=ROOT, capture_output=True, text=True)
    assert found.stderr.splitlines()[-1].startswith("ImportError: the messages of mmcl_ros are not built: colcon build")
