"""``prepare scenenet``: fake trajectories in the true layout and units, their protobuf written byte by byte."""

from __future__ import annotations

import filecmp
import shutil
import sys
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest
import small_sets
from fake_scenenet import INSTANCES, VIEWS, protobuf, write_source

from mmcl_core.data import runner
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.hha import hha
from mmcl_core.data.rooms import CLASSES as ROOM_CLASSES
from mmcl_core.data.scenenet import Quota, ray_to_z, rendered_camera
from mmcl_core.data.scenenet_trajectories import CLASSES, WNIDS, messages, read_trajectories
from mmcl_core.data.sources import Skip
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import DataError
from mmcl_core.prepare import main

pytest.importorskip("google.protobuf")


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "data")


prepare = partial(small_sets.prepare, "scenenet --size 60 --every-frame 1")


def test_crops_units_labels_and_cameras(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--splits", "val")
    assert made.classes == CLASSES
    assert list(made.keys[:4]) == [
        "val/000000/00000/00223/0002-door",
        "val/000000/00000/00223/0007-chair",
        "val/000000/00000/00223/0300-table",
        "val/000025/00000/00223/0002-door",
    ]
    assert [made.classes[label] for label in made.labels[:3]] == ["door", "chair", "table"]
    assert set(made.groups) == {"val/0/223"}
    assert made.sources[3] == "val/0/223/photo/25.jpg"
    depth = made.images["depth"].astype(int)
    assert np.abs(depth[1] - 2000).max() <= 1
    assert np.abs(depth[2] - 1500).max() <= 1
    # The chair: 60 x 60 pixels from (100, 20), not scaled.
    fx, fy = 160 / np.tan(np.pi / 6), 120 / np.tan(np.pi / 8)
    np.testing.assert_allclose(made.camera[1], [fx, fy, 159.5 - 100, 119.5 - 20], rtol=1e-6)
    assert np.abs(made.images["rgb"][1, 20:40, 20:40].astype(int) - (7, 100, 50)).max() < 12


def test_classes_and_numbers_of_words():
    assert len(CLASSES) == 16
    assert set(ROOM_CLASSES) - set(CLASSES) == {"box", "night-stand", "sink"}
    assert set(WNIDS.values()) == set(CLASSES)
    assert all(len(wnid) == 8 and wnid.isdecimal() for wnid in WNIDS)
    assert WNIDS["02808440"] == "bathtub"
    assert WNIDS["20000037"] == "table"
    assert "02883344" not in WNIDS, "box"


def test_ray_to_z_is_the_inverse_of_the_renderer():
    fx, fy, cx, cy = rendered_camera(height=240, width=320)
    lengths = np.empty((240, 320), np.uint16)
    for v in range(240):
        for u in range(320):
            lengths[v, u] = round(4321 * np.linalg.norm([(u - cx) / fx, (v - cy) / fy, 1]))
    lengths[10, 20] = 0
    z = ray_to_z(lengths).astype(int)
    assert z.dtype.kind == "i"
    assert z[10, 20] == 0
    z[10, 20] = 4321
    assert np.abs(z - 4321).max() <= 1
    assert lengths.max() > 4321 * 1.2, "the corners are far from the axis"


def test_trajectories_are_read_one_by_one(source, monkeypatch):
    path = source / "train_protobufs/scenenet_rgbd_train_0.pb"
    first, second = read_trajectories(path)
    assert (first.path, second.path) == ("0/12", "0/5")
    labels = {number: CLASSES[label] for number, label in first.labels.items()}
    assert labels == {2: "door", 7: "chair", 8: "chair", 300: "table"}, "no sink, nor what is background"
    assert first.frames.tolist() == list(VIEWS)
    whole = messages()["Trajectories"].FromString(path.read_bytes())
    assert [one.render_path for one in whole.trajectories] == ["0/12", "0/5"]
    assert whole.trajectories[1].instances[4].semantic_wordnet_id == "20000037"
    sizes = [len(one.SerializeToString()) for one in whole.trajectories]
    seen = []
    message = messages()["Trajectory"]

    class Spy:
        def FromString(self, data):  # noqa: N802
            seen.append(len(data))
            return message.FromString(data)

    monkeypatch.setattr("mmcl_core.data.scenenet_trajectories.messages", lambda: {"Trajectory": Spy()})
    reading = read_trajectories(path)
    next(reading)
    assert seen == sizes[:1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-7], "after 1 trajectory: it ends 7 bytes too early"),
        (lambda data: data + b"\x12\x00", "after 2 trajectories: the byte 12"),
        (lambda data: data + b"\x0a\x80", "after 2 trajectories: it ends in the midst of a length"),
        (lambda data: data + b"\x0a\x02\x12\x09", "after 2 trajectories"),
        (lambda data: data + b"\x0a\x00", "no render_path or no views"),
    ],
)
def test_damaged_protobuf(tmp_path, damage, said):
    path = tmp_path / "x.pb"
    path.write_bytes(damage(protobuf([("0/1", VIEWS, INSTANCES), ("0/2", VIEWS, INSTANCES)])))
    with pytest.raises(DataError, match=said):
        list(read_trajectories(path))


