"""``prepare`` on folders in the stated layouts, through the command: what is read, and how it becomes samples."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from conftest import shared_data
from small_sets import failure, run, write_crop

pytestmark = pytest.mark.usefixtures("usual_log")


def test_splits_classes_pairs_and_single_pictures(crops, tmp_path, capfd):
    status, prepared = run(crops, tmp_path / "set")
    assert status == 0
    assert prepared.classes == ("can", "mug")
    assert prepared.modalities == ("rgb", "depth")
    assert Counter(zip(prepared.splits, prepared.labels.tolist(), strict=True)) == {
        ("train", 0): 7, ("train", 1): 6, ("train", -1): 1, ("test", 0): 3, ("test", 1): 4
    }  # fmt: skip
    assert prepared.keys.tolist() == sorted(prepared.keys)
    row = prepared.keys.tolist().index("train/mug/0001_000002")
    rgb, depth = write_crop(tmp_path / "again", "0001_000002")
    np.testing.assert_array_equal(prepared.images["rgb"][row], rgb)
    np.testing.assert_array_equal(prepared.images["depth"][row], depth)
    assert prepared.groups[row] == "0001"
    assert prepared.sources[row] == "train/mug/0001_000002_rgb.png"
    single, dark = (prepared.keys.tolist().index(key) for key in ("train/can/single", "test/mug/dark"))
    assert prepared.present[[single, dark]].tolist() == [[True, False], [False, True]]
    assert (prepared.groups[single], prepared.groups[dark]) == ("", "")
    out = capfd.readouterr().out
    for text in ("21 samples of 2 classes", "without depth", "(unlabelled)", "next: python -m mmcl_core.train"):
        assert text in out
    assert (tmp_path / "set" / "sheet.png").is_file()


def test_pictures_without_suffix_are_told_apart_by_their_type(tmp_path):
    for number in range(2):
        rgb, depth = write_crop(tmp_path / "tmp", f"{number}")
        for split, kind, ending, data in (("a", "x", "jpg", rgb), ("a", "y", "PNG", depth), ("b", "x", "jpeg", rgb)):
            (tmp_path / "in" / split / kind).mkdir(parents=True, exist_ok=True)
            encoded = cv2.imencode(f".{ending.lower()}", data)[1].tobytes()
            (tmp_path / "in" / split / kind / f"{number}.{ending}").write_bytes(encoded)
    _, prepared = run(tmp_path / "in", tmp_path / "set")
    assert prepared.classes == ("x", "y")
    assert prepared.present[prepared.labels == 0].tolist() == [[True, False]] * 4
    assert prepared.present[prepared.labels == 1].tolist() == [[False, True]] * 2


def test_colour_by_other_names(tmp_path, capfd):
    folder = tmp_path / "crops" / "train" / "mug"
    for key, rgb, depth in (("1", "color", "depth"), ("2", "colour", "Depth"), ("3", "RGB", "DEPTH")):
        write_crop(folder, key)
        (folder / f"{key}_rgb.png").rename(folder / f"{key}_{rgb}.png")
        (folder / f"{key}_depth.png").rename(folder / f"{key}_{depth}.png")
    _, prepared = run(tmp_path / "crops", tmp_path / "set")
    assert prepared.keys.tolist() == [f"train/mug/{key}" for key in "123"]
    assert prepared.present.all()
    assert "have both colour and depth" not in capfd.readouterr().err
    for key, rgb in (("1", "color"), ("2", "colour"), ("3", "RGB")):
        (folder / f"{key}_{rgb}.png").rename(folder / f"{key}_image.png")
    assert len(run(tmp_path / "crops", tmp_path / "halves")[1]) == 6
    assert (
        "0 of 6 samples have both colour and depth: files such as train/mug/1_image.png and train/mug/1_depth.png are "
        "read as two samples; where they are one, name them <key>_rgb.png"
    ) in capfd.readouterr().err


def turned(path, orientation):
    """Give a JPEG file an EXIF orientation."""
    data = path.read_bytes()
    entry = b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\x01\0" + entry + b"\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])


def test_jpeg_pictures_are_turned_as_a_viewer_shows_them(tmp_path):
    mugs = tmp_path / "crops" / "mug"
    write_crop(mugs, "a", rgb=False, shape=(32, 16))
    picture = np.full((16, 32, 3), 40, np.uint8)
    picture[:, 16:] = 200  # to the right, which orientation 6 turns downwards
    cv2.imwrite(str(mugs / "a_rgb.jpg"), picture)
    turned(mugs / "a_rgb.jpg", 6)
    _, prepared = run(tmp_path / "crops", tmp_path / "set", "--size", "32")
    assert prepared.present.all()
    image = prepared.images["rgb"][0].astype(int)
    assert abs(image[:14] - 40).max() < 5
    assert abs(image[18:] - 200).max() < 5


def test_pictures_of_other_proportions_are_no_pair(tmp_path, capfd):
    mugs = tmp_path / "crops" / "mug"
    for key, depth in (
        ("same", (24, 32)),
        ("rounded", (15, 21)),
        ("turned", (64, 48)),
        ("wider", (36, 64)),
        ("exif", (48, 64)),
    ):
        write_crop(mugs, key, rgb=False, shape=depth)
        cv2.imwrite(str(mugs / f"{key}_rgb.jpg"), np.zeros((48, 64, 3), np.uint8))
    turned(mugs / "exif_rgb.jpg", 8)
    _, prepared = run(tmp_path / "crops", tmp_path / "set")
    assert prepared.keys.tolist() == ["mug/rounded", "mug/same"]
    error = capfd.readouterr().err
    for key, size in (("turned", "48 x 64"), ("wider", "64 x 36"), ("exif", "64 x 48")):
        assert error.count(f"skipped mug/{key}_depth.png: is {size}, and mug/{key}_rgb.jpg is") == 1
    assert prepared.index["skipped"]["samples"] == 3


def test_a_plain_picture_beside_a_depth_file_is_its_colour(tmp_path):
    rgb, depth = write_crop(tmp_path / "in" / "train" / "x", "7", rgb=False)
    cv2.imwrite(str(tmp_path / "in" / "train" / "x" / "7.png"), rgb[..., ::-1])
    _, prepared = run(tmp_path / "in", tmp_path / "set")
    assert len(prepared) == 1
    np.testing.assert_array_equal(prepared.images["rgb"][0], rgb)
    np.testing.assert_array_equal(prepared.images["depth"][0], depth)


def test_a_source_of_one_modality_gives_a_set_of_one(tmp_path):
    write_crop(tmp_path / "in" / "x", "1", depth=False)
    assert run(tmp_path / "in", tmp_path / "set")[1].modalities == ("rgb",)


def test_group_pattern(crops, tmp_path):
    _, prepared = run(crops, tmp_path / "set", "--group-pattern", r"0*(\d)_\d+")
    assert prepared.groups[prepared.keys.tolist().index("train/mug/0001_000002")] == "1"
    assert run(crops, tmp_path / "x", "--group-pattern", "(")[0] == 2


def test_depth_units_and_stored_pictures(tmp_path, capfd):
    for key in ("1", "2"):
        _, depth = write_crop(tmp_path / "in" / "train" / "x", key, far=6000)
    _, prepared = run(tmp_path / "in", tmp_path / "set", "--depth-unit", "m/5000")
    np.testing.assert_array_equal(prepared.images["depth"][1], np.floor(depth * 0.2 + 0.5))
    assert prepared.index["description"]["depth_unit"] == "m/5000"
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for key in ("1", "2"):
        cv2.imwrite(str(tmp_path / "in" / "train" / "x" / f"{key}_depth.png"), picture[..., ::-1])
    line = failure(capfd, "folder", "--source", str(tmp_path / "in"), "--out", str(tmp_path / "no"))
    assert "none of 2 depth files seems usable" in line
    assert "is 8 bit with 3 channel(s); metric depth is 16 bit with 1 channel (--depth-unit stored takes" in line
    _, prepared = run(tmp_path / "in", tmp_path / "hha", "--depth-unit", "stored")
    np.testing.assert_array_equal(prepared.images["depth"][1], picture)


def test_masks_are_ignored_or_applied(crops, tmp_path):
    _, plain = run(crops, tmp_path / "plain")
    _, masked = run(crops, tmp_path / "masked", "--mask", "apply")
    row, same = (p.keys.tolist().index("train/mug/0001_000002") for p in (plain, masked))
    for name in ("rgb", "depth"):
        assert plain.images[name][row][10:].all(axis=0).any()
        np.testing.assert_array_equal(masked.images[name][same][:10], plain.images[name][row][:10])
        assert not masked.images[name][same][10:].any()
    assert len(plain) - len(masked) == 3
    assert masked.index["skipped"]["first"][0] == ["test/mug/dark", "has no mask, and --mask apply needs one"]


def test_edges_of_jpeg_masks(tmp_path):
    """What a JPEG leaves around the object is not the object, and numbers of objects do not survive it."""
    folder = tmp_path / "in" / "mug"
    folder.mkdir(parents=True)
    for name, level in (("good", 255), ("numbers", 7)):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:45, 18:43] = level
        cv2.imwrite(str(folder / f"{name}_rgb.png"), np.full((64, 64, 3), 90, np.uint8))
        cv2.imwrite(str(folder / f"{name}_mask.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 50])
        inside = mask > 0
    written = cv2.imread(str(folder / "good_mask.jpg"), cv2.IMREAD_GRAYSCALE)
    assert (written[~inside] > 0).any()  # lossy indeed
    status, prepared = run(tmp_path / "in", tmp_path / "out", "--mask", "apply", "--size", "64")
    assert status == 0
    assert prepared.keys.tolist() == ["mug/good"]
    np.testing.assert_array_equal(prepared.images["rgb"][0].any(-1), inside)
    name, reason = prepared.index["skipped"]["first"][0]
    assert name == "mug/numbers_mask.jpg"
    assert "JPEG mask of at most" in reason


def test_classes_may_begin_with_underscores_and_leftovers_of_programs_are_none(crops, tmp_path):
    write_crop(crops / "train" / "__background__", "__a_1")
    for place in ("__MACOSX/train/mug", "train/__MACOSX", "train/__pycache__", "train/.mug"):
        write_crop(crops / place, "x_1")
    _, prepared = run(crops, tmp_path / "set")
    assert prepared.classes == ("__background__", "can", "mug")
    assert "train/__background__/__a_1" in prepared.keys
    assert not any("x_1" in key for key in prepared.keys)


def test_cameras_in_folders_of_the_source_are_not_passed_over_in_silence(crops, tmp_path, capfd):
    for place in ("train", "train/mug", "test/can"):
        (crops / place / "cameras.csv").write_text("key,fx,fy,cx,cy\n")
    run(crops, tmp_path / "set")
    told = capfd.readouterr().err
    assert told.count("cameras.csv is not read; the cameras of all crops are expected in") == 3
    assert f"{crops}/train/mug/cameras.csv is not read" in told
    (crops / "cameras.csv").write_text("key,fx,fy,cx,cy\n")
    for place in ("train", "train/mug", "test/can"):
        (crops / place / "cameras.csv").unlink()
    run(crops, tmp_path / "other")
    assert "is not read" not in capfd.readouterr().err


def test_cameras_follow_the_crop(crops, tmp_path, capfd):
    rows = ["key, fx, fy, cx, cy", "train/can/0002_000001, 60, 61, 14, 9", "0001_000000, 50, 50, 10, 10"]
    (crops / "cameras.csv").write_text("\n".join(rows))
    prepared = run(crops, tmp_path / "set", "--size", "31")[1]
    keys = prepared.keys.tolist()
    # 31 x 20 pixels get 5 rows above.
    np.testing.assert_allclose(prepared.camera[keys.index("train/can/0002_000001")], (60, 61, 14, 14))
    scale = 31 / 20
    np.testing.assert_allclose(
        prepared.camera[keys.index("train/mug/0001_000000")],
        (50 * scale, 50 * scale, *(2 * (10.5 * scale - 0.5,))),
        rtol=1e-6,
    )
    assert (prepared.camera[:, 0] > 0).sum() == 2
    (crops / "cameras.csv").write_text("\n".join([*rows, "x, 0, 1, 2, 3"]))
    assert "cameras.csv, line 4" in failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))
    (crops / "cameras.csv").write_text("\n".join([*rows, "0001_000001, 500,5, 510,5, 20,5, 20,5"]))
    assert "line 4: more values than" in failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))
    (crops / "cameras.csv").write_text("\n".join([*rows, "", "0001_000000, 70, 50, 10, 10"]))
    told = failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))
    assert "cameras.csv, line 5: 0001_000000 has another camera" in told
    assert "as <class>/<key>" in told
    (crops / "cameras.csv").write_text("\n".join([*rows, '"0001_000001, 50, 50, 10, 10']))
    assert "quotation mark" in failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))
    (crops / "cameras.csv").write_text("\n".join(rows), encoding="utf-16")
    assert "not UTF-8 text" in failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))
    (crops / "cameras.csv").write_text("\n".join([*rows, "mug/0009_9, 50, 50, 10, 10"]))
    run(crops, tmp_path / "third")
    assert "1 of 3 keys name no crop, such as mug/0009_9" in capfd.readouterr().err
    (crops / "cameras.csv").write_text("name,f\n")
    assert "columns key, fx" in failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "no"))


def test_a_camera_of_a_colour_file_that_cannot_be_read_is_not_taken_for_that_of_depth(tmp_path):
    """Depth may be of another size, and nothing tells of how many pixels the camera speaks."""
    for key in "ab":
        write_crop(tmp_path / "in" / "mug", key)
        cv2.imwrite(f"{tmp_path}/in/mug/{key}_depth.png", np.full((10, 10), 900, np.uint16))
    (tmp_path / "in" / "mug" / "b_rgb.png").write_bytes(b"")
    (tmp_path / "in" / "cameras.csv").write_text("key,fx,fy,cx,cy\na,60,60,9.5,9.5\nb,60,60,9.5,9.5\n")
    prepared = run(tmp_path / "in", tmp_path / "set")[1]
    assert prepared.present.tolist() == [[True, True], [False, True]]
    assert (prepared.camera[:, 0] > 0).tolist() == [True, False]


@pytest.mark.data
def test_real_crops(tmp_path):
    _, ycb = run(shared_data("real_crops", "ycb_video"), tmp_path / "ycb", "--split", "test")
    assert (len(ycb), len(ycb.classes), ycb.index["skipped"]["samples"]) == (260, 12, 0)
    assert len(set(zip(ycb.groups, ycb.labels.tolist(), strict=True))) == 13
    assert ycb.present.all()
    _, mosd = run(shared_data("real_crops", "mosd"), tmp_path / "mosd", "--mask", "apply")
    assert mosd.classes == ("box", "cylinder")
    assert len(mosd) == 505
    assert {split: entry["unlabelled"] for split, entry in mosd.index["splits"].items()} == {"test": 264, "train": 22}
    index = json.loads((tmp_path / "mosd" / "index.json").read_text())
    assert index["description"]["crop"]["rule"] == "rectangle to square by edge replication"
