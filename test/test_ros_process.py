"""Over real DDS: the node's process from start to end, and nonsense on its topics."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import Recognition, RecognitionArray, RecognizerStatus, RegionArray
from rcl_interfaces.msg import Log
from ros_bench import depth_message, region_message, rgb_message
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

from mmcl_core.errors import InputError, MmclError
from mmcl_ros import benchmark, overlay_node, process, recognizer_node
from mmcl_ros.benchmark import COLOUR_OR_NOT, DEPTH_OR_NOT, random_image
from mmcl_ros.images import decode_depth, decode_rgb

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.ros


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_process_without_a_model_stays_and_ends_cleanly(bench, end):
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    environment["ROS_DOMAIN_ID"] = str(bench.domain)
    line = [sys.executable, "-m", "mmcl_ros.recognizer_node", "--ros-args", "-p", "model:=/nowhere"]
    line += ["-p", "status_period:=0.2"]
    process = subprocess.Popen(line, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    found = bench.collect(RecognizerStatus, "/recognizer/status", latched=True)
    bench.wait(lambda: found, "the status of the process", 60)
    assert "no model at /nowhere" in found[-1].cause
    assert process.poll() is None
    process.send_signal(end)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert errors.count("no model at /nowhere") <= 3, "one throttled line"


@pytest.mark.parametrize("node", ["recognizer_node", "overlay_node"])
def test_help_is_printed_and_no_node_started(node):
    line = [sys.executable, "-m", f"mmcl_ros.{node}", "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "docs/ros.md" in done.stdout
    assert "``" not in done.stdout


@pytest.mark.parametrize("module", [recognizer_node, overlay_node])
@pytest.mark.parametrize(
    ("line", "strays"),
    [
        ("--model /runs/mine", "--model /runs/mine"),
        ("model:=/runs/mine rgb/image:=/camera/image", "model:=/runs/mine"),
        ("-p modality:=rgb --ros-args -r rgb/image:=/camera/image", "-p modality:=rgb"),
        ("--ros-args -p modality:=rgb -- mine", "mine"),
    ],
)
def test_arguments_that_ros_would_pass_over_are_refused(module, line, strays, monkeypatch, capsys):
    monkeypatch.setattr(process, "start", lambda _: pytest.fail("started"))
    assert module.main(line.split()) == 2
    assert f"error: arguments that a node does not take: {strays}; parameters follow" in capsys.readouterr().err


def test_remappings_of_the_old_form_are_left_to_ros(monkeypatch):
    monkeypatch.setattr(process, "start", lambda args: seen.append(args))
    seen, line = [], ["-r", "rgb/image:=/camera/image", "__ns:=/front", "--ros-args", "-p", "model:=mine"]
    assert process.run_node(lambda: None, line) == 0
    assert seen == [line]


@pytest.mark.parametrize(
    "line", ["loss --rate 0", "latency --seconds=-1", "memory --minutes=nan", "malformed --count=0"]
)
def test_measures_of_nothing_are_refused(line, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "rig", lambda *_, **__: pytest.fail("started a node in vain"))
    assert benchmark.main(line.split()) == 2
    assert "give a number above 0" in capsys.readouterr().err


def test_a_measurement_of_a_node_that_cannot_configure_ends_with_the_reason():
    status = RecognizerStatus(state="unconfigured", cause="not configured: no model at nowhere")
    process = SimpleNamespace(poll=lambda: None)
    rig = SimpleNamespace(process=process, status=status, spin=lambda _: pytest.fail("waits in vain"))
    with pytest.raises(MmclError, match="not configured: no model at nowhere"):
        benchmark.Rig.wait(rig, lambda: False, "the node to listen")


def test_all_regions_that_are_measured_lie_in_the_picture():
    places = [region.roi for region in benchmark.boxes(0, 500).regions]
    assert len(places) == 500
    assert max(roi.x_offset for roi in places) < benchmark.WIDTH
    assert max(roi.y_offset for roi in places) < benchmark.HEIGHT
    assert len(list(benchmark.paced(0.001, 1.0, lambda _: None))) == 1


@pytest.mark.parametrize(
    ("modality", "decode", "encodings"), [("rgb", decode_rgb, COLOUR_OR_NOT), ("depth", decode_depth, DEPTH_OR_NOT)]
)
def test_random_messages_are_all_answered_and_counted(bench, modality, decode, encodings):
    node = bench.recognizer(FakeRecognizer(), modality=modality, roi_source="full_image", policy="every", queue=1000)
    found = bench.collect(RecognitionArray, "/recognitions")
    pictures = bench.publisher(Image, f"/{modality}/image")
    rng = np.random.default_rng(0)
    broken = 0
    for number in range(300):
        message = random_image(rng, encodings)
        try:
            broken += min(decode(message).shape[:2]) < 4
        except InputError:
            broken += 1
        pictures.publish(message)
        bench.wait(lambda number=number: len(found) > number - 20, "answers")
    bench.wait(lambda: len(found) == 300, "all answers")
    assert node.ledger.malformed == broken
    assert 0 < broken < 300


def test_random_boxes_are_all_answered(bench):
    bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="detections", policy="every", max_wait=0.0)
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb, depth = bench.publisher(Image, "/rgb/image"), bench.publisher(Image, "/depth/image")
    regions = bench.publisher(RegionArray, "/detections")
    rgb.publish(rgb_message(0))
    depth.publish(depth_message(0))
    rng = np.random.default_rng(1)
    for number in range(100):
        boxes = [[int(value) for value in rng.choice([0, 5, 59, 80, 2**32 - 1], 4)] for _ in range(5)]
        regions.publish(region_message(0, boxes))
        bench.wait(lambda number=number: len(found) > number, "the answer")
        assert [one.id for one in found[-1].recognitions] == [f"r{n}" for n in range(5)]
    kinds = {one.result for answer in found for one in answer.recognitions}
    assert kinds <= {Recognition.ACCEPTED, Recognition.BAD_REGION, Recognition.NO_PICTURE}
    assert Recognition.BAD_REGION in kinds


SLOW_START = """
import sys, time
from mmcl_ros import recognizer_node
from mmcl_ros.constant_recognizer import ConstantRecognizer
def load(path, **settings):
    print("loading", flush=True)
    time.sleep(1.0)
    return ConstantRecognizer()
