"""``prepare nyud``: fake crop folders and fake labelled files in the true layout and units."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
import small_sets
from conftest import shared_data
from fake_nyud import NAMES, SCENES, crop_folders, hha_picture, labelled_file

from mmcl_core.data.hha import hha
from mmcl_core.data.nyud import hha_votes
from mmcl_core.data.nyud_labelled import CAMERA, FILE
from mmcl_core.data.rooms import CLASSES, class_of
from mmcl_core.prepare import main

prepare = partial(small_sets.prepare, "nyud --size 32")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("images", ["image", "images"])
def test_crop_folders(tmp_path, order, images):
    made = prepare(crop_folders(tmp_path / "in", images=images, order=order), tmp_path / "out")
    assert made.classes == CLASSES
    assert made.index["modalities"]["depth"]["dtype"] == "uint8"
    assert made.index["description"]["order_in_files"] == order
    assert len(made) == 15
    assert list(made.splits).count("test") == 6
    assert list(made.keys[:2]) == ["test/bed/img_0000", "test/bed/img_0001"]
    row = list(made.keys).index("train/night-stand/img_0002")
    assert made.classes[made.labels[row]] == "night-stand"
    assert (made.images["rgb"][row] == (200, 10, 2)).all()
    assert (made.images["depth"][row][..., 1] == 72).all()  # height
    assert abs(float(made.images["depth"][row][..., 0].mean()) - 127) < 1
    steps = np.ptp(made.images["depth"][row].astype(int), axis=0).max(axis=0)
    assert steps[0] <= 1 < 10 < steps[2], "disparity, which is smooth, comes first, and the angle last"
    assert not made.camera.any()


def test_given_order_wins_and_an_unclear_one_is_refused(tmp_path, capsys):
    source = crop_folders(tmp_path / "in")
    made = prepare(source, tmp_path / "out", "--hha-order", "bgr")
    assert abs(float(made.images["depth"][0][..., 2].mean()) - 127) < 1
    for path in source.glob("*/depth/*/*.png"):
        cv2.imwrite(str(path), np.full((30, 40, 3), 100, np.uint8))
    capsys.readouterr()
    assert main(["nyud", "--source", str(source), "--check", "--workers", "1"]) == 2
    assert "--hha-order rgb or bgr" in capsys.readouterr().err


@pytest.mark.data
def test_options_of_the_other_layout_are_refused(tmp_path, capsys):
    crop_folders(tmp_path / "crops")
    options = (
        "--margin",
        "0.1",
        "--min-side",
        "9",
        "--context",
        "--depth",
        "hha",
        "--splits",
        "x",
        "--min-pixels",
        "9",
    )
    assert main(["nyud", "--source", str(tmp_path / "crops"), "--check", "--workers", "1", *options]) == 2
    error = capsys.readouterr().err
    assert "cut already, where --splits, --depth, --min-pixels, --margin, --min-side, --context cannot apply" in error
    labelled = tmp_path / FILE
    labelled.touch()
    assert main(["nyud", "--source", str(labelled), "--check", "--workers", "1", "--hha-order", "bgr"]) == 2
    assert "is the labelled file, where --hha-order cannot apply" in capsys.readouterr().err


def test_order_of_the_reference_picture_is_found():
    picture = cv2.imread(str(shared_data("hha_sample", "hha_reference.png")))[..., ::-1]
    parts = [picture[v : v + 140, u : u + 140] for v in (0, 140, 280) for u in (0, 140, 280, 420)]
    votes = [hha_votes(part) for part in parts]
    assert votes.count(1) >= 10
    assert [hha_votes(part[..., ::-1]) for part in parts] == [-vote for vote in votes]


def test_an_angle_is_never_beyond_its_range():
    near = hha_picture(0)
    near[..., 0] = np.random.default_rng(0).integers(180, 256, near.shape[:2])  # rougher than the angle
    assert hha_votes(near) == 1
    assert hha_votes(near[..., ::-1]) == -1
    assert hha_votes(near[:, :1]) == 1  # the range alone tells


def test_a_single_column_has_no_steps_to_vote_by():
    within = hha_picture(0)
    within[..., 0] = np.random.default_rng(0).integers(100, 150, within.shape[:2])
    assert hha_votes(within) == -1
    assert hha_votes(within[:, :1]) == 0


def test_other_spellings_of_classes(tmp_path):
    made = prepare(crop_folders(tmp_path / "in", spelling=lambda n: n.replace("-", "_").title()), tmp_path / "out")
    assert {made.classes[label] for label in made.labels} == {"bed", "night-stand", "toilet"}
    assert class_of("garbage bin") == "garbage-bin"
    assert class_of("tv") == "television"
    assert class_of("coffee table") is None


def test_counts_and_bad_files_are_reported(tmp_path, capsys):
    source = crop_folders(tmp_path / "in")
    path = source / "train/depth/bed/img_0000.png"
    path.write_bytes(path.read_bytes()[:50])
    (source / "train/depth/bed/img_0001.png").unlink()
    cv2.imwrite(str(source / "test/image/bed/img_0000.png"), np.zeros((20, 20, 3), np.uint8))
    (source / "test/image/spaceship").mkdir()
    made = prepare(source, tmp_path / "out")
    assert len(made) == 12
    skipped = dict(made.index["skipped"]["first"])
    assert "truncated" in skipped["train/depth/bed/img_0000.png"]
    assert "no depth picture" in skipped["train/image/bed/img_0001.png"]
    assert "is 40 x 30, the colour picture 20 x 20" in skipped["test/depth/bed/img_0000.png"]
    assert "none of the 19 classes" in skipped["test/image/spaceship"]
    assert main(["nyud", "--source", str(source), "--check", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "train crops: 8 found, the published set has 2186" in said
    assert "train: 2186 samples expected, found 7" in said
    assert "the first: " in said


def test_of_two_pictures_of_a_name_the_png_is_taken_and_the_other_counted(tmp_path):
    source = crop_folders(tmp_path / "in")
    whole = prepare(source, tmp_path / "whole")
    for part in ("image", "depth"):
        cv2.imwrite(str(source / "train" / part / "bed/img_0000.jpg"), np.zeros((30, 40, 3), np.uint8))
    made = prepare(source, tmp_path / "out")
    for name in ("rgb.u8", "depth.u8"):
        assert (made.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert made.index["skipped"]["first"] == [
        [f"{place}.jpg", f"is a second picture of its class and name, beside {place}.png"]
        for place in ("train/depth/bed/img_0000", "train/image/bed/img_0000")
    ]


@pytest.mark.parametrize(
    ("inside", "expected"), [("cats", "{train,test}/{image,depth}"), ("train/depth", "image or images")]
)
def test_wrong_root_says_what_was_expected_and_found(tmp_path, capsys, inside, expected):
    (tmp_path / "in" / inside).mkdir(parents=True)
    assert main(["nyud", "--source", str(tmp_path / "in"), "--check"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "found " + inside.rpartition("/")[2] in said


def test_labelled_file(tmp_path):
    made = prepare(labelled_file(tmp_path / FILE), tmp_path / "out", "--min-pixels", "384")
    assert len(made) == 12
    chair = NAMES.index("chair") + 1
    assert list(made.keys[:3]) == ["0001/0002-001-garbage-bin"] + [f"0001/{chair:04d}-00{i}-chair" for i in (1, 2)]
    assert [made.classes[label] for label in made.labels[:3]] == ["garbage-bin", "chair", "chair"]
    assert list(made.groups[::3]) == list(SCENES)
    row = list(made.keys).index(f"0003/{chair:04d}-001-chair")
    depth, rgb = made.images["depth"][row], made.images["rgb"][row]
    assert {int(v) for v in np.unique(depth)} == {0, 1200}
    assert (rgb == (10 * chair, 1, 7)).all()
    assert set(np.unique(made.images["depth"][row + 1]).tolist()) == {0, 2000}
    scale = 32 / 30  # 20 x 30 pixels from (25, 10), five columns of edge on either side
    np.testing.assert_allclose(made.camera[row][:2], np.multiply(CAMERA[:2], scale), rtol=1e-6)
    np.testing.assert_allclose(made.camera[row][2], (CAMERA[2] - 20 + 0.5) * scale - 0.5, rtol=1e-6)
    assert (
        list(prepare(tmp_path / FILE, tmp_path / "few", "--min-pixels", "550").labels) == [CLASSES.index("chair")] * 4
    )


def test_rooms_are_not_torn_apart_by_the_drawn_split(tmp_path):
    made = prepare(labelled_file(tmp_path / FILE), tmp_path / "out", "--min-pixels", "350")
    assert set(made.splits) == {"train", "test"}
    for scene in SCENES:
        assert len({split for split, group in zip(made.splits, made.groups, strict=True) if group == scene}) == 1


def test_official_split_beside_the_file_or_given(tmp_path, capsys):
    scipy_io = pytest.importorskip("scipy.io")
    labelled_file(tmp_path / FILE)
    splits = {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[4]])}
    scipy_io.savemat(tmp_path / "splits.mat", splits)
    for source in (tmp_path, tmp_path / FILE):
        made = prepare(source, tmp_path / "out", "--min-pixels", "350", "--overwrite")
        frames = {(key[:4], split) for key, split in zip(made.keys, made.splits, strict=True)}
        assert frames == {("0001", "train"), ("0003", "train"), ("0004", "test")}
    scipy_io.savemat(tmp_path / "other.mat", {**splits, "testNdxs": np.array([[9]])})
    capsys.readouterr()
    assert main(["nyud", "--source", str(tmp_path), "--splits", str(tmp_path / "other.mat"), "--check"]) == 2
    assert "frames from 1 to 9 of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("depths", None, "has no depths"),
        ("scenes", np.zeros(3), "scenes is no list of texts"),
        ("names", b"x", "names is no list of texts"),
    ],
)
def test_a_labelled_file_of_another_kind_is_refused(tmp_path, capfd, name, content, says):
    import h5py

    source = labelled_file(tmp_path / FILE)
    with h5py.File(source, "r+") as data:
        del data[name]
        if content is None:
            data.create_group(name)
        else:
            data[name] = content
    assert main(["nyud", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert says in capfd.readouterr().err


def test_hha_of_the_labelled_file(tmp_path):
    words = ("--depth", "hha", "--min-pixels", "350", "--size", "30")
    made = prepare(labelled_file(tmp_path / FILE), tmp_path / "out", *words)
    assert made.index["modalities"]["depth"]["dtype"] == "uint8"
    frame = np.full((48, 64), 3000.0)
    frame[20:45, 2:22], frame[10:40, 25:45], frame[10:34, 46:62] = 1500, 1000, 2000
    missing = np.zeros((48, 64), bool)
    missing[12:16, 30:34] = missing[12:16, 50:54] = True
    whole = hha(frame, CAMERA, missing)
    row = next(i for i, key in enumerate(made.keys) if key.startswith("0001/0002"))
    assert (made.images["depth"][row][..., 0] == round(31000 / 150)).all()
    assert abs(float(made.images["depth"][row][..., 2].mean()) - whole[20:45, 2:22, 2].mean()) < 4
    assert (whole != hha(frame, CAMERA))[10:40, 25:45].any(), "what was filled is kept out of the angle"
    np.testing.assert_array_equal(made.images["depth"][row + 1][:, 5:25], whole[10:40, 25:45])


def test_damaged_and_foreign_files(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    (tmp_path / FILE).write_bytes(b"no file of this kind")
    assert main(["nyud", "--source", str(tmp_path / FILE), "--check"]) == 2
    assert "not a readable MATLAB v7.3 file" in capsys.readouterr().err
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["labels"] = np.zeros(3)
    assert main(["nyud", "--source", str(tmp_path / "other.mat"), "--check"]) == 2
    said = capsys.readouterr().err
    assert "has no images, rawDepths" in said
    assert "found labels" in said


def test_without_h5py_the_extra_is_named(tmp_path, capsys, monkeypatch):
    import sys

    (tmp_path / FILE).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(["nyud", "--source", str(tmp_path), "--check"]) == 2
    assert "mmcl_ros[datasets]" in capsys.readouterr().err
