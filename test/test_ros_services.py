"""Service ``~/recognize_once`` where there is no answer, and the thread behind it: the reason is never empty.

Its answers are tested in test_ros_lifecycle.py, the thread alone in test_ros_worker.py.
"""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import RecognitionArray
from mmcl_ros.srv import RecognizeOnce
from ros_bench import change, rgb_message, status_of, wait_cause
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

from mmcl_ros.qos import profile

pytestmark = pytest.mark.ros

COLOUR = {"modality": "rgb", "roi_source": "full_image"}


@pytest.mark.parametrize(
    ("problems", "why"), [({}, "none came in time"), ({"a": "lens cap", "b": "no light"}, "lens cap; no light")]
)
def test_a_picture_that_does_not_come_has_a_reason(bench, problems, why):
    """There may be no problem any more when the wait is over: the picture came a moment too late."""
    node = bench.recognizer(FakeRecognizer(), **COLOUR)
    node.problems = lambda: problems
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request(timeout=0.1))
    assert (answer.success, answer.message) == (False, f"no picture within 0.1 s: {why}")


def test_a_thread_that_has_ended_is_told_and_comes_back_with_the_next_activation(bench):
    node = bench.recognizer(FakeRecognizer(), **COLOUR)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    jobs = node.intake.jobs
    node.intake.jobs = lambda now: 1 / 0
    bench.wait(lambda: not node._worker.is_alive(), "the end of the thread")
    wait_cause(bench, statuses, "the thread that recognises has ended: ZeroDivisionError", "deactivate and activate")
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request())
    assert "no answer" in answer.message
    node.intake.jobs = jobs
    assert change(bench, "deactivate")
    assert change(bench, "activate")
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: found, "the answer")


def test_many_questions_at_once_are_all_answered(bench):
    """The queue of a service holds ten unless told otherwise, and what does not fit is lost without a word."""
    bench.recognizer(FakeRecognizer(), **COLOUR, stale_after=60.0)
    rgb = bench.publisher(Image, "/rgb/image")
    kind, name = RecognizeOnce, "/recognizer/recognize_once"
    clients = [bench.client.create_client(kind, name, qos_profile=profile(60)) for _ in range(2)]
    assert all(client.wait_for_service(10) for client in clients)
    rgb.publish(rgb_message(0))
    requests = [(client, kind.Request(timeout=30.0)) for client in clients for _ in range(30)]
    asked = bench.inside(lambda: [client.call_async(request) for client, request in requests])
    bench.wait(lambda: all(one.done() for one in asked), "the answers", 30)
    assert all(one.result().success for one in asked)
