"""``prepare sunrgbd``: fake frames in the true layout and units."""

from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest
import small_sets
from fake_sunrgbd import FRAMES, rotate_left, write_frame, write_source

from mmcl_core.data.rooms import CLASSES
from mmcl_core.data.sunrgbd import _load_json, read_depth, read_objects
from mmcl_core.prepare import main


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "data")


prepare = partial(small_sets.prepare, "sunrgbd --size 60")


def test_crops_units_labels_and_cameras(source, tmp_path):
    made = prepare(source, tmp_path / "out")
    assert made.classes == CLASSES
    assert len(made) == 10
    assert list(made.keys[:2]) == ["kv1/NYUdata/NYU0001/001-night-stand", "kv1/NYUdata/NYU0001/002-chair"]
    assert [made.classes[label] for label in made.labels[:2]] == ["night-stand", "chair"]
    assert made.sources[0] == "SUNRGBD/kv1/NYUdata/NYU0001"
    assert (made.images["depth"][0] == 1234).all()
    assert (made.images["depth"][2] == 1235).all()
    assert np.abs(made.images["rgb"][0][20:40, 20:40].astype(int) - (200, 30, 10)).max() < 12
    # 30 x 20 pixels from (10, 10), five rows of edge above and below, 30 pixels become 60.
    expected = [200, 220, (40 - 10 + 0.5) * 2 - 0.5, (30 - 5 + 0.5) * 2 - 0.5]
    np.testing.assert_allclose(made.camera[0], expected, rtol=1e-6)
    # Both polygons of the chair: 20 x 40 pixels from (50, 5).
    np.testing.assert_allclose(made.camera[1][1], 110 * 60 / 40, rtol=1e-6)


def test_depth_rotation_holds_for_every_value(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "all.png"), rotate_left(every))
    np.testing.assert_array_equal(read_depth(tmp_path / "all.png"), every)
    cv2.imwrite(str(tmp_path / "one.png"), np.full((2, 2), 16000, np.uint16))
    assert (read_depth(tmp_path / "one.png") == 2000).all()


