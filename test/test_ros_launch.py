"""Launch files, executables and scripts: by their syntax everywhere, for real where launch is installed."""

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from mmcl_ros.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
RECOGNIZER, DEMO = ROOT / "launch" / "recognizer.launch.py", ROOT / "launch" / "demo.launch.py"
ARGUMENTS = {
    *("modality", "model", "device", "rgb_topic", "depth_topic", "rgb_transport", "depth_transport", "namespace"),
    *("params_file", "use_sim_time", "autostart", "overlay", "log_level", "respawn", "python"),
}


def installed(name):
    """The folder launch/ of the repository would pass for the package, so ask for a module inside."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


HAS_LAUNCH = installed("launch.actions") and installed("launch_ros.actions")
needs_launch = pytest.mark.skipif(not HAS_LAUNCH, reason="launch and launch_ros are not installed (no wheels on PyPI)")


def declared(path):
    """Names and keywords of the launch arguments that a file declares literally, and the table of the recognizer."""
    tree = ast.parse(path.read_text())
    names = {}
    for node in ast.walk(tree):
        call = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"
        if call and isinstance(node.args[0], ast.Constant):
            names[node.args[0].value] = {keyword.arg for keyword in node.keywords}
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PARAMETERS":
            names |= {name: {"description"} for name in ast.literal_eval(node.value)}
    return names


def test_every_argument_is_declared_and_described():
    names = declared(RECOGNIZER)
    assert set(names) >= ARGUMENTS
    assert all("description" in keywords for keywords in [*names.values(), *declared(DEMO).values()])


def table_of_launch():
    tree = ast.parse(RECOGNIZER.read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in assigned if getattr(node.targets[0], "id", "") == "PARAMETERS")


def test_arguments_that_set_parameters_agree_with_the_table():
    for name, (_, choices) in table_of_launch().items():
        assert name in PARAMETERS
        assert tuple(choices or ()) == (("", *PARAMETERS[name].choices) if PARAMETERS[name].choices else ())


EXECUTABLES = [
    path for path in sorted((ROOT / "scripts").iterdir()) if path.read_text().startswith("#!/usr/bin/env py")
]


@pytest.mark.parametrize("path", EXECUTABLES, ids=lambda path: path.name)
def test_executables_name_modules_that_exist(path):
    assert os.access(path, os.X_OK)
    module = next(node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    source = ROOT / (module.replace(".", "/") + ".py")
    assert "def main(" in source.read_text()
    assert f"scripts/{path.name}" in (ROOT / "CMakeLists.txt").read_text()


def test_configuration_files_are_well_formed():
    assert yaml.safe_load((ROOT / "config" / "recognizer.rviz").read_text())["Visualization Manager"]["Displays"]
    tree = ElementTree.parse(ROOT / "config" / "fastdds.xml")
    sizes = [int(node.text) for node in tree.iter() if node.tag.endswith("segment_size")]
    assert sizes == [32 * 1024 * 1024]


def test_package_files_agree():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("name") == "mmcl_ros"
    assert f'version = "{package.findtext("version")}"' in (ROOT / "pyproject.toml").read_text()
    cmake = (ROOT / "CMakeLists.txt").read_text()
    interfaces = [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")]
    assert len(interfaces) >= 9
    assert all(str(path.relative_to(ROOT)) in cmake for path in interfaces)


# where launch is installed


@needs_launch
@pytest.mark.parametrize("path", [RECOGNIZER, DEMO], ids=lambda path: path.name)
def test_launch_files_load(path):
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(path)).try_get_launch_description_without_context()
    names = {argument.name for argument in description.get_launch_arguments()}
    own = set(declared(path))
    assert own <= names <= own | set(declared(RECOGNIZER)), "a file that includes another one offers its arguments too"


@needs_launch
@pytest.mark.ros
def test_launched_node_comes_up_with_its_arguments(tmp_path):
    """The real launch file in a process of its own, with a model that is not there: the node says so and stays."""
    code = (
        "import sys; sys.path = [p for p in sys.path if p != ''];"
        "from launch import LaunchService; from launch.actions import IncludeLaunchDescription;"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource as Source;"
        "service = LaunchService();"
        "arguments = [a.split(':=') for a in sys.argv[2:]];"
        "service.include_launch_description("
        "IncludeLaunchDescription(Source(sys.argv[1]), launch_arguments=[tuple(a) for a in arguments]));"
        "sys.exit(service.run())"
    )
    given = ["modality:=depth", f"model:={tmp_path}/none", "namespace:=front", f"python:={sys.executable}"]
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    environment |= {"ROS_DOMAIN_ID": "93", "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", sys.prefix)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(RECOGNIZER), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "not configured" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert "front.recognizer" in lines[-1]
    assert f"no model at {tmp_path}/none" in lines[-1]
    assert "Traceback" not in "".join(lines) + rest
