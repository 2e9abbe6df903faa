"""Transitions that break off over real DDS: said in the log and on the status; nothing half made is left behind."""

import gc
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from mmcl_ros.msg import ModalityHealth, RecognitionArray
from rcl_interfaces.msg import Log
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_bench import change, depth_message, modality, rgb_message, status_of, wait_cause
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

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


def refuse_once(monkeypatch, node, name):
    """One call of a method of a node raises, the others go through; how often it was called."""
    real, calls = getattr(node, name), []

    def now_and_then(*arguments, **keywords):
        calls.append(name)
        return refuse() if len(calls) == 1 else real(*arguments, **keywords)

    monkeypatch.setattr(node, name, now_and_then)
    return calls


@pytest.mark.parametrize("policy", ["latest", "every"])
def test_a_subscription_that_cannot_be_destroyed_keeps_no_other_one_and_is_heard_no_more(bench, monkeypatch, policy):
    node = bench.recognizer(FakeRecognizer(), **{**SETTINGS, "modality": "rgbd", "policy": policy, "max_wait": 0.1})
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb, depth = (bench.publisher(Image, f"/{name}/image", subscribers=0) for name in ("rgb", "depth"))
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: rgb.get_subscription_count() + depth.get_subscription_count() == 2, "the subscriptions")
    calls = refuse_once(monkeypatch, node, "destroy_subscription")
    assert not change(bench, "deactivate")
    assert len(calls) == 2
    assert (node.failure, node.stage) == ("not deactivated: RuntimeError: out of handles", "unconfigured")
    bench.wait(lambda: depth.get_subscription_count() == 0, "the end of the other subscription")
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: (rgb.get_subscription_count(), depth.get_subscription_count()) == (2, 1), "new subscriptions")
    for number in range(5):
        rgb.publish(rgb_message(number))
        depth.publish(depth_message(number))
        bench.wait(lambda number=number: len(found) > number, "the answer")
    time.sleep(0.3)
    assert len(found) == 5
    assert {name: health.received for name, health in node.intake.health.items()} == {"rgb": 5, "depth": 5}


def test_publishers_are_given_back_though_a_subscription_is_not(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    bench.publisher(Image, "/rgb/image", subscribers=0)
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: node._links.sources["rgb"].subscription, "the subscription")
    refuse_once(monkeypatch, node, "destroy_subscription")
    assert not change(bench, "shutdown")
    assert len(node._managed_entities) == 0
    bench.wait(lambda: bench.client.count_publishers("/recognitions") == 0, "the end of the publisher")


def test_each_publisher_is_given_back_whatever_became_of_the_other(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    assert change(bench, "configure")
    second = node._answers_2d = node.create_lifecycle_publisher(RecognitionArray, "second", 1)
    refuse_once(monkeypatch, node, "destroy_lifecycle_publisher")
    assert not change(bench, "cleanup")
    assert node.failure == "not cleaned up: RuntimeError: out of handles"
    assert second not in node._managed_entities
    assert (node.recognizer, node._answers, node._answers_2d) == (None, None, None)


def test_a_node_is_destroyed_though_its_work_cannot_be_ended(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: bench.client.count_publishers("/recognizer/status") == 1, "the node")
    bench.executor.remove_node(node)
    with monkeypatch.context() as patched:
        patched.setattr(node._links, "close", refuse)
        with pytest.raises(RuntimeError, match="out of handles"):
            node.destroy_node()
    bench.nodes.remove(node)
    assert not list(node.publishers)
    assert not list(node.timers)
    bench.wait(lambda: bench.client.count_publishers("/recognizer/status") == 0, "the end of the node")


def test_a_subscription_that_is_refused_later_is_said_and_tried_again(bench, monkeypatch):
    """The camera comes after the activation: there is no transition to fail."""
    gc.collect()
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    statuses, log = status_of(bench), bench.collect(Log, "/rosout")
    assert change(bench, "configure")
    assert change(bench, "activate")
    says = "/rgb/image: cannot be subscribed to: RuntimeError: out of handles"
    with monkeypatch.context() as patched:
        patched.setattr(node, "create_subscription", refuse)
        rgb = bench.publisher(Image, "/rgb/image", subscribers=0)
        status = wait_cause(bench, statuses, f"rgb: {says}")
        first = len(statuses)
        bench.wait(lambda: len(statuses) > first + 4, "the status thereafter")
        assert (status.state, modality(status, "rgb").state) == ("active", ModalityHealth.MISMATCH)
    bench.wait(lambda: rgb.get_subscription_count() == 1, "the subscription")
    bench.wait(lambda: statuses[-1].cause.endswith("has sent no picture yet"), "the end of the cause")
    assert [line.msg for line in log if line.level == 40] == [says]
    answers_once(bench)


def test_one_subscription_that_is_refused_at_activation_leaves_the_others(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), **{**SETTINGS, "modality": "auto"})
    statuses = status_of(bench)
    for name in ("rgb", "depth"):
        bench.publisher(Image, f"/{name}/image", subscribers=0)
        bench.wait(lambda name=name: node.count_publishers(f"/{name}/image"), "the camera")
    assert change(bench, "configure")
    real = node.create_subscription

    def create(kind, topic, *arguments):
        return refuse() if topic == "/depth/image" else real(kind, topic, *arguments)

    monkeypatch.setattr(node, "create_subscription", create)
    assert change(bench, "activate")
    wait_cause(bench, statuses, "has sent no picture yet")
    assert modality(statuses[-1], "depth").state == ModalityHealth.MISMATCH
    assert modality(statuses[-1], "depth").cause.startswith("/depth/image: cannot be subscribed to: RuntimeError")


