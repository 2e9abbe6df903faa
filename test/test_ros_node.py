"""The node over real DDS with a recogniser whose answers are known: topics and policies.

Not tested here: lifecycle (test_ros_lifecycle.py), failures (test_ros_failures.py), accuracy (test_ros_bag.py), speed
(python -m mmcl_ros.benchmark).
"""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from diagnostic_msgs.msg import DiagnosticArray
from mmcl_ros.msg import LabelInfo, ModalityHealth, Recognition, RecognitionArray, RegionArray
from ros_bench import (
    depth_message,
    info_message,
    keep_sending,
    modality,
    region_message,
    rgb_message,
    stamped,
    status_of,
)
from ros_fakes import CLASSES, FakeRecognizer, image, regions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mmcl_ros import reports
from mmcl_ros.detections import read_request
from mmcl_ros.drawing import GREEN, GREY
from mmcl_ros.frames import FrameAnswer, FrameRecognizer, FrameSettings
from mmcl_ros.health import State
from mmcl_ros.overlay_node import marks

pytestmark = pytest.mark.ros


def last(found):
    return found[-1] if found else None


def test_constants_of_messages_and_code_agree():
    from mmcl_ros.frames import Result

    assert {one.name: int(one) for one in Result} == {one.name: getattr(Recognition, one.name) for one in Result}
    assert {one.name: int(one) for one in State} == {one.name: getattr(ModalityHealth, one.name) for one in State}


@pytest.mark.parametrize("reliable", [True, False])
def test_every_request_is_answered_in_order_with_its_own_header(bench, reliable):
    bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="detections", policy="every")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image", reliable=reliable)
    depth = bench.publisher(Image, "/depth/image", reliable=reliable)
    regions = bench.publisher(RegionArray, "/detections")
    for number in range(20):
        far = number % 3
        rgb.publish(rgb_message(number, 20 + 100 * far))
        depth.publish(depth_message(number, 500 + 1000 * far))
        regions.publish(region_message(number, [(0, 0, 20, 20)] * (number % 4)))
        bench.wait(lambda number=number: len(found) > number, f"answer {number}")
    for number, answer in enumerate(found):
        assert answer.header == stamped(number)
        assert answer.model_id == "fake"
        assert [one.id for one in answer.recognitions] == [f"r{n}" for n in range(number % 4)]
        assert {one.label for one in answer.recognitions} <= {CLASSES[number % 3]}
        assert {one.modality for one in answer.recognitions} <= {"rgbd"}


def test_one_recognition_in_full(bench):
    bench.recognizer(FakeRecognizer(), modality="depth", roi_source="detections", publish_embeddings=True, top_k=2)
    found = bench.collect(RecognitionArray, "/recognitions")
    info = bench.publisher(CameraInfo, "/depth/camera_info")
    depth = bench.publisher(Image, "/depth/image")
    regions = bench.publisher(RegionArray, "/detections")
    info.publish(info_message(0))
    depth.publish(depth_message(0, 2500))
    regions.publish(region_message(0, [(70, 50, 40, 40)]))
    bench.wait(lambda: found, "the answer")
    (one,) = found[0].recognitions
    assert (one.id, one.label, one.result, one.reason, one.modality) == (
        "r0",
        "bright",
        Recognition.ACCEPTED,
        "",
        "depth",
    )
    assert (one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height) == (70, 50, 10, 10)
    assert (found[0].width, found[0].height) == (80, 60), "of the picture that these are pixels of"
    assert list(one.labels) == ["bright", "dark"]
    assert one.score == one.scores[0] == pytest.approx(0.8 + 0.2 / 3)
    assert one.depth_valid == 1
    assert list(one.embedding) == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("setting", "arguments", "topic"),
    [
        ({}, [], "/rgb/camera_info"),
        ({"rgb_topic": "/cam/color/image_raw"}, [], "/cam/color/camera_info"),
        ({"rgb_topic": "/cam/color/image_raw", "rgb_transport": "compressed"}, [], "/cam/color/camera_info"),
        ({"rgb_topic": "/cam/color/image_raw", "rgb_info_topic": "/infos/color"}, [], "/infos/color"),
        ({}, ["rgb/image:=/cam/color/image_raw"], "/cam/color/camera_info"),
        ({}, ["rgb/image:=/cam/color/image_raw", "rgb/camera_info:=/infos/color"], "/infos/color"),
        ({}, ["rgb/camera_info:=/infos/color"], "/infos/color"),
        ({"rgb_topic": "/cam/image"}, ["/cam/camera_info:=/infos/color"], "/infos/color"),
    ],
)
def test_camera_infos_come_from_beside_the_pictures_unless_named(bench, setting, arguments, topic):
    given = {"cli_args": ["--ros-args", *(word for one in arguments for word in ("-r", one))]} if arguments else {}
    node = bench.recognizer(FakeRecognizer(), modality="rgb", nodes=given, **setting)
    assert node._links.sources["rgb info"].topic == topic
    bench.publisher(CameraInfo, topic).publish(info_message(0))
    bench.wait(lambda: node.intake.cameras, "the camera info")


