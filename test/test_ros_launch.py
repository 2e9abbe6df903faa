"""Launch files, executables and scripts: by their syntax everywhere, for real where launch is installed."""

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from ros_launch_files import DEMO, RECOGNIZER, TABLES, declared, launch_file, needs_launch

from mmcl_ros.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    *("modality", "model", "device", "rgb_topic", "depth_topic", "rgb_transport", "depth_transport", "namespace"),
    *("params_file", "mirror", "use_sim_time", "autostart", "overlay", "log_level", "respawn", "python"),
}


def test_every_argument_is_declared_and_described():
    names = declared(RECOGNIZER)
    assert set(names) >= ARGUMENTS
    assert all("description" in keywords for keywords in [*names.values(), *declared(DEMO).values()])


def table_of_launch(name):
    tree = ast.parse(RECOGNIZER.read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in assigned if getattr(node.targets[0], "id", "") == name)


def test_arguments_that_set_parameters_agree_with_the_table():
    for name, (_, choices) in table_of_launch("PARAMETERS").items():
        assert tuple(choices or ()) == (("", *PARAMETERS[name].choices) if PARAMETERS[name].choices else ())
    types = {name: kind for table, kind in TABLES.items() for name in table_of_launch(table)}
    assert types == {"use_sim_time": bool} | {row.name: type(row.default) for row in PARAMETERS.values()}


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
    maintainer = package.find("maintainer")
    assert f'name = "{maintainer.text}"' in (ROOT / "pyproject.toml").read_text()
    assert "@" in maintainer.get("email")
    cmake = (ROOT / "CMakeLists.txt").read_text()
    interfaces = [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")]
    assert len(interfaces) >= 9
    assert all(str(path.relative_to(ROOT)) in cmake for path in interfaces)


def test_each_node_of_the_launch_file_goes_by_the_level_of_the_log():
    calls = [node for node in ast.walk(ast.parse(RECOGNIZER.read_text())) if isinstance(node, ast.Call)]
    nodes = [call for call in calls if getattr(call.func, "id", "") == "Node"]
    given = [{keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords} for node in nodes]
    assert [one["executable"] for one in given] == ["'recognizer'", "'overlay'"]
    assert {one.get("ros_arguments") for one in given} == {"['--log-level', LaunchConfiguration('log_level')]"}


def test_the_demonstration_is_called_as_the_documentation_says():
    about = " ".join(ast.get_docstring(ast.parse(DEMO.read_text())).replace("\\\n", " ").split())
    lines = (ROOT / "docs" / "ros.md").read_text().splitlines()
    told = [line for line in lines if line.startswith(("python -m mmcl_ros.record_demo", "ros2 launch mmcl_ros demo"))]
    assert len(told) == 2
    assert all(line in about for line in told)


# where launch is installed


@needs_launch
@pytest.mark.parametrize("path", [RECOGNIZER, DEMO], ids=lambda path: path.name)
def test_launch_files_load(path):
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(path)).try_get_launch_description_without_context()
    names = {argument.name for argument in description.get_launch_arguments()}
    own = set(declared(path))
    assert own <= names <= own | set(declared(RECOGNIZER)), "a file that includes another one offers its arguments too"


LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell passes it on as ignored
sys.path = [p for p in sys.path if p != '']
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource as Source
service = LaunchService()
given = [tuple(argument.split(':=')) for argument in sys.argv[2:]]
service.include_launch_description(IncludeLaunchDescription(Source(sys.argv[1]), launch_arguments=given))
sys.exit(service.run())
"""


class Launched:
    """A launch file run for real in a process of its own, on the files of the repository."""

    def __init__(self, path, folder, domain, **arguments):
        environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
        prefixes = [str(prefix_of_repository(folder)), environment.get("AMENT_PREFIX_PATH", sys.prefix)]
        # Launch finds a package by way of the first prefix; the repository has to come before what is installed.
        environment |= {"ROS_DOMAIN_ID": str(domain), "AMENT_PREFIX_PATH": os.pathsep.join(prefixes)}
        paths = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in [str(ROOT), *paths])
        line = [sys.executable, "-c", LAUNCH, str(path)]
        line += [f"{name}:={value}" for name, value in {"python": sys.executable, **arguments}.items()]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(line, cwd=folder, env=environment, **pipes)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")))
        self._reader.start()

    def wait(self, words, count=1, timeout=90):
        """Wait until lines with these words have come; the last of them."""
        end = time.monotonic() + timeout
        while len(found := [line for line in self.lines if words in line]) < count:
            assert time.monotonic() < end, f"waited for {words!r} in: {''.join(self.lines)}"
            time.sleep(0.05)
        return found[-1]

    def stop(self):
        """End it as Ctrl-C does; everything that was printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self._reader.join()
        return "".join(self.lines)


