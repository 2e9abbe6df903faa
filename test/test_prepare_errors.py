"""Bad files, other layouts and wrong options of ``prepare folder``: what is skipped, refused and said of it."""

import os
import shutil

import cv2
import numpy as np
import pytest
from small_sets import failure, files, run, write_crop

from mmcl_core.data.cache import merge_sets
from mmcl_core.data.runner import check_plan
from mmcl_core.data.sources import Plan
from mmcl_core.data.writer import Sample
from mmcl_core.prepare import main

pytestmark = pytest.mark.usefixtures("usual_log")


def test_wrong_seeds_and_sets_inside_their_source(crops, tmp_path, capfd):
    options = ("--source", str(crops), "--out")
    assert "--seed is -1" in failure(capfd, "folder", *options, str(tmp_path / "out"), "--seed", "-1")
    assert "lies in --source" in failure(capfd, "folder", *options, str(crops / "prepared"))
    assert not (crops / "prepared").exists()


@pytest.mark.parametrize("file", ["", "thesis.tex"], ids=["file", "folder"])
def test_what_lies_where_a_replaced_set_goes_stays(crops, tmp_path, capfd, file):
    own = tmp_path / "out.replaced" / file
    own.parent.mkdir(exist_ok=True)
    own.write_text("my own")
    assert run(crops, tmp_path / "out")[0] == 0
    made = files(tmp_path / "out")
    options = ("folder", "--source", str(crops), "--out", str(tmp_path / "out"), "--overwrite")
    told = "out.replaced is where a set is put that is replaced, and is something else"
    assert told in failure(capfd, *options)
    assert own.read_text() == "my own"
    assert files(tmp_path / "out") == made


def test_a_set_that_a_killed_command_was_replacing_stays_and_is_called_that(crops, tmp_path, capfd):
    assert run(crops, tmp_path / "out")[0] == 0
    (tmp_path / "out").rename(tmp_path / "out.replaced")
    old = files(tmp_path / "out.replaced")
    assert run(crops, tmp_path / "out", "--overwrite")[0] == 0
    options = ("folder", "--source", str(crops), "--out", str(tmp_path / "out"), "--overwrite")
    assert "holds one, as a command leaves it that was killed meanwhile; move or remove it" in failure(capfd, *options)
    assert files(tmp_path / "out.replaced") == old


def test_overwrite_replaces_nothing_but_a_prepared_set(crops, tmp_path, capfd):
    options = ("folder", "--source", str(crops), "--overwrite", "--out")
    for number, text in enumerate(("{}", '{"format": "a web page"}', "[1]", "no JSON", '{"checksum": "x"}')):
        site = tmp_path / f"site{number}"
        site.mkdir()
        (site / "index.json").write_text(text)
        assert f"{site}/index.json is not that of a prepared set" in failure(capfd, *options, str(site))
        assert (site / "index.json").read_text() == text
    assert run(crops, tmp_path / "set", "--limit", "2")[0] == 0
    for number in range(5):
        (tmp_path / "set" / f"note{number}.txt").write_text("mine")
    before = files(tmp_path / "set")
    error = failure(capfd, *options, str(tmp_path / "set"))
    assert "holds other files beside the prepared set (note0.txt, note1.txt, note2.txt and 2 more)" in error
    assert files(tmp_path / "set") == before
    for path in (tmp_path / "set").glob("note*"):
        path.unlink()
    for name in (".DS_Store", "sheet.png.77.part"):  # of the desktop, and of a process that was killed
        (tmp_path / "set" / name).write_bytes(b"")
    assert main([*options, str(tmp_path / "set"), "--limit", "1", "--workers", "1"]) == 0


def test_a_file_in_the_place_of_a_set(crops, tmp_path, capsys):
    assert run(crops, tmp_path / "set")[0] == 0
    assert main(["show", str(tmp_path / "set" / "index.json")]) == 2
    expected = f"error: {tmp_path}/set/index.json is a file; name its folder, {tmp_path}/set, if that is the prepared"
    assert expected in capsys.readouterr().err


