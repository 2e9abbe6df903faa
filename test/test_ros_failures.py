"""Failures of the node over real DDS: each has a state, a cause in words, and one line in the log."""

import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import ModalityHealth, Recognition, RecognitionArray, RegionArray
from mmcl_ros.srv import RecognizeOnce
from ros_bench import (
    change,
    depth_message,
    keep_sending,
    modality,
    region_message,
    rgb_message,
    stamped,
    status_of,
    wait_cause,
)
from ros_fakes import FakeRecognizer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from mmcl_ros.health import State

pytestmark = pytest.mark.ros


def test_no_publisher(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections")
    status = wait_cause(bench, status_of(bench), "nobody publishes /rgb/image", "sensor_msgs/msg/Image")
    assert modality(status, "rgb").state == ModalityHealth.NO_PUBLISHER
    assert modality(status, "depth").state == ModalityHealth.OFF


@pytest.mark.parametrize("setting", [{}, {"rgb_topic": "/cam"}, {"rgb_topic": "/cam/compressed"}])
def test_a_wrong_topic_or_transport_is_told_where_pictures_are(bench, setting):
    bench.recognizer(FakeRecognizer(), modality="rgb", **setting)
    bench.publisher(CompressedImage, "/cam/compressed", subscribers=0)
    wait_cause(bench, status_of(bench), "pictures are published on /cam (transport compressed)")


def test_a_robot_without_one_sensor_is_told_what_to_set(bench):
    bench.recognizer(FakeRecognizer(), roi_source="full_image")
    statuses = status_of(bench)
    assert "without that sensor" not in wait_cause(bench, statuses, "nobody publishes /rgb/image").cause
    rgb = bench.publisher(Image, "/rgb/image")
    says = "depth: nobody publishes /depth/image (sensor_msgs/msg/Image); without that sensor set modality to rgb"
    keep_sending(bench, statuses, lambda status: status.cause == says, (rgb, rgb_message))


def test_no_detector(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections")
    statuses = status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    for number in range(200):
        rgb.publish(rgb_message(number))
        if statuses and "nobody publishes /detections" in statuses[-1].cause:
            break
        time.sleep(0.02)
    assert "set roi_source to center" in statuses[-1].cause


def test_a_detector_that_goes_away_is_waited_for_and_missed(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", status_period=0.1)
    statuses, found = status_of(bench), bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: len(found) == 1, "the answer for the centre")
    detector = bench.publisher(RegionArray, "/detections")
    bench.wait(lambda: node.intake.uses_detections, "the detector to be heard")
    bench.inside(bench.client.destroy_publisher, detector)
    keep_sending(bench, statuses, lambda status: "nobody publishes /detections" in status.cause, (rgb, rgb_message))
    assert len(found) == 1
    bench.publisher(RegionArray, "/detections").publish(region_message(0))
    bench.wait(lambda: len(found) == 2, "the answer for the region")
    assert found[1].recognitions[0].id == "r0"


def test_wrong_type(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb")
    bench.publisher(String, "/rgb/image", subscribers=0)
    status = wait_cause(bench, status_of(bench), "std_msgs/msg/String by /client")
    assert modality(status, "rgb").state == ModalityHealth.MISMATCH


def test_quality_of_service_that_cannot_be_matched(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", qos="reliable")
    bench.publisher(Image, "/rgb/image", subscribers=0, reliable=False)
    status = wait_cause(bench, status_of(bench), "/client publishes best effort", "set qos to auto")
    assert modality(status, "rgb").state == ModalityHealth.MISMATCH


@pytest.mark.parametrize(
    ("qos", "kind", "says"),
    [
        ("auto", String, "/detections carries std_msgs/msg/String by /client"),
        ("reliable", RegionArray, "/detections: /client publishes best effort, but qos asks for reliable"),
    ],
)
def test_a_detector_that_cannot_be_heard_is_named_though_none_is_asked_for(bench, qos, kind, says):
    """With the default of roi_source, where none at all is no fault."""
    bench.recognizer(FakeRecognizer(), modality="rgb", qos=qos)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    keep_sending(bench, statuses, lambda status: found and not status.cause, (rgb, rgb_message))
    detector = bench.publisher(kind, "/detections", subscribers=0, reliable=False)
    status = keep_sending(bench, statuses, lambda status: says in status.cause, (rgb, rgb_message))
    assert status.cause.endswith("until that is right, regions are the node's own")
    assert found[-1].recognitions[0].id == "center"
    bench.inside(bench.client.destroy_publisher, detector)
    keep_sending(bench, statuses, lambda status: not status.cause, (rgb, rgb_message))


@pytest.mark.parametrize(
    ("qos", "kind", "says"),
    [
        ("auto", String, "/cam/camera_info carries std_msgs/msg/String by /client"),
        ("reliable", CameraInfo, "/cam/camera_info: /client publishes best effort"),
        ("auto", None, "nobody publishes /cam/camera_info (sensor_msgs/msg/CameraInfo); name it (depth_info_topic)"),
    ],
)
def test_why_the_camera_is_not_known_is_said(bench, qos, kind, says):
    model = FakeRecognizer(uses_camera=True)
    bench.recognizer(model, modality="depth", roi_source="center", qos=qos, depth_topic="/cam/image")
    statuses = status_of(bench)
    depth = bench.publisher(Image, "/cam/image")
    if kind:
        bench.publisher(kind, "/cam/camera_info", subscribers=0, reliable=False)
    status = keep_sending(bench, statuses, lambda status: says in status.cause, (depth, depth_message))
    assert status.cause.startswith("depth: no usable camera info, by which this model goes")
    assert ("name it" in status.cause) == (kind is None)


def test_a_publisher_that_comes_back_with_another_quality_is_followed(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    for number, reliable in enumerate([True, False, True]):
        rgb = bench.publisher(Image, "/rgb/image", reliable=reliable)

        def answered(number=number, rgb=rgb):
            rgb.publish(rgb_message(number))
            return bool(found) and found[-1].header == stamped(number)

        bench.wait(answered, "an answer")
        bench.inside(bench.client.destroy_publisher, rgb)


def test_zero_stamps(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")

    def unstamped(number):
        message = rgb_message(number)
        message.header.stamp.sec = message.header.stamp.nanosec = 0
        return message

    keep_sending(bench, status_of(bench), lambda status: "stamp 0" in status.cause, (rgb, unstamped))
    bench.wait(lambda: found, "an answer")
    assert found[-1].header.stamp.sec == 0, "the header is returned as it came"


def test_never_paired(bench):
    bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="full_image", pair_window=0.01)
    statuses = status_of(bench)
    rgb, depth = bench.publisher(Image, "/rgb/image"), bench.publisher(Image, "/depth/image")

    def shifted(number):
        message = depth_message(number)
        message.header.stamp.nanosec += 40_000_000
        return message

    found = keep_sending(
        bench, statuses, lambda status: "never paired" in status.cause, (rgb, rgb_message), (depth, shifted)
    )
    assert "0.040 s" in found.cause
    assert found.smallest_gap == pytest.approx(0.04)
    assert found.paired == 0


def test_a_detector_that_has_just_appeared_is_not_called_silent(bench):
    """Pictures have come for long when it does."""
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="auto")
    rgb = bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0))
    bench.wait(lambda: node.intake.health["rgb"].received, "a picture")
    node.intake._heard -= 100
    rgb.publish(rgb_message(1))
    bench.wait(lambda: node.intake.silent > 90, "the second picture")
    bench.publisher(RegionArray, "/detections")
    bench.wait(lambda: node.intake.uses_detections, "the detector")
    assert "no regions" not in node.problems()


def broken(**changes):
    def make(number):
        message = rgb_message(number)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    return make


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "rgb9"}, "'rgb9' is not known for colour; supported are rgb8"),
        ({"data": b"abc"}, "truncated: 3 bytes"),
    ],
)
def test_undecodable_pictures(bench, changes, says):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    statuses = status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    status = keep_sending(bench, statuses, lambda status: says in status.cause, (rgb, broken(**changes)))
    assert modality(status, "rgb").state == ModalityHealth.BAD_PICTURES
    assert status.malformed > 0
    assert found[0].recognitions[0].result == Recognition.BAD_PICTURE
    keep_sending(
        bench, statuses, lambda status: modality(status, "rgb").state == ModalityHealth.ALIVE, (rgb, rgb_message)
    )


