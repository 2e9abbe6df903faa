"""What holds for every data set of ``prepare``, on fakes in the true layout: checks, limits, faults, workers, roots.

What is read from each (units, classes, cameras, splits) is tested in the files of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fake_coco
import fake_falling_things
import fake_nyud
import fake_scenenet
import fake_sunrgbd
import fake_washington
import fake_ycb_video
import pytest
from small_sets import files, write_crop

from mmcl_core.data import falling_things, fat_crops, nyud, nyud_labelled, sunrgbd, washington, ycb_video
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.sources import data_sets
from mmcl_core.prepare import main


def folder_of_crops(root: Path) -> Path:
    for number in range(4):
        for split in ("train", "test"):
            write_crop(root / split / "mug", f"{number}")
    return root


def labelled_file(root: Path) -> Path:
    root.mkdir()
    return fake_nyud.labelled_file(root / nyud_labelled.FILE)


@dataclass(frozen=True)
class Kind:
    """A layout: how a fake is made, a picture of it to damage, and how large the published set would have to be.

    ``lost`` samples go with the damaged picture; a file of HDF5 is damaged elsewhere.
    """

    make: Callable[[Path], Path]
    damage: str
    lost: int
    options: tuple[str, ...] = ()
    published: tuple[tuple[object, str, object], ...] = ()
    name: str = ""


KINDS = {
    "folder": Kind(folder_of_crops, "train/mug/1_rgb.png", 0),
    "coco": Kind(fake_coco.write_source, "rgb/000001.png", 2),
    "falling_things": Kind(
        fake_falling_things.write_source, "single/025_mug_16k/kitchen_1/000000.left.depth.png", 1,
        ("--min-side", "10", "--stereo"), ((falling_things, "SUBSETS", {"single": 10, "mixed": 3}),),
    ),
    "cut falling_things": Kind(
        fake_falling_things.cut_crops, "train/025_mug/kitchen_0_000001.left.jpg", 1, ("--stereo",),
        ((fat_crops, "EXPECTED", {"train": 5, "val": 2}),), "falling_things",
    ),
    "nyud": Kind(
        fake_nyud.crop_folders, "train/image/bed/img_0001.png", 1, (), ((nyud, "EXPECTED", {"train": 9, "test": 6}),)
    ),
    "labelled nyud": Kind(
        labelled_file, "", 0, ("--min-pixels", "350"),
        ((nyud_labelled, "FRAMES", 4), (nyud_labelled, "WIDTH", 64)), "nyud",
    ),
    "scenenet": Kind(fake_scenenet.write_source, "train/0/12/photo/25.jpg", 3, ("--every-frame", "1")),
    "washington": Kind(
        fake_washington.write_source, "rgbd-dataset/apple/apple_2/apple_2_1_6_crop.png", 1, ("--every", "5"),
        ((washington, "INSTANCES", 7), (washington, "EVERY_FIFTH", 42),
         (washington, "CLASSES", ("apple", "food_bag", "water_bottle"))),
    ),
    "sunrgbd": Kind(
        fake_sunrgbd.write_source, f"SUNRGBD/{fake_sunrgbd.FRAMES[1]}/image/0001.jpg", 2, (), ((sunrgbd, "FRAMES", 5),)
    ),
    "ycb_video": Kind(
        fake_ycb_video.write_source, "data/0005/000002-color.png", 2, (),
        ((ycb_video, "VIDEOS", 2), (ycb_video, "FRAMES", 5)),
    ),
}  # fmt: skip


def test_every_data_set_is_here():
    assert {kind.name or name for name, kind in KINDS.items()} == set(data_sets())


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """The layout, with the counts of the published set set to those of the fake."""
    found = KINDS[request.param]
    for module, name, value in found.published:
        monkeypatch.setattr(module, name, value)
    return found, found.name or request.param


def command(kind, source, *more):
    return main([kind[1], "--source", str(source), "--size", "32", *kind[0].options, *more])


def prepare(kind, source, out, *more):
    assert command(kind, source, "--out", str(out), "--workers", "1", *more) == 0
    (out / "sheet.png").unlink()
    return PreparedSet.open(out)


def test_a_whole_set_passes_its_check_and_loses_what_is_damaged(kind, tmp_path, capfd):
    source = kind[0].make(tmp_path / "in")
    assert command(kind, source, "--check", "--workers", "1") == 0
    said = capfd.readouterr().out
    whole = prepare(kind, source, tmp_path / "whole")
    assert f"nothing wrong in {len(whole)} samples" in said
    assert whole.index["skipped"]["samples"] == 0

    assert list(prepare(kind, source, tmp_path / "few", "--limit", "2").keys) == list(whole.keys[:2])

    if not kind[0].damage:
        return
    path = source / kind[0].damage
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capfd.readouterr()
    made = prepare(kind, source, tmp_path / "damaged")
    assert len(made) == len(whole) - kind[0].lost
    assert set(made.keys) < set(whole.keys) or not kind[0].lost
    assert made.index["skipped"]["samples"] == 1
    assert made.index["skipped"]["first"][0][0] == kind[0].damage
    assert capfd.readouterr().err.count(f"skipped {kind[0].damage}: ") == 1
    assert command(kind, source, "--check", "--workers", "1") == 2
    error = capfd.readouterr().err
    assert f"1 bad file or sample, the first: {kind[0].damage}" in error


def test_any_number_of_workers_gives_the_same_files(kind, tmp_path):
    source = kind[0].make(tmp_path / "in")
    if kind[0].damage:
        (source / kind[0].damage).write_bytes(b"damaged")
    prepare(kind, source, tmp_path / "one")
    one = files(tmp_path / "one")
    assert len(one) > 5
    prepare(kind, source, tmp_path / "three", "--workers", "3")
    assert files(tmp_path / "three") == one


def litter(root):
    """Put into every folder what desktops, Macs, network drives and notebooks leave, with copies of what lies there."""
    copies = root.with_name("copies")
    for folder in [*(path for path in root.rglob("*") if path.is_dir()), root]:
        shutil.copytree(folder, copies)
        for path in [*folder.iterdir()]:
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
            shutil.copytree(copies, folder / name)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"")
        shutil.rmtree(copies)


def test_what_programs_leave_in_folders_is_no_part_of_a_set(kind, tmp_path):
    source = kind[0].make(tmp_path / "in")
    prepare(kind, source, tmp_path / "clean")
    litter(tmp_path / "in")
    prepare(kind, source, tmp_path / "littered")
    assert files(tmp_path / "littered") == files(tmp_path / "clean")
    assert command(kind, source, "--check", "--workers", "1") == 0


def test_a_wrong_root_says_what_was_expected_and_found(kind, tmp_path, capfd):
    """An absent folder, an empty one, and one of something else."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "holiday").mkdir(parents=True)
    for folder, found in (("absent", "no such folder"), ("empty", "nothing"), ("other", "holiday/")):
        for out in (["--check"], ["--out", str(tmp_path / "out")]):
            assert command(kind, tmp_path / folder, "--workers", "1", *out) == 2
            lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1
            assert str(tmp_path / folder) in lines[0]
            assert "expected" in lines[0]
            assert found in lines[0]
    assert not (tmp_path / "out").exists()
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["empty", "other"]'
