"""Names of classes that are probably one, as each way into a set tells them."""

import unicodedata

import pytest
from fake_coco import write_frame, write_json
from small_sets import prepare, write_crop

from mmcl_core.prepare import main

pytestmark = pytest.mark.usefixtures("usual_log")

WARNING = "classes of nearly the same name are kept apart: Mug, mug"


def test_folders_and_sets_that_are_joined(tmp_path, capfd):
    for number, name in enumerate(("Mug", "mug", "can")):
        write_crop(tmp_path / str(number) / "train" / name, str(number))
        prepare("folder --size 20", tmp_path / str(number), tmp_path / f"set{number}")
        write_crop(tmp_path / "all" / "train" / name, str(number))
    assert "nearly the same name" not in capfd.readouterr().err
    prepare("folder --size 20", tmp_path / "all", tmp_path / "set")
    assert capfd.readouterr().err.count(WARNING) == 1
    parts = [str(tmp_path / f"set{number}") for number in range(3)]
    assert main(["merge", "--source", *parts, "--out", str(tmp_path / "joined")]) == 0
    assert capfd.readouterr().err.count(WARNING) == 1
    assert main(["merge", "--source", *parts[1:], "--out", str(tmp_path / "others")]) == 0
    assert "nearly the same name" not in capfd.readouterr().err


def test_categories(tmp_path, capfd):
    write_frame(tmp_path / "in", "rgb/0.png")
    write_json(tmp_path / "in" / "annotations.json", ["rgb/0.png"], categories=("Mug", "mug"))
    prepare("coco --size 36", tmp_path / "in", tmp_path / "set")
    assert capfd.readouterr().err.count(WARNING) == 1


def test_accents_that_are_coded_in_two_ways(tmp_path, capfd):
    write_crop(tmp_path / "in" / "train" / "Küche", "0")
    write_crop(tmp_path / "in" / "test" / unicodedata.normalize("NFD", "Küche"), "1")
    prepare("folder --size 20", tmp_path / "in", tmp_path / "set")
    warning = r"classes of nearly the same name are kept apart: 'Ku\u0308che', 'K\xfcche'"
    assert capfd.readouterr().err.count(warning) == 1


def test_blanks_that_nobody_sees(tmp_path, capfd):
    write_crop(tmp_path / "in" / "mug", "0")
    write_crop(tmp_path / "in" / "mug ", "1")
    prepare("folder --size 20", tmp_path / "in", tmp_path / "set")
    assert capfd.readouterr().err.count("classes of nearly the same name are kept apart: 'mug', 'mug '") == 1
