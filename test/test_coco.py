"""``prepare coco``: fake frames with boxes as annotation tools export them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fake_coco import HEIGHT, WIDTH, change, has, prepare, refused, skipped, source, write_frame, write_json

from mmcl_core.prepare import main

__all__ = ["source"]  # a fixture


def test_squares_of_the_node_with_labels_and_camera(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--camera", "100,110,40,30")
    assert (made.classes, len(made)) == (("cup", "mug"), 8)
    assert list(made.keys[:2]) == ["rgb/000000.png/000-cup", "rgb/000000.png/001-mug"]
    assert list(made.labels[:2]) == [0, 1]
    assert set(made.groups) == {"rgb/cup", "rgb/mug"}
    # 30 x 20 from (10, 20) grown to 36 x 36 pixels from (7, 12): as large as the crop, so that nothing is resized.
    expected = np.full((36, 36), 5000)
    expected[8:28, 3:33] = 1000
    np.testing.assert_array_equal(made.images["depth"][0], expected)
    assert (made.images["rgb"][0][8:28, 3:33] == 200).all()
    assert (made.images["rgb"][0][:8] == 90).all()
    np.testing.assert_allclose(made.camera[0], (100, 110, 40 - 7, 30 - 12))
    assert made.images["depth"][2][20, 20] == 1001
    # 20 x 20 from (50, 5) grown to 24 x 24, which becomes half as large again.
    expected = np.full((36, 36), 5000)
    expected[3:33, 3:33] = 2000
    np.testing.assert_array_equal(made.images["depth"][1], expected)
    assert not prepare(source, tmp_path / "unknown").camera.any()


def test_the_order_of_the_annotations_changes_nothing(source, tmp_path):
    """Shards are merged by the order of the keys."""
    made = prepare(source, tmp_path / "out")
    write_json(source / "annotations.json", [f"rgb/{n:06d}.png" for n in (2, 0, 3, 1)])
    again = prepare(source, tmp_path / "again")
    assert list(again.keys) == list(made.keys) == sorted(made.keys)
    np.testing.assert_array_equal(again.images["depth"], made.images["depth"])


def test_unit_margin_and_smallest_box(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--depth-unit", "0.1mm", "--margin", "0", "--min-side", "21")
    assert set(made.keys) == {f"rgb/00000{n}.png/000-cup" for n in range(4)}
    assert made.images["depth"][0][18, 18] == 100
    assert "below --min-side" in skipped(made)["rgb/000000.png/001-mug"]


def test_depth_of_another_size_and_of_other_proportions(tmp_path):
    source = tmp_path / "in"
    write_frame(source, "rgb/0.png", zoom=0.5)
    write_frame(source, "rgb/1.png")
    cv2.imwrite(str(source / "depth/1.png"), np.full((HEIGHT, WIDTH + 20), 700, np.uint16))
    write_json(source / "a.json", ["rgb/0.png", "rgb/1.png"])
    made = prepare(source, tmp_path / "out", "--min-side", "20")
    assert len(made) == 4
    crop = made.images["depth"][0]
    assert (crop[9:27, 4:32] == 1000).all()
    assert (crop[:7] == 5000).all()
    assert (made.images["depth"][1][14:22, 14:22] == 2000).all(), "a box that is small in the depth picture"
    assert list(has(made, "depth")) == [True, True, False, False]
    assert "must be registered to colour" in skipped(made)["depth/1.png"]


@pytest.mark.parametrize(
    ("colour", "depth", "old", "options"),
    [
        ("rgb/s_1.png", "depth", "rgb", ()),
        ("x/color_1.png", "depth", "color", ()),
        ("images/1.jpg", "depth", "images", ()),
        ("color/1_color.png", "depth", "color", ()),
        ("1.png", "1_depth", "1", ()),
        ("rgb/rgb_1.png", "aligned", "rgb/rgb", ("--depth", "rgb/rgb=aligned")),
        ("frames/1.png", "1-z", "1", ("--depth", "=-z")),
    ],
)
def test_where_depth_lies(tmp_path, colour, depth, old, options):
    source = tmp_path / "in"
    write_frame(source, colour, depth, old=old)
    write_json(source / "a.json", [colour])
    made = prepare(source, tmp_path / "out", *options)
    assert has(made, "depth").all()


def test_frames_without_depth_are_colour_alone(source, tmp_path, capfd):
    (source / "depth/000002.png").unlink()
    made = prepare(source, tmp_path / "out")
    assert has(made, "rgb").all()
    assert list(np.flatnonzero(~has(made, "depth"))) == [4, 5]
    assert "has no depth (there is no depth/000002.png)" in skipped(made)["rgb/000002.png"]
    for path in (source / "depth").iterdir():
        path.unlink()
    capfd.readouterr()
    assert prepare(source, tmp_path / "none").modalities == ("rgb",)
    assert "no depth pictures found" in capfd.readouterr().err
    assert "there is no far/000000.png" in refused(capfd, source, "--depth", "rgb=far")
    assert "'colour' is not in rgb/000000.png" in refused(capfd, source, "--depth", "colour=depth")
    assert "OLD=NEW is expected" in refused(capfd, source, "--depth", "depth")


def test_eight_bit_depth_is_refused_before_the_work(source, capfd):
    for path in (source / "depth").iterdir():
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 9, np.uint8))
    error = refused(capfd, source)
    assert "none of 4 depth files seems usable" in error
    assert "--depth none leaves depth out" in error
    assert main(["coco", "--source", str(source), "--check", "--workers", "1", "--depth", "none"]) == 0


def test_files_of_the_same_pictures_are_taken_together(source, tmp_path):
    write_json(source / "lids.json", ["rgb/000000.png"], [(1, [30, 30, 10, 10])], ["lid"])
    made = prepare(source, tmp_path / "out")
    assert made.classes == ("cup", "lid", "mug")
    assert len(made) == 9
    assert "rgb/000000.png/002-lid" in made.keys


def test_what_cannot_be_used_is_named_once_and_the_rest_goes_on(source, tmp_path, capfd):
    def edit(content):
        content["images"][1]["file_name"] = "rgb/gone.png"
        content["images"][2]["width"] = 1280
        boxes = content["annotations"]
        boxes[0]["bbox"] = "10 20 30 20"
        boxes[6]["bbox"] = [float("nan"), 0, 5, 5]
        more = ({"bbox": [200, 200, 9, 9]}, {"category_id": 7}, {"image_id": 99}, {"bbox": [1, 2, 3]})
        content["annotations"] += [{**boxes[7], **one} for one in more] + [{"image_id": 0, "category_id": 1}]
        content["categories"].append({"id": 9})
        content["images"].append({"id": 0, "file_name": "rgb/000000.png"})
        content["images"].append({"id": 8, "file_name": "rgb/000008.webp"})
        boxes.append({**boxes[7], "image_id": 8})

    change(source / "annotations.json", edit)
    (source / "broken.json").write_text("{")
    (source / "cameras.json").write_text("{}")
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == ["rgb/000000.png/000-mug", "rgb/000003.png/000-mug"]
    reasons = [f"{name} {reason}" for name, reason in made.index["skipped"]["first"]]
    for words in (
        "broken.json is no JSON",
        "rgb/gone.png is in annotations.json, and no such picture in",
        "rgb/000008.webp is in annotations.json, and is neither PNG nor JPEG",
        "rgb/000002.png is 80 x 60, and was annotated as 1280 x 60",
        "annotations[0] is left out: bbox is '10 20 30 20'",
        "annotations[6] is left out: bbox is [nan, 0, 5, 5]",
        "its box (200.0, 200.0, 209.0, 209.0) is outside the picture",
        "annotations[9] is left out: its category_id 7 is not listed",
        "annotations[10] is left out: its image_id 99 is not listed",
        "annotations[11] is left out: bbox is [1, 2, 3]",
        "annotations[12] is left out: it has no bbox",
        "categories[2] is left out: it has no name",
        "images[4] is left out: an image of its id was there before",
    ):
        assert sum(words in reason for reason in reasons) == 1, words
    assert made.index["skipped"]["samples"] == len(reasons) == 13


def test_of_several_pictures_of_a_name_none_is_said_to_be_missing(source, tmp_path):
    for folder in ("left", "right"):
        (source / folder).mkdir()
        (source / folder / "7.png").write_bytes((source / "rgb/000000.png").read_bytes())
    write_frame(source, "rgb/8.png")
    (source / "rgb/8.png").unlink()  # depth alone is there
    write_json(source / "annotations.json", ["7.png", "8.png", "rgb/000000.png"])
    made = prepare(source, tmp_path / "out")
    assert set(made.sources) == {"rgb/000000.png"}
    reasons = dict(made.index["skipped"]["first"])
    assert "which picture of its name is meant, such as left/7.png, is not clear" in reasons["7.png"]
    assert "no such picture in" in reasons["8.png"]


def test_a_picture_outside_of_the_source_is_not_read(source, tmp_path):
    write_frame(tmp_path, "rgb/9.png")
    write_json(source / "annotations.json", ["../rgb/9.png", "rgb/000000.png"])
    made = prepare(source, tmp_path / "out")
    assert set(made.sources) == {"rgb/000000.png"}
    assert list(skipped(made)) == ["../rgb/9.png"]


def test_boxes_without_a_label(source, tmp_path):
    change(source / "annotations.json", lambda content: content["categories"][1].update(name="unlabelled"))
    made = prepare(source, tmp_path / "out")
    assert made.classes == ("cup",)
    assert list(made.labels[:2]) == [0, -1]


def test_errors_say_what_is_wrong(source, tmp_path, capfd):
    assert "FX,FY,CX,CY are expected" in refused(capfd, source, "--camera", "100,100")
    assert "its camera has its centre at (400, 30)" in refused(capfd, source, "--camera", "100,100,400,30")
    message = refused(capfd, source / "rgb")
    assert "no annotations found" in message
    assert "--annotations names others" in message
    assert "a folder expected" in refused(capfd, source / "none")
    assert "cannot be read" in refused(capfd, source, "--annotations", str(source / "none.json"))
    (source / "list.json").write_text("[]")
    assert "is no COCO JSON" in refused(capfd, source, "--annotations", str(source / "list.json"))
    write_json(source / "annotations.json", ["rgb/000000.png"], boxes=())
    assert "no picture with a box" in refused(capfd, source)


def test_other_annotations_are_another_job(source, tmp_path, capfd):
    first = prepare(source, tmp_path / "one")
    change(source / "annotations.json", lambda content: content["annotations"].pop())
    second = prepare(source, tmp_path / "two")
    assert first.index["description"] != second.index["description"]
    assert list(first.index["description"]["annotations"]) == ["annotations.json"]


def test_boxes_that_are_there_twice_give_one_crop(source, tmp_path, capfd):
    def edit(content):
        content["images"].append({**content["images"][0], "id": 77})
        content["annotations"] += [{**content["annotations"][0], "image_id": 77}, content["annotations"][3]]

    change(source / "annotations.json", edit)
    (source / "person_keypoints.json").write_text((source / "annotations.json").read_text())
    made = prepare(source, tmp_path / "out")
    assert len(made) == 8
    said = capfd.readouterr().err
    assert "annotations.json: 2 boxes are there twice" in said
    assert "person_keypoints.json: 10 boxes are there twice" in said


def test_ids_that_are_of_several_images_or_categories_are_nobodys(source, tmp_path, capfd):
    """As where two exports were put into one; boxes of the one picture were cut from the other, and of its classes."""

    def edit(content):
        content["images"][1]["id"] = 0
        for entry in content["annotations"][2:4]:
            entry["image_id"] = 0
        content["categories"] += [{"id": 3, "name": "pan"}, {"id": 3, "name": "pot"}, {"id": 2, "name": "mug"}]
        content["annotations"][4]["category_id"] = 3

    change(source / "annotations.json", edit)
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == ["rgb/000002.png/000-mug", "rgb/000003.png/000-cup", "rgb/000003.png/001-mug"]
    said = capfd.readouterr().err
    assert "images[1] is left out: its id 0 is that of another image, too" in said
    assert "categories[3] is left out: its id 3 is that of another category, too" in said
    assert "annotations[0] is left out: its image_id 0 is listed several times; which is meant is not clear" in said
    assert "annotations[4] is left out: its category_id 3 is listed several times" in said


def test_boxes_of_another_size_of_the_picture_are_left_out(source, tmp_path):
    """As where annotations from before the pictures were made smaller are still there; the first may not state it."""
    small = [(1, [0, 0, 20, 20])]
    write_json(source / "before.json", ["rgb/000000.png", "rgb/000001.png"], boxes=small)
    change(source / "before.json", lambda content: [one.update(width=4 * WIDTH) for one in content["images"]])
    change(source / "annotations.json", lambda content: content["images"][1].update(width=0))
    write_json(source / "more.json", ["rgb/000002.png"], boxes=small)
    made = prepare(source, tmp_path / "out")
    assert [key.partition("/")[2] for key in made.keys if "rgb/000003" not in key] == [
        "000000.png/000-cup", "000000.png/001-mug",
        "000002.png/000-cup", "000002.png/001-mug", "000002.png/002-cup",
    ]  # fmt: skip
    told = "was annotated as 80 x 60 and as 320 x 60; the second, in before.json, is left out"
    reasons = skipped(made)
    assert reasons["rgb/000000.png"] == told
    assert "is 80 x 60, and was annotated as 320 x 60: was it resized?" in reasons["rgb/000001.png"]


def test_boxes_are_cut_at_the_border_of_the_picture(source, tmp_path):
    def edit(content):
        for entry, box in zip(
            content["annotations"], ([-10, 20, 50, 20], [81, 20, 30, 20], [0, 0, 3e9, 5]), strict=False
        ):
            entry["bbox"] = box

    change(source / "annotations.json", edit)
    made = prepare(source, tmp_path / "out")
    assert "is outside the picture" in skipped(made)["rgb/000000.png/001-mug"]
    assert list(made.keys[:3]) == ["rgb/000000.png/000-cup", "rgb/000001.png/000-cup", "rgb/000001.png/001-mug"]
    whole = prepare(source, tmp_path / "whole", "--size", "48").images["depth"][0]
    assert (whole[14:34, 14:44] == 1000).all(), "40 x 20 from (0, 20), in a square of 48 from (-4, 6)"
