"""One frame from messages to answers, with a recogniser whose right answer is known; no ROS needed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ros_fakes import FakeRecognizer, camera_info, header, image, regions

from mmcl_core.errors import InputError
from mmcl_ros.cameras import CameraTrack, info_of_pictures
from mmcl_ros.detections import Box, Request, View, box_map, camera_of, clip, read_request, stamp_of
from mmcl_ros.frames import FrameRecognizer, FrameSettings, Result
from mmcl_ros.health import Health
from mmcl_ros.ledger import Ledger
from mmcl_ros.links import Links, Source

LEFT, RIGHT = (0, 0, 40, 60), (40, 0, 40, 60)


def colour(frame="camera", width=80, height=60):
    """Dark on the left, bright on the right."""
    picture = np.full((height, width, 3), 20, np.uint8)
    picture[:, width // 2 :] = 230
    return image(picture, "rgb8", frame)


def depth(frame="camera", width=80, height=60, encoding="16UC1"):
    """Near on the left, far on the right."""
    picture = np.full((height, width), 500, np.uint16)
    picture[:, width // 2 :] = 2500
    return image(picture if encoding == "16UC1" else (picture / 1000).astype(np.float32), encoding, frame)


def exact(**settings):
    """Settings that cut boxes as they are."""
    return FrameSettings(**{"box_scale": 0.0, **settings})


def ask(
    boxes=(LEFT, RIGHT), rgb=None, depth=None, recognizer=None, infos=None, frame="camera", size=(0, 0), **settings
):
    answerer = FrameRecognizer(recognizer or FakeRecognizer(), exact(**settings))
    pictures = {"rgb": rgb, "depth": depth}
    return answerer(read_request(regions(boxes, frame, size=size)), pictures, infos)


def labels(result):
    return [answer.label for answer in result.answers]


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_labels_ids_and_order(modality, encoding):
    recognizer = FakeRecognizer()
    pictures = {"rgb": colour(), "depth": depth(encoding=encoding)}
    pictures = {name: picture for name, picture in pictures.items() if modality in (name, "rgbd")}
    result = ask([RIGHT, LEFT, RIGHT], recognizer=recognizer, **pictures)
    assert labels(result) == ["bright", "dark", "bright"]
    assert [answer.id for answer in result.answers] == ["r0", "r1", "r2"]
    assert {answer.modality for answer in result.answers} == {modality}
    assert result.modality == modality
    assert len(recognizer.calls) == 1, "all crops of a frame are one batch"
    assert [answer.roi for answer in result.answers] == [RIGHT, LEFT, RIGHT]
    assert result.answers[0].depth_valid == (-1 if modality == "rgb" else 1)
    assert set(result.seconds) == {"decode", "crop", "inference"}


def test_no_regions_no_answers():
    assert ask([], rgb=colour()).answers == []


def test_top_k_and_min_score():
    answer = ask([LEFT], rgb=colour(), top_k=2, min_score=0.9).answers[0]
    assert answer.result is Result.LOW_SCORE
    assert answer.label == "unknown"
    assert answer.labels[0] == "dark"
    assert len(answer.scores) == 2
    assert answer.reason == "score 0.867 is below min_score 0.9"


def test_an_answer_unknown_is_none():
    """Whatever its score; the crop of another class is answered."""
    model = FakeRecognizer(classes=("dark", "middle", "unknown"))
    left, right = ask(rgb=colour(), recognizer=model, min_score=0.5).answers
    assert (left.label, left.result) == ("dark", Result.ACCEPTED)
    assert (right.label, right.result, right.labels[0]) == ("unknown", Result.LOW_SCORE, "unknown")
    assert right.score == pytest.approx(0.8 + 0.2 / 3)
    assert right.reason == "the best class is 'unknown': none that the model names"


def test_box_partly_outside_is_cut():
    answer = ask([(60, 50, 100, 100)], rgb=colour()).answers[0]
    assert answer.roi == (60, 50, 20, 10)
    assert answer.label == "bright"


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((200, 10, 20, 20), "outside the 80 x 60 picture"),
        ((10, 10, 0, 20), "empty"),
        ((10, 10, 2, 20), "2 x 20 pixels; at least 4"),
        ((79, 10, 20, 20), "1 x 20 pixels"),
    ],
)
def test_unusable_boxes_are_answered_unknown(box, says):
    result = ask([LEFT, box, RIGHT], rgb=colour())
    assert labels(result) == ["dark", "unknown", "bright"]
    assert result.answers[1].result is Result.BAD_REGION
    assert says in result.answers[1].reason


def test_nan_box():
    request = Request((Box("n", math.nan, 0, 10, 10),), "camera")
    answer = FrameRecognizer(FakeRecognizer())(request, {"rgb": colour()}).answers[0]
    assert answer.result is Result.BAD_REGION
    assert "not a number" in answer.reason


def test_no_picture():
    answerer = FrameRecognizer(FakeRecognizer())
    result = answerer(read_request(regions([LEFT])), {}, missing="nothing within 0.02 s")
    assert result.answers[0].result is Result.NO_PICTURE
    assert result.answers[0].reason == "nothing within 0.02 s"


def test_broken_picture_and_the_other_modality_takes_over():
    broken = colour()
    broken.encoding = "rgb9"
    result = ask(rgb=broken)
    assert {answer.result for answer in result.answers} == {Result.BAD_PICTURE}
    assert "'rgb9'" in result.answers[0].reason
    result = ask(rgb=broken, depth=depth())
    assert labels(result) == ["dark", "bright"]
    assert result.modality == "depth"
    assert result.problems["rgb"][0] is Result.BAD_PICTURE


def test_holes_in_depth():
    picture = np.full((60, 80), 500, np.uint16)
    picture[:, :37] = 0
    holed = image(picture, "16UC1")
    result = ask(depth=holed)
    assert [answer.result for answer in result.answers] == [Result.NO_DEPTH, Result.ACCEPTED]
    assert result.answers[0].depth_valid == pytest.approx(3 / 40)
    fused = ask(depth=holed, rgb=colour())
    assert [answer.modality for answer in fused.answers] == ["rgb", "rgbd"]
    assert ask(depth=holed, min_depth_valid=0.0).answers[0].result is Result.ACCEPTED


def test_a_window_without_readings_is_no_answer():
    """Readings around the object and none on it: with box_scale below 1 the network would see nothing at all."""

    class Blind(FakeRecognizer):
        def recognize(self, **given):
            found = super().recognize(**given)
            found.modality = ["" if (crop == 0).all() else "depth" for crop in given["depth"]]
            return found

        @staticmethod
        def _place(name, crop):
            return 0 if (crop == 0).all() else FakeRecognizer._place(name, crop)

    picture = np.full((60, 80), 500, np.uint16)
    picture[20:40, 5:35] = 0
    result = ask(depth=image(picture, "16UC1"), recognizer=Blind(), box_scale=0.3)
    assert [answer.result for answer in result.answers] == [Result.NO_DEPTH, Result.ACCEPTED]
    assert (result.answers[0].label, result.answers[0].labels, result.answers[0].score) == ("unknown", [], 0.0)
    assert "no depth reading in the window" in result.answers[0].reason


def test_inference_error_answers_the_frame():
    recognizer = FakeRecognizer()
    recognizer.broken = True
    result = ask(rgb=colour(), recognizer=recognizer)
    assert {answer.result for answer in result.answers} == {Result.FAILED}
    assert "out of memory" in result.answers[0].reason


def test_output_that_is_not_finite_is_a_failure():
    recognizer = FakeRecognizer()
    nan = SimpleNamespace(probabilities=np.full((2, 3), np.nan), embeddings=np.zeros((2, 4)))
    recognizer.recognize = lambda **_: nan
    assert "not finite" in ask(rgb=colour(), recognizer=recognizer).answers[0].reason


def test_whole_picture_and_centre():
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[15:45, 25:55] = 240
    answerer = FrameRecognizer(FakeRecognizer(), FrameSettings(roi_source="center", center_size=0.5))
    answer = answerer(None, {"rgb": image(picture, "rgb8")}).answers[0]
    assert (answer.id, answer.roi, answer.label) == ("center", (25, 15, 30, 30), "bright")
    answerer.settings = FrameSettings(roi_source="full_image")
    answer = answerer(None, {"rgb": image(picture, "rgb8")}).answers[0]
    assert (answer.id, answer.roi, answer.label) == ("image", (0, 0, 80, 60), "dark")


def test_broken_picture_without_detector_is_answered_too():
    broken = colour()
    broken.data = b""
    answer = FrameRecognizer(FakeRecognizer(), FrameSettings(roi_source="full_image"))(None, {"rgb": broken}).answers[0]
    assert answer.result is Result.BAD_PICTURE
    assert "truncated" in answer.reason


def test_a_region_is_seen_in_a_square_window_around_it():
    recognizer = FakeRecognizer()
    rng = np.random.default_rng(0)
    rgb, far = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8), rng.integers(1000, 2000, (60, 80)).astype(np.uint16)
    infos = {"depth": camera_info(80, 60, 100, 39.5, 29.5)}
    pictures = {"rgb": image(rgb, "rgb8"), "depth": image(far, "16UC1")}
    boxes = [(30, 20, 20, 10), (70, 0, 10, 10)]
    result = ask(boxes, infos=infos, recognizer=recognizer, box_scale=1.2, **pictures)
    call = recognizer.calls[0]
    np.testing.assert_array_equal(call.rgb[0], rgb[13:37, 28:52])
    np.testing.assert_array_equal(call.depth[0], far[13:37, 28:52])
    assert call.camera[0] == (100, 100, 39.5 - 28, 29.5 - 13)
    for row in range(12):
        for column in range(12):
            y, x = row - 1, column + 69
            np.testing.assert_array_equal(call.rgb[1][row, column], rgb[max(y, 0), min(x, 79)])
            assert call.depth[1][row, column] == (far[y, x] if y >= 0 and x < 80 else 0)
    assert [answer.roi for answer in result.answers] == boxes


def test_one_odd_crop_does_not_spoil_the_others():
    recognizer = FakeRecognizer()
    original = recognizer.recognize

    def picky(rgb, **rest):
        if any(crop.mean() > 200 for crop in rgb):
            raise InputError("too bright")
        return original(rgb=rgb, **rest)

    recognizer.recognize = picky
    assert [answer.result for answer in ask(rgb=colour(), recognizer=recognizer).answers] == [
        Result.ACCEPTED,
        Result.FAILED,
    ]


def test_depth_that_the_model_refuses_does_not_cost_the_answer_from_colour():
    recognizer = FakeRecognizer()
    original = recognizer.recognize

    def picky(depth=None, **rest):
        if any(crop is not None and np.median(crop) > 100 for crop in depth or ()):
            raise InputError("depth: probably millimetres")
        return original(depth=depth, **rest)

    recognizer.recognize = picky
    odd = np.full((60, 80), 0.5, np.float32)
    odd[:, 40:] = 1500
    result = ask(rgb=colour(), depth=image(odd, "32FC1"), recognizer=recognizer)
    assert [(answer.result, answer.modality) for answer in result.answers] == [
        (Result.ACCEPTED, "rgbd"),
        (Result.ACCEPTED, "rgb"),
    ]
    assert result.problems["depth"] == (Result.BAD_PICTURE, "region 'r1': depth: probably millimetres")
    alone = ask(depth=image(odd, "32FC1"), recognizer=recognizer)
    assert [answer.result for answer in alone.answers] == [Result.ACCEPTED, Result.FAILED]


# where boxes lie in the other picture


def test_depth_of_half_the_size():
    recognizer = FakeRecognizer()
    result = ask([(40, 0, 40, 60)], rgb=colour(), depth=depth(width=40, height=30), recognizer=recognizer)
    assert labels(result) == ["bright"]
    assert recognizer.calls[0].depth[0].shape == (30, 20)


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


def test_another_shape_needs_both_cameras():
    square = depth(width=60, height=60)
    assert ask(rgb=colour(), depth=square).problems["depth"][0] is Result.UNREGISTERED
    infos = {"rgb": camera_info(80, 60, 100, 39.5, 29.5), "depth": camera_info(60, 60, 100, 29.5, 29.5)}
    recognizer = FakeRecognizer()
    result = ask([(20, 10, 30, 20)], rgb=colour(), depth=square, infos=infos, recognizer=recognizer)
    assert result.modality == "rgbd"
    expected = np.frombuffer(square.data, np.uint16).reshape(60, 60)[10:30, 10:40]
    np.testing.assert_array_equal(recognizer.calls[0].depth[0], expected)
    assert recognizer.calls[0].camera[0] == (100, 100, 29.5 - 10, 29.5 - 10)


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


def test_camera_info_of_another_resolution_is_scaled():
    info = camera_info(640, 480, 500.0, 319.5, 239.5)
    assert camera_of(info, 320, 240) == (250.0, 250.0, 159.5, 119.5)
    assert camera_of(info, 320, 320) is None
    assert camera_of(camera_info(640, 480, 0.0, 0, 0), 640, 480) is None
    assert camera_of(camera_info(640, 480, math.nan, 0, 0), 640, 480) is None
    ros1 = camera_info(8, 8, 4.0, 3.0, 3.0)
    ros1.K = ros1.__dict__.pop("k")
    assert camera_of(ros1, 8, 8) == (4.0, 4.0, 3.0, 3.0)


@pytest.mark.parametrize("binning", [(0, 0), (1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (0, 0, 640, 480), (100, 40, 320, 200)])
def test_camera_of_a_part_of_the_sensor_keeps_the_ray(roi, binning):
    """A point of the sensor is seen along the same ray, whichever pixel of the picture it came to lie in."""
    info = camera_info(640, 480, 500.0, 310.0, 250.0, roi=roi, binning=binning)
    left, top, width, height = roi if roi[2] else (0, 0, 640, 480)
    joined = [max(1, one) for one in binning]
    fx, fy, cx, cy = camera_of(info, width // joined[0], height // joined[1])
    for sensor, start, pixels, focus, centre, whole in (
        (300, left, joined[0], fx, cx, 310.0),
        (90, top, joined[1], fy, cy, 250.0),
    ):
        place = (sensor + 0.5 - start) / pixels - 0.5
        assert (place - centre) / focus == pytest.approx((sensor - whole) / 500.0)


def test_rectified_pictures_go_by_the_projection_matrix():
    info = camera_info(640, 480, 600.0, 320.0, 240.0, rectified=(480.0, 310.0, 230.0))
    assert camera_of(info, 640, 480) == (600.0, 600.0, 320.0, 240.0)
    assert camera_of(info, 640, 480, rectified=True) == (480.0, 480.0, 310.0, 230.0)
    assert camera_of(info, 320, 240, rectified=True) == (240.0, 240.0, 154.75, 114.75)
    for unstated in (0.0, math.nan):
        info.p[0] = unstated
        assert camera_of(info, 640, 480, rectified=True) == (600.0, 600.0, 320.0, 240.0)
    del info.p
    assert camera_of(info, 640, 480, rectified=True) == (600.0, 600.0, 320.0, 240.0)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        *(("/c/image_rect", True), ("/c/image_rect_color/compressed", True), ("/c/depth/image_rect_raw", True)),
        *(("/c/image_rectified", True), ("/c/image_color_corrected", False), ("/c/direct", False)),
        *(("/c/image_raw", False), ("/rectified/image_raw", False), ("/c/image_rect/image_raw/compressed", False)),
    ],
)
@pytest.mark.parametrize("ros1", [False, True])
def test_the_camera_info_beside_rectified_pictures_is_of_these(topic, rectified, ros1):
    info = camera_info(640, 480, 600.0, 320.0, 240.0, rectified=(480.0, 310.0, 230.0))
    if ros1:
        info.K, info.P = info.__dict__.pop("k"), info.__dict__.pop("p")
    heard = []
    sources = {name: Source(name, [], heard.append, 5) for name in ("rgb info", "depth info", "detections")}
    Links(None, {"rgb": Source(topic, [], heard.append, 5), **sources}, "auto")
    sources["rgb info"].callback(info)
    assert camera_of(heard[0], 640, 480)[0] == (480.0 if rectified else 600.0)
    assert camera_of(info, 640, 480)[0] == 600.0, "the message is not changed"


def test_depth_is_seen_through_the_camera_of_rectified_pictures():
    info = camera_info(80, 60, 100, 39.5, 29.5, rectified=(90, 38.5, 28.5))
    for infos in (
        {"depth": info},
        {"rgb": info},
    ):  # of depth without one, the camera of the picture it is registered to
        recognizer = FakeRecognizer()
        answer = ask([LEFT], rgb=colour(), depth=depth(), infos=infos, recognizer=recognizer)
        assert answer.modality == "rgbd"
        x, y = answer.answers[0].roi[:2]
        assert recognizer.calls[0].camera == [(90, 90, 38.5 - x, 28.5 - y)]
    recognizer = FakeRecognizer(modalities=["rgb"])
    ask([LEFT], rgb=colour(), infos={"rgb": info}, recognizer=recognizer)
    assert recognizer.calls[0].camera[0][0] == 100, "colour as it was taken"


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


def test_a_change_of_the_rectified_camera_is_a_change_of_the_calibration():
    track = CameraTrack()
    for stamp, fx in ((1, 480.0), (2, 480.0), (3, 490.0)):
        track.add(camera_info(640, 480, 600.0, 320.0, 240.0, stamp_ns=stamp, rectified=(fx, 310.0, 230.0)))
    assert [camera_of(track.at(stamp), 640, 480, rectified=True)[0] for stamp in (1, 2, 3)] == [480, 480, 490]
    assert stamp_of(track.at(2).header) == 1, "kept once"
    track = CameraTrack()
    for stamp, fx in ((1, 600.0), (2, 600.0), (3, 610.0)):
        info = camera_info(640, 480, fx, 320.0, 240.0, stamp_ns=stamp, rectified=(480.0, 310.0, 230.0))
        track.add(info_of_pictures(info, "/c/image_rect"))
    assert [track.at(stamp).as_taken.k[0] for stamp in (1, 2, 3)] == [600, 600, 610]
    assert stamp_of(track.at(2).header) == 1, "kept once"


def test_a_change_of_the_part_that_is_read_is_a_change_of_the_calibration():
    track = CameraTrack()
    for stamp, roi in enumerate([(0, 0, 0, 0), (10, 20, 320, 240)]):
        track.add(camera_info(640, 480, 500.0, 319.5, 239.5, stamp_ns=stamp, roi=roi))
    assert [track.at(stamp).roi.x_offset for stamp in (0, 1)] == [0, 10]


def test_uncalibrated_camera_is_told_as_unknown():
    recognizer = FakeRecognizer()
    ask([LEFT], depth=depth(), recognizer=recognizer)
    assert recognizer.calls[0].camera == [(0.0, 0.0, 0.0, 0.0)]


def test_depth_without_the_camera_that_the_model_goes_by_is_told_once():
    known = {"depth": camera_info(80, 60, 100, 39.5, 29.5)}
    needy = {"recognizer": FakeRecognizer(uses_camera=True)}
    told = ask(depth=depth(), **needy)
    assert labels(told) == ["dark", "bright"]
    assert "depth_info_topic" in told.remarks["depth"]
    assert told.problems == {}, "it is answered, and the sensor is fine"
    assert ask(depth=depth(), infos=known, **needy).remarks == {}
    assert ask(rgb=colour(), **needy).remarks == {}
    assert ask(depth=depth()).remarks == {}, "a model that needs no camera"
    ledger, health = Ledger(), {"depth": Health()}
    for _ in range(3):
        ledger.account(told, {"depth": None}, health, 0.0)
    assert list(ledger.take_events().values()) == [f"depth: {told.remarks['depth']}"]
    assert health["depth"].problem is None


def test_clip_keeps_fractions_of_pixels():
    assert clip(Box("", 1.2, 2.0, 5.1, 7.9), 10, 10) == (1, 2, 6, 8)


def detection(x, y, width, height, theta=0.0, nested=True, **names):
    place = SimpleNamespace(x=x, y=y)
    center = SimpleNamespace(position=place, theta=theta) if nested else SimpleNamespace(x=x, y=y, theta=theta)
    return SimpleNamespace(bbox=SimpleNamespace(center=center, size_x=width, size_y=height), **names)


def test_detections_of_both_generations_of_vision_msgs():
    message = SimpleNamespace(
        header=header(5, "cam"),
        detections=[
            detection(20, 30, 10, 20, id="a"),
            detection(20, 30, 10, 20, nested=False, tracking_id="b"),
            detection(20, 30, 10, 20, theta=math.pi / 2, id="c"),
        ],
    )
    request = read_request(message)
    assert (request.stamp, request.frame_id) == (5, "cam")
    assert request.boxes[0] == Box("a", 15, 20, 25, 40)
    assert request.boxes[1] == Box("b", 15, 20, 25, 40)
    turned = request.boxes[2]
    assert (turned.left, turned.top, turned.right, turned.bottom) == pytest.approx((10, 25, 30, 35))
