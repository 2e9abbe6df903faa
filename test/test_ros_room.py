"""How much memory pictures may take in the node, over real DDS: what finds no room is answered sooner, or named."""

import threading

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import RecognitionArray
from mmcl_ros.srv import RecognizeOnce
from ros_bench import region_message, rgb_message, stamped, status_of
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

from mmcl_ros import backlog

pytestmark = pytest.mark.ros

BYTES = 60 * 80 * 3  # of a picture


def test_pictures_whose_partner_does_not_come_are_answered_when_there_is_no_more_room(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="center", policy="every", max_wait=10.0)
    node.intake.pairer.memory = 10 * BYTES
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    bench.publisher(Image, "/depth/image")  # is there and sends nothing
    rgb = bench.publisher(Image, "/rgb/image")
    for number in range(40):
        rgb.publish(rgb_message(number))
    bench.wait(lambda: len(found) == 30, "an answer for all but those there is room for", 9.0)
    assert [answer.header for answer in found] == [stamped(number) for number in range(30)]
    assert {one.modality for answer in found for one in answer.recognitions} == {"rgb"}
    bench.wait(lambda: statuses and "no time to wait" in node._notices._said, "the warning")
    assert "sent no picture" in statuses[-1].cause, "what is at the bottom of it comes first"
    bench.wait(lambda: (statuses[-1].one_sided, statuses[-1].dropped) == (30, 0), "the counts")


def test_pictures_that_wait_for_the_network_are_dropped_when_there_is_no_more_room(bench, monkeypatch):
    gate = threading.Event()

    class Slow(FakeRecognizer):
        def recognize(self, **given):
            gate.wait(30)
            return super().recognize(**given)

    made = backlog.Backlog.__init__
    monkeypatch.setattr(backlog.Backlog, "__init__", lambda *given, **more: made(*given, **more, memory=10 * BYTES))
    node = bench.recognizer(Slow(), modality="rgb", roi_source="center", policy="every", queue=1000)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: node._worker.busy, "the network to be at work")
    for number in range(1, 41):
        rgb.publish(rgb_message(number))
    bench.wait(lambda: node.intake.received == 41, "the pictures to come")
    gate.set()
    bench.wait(lambda: len(found) == 11, "the answers")
    assert [answer.header for answer in found] == [stamped(0), *map(stamped, range(31, 41))]
    bench.wait(lambda: statuses and statuses[-1].dropped == 30, "the count")
    assert any("30 requests dropped" in one.cause and "GB of pictures" in one.cause for one in statuses)


def test_that_a_batch_was_too_large_is_said_whoever_asked_for_it(bench):
    class Small(FakeRecognizer):
        def recognize(self, rgb=None, **given):
            if len(rgb) > 1:
                raise RuntimeError("CUDA out of memory")
            return super().recognize(rgb=rgb, **given)

    bench.recognizer(Small(), modality="rgb", roi_source="center", stale_after=60.0)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    bench.publisher(Image, "/rgb/image").publish(rgb_message(0))
    bench.wait(lambda: found, "an answer")
    asked = RecognizeOnce.Request(regions=region_message(0, [(0, 0, 20, 20), (20, 0, 20, 20)]).regions, timeout=9.0)
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", asked).answer
    assert [one.label for one in answer.recognitions] == ["dark", "dark"]
    says = "out of memory on cpu with 2 crops at once; for 5 minutes no more than 1 are tried at once"
    bench.wait(lambda: any(one.cause.startswith(says) for one in statuses), "the cause")
    assert statuses[-1].failed == 0