def test_a_set_does_not_take_the_place_of_the_current_folder(crops, tmp_path, capfd, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the folder that the command was called in" in failure(
        capfd, "folder", "--source", str(crops), "--out", "."
    )
    assert run(crops, tmp_path / "there")[0] == 0
    made = files(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    options = ("folder", "--source", str(crops), "--out", str(tmp_path / "there"), "--limit", "1", "--overwrite")
    assert "is the folder that the command was called in" in failure(capfd, *options)
    assert files(tmp_path / "there") == made


def test_names_with_ends_of_lines(crops, tmp_path):
    odd = ("mug\r/one_1", "two\nlines/one_1", 'mug\r/a "quoted", \r\n one_1')
    for key in odd:  # the first is what scripts with the ends of lines of Windows make
        folder, _, name = key.partition("/")
        write_crop(crops / "train" / folder, name)
    status, prepared = run(crops, tmp_path / "set")
    assert status == 0
    assert prepared.classes == ("can", "mug", "mug\r", "two\nlines")
    assert {f"train/{key}" for key in odd} == {key for key in prepared.keys if {"\r", "\n"} & set(key)}
    merged = merge_sets([prepared.path], tmp_path / "merged")
    assert (tmp_path / "merged/samples.csv").read_bytes() == (tmp_path / "set/samples.csv").read_bytes()
    assert list(merged.sources) == list(prepared.sources)


def test_a_set_whose_name_is_where_a_replaced_set_goes_stays(crops, tmp_path, capfd):
    assert run(crops, tmp_path / "out")[0] == 0
    assert run(crops, tmp_path / "out.replaced", "--limit", "2")[0] == 0
    before = [files(tmp_path / name) for name in ("out", "out.replaced")]
    error = failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "out"), "--overwrite")
    assert "out.replaced is where a set is put that is replaced" in error
    assert [files(tmp_path / name) for name in ("out", "out.replaced")] == before


def test_a_replaced_set_that_a_killed_process_left_is_removed(crops, tmp_path):
    assert run(crops, tmp_path / "out")[0] == 0
    shutil.copytree(tmp_path / "out", tmp_path / "out.replaced")
    (tmp_path / "out.replaced" / "index.json").unlink()
    assert run(crops, tmp_path / "out", "--overwrite", "--limit", "2")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out"]


def test_folder_names_that_tell_of_another_layout(crops, tmp_path, capfd):
    for number, place in enumerate(("{}/mug", "{}")):
        root = tmp_path / f"in{number}"
        for name in ("Color", "depth"):
            folder = root / place.format(name)
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "0.png"), np.full((20, 20, 3), 90, np.uint8))
        error = failure(capfd, "folder", "--source", str(root), "--out", str(tmp_path / "out"))
        assert f"Color and depth would be read as {('splits', 'classes')[number]}" in error
    (crops / "test" / "mug").rename(crops / "test" / "Mug ")
    status, prepared = run(crops, tmp_path / "out", "--split", "train=0.5,test=0.5", "--keep-groups", "--seed", "1")
    error = capfd.readouterr().err
    assert status == 0
    assert {"Mug ", "mug"} <= set(prepared.classes)
    assert "classes of nearly the same name are kept apart: Mug , mug" in error
    assert "--split, --keep-groups, --seed: not used, as the source has splits, test, train" in error
    assert "named unknown" not in error
    (crops / "test" / "Mug ").rename(crops / "test" / "Unknown")
    assert run(crops, tmp_path / "other")[0] == 0
    assert "Unknown is a class like any other" in capfd.readouterr().err


def test_classes_with_a_folder_for_each_instance_are_no_splits(tmp_path, capfd):
    for place in ("mug/mug_1", "mug/mug_2", "can/can_1"):
        write_crop(tmp_path / "crops" / place, "1")
    assert run(tmp_path / "crops", tmp_path / "set")[0] == 0
    warning = "can, mug are read as splits, and the folders in them (can_1, mug_1, mug_2) as classes"
    assert warning in capfd.readouterr().err
    (tmp_path / "crops" / "can").rename(tmp_path / "crops" / "Test-2")
    assert run(tmp_path / "crops", tmp_path / "again")[0] == 0
    assert "are read as splits" not in capfd.readouterr().err


BAD = ("0001_000000_rgb.png", "0001_000001_depth.png", "0001_000002_rgb.png", "0001_000003_rgb.jpg")


def test_bad_files_are_named_once_skipped_and_counted(damaged_crops, tmp_path, capfd):
    _, prepared = run(damaged_crops, tmp_path / "set")
    keys = prepared.keys.tolist()
    present = {key: prepared.present[keys.index(f"train/mug/0001_{key}")].tolist() for key in ("000000", "000001")}
    assert present == {"000000": [False, True], "000001": [True, False]}
    assert "train/mug/0001_000002" not in keys  # nothing of it is left
    assert "train/mug/0001_000003" in keys
    error = capfd.readouterr().err
    for name, reason in zip(BAD, ("is empty", "8 bit with 1 channel", "truncated", "second rgb picture"), strict=True):
        assert error.count(f"skipped train/mug/{name}: ") == 1
        assert reason in error
    assert prepared.index["skipped"]["samples"] == 4