sys.exit(recognizer_node.main(sys.argv[1:], load))
"""


@pytest.mark.parametrize(("parameter", "says"), [("mirror:=perhaps", "expecting type"), ("min_score:=7.0", "range")])
def test_a_wrong_parameter_is_one_line(parameter, says):
    line = [sys.executable, "-m", "mmcl_ros.recognizer_node", "--ros-args", "-p", parameter]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr
    assert parameter.partition(":")[0] in ended.stderr


def test_a_misspelt_parameter_is_named(bench, tmp_path):
    from mmcl_ros.overlay_node import OverlayNode

    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {dept_topic: /cam/depth, top_k: 2, use_sim_time: false}\n")
    log = bench.collect(Log, "/rosout")
    bench.add(OverlayNode(context=bench.context, cli_args=["--ros-args", "--params-file", str(file)]))
    said = "there is no parameter 'dept_topic', which changes nothing; did you mean 'depth_topic'?"
    bench.wait(lambda: said in [line.msg for line in log], "the warning")
    assert sum("there is no parameter" in line.msg for line in log) == 1


@pytest.mark.parametrize("module", ["recognizer_node", "overlay_node", "play_bag"])
def test_a_parameter_file_that_is_not_there_is_named(module):
    line = [sys.executable, "-m", f"mmcl_ros.{module}", "--ros-args", "--params-file", "/nowhere.yaml"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("error: ")
    assert "'--params-file /nowhere.yaml'" in said


def test_without_a_folder_to_log_to_the_variable_that_names_one_is_told():
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "ROS_HOME", "ROS_LOG_DIR")}
    line = [sys.executable, "-m", "mmcl_ros.recognizer_node"]
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "set ROS_LOG_DIR to a folder" in ended.stderr
    assert "--ros-args" not in ended.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_process_that_is_told_to_end_while_it_loads_ends_cleanly(end):
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    line = [sys.executable, "-c", SLOW_START, "--ros-args", "-p", "model:=large"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env=environment, cwd=ROOT, **pipes)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(end)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


SLOW_ANSWER = """
import sys, time
from mmcl_ros import recognizer_node
from mmcl_ros.constant_recognizer import ConstantRecognizer
class Slow(ConstantRecognizer):
    def recognize(self, **given):
        print("recognizing", flush=True)
        time.sleep(1.0)
        return super().recognize(**given)
sys.exit(recognizer_node.main(sys.argv[1:], lambda path, **settings: Slow()))
"""


DEFECT = """
import logging, sys
from mmcl_ros import frames, recognizer_node
from mmcl_ros.constant_recognizer import ConstantRecognizer
def load(path, **settings):
    logging.getLogger("mmcl_core.nn").warning("said while loading")
    return ConstantRecognizer()
def defect(message):
    logging.getLogger("mmcl_ros.frames").debug("seldom of use")
    raise MemoryError("a defect")