def test_classes_smallest_side_and_filled_depth(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--classes", "cup,Night Stand", "--min-side", "5", "--depth", "filled")
    assert made.classes == ("cup", "night-stand")
    assert list(made.labels) == [1, 0] * 5
    assert (made.images["depth"][0] == 1235).all()
    assert (made.images["depth"][1] == 9002).all()
    assert len(prepare(source, tmp_path / "large", "--classes", "cup,night-stand", "--min-side", "20")) == 5


def test_drawn_split_keeps_videos_together_and_part_of_the_set_is_a_source(source, tmp_path):
    made = prepare(source, tmp_path / "out")
    assert set(made.splits) == {"train", "test"}
    videos = {
        split for split, group in zip(made.splits, made.groups, strict=True) if group == "xtion/sun3ddata/hall_1/hall_1"
    }
    assert len(videos) == 1
    assert len(set(made.groups)) == 4
    part = prepare(source / "SUNRGBD" / "kv1", tmp_path / "part")
    assert part.keys[0] == "NYUdata/NYU0001/001-night-stand"


def test_frames_behind_links_are_found_once(source, tmp_path):
    root = source / "SUNRGBD"
    whole = prepare(source, tmp_path / "whole")
    (root / "kv1").rename(tmp_path / "disk")
    (root / "kv1").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(root / "realsense")
    (root / "realsense" / "lg" / "loop").symlink_to(root)
    linked = prepare(source, tmp_path / "linked")
    assert list(linked.keys) == list(whole.keys)


def test_official_split(source, tmp_path, capsys):
    scipy_io = pytest.importorskip("scipy.io")
    folder = source / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    folder.mkdir(parents=True)

    def save(path, train, test):
        def cells(names):
            return np.array([[f"/n/fs/sun3d/data/SUNRGBD/{name}" for name in names]], dtype=object)

        scipy_io.savemat(path, {"alltrain": cells(train), "alltest": cells(test)})

    save(folder / "allsplit.mat", [FRAMES[0] + "/", FRAMES[3]], [FRAMES[1], FRAMES[4] + "/"])
    for place in (source, source / "SUNRGBD"):
        made = prepare(place, tmp_path / "out", "--overwrite")
        splits = {key.rpartition("/")[0]: split for key, split in zip(made.keys, made.splits, strict=True)}
        assert splits == {FRAMES[0]: "train", FRAMES[3]: "train", FRAMES[1]: "test", FRAMES[4]: "test"}
    save(tmp_path / "other.mat", ["a/b"], ["c/d"])
    capsys.readouterr()
    assert main(["sunrgbd", "--source", str(source), "--splits", str(tmp_path / "other.mat"), "--check"]) == 2
    assert "names none of the 5 frames" in capsys.readouterr().err


def test_what_desktops_and_editors_leave_costs_no_frame(source, tmp_path):
    whole = prepare(source, tmp_path / "whole")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        for part in ("image", "depth"):
            (source / "SUNRGBD" / FRAMES[0] / part / name).write_bytes(b"x")
    path = source / "SUNRGBD" / FRAMES[1] / "annotation2Dfinal/index.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == list(whole.keys)
    assert made.index["skipped"]["samples"] == 0


def test_bad_files_are_named_skipped_and_counted(source, tmp_path, capsys):
    root = source / "SUNRGBD"
    (root / FRAMES[0] / "annotation2Dfinal/index.json").write_text('{"objects": [')
    path = root / FRAMES[1] / "depth/0001.png"
    path.write_bytes(path.read_bytes()[:70])
    (root / FRAMES[2] / "image/0001.jpg").unlink()
    (root / FRAMES[3] / "intrinsics.txt").write_text("1 2 3")
    path = root / FRAMES[4] / "annotation2Dfinal/index.json"
    content = json.loads(path.read_text())
    content["frames"][0]["polygon"][1]["x"] = ["?"]
    path.write_text(json.dumps(content))
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == [f"{FRAMES[3]}/001-night-stand", f"{FRAMES[3]}/002-chair", f"{FRAMES[4]}/002-chair"]
    assert (made.camera[:, 0] > 0).tolist() == [False, False, True]
    skipped = {name.removeprefix("SUNRGBD/"): reason for name, reason in made.index["skipped"]["first"]}
    assert "no annotation with objects" in skipped[f"{FRAMES[0]}/annotation2Dfinal/index.json"]
    assert "truncated" in skipped[f"{FRAMES[1]}/depth/0001.png"]
    assert "one picture expected, found nothing" in skipped[f"{FRAMES[2]}/image"]
    assert "nine numbers" in skipped[f"{FRAMES[3]}/intrinsics.txt"]
    assert "polygon 1 cannot be used" in skipped[f"{FRAMES[4]}/annotation2Dfinal/index.json"]
    capsys.readouterr()
    assert main(["sunrgbd", "--source", str(source), "--check", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert f"5 bad files or samples, the first: SUNRGBD/{FRAMES[0]}/annotation2Dfinal/index.json" in said
    assert "frames: 5 found, the published set has 10335" in said


def test_check_finds_an_implausible_unit(source, capsys):
    path = source / "SUNRGBD" / FRAMES[0] / "depth/0001.png"
    cv2.imwrite(str(path), np.full((60, 80), 1236, np.uint16))  # not rotated: read as 32.9 m
    assert main(["sunrgbd", "--source", str(source), "--check", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert f"2 bad files or samples, the first: SUNRGBD/{FRAMES[0]}" in said


def test_names_as_people_typed_them_and_files_that_are_no_json(source, tmp_path):
    """Some published files hold a name that ends with a backslash, which is no JSON; many objects are numbered."""
    path = source / "SUNRGBD" / FRAMES[0] / "annotation2Dfinal/index.json"
    text = path.read_text().replace('"wall"', '"wall\\"').replace('"chair:occluded"', '"chair #2:occluded"')
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(text)
    path.write_text(text.replace('"night_stand"', '"Night stand1."'))
    made = prepare(source, tmp_path / "out")
    frame = [key for key in made.keys if key.startswith(FRAMES[0])]
    assert frame == [f"{FRAMES[0]}/001-night-stand", f"{FRAMES[0]}/002-chair"]
    assert not made.index["skipped"]["samples"]


def test_what_lies_outside_of_the_picture_does_not_count(tmp_path):
    """Polygons run over the border: a sliver is no crop, whatever its length outside."""
    objects = (("chair", [(-60, 10, 2, 12)]), ("table", [(-30, 5, 39, 44)]))
    write_frame(tmp_path / "data" / "SUNRGBD" / FRAMES[0], objects=objects)
    made = prepare(tmp_path / "data", tmp_path / "out", "--size", "40")
    assert list(made.keys) == [f"{FRAMES[0]}/001-table"]
    assert (made.images["depth"][0][5:25, 10:] == 1234).all()
    assert (made.images["depth"][0][:5] == 9001).all(), "from the border of the picture on, nothing of what is outside"


def test_an_empty_split_file_is_one_line(source, tmp_path, capsys):
    pytest.importorskip("scipy.io", reason="scipy is not installed")
    (tmp_path / "empty.mat").write_bytes(b"")
    words = ["sunrgbd", "--source", str(source), "--check", "--workers", "1", "--splits", str(tmp_path / "empty.mat")]
    assert main(words) == 2
    assert "empty.mat is no MATLAB file with alltrain and alltest" in capsys.readouterr().err


def test_odd_annotations(tmp_path):
    path = tmp_path / "index.json"
    polygons = [
        {"object": 0, "x": [3.4, 9.0], "y": [1, 2]},
        {"object": 7, "x": [3], "y": [1]},
        {"object": 1, "x": ["nan"], "y": [1]},
        {"object": 1, "x": 5, "y": 1},
        {"x": [1], "y": [1]},
    ]
    path.write_text(json.dumps({"objects": [{"name": " TV "}, {"other": 1}], "frames": [{"polygon": polygons}]}))
    boxes, faults = read_objects(path)
    assert boxes == {0: ("television", (3.4, 1, 10, 3))}
    assert len(faults) == 3  # points and nothing are none: the published files hold such


@pytest.mark.parametrize(
    ("name", "read"),
    [('""sofa"bed"', "sofabed"), ('"wall\\"', "wall"), ('"a \\"big\\" desk"', "a big desk"), ('"tv"', "tv")],
)
def test_names_that_are_no_json_are_mended(name, read):
    text = f'{{"frames":[{{"polygon":[]}}],"objects":[{{"name":{name}}},{{"name":"lamp"}}]}}'
    assert [one["name"].replace('"', "") for one in _load_json(text)["objects"]] == [read, "lamp"]


def test_wrong_root_and_wrong_classes_are_explained(tmp_path, source, capsys):
    (tmp_path / "in" / "cats").mkdir(parents=True)
    assert main(["sunrgbd", "--source", str(tmp_path / "in"), "--check"]) == 2
    said = capsys.readouterr().err
    assert "expected SUNRGBD/<sensor>" in said
    assert "found cats/" in said
    assert main(["sunrgbd", "--source", str(source), "--classes", "tv,television", "--check"]) == 2
    assert "different names" in capsys.readouterr().err
