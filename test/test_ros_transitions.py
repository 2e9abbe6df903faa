"""Transitions that break off over real DDS: said in the log and on the status; nothing half made is left behind."""

import gc

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import RecognitionArray
from rcl_interfaces.msg import Log
from rclpy.parameter import Parameter
from ros_bench import rgb_message
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image
from test_ros_node import change, status_of, wait_cause

pytestmark = pytest.mark.ros

SETTINGS = {"modality": "rgb", "roi_source": "full_image", "autostart": False}


def refuse(*_, **__):
    raise RuntimeError("out of handles")


def answers_once(bench):
    """The node answers, by one publisher."""
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")

    def answered():
        rgb.publish(rgb_message(1))
        return found

    bench.wait(answered, "an answer")
    bench.wait(lambda: bench.client.count_publishers("/recognitions") == 1, "one publisher of answers")


def state_of(node):
    return node._state_machine.current_state[1]


@pytest.mark.parametrize(
    ("broken", "label", "says"),
    [
        ("create_subscription", "activate", "not activated: RuntimeError: out of handles"),
        ("destroy_subscription", "deactivate", "not deactivated: RuntimeError: out of handles"),
    ],
)
def test_a_transition_that_raises_ends_unconfigured_and_says_why(bench, monkeypatch, broken, label, says):
    gc.collect()  # what is left of a node takes the /rosout of a later one of the same name along
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    statuses, log = status_of(bench), bench.collect(Log, "/rosout")
    bench.client.create_publisher(Image, "/rgb/image", 1)
    bench.wait(lambda: node.count_publishers("/rgb/image"), "the camera")
    assert change(bench, "configure")
    if label == "deactivate":
        assert change(bench, "activate")
        bench.wait(lambda: node._links.sources["rgb"].subscription, "the subscription")
    with monkeypatch.context() as patched:
        patched.setattr(node, broken, refuse)
        assert not change(bench, label)
    status = wait_cause(bench, statuses, says)
    assert (status.state, state_of(node)) == ("unconfigured", "unconfigured")
    assert node.recognizer is None
    assert node._worker is None
    assert len(node._managed_entities) == 0
    bench.wait(lambda: any(line.msg == says for line in log), "the line in the log")
    assert node.set_parameters([Parameter("model", value="other")])[0].successful
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: statuses[-1].state == "active", "the active state")
    assert "not activated" not in statuses[-1].cause
    answers_once(bench)


def test_a_configuration_that_breaks_after_loading_is_given_back(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    statuses = status_of(bench)
    with monkeypatch.context() as patched:
        patched.setattr(node._labels, "publish", refuse)
        for _ in range(2):
            assert not change(bench, "configure")
    status = wait_cause(bench, statuses, "not configured: RuntimeError: out of handles")
    assert (status.state, status.model_id, state_of(node)) == ("unconfigured", "", "unconfigured")
    assert len(node._managed_entities) == 0
    assert change(bench, "configure")
    assert change(bench, "activate")
    answers_once(bench)


def test_what_cannot_be_given_back_ends_no_process(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    statuses = status_of(bench)
    assert change(bench, "configure")
    with monkeypatch.context() as patched:
        patched.setattr(node, "destroy_lifecycle_publisher", refuse)
        assert not change(bench, "cleanup")
    wait_cause(bench, statuses, "not cleaned up: RuntimeError: out of handles")
    assert (node.stage, state_of(node)) == ("unconfigured", "unconfigured")
    assert change(bench, "configure")