frames.DECODERS["rgb"] = defect
sys.exit(recognizer_node.main(sys.argv[1:], load))
"""


@pytest.mark.parametrize("level", ["info", "debug", "fatal"])
def test_what_the_modules_log_is_in_the_log_of_the_node(bench, level):
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    environment["ROS_DOMAIN_ID"] = str(bench.domain)
    line = [sys.executable, "-c", DEFECT, "--ros-args", "-p", "model:=x", "-p", "modality:=rgb"]
    line += ["--log-level", f"front.recognizer:={level}", "-r", "__ns:=/front"]
    log, found = bench.collect(Log, "/rosout", latched=True), bench.collect(RecognitionArray, "/front/recognitions")
    process = subprocess.Popen(line, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    rgb = bench.publisher(Image, "/front/rgb/image", subscribers=0)
    bench.wait(rgb.get_subscription_count, "the node to listen", 60)
    bench.wait(lambda: bench.client.count_publishers("/front/recognitions"), "its answers to be heard")
    for number in range(3):
        rgb.publish(rgb_message(number))
        bench.wait(lambda number=number: len(found) > number, "the answer")
    lost = "an answer was lost\nTraceback"
    expected = {"said while loading": level != "fatal", lost: {"info": 1, "debug": 3, "fatal": 0}[level]}

    def heard():
        lines = [one.msg for one in log if one.name == "front.recognizer"]
        return {words: sum(words in one for one in lines) for words in expected}

    bench.wait(lambda: heard() == expected, "the lines on /rosout")
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0, errors
    assert {words: errors.count(words) for words in expected} == expected, errors
    assert heard() == expected
    assert errors.count("seldom of use") == 3 * (level == "debug")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_process_that_is_told_to_end_in_the_midst_of_an_answer_ends_quietly(bench, end):
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    environment["ROS_DOMAIN_ID"] = str(bench.domain)
    line = [sys.executable, "-c", SLOW_ANSWER, "--ros-args", "-p", "model:=slow", "-p", "modality:=rgb"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env=environment, cwd=ROOT, **pipes)
    rgb = bench.publisher(Image, "/rgb/image", subscribers=0)
    bench.wait(rgb.get_subscription_count, "the node to listen", 60)
    rgb.publish(rgb_message(0))
    assert process.stdout.readline() == "recognizing\n"
    process.send_signal(end)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0, errors
    assert "lost" not in errors
    assert "Traceback" not in errors


def test_a_node_told_once_more_to_end_does_so_at_once_and_without_a_traceback(monkeypatch):
    """The second Ctrl-C comes while the first is seen to: an answer that takes long is waited for then."""

    def interrupted():
        raise KeyboardInterrupt

    node = SimpleNamespace(destroy_node=interrupted, get_logger=lambda: None)
    monkeypatch.setattr(process, "start", lambda _: None)
    monkeypatch.setattr(process.rclpy, "ok", lambda: False)
    assert process.run_node(lambda: node, []) == 130


@pytest.mark.parametrize(("given", "taken"), [(None, "TRUE"), ("FALSE", "FALSE")])
def test_under_a_discovery_server_the_graph_is_seen(monkeypatch, given, taken):
    from mmcl_ros import process

    monkeypatch.setattr(process.rclpy, "init", lambda **_: None)
    for name, value in (("ROS_SUPER_CLIENT", given), ("ROS_DISCOVERY_SERVER", "127.0.0.1:11811")):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process.os, "environ", dict(os.environ))
    process.start()
    assert process.os.environ["ROS_SUPER_CLIENT"] == taken


def test_records_keep_their_level_and_are_said_once_and_logging_is_left_as_it_was(caplog):
    """Whoever runs a node in a process of his own finds the log of the package as he had set it up."""
    said = []
    words = ("fatal", "error", "warning", "info", "debug")
    target = SimpleNamespace(
        is_enabled_for=lambda level: True,
        **{word: lambda text, word=word: said.append((word, text)) for word in words},
    )
    kept = {name: logging.getLogger(name).level for name in process.PACKAGES}
    with process.LogBridge() as bridge:
        bridge.target = target
        for name in process.PACKAGES:
            for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
                logging.getLogger(f"{name}.module").log(level, "%s", name)
    assert said == [(word, name) for name in process.PACKAGES for word in words]
    assert caplog.records == [], "nobody else has said it, too"
    for name in process.PACKAGES:
        logger = logging.getLogger(name)
        assert (logger.level, logger.propagate) == (kept[name], True)
        assert not any(isinstance(one, process.LogBridge) for one in logger.handlers)
