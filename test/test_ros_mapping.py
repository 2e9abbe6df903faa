"""Where boxes lie in the other picture, and what is needed to know; no ROS needed."""

import numpy as np
import pytest
from ros_fakes import LEFT, RIGHT, FakeRecognizer, ask, camera_info, colour, depth, exact, image, labels, regions

from mmcl_ros.cameras import info_of_pictures
from mmcl_ros.detections import Box, BoxMap, Request, View, box_map, camera_of, read_request
from mmcl_ros.frames import FrameCropper, FrameRecognizer, Result


def test_depth_of_half_the_size():
    recognizer = FakeRecognizer()
    result = ask([(40, 0, 40, 60)], rgb=colour(), depth=depth(width=40, height=30), recognizer=recognizer)
    assert labels(result) == ["bright"]
    assert recognizer.calls[0].depth[0].shape == (30, 20)


def test_the_part_that_is_answered_is_that_of_the_boxes_picture_not_of_a_coarser_one():
    answer = ask([(41, 7, 31, 41)], rgb=colour(), depth=depth(width=40, height=30)).answers[0]
    assert (answer.modality, answer.roi) == ("rgbd", (41, 7, 31, 41))


@pytest.mark.parametrize("width", [80, 40])
def test_depth_is_seen_through_the_colour_camera_where_both_are_of_one_size(width):
    """Of registered depth of another size the camera is not known without its own info."""
    recognizer, infos = FakeRecognizer(), {"rgb": camera_info(80, 60, 100, 39.5, 29.5)}
    far = depth(width=width, height=width * 3 // 4)
    ask([LEFT], rgb=colour(), depth=far, infos=infos, recognizer=recognizer)
    assert recognizer.calls[0].camera[0] == ((100, 100, 39.5, 29.5) if width == 80 else (0, 0, 0, 0))


@pytest.mark.parametrize("topic", ["/c/image_raw", "/c/image_rect"])
def test_the_camera_of_a_colour_crop_is_that_of_its_picture(topic):
    info = info_of_pictures(camera_info(80, 60, 100, 39.5, 29.5, rectified=(120, 39.5, 29.5)), topic)
    (crop,), _ = FrameCropper(exact()).crops(read_request(regions([RIGHT])), {"rgb": colour()}, {"rgb": info})
    focus = 100 if topic.endswith("raw") else 120
    assert crop.camera == (focus, focus, -0.5, 29.5)


def test_depth_of_another_frame_is_unregistered():
    result = ask(rgb=colour(), depth=depth(frame="depth_optical"))
    assert result.modality == "rgb"
    kind, words = result.problems["depth"]
    assert kind is Result.UNREGISTERED
    assert "'camera'" in words
    assert "'depth_optical'" in words
    assert ask(rgb=colour(), depth=depth(frame="depth_optical"), assume_registered=True).modality == "rgbd"
    alone = ask(depth=depth(frame="depth_optical"))
    assert alone.answers[0].result is Result.UNREGISTERED


@pytest.mark.parametrize("size", [(0, 0), (80, 60), (160, 120)])
def test_boxes_without_a_frame_are_of_the_frame_of_the_picture_they_were_drawn_in(size):
    result = ask([(0, 0, 40, 40)], rgb=colour(), depth=depth(frame="depth_optical"), frame="", size=size)
    assert result.modality == "rgb"
    assert result.problems["depth"][0] is Result.UNREGISTERED
    small = depth(frame="depth_optical", width=40, height=30)
    of_depth = ask([LEFT], rgb=colour(), depth=small, frame="", size=(40, 30))
    assert (of_depth.modality, list(of_depth.problems)) == ("depth", ["rgb"])
    assert ask([LEFT], depth=depth(), frame="", size=(80, 60)).modality == "depth"


@pytest.mark.parametrize("size", [(0, 0), (80, 60)])
def test_another_shape_needs_both_cameras(size):
    square = depth(width=60, height=60)
    assert ask(rgb=colour(), depth=square).problems["depth"][0] is Result.UNREGISTERED
    infos = {"rgb": camera_info(80, 60, 100, 39.5, 29.5), "depth": camera_info(60, 60, 100, 29.5, 29.5)}
    recognizer = FakeRecognizer()
    result = ask([(20, 10, 30, 20)], rgb=colour(), depth=square, infos=infos, recognizer=recognizer, size=size)
    assert result.modality == "rgbd"
    expected = np.frombuffer(square.data, np.uint16).reshape(60, 60)[10:30, 10:40]
    np.testing.assert_array_equal(recognizer.calls[0].depth[0], expected)
    assert recognizer.calls[0].camera[0] == (100, 100, 29.5 - 10, 29.5 - 10)


def test_pictures_of_one_frame_and_size_show_the_same_whatever_their_cameras_say():
    """Drivers that register depth to colour may go on stating the camera of the depth sensor."""
    infos = {"rgb": camera_info(80, 60, 100, 39.5, 29.5), "depth": camera_info(80, 60, 90, 35, 31)}
    answer = ask([(20, 10, 30, 20)], depth=depth(), infos=infos).answers[0]
    assert answer.roi == (20, 10, 30, 20)
    one, other = (View("camera", 80, 60, camera_of(info, 80, 60)) for info in infos.values())
    assert box_map(one, other) == BoxMap()


def test_what_only_one_of_two_pictures_is_rectified_for_is_no_way_between_them():
    source = View("c", 640, 480, (600.0, 600.0, 319.5, 239.5), (480.0, 480.0, 319.5, 239.5))
    target = View("c", 320, 180, (250.0, 250.0, 159.5, 89.5))
    assert box_map(source, target).scale == (250 / 600,) * 2
    assert box_map(target, source).scale == (600 / 250,) * 2


def test_what_was_seen_of_a_box_is_told_to_the_nearest_pixel():
    assert BoxMap((0.3, 0.6), (1.0, -1.0)).back((2, 1, 3, 4), (100, 100)) == (3, 3, 7, 8)


def test_boxes_of_a_colour_picture_that_is_gone():
    answerer = FrameRecognizer(FakeRecognizer(), exact())
    request = read_request(regions([(40, 0, 40, 60)]))
    small = depth(width=40, height=30)
    answerer(request, {"rgb": colour(), "depth": small})
    later = answerer(request, {"depth": small}).answers[0]
    assert (later.modality, later.label, later.roi) == ("depth", "bright", (40, 0, 40, 60))


def test_boxes_that_state_the_size_of_their_picture():
    answer = ask([(80, 0, 80, 120)], depth=depth(), size=(160, 120)).answers[0]
    assert answer.roi == (80, 0, 80, 120)
    assert answer.label == "bright"


def test_mapping_through_cameras_keeps_the_ray():
    source = View("c", 640, 480, (600.0, 610.0, 310.0, 245.0))
    target = View("c", 320, 180, (250.0, 255.0, 170.0, 92.0))
    box = box_map(source, target)(Box("", 100, 50, 301, 202))
    for before, after, axis in ((100, box.left, 0), (301, box.right, 0), (50, box.top, 1), (202, box.bottom, 1)):
        ray = (before - 0.5 - source.camera[2 + axis]) / source.camera[axis]
        assert (after - 0.5 - target.camera[2 + axis]) / target.camera[axis] == pytest.approx(ray)


@pytest.mark.parametrize("of_colour", ["/c/image_raw", "/c/image_rect_color"])
@pytest.mark.parametrize("of_depth", ["/d/image", "/d/image_rect"])
@pytest.mark.parametrize("colour_is_there", [True, False])
@pytest.mark.parametrize("projected", [480.0, 0.0])
def test_boxes_lie_in_registered_depth_of_half_the_size_where_they_lie_in_that_of_the_same(
    of_colour, of_depth, colour_is_there, projected
):
    """Whichever of K and P, which differ, is the camera of the one and of the other."""
    info = camera_info(640, 480, 600.0, 319.5, 239.5, rectified=(projected, 319.5, 239.5))
    half = camera_info(320, 240, 300.0, 159.5, 119.5, rectified=(projected / 2, 159.5, 119.5))
    infos = {"rgb": info_of_pictures(info, of_colour), "depth": info_of_pictures(half, of_depth)}
    recognizer = FakeRecognizer(modalities=["rgb", "depth"] if colour_is_there else ["depth"])
    answerer, seen = FrameRecognizer(recognizer, exact()), colour(width=640, height=480)
    answerer.remember("rgb", seen, infos["rgb"])
    pictures = {"rgb": seen} if colour_is_there else {}
    picture = np.arange(1, 320 * 240 + 1, dtype=np.uint32).reshape(240, 320) % 60000
    pictures["depth"] = image(picture.astype(np.uint16), "16UC1")
    result = answerer(read_request(regions([(0, 0, 100, 100), (540, 380, 100, 100)])), pictures, infos)
    assert result.problems == {}
    left, right = recognizer.calls[0].depth
    np.testing.assert_array_equal(left, picture[:50, :50])
    np.testing.assert_array_equal(right, picture[190:, 270:])
    focus = projected / 2 or 300.0
    assert recognizer.calls[0].camera[1] == (focus, focus, 159.5 - 270, 119.5 - 190), "the model is told P"


@pytest.mark.parametrize("stated", [(640, 480), (1280, 960)])
@pytest.mark.parametrize("frame", ["camera", ""])
def test_boxes_of_a_colour_picture_that_nobody_looks_at_go_to_depth_by_its_camera(stated, frame):
    """Where they state its size, which need not be that of the camera info; depth is of another shape."""
    infos = {"rgb": camera_info(640, 480, 600.0, 319.5, 239.5), "depth": camera_info(320, 180, 300.0, 159.5, 89.5)}
    picture = np.arange(1, 320 * 180 + 1, dtype=np.uint32).reshape(180, 320) % 60000
    scale = stated[0] // 640
    recognizer = FakeRecognizer(modalities=["depth"])
    answerer, seen = FrameRecognizer(recognizer, exact()), {"depth": image(picture.astype(np.uint16), "16UC1")}
    request = read_request(regions([(200 * scale, 200 * scale, 100 * scale, 80 * scale)], frame, size=stated))
    result = answerer(request, seen, infos)
    assert result.problems == {}
    assert result.size == stated
    np.testing.assert_array_equal(recognizer.calls[0].depth[0], picture[70:110, 100:150])
    other = read_request(regions([(200, 200, 100, 80)], "elsewhere", size=stated))
    assert "boxes are in frame 'elsewhere'" in answerer(other, seen, infos).problems["depth"][1]


def test_boxes_of_a_rectified_picture_lie_by_its_matrix_in_another_one():
    """What image_proc has rectified for different P: a ray is the same in both."""
    info = camera_info(640, 480, 600.0, 319.5, 239.5, rectified=(480.0, 319.5, 239.5))
    other = camera_info(320, 240, 300.0, 159.5, 119.5, rectified=(300.0, 159.5, 119.5))
    infos = {"rgb": info_of_pictures(info, "/c/image_rect"), "depth": info_of_pictures(other, "/d/image_rect")}
    recognizer = FakeRecognizer()
    small, large = depth(width=320, height=240), colour(width=640, height=480)
    ask([(240, 160, 160, 160)], rgb=large, depth=small, infos=infos, recognizer=recognizer)
    assert recognizer.calls[0].depth[0].shape == (100, 100)
    assert recognizer.calls[0].camera[0] == (300.0, 300.0, 49.5, 49.5)


@pytest.mark.parametrize("fx", [50.0, 0.5, 1e-9])
def test_the_part_that_is_answered_lies_in_the_picture_of_the_boxes(fx):
    """Though depth sees farther than it, or a driver states a camera that cannot be: a message holds 32 bits."""
    infos = {"rgb": camera_info(80, 60, 200.0, 40, 30), "depth": camera_info(40, 30, fx, 20, 15)}
    answerer = FrameRecognizer(FakeRecognizer(), exact(min_box=1))
    answerer(None, {"rgb": colour()}, infos)
    request = Request((Box("wide", -20, -20, 100, 80),), "camera")
    result = answerer(request, {"depth": depth(width=40, height=30)}, infos)
    assert result.size == (80, 60)
    (answer,) = result.answers
    assert (answer.roi, answer.modality) == ((0, 0, 80, 60), "depth")