def prefix_of_repository(folder):
    """An ament prefix as the build would make it, of links to the repository."""
    prefix = folder / "prefix"
    share, marker = prefix / "share" / "mmcl_ros", prefix / "share/ament_index/resource_index/packages/mmcl_ros"
    for place in (share, marker.parent, prefix / "lib"):
        place.mkdir(parents=True)
    marker.touch()
    for name in ("launch", "config", "package.xml"):
        (share / name).symlink_to(ROOT / name)
    (prefix / "lib" / "mmcl_ros").symlink_to(ROOT / "scripts")
    return prefix


@pytest.fixture
def launched(tmp_path):
    """Launch a file; ended with the test."""
    made = []

    def run(path, domain=93, **arguments):
        made.append(Launched(path, tmp_path, domain, **arguments))
        return made[-1]

    yield run
    for one in made:
        one.stop()


@needs_launch
@pytest.mark.ros
def test_launched_node_comes_up_with_its_arguments(launched, tmp_path):
    """A model that is not there: the node says so and stays."""
    running = launched(RECOGNIZER, modality="depth", model=f"{tmp_path}/none", namespace="front", box_scal="0.8")
    running.wait("no argument 'box_scal', so that box_scal:=0.8 changes nothing; did you mean 'box_scale'?")
    line = running.wait("not configured")
    assert "front.recognizer" in line
    assert f"no model at {tmp_path}/none" in line
    assert running.process.poll() is None
    assert "Traceback" not in running.stop()
    assert running.process.returncode == 0


@needs_launch
def test_a_bare_name_is_a_model_of_the_package_unless_it_lies_here(tmp_path, monkeypatch):
    from launch import LaunchContext

    context, module = LaunchContext(), launch_file(RECOGNIZER)
    monkeypatch.chdir(tmp_path)

    def given(model):
        context.launch_configurations.update({**dict.fromkeys(declared(RECOGNIZER), ""), "model": model})
        return module.node_parameters(context)[0]["model"]

    assert given("ycb21") == "ycb21"
    assert given("runs/ycb21") == str(tmp_path / "runs" / "ycb21")
    (tmp_path / "ycb21").mkdir()
    assert given("ycb21") == str(tmp_path / "ycb21")


@needs_launch
def test_what_an_argument_left_empty_amounts_to_is_shown():
    shown = {one.name: one.description for one in launch_file(RECOGNIZER).parameter_arguments()}
    for name, parameter in PARAMETERS.items():
        value = parameter.default
        words = str(value).lower() if isinstance(value, bool) else value if value != "" else "none"
        assert shown[name].partition(". Valid choices")[0].endswith(f"usually: {words}"), name


@needs_launch
@pytest.mark.parametrize("text", [None, "", "/**: {", "/**: mine", "recognizer: {ros__parameters: {model: mine}}"])
def test_a_parameter_file_that_was_made_another_hinders_no_launch(tmp_path, text):
    for folder in ("launch", "config"):
        (tmp_path / folder).mkdir()
    copy = tmp_path / "launch" / RECOGNIZER.name
    copy.write_bytes(RECOGNIZER.read_bytes())
    if text is not None:
        (tmp_path / "config" / "recognizer.yaml").write_text(text)
    shown = {one.name: one.description for one in launch_file(copy).parameter_arguments()}
    assert shown["model"] == "run folder, weights file, or ycb21; left empty, as in params_file"
    assert shown["use_sim_time"].partition(". Valid choices")[0].endswith("usually: false")


@needs_launch
@pytest.mark.ros
def test_without_a_model_that_of_the_package_answers(launched):
    running = launched(RECOGNIZER, modality="rgb")
    assert "model ycb21 (" in running.wait("21 classes")


