"""Pictures for people: boxes where they belong, colours that say what became of an answer, depth as colours."""

from types import SimpleNamespace

import cv2
import numpy as np
from ros_fakes import CLASSES, FakeRecognizer, camera_info, image, regions

from mmcl_ros import evaluate_bag
from mmcl_ros.bagfile import Frame
from mmcl_ros.detections import read_request
from mmcl_ros.drawing import GAP, GREEN, GREY, PANEL, RED, Mark, draw, sheet, to_colour
from mmcl_ros.evaluate_bag import Evaluation, write
from mmcl_ros.frames import FrameRecognizer, FrameSettings
from mmcl_ros.truth import Truth


def flat(height=60, width=80, value=50):
    return np.full((height, width, 3), value, np.uint8)


def edges(picture, colour):
    """First and last column and row that hold a colour, the row of words left out."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return columns.min(), columns.max(), rows.max()


def test_boxes_are_drawn_in_pixels_of_the_picture_they_belong_to():
    picture = flat()
    drawn = draw(picture, [Mark((20, 20, 30, 30), "", GREEN)])
    assert edges(drawn, GREEN) == (19, 51, 51), "a line two pixels wide around 20 to 50"
    np.testing.assert_array_equal(drawn[35, 35], (50, 50, 50))
    assert (picture == 50).all(), "a copy is drawn on"
    of_another_size = draw(picture, [Mark((40, 80, 60, 120), "", GREEN)], size=(160, 240))
    np.testing.assert_array_equal(of_another_size, drawn)


def test_words_are_not_crossed_by_the_boxes_of_others():
    words, other = Mark((5, 20, 30, 30), "mug", RED), Mark((12, 5, 20, 50), "", GREEN)
    alone = draw(flat(), [words])
    written = np.s_[10:18, 8:26]
    np.testing.assert_array_equal(draw(flat(), [words, other])[written], alone[written])
    assert (draw(flat(), [other])[written] == GREEN).all(axis=2).any()


def test_words_of_neighbours_stand_beside_one_another():
    marks = [Mark((5, 40, 30, 30), "mug", RED), Mark((8, 42, 30, 30), "can", GREEN)]
    together = draw(flat(100, 120), marks)
    for mark in marks:
        alone = draw(flat(100, 120), [mark])
        rows, _ = np.nonzero((alone[:, : mark.roi[0] + 18] != 50).any(axis=2))
        label = alone[rows.min() : rows.min() + 10, mark.roi[0] + 1 : mark.roi[0] + 18]
        assert any((together[y : y + 10, x : x + 17] == label).all() for y in range(90) for x in range(100)), (
            f"{mark.words} is whole"
        )


def test_words_do_not_leave_the_picture_at_its_right_edge():
    picture = draw(flat(100, 120, 200), [Mark((100, 40, 15, 30), "screwdriver", RED)])
    reference = draw(flat(100, 120, 200), [Mark((2, 40, 15, 30), "screwdriver", RED)])
    dark = [(one[:36] < 100).all(axis=2).sum() for one in (picture, reference)]
    assert dark[0] >= 0.9 * dark[1] > 50


def test_boxes_are_seen_on_a_ground_of_their_own_colour():
    ground = np.full((60, 80, 3), GREEN, np.uint8)
    assert (draw(ground, [Mark((20, 20, 30, 30), "", GREEN)]) != ground).any()


def test_words_stand_inside_the_picture_at_its_upper_edge():
    drawn = draw(flat(), [Mark((5, 0, 30, 30), "mug", RED)])
    assert (drawn[2:8, 5:20] != 50).any()


def test_depth_is_shown_as_colours_and_holes_as_black():
    values = np.full((60, 80), 500, np.uint16)
    picture = to_colour(image(values, "16UC1"), "depth")
    assert picture.shape == (60, 80, 3)
    near, far = (to_colour(image(values * 0 + depth, "16UC1"), "depth")[0, 0] for depth in (200, 3900))
    assert near[0] > near[2], "red"
    assert far[0] < far[2], "blue"
    assert not to_colour(image(0 * values, "16UC1"), "depth").any()
    np.testing.assert_array_equal(to_colour(image(values, "16UC1")), picture)
    np.testing.assert_array_equal(to_colour(image((values / 1000).astype(np.float32), "32FC1")), picture)
    png = cv2.imencode(".png", values)[1].tobytes()
    compressed = SimpleNamespace(format="16UC1; png compressed ", data=png)
    np.testing.assert_array_equal(to_colour(compressed, "depth"), picture)


def test_a_sheet_holds_pictures_of_any_size_and_leaves_places_empty():
    whole = sheet([[flat(60, 80, 10), None], [None, flat(480, 960, 90)]], ["rgb", "depth"])
    below = whole[28:]
    first, second = below[:, :PANEL], below[:, -PANEL - GAP : -GAP]
    assert (first == 10).all(axis=2).sum() == 360 * PANEL, "60 x 80, made as wide as the others"
    assert (second == 90).all(axis=2).sum() == 240 * PANEL
    assert not (second == 10).all(axis=2).any()


def test_a_legend_stands_on_top_and_is_whole_over_one_picture(tmp_path):
    words = "green right, red wrong (truth in brackets), grey rejected or without truth"
    plain, told = (sheet([[flat()]], ["rgb"], legend) for legend in ("", words))
    assert len(told) == len(plain) + 28
    np.testing.assert_array_equal(told[28:], plain)
    inked = np.nonzero((told[:28] < 128).any(axis=2))[1]
    assert 0.7 * PANEL < inked.max() < PANEL + GAP - 1


def test_right_wrong_and_rejected_answers_of_a_recording_differ_in_colour():
    colours = np.repeat(np.array([20, 120, 230], np.uint8), 40)
    picture = image(np.tile(colours[None, :, None], (60, 1, 3)), "rgb8")
    boxes = [(2, 30, 30, 28), (44, 30, 30, 28), (200, 30, 30, 28)]
    request = read_request(regions(boxes))
    found = FrameRecognizer(FakeRecognizer(), FrameSettings(box_scale=0.0))(request, {"rgb": picture})
    truth = Truth(request, ("dark", "bright", "dark"))
    shown = Evaluation(list(CLASSES))
    shown.show(truth, {"rgb": picture}, found)
    shown.show(truth, {}, found)
    assert shown.shown[1] is None
    drawn = shown.shown[0]
    for colour, left in ((GREEN, 2), (RED, 44), (GREY, 0)):
        assert (drawn[:, max(0, left - 1) : left + 32] == colour).all(axis=2).any()
    assert found.size == (120, 60)
    shown.show(Truth(request, ("", "", "")), {"rgb": picture}, found)
    for colour in (GREEN, RED):
        assert not (shown.shown[-1] == colour).all(axis=2).any(), "neither right nor wrong"


def test_answers_are_written_on_colour_and_on_depth_where_there_is_no_colour(monkeypatch):
    colour, depth = image(flat(value=20), "rgb8"), image(np.full((60, 80), 1500, np.uint16), "16UC1")
    request = read_request(regions([(2, 30, 30, 28), (44, 30, 30, 28), (200, 30, 30, 28)]))
    shown, words = Evaluation(list(CLASSES)), []

    def draw_marks(picture, marks, *_):
        words.append([mark.words for mark in marks])
        return picture

    monkeypatch.setattr(evaluate_bag, "draw", draw_marks)
    for pictures in ({"rgb": colour, "depth": depth}, {"depth": depth}):
        found = FrameRecognizer(FakeRecognizer(["rgb"]), FrameSettings(box_scale=0.0))(request, {"rgb": colour})
        shown.show(Truth(request, ("dark", "bright", "dark")), pictures, found)
    np.testing.assert_array_equal(shown.shown[0], flat(value=20))
    np.testing.assert_array_equal(shown.shown[1], to_colour(depth, "depth"))
    assert words == 2 * [["dark 0.87", "dark 0.87 (bright)", "rejected (dark)"]]


def test_answers_from_depth_of_another_shape_than_colour_are_drawn_where_they_were_looked_for():
    """Colour of 160 x 128, depth of 80 x 60: half its size, without eight lines at the top."""
    infos = {"rgb": camera_info(160, 128, 100, 79.5, 63.5), "depth": camera_info(80, 60, 50, 39.5, 23.5)}
    depth = image(np.full((60, 80), 1500, np.uint16), "16UC1")
    request = read_request(regions([(40, 56, 60, 40)], size=(160, 128)))
    found = FrameRecognizer(FakeRecognizer(), FrameSettings(box_scale=0.0))(request, {"depth": depth}, infos)
    assert found.size == (160, 128)
    shown = Evaluation(list(CLASSES))
    shown.show(Truth(request, ("middle",)), {"depth": depth}, found)
    lines, columns = np.nonzero((shown.shown[0] == GREEN).all(axis=2))
    np.testing.assert_allclose([lines.max(), columns[lines > 25].min()], [40, 20], atol=1)


def test_a_folder_of_results_holds_those_of_one_evaluation(tmp_path, caplog):
    request = read_request(regions([(2, 30, 30, 28)]))
    answer = FrameRecognizer(FakeRecognizer(), FrameSettings(box_scale=0.0))(request, {"rgb": image(flat(), "rgb8")})
    given = Evaluation(list(CLASSES))
    given.add(Truth(request, ("dark",)), Frame(request, {}, {}, {}), answer)
    given.shown.append(np.full((60, 80, 3), RED, np.uint8))
    write(tmp_path, {"rgb": given, "auto": given}, {})
    assert (cv2.imread(str(tmp_path / "answers.png"))[..., ::-1] == RED).all(axis=2).any()
    assert not caplog.records
    (tmp_path / "predictions_of_mine.csv").touch()
    write(tmp_path, {"rgb": given}, {})
    left = {"predictions_rgb.csv", "confusion_rgb.png", "metrics.json", "answers.png", "predictions_of_mine.csv"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert "predictions_auto.csv, confusion_auto.png of another evaluation" in caplog.text


def test_a_box_far_outside_is_drawn_as_far_as_it_is_seen():
    picture = np.zeros((60, 80, 3), np.uint8)
    far = draw(
        picture, [Mark((10, 20, 2**32 - 1, 2**32 - 1), "", GREEN), Mark((2**32 - 1, 2**32 - 1, 5, 5), "x", GREEN)]
    )
    assert np.array_equal(far, draw(picture, [Mark((10, 20, 72, 42), "", GREEN)]))
