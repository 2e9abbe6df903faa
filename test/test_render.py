"""The render command and the samples it makes."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_meshes import files_of, meshes, run, whole, words_of

from mmcl_core import render
from mmcl_core.data.cache import PreparedSet, merge_sets
from mmcl_core.data.shares import parse_shares
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.synth import crops as crop_module
from mmcl_core.synth import rendered_set
from mmcl_core.synth import stock as stock_module
from mmcl_core.synth.crops import Crop, CropMaker, split_of_round
from mmcl_core.synth.mesh_files import load_mesh
from mmcl_core.synth.sensor import DEPTH_CAMERAS
from mmcl_core.synth.stock import FolderStock, HouseholdStock, make_stock

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes", "whole"]  # fixtures

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def test_set_is_as_asked(whole, capsys):
    prepared = PreparedSet.open(whole)
    assert len(prepared) == 20
    assert prepared.size == 48
    assert prepared.classes == ("box", "can")
    assert np.bincount(prepared.labels).tolist() == [10, 10]
    assert list(prepared.keys) == [f"{k:06d}" for k in range(20)]
    assert list(prepared.groups) == [f"scene-{k:07d}" for k in range(20)]  # splits share the meshes, not the scenes
    assert {s: len(prepared.select(s)) for s in SHARES} == {"train": 12, "val": 4, "test": 4}
    assert (whole / "sheet.png").stat().st_size > 1000
    depth = np.asarray(prepared.images["depth"])
    readings = depth[depth > 0]
    assert 300 < np.median(readings) < 2500  # millimetres
    assert (depth == 0).mean() < 0.5


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers(meshes, whole, tmp_path):
    command = [sys.executable, "-m", "mmcl_core.render", *words_of(meshes, tmp_path / "two"), "--workers", "2"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "20 crops of 2 classes" in done.stdout
    assert "mmcl_core.train" in done.stdout
    assert files_of(tmp_path / "two") == files_of(whole)


def test_meshes_used_long_ago_are_dropped_and_the_crops_stay_the_same(meshes, monkeypatch):
    def crops(keep: int) -> tuple[list[Crop], int]:
        loads = []
        monkeypatch.setattr(stock_module, "_KEEP", keep)
        monkeypatch.setattr(stock_module, "load_mesh", lambda path, up: loads.append(path) or load_mesh(path, up))
        maker = CropMaker(FolderStock(meshes), 3, 32, SHARES)
        return [maker(number) for number in range(4)], len(loads)

    (kept, loads), (dropped, more) = crops(2), crops(1)
    assert loads == 2 < more
    for one, other in zip(kept, dropped, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_array_equal(one.depth, other.depth)


def test_a_process_for_each_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert render._parser().parse_args(["--objects", "household", "--out", "x"]).workers == 2


def test_merged_shards_are_the_very_bytes_of_one_run(meshes, whole, tmp_path, capsys):
    parts = [tmp_path / f"part{k}" for k in range(3)]
    for k, part in enumerate(parts):
        assert run(meshes, part, "--workers", "1", "--shard", f"{k}/3") == 0
    capsys.readouterr()
    merge_sets(parts, tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(whole)
    assert not capsys.readouterr().err
    merge_sets(parts[1:], tmp_path / "two")
    assert "part1 is a shard of a set of 20 crops, of which 13 are here" in capsys.readouterr().err


def test_shards_of_different_meshes_are_not_merged_but_whole_sets_are(meshes, tmp_path):
    other = tmp_path / "elsewhere" / meshes.name
    shutil.copytree(meshes, other)
    fixed = ("--count", "6", "--size", "24", "--workers", "1")
    same = tmp_path / "same" / meshes.name
    shutil.copytree(meshes, same)
    trimesh.creation.cylinder(0.05, 0.12).export(other / "can" / "can.stl")
    for source, name, shard in ((meshes, "a0", "0/2"), (same, "a1", "1/2"), (other, "b1", "1/2"), (other, "b", "0/1")):
        assert run(source, tmp_path / name, *fixed, "--shard", shard) == 0
    assert len(merge_sets([tmp_path / "a0", tmp_path / "a1"], tmp_path / "good")) == 6
    with pytest.raises(DataError, match=r"a0 and .*b1 look like shards of one set, but .* different meshes"):
        merge_sets([tmp_path / "a0", tmp_path / "b1"], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    both = merge_sets([tmp_path / "good", tmp_path / "b"], tmp_path / "both")
    assert list(both.keys)[:2] == ["b/000000", "b/000001"]
    assert len(both) == 12
    assert len(merge_sets([tmp_path / "a0"], tmp_path / "open", unknown=[tmp_path / "b1"])) == 6


def test_every_mesh_of_a_class_is_rendered_and_what_is_left_out_is_told_once(meshes, tmp_path, caplog):
    shape = trimesh.creation.cylinder(0.03, 0.1)
    for name in ("tin/high.stl", "tin/low.stl", "box/textured.ply", "box/nontextured.ply"):
        (tmp_path / "meshes" / name).parent.mkdir(parents=True, exist_ok=True)
        shape.export(tmp_path / "meshes" / name)
    rendered_set.render(str(tmp_path / "meshes"), tmp_path / "set", count=24, size=24)
    prepared = PreparedSet.open(tmp_path / "set")
    assert set(prepared.sources) == {"box", "tin/high", "tin/low"}
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("mesh files left out: 1, such as ")
    assert "nontextured.ply, beside which" in told[0]
    caplog.clear()
    rendered_set.render(str(meshes), tmp_path / "other", count=2, size=24, split="train=1")
    assert not caplog.records


def test_broken_meshes_are_found_before_the_work(tmp_path, capsys):
    (tmp_path / "meshes" / "mug").mkdir(parents=True)
    trimesh.creation.cylinder(0.03, 0.1).export(tmp_path / "meshes" / "mug" / "good.stl")
    command = (tmp_path / "meshes", tmp_path / "set", "--count", "1", "--workers", "1")
    for count, message in ((1, "broken1.off"), (2, "2 of 3 meshes cannot be used, the first: ")):
        (tmp_path / "meshes" / "mug" / f"broken{count}.off").write_text("OFF\n0 0 0\n")
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert not (tmp_path / "set").exists()


def test_names_that_are_no_utf8_are_told_and_left_out(meshes, tmp_path, capsys):
    odd = os.fsdecode(b"caf\xe9")
    root = tmp_path / odd
    shutil.copytree(meshes, root)
    shutil.copytree(meshes / "can", root / odd)
    shutil.copy(meshes / "can" / "can.stl", root / odd / "textured.stl")
    shutil.copy(meshes / "can" / "can.stl", root / "can" / f"{odd}.stl")
    assert run(root, tmp_path / "set", "--count", "2", "--workers", "1") == 0
    error = capsys.readouterr().err
    assert "mesh files left out: 2, such as" in error
    assert "caf\\udce9/textured.stl, which has a name that is no valid UTF-8" in error
    prepared = PreparedSet.open(tmp_path / "set")
    assert prepared.classes == ("box", "can")
    assert prepared.index["description"]["objects"] == "caf\\udce9"
    for name in ("box", "can"):
        shutil.rmtree(root / name)
    with pytest.raises(DataError, match=r"can be used: .* has a name that is no valid UTF-8"):
        FolderStock(root)


def instances(prepared: PreparedSet, split: str) -> set[str]:
    return {prepared.sources[row] for row in prepared.select(split)}


def test_splits_with_meshes_of_their_own(tmp_path, capsys):
    """Training must not show what is to be unseen in test, be it a target or beside one."""
    shape = trimesh.creation.cylinder(0.03, 0.1)
    for name in ("can/only", *(f"{kind}/{k}" for kind in ("mug", "tin") for k in range(5))):
        (tmp_path / "meshes" / name).parent.mkdir(parents=True, exist_ok=True)
        shape.export(tmp_path / "meshes" / f"{name}.stl")
    fixed = ("--count", "40", "--size", "24", "--workers", "1", "--keep-instances")
    assert run(tmp_path / "meshes", tmp_path / "none", *fixed) == 2
    assert "3 splits need 3 meshes of each class; can has 1: add meshes" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

    chosen = (*fixed, "--classes", "mug", "tin")
    assert run(tmp_path / "meshes", tmp_path / "set", *chosen) == 0
    prepared = PreparedSet.open(tmp_path / "set")
    shown = {split: instances(prepared, split) for split in SHARES}
    assert {split: len(names) for split, names in shown.items()} == {"train": 6, "val": 2, "test": 2}
    assert not shown["train"] & shown["val"] | shown["train"] & shown["test"] | shown["val"] & shown["test"]
    assert prepared.groups.tolist() == prepared.sources.tolist()
    assert prepared.index["description"]["unseen_in_other_splits"] == "instances"
    stock = make_stock(str(tmp_path / "meshes"), 3, ("mug", "tin"), SHARES)
    beside = {stock.item(label, "train", 0, np.random.default_rng(k)).instance for label in (0, 1) for k in range(40)}
    assert beside == shown["train"]

    for part in range(2):
        assert run(tmp_path / "meshes", tmp_path / f"part{part}", *chosen, "--shard", f"{part}/2") == 0
    merge_sets([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "set")


@pytest.mark.parametrize(
    ("size", "split", "command"),
    [
        (64, "train=1", "train --config config/demo.yaml --data {} train.batch=2"),
        (64, "test=1", "evaluate RUN --data {} --split test"),
    ],
)
def test_the_next_command_fits_the_set(meshes, tmp_path, caplog, size, split, command):
    text = rendered_set.render(str(meshes), tmp_path / "my set", count=2, size=size, split=split)
    assert "no crop at all" not in caplog.text
    place = f"'{tmp_path / 'my set'}'"  # can be copied
    assert text.endswith(f"next: python -m mmcl_core.{command.format(place)}")


def test_a_split_without_a_crop_is_told(meshes, tmp_path, caplog):
    rendered_set.render(str(meshes), tmp_path / "set", count=2, size=32, split="train=0.9,val=0.1")
    assert "--split: val got no crop at all" in caplog.text


def test_other_seeds_give_other_pictures(meshes):
    first, again, other = (CropMaker(FolderStock(meshes), seed, 32, SHARES)(4) for seed in (0, 0, 1))
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.depth, again.depth)
    assert not np.array_equal(first.rgb, other.rgb)


def test_at_least_45_percent_of_the_target_is_visible(meshes):
    maker = CropMaker(FolderStock(meshes), 0, 32, SHARES)
    shares = [maker(k).visible for k in range(40)]
    assert min(shares) >= 0.45
    assert min(shares) < 0.95  # some are hidden in part


def test_sensor_can_be_switched_off(meshes):
    real, ideal = (CropMaker(FolderStock(meshes), 2, 48, SHARES, sensor=s) for s in ("xtion", "none"))
    pairs = [(real(k), ideal(k)) for k in range(8)]
    holes = [np.mean([(c.depth == 0).mean() for c in side]) for side in zip(*pairs, strict=True)]
    assert holes[0] > holes[1] + 0.01
    for a, b in pairs:
        both = (a.depth > 0) & (b.depth > 0)
        assert np.median(np.abs(a.depth[both].astype(int) - b.depth[both])) < 0.02 * np.median(b.depth[both])


def test_depth_cameras_of_every_kind_see_the_same_scene(meshes):
    makers = {kind: CropMaker(FolderStock(meshes), 2, 48, SHARES, sensor=kind) for kind in (*DEPTH_CAMERAS, "any")}
    for k in range(3):
        crops = {kind: maker(k) for kind, maker in makers.items()}
        depths = [crop.depth for crop in crops.values()]
        assert all(np.array_equal(crop.rgb, crops["xtion"].rgb) for crop in crops.values())
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(depths, 2))
        for depth in depths:
            both = (depth > 0) & (depths[0] > 0)
            assert np.median(np.abs(depth[both].astype(int) - depths[0][both])) < 0.02 * np.median(depth[both])


def test_other_cameras_see_the_same_scenes(meshes):
    usual, other = (CropMaker(FolderStock(meshes), 2, 48, SHARES, camera_spread=spread) for spread in (1.0, 3.0))
    for k in range(4):
        a, b = usual(k), other(k)
        assert (a.label, a.split, a.camera, a.visible) == (b.label, b.split, b.camera, b.visible)
        assert not np.array_equal(a.rgb, b.rgb)
        both = (a.depth > 0) & (b.depth > 0)
        assert np.median(np.abs(a.depth[both].astype(int) - b.depth[both])) < 0.02 * np.median(b.depth[both])


def test_other_paint_leaves_the_scene_and_changes_colours(meshes):
    plain, other = (
        CropMaker(FolderStock(meshes), 2, 48, SHARES, sensor="none", paint_spread=paint) for paint in (0.0, 2.0)
    )
    brighter = []
    for k in range(12):
        a, b = plain(k), other(k)
        assert (a.label, a.split, a.camera, a.visible) == (b.label, b.split, b.camera, b.visible)
        assert np.array_equal(a.depth, b.depth)
        assert not np.array_equal(a.rgb, b.rgb)
        brighter.append(float(b.rgb[16:32, 16:32].mean()) > float(a.rgb[16:32, 16:32].mean()))
    assert any(brighter)
    assert not all(brighter)
    cameras = (CropMaker(FolderStock(meshes), 2, 48, SHARES, paint_spread=paint)(1) for paint in (0.0, 1e-9))
    a, b = (crop.rgb.astype(int) for crop in cameras)  # with no paint to speak of: what both cameras draw is the same
    assert np.abs(a - b).mean() < 0.1


def test_rounds_are_dealt_evenly_to_the_splits():
    for count in (10, 50, 300):
        names = [split_of_round(k, {"train": 0.8, "val": 0.1, "test": 0.1}) for k in range(count)]
        assert abs(names.count("train") / count - 0.8) < 0.06
        assert min(names.count("val"), names.count("test")) >= 0.08 * count


def test_light_and_textures_of_a_split_are_as_documented(meshes, monkeypatch, capsys):
    """``train``, or the first split, has more textures; the others see a wider range of light."""
    seen: dict[str, tuple[bool, int]] = {}

    def scene(rng, target, neighbour, pool, wide, *more):
        seen[split_of_round(len(seen), shares)] = (wide, pool.count)
        raise LookupError

    monkeypatch.setattr(crop_module, "compose", scene)
    for text, expected in (
        ("test=0.59,train=0.41", {"test": (True, 16), "train": (False, 48)}),
        ("near=0.4,far=0.6", {"near": (False, 48), "far": (True, 16)}),
        ("test", {"test": (False, 48)}),
    ):
        seen, shares = {}, parse_shares(text)
        for turn in range(len(shares)):
            with pytest.raises(LookupError):
                CropMaker(FolderStock(meshes), 0, 32, shares)(2 * turn)
        assert seen == expected
    with pytest.raises(SystemExit):
        render.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "all but train (or the first, if none has that name) see a wider range of light" in told


def test_household_splits_share_no_instance():
    built: list[tuple[str, int]] = []

    def build(category, seed):
        from mmcl_core.synth.mesh import Mesh

        built.append((category, seed))
        shape = trimesh.creation.box((0.1, 0.05, 0.05 + seed % 7 * 0.01))
        return Mesh(
            shape.vertices, shape.faces, np.zeros((len(shape.vertices), 2)), np.full((8, 8, 3), seed % 200, np.uint8)
        )

    stock = HouseholdStock(7, ("a", "b"), build)
    maker = CropMaker(stock, 7, 24, SHARES)
    groups: dict[str, set[str]] = {name: set() for name in SHARES}
    for number in range(60):
        crop = maker(number)
        assert crop.group.startswith(stock.classes[crop.label])
        groups[crop.split].add(crop.group)
    assert all(groups.values())
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]
    assert len(set(built)) == len(built)  # each instance has a seed of its own


def test_mistakes_are_told(meshes, whole, tmp_path, capsys):
    assert run(meshes, whole) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "out") == 2
    assert "expected one sub-folder per class" in capsys.readouterr().err
    assert run(meshes, tmp_path / "out", "--shard", "4/4") == 2
    assert "--shard" in capsys.readouterr().err
    mistakes = (
        ("--camera-spread", "-1", 4),
        ("--piles", "1.5", 1),
        ("--paint-spread", "nan", 4),
        ("--neighbours", "5", 4),
    )
    for option, value, most in mistakes:
        assert run(meshes, tmp_path / "out", option, value) == 2
        assert f"{option} must be 0 to {most}" in capsys.readouterr().err
    for text in ("train=0.5", "train=x,test=0.5", "0.5,0.5", "train=1.5,test=-0.5", "train=nan"):
        with pytest.raises(ConfigError, match="--split"):
            parse_shares(text)
    with pytest.raises(DataError, match="there is no folder"):
        make_stock(str(tmp_path / "nowhere"), 0)
    assert not (tmp_path / "out").exists()


def test_only_the_classes_asked_for_are_rendered(tmp_path):
    rendered_set.render("household", tmp_path / "set", count=6, size=32, split="train=1", classes=("plate", "ball"))
    prepared = PreparedSet.open(tmp_path / "set")
    assert tuple(prepared.classes) == ("plate", "ball")
    assert list(prepared.labels) == [0, 1, 0, 1, 0, 1]
    for classes in (("plate", "unicorn"), ("ball", "ball")):
        with pytest.raises(ConfigError, match="--classes"):
            make_stock("household", 0, classes)
