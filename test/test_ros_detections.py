"""Detections of yolo_ros, whose messages have fields of their own: boxes for the node, classes as truth of a bag."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ros_fakes import header

from mmcl_ros.detections import Box, read_request

DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Vector2": "float64 x\nfloat64 y\n",
    "Pose2D": "yolo_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "yolo_msgs/Pose2D center\nyolo_msgs/Vector2 size\n",
    "Detection": "int32 class_id\nstring class_name\nfloat64 score\nstring id\nyolo_msgs/BoundingBox2D bbox\n",
    "DetectionArray": "std_msgs/Header header\nyolo_msgs/Detection[] detections\n",
}
KIND = "yolo_msgs/msg/DetectionArray"


def test_the_boxes_of_yolo_ros():
    def detection(name, theta=0.0):
        center = SimpleNamespace(position=SimpleNamespace(x=20.5, y=30), theta=theta)
        return SimpleNamespace(id=name, bbox=SimpleNamespace(center=center, size=SimpleNamespace(x=10, y=20)))

    message = SimpleNamespace(header=header(5, "cam"), detections=[detection("7"), detection("", math.pi / 2)])
    request = read_request(message)
    assert (request.stamp, request.frame_id, request.width) == (5, "cam", 0)
    assert request.boxes[0] == Box("7", 15.5, 20, 25.5, 40)
    turned = request.boxes[1]
    assert (turned.left, turned.top, turned.right, turned.bottom) == pytest.approx((10.5, 25, 30.5, 35))


def test_classes_of_yolo_ros_are_the_truth_of_a_recording(tmp_path):
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    from mmcl_ros.bagfile import Bag
    from mmcl_ros.truth import read_topic

    store = get_typestore(Stores.LATEST)
    for name, text in DEFINITIONS.items():
        store.register(get_types_from_msg(text, f"yolo_msgs/msg/{name}"))
    made = {name: store.types[f"yolo_msgs/msg/{name}"] for name in DEFINITIONS}
    head = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](5, 7), "cam")
    picture = store.types["sensor_msgs/msg/Image"](head, 4, 4, "rgb8", 0, 12, np.zeros(48, np.uint8))
    box = made["BoundingBox2D"](made["Pose2D"](made["Point2D"](2.0, 2.0), 0.0), made["Vector2"](4.0, 2.0))
    found = made["DetectionArray"](head, [made["Detection"](41, "cup", 0.9, "3", box)])
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, message in (
            ("/cam/rgb", "sensor_msgs/msg/Image", picture),
            ("/yolo/detections", KIND, found),
        ):
            channel = writer.add_connection(topic, kind, typestore=store)
            writer.write(channel, 1, store.serialize_cdr(message, kind))
    with Bag(tmp_path / "bag") as bag:
        (truth,) = read_topic(bag)
    assert truth.labels == ("cup",)
    assert truth.request.boxes == (Box("3", 0, 1, 4, 3),)
    assert truth.request.stamp == 5_000_000_007