def test_pictures_that_look_like_another_of_a_sample_are_told_and_are_faults(tmp_path, capfd):
    mugs = tmp_path / "crops" / "mug"
    for key in ("0", "1_side", "mask_2"):
        write_crop(mugs, key)
    own = (mugs / "0_rgb.png").read_bytes()
    for name in ("3.png", "0_1.png", "label_2.png", "depth_0000.png", "0_depth_vis.png", "0_ir.png"):
        (mugs / name).write_bytes(own)
    (tmp_path / "crops" / "label").mkdir()
    (tmp_path / "crops" / "label" / "label_3.png").write_bytes(own)
    assert len(run(tmp_path / "crops", tmp_path / "set")[1]) == 10
    warning = (
        "4 pictures are read as colour for want of a suffix that is known, and likely no such thing: "
        "mug/0_depth_vis.png is read as the colour of a sample of its own, and by its name it belongs to mug/0; move"
    )
    assert warning in capfd.readouterr().err
    assert main(["folder", "--source", str(tmp_path / "crops"), "--check", "--workers", "1"]) == 2
    out = capfd.readouterr().out
    assert out.count("bad: ") == 2, "a word alone, as of a depth gauge, is no fault"
    for name in ("0_ir", "0_depth_vis"):
        words = "is read as the colour of a sample of its own, and by its name it belongs to mug/0"
        assert f"bad: mug/{name}.png: {words}" in out


def test_what_lies_beside_the_pictures_is_named_and_counted(crops, tmp_path, capfd):
    train = crops / "train"
    (train / "mug" / "0001_000000_depth.tiff").write_bytes(b"x")
    (train / "mug" / "gone_rgb.png").symlink_to(tmp_path / "nowhere")
    (train / "mug" / "more").mkdir()
    (train / "pan" / "instance").mkdir(parents=True)
    _, prepared = run(crops, tmp_path / "set")
    error = capfd.readouterr().err
    for name in (
        "mug/0001_000000_depth.tiff: is neither",
        "mug/gone_rgb.png: is a link to",
        "mug/more: is a",
        "pan: holds",
        "pan/instance: is a folder in a class folder",
    ):
        assert error.count(f"skipped train/{name}") == 1
    assert prepared.index["skipped"]["samples"] == 5


def test_every_kind_of_fault_is_named_though_another_kind_fills_the_list(tmp_path, capfd):
    root = tmp_path / "crops"
    for number in range(25):
        write_crop(root / "mug", str(number))
        (root / "mug" / f"{number}_depth.tiff").write_bytes(b"II")
    cv2.imwrite(str(root / "mug" / "grey_rgb.png"), np.full((20, 20), 90, np.uint8))
    command = ["folder", "--source", str(root), "--workers", "1"]
    assert main([*command, "--check"]) == 2
    out = capfd.readouterr().out
    assert out.count("bad: mug/grey_rgb.png: is 8 bit with 1 channel") == 1
    assert out.count("bad: mug/") == 20
    assert "bad: 6 more" in out
    assert main([*command, "--out", str(tmp_path / "out"), "--size", "16"]) == 0
    error = capfd.readouterr().err
    assert error.count("skipped mug/grey_rgb.png: is 8 bit with 1 channel") == 1
    assert error.count("skipped mug/") == 21
    assert "skipped 5 more" in error


def test_a_split_without_a_picture_that_can_be_read_is_named(tmp_path, capfd):
    root = tmp_path / "crops"
    write_crop(root / "train" / "mug", "1")
    write_crop(root / "val" / "mug" / "sequence", "1")
    for place in ("test/mug", "more"):
        (root / place).mkdir(parents=True)
        (root / place / "1_rgb.bmp").write_bytes(b"BM")
    assert main(["folder", "--source", str(root), "--check", "--workers", "1"]) == 2
    out = capfd.readouterr().out
    for name in (
        "more: holds no picture",
        "more/1_rgb.bmp: is neither PNG nor JPEG",
        "test/mug: holds no picture",
        "test/mug/1_rgb.bmp: is neither PNG nor JPEG",
        "val/mug: holds no picture",
        "val/mug/sequence: is a folder in a class folder",
    ):
        assert out.count(f"bad: {name}") == 1


def test_pictures_as_telephones_and_arrays_save_them_are_named(tmp_path, capfd):
    root = tmp_path / "crops"
    write_crop(root / "mug", "1")
    for ending in ("HEIC", "avif", "gif", "npz", "jfif"):
        (root / "mug" / f"2_rgb.{ending}").write_bytes(b"x")
    assert main(["folder", "--source", str(root), "--check", "--workers", "1"]) == 2
    out = capfd.readouterr().out
    for ending in ("HEIC", "avif", "gif", "npz"):
        assert f"bad: mug/2_rgb.{ending}: is neither PNG nor JPEG" in out
    assert "bad: mug/2_rgb.jfif: is read where its name ends in .jpg: rename it" in out


