"""The prepared format on disk: what goes in comes out, damage is named, and a killed writer leaves nothing behind."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from small_sets import CLASSES, files, full_disk, sample, write_set

from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import DataError


def test_what_goes_in_comes_out(tmp_path):
    prepared = write_set(tmp_path / "set", range(23))
    assert (len(prepared), prepared.size) == (23, 8)
    assert prepared.classes == CLASSES
    assert prepared.modalities == ("rgb", "depth")
    for row in range(23):
        written, read = sample(row), prepared.sample(row)
        assert (read.label, read.split, read.key, read.group, read.source, read.camera) == (
            written.label, written.split, written.key, written.group, written.source, written.camera
        )  # fmt: skip
        assert set(read.images) == set(written.images)
        for name, image in written.images.items():
            np.testing.assert_array_equal(read.images[name], image)
        np.testing.assert_array_equal(prepared.present[row], [True, "depth" in written.images])
        if "depth" not in written.images:
            assert not prepared.images["depth"][row].any()
        assert prepared.camera[row].any() == (written.camera is not None)
    assert isinstance(prepared.images["depth"], np.memmap)
    assert prepared.images["depth"].dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        prepared.images["rgb"][0] = 0


def test_files_are_flat_arrays_with_their_size_and_sum_in_the_index(tmp_path):
    write_set(tmp_path / "set", range(9))
    index = json.loads((tmp_path / "set" / "index.json").read_text())
    content = files(tmp_path / "set")
    assert set(index["files"]) == set(content) - {"index.json"}
    for name, entry in index["files"].items():
        assert entry == {"bytes": len(content[name]), "sha256": hashlib.sha256(content[name]).hexdigest()}
    rgb = np.frombuffer(content["rgb.u8"], np.uint8).reshape(9, 8, 8, 3)
    np.testing.assert_array_equal(rgb[4], sample(4).images["rgb"])
    depth = np.frombuffer(content["depth.u16"], "<u2").reshape(9, 8, 8)
    np.testing.assert_array_equal(depth[4], sample(4).images["depth"])
    assert np.frombuffer(content["labels.i64"], "<i8").tolist() == [0, 1, 2, 0, 1, 2, -1, 1, 2]
    assert index["modalities"]["depth"] == {
        "file": "depth.u16", "dtype": "uint16", "shape": [9, 8, 8], "unit": "mm", "samples": 7
    }  # fmt: skip
    assert index["splits"]["train"] == {"samples": 7, "unlabelled": 1, "classes": {"box": 1, "can": 2, "mug": 3}}
    assert index["description"] == {"made_by": "test"}


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write_set(tmp_path / "a", range(12))
    write_set(tmp_path / "elsewhere" / "b", range(12))
    assert files(tmp_path / "a") == files(tmp_path / "elsewhere" / "b")


def test_splits_are_selected_by_name(tmp_path):
    prepared = write_set(tmp_path / "set", range(20))
    assert prepared.select("test").tolist() == [3, 7, 11, 15, 19]
    assert prepared.select("train").tolist() == [n for n in range(20) if n % 4 != 3]
    assert prepared.split_names == ("test", "train")
    with pytest.raises(DataError, match=r"no split 'val'.*it has test, train"):
        prepared.select("val")


def test_a_stored_depth_picture_and_a_further_view(tmp_path):
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    with PreparedWriter(
        tmp_path / "set", classes=["a"], size=4, modalities=("rgb", "rgb_right", "depth"), stored=["depth"]
    ) as writer:
        writer.add(Sample({"depth": picture, "rgb_right": picture + 1}, 0, "train", "k"))
    prepared = PreparedSet.open(tmp_path / "set")
    assert prepared.images["depth"].shape == (1, 4, 4, 3)
    np.testing.assert_array_equal(prepared.images["rgb_right"][0], picture + 1)
    assert prepared.present.tolist() == [[False, True, True]]
    assert prepared.index["modalities"]["depth"]["unit"] == "stored depth picture"


NAMES = ("rgb.u8", "depth.u16", "labels.i64", "camera.f32", "present.u1", "samples.csv")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verify", [True, False])
def test_truncated_and_missing_files_are_named(tmp_path, name, verify):
    write_set(tmp_path / "set", range(5))
    path = tmp_path / "set" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=rf"{re.escape(str(path))} is truncated: {len(content)} bytes.*{len(content) - 1}"
    ):
        PreparedSet.open(tmp_path / "set", verify=verify)
    path.write_bytes(content + b"x")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is longer.*{len(content) + 1}"):
        PreparedSet.open(tmp_path / "set", verify=verify)
    path.unlink()
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is missing.*{len(content)} bytes"):
        PreparedSet.open(tmp_path / "set", verify=verify)


@pytest.mark.parametrize("name", NAMES)
def test_one_flipped_bit_is_found(tmp_path, name):
    write_set(tmp_path / "set", range(5))
    path = tmp_path / "set" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        DataError, match=rf"{re.escape(str(path))} was changed: SHA-256 \w{{64}} expected, found {found}"
    ):
        PreparedSet.open(tmp_path / "set")
    assert len(PreparedSet.open(tmp_path / "set", verify=False)) == 5


def test_a_damaged_index_or_a_newer_format_is_refused(tmp_path):
    write_set(tmp_path / "set", range(5))
    path = tmp_path / "set" / "index.json"
    text = path.read_text()
    path.write_text(text.replace('"box"', '"bax"'))
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} was edited"):
        PreparedSet.open(tmp_path / "set")
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is damaged"):
        PreparedSet.open(tmp_path / "set")
    path.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="format version 2; this program reads up to 1"):
        PreparedSet.open(tmp_path / "set")


def test_a_folder_that_is_no_set_says_what_is_there(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        PreparedSet.open(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").touch()
    with pytest.raises(DataError, match=r"index\.json expected, found cat.png"):
        PreparedSet.open(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "label 3; expected -1"),
        ({"label": -2}, "label -2"),
        ({"split": ""}, "no split"),
        ({"key": ""}, "unique and not empty"),
        ({"images": {}}, "no picture"),
        ({"images": {"rgb": np.zeros((8, 8, 3), np.float32)}}, r"rgb is float32 of shape \(8, 8, 3\); expected uint8"),
        ({"images": {"depth": np.zeros((8, 8), np.uint8)}}, "depth is uint8"),
        ({"images": {"depth": np.zeros((8, 9), np.uint16)}}, r"shape \(8, 9\)"),
        ({"images": {"rgb_left": np.zeros((8, 8, 3), np.uint8)}}, "modality 'rgb_left'; the set holds rgb, depth"),
        ({"camera": (0.0, 1.0, 2.0, 3.0)}, "fx and fy > 0"),
        ({"camera": (1.0, 1.0, float("nan"), 3.0)}, "finite"),
    ],
)
def test_a_wrong_sample_is_refused_and_leaves_the_writer_usable(tmp_path, change, message):
    wrong = sample(1)
    wrong.__dict__.update(change)
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb", "depth")) as writer:
        writer.add(sample(0))
        with pytest.raises(DataError, match=message):
            writer.add(wrong)
        with pytest.raises(DataError, match="unique"):
            writer.add(sample(0))
        writer.add(sample(2))
    assert PreparedSet.open(tmp_path / "set").keys.tolist() == ["00000", "00002"]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    unreadable = {"classes": ("a", "\udce9")}, {"description": {"source": "\udce9"}}
    for options in (*unreadable, {"classes": ("a", "b", "a")}, {"modalities": ()}, {"modalities": ("rgb", "rgb")}):
        with pytest.raises(DataError, match=r"no valid Unicode|a class is named twice|one or more different names"):
            PreparedWriter(tmp_path / "set", **{"classes": ("a",), "size": 8, "modalities": ("rgb",), **options})
    assert list(tmp_path.iterdir()) == []


def test_an_exception_or_an_empty_set_leaves_nothing(tmp_path):
    def fails():
        with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb", "depth")) as writer:
            writer.add(sample(0))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fails()
    with pytest.raises(DataError, match="no sample"):
        PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb", "depth")).close()
    assert list(tmp_path.iterdir()) == []


def large(number):
    pixels = np.random.default_rng(number).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    return Sample({"rgb": pixels}, 0, "train", f"{number:05d}")


@pytest.mark.parametrize("count", [2, 30])  # it is met where the last bytes are written, and on the way
def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path, count):
    write_set(tmp_path / "set", range(3))
    options = {"classes": CLASSES, "size": 128, "modalities": ("rgb",), "overwrite": True}

    def write(numbers):
        with PreparedWriter(tmp_path / "set", **options) as writer:
            for number in numbers:
                writer.add(large(number))

    with pytest.raises(OSError, match=r"rgb\.u8") as caught, full_disk(1 << 16):
        write(range(count))
    assert caught.value.filename == str(tmp_path / "set.partial" / "rgb.u8")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(PreparedSet.open(tmp_path / "set")) == 3
    write(range(1))  # no lock is left


@pytest.mark.parametrize("count", [3, 30])
def test_after_a_full_disk_the_saved_part_goes_on(tmp_path, count):
    def write(out, first, save=False, resume=False):
        with PreparedWriter(out, classes=CLASSES, size=128, modalities=("rgb",), resume=resume) as writer:
            for number in range(first, count):
                writer.add(large(number))
                if save and number == 0:
                    writer.save({"task": "0"})

    with pytest.raises(OSError, match=r"rgb\.u8"), full_disk(1 << 16):
        write(tmp_path / "set", 0, save=True)
    write(tmp_path / "set", 1, resume=True)
    write(tmp_path / "whole", 0)
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_what_has_come_into_the_place_of_a_set_costs_no_work(tmp_path):
    writer = PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",))
    writer.add(sample(0, modalities=("rgb",)))
    writer.save({"task": "0"})
    (tmp_path / "set" / "notes").mkdir(parents=True)
    with pytest.raises(DataError, match="something has come there meanwhile"):
        writer.__exit__(None, None, None)
    (tmp_path / "set" / "notes").rmdir()
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",), resume=True) as writer:
        assert (len(writer), writer.saved) == (1, {"task": "0"})
    assert "progress.json" not in files(tmp_path / "set")


def test_a_set_that_is_being_written_is_not_called_interrupted(tmp_path):
    options = {"classes": CLASSES, "size": 8, "modalities": ("rgb", "depth")}
    with PreparedWriter(tmp_path / "set", **options) as writer:
        writer.add(sample(7))
        writer.save({})
        with pytest.raises(DataError, match="being written by another process"):
            PreparedWriter(tmp_path / "set", **options)
    assert len(PreparedSet.open(tmp_path / "set")) == 1


def test_nothing_is_overwritten_unasked(tmp_path):
    write_set(tmp_path / "set", range(3))
    options = {"classes": CLASSES, "size": 8, "modalities": ("rgb", "depth")}
    with pytest.raises(DataError, match="not empty"):
        PreparedWriter(tmp_path / "set", **options)
    writer = PreparedWriter(tmp_path / "set", **options, overwrite=True)
    with pytest.raises(DataError, match="being written by another process"):
        PreparedWriter(tmp_path / "set", **options, overwrite=True)
    writer.add(sample(7))
    assert len(PreparedSet.open(tmp_path / "set")) == 3  # the old one stays until the new one is complete
    writer.close()
    assert PreparedSet.open(tmp_path / "set").keys.tolist() == ["00007"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    for foreign, out in (("home", "home"), ("new.partial", "new")):  # the set's own folder, and where it is written
        (tmp_path / foreign).mkdir()
        (tmp_path / foreign / "thesis.tex").touch()
        with pytest.raises(DataError, match=rf"{foreign} holds other files .* left alone"):
            PreparedWriter(tmp_path / out, **options, overwrite=True)
        assert (tmp_path / foreign / "thesis.tex").exists()


def test_a_killed_writer_leaves_no_half_set(tmp_path):
    script = textwrap.dedent("""
        import os, sys
        from small_sets import CLASSES, sample
        from mmcl_core.data.writer import PreparedWriter
        writer = PreparedWriter(sys.argv[1], classes=CLASSES, size=8, modalities=("rgb", "depth"))
        for number in range(50):
            writer.add(sample(number))
        for file in writer._files.values():
            file.close()
        print("written", flush=True)
        sys.stdin.read()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "set")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"written\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "set").exists()
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"set\.partial is what an unfinished or killed command left"):
        PreparedSet.open(tmp_path / "set")
    assert len(write_set(tmp_path / "set", range(4))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