def test_missing_protobuf_library_is_named(source, monkeypatch, capsys):
    messages.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    assert main(["scenenet", "--source", str(source), "--check"]) == 2
    assert "mmcl_ros[datasets]" in capsys.readouterr().err
    messages.cache_clear()


def test_first_frames_of_all_trajectories_come_first(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--max-samples", "train=13,val=2")
    places = [tuple(key.split("/")[:4]) for key in made.keys]
    assert Counter(made.splits) == {"train": 13, "val": 2}
    assert list(dict.fromkeys(places)) == [
        ("train", "000000", "00000", "00005"), ("train", "000000", "00000", "00012"),
        ("train", "000000", "00001", "01000"), ("train", "000025", "00000", "00005"),
        ("train", "000025", "00000", "00012"), ("val", "000000", "00000", "00223"),
    ]  # fmt: skip
    assert list(made.keys) == sorted(made.keys)


def test_sub_sampling(source, tmp_path):
    every = prepare(source, tmp_path / "every", "--every-frame", "3", "--splits", "train")
    assert {key.split("/")[1] for key in every.keys} == {"000000", "000075"}
    assert len(every) == 18
    few = prepare(source, tmp_path / "few", "--max-per-class", "2")
    assert Counter(zip(few.splits, few.labels.tolist(), strict=True)) == {
        (split, CLASSES.index(name)): 2 for split in ("train", "val") for name in ("door", "chair", "table")
    }
    seen = prepare(source, tmp_path / "seen", "--every-frame", "3", "--splits", "train", "--min-pixels", "0")
    assert list(seen.keys) == list(every.keys), "what no picture shows gives no crop"
    big = prepare(source, tmp_path / "big", "--min-pixels", "5000")
    assert {big.classes[label] for label in big.labels} == {"door", "table"}
    wide = prepare(source, tmp_path / "wide", "--min-side", "70")
    assert {wide.classes[label] for label in wide.labels} == {"door", "table"}


def test_quota_ends_a_split_when_it_is_full():
    quota = Quota({"val": 3}, {"val": 2, "train": 1})
    image = np.zeros((2, 2), np.uint16)

    def ask(split, label):
        return quota(Sample({"depth": image}, label, split, "k"))

    assert [ask("val", label) for label in (0, 0, 0, 1)] == [True, True, False, True]
    assert quota.full("val")
    assert not ask("val", 2)
    assert not quota(Skip("val/0/1/photo/0.jpg", "is late"))
    assert quota(Skip("train/0/1/photo/0.jpg", "is in time"))
    for label in range(len(CLASSES)):
        assert not quota.full("train")
        assert ask("train", label)
    assert quota.full("train")


def test_depth_as_hha_of_the_whole_frame(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--splits", "val", "--depth", "hha")
    lengths = cv2.imread(str(source / "val/0/223/depth/0.png"), cv2.IMREAD_UNCHANGED)
    expected = hha(ray_to_z(lengths), rendered_camera(height=240, width=320))[20:80, 100:160]
    assert (made.images["depth"][1] == expected).all()
    assert made.images["depth"].dtype == np.uint8


def test_bad_files_are_named_skipped_and_counted(source, tmp_path, capsys):
    train = source / "train"
    (train / "0/5/photo/0.jpg").unlink()
    path = train / "0/12/depth/25.png"
    path.write_bytes(path.read_bytes()[:100])
    cv2.imwrite(str(train / "1/1000/instance/50.png"), np.full((100, 320), 7, np.uint16))
    cv2.imwrite(str(train / "1/1000/depth/75.png"), np.full((240, 320), 200, np.uint8))
    content = protobuf([("0/6", VIEWS, INSTANCES), ("2/2000", VIEWS, INSTANCES)])
    (source / "train_protobufs/scenenet_rgbd_train_2.pb").write_bytes(content)
    (source / "scenenet_rgbd_val.pb").write_bytes((source / "scenenet_rgbd_val.pb").read_bytes()[:-2])
    made = prepare(source, tmp_path / "out")
    assert len(made) == 24
    reasons = dict(made.index["skipped"]["first"])
    assert made.index["skipped"]["samples"] == len(reasons) == 6
    assert "No such file" in reasons["train/0/5/photo/0.jpg"]
    assert "truncated" in reasons["train/0/12/depth/25.png"]
    assert "320 x 100, the colour picture 320 x 240" in reasons["train/1/1000/instance/50.png"]
    assert "metric depth is 16 bit" in reasons["train/1/1000/depth/75.png"]
    assert "no such folder" in reasons["train/0/6"]
    assert "2 bytes too early" in reasons["scenenet_rgbd_val.pb"]
    captured = capsys.readouterr()
    assert "train/2 is not there; trajectories of it in the protobuf files: 1\n" in captured.err
    check = ["scenenet", "--source", str(source), "--check", "--workers", "1", "--every-frame", "1"]
    assert main(check) == 2
    assert "6 bad files or samples, the first: train/0/6" in capsys.readouterr().err


def test_check_knows_no_bounds(source, capsys):
    check = ["scenenet", "--source", str(source), "--check", "--workers", "1", "--every-frame", "2"]
    assert main([*check, "--max-samples", "2"]) == 0
    assert "nothing wrong in 21 samples" in capsys.readouterr().out


def test_a_protobuf_file_that_is_there_twice_counts_once(source, capsys):
    shutil.copy(source / "scenenet_rgbd_val.pb", source / "train_protobufs")
    assert main(["scenenet", "--source", str(source), "--check", "--workers", "1"]) == 0
    assert "trajectories of val: 1 found, 1 published" in capsys.readouterr().out


def test_workers_limit_and_shards(source, tmp_path):
    bounds = ["--max-samples", "train=16,val=4", "--max-per-class", "5"]
    (source / "train/0/12/photo/75.jpg").unlink()  # after the split is full: not looked at by any number of workers
    prepare(source, tmp_path / "one", *bounds)
    prepare(source, tmp_path / "two", *bounds, "--workers", "2")
    names = ["rgb.u8", "depth.u16", "labels.i64", "camera.f32", "samples.csv", "index.json"]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False)[0] == names
    whole = prepare(source, tmp_path / "whole", "--max-samples", "0")
    for i in range(2):
        prepare(source, tmp_path / f"part{i}", "--max-samples", "0", "--shard", f"{i}/2")
        part = prepare(source, tmp_path / f"bounded{i}", "--max-samples", "9", "--splits", "train", "--shard", f"{i}/2")
        assert len(part) == (5, 4)[i]
    parts = [str(tmp_path / f"part{i}") for i in range(2)]
    assert main(["merge", "--source", *parts, "--out", str(tmp_path / "merged")]) == 0
    assert filecmp.cmpfiles(tmp_path / "whole", tmp_path / "merged", names, shallow=False)[0] == names
    assert list(prepare(source, tmp_path / "few", "--limit", "4").keys) == list(whole.keys[:4])


@pytest.mark.parametrize(("bound", "workers"), [(7, "1"), (8, "1"), (7, "2")])
def test_shards_have_their_own_frames_wherever_they_have_enough_of_a_split(source, tmp_path, bound, workers):
    parts = []
    for i in range(2):
        parts.append(str(tmp_path / f"part{i}"))
        bounds = ["--max-samples", f"train={bound},val=6", "--workers", workers]
        part = prepare(source, parts[-1], *bounds, "--shard", f"{i}/2")
        assert {key.split("/")[1] for key in part.keys[part.splits == "val"]} == {("000000", "000025")[i]}
    assert main(["merge", "--source", *parts, "--out", str(tmp_path / "merged")]) == 0
    assert Counter(PreparedSet.open(tmp_path / "merged").splits) == {"train": bound, "val": 6}


@pytest.mark.parametrize("samples", [3, 13, 14, 17])
def test_an_interrupted_job_goes_on_within_its_bounds(source, tmp_path, monkeypatch, samples):
    """Stopped before, at and after the end of the first split that has enough, and after a frame of the second."""
    bounds = ["--max-samples", "train=13,val=5"]
    whole = prepare(source, tmp_path / "whole", *bounds)
    assert Counter(whole.splits) == {"train": 13, "val": 5}
    words = ["scenenet", "--source", str(source), "--out", str(tmp_path / "set"), "--size", "60", "--workers", "1"]
    add = PreparedWriter.add

    def counting(self, sample):
        if len(self) >= samples:
            raise KeyboardInterrupt
        add(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "SAVE_EVERY_S", 0.0)
        patch.setattr(PreparedWriter, "add", counting)
        assert main([*words, "--every-frame", "1", *bounds]) == 130
    assert (tmp_path / "set.partial" / "progress.json").is_file()
    again = prepare(source, tmp_path / "set", *bounds, "--resume")
    assert again.index == whole.index


def test_a_protobuf_file_is_of_the_split_that_its_name_says(source, tmp_path, capsys):
    """Trajectories of train and val have the same names: with the other's instances labels would be wrong."""
    words = ["scenenet", "--source", str(source), "--check", "--workers", "1"]
    lone = source / "scenenet_rgbd_val.pb"
    assert main([*words, "--protobufs", str(lone)]) == 2
    assert "no trajectories of train/" in capsys.readouterr().err
    other = lone.rename(tmp_path / "mine.pb")
    assert main([*words, "--protobufs", str(other)]) == 2
    assert "no trajectories of train/" in capsys.readouterr().err
    assert set(prepare(source, tmp_path / "set", "--protobufs", str(other), "--splits", "val").splits) == {"val"}


@pytest.mark.parametrize(
    ("folders", "options", "said"),
    [
        (["0/223/photo"], [], ["expected train/ or val/", "found 0/"]),
        (["val/0/223"], [], ["scenenet_rgbd_val*.pb", "--protobufs"]),
        (["val/0/223"], ["--splits", "train"], ["no train", "found val/"]),
        (["val/0/223"], ["--max-samples", "tests=4"], ["--max-samples", "<split>=number"]),
    ],
)
def test_wrong_root_says_what_was_expected_and_found(tmp_path, capsys, folders, options, said):
    for folder in folders:
        (tmp_path / "in" / folder).mkdir(parents=True)
    assert main(["scenenet", "--source", str(tmp_path / "in"), "--check", *options]) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in said)
