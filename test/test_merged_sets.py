"""Prepared sets put together: parts of one job are the whole; sets of other classes and jobs keep what is theirs."""

from dataclasses import replace

import numpy as np
import pytest
from small_sets import CLASSES, files, sample, write_set

from mmcl_core.data.cache import PreparedSet, merge_sets
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import DataError


@pytest.mark.parametrize("shards", [1, 3])
def test_merged_shards_are_the_unsharded_set_byte_for_byte(tmp_path, shards):
    def write(out, numbers):
        with PreparedWriter(
            out, classes=CLASSES, size=8, modalities=("rgb", "depth"), description={"seed": 1}
        ) as writer:
            for number in numbers:
                writer.skip(f"{number}.png", "dark") if number % 6 == 2 else writer.add(sample(number))

    write(tmp_path / "all", range(31))
    parts = [tmp_path / f"part{i}" for i in range(shards)]
    for i, part in enumerate(parts):
        write(part, range(i, 31, shards))
    merged = merge_sets(parts[::-1], tmp_path / "merged")
    assert merged.index["skipped"]["samples"] == 5
    assert files(tmp_path / "merged") == files(tmp_path / "all")


def test_merged_shards_list_the_skips_of_the_unsharded_set(tmp_path):
    def write(out, numbers):
        with PreparedWriter(out, classes=CLASSES, size=8, modalities=("rgb", "depth")) as writer:
            for number in reversed(numbers):  # not in the order of their names
                writer.skip(f"{number:04d}.png", "dark") if number > 1 else writer.add(sample(number))

    write(tmp_path / "all", range(1000))
    for part in range(2):
        write(tmp_path / f"part{part}", range(part, 1000, 2))
    merged = merge_sets([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    skipped = PreparedSet.open(tmp_path / "all").index["skipped"]
    assert skipped == {"samples": 998, "first": [[f"{number:04d}.png", "dark"] for number in range(2, 202)]}
    assert merged.index["skipped"] == skipped


def test_sets_of_other_things_become_the_class_unknown(tmp_path):
    write_set(tmp_path / "a", range(6))
    with PreparedWriter(tmp_path / "b", classes=["can", "pan"], size=8, modalities=["rgb"]) as writer:
        for number, label in ((900, 1), (901, 0), (902, -1)):
            writer.add(sample(number, label=label, modalities=["rgb"]))
    merged = merge_sets([tmp_path / "a"], tmp_path / "merged", unknown=[tmp_path / "b"])
    assert merged.classes == ("box", "can", "mug", "unknown")
    assert merged.labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 3, 3]
    assert merged.index["description"] == {"merged": [{"made_by": "test"}, {"all": "unknown"}]}
    with pytest.raises(DataError, match="both have the sample"):
        merge_sets([tmp_path / "a"], tmp_path / "twice", unknown=[tmp_path / "a"])


def test_sets_of_different_classes_and_modalities_merge_by_name(tmp_path):
    write_set(tmp_path / "a", range(6))
    with PreparedWriter(tmp_path / "b", classes=["mug", "pan"], size=8, modalities=["rgb"]) as writer:
        writer.add(sample(900, label=1, modalities=["rgb"]))
        writer.add(sample(901, label=0, modalities=["rgb"]))
    merged = merge_sets([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert merged.classes == ("box", "can", "mug", "pan")
    assert merged.labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 2]
    assert merged.present[-1].tolist() == [True, False]
    assert merged.index["description"] == {"merged": [{"made_by": "test"}, {}]}


def test_jobs_that_number_their_samples_alike_keep_them_all(tmp_path, caplog):
    def write(name, numbers, job):
        with PreparedWriter(
            tmp_path / name, classes=CLASSES, size=8, modalities=("rgb", "depth"), description={"seed": job}
        ) as writer:
            for number in numbers:
                group = f"scene-{number}" if number else ""
                writer.add(replace(sample(number + 100 * job), key=f"{number}", group=group))
        return tmp_path / name

    parts = [write("near", (0, 1), 0), write("near2", (2, 3), 0), write("far", (0, 1, 2), 1)]
    merged = merge_sets(parts, tmp_path / "merged")
    assert list(merged.keys) == ["far/0", "far/1", "far/2", "near/0", "near/1", "near/2", "near/3"]
    assert list(merged.groups[:4]) == ["", "far/scene-1", "far/scene-2", ""]
    np.testing.assert_array_equal(merged.images["rgb"][1], sample(101).images["rgb"])
    assert "make sure that these are in the same split" in caplog.text
    assert list(merge_sets(parts[:2], tmp_path / "one").keys) == ["0", "1", "2", "3"]
    with pytest.raises(DataError, match="name each part of one job once"):
        merge_sets([*parts, parts[0]], tmp_path / "out")
    alike = merge_sets([parts[0], write("other/near", (0,), 2)], tmp_path / "alike")
    assert set(alike.keys) == {f"{tmp_path.name}/near/0", f"{tmp_path.name}/near/1", "other/near/0"}


def test_sets_that_do_not_fit_are_not_merged(tmp_path):
    write_set(tmp_path / "a", range(6))
    write_set(tmp_path / "b", range(5, 9))
    write_set(tmp_path / "large", range(10, 12), size=16)
    with PreparedWriter(tmp_path / "hha", classes=CLASSES, size=8, modalities=["depth"], stored=["depth"]) as writer:
        writer.add(Sample({"depth": np.zeros((8, 8, 3), np.uint8)}, 0, "train", "z"))
    with pytest.raises(DataError, match=r"large has crops of 16 px, .*a of 8 px; make both with one --size"):
        merge_sets([tmp_path / "a", tmp_path / "large"], tmp_path / "out")
    both = r"a and .*b both have the sample '00005'; name each part of one job once"
    with pytest.raises(DataError, match=both):
        merge_sets([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(DataError, match="hha: depth is stored depth picture"):
        merge_sets([tmp_path / "a", tmp_path / "hha"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
