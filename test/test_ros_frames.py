"""One frame from messages to answers, with a recogniser whose right answer is known; no ROS needed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ros_fakes import LEFT, RIGHT, FakeRecognizer, ask, camera_info, colour, depth, header, image, labels, regions

from mmcl_core.errors import InputError
from mmcl_ros import frames
from mmcl_ros.detections import Box, Request, clip, read_request
from mmcl_ros.frames import FrameRecognizer, FrameSettings, Result
from mmcl_ros.recognizers import free_gpu


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
    assert ask([LEFT], rgb=colour(), min_score=answer.score).answers[0].result is Result.ACCEPTED


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
    assert ask(depth=holed, min_depth_valid=3 / 40).answers[0].result is Result.ACCEPTED


def test_the_modality_of_a_frame_is_that_of_most_of_its_answers():
    picture = np.full((60, 80), 500, np.uint16)
    picture[:, 40:] = 0
    result = ask([LEFT, RIGHT, RIGHT], rgb=colour(), depth=image(picture, "16UC1"))
    assert [answer.modality for answer in result.answers] == ["rgbd", "rgb", "rgb"]
    assert result.modality == "rgb"


def test_a_box_without_any_reading_is_not_looked_at_whatever_is_asked_for():
    picture = np.full((60, 80), 500, np.uint16)
    picture[:, :40] = 0
    answer = ask([LEFT], depth=image(picture, "16UC1"), min_depth_valid=0.0).answers[0]
    assert (answer.result, answer.depth_valid) == (Result.NO_DEPTH, 0.0)


@pytest.mark.parametrize(
    ("colour_is", "depth_is", "box", "result"),
    [
        ("broken", "empty", LEFT, Result.BAD_PICTURE),
        ("elsewhere", "empty", LEFT, Result.UNREGISTERED),
        ("broken", "elsewhere", LEFT, Result.BAD_PICTURE),
        ("broken", "empty", (200, 0, 9, 9), Result.BAD_REGION),
        (None, "empty", LEFT, Result.NO_DEPTH),
    ],
)
def test_where_both_sensors_fail_the_graver_reason_is_the_result_and_both_are_told(colour_is, depth_is, box, result):
    def picture(made, what):
        if what == "broken":
            made.encoding = "rgb9"
        made.header.frame_id = "other" if what == "elsewhere" else "camera"
        return made

    pictures = {"rgb": picture(colour(), colour_is)} if colour_is else {}
    empty = image(np.zeros((60, 80), np.uint16), "16UC1")
    found = ask([box], depth=picture(empty, depth_is), assume_registered=False, **pictures).answers[0]
    assert found.result is result
    assert found.label == "unknown"
    assert [name for name in ("rgb", "depth") if f"{name}: " in found.reason] == [*pictures, "depth"]


def test_a_frame_was_answered_from_what_most_of_its_regions_were():
    picture = np.full((60, 80), 500, np.uint16)
    picture[:, :40] = 0
    result = ask([LEFT, RIGHT, RIGHT], rgb=colour(), depth=image(picture, "16UC1"))
    assert [answer.modality for answer in result.answers] == ["rgb", "rgbd", "rgbd"]
    assert result.modality == "rgbd"


def test_a_camera_info_is_missed_for_depth_alone():
    model = FakeRecognizer(uses_camera=True)
    assert ask(rgb=colour(), recognizer=model).remarks == {}
    assert list(ask(rgb=colour(), depth=depth(), recognizer=model).remarks) == ["depth"]
    infos = {"depth": camera_info(80, 60, 100, 39.5, 29.5)}
    assert ask(rgb=colour(), depth=depth(), recognizer=model, infos=infos).remarks == {}


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


def test_float_readings_that_say_there_is_nothing_are_none():
    far = np.full((60, 80), 1000.0, np.float32)
    far[20:40, 6:10] = 4.0
    answer = ask([LEFT], depth=image(far, "32FC1"), min_depth_valid=0.0).answers[0]
    x, y, width, height = answer.roi
    seen = np.count_nonzero(far[y : y + height, x : x + width] == 4)
    assert 0 < seen < width * height
    assert answer.depth_valid == pytest.approx(seen / (width * height))


def test_memory_of_the_gpu_is_given_back(monkeypatch):
    torch, calls = pytest.importorskip("torch"), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    free_gpu()
    assert not calls  # there is none in use
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    free_gpu()
    assert calls == ["emptied"]


def test_whole_picture_and_centre():
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[15:45, 25:55] = 240
    answerer = FrameRecognizer(FakeRecognizer())
    for source in ("center", "auto"):
        answerer.settings = FrameSettings(roi_source=source, center_size=0.5)
        answer = answerer(None, {"rgb": image(picture, "rgb8")}).answers[0]
        assert (answer.id, answer.roi, answer.label) == ("center", (25, 15, 30, 30), "bright")
    answerer.settings = FrameSettings(roi_source="center", center_size=1.0)
    answer = answerer(None, {"rgb": image(picture, "rgb8")}).answers[0]
    assert (answer.id, answer.roi) == ("center", (10, 0, 60, 60))
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
    assert call.camera[1] == (100, 100, 39.5 - 69, 29.5 + 1), "of a window that begins beyond the border, too"
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


def test_clip_keeps_fractions_of_pixels():
    assert clip(Box("", 1.2, 2.0, 5.1, 7.9), 10, 10) == (1, 2, 6, 8)
    assert clip(Box("", 1.9, 2.6, 5.1, 7.2), 10, 10) == (1, 2, 6, 8)


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
            detection(20, 30, 10, 20, theta=math.nan, id="d"),
        ],
    )
    request = read_request(message)
    assert (request.stamp, request.frame_id) == (5, "cam")
    assert request.boxes[0] == Box("a", 15, 20, 25, 40)
    assert request.boxes[1] == Box("b", 15, 20, 25, 40)
    assert request.boxes[3] == Box("d", 15, 20, 25, 40), "an angle that is not stated is none"
    turned = request.boxes[2]
    assert (turned.left, turned.top, turned.right, turned.bottom) == pytest.approx((10, 25, 30, 35))


def test_hundreds_of_large_boxes_are_recognised_in_parts(monkeypatch):
    """All their crops at once would take gigabytes; answers and times are those of one batch."""
    boxes = [(number % 20, 0, 60, 60) for number in range(40)] + [(200, 0, 9, 9)]
    whole = ask(boxes, rgb=colour(), depth=depth(), box_scale=1.2)
    crop = 72 * 72 * 5  # of colour and 16-bit depth
    monkeypatch.setattr(frames, "PART_BYTES", 3 * crop)
    model = FakeRecognizer()
    result = ask(boxes, rgb=colour(), depth=depth(), recognizer=model, box_scale=1.2)
    assert [len(call.rgb) for call in model.calls] == [3] * 13 + [1]
    given = [(one.id, one.label, one.roi, one.modality, one.result, one.reason) for one in result.answers]
    assert given == [(one.id, one.label, one.roi, one.modality, one.result, one.reason) for one in whole.answers]
    assert {one.result for one in result.answers[:-1]} == {Result.ACCEPTED}
    assert result.answers[-1].result is Result.BAD_REGION
    assert all(result.seconds[stage] > 0 for stage in ("decode", "crop", "inference"))
