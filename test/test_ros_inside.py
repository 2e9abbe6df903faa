"""What the parts of a node tell each other, where nothing comes in: queues, counts, stages, what is said once."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

import rclpy
from rclpy.parameter import Parameter
from ros_bench import rgb_message, take_domain
from ros_fakes import FakeRecognizer

from mmcl_ros.intake import Job
from mmcl_ros.recognizer_node import RecognizerNode

pytestmark = pytest.mark.ros

QUEUE = 37


@pytest.fixture(scope="module", params=["latest", "every"])
def node(request):
    """A node of either policy that nobody spins."""
    context = rclpy.Context()
    domain, taken = take_domain()
    rclpy.init(context=context, domain_id=domain)
    given = {"policy": request.param, "queue": QUEUE, "model": "fake", "warn_period": 3600.0}
    listed = [Parameter(name, value=value) for name, value in given.items()]
    node = RecognizerNode(lambda *_, **__: FakeRecognizer(), context=context, parameter_overrides=listed)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)
    taken.close()


def told(node):
    """The problems that a report names."""
    kept, found = node._notices, []
    node._notices = SimpleNamespace(update=lambda problems, now, period: found.append(dict(problems)))
    node.report()
    node._notices = kept
    return found[0]


def test_queues_hold_what_the_policy_is_to_answer(node):
    every = node.values["policy"] == "every"
    depths = {name: source.depth for name, source in node._links.sources.items()}
    pictures = QUEUE if every else 5
    assert depths == {
        **dict.fromkeys(("rgb", "rgb info", "depth", "depth info"), pictures),
        "detections": max(pictures, 10),
    }
    assert node._answers.qos_profile.depth == (QUEUE if every else 10)


def test_requests_that_a_newer_one_has_overtaken_are_no_fault_of_the_policy_latest(node):
    assert "queue full" not in told(node)
    node._worker.dropped += 5
    words = told(node).get("queue full", "")
    assert words.startswith("5 requests dropped") == (node.values["policy"] == "every")
    assert "queue full" not in told(node), "none has been dropped since"


def test_what_is_odd_about_stamps_is_told_until_it_is_over(node):
    node.intake.events["zero stamps"] = "rgb: messages with stamp 0"
    assert told(node)["zero stamps"] == "rgb: messages with stamp 0"
    assert "zero stamps" not in told(node)


def test_the_stages_of_an_answer_are_parts_of_its_time(node):
    message = rgb_message(0)
    node._process(Job(None, message.header, {"rgb": message}, {}, time.monotonic() - 10))
    spent = {stage: seconds[-1] for stage, seconds in node.ledger.latencies.seconds().items()}
    assert spent["wait"] >= 10
    parts = ("wait", "decode", "crop", "inference", "publish")
    assert sum(spent[stage] for stage in parts) <= spent["total"] + 1e-6
    assert spent["overhead"] == spent["total"] - spent["inference"]


def test_an_answer_that_only_a_service_has_asked_for_counts_for_no_topic(node):
    before = node.ledger.processed, node.ledger.failed
    node._on_lost(Job(None, None, {}, {}, 0.0, done=print), RuntimeError("a defect"))
    assert (node.ledger.processed, node.ledger.failed) == before
    assert told(node)["answer lost"] == "answer lost: RuntimeError: a defect"
    node._on_lost(Job(None, rgb_message(0).header, {}, {}, 0.0), RuntimeError("a defect"))
    assert (node.ledger.processed, node.ledger.failed) == (before[0] + 1, before[1] + 1)
