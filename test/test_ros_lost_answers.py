"""Answers that are lost over real DDS: each is counted and said, whoever waits for it is told, and the node goes on."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from diagnostic_msgs.msg import DiagnosticArray
from mmcl_ros.msg import Recognition, RecognitionArray, RegionArray
from mmcl_ros.srv import RecognizeOnce
from ros_bench import change, region_message, rgb_message, stamped, status_of
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

from mmcl_ros import reports

pytestmark = pytest.mark.ros


def test_inference_errors_do_not_end_the_loop(bench):
    model = FakeRecognizer()
    bench.recognizer(model, modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")
    model.broken = True
    rgb.publish(rgb_message(0))
    bench.wait(lambda: len(found) == 1, "the answer")
    assert found[0].recognitions[0].result == Recognition.FAILED
    assert "out of memory" in found[0].recognitions[0].reason
    model.broken = False
    rgb.publish(rgb_message(1))
    bench.wait(lambda: len(found) == 2, "the next answer")
    assert found[1].recognitions[0].label == "dark"


def test_a_defect_loses_no_answer_without_a_word(bench, monkeypatch):
    """An error that the frames do not expect, as of a library that runs out of memory: all are answered and counted."""
    from mmcl_ros.frames import DECODERS

    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", policy="every", warn_period=60.0)
    said = []
    node._notices._warn = said.append
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    told = bench.collect(DiagnosticArray, "/diagnostics")
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: len(found) == 1, "the answer")

    def defect(message):
        raise MemoryError("a defect")

    with monkeypatch.context() as patched:
        patched.setitem(DECODERS, "rgb", defect)
        for number in range(1, 4):
            rgb.publish(rgb_message(number))
        bench.wait(lambda: len(found) == 4, "an answer to each")
    words = "answer lost: MemoryError: a defect"
    for number, answer in enumerate(found[1:], 1):
        (one,) = answer.recognitions
        assert (answer.header, answer.model_id) == (stamped(number), "fake")
        assert (one.id, one.label, one.result, one.reason) == ("image", "unknown", Recognition.FAILED, words)
    bench.wait(lambda: statuses[-1].failed == 3, "the count")
    assert statuses[-1].processed == 4
    assert words in [status.cause for status in statuses]
    bench.wait(lambda: words in [one.status[0].message for one in told], "the diagnosis")
    assert said.count(words) == 1
    rgb.publish(rgb_message(4))
    bench.wait(lambda: len(found) == 5, "the next answer")
    assert found[-1].recognitions[0].label == "dark"


def test_an_answer_that_was_sent_is_not_sent_anew_when_what_follows_breaks(bench, monkeypatch):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections")
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb, regions = bench.publisher(Image, "/rgb/image"), bench.publisher(RegionArray, "/detections")

    def defect(*_):
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(node.ledger, "account", defect)
        rgb.publish(rgb_message(0))
        regions.publish(region_message(0))
        bench.wait(lambda: statuses and statuses[-1].failed == 1, "the count")
    regions.publish(region_message(0))
    bench.wait(lambda: len(found) > 1, "the next answer")
    assert [one.label for answer in found for one in answer.recognitions] == ["dark", "dark"]


def test_answers_count_though_they_cannot_be_said_as_detections(bench, monkeypatch, caplog):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", warn_period=60.0)
    said = []
    node._notices._warn = said.append
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")

    def defect(*_):
        raise AttributeError("no such field")

    monkeypatch.setattr(reports, "detections_message", defect)
    node._answers_2d = SimpleNamespace(get_subscription_count=lambda: 1, publish=found.append)
    try:
        with caplog.at_level("INFO", "mmcl_ros"):
            for number in range(3):
                rgb.publish(rgb_message(number))
                bench.wait(lambda number=number: len(found) > number, "the answer")
            bench.wait(lambda: statuses[-1].processed == 3, "the count")
    finally:
        node._answers_2d = None
    assert (statuses[-1].failed, statuses[-1].active) == (0, "rgb")
    assert {one.label for answer in found for one in answer.recognitions} == {"dark"}
    bench.wait(lambda: said, "the warning")
    assert [words for words in said if "nobody publishes" not in words and "no picture yet" not in words] == [
        "recognitions_2d failed: AttributeError: no such field"
    ]
    assert [(line.message, line.levelname) for line in caplog.records] == [("recognitions_2d failed", "ERROR")]


def test_that_a_lost_answer_cannot_be_told_is_in_the_log(bench, monkeypatch, caplog):
    """What cannot be put into a message cannot be said instead, either."""
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    statuses, rgb = status_of(bench), bench.publisher(Image, "/rgb/image")

    def defect(*_):
        raise TypeError("a defect")

    with monkeypatch.context() as patched, caplog.at_level("INFO", "mmcl_ros"):
        patched.setattr(reports, "answers_message", defect)
        for number in range(2):
            rgb.publish(rgb_message(number))
            bench.wait(lambda number=number: statuses and statuses[-1].failed == number + 1, "the count")
    assert [line.message for line in caplog.records] == ["an answer was lost", "a lost answer could not be told"]
    assert {line.levelname for line in caplog.records} == {"ERROR"}


def test_the_count_of_dropped_requests_goes_on_after_a_pause(bench):
    gate = threading.Event()
    model = FakeRecognizer()
    original = model.recognize
    model.recognize = lambda **given: gate.wait(10) and original(**given)
    node = bench.recognizer(model, modality="rgb", roi_source="full_image", policy="every", queue=3)
    said = []
    node._notices._warn = said.append
    statuses = status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    for number in range(10):
        rgb.publish(rgb_message(number))
        bench.wait(lambda number=number: node.intake.received == number + 1, "receipt")
        bench.wait(lambda number=number: number or not node.intake.pairer.waiting, "the work on the first")
    gate.set()
    bench.wait(lambda: statuses and statuses[-1].dropped == 6, "the count")
    for label in ("deactivate", "activate"):
        assert change(bench, label)
        first = len(statuses)
        bench.wait(lambda first=first: len(statuses) > first + 2, "the status thereafter")
        assert {status.dropped for status in statuses[first + 1 :]} == {6}
    assert [words[0] for words in said if "dropped" in words] == ["6"], "since the last report, so said once"


def test_whoever_asked_for_an_answer_that_is_lost_is_told(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", stale_after=60.0)
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: node.ledger.processed == 1, "the picture")

    def broken(*_):
        raise RuntimeError("a defect")

    node._frames = broken
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request(timeout=60.0))
    assert not answer.success
    assert answer.message.startswith("no answer: ")


def test_an_answer_that_is_awaited_at_deactivation_ends_with_it(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    client = bench.client.create_client(RecognizeOnce, "/recognizer/recognize_once")
    assert client.wait_for_service(10)
    asked = client.call_async(RecognizeOnce.Request(timeout=60.0))
    bench.wait(lambda: node._worker._singles, "the question")
    assert change(bench, "deactivate")
    bench.wait(asked.done, "the answer")
    assert asked.result().message == "no answer: the work on it failed or was ended (the node is inactive); see the log"
