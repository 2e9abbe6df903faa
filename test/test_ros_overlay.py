"""Over real DDS: the overlay draws what the recognizer answers, or says why it does not."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import Recognition, RecognitionArray
from rcl_interfaces.msg import Log
from rclpy.parameter import Parameter
from ros_bench import depth_message, rgb_message, stamped
from sensor_msgs.msg import CameraInfo, Image

from mmcl_core.errors import ConfigError
from mmcl_ros import overlay_node
from mmcl_ros.detections import stamp_of
from mmcl_ros.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.ros


def test_overlay_works_only_while_somebody_looks(bench):
    from mmcl_ros.overlay_node import OverlayNode

    overlay = bench.add(OverlayNode(context=bench.context))
    (change,) = overlay.set_parameters([Parameter("rgb_topic", value="/other")])
    assert not change.successful
    assert "rgb_topic: taken at the start" in change.reason
    assert overlay.set_parameters([overlay.get_parameter("rgb_topic")])[0].successful, "which changes nothing"
    with pytest.raises(ConfigError, match="modality is 'dpeth'"):
        OverlayNode(context=bench.context, parameter_overrides=[Parameter("modality", value="dpeth")])
    camera = bench.publisher(Image, "/rgb/image", subscribers=0)
    answers = bench.publisher(RecognitionArray, "/recognitions", subscribers=0)
    time.sleep(0.7)
    assert not overlay.working
    assert camera.get_subscription_count() == 0
    found = bench.collect(Image, "/overlay/image")
    bench.wait(lambda: camera.get_subscription_count() and answers.get_subscription_count(), "the overlay to listen")
    answer = RecognitionArray(header=stamped(7), width=160, height=120)  # boxes of a picture twice as large
    one = Recognition(label="mug", score=0.5, modality="rgb")
    one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height = 40, 40, 60, 60
    answer.recognitions.append(one)
    answers.publish(answer)
    camera.publish(rgb_message(7, 50))
    bench.wait(lambda: found, "the picture")
    picture = np.frombuffer(found[0].data, np.uint8).reshape(60, 80, 3)
    assert found[0].header == stamped(7)
    np.testing.assert_array_equal(picture[35, 20], (60, 220, 60))
    np.testing.assert_array_equal(picture[35, 35], (50, 50, 50))
    looking = next(one for one in bench.client.subscriptions if one.topic_name == "/overlay/image")
    bench.inside(bench.client.destroy_subscription, looking)
    bench.wait(lambda: not overlay.working, "the overlay to rest")
    bench.wait(lambda: camera.get_subscription_count() == 0, "the end of its subscription")


def test_overlay_goes_by_the_parameter_file_of_the_recognizer(bench, tmp_path):
    from mmcl_ros.overlay_node import OverlayNode

    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {modality: depth, depth_topic: /cam/depth, top_k: 2}\n")
    bench.add(OverlayNode(context=bench.context, cli_args=["--ros-args", "--params-file", str(file)]))
    camera = bench.publisher(Image, "/cam/depth", subscribers=0)
    bench.collect(Image, "/overlay/image")
    bench.wait(camera.get_subscription_count, "the overlay to listen to the picture of the file")


def test_overlay_says_why_it_draws_nothing(bench):
    from mmcl_ros.overlay_node import UNDRAWN, OverlayNode

    overlay = bench.add(OverlayNode(context=bench.context))
    log = bench.collect(Log, "/rosout")
    found = bench.collect(Image, "/overlay/image")

    def said(words):
        bench.wait(lambda: any(words in line.msg for line in log), f"a line with {words!r}")

    said("nobody publishes /recognitions")
    said("nobody publishes /rgb/image (sensor_msgs/msg/Image); the overlay goes by its own modality, rgb_topic")
    answers = bench.publisher(RecognitionArray, "/recognitions")
    camera = bench.publisher(Image, "/rgb/image")
    for number in range(2 * UNDRAWN):
        camera.publish(rgb_message(number))
        answers.publish(RecognitionArray(header=stamped(1000 + number)))
        bench.wait(lambda number=number: overlay._undrawn == number + 1, "the answer")
    said("answers did not come on /rgb/image; is it the topic")
    assert not found
    camera.publish(rgb_message(1000 + 2 * UNDRAWN - 1))
    bench.wait(lambda: found, "the picture of the last answer")
    answers.publish(RecognitionArray(header=stamped(5000)))
    bench.wait(lambda: overlay._undrawn == 1, "a count that begins anew with a picture that was drawn")


def test_answers_of_another_frame_are_not_drawn_on_colour(bench):
    overlay = bench.add(overlay_node.OverlayNode(context=bench.context))
    log, found = bench.collect(Log, "/rosout"), bench.collect(Image, "/overlay/image")
    answers, camera = bench.publisher(RecognitionArray, "/recognitions"), bench.publisher(Image, "/rgb/image")
    bench.wait(lambda: overlay.working and camera.get_subscription_count() and answers.get_subscription_count(), "both")
    answer = RecognitionArray(header=stamped(0))
    answer.header.frame_id = "depth_optical"
    camera.publish(rgb_message(0))
    answers.publish(answer)
    bench.wait(lambda: any("answers are seen from depth_optical" in line.msg for line in log), "the reason")
    assert not found


def test_a_topic_that_is_no_name_is_told_at_the_start(bench):
    with pytest.raises(ConfigError, match="the parameter rgb_topic is '/camera/color image', which is no topic name"):
        overlay_node.OverlayNode(
            context=bench.context, parameter_overrides=[Parameter("rgb_topic", value="/camera/color image")]
        )


def test_pictures_of_a_large_camera_take_half_a_gigabyte_at_the_most(bench):
    overlay = overlay_node.OverlayNode(context=bench.context)
    bench.nodes.append(overlay)  # nobody spins it
    data = bytes(3840 * 2160 * 3)  # one for all: what counts is how many are held
    for number in range(100):
        overlay._on_image(SimpleNamespace(header=stamped(number), data=data))
    stamps, most = list(overlay._pictures), 500_000_000 // len(data)
    assert stamps[-1] == stamp_of(stamped(99))
    assert 15 <= len(stamps) <= most


def test_overlay_draws_the_answers_of_a_recognizer_that_is_behind_by_its_whole_queue(bench, monkeypatch):
    overlay = bench.add(overlay_node.OverlayNode(context=bench.context))
    found = bench.collect(Image, "/overlay/image")
    camera = bench.publisher(Image, "/rgb/image")
    answers, log = bench.publisher(RecognitionArray, "/recognitions"), bench.collect(Log, "/rosout")
    behind = PARAMETERS["queue"].default
    for number in range(behind + 1):
        camera.publish(rgb_message(number))
        bench.wait(lambda number=number: len(overlay._pictures) == number + 1, "the picture")
    answers.publish(RecognitionArray(header=stamped(0)))
    bench.wait(lambda: found, "the first picture with its answer")
    monkeypatch.setattr(overlay_node, "KEPT_BYTES", 1_000_000)  # 69 of these pictures, in place of 18,600
    camera.publish(rgb_message(behind))
    camera.publish(rgb_message(behind + 1))
    kept = 1_000_000 // (60 * 80 * 3)
    assert kept == 69
    bench.wait(lambda: list(overlay._pictures)[kept - 1 :] == [stamp_of(stamped(behind + 1))], "so many pictures")
    monkeypatch.setattr(overlay_node, "KEPT_BYTES", 1)
    camera.publish(rgb_message(behind + 2))
    kept = overlay_node.KEPT
    bench.wait(lambda: list(overlay._pictures)[kept - 1 :] == [stamp_of(stamped(behind + 2))], "the least of them")
    for number in range(overlay_node.UNDRAWN):
        answers.publish(RecognitionArray(header=stamped(number)))
        bench.wait(lambda number=number: overlay._undrawn == number + 1, "the answer")
    words = f"before the newest {overlay_node.KEPT} on /rgb/image"
    bench.wait(lambda: any(words in line.msg for line in log), "why nothing is drawn")
    assert len(found) == 1


def test_answers_are_drawn_on_the_picture_that_the_recognizer_takes_them_to_be_of(bench):
    """A detector that rounds stamps, or has none: the nearest within the window; without a stamp the newest."""
    overlay = bench.add(overlay_node.OverlayNode(context=bench.context))
    found = bench.collect(Image, "/overlay/image")
    answers, camera = bench.publisher(RecognitionArray, "/recognitions"), bench.publisher(Image, "/rgb/image")
    bench.wait(lambda: overlay.working and camera.get_subscription_count() and answers.get_subscription_count(), "both")
    for number in range(3):
        camera.publish(rgb_message(number))
    bench.wait(lambda: len(overlay._pictures) == 3, "the pictures")
    step, window = stamp_of(stamped(1)) - stamp_of(stamped(0)), round(PARAMETERS["pair_window"].default * 1e9)
    assert window < step / 2

    def drawn_on(stamp):
        answer, before = RecognitionArray(), len(found)
        answer.header.stamp.sec, answer.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        answers.publish(answer)
        bench.wait(lambda: len(found) > before or overlay._undrawn, "the picture, or none")
        return [stamp_of(one.header) for one in found[before:]]

    assert drawn_on(stamp_of(stamped(1)) - window) == [stamp_of(stamped(1))]
    assert drawn_on(0) == [stamp_of(stamped(2))]
    assert drawn_on(stamp_of(stamped(1)) + window + 1) == []
    assert drawn_on(stamp_of(stamped(2)) + 1000) == [], "a nearer one may still come"
    camera.publish(rgb_message(3))
    bench.wait(lambda: [stamp_of(one.header) for one in found[2:]] == [stamp_of(stamped(2))], "the picture before")


def test_answers_of_another_frame_are_drawn_where_depth_is_taken_for_registered(bench):
    """As the recognizer, which answers them."""
    given = [Parameter("assume_registered", value=True)]
    overlay = bench.add(overlay_node.OverlayNode(context=bench.context, parameter_overrides=given))
    found = bench.collect(Image, "/overlay/image")
    answers, camera = bench.publisher(RecognitionArray, "/recognitions"), bench.publisher(Image, "/rgb/image")
    bench.wait(lambda: overlay.working and camera.get_subscription_count() and answers.get_subscription_count(), "both")
    answer = RecognitionArray(header=stamped(0))
    answer.header.frame_id = "detector"
    camera.publish(rgb_message(0))
    answers.publish(answer)
    bench.wait(lambda: found, "the picture")


def test_boxes_of_colour_of_another_shape_are_drawn_where_the_recognizer_looks_for_them_in_depth(bench):
    """Colour of 160 x 128, depth of 80 x 60: half its size, without eight lines at the top."""
    given = [Parameter("modality", value="depth")]
    overlay = bench.add(overlay_node.OverlayNode(context=bench.context, parameter_overrides=given))
    found, log = bench.collect(Image, "/overlay/image"), bench.collect(Log, "/rosout")
    answers, depth = bench.publisher(RecognitionArray, "/recognitions"), bench.publisher(Image, "/depth/image")
    bench.wait(lambda: overlay.working and depth.get_subscription_count() and answers.get_subscription_count(), "both")
    answer = RecognitionArray(header=stamped(0), width=160, height=128)
    one = Recognition()
    one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height = 40, 56, 60, 40
    answer.recognitions.append(one)
    depth.publish(depth_message(0))
    answers.publish(answer)
    bench.wait(lambda: any("boxes are of a 160 x 128 picture" in line.msg for line in log), "that this tells not where")
    for name, width, height, f, cx, cy in (("rgb", 160, 128, 100.0, 79.5, 63.5), ("depth", 80, 60, 50.0, 39.5, 23.5)):
        info = CameraInfo(header=stamped(0), width=width, height=height)
        info.k = [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]
        bench.publisher(CameraInfo, f"/{name}/camera_info").publish(info)
    bench.wait(lambda: all(camera.at(0) for camera in overlay._cameras.values()), "the camera infos")
    assert not found
    answers.publish(answer)
    bench.wait(lambda: found, "the picture")
    picture = np.frombuffer(found[0].data, np.uint8).reshape(60, 80, 3)
    lines, columns = np.nonzero((picture == overlay_node.GREEN).all(2))
    assert (lines.max(), columns.min(), columns.max()) == pytest.approx((40, 20, 50), abs=1)


def test_one_topic_for_both_sensors_is_told_at_the_start(bench):
    topics = [Parameter(name, value="/camera/image") for name in ("rgb_topic", "depth_topic")]
    with pytest.raises(ConfigError, match="rgb_topic and depth_topic are both /camera/image"):
        overlay_node.OverlayNode(context=bench.context, parameter_overrides=topics)
    one = [*topics, Parameter("modality", value="depth")]
    assert bench.add(overlay_node.OverlayNode(context=bench.context, parameter_overrides=one)).get_name() == "overlay"