@pytest.mark.parametrize("label", ["activate", "deactivate"])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refuse, "RuntimeError: out of handles"),
        (lambda state: TransitionCallbackReturn.ERROR, "a publisher of the node answers ERROR"),
        (lambda state: TransitionCallbackReturn.FAILURE, "a publisher of the node answers FAILURE"),
    ],
)
def test_a_publisher_that_does_not_go_along_is_said(bench, label, answer, says):
    node = bench.recognizer(FakeRecognizer(), **SETTINGS)
    statuses = status_of(bench)
    assert change(bench, "configure")
    if label == "deactivate":
        assert change(bench, "activate")
    setattr(node._answers, f"on_{label}", answer)
    assert not change(bench, label)
    wait_cause(bench, statuses, f"not {label}d: {says}")
    assert (node.stage, state_of(node)) == ("unconfigured", "unconfigured")
    assert len(node._managed_entities) == 0
    assert change(bench, "configure")
    assert change(bench, "activate")


def test_the_overlay_rests_and_works_on_whatever_is_refused(bench, monkeypatch):
    from mmcl_ros.overlay_node import OverlayNode

    gc.collect()
    log = bench.collect(Log, "/rosout")
    overlay = bench.add(OverlayNode(context=bench.context))
    camera = bench.publisher(Image, "/rgb/image", subscribers=0)
    looking = bench.client.create_subscription(Image, "/overlay/image", print, 1)
    bench.wait(lambda: camera.get_subscription_count() == 1, "the overlay to listen")
    with monkeypatch.context() as patched:
        patched.setattr(overlay, "destroy_subscription", refuse)
        bench.inside(bench.client.destroy_subscription, looking)
        bench.wait(lambda: not overlay.working, "the overlay to rest")
        says = "a subscription could not be ended: RuntimeError: out of handles"
        bench.wait(lambda: any(line.msg == says for line in log), "the line in the log")
    bench.client.create_subscription(Image, "/overlay/image", print, 1)
    bench.wait(lambda: camera.get_subscription_count() == 2, "the overlay to listen anew")


@pytest.mark.parametrize("distribution", ["this one", "Humble"])
def test_a_transition_that_cannot_be_made_is_refused_and_ends_no_process(bench, monkeypatch, distribution):
    """A lifecycle manager asks by number, and does not know that the node has started by itself."""
    node = bench.recognizer(FakeRecognizer(), **{**SETTINGS, "autostart": True})
    if distribution == "Humble":  # whose rclpy lets the error through; so does that of Jazzy
        raised = node._state_machine.trigger_transition_by_id
        monkeypatch.setattr(node, "_LifecycleNodeMixin__change_state", lambda number: raised(number, True))
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert not bench.call(ChangeState, "/recognizer/change_state", request).success
    monkeypatch.undo()
    assert (state_of(node), node.stage) == ("active", "active")
    answers_once(bench)
    assert change(bench, "deactivate")