def test_boxes_that_are_none(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections")
    found = bench.collect(RecognitionArray, "/recognitions")
    statuses = status_of(bench)
    rgb, regions = bench.publisher(Image, "/rgb/image"), bench.publisher(RegionArray, "/detections")
    rgb.publish(rgb_message(0))
    regions.publish(region_message(0, [(500, 500, 10, 10), (0, 0, 20, 20), (5, 5, 0, 0)]))
    bench.wait(lambda: found, "the answer")
    results = [(one.label, one.result) for one in found[0].recognitions]
    bad = ("unknown", Recognition.BAD_REGION)
    assert results == [bad, ("dark", Recognition.ACCEPTED), bad]
    bench.wait(lambda: statuses and statuses[-1].malformed == 2, "the count of bad regions")


def test_regions_without_a_picture(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections", max_wait=0.05)
    found = bench.collect(RecognitionArray, "/recognitions")
    regions = bench.publisher(RegionArray, "/detections")
    regions.publish(region_message(0))
    bench.wait(lambda: found, "the answer")
    (one,) = found[0].recognitions
    assert (one.result, one.reason) == (Recognition.NO_PICTURE, "no rgb picture has come")


def test_activation_starts_without_what_came_before(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", max_wait=0.3)
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")
    regions = bench.publisher(RegionArray, "/detections")
    rgb.publish(rgb_message(0))
    regions.publish(region_message(0))
    bench.wait(lambda: len(found) == 1, "the answer")
    regions.publish(region_message(1))
    bench.wait(lambda: node.intake.received == 2, "the request")
    assert change(bench, "deactivate")
    time.sleep(0.5)
    assert change(bench, "activate")
    state, cause = node.intake.health["rgb"].state(time.monotonic() + 600)
    assert (state, cause) == (State.SILENT, "a publisher is there but has sent no picture yet"), "not: none for 600 s"
    once = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request(timeout=0.5))
    assert "no picture within 0.5 s" in once.message, "the picture of before is not the newest one now"
    assert len(found) == 1, "nobody waits any more for what was asked before"


def test_a_looping_bag(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", policy="every")
    found = bench.collect(RecognitionArray, "/recognitions")
    statuses = status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    for number in [*range(50), *range(50)]:
        rgb.publish(rgb_message(number))
    bench.wait(lambda: len(found) == 100, "all answers")
    bench.wait(lambda: statuses and statuses[-1].time_jumps == 1, "the count of jumps")


def test_simulated_time_without_a_clock(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", use_sim_time=True)
    statuses = status_of(bench)
    rgb = bench.publisher(Image, "/rgb/image")
    found = bench.collect(RecognitionArray, "/recognitions")
    wait_cause(bench, statuses, "nobody publishes /clock")
    clock = bench.publisher(Clock, "/clock", subscribers=0)

    def tick(number):
        return Clock(clock=stamped(number).stamp)

    keep_sending(bench, statuses, lambda status: not status.cause, (clock, tick), (rgb, rgb_message))
    assert found


def test_log_says_a_problem_once_per_period_and_its_end():
    from mmcl_ros.reports import Notices

    said = []
    notices = Notices(lambda text: said.append(("warn", text)), lambda text: said.append(("info", text)))
    for step in range(120):
        notices.update({"rgb stale": f"rgb: no picture for {step / 10} s"} if step < 60 else {}, step / 10, 5.0)
    assert [kind for kind, _ in said] == ["warn", "warn", "info"]


def broken_stamp(number):
    message = rgb_message(number)
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    return message


def half_off(number):
    message = depth_message(number)
    message.header.stamp.nanosec += 40_000_000
    return message


BOTH = {"modality": "rgbd", "roi_source": "full_image"}
COLOUR = {"modality": "rgb", "roi_source": "full_image"}
DETECTOR = {"modality": "rgb", "roi_source": "detections"}
# parameters; what is sent by topic; words of the line in the log
FAILURES = {
    "model": ({"model": ""}, {}, "the parameter model is empty"),
    "no publisher": (COLOUR, {}, "nobody publishes /rgb/image"),
    "quality of service": ({**COLOUR, "qos": "reliable"}, {"rgb best effort": rgb_message}, "best effort"),
    "wrong type": (COLOUR, {"rgb text": lambda number: String()}, "carries std_msgs/msg/String"),
    "zero stamps": (COLOUR, {"rgb": broken_stamp}, "stamp 0"),
    "never paired": (BOTH, {"rgb": rgb_message, "depth": half_off}, "smallest difference of stamps seen is 0.040 s"),
    "unknown encoding": (COLOUR, {"rgb": broken(encoding="rgb9")}, "'rgb9' is not known for colour; supported are"),
    "truncated": (COLOUR, {"rgb": broken(data=b"abc")}, "truncated: 3 bytes"),
    "box outside": (
        DETECTOR,
        {"rgb": rgb_message, "detections": lambda number: region_message(number, [(500, 0, 9, 9)])},
        "region 'r0': rgb: the box lies outside the 80 x 60 picture",
    ),
    "box empty": (
        DETECTOR,
        {"rgb": rgb_message, "detections": lambda number: region_message(number, [(5, 5, 0, 9)])},
        "region 'r0': rgb: the box is empty",
    ),
    "inference": ({**COLOUR, "model": "breaks"}, {"rgb": rgb_message}, "inference failed: RuntimeError: out of memory"),
    "time jumps": (COLOUR, {"rgb": lambda number: rgb_message(number % 20)}, "rgb: stamps jumped back"),
    "no clock": ({**COLOUR, "use_sim_time": True}, {"rgb": rgb_message}, "nobody publishes /clock"),
    "unregistered": (
        {**BOTH, "roi_source": "detections"},
        {"rgb": rgb_message, "depth": lambda n: depth_message(n, frame="other"), "detections": region_message},
        "boxes are in frame 'camera', the picture is in 'other'",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_one_line_in_the_log(bench, failure):
    """Sixty messages or a second and a half of it, and it is said once; the node answers on."""
    settings, sent, words = FAILURES[failure]
    model = FakeRecognizer()
    model.broken = settings.get("model") == "breaks"
    node = bench.recognizer(model, warn_period=30.0, **settings)
    said = []
    node._notices._warn = said.append
    kinds = {"rgb": Image, "depth": Image, "detections": RegionArray, "rgb text": String, "rgb best effort": Image}
    publishers = {}
    for name in sent:
        topic = "/detections" if name == "detections" else f"/{name.split()[0]}/image"
        heard = name not in ("rgb text", "rgb best effort")
        publishers[name] = bench.publisher(kinds[name], topic, heard, reliable=name != "rgb best effort")
    for number in range(60):
        for name, make in sent.items():
            publishers[name].publish(make(number))
        time.sleep(0.025)
    bench.wait(lambda: any(words in line for line in said), f"a line with {words!r} among {said}")
    assert sum(words in line for line in said) == 1, said
    assert len(said) == len(set(said)), "nothing is said twice"
