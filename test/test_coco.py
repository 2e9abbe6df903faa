"""``prepare coco``: fake frames with boxes as annotation tools export them."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.coco_annotations import read_annotations
from mmcl_core.data.coco_places import SCENE, scene_of
from mmcl_core.data.shares import deal
from mmcl_core.prepare import main

WIDTH, HEIGHT = 80, 60
CUP, MUG = [10, 20, 30, 20], [50, 5, 20, 20]


def write_frame(folder, name, depth="depth", level=1000, zoom=1.0, old="rgb"):
    """A frame whose cup is level mm away and whose mug is 1 m behind; where they are not, depth is 5 m."""
    colour = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    far = np.full((HEIGHT, WIDTH), 5000, np.uint16)
    for (x, y, w, h), shade, mm in ((CUP, 200, level), (MUG, 20, level + 1000)):
        colour[y : y + h, x : x + w] = shade
        far[y : y + h, x : x + w] = mm
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), colour)
    if depth:
        place = folder / name.replace(old, depth)
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (round(WIDTH * zoom), round(HEIGHT * zoom))
        cv2.imwrite(str(place.with_suffix(".png")), cv2.resize(far, size, interpolation=cv2.INTER_NEAREST))


def write_json(path, pictures, boxes=((1, CUP), (2, MUG)), categories=("cup", "mug")):
    content = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(pictures)],
        "annotations": [
            {"id": 10 * i + n, "image_id": i, "category_id": category, "bbox": box, "iscrowd": 0}
            for i in range(len(pictures))
            for n, (category, box) in enumerate(boxes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def write_source(root, frames=4):
    names = [f"rgb/{n:06d}.png" for n in range(frames)]
    for n, name in enumerate(names):
        write_frame(root, name, level=1000 + n)
    write_json(root / "annotations.json", names)
    return root


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "in")


def prepare(source, out, *more):
    words = ["coco", "--source", str(source), "--out", str(out), "--size", "36", "--workers", "1", *more]
    assert main(words) == 0
    return PreparedSet.open(out)


def refused(capfd, source, *more):
    assert main(["coco", "--source", str(source), "--check", "--workers", "1", *more]) == 2
    return "".join(capfd.readouterr())


def has(made, modality):
    return made.present[:, made.modalities.index(modality)]


def skipped(made):
    return dict(made.index["skipped"]["first"])


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


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
    assert not prepare(source, tmp_path / "unknown").camera.any()


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


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ["train", "val"]),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ["train", "val"]),
        (("task1.json", "task2.json"), ["train", "train"]),
        (("only_test.json", ""), ["test"]),
    ],
)
def test_files_that_name_splits(tmp_path, files, splits):
    source = tmp_path / "in"
    for n, file in enumerate(filter(None, files)):
        folder = file.rpartition("/")[0] if file.startswith(("train", "valid")) else ""
        write_frame(source, f"{folder}/rgb/{n}.png".lstrip("/"))
        write_json(source / file, [f"rgb/{n}.png"])
    assert list(prepare(source, tmp_path / "out").splits) == [split for split in splits for _ in range(2)]


def test_pictures_are_found_where_tools_put_them(tmp_path):
    for n, place in enumerate(("images/rgb/1.png", "images/train/rgb/1.png", "train2017/rgb/1.png")):
        source = tmp_path / f"in{n}"
        write_frame(source, place)
        write_json(source / "annotations" / f"instances_train{2017 if n == 2 else ''}.json", ["rgb/1.png"])
        assert prepare(source, tmp_path / f"out{n}").sources[0] == place


def test_a_picture_in_two_splits_stays_in_one_and_options_are_not_ignored_unsaid(source, tmp_path, capfd):
    (source / "annotations.json").rename(source / "train.json")
    write_json(source / "test.json", ["rgb/000000.png"])
    made = prepare(source, tmp_path / "out", "--split", "train=0.5,val=0.5")
    assert sorted(made.splits) == ["test"] * 2 + ["train"] * 6
    assert "the second is left out" in skipped(made)["rgb/000000.png"]
    assert "--split: not used, as the annotations name splits: test, train" in capfd.readouterr().err
    write_json(source / "more.json", ["rgb/000001.png"])
    assert "names a split and" in refused(capfd, source)
    assert main(["coco", "--source", str(source), "--check", "--annotations", str(source / "train.json")]) == 0


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
        content["images"].append({"id": 0, "file_name": "rgb/twice.png"})

    change(source / "annotations.json", edit)
    (source / "broken.json").write_text("{")
    (source / "cameras.json").write_text("{}")
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == ["rgb/000000.png/000-mug", "rgb/000003.png/000-mug"]
    reasons = [f"{name} {reason}" for name, reason in made.index["skipped"]["first"]]
    for words in (
        "broken.json is no JSON",
        "rgb/gone.png is in annotations.json, and no such picture in",
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
    assert made.index["skipped"]["samples"] == len(reasons) == 12


def test_a_picture_outside_of_the_source_is_not_read(source, tmp_path):
    write_frame(tmp_path, "rgb/9.png")
    write_json(source / "annotations.json", ["../rgb/9.png", "rgb/000000.png"])
    made = prepare(source, tmp_path / "out")
    assert set(made.sources) == {"rgb/000000.png"}
    assert list(skipped(made)) == ["../rgb/9.png"]


def test_shares_are_drawn_by_frames_or_by_scenes(tmp_path, capfd):
    source = tmp_path / "in"
    names = [f"rgb/{scene}_{n}.png" for scene in "abcdefghij" for n in range(4)]
    for name in names:
        write_frame(source, name)
    write_json(source / "a.json", names)
    drawn = ("--split", "train=0.7,val=0.3")
    frames = prepare(source, tmp_path / "frames", *drawn)
    for label in (0, 1):
        assert np.sum(frames.splits[frames.labels == label] == "val") == 12
    assert len({(key.rpartition("/")[0], split) for key, split in zip(frames.keys, frames.splits, strict=True)}) == 40
    assert "that lie in several splits: 9, such as 'rgb/a'; if these are frames of one scene" in capfd.readouterr().err
    scenes = prepare(source, tmp_path / "scenes", *drawn, "--keep-groups")
    assert "in several splits" not in capfd.readouterr().err
    assert len(set(zip(scenes.groups, scenes.splits, strict=True))) == 20
    assert np.sum(scenes.splits == "val") == 24
    other = prepare(source, tmp_path / "other", *drawn, "--seed", "1")
    assert list(other.splits) != list(frames.splits)
    one = prepare(source, tmp_path / "one", *drawn, "--keep-groups", "--group-pattern", r"rgb/(.).*")
    assert list(one.splits) != []
    assert set(one.groups) == {f"{scene}/{name}" for scene in "abcdefghij" for name in ("cup", "mug")}


def test_a_class_of_one_scene_does_not_hide_that_the_scenes_of_others_lie_in_several_splits(tmp_path, capfd):
    names = [f"rgb/{scene}_{n}.png" for scene in "abc" for n in range(4)]
    for name in names:
        write_frame(tmp_path, name)
    write_json(tmp_path / "a.json", names)
    change(tmp_path / "a.json", lambda content: content["categories"].append({"id": 3, "name": "pen"}))
    change(tmp_path / "a.json", lambda content: content["annotations"][0].update(category_id=3))
    prepare(tmp_path, tmp_path / "out", "--split", "train=0.7,val=0.3")
    assert "that lie in several splits" in capfd.readouterr().err


@pytest.mark.parametrize("units", [3, 4, 5, 7, 12])
def test_as_many_units_as_splits_leave_none_without(units):
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    table = np.zeros((2 * units + 2, 3), int)
    table[:units, 0], table[units : 2 * units, 1], table[2 * units :, 2] = 4, 1, 1
    drawn = np.array(deal(table, shares, np.random.default_rng(units).permutation(len(table))))
    for label in (0, 1):
        own = drawn[table[:, label] > 0]
        assert set(own) == set(shares)
        assert (own == "train").sum() == max(units - 2, round(0.8 * units) if units > 10 else 0)
    assert set(drawn[table[:, 2] > 0]) == {"train"}, "two units cannot be in three splits"


def test_pictures_found_by_name_are_no_other_entrys(tmp_path, capfd):
    """A picture that is named by its path, or that two entries could mean, is not taken for a missing one."""
    source = tmp_path / "in"
    write_frame(source, "kitchen/0001.png", depth="")
    write_frame(source, "pictures/0002.png", depth="")
    write_frame(source, "pictures/0003.png", depth="")
    write_json(
        source / "a.json", ["kitchen/0001.png", "office/0001.png", "a/0002.png", "b/0002.png", "C:\\c\\0003.png"]
    )
    made = prepare(source, tmp_path / "out", "--depth", "none")
    assert {key.rpartition("/")[0] for key in made.keys} == {"kitchen/0001.png", "pictures/0003.png"}
    assert len(made) == 4
    assert set(skipped(made)) == {"office/0001.png", "a/0002.png", "b/0002.png"}
    assert "1 pictures are not where they are said to be" in capfd.readouterr().err


def test_units_of_several_classes_are_dealt_to_their_shares():
    rng = np.random.default_rng(0)
    units = rng.integers(0, 4, (300, 5)) * (rng.random((300, 5)) < 0.3)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    splits = np.array(deal(units, shares, rng.permutation(300)))
    for name, share in shares.items():
        np.testing.assert_allclose(units[splits == name].sum(0) / units.sum(0), share, atol=0.04)


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


@pytest.mark.parametrize(
    ("place", "scene"),
    [
        ("rgb/kitchen_0012.png", "rgb/kitchen"),
        ("rgb/s2/000001-color.jpg", "rgb/s2"),
        ("train/kitchen_0012_png.rf.0b12c9f4a07e33.jpg", "train/kitchen"),
        ("images/1679091c-kitchen_0012.png", "images/kitchen"),
        ("rgb/1305031102.175304.png", "rgb"),
        ("front/1679091.png", "front"),
        ("mug.png", "mug.png"),
    ],
)
def test_scenes_of_names_as_tools_make_them(place, scene):
    assert scene_of(place, re.compile(SCENE)) == scene


def test_scenes_that_are_none_are_warned_of(tmp_path, capfd):
    names = [f"rgb/{letter}.png" for letter in "abcdefghijkl"]
    for name in names:
        write_frame(tmp_path / "in", name)
    write_json(tmp_path / "in" / "a.json", names)
    prepare(tmp_path / "in", tmp_path / "out", "--split", "train=0.5,test=0.5", "--keep-groups")
    assert "12 pictures are 12 scenes, such as 'rgb/a.png'" in capfd.readouterr().err


def test_the_folder_itself_names_no_split_and_a_single_named_split_may_be_overruled(tmp_path):
    source = write_source(tmp_path / "kitchen_test")
    assert set(prepare(source, tmp_path / "a").splits) == {"train"}
    (source / "annotations.json").rename(source / "instances_Train.json")
    assert set(prepare(source, tmp_path / "b", "--split", "test").splits) == {"test"}
    assert set(prepare(source, tmp_path / "c", "--split", "train=0.5,val=0.5").splits) == {"train", "val"}


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


@pytest.mark.parametrize(
    ("file", "place", "name"),
    [
        ("annotations/instances_default.json", "images/default/frame_1.PNG", "frame_1.PNG"),
        ("annotations/instances_a_set.json", "images/a_set/1.png", "1.png"),
        ("job/annotations/instances_default.json", "job/images/default/1.png", "1.png"),
        ("result.json", "images/9a8b7c6d-x1.png", "images\\9a8b7c6d-x1.png"),
        ("result.json", "images/9a8b7c6d-x1.png", "..\\..\\label-studio\\upload\\4\\9a8b7c6d-x1.png"),
        ("a.json", "data/cam/1.png", "/somewhere/else/1.png"),
        ("a.json", "rgb/1.png", "1.png"),
    ],
)
def test_pictures_are_found_as_tools_name_them(tmp_path, monkeypatch, file, place, name):
    """The last one has depth of the same name, which is no colour picture."""
    write_frame(tmp_path, place, depth="depth" if "rgb" in place else "")
    write_json(tmp_path / file, [name])
    monkeypatch.chdir(tmp_path)
    assert prepare(".", tmp_path / "out", "--annotations", file).sources[0] == place


def test_what_cvat_calls_a_crowd(source, tmp_path, capfd):
    def edit(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    change(source / "annotations.json", edit)
    assert len(prepare(source, tmp_path / "out")) == 8, "what was painted with a brush is no crowd"
    change(source / "annotations.json", lambda content: content["annotations"][1].update(iscrowd=0))
    capfd.readouterr()
    assert len(prepare(source, tmp_path / "some")) == 1
    assert "7 boxes mark crowds" in capfd.readouterr().err


def test_objects_painted_in_cvat_count_beside_boxes_drawn_there(source, tmp_path):
    def edit(content):
        for n, entry in enumerate(content["annotations"]):
            entry |= {"iscrowd": n % 2, "attributes": {"occluded": False}}
        content["annotations"][1]["attributes"]["is_crowd"] = True

    change(source / "annotations.json", edit)
    assert len(prepare(source, tmp_path / "out")) == 7


@pytest.mark.parametrize(
    ("turn", "box"), [(0, (10, 20, 40, 40)), (90, (15, 15, 35, 45)), (-30, (7.01, 13.84, 42.99, 46.16))]
)
def test_a_rotated_box_becomes_an_upright_one_around_it(source, turn, box):
    """30 x 20 around (25, 30); at 30 degrees 30 cos + 20 sin = 35.98 wide and 30 sin + 20 cos = 32.32 high."""
    entry = {"attributes": {"rotation": turn, "occluded": False}}
    change(source / "annotations.json", lambda content: content["annotations"][0].update(entry))
    read = read_annotations(source / "annotations.json").pictures[0].boxes[0][1]
    np.testing.assert_allclose(read, box, atol=0.01)


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


@pytest.mark.parametrize("said", ["images/{}", "/data/upload/4/{}", "..\\media\\{}"])
def test_label_studio_names_lead_to_the_pictures_and_depth_from_before_the_upload(said, source, tmp_path):
    with_digits = [f"1a2b3c0{n}-{n:06d}.png" for n in range(4)]
    write_json(source / "annotations.json", [said.format(name) for name in with_digits])
    made = prepare(source, tmp_path / "original")
    assert list(made.keys[::2]) == [f"rgb/{n:06d}.png/000-cup" for n in range(4)]
    assert has(made, "depth").all()
    (source / "rgb").rename(source / "images")
    for n, name in enumerate(with_digits):
        (source / "images" / f"{n:06d}.png").rename(source / "images" / name)
    made = prepare(source, tmp_path / "renamed")
    assert list(made.keys[::2]) == [f"images/{name}/000-cup" for name in with_digits]
    assert list(made.images["depth"][::2, 20, 20]) == [1000, 1001, 1002, 1003]


def test_names_from_before_an_upload_that_two_pictures_had_are_not_guessed_at(tmp_path):
    names = [f"images/1a2b3c0{n}-x.png" for n in range(2)]
    for name in names:
        write_frame(tmp_path, name, depth="")
    write_frame(tmp_path, "rgb/x.png")
    write_json(tmp_path / "annotations.json", names)
    made = prepare(tmp_path, tmp_path / "out")
    assert (made.modalities, len(made)) == (("rgb",), 4)


def test_a_picture_in_the_local_storage_of_label_studio_is_found(source, tmp_path):
    write_json(source / "annotations.json", [f"/data/local-files/?d=kitchen%2Frgb%2F{n:06d}.png" for n in range(4)])
    assert len(prepare(source, tmp_path / "out")) == 8