@needs_launch
@pytest.mark.ros
def test_several_cameras_as_the_documentation_shows_them(launched, tmp_path):
    """Each is in its namespace, and what one is given does not reach the next."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
    pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")
    from rcl_interfaces.srv import GetParameters
    from ros_bench import Bench

    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ros.md").read_text(), re.DOTALL)
    file = tmp_path / "cameras.launch.py"
    file.write_text(shown.replace("/path/to/RUN", f"{tmp_path}/none"))
    bench = Bench()
    try:
        running = launched(file, bench.domain)
        for name, modality in (("front", "rgb"), ("wrist", "auto")):
            assert f"no model at {tmp_path}/none" in running.wait(f"[{name}.recognizer]: not configured")
            request = GetParameters.Request(names=["modality", "rgb_topic"])
            values = bench.call(GetParameters, f"/{name}/recognizer/get_parameters", request, 60).values
            assert [value.string_value for value in values] == [modality, f"/{name}/color/image_raw"]
    finally:
        bench.close()


EVERY_ARGUMENT = {
    **{"modality": "rgbd", "device": "cpu", "backend": "onnx", "roi_source": "full_image", "policy": "every"},
    **{"rgb_topic": "/cam/rgb", "rgb_info_topic": "/cam/rgb_info", "depth_topic": "/cam/depth"},
    **{"depth_info_topic": "/cam/depth_info", "detections_topic": "/cam/boxes"},
    **{"rgb_transport": "compressed", "qos": "best_effort", "depth_transport": "compressedDepth"},
}


@needs_launch
@pytest.mark.ros
def test_every_argument_arrives(launched, tmp_path):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
    pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters
    from ros_bench import Bench

    from mmcl_ros.parameters import TABLE

    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {top_k: 2, policy: latest, center_size: 0.25}\n")
    switches = {"params_file": file, "overlay": "true"}
    switches |= {"log_level": "debug", "respawn": "true", "namespace": "front", "model": "some/run"}
    unlike = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.25}
    other = {row.name: unlike[type(row.default)](row.default) for row in TABLE if type(row.default) is not str}
    other |= {"use_sim_time": True, "top_k": 2, "center_size": 0.25}
    switches |= {name: str(value).lower() for name, value in other.items()} | {"top_k": "", "center_size": ""}
    assert {*EVERY_ARGUMENT, *switches, "python"} == set(declared(RECOGNIZER)), "all that are declared"
    bench = Bench()
    try:
        running = launched(RECOGNIZER, bench.domain, **EVERY_ARGUMENT, **switches)
        wanted = {**EVERY_ARGUMENT, **other, "model": str(tmp_path / "some/run")}
        request = GetParameters.Request(names=list(wanted))
        values = bench.call(GetParameters, "/front/recognizer/get_parameters", request, 60).values
        fields = {1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value"}
        assert {name: getattr(v, fields[v.type]) for name, v in zip(wanted, values, strict=True)} == wanted
        state = bench.call(GetState, "/front/recognizer/get_state", GetState.Request(), 30).current_state
        assert state.label == "unconfigured", "autostart is off"
        request = GetParameters.Request(names=["rgb_transport", "rgb_topic"])
        answer = bench.call(GetParameters, "/front/overlay/get_parameters", request, 60)
        assert [value.string_value for value in answer.values] == ["compressed", "/cam/rgb"]
        assert any("[DEBUG]" in line and "recognizer" in line for line in running.lines)
        pids = [line.split("[")[-1].split("]")[0] for line in running.lines if "process started with pid" in line]
        os.kill(int(pids[0]), signal.SIGKILL)
        running.wait("process started with pid", 3)
    finally:
        bench.close()


@needs_launch
def test_recognizer_and_overlay_are_given_the_same_parameters(tmp_path):
    from launch import LaunchContext

    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {modality: depth}\n")
    context, module = LaunchContext(), launch_file(RECOGNIZER)
    given = {"params_file": str(file), "depth_topic": "/cam/depth", "use_sim_time": "true"}
    context.launch_configurations.update({**dict.fromkeys(declared(RECOGNIZER), ""), **given})
    assert module.node_parameters(context) == [str(file), {"depth_topic": "/cam/depth", "use_sim_time": True}]
    module.Node = lambda **given: given
    given = [make(context)[0]["parameters"] for make in (module.make_recognizer, module.make_overlay)]
    assert given == [module.node_parameters(context)] * 2


@needs_launch
@pytest.mark.ros
def test_a_parameter_file_that_does_not_reach_its_node_is_named(launched, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recognizer:\n  ros__parameters: {modality: depth}\n")
    running = launched(RECOGNIZER, params_file=file, namespace="front")
    running.wait(f"no section of {file} reaches the node /front/recognizer")
    assert "answering from rgb and depth" in running.wait("model ycb21 ("), "the defaults hold"


@needs_launch
@pytest.mark.ros
def test_a_parameter_file_that_is_not_there_is_named(launched, tmp_path):
    running = launched(RECOGNIZER, params_file=tmp_path / "none.yaml")
    assert f"params_file is {tmp_path}/none.yaml, where there is no file" in running.wait("no file")
    running.process.wait(60)
    assert "Traceback" not in running.stop()


@needs_launch
@pytest.mark.ros
def test_demonstration_runs_to_its_end(launched, tmp_path):
    """The bag is played to the launched node, every picture is answered, and launch ends with the player."""
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")
    from ros_bags import make_recording, tiny_model

    bag, truth = make_recording(tmp_path / "recording")
    running = launched(DEMO, 94, bag=bag, truth=truth, model=tiny_model(tmp_path / "run"), modality="rgbd")
    said = running.wait("labels right", timeout=120)
    assert "20 answers" in said
    assert "of 40 labels right" in said
    running.process.wait(60)
    assert running.process.returncode == 0
    assert "Traceback" not in running.stop()