def test_out_of_the_box_without_a_detector(bench):
    bench.recognizer(FakeRecognizer())
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image", reliable=False)
    rgb.publish(rgb_message(0, 240))
    bench.wait(lambda: found, "the answer")
    (one,) = found[0].recognitions
    assert (one.id, one.label, one.modality) == ("center", "bright", "rgb")
    assert found[0].header == stamped(0)


def test_latest_frame_wins(bench):
    gate = threading.Event()
    model = FakeRecognizer()
    original = model.recognize
    model.recognize = lambda **given: gate.wait(10) and original(**given)
    node = bench.recognizer(model, modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")
    for number in range(6):
        rgb.publish(rgb_message(number))
        bench.wait(lambda number=number: node.intake.received == number + 1, "receipt")
    gate.set()
    bench.wait(lambda: len(found) == 2, "two answers")
    assert found[-1].header == stamped(5), "the picture under work, then the newest; what lies between is dropped"
    statuses = status_of(bench)
    bench.wait(lambda: statuses and statuses[-1].dropped == 4, "the count of dropped pictures")
    assert statuses[-1].processed == 2
    assert statuses[-1].received == 6


def test_subscribes_only_to_what_it_needs(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    bench.publisher(Image, "/rgb/image")
    unused = bench.publisher(Image, "/depth/image", subscribers=0)
    regions = bench.publisher(RegionArray, "/detections", subscribers=0)
    time.sleep(0.3)
    assert unused.get_subscription_count() == regions.get_subscription_count() == 0


def test_auto_survives_the_loss_of_a_sensor(bench):
    bench.recognizer(FakeRecognizer(), roi_source="detections", stale_after=1.0, recover_after=1.0, max_wait=0.05)
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb, depth = bench.publisher(Image, "/rgb/image"), bench.publisher(Image, "/depth/image")
    regions = bench.publisher(RegionArray, "/detections")
    kinds = []

    def send_until(kind, with_depth):
        """Send until answers stand on ``kind``; what they stood on until then."""
        first = len(kinds)
        while len(kinds) == first or kinds[-1] != kind:
            assert len(kinds) < first + 400
            number = len(kinds)
            rgb.publish(rgb_message(number))
            if with_depth:
                depth.publish(depth_message(number))
            regions.publish(region_message(number))
            bench.wait(lambda number=number: len(found) > number, f"answer {number}")
            kinds.append(found[-1].recognitions[0].modality)
            time.sleep(0.02)
        return kinds[first:]

    send_until("rgbd", with_depth=True)
    assert send_until("rgb", with_depth=False) == ["rgb"], "bounded wait, then one-sided: no answer is lost"
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        send_until("rgb", with_depth=False)
    assert len(send_until("rgbd", with_depth=True)) > 5, "a sensor that returns is not trusted at once"


@pytest.mark.parametrize("kind", ["compressed", "compressedDepth"])
def test_compressed_transports_follow_the_remapped_topic(bench, kind):
    import struct

    import cv2

    name = "rgb" if kind == "compressed" else "depth"
    settings = {f"{name}_transport": kind, f"{name}_topic": "/cam/picture"}
    bench.recognizer(FakeRecognizer(), modality=name, roi_source="full_image", **settings)
    found = bench.collect(RecognitionArray, "/recognitions")
    camera = bench.publisher(CompressedImage, f"/cam/picture/{kind}")
    message = CompressedImage(header=stamped(0))
    if name == "rgb":
        message.format, data = "jpeg", cv2.imencode(".jpg", np.full((40, 40, 3), 240, np.uint8))[1].tobytes()
    else:
        message.format = "16UC1; compressedDepth png"
        data = struct.pack("<iff", 0, 0, 0) + cv2.imencode(".png", np.full((40, 40), 2500, np.uint16))[1].tobytes()
    message.data = data
    camera.publish(message)
    bench.wait(lambda: found, "the answer")
    assert found[0].recognitions[0].label == "bright"


def test_labels_are_latched(bench):
    bench.recognizer(FakeRecognizer())
    found = bench.collect(LabelInfo, "/recognizer/labels", latched=True)
    bench.wait(lambda: found, "the labels")
    assert tuple(found[0].labels) == CLASSES
    assert list(found[0].modalities) == ["rgb", "depth"]


def test_detections_of_vision_msgs_in_and_out(bench):
    vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed (no wheels on PyPI)")
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections", box_scale=0.0)
    found = bench.collect(RecognitionArray, "/recognitions")
    also = bench.collect(vision.Detection2DArray, "/recognitions_2d")
    rgb, detector = bench.publisher(Image, "/rgb/image"), bench.publisher(vision.Detection2DArray, "/detections")
    message = vision.Detection2DArray(header=stamped(3))
    for x, width in ((20.0, 20.0), (float("nan"), 10.0)):
        one = vision.Detection2D(header=message.header, id=f"at {x}")
        one.bbox.center.position.x, one.bbox.center.position.y = x, 30.0
        one.bbox.size_x = one.bbox.size_y = width
        message.detections.append(one)
    bench.wait(lambda: bench.client.count_subscribers("/recognitions_2d"), "the listener")
    for _ in range(50):
        rgb.publish(rgb_message(3, 240))
        detector.publish(message)
        if found and also:
            break
        time.sleep(0.1)
    first, second = found[0].recognitions
    assert (first.id, first.label, second.id, second.label) == ("at 20.0", "bright", "at nan", "unknown")
    assert second.result == Recognition.BAD_REGION
    assert also[0].header == stamped(3)
    assert [one.id for one in also[0].detections] == ["at 20.0", "at nan"]
    assert also[0].detections[0].bbox == message.detections[0].bbox
    assert [one.hypothesis.class_id for one in also[0].detections[0].results] == ["bright", "dark", "middle"]
    assert also[0].detections[1].results == []


def test_a_class_unknown_is_no_hypothesis_and_not_drawn_as_an_answer(monkeypatch):
    """Of a model that has it: on neither place of the list; the overlay shows the region as rejected."""
    fakes = {
        "Detection2D": lambda **given: SimpleNamespace(
            **given, bbox=SimpleNamespace(center=SimpleNamespace(position=SimpleNamespace())), results=[]
        ),
        "ObjectHypothesisWithPose": lambda: SimpleNamespace(hypothesis=SimpleNamespace()),
        "Detection2DArray": lambda: SimpleNamespace(header=None, detections=[]),
    }
    monkeypatch.setattr(reports, "message_class", lambda kind: fakes[kind.split("/")[-1]])
    model = FakeRecognizer(classes=("dark", "middle", "unknown"))
    answerer = FrameRecognizer(model, FrameSettings(box_scale=0.0))
    found = []
    for value in (20, 230):
        picture = image(np.full((60, 80, 3), value, np.uint8), "rgb8")
        found += answerer(read_request(regions([(0, 0, 40, 60)])), {"rgb": picture}).answers
    listed = reports.detections_message(None, found).detections
    assert [[one.hypothesis.class_id for one in region.results] for region in listed] == [["dark", "middle"], []]
    drawn = marks(reports.answers_message(None, "fake", FrameAnswer(found), False).recognitions)
    assert [mark.colour for mark in drawn] == [GREEN, GREY]
    assert drawn[1].words.startswith("unknown 0.87")


def test_diagnostics(bench):
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    found = bench.collect(DiagnosticArray, "/diagnostics")
    statuses = status_of(bench)
    bench.wait(lambda: found and found[-1].status[0].level == b"\x02", "an error while nothing comes")
    assert found[-1].status[0].name == "recognizer"
    rgb = bench.publisher(Image, "/rgb/image")
    keep_sending(bench, statuses, lambda status: found[-1].status[0].level == b"\x00", (rgb, rgb_message))
    assert [one.name for one in found[-1].status] == ["recognizer", "recognizer: rgb"]
    told = {"rate", "processed", "total p50 ms"}  # the last one once a picture was answered
    keep_sending(bench, statuses, lambda _: told <= {one.key for one in found[-1].status[0].values}, (rgb, rgb_message))
    status = keep_sending(bench, statuses, lambda status: status.rate > 5, (rgb, rgb_message))
    stages = {"wait", "decode", "crop", "inference", "publish", "total", "overhead"}
    assert {one.stage for one in status.latencies} == stages
    assert all(0 <= one.p50 <= one.p90 <= one.p99 for one in status.latencies)
    assert modality(status, "rgb").rate > 5
    assert modality(status, "rgb").encoding == "rgb8"


@pytest.mark.parametrize("named", [True, False])
def test_boxes_of_colour_are_found_in_depth_by_both_camera_infos_though_colour_is_not_listened_to(bench, named):
    """Of another shape than depth; where colour's camera info is not named it lies beside the pictures."""
    given = {"rgb_info_topic": "/colour/info"} if named else {"rgb_topic": "/colour/image"}
    recognizer = FakeRecognizer()
    bench.recognizer(recognizer, modality="depth", roi_source="detections", **given)
    answers = bench.collect(RecognitionArray, "/recognitions")
    depth, boxes = bench.publisher(Image, "/depth/image"), bench.publisher(RegionArray, "/detections")
    infos = [bench.publisher(CameraInfo, "/depth/camera_info")]
    infos.append(bench.publisher(CameraInfo, "/colour/info" if named else "/colour/camera_info"))
    for info, shape in zip(infos, ((60, 80), (90, 160)), strict=True):
        info.publish(info_message(0, shape))
    request = region_message(0, ((60, 30, 40, 30),))
    request.width, request.height = 160, 90
    depth.publish(depth_message(0, shape=(60, 80)))
    boxes.publish(request)
    bench.wait(lambda: answers, "the answer")
    (answer,) = answers[0].recognitions
    assert (answer.modality, answer.reason) == ("depth", "")
    assert (answer.roi.x_offset, answer.roi.y_offset, answer.roi.width, answer.roi.height) == (60, 30, 40, 30)
    assert recognizer.calls[0].depth[0].shape == (48, 48), "the square around the box, with its margin"