def test_names_that_are_no_utf8_are_named_and_counted(crops, tmp_path, capfd):
    whole = files(run(crops, tmp_path / "whole")[1].path)
    capfd.readouterr()
    odd = os.fsdecode(b"caf\xe9")
    write_crop(crops / "train" / "mug", "odd_1")
    write_crop(crops / "train" / "odd", "x_1")
    write_crop(crops / "odd" / "mug", "x_1")
    for name in ("train/mug/odd_1_rgb.png", "train/mug/odd_1_depth.png", "train/odd", "odd"):
        (crops / name).rename((crops / name).with_name((crops / name).name.replace("odd", odd)))
    _, prepared = run(crops, tmp_path / "set", "--workers", "2")
    error = capfd.readouterr().err
    places = ("train/mug/caf\\udce9_1_rgb.png", "train/caf\\udce9", "caf\\udce9/mug")
    for place in places:
        assert error.count(f"skipped {place}: has a name that is no valid UTF-8") == 1
    assert "Traceback" not in error
    assert prepared.index["skipped"]["samples"] == 3
    assert prepared.classes == ("can", "mug")
    assert (tmp_path / "set" / "samples.csv").read_bytes() == whole["samples.csv"]
    assert main(["folder", "--source", str(crops), "--check", "--workers", "1"]) == 2
    assert f"bad: {places[0]}: has a name" in capfd.readouterr().out


def test_a_source_that_is_named_in_other_bytes_than_utf8(crops, tmp_path):
    crops = crops.rename(crops.with_name(os.fsdecode(b"caf\xe9")))
    assert run(crops, tmp_path / "set")[1].index["description"]["source"] == "caf\\udce9"


def test_check_reports_and_writes_nothing(damaged_crops, crops, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    line = failure(capfd, "folder", "--source", str(damaged_crops), "--check")
    assert "4 bad files or samples, the first: train/mug/0001_000003_rgb.jpg" in line
    assert sorted(tmp_path.rglob("*")) == before
    for path in [*(crops / "train" / "mug").iterdir()]:
        path.unlink()
    assert main(["folder", "--source", str(crops), "--check", "--workers", "1"]) == 0
    out = capfd.readouterr().out
    assert "nothing wrong in 15 samples" in out
    arguments = ["folder", "--source", str(crops), "--check", "--depth-unit", "m/20", "--limit", "3", "--workers", "1"]
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert "3 bad files or samples, the first: test/can/0002_000006_rgb.png" in captured.err
    assert captured.out.count("m; 0.1 to 20 m is plausible: is the depth unit right?") == 3


def test_a_check_counts_depth_without_a_reading_and_keys_that_come_twice():
    def make(task):
        picture = np.full((8, 8), 1000 * task, np.uint16)
        return [Sample({"depth": picture}, 0, "train", f"{task // 2}", source=f"{task}.png")]

    found = check_plan(Plan(["can"], ["depth"], [0, 1, 2, 4, 6], make, 5, {}))
    assert found.empty_depth == 1
    assert [(skip.name, skip.reason) for skip in found.bad] == [("0", "this key was there before")]
    assert dict(found.samples) == {("train", "can"): 4}


@pytest.mark.parametrize(("unit", "which"), [("0.01mm", "less"), ("3cm", "more")])
def test_an_implausible_depth_unit_is_warned_about(crops, tmp_path, capfd, unit, which):
    run(crops, tmp_path / "set", "--depth-unit", unit)
    assert f" m or {which}; 0.1 to 20 m is plausible: is the depth unit right?" in capfd.readouterr().err


def test_a_source_of_another_layout_says_what_was_expected_and_found(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "readme.txt").touch()
    (tmp_path / "deep" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "deep" / "a" / "b" / "c" / "1_rgb.png").touch()
    (tmp_path / "mixed").mkdir()
    write_crop(tmp_path / "mixed" / "mug", "1")
    write_crop(tmp_path / "mixed" / "train" / "mug", "1")
    write_crop(tmp_path / "broken" / "mug", "1", depth=False)
    (tmp_path / "broken" / "mug" / "1_rgb.png").write_bytes(b"x")
    expected = {
        "absent": ("a folder expected, found no such folder",),
        "empty": ("expected <split>/<class>/<key>_rgb.png", "found nothing"),
        "loose": ("no pictures found", "found readme.txt"),
        "deep": ("no pictures found", "found a/", "in a/b/: c/"),
        "mixed": ("mixes two layouts", "mixed/mug", "mixed/train/mug"),
        "broken": ("none of 1 rgb files seems usable", "broken/mug/1_rgb.png is not a readable picture"),
    }
    for name, texts in expected.items():
        line = failure(capfd, "folder", "--source", str(tmp_path / name), "--out", str(tmp_path / "set"))
        for text in texts:
            assert text in line
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("options", [("--size", "4"), ("--limit", "0"), ("--shard", "2/2"), ("--shard", "x"), ()])
def test_wrong_options_are_refused(crops, tmp_path, capfd, options):
    out = ("--out", str(tmp_path / "set")) if options else ()
    failure(capfd, "folder", "--source", str(crops), *out, *options)
