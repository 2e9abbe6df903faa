"""What is put into the fields of messages has the type that they state: on Humble they check it, always."""

from array import array
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mmcl_ros import overlay_node, reports
from mmcl_ros.declarations import declare
from mmcl_ros.frames import Answer, FrameAnswer, Result
from mmcl_ros.parameters import TABLE


class Declaring:
    """What declaring needs of a node."""

    def __init__(self):
        self.described = {}

    def declare_parameter(self, name, value, descriptor):
        self.described[name] = descriptor
        return SimpleNamespace(value=value)


def test_messages_check_their_fields_in_these_tests():
    with pytest.raises(AssertionError):
        Image(width=1.5)


def test_ranges_of_parameters_are_of_the_type_of_the_parameter():
    node = Declaring()
    values = declare(node, TABLE)
    for name, descriptor in node.described.items():
        for ranges, kind in ((descriptor.floating_point_range, float), (descriptor.integer_range, int)):
            edges = [edge for one in ranges for edge in (one.from_value, one.to_value)]
            assert {type(edge) for edge in edges} <= {kind}
            assert not edges or type(values[name]) is kind


def test_an_overlay_is_handed_over_without_a_look_at_each_byte(monkeypatch):
    drawn = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    header = Header(frame_id="camera")
    message = overlay_node.picture_message(header, drawn)
    assert (message.header, message.height, message.width) == (header, 4, 6)
    assert (message.encoding, message.step, message.is_bigendian) == ("rgb8", 18, 0)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(4, 6, 3), drawn)
    monkeypatch.setattr(overlay_node, "Image", SimpleNamespace)
    assert type(overlay_node.picture_message(header, drawn).data) is array


def test_an_embedding_keeps_its_values():
    embedding = np.random.default_rng(1).normal(size=5)
    answer = FrameAnswer([Answer("a", embedding=embedding), Answer("b")])
    told, without = reports.answers_message(Header(), "model", answer, True).recognitions
    np.testing.assert_array_equal(told.embedding, embedding.astype(np.float32))
    assert not without.embedding


@pytest.mark.parametrize("nested", [True, False])
def test_detections_have_header_place_and_hypotheses_of_their_answers(monkeypatch, nested):
    """In either generation of vision_msgs; the older one has no id, and x and y in the centre itself."""

    def detection(header=None):
        center = SimpleNamespace(position=SimpleNamespace()) if nested else SimpleNamespace()
        more = {"id": ""} if nested else {}
        return SimpleNamespace(header=header, bbox=SimpleNamespace(center=center), results=[], **more)

    def hypothesis():
        return SimpleNamespace(hypothesis=SimpleNamespace()) if nested else SimpleNamespace()

    fakes = {
        "Detection2D": detection,
        "ObjectHypothesisWithPose": hypothesis,
        "Detection2DArray": lambda: SimpleNamespace(header=None, detections=[]),
    }
    monkeypatch.setattr(reports, "message_class", lambda kind: fakes[kind.split("/")[-1]])
    header = Header(frame_id="camera")
    good = Answer("a", (10, 20, 31, 40), "cup", 0.9, ["cup", "mug"], [0.9, 0.1], "rgb", Result.ACCEPTED)
    poor = Answer("b", (0, 0, 8, 8), "unknown", 0.3, ["mug", "cup"], [0.3, 0.2], "rgb", Result.LOW_SCORE)
    array = reports.detections_message(header, [good, poor])
    assert array.header is header
    assert [one.header for one in array.detections] == [header, header]
    one, other = array.detections
    place = one.bbox.center.position if nested else one.bbox.center
    assert (place.x, place.y, one.bbox.size_x, one.bbox.size_y) == (25.5, 40.0, 31.0, 40.0)
    assert {type(value) for value in (place.x, place.y, one.bbox.size_x, one.bbox.size_y)} == {float}
    given = [getattr(result, "hypothesis", result) for result in one.results]
    assert [(each.class_id, each.score) for each in given] == [("cup", 0.9), ("mug", 0.1)]
    assert other.results == []
    assert not nested or (one.id, other.id) == ("a", "b")
