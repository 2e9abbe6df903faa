"""Contact sheets of prepared sets, and ``prepare show``, which draws them."""

import cv2
import numpy as np
import pytest
from small_sets import run, sample, write_set

from mmcl_core.data.sheet import colourise_depth, contact_sheet
from mmcl_core.data.writer import PreparedWriter
from mmcl_core.errors import DataError
from mmcl_core.prepare import main

pytestmark = pytest.mark.usefixtures("usual_log")


def test_a_set_is_shown_where_its_sheet_cannot_be_written(tmp_path, capfd):
    write_set(tmp_path / "set", range(6))
    assert main(["show", str(tmp_path / "set"), "--sheet", str(tmp_path / "absent" / "a.png")]) == 2
    out, err = capfd.readouterr()
    assert "cannot write the contact sheet" in err
    assert f"{tmp_path / 'set'}: 6 samples" in out


def test_show_verifies(crops, tmp_path, capfd):
    run(crops, tmp_path / "set")
    assert main(["show", str(tmp_path / "set"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "21 samples" in capfd.readouterr().out
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] > 3 * 72
    path = tmp_path / "set" / "depth.u16"
    path.write_bytes(path.read_bytes()[:-7] + b"edited!")
    assert main(["show", str(tmp_path / "set")]) == 2
    assert f"error: {path} was changed" in capfd.readouterr().err


def test_colour_of_depth():
    depth = np.zeros((4, 10), np.uint16)
    depth[1:] = np.linspace(500, 1500, 10)
    picture = colourise_depth(depth)
    assert not picture[0].any()
    assert picture[1, 0, 0] > picture[1, 0, 2]  # near: red
    assert picture[1, -1, 2] > picture[1, -1, 0]  # far: blue
    assert not colourise_depth(np.zeros((3, 3), np.uint16)).any()


def test_a_sheet_has_a_row_for_each_class_that_occurs(tmp_path):
    prepared = write_set(tmp_path / "set", [0, 3, 1, 4], split="train")
    one_row = 72 + 18 + 4
    assert cv2.imread(str(contact_sheet(prepared, tmp_path / "a.png"))).shape[0] == 2 * one_row + 4
    assert cv2.imread(str(contact_sheet(tmp_path / "set", tmp_path / "b.png", max_classes=1))).shape[0] == one_row + 4
    with pytest.raises(DataError, match="cannot write the contact sheet"):
        contact_sheet(prepared, tmp_path / "absent" / "a.png")


def test_names_of_classes_are_not_cut_where_columns_are_few(tmp_path):
    name = "a_stainless_steel_double_walled_measuring_cup_with_a_lid"
    for crops in (1, 9):
        with PreparedWriter(tmp_path / f"{crops}", classes=(name,), size=8, modalities=("rgb", "depth")) as writer:
            for number in range(1, crops + 1):
                writer.add(sample(number, label=0))
        path = contact_sheet(tmp_path / f"{crops}", tmp_path / "sheet.png")
        found = cv2.imread(str(path))[:18]
        whole = np.full((18, 900, 3), 255, np.uint8)
        cv2.putText(whole, f"{name} ({crops})", (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        length, expected = (np.ptp(np.flatnonzero((one < 128).any(axis=(0, 2)))) for one in (found, whole))
        assert length > 0.95 * expected


def test_the_classes_of_a_sheet_are_those_that_occur_however_many_the_set_could_have(tmp_path):
    with PreparedWriter(
        tmp_path / "set", classes=[f"class_{n}" for n in range(70)], size=8, modalities=("rgb", "depth")
    ) as writer:
        for number, label in enumerate((68, 69, 69, -1)):
            writer.add(sample(number, label=label))
    assert cv2.imread(str(contact_sheet(tmp_path / "set", tmp_path / "a.png"))).shape[0] == 3 * (72 + 18 + 4) + 4
