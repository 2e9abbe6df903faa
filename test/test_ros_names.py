"""Names of topics: namespaces and remappings are applied once, and the status shows what came of them.

Which camera info goes with which pictures is tested in test_ros_node.py.
"""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

import cv2
import numpy as np
from mmcl_ros.msg import RecognitionArray
from ros_bench import depth_message, modality, rgb_message, stamped, status_of
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import CompressedImage, Image

pytestmark = pytest.mark.ros


def remapped(*rules):
    return {"cli_args": ["--ros-args", *(word for rule in rules for word in ("-r", rule))]}


def test_topics_may_be_swapped(bench):
    """A resolved name that is remapped once more would be that of the other sensor."""
    rules = remapped("rgb/image:=/depth/image", "depth/image:=/rgb/image")
    bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="full_image", nodes=rules)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    rgb, depth = bench.publisher(Image, "/depth/image"), bench.publisher(Image, "/rgb/image")
    rgb.publish(rgb_message(0, 240))
    depth.publish(depth_message(0, 2500))
    bench.wait(lambda: found, "the answer")
    (one,) = found[0].recognitions
    assert (one.label, one.modality) == ("bright", "rgbd")
    bench.wait(lambda: statuses[-1].modalities and modality(statuses[-1], "depth").received, "the status")
    assert [modality(statuses[-1], name).topic for name in ("rgb", "depth")] == ["/depth/image", "/rgb/image"]


def test_several_cameras_in_one_process_are_told_apart(bench):
    found = {}
    for name, frame in (("front", "one"), ("rear", "two")):
        settings = {"modality": "rgb", "roi_source": "full_image", "nodes": {"namespace": name}}
        bench.recognizer(FakeRecognizer(model_id=name), **settings)
        found[frame] = bench.collect(RecognitionArray, f"/{name}/recognitions")
        bench.publisher(Image, f"/{name}/rgb/image").publish(rgb_message(0, 240, frame))
    for frame, model in (("one", "front"), ("two", "rear")):
        bench.wait(lambda frame=frame: found[frame], f"the answer to {frame}")
        assert [(one.header.frame_id, one.model_id) for one in found[frame]] == [(frame, model)]


def test_the_topic_of_a_transport_may_be_remapped_by_itself(bench):
    rules = remapped("rgb/image/compressed:=/cam/jpeg")
    settings = {"modality": "rgb", "rgb_transport": "compressed", "roi_source": "full_image"}
    node = bench.recognizer(FakeRecognizer(), nodes=rules, **settings)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    camera = bench.publisher(CompressedImage, "/cam/jpeg")
    octets = cv2.imencode(".jpg", np.full((40, 40, 3), 240, np.uint8))[1].tobytes()
    camera.publish(CompressedImage(header=stamped(0), format="jpeg", data=octets))
    bench.wait(lambda: found, "the answer")
    bench.wait(lambda: statuses[-1].modalities and modality(statuses[-1], "rgb").received, "the status")
    assert modality(statuses[-1], "rgb").topic == "/cam/jpeg"
    assert node._links.sources["rgb info"].topic == "/cam/camera_info", "beside the pictures"
