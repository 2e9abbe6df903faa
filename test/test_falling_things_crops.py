"""``prepare falling_things`` on crops that are cut already."""

from __future__ import annotations

import filecmp

import cv2
import numpy as np
from fake_falling_things import DRILL, cut_crops, prepare

from mmcl_core.prepare import main

#: For crops that are cut already, where a smallest side other than the default cannot apply.
CUT = ("--stereo", "--min-side", "32")


def test_crops_that_are_cut_already(tmp_path, capsys):
    source = cut_crops(tmp_path / "crops")
    made = prepare(source, tmp_path / "out", *CUT)
    assert [key.replace("kitchen_0_00000", "") for key in made.keys] == [
        "train/025_mug/0", "train/025_mug/1", "train/035_power_drill/0", "train/035_power_drill/1",
        "train/035_power_drill/2", "val/035_power_drill/0", "val/035_power_drill/1",
    ]  # fmt: skip
    assert [made.classes[label] for label in made.labels[:3]] == ["025_mug", "025_mug", "035_power_drill"]
    assert list(made.modalities) == ["rgb", "depth", "rgb_right"]
    assert made.present.all()
    depth = made.images["depth"][1]
    assert set(np.unique(depth)) <= {0, 501}
    assert abs(int(made.images["rgb_right"][0][16, 16, 0]) - 90) < 3
    prepare(source, tmp_path / "two", *CUT, "--workers", "2")
    assert filecmp.cmp(tmp_path / "out/index.json", tmp_path / "two/index.json", shallow=False)
    assert main(["falling_things", "--source", str(source), "--check", "--workers", "1"]) == 2
    assert "train crops: 5 found, the published set has 18640" in capsys.readouterr().err


def test_options_of_frames_are_refused_for_crops_that_are_cut_already(tmp_path, capsys):
    source = cut_crops(tmp_path / "crops")
    options = ["--mask", "apply", "--min-side", "40", "--margin", "0.1", "--every", "2"]
    assert main(["falling_things", "--source", str(source), "--out", str(tmp_path / "out"), *options]) == 2
    assert "--margin, --min-side, --mask, --every cannot apply" in capsys.readouterr().err


def test_crops_with_8_bit_depth_are_stored_pictures_and_bad_ones_are_named(tmp_path, capsys):
    source = cut_crops(tmp_path / "crops", bits=8)
    (source / "train" / DRILL / "kitchen_0_000001.left.jpg").unlink()
    path = source / "train/025_mug/kitchen_0_000001.left.depth.png"
    cv2.imwrite(str(path), np.full((30, 20), 5000, np.uint16))
    (source / "val" / "teapot").mkdir()
    made = prepare(source, tmp_path / "out", *CUT)
    assert made.images["depth"].shape[1:] == (32, 32, 3)
    assert (made.images["depth"][0] == np.uint8(100)).sum() > 2900
    assert len(made) == 5
    reasons = dict(made.index["skipped"]["first"])
    assert reasons["train/035_power_drill/kitchen_0_000001"] == "has no rgb picture"
    assert "8 bit with 1 or 3 channels" in reasons["train/025_mug/kitchen_0_000001.left.depth.png"]
    assert "none of the 21 classes" in reasons["val/teapot"]


def test_of_two_pictures_of_a_name_the_png_is_taken_and_the_other_counted(tmp_path):
    source = cut_crops(tmp_path / "crops")
    whole = prepare(source, tmp_path / "whole", *CUT)
    stem = f"val/{DRILL}/kitchen_0_000000.left"
    cv2.imwrite(f"{source / stem}.depth.jpg", np.zeros((30, 20), np.uint8))
    cv2.imwrite(f"{source / stem}.png", np.full((30, 20, 3), 77, np.uint8))
    made = prepare(source, tmp_path / "out", *CUT)
    assert (made.path / "depth.u16").read_bytes() == (whole.path / "depth.u16").read_bytes()
    assert (made.images["rgb"][5] == 77).all()
    assert made.index["skipped"]["first"] == [
        [f"{stem}.depth.jpg", f"is a second picture of its name, beside {stem}.depth.png"],
        [f"{stem}.jpg", f"is a second picture of its name, beside {stem}.png"],
    ]
