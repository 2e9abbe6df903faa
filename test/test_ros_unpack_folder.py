"""Frames of several recordings in one folder: none takes the place of another's, none stays beside what is newer."""

import csv
import importlib

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import write_bag

from mmcl_ros.unpack_bag import main

SECOND = 10**9
STAMPS = [number * SECOND for number in range(1, 5)]
TWO_CAMERAS = {"/front/color": "rgb", "/front/depth": "depth", "/wrist/color": "rgb"}


def command(bag, out, *options, status=0):
    assert main([*map(str, ("--bag", bag, "--out", out, *options)), "--quiet"]) == status


def bag_of(path, kinds, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [(topic, kind, stamp, stamp) for stamp in STAMPS for topic, kind in kinds.items()]
    return write_bag(path, written, **settings)


def frames_of(camera):
    return {topic: topic.split("/")[1] for topic in TWO_CAMERAS} if camera == "own" else {}


def held(out):
    """Names of the pictures, and their bytes."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.png")}


def pictures(name, *modalities, stamps=STAMPS):
    return {f"{modality}/{name}_{stamp}.png" for modality in modalities for stamp in stamps}


def test_frames_of_a_second_camera_do_not_take_the_place_of_those_of_the_first(tmp_path, capsys):
    bag, out = bag_of(tmp_path / "bag", TWO_CAMERAS, frames=frames_of("own")), tmp_path / "out"
    command(bag, out, "--rgb-topic", "/front/color")
    before = held(out)
    assert set(before) == pictures("bag", "rgb", "depth")
    command(bag, out, "--rgb-topic", "/wrist/color", status=2)
    told = capsys.readouterr().err
    assert "holds frames of another recording, or of other topics, named 'bag' (" in told
    assert "/front/color /front/depth); give --name NAME" in told
    assert held(out) == before
    command(bag, out, "--rgb-topic", "/wrist/color", "--name", "wrist")
    assert set(held(out)) == set(before) | pictures("wrist", "rgb")
    assert "val=0.2 --keep-groups" in capsys.readouterr().out


def test_recordings_of_one_name_are_told_apart(tmp_path, capsys):
    first, second = (bag_of(tmp_path / day / "bag", {"/camera/color": "rgb"}) for day in ("mon", "tue"))
    out = tmp_path / "out"
    command(first, out)
    assert "--keep-groups" not in capsys.readouterr().out
    command(second, out, status=2)
    assert f"named 'bag' ({first.resolve()}, /camera/color); give --name NAME" in capsys.readouterr().err
    command(second, out, "--name", "tue")
    assert set(held(out)) == pictures("bag", "rgb") | pictures("tue", "rgb")
    assert "val=0.2 --keep-groups\n" in capsys.readouterr().out


def test_a_second_call_replaces_what_the_first_wrote(tmp_path):
    """Also depth that is not written any more; what belongs to others stays."""
    bag, out = bag_of(tmp_path / "bag", {"/c/color": "rgb", "/c/depth": "depth"}), tmp_path / "out"
    command(bag, out, "--assume-registered")
    command(bag, out, "--assume-registered", "--name", "bag_2")
    own = out / "rgb" / "bag_mask.png"
    own.write_bytes(b"mine")
    assert set(held(out)) == pictures("bag", "rgb", "depth") | pictures("bag_2", "rgb", "depth") | {"rgb/bag_mask.png"}
    command(bag, out, "--every", 2)
    others = pictures("bag_2", "rgb", "depth") | {"rgb/bag_mask.png"}
    assert set(held(out)) == pictures("bag", "rgb", stamps=STAMPS[::2]) | others
    assert own.read_bytes() == b"mine"
    with (out / "frames.csv").open(newline="") as file:
        assert {f"{row['key']}.png" for row in csv.DictReader(file)} == set(held(out)) - {"rgb/bag_mask.png"}


def test_what_a_stopped_call_has_written_is_replaced(tmp_path, monkeypatch):
    bag, out = bag_of(tmp_path / "bag", {"/c/color": "rgb", "/c/depth": "depth"}, frame="c"), tmp_path / "out"
    module, left = importlib.import_module("mmcl_ros.unpack_bag"), iter(range(3))
    write = module.as_png

    def stopped(picture):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return write(picture)

    monkeypatch.setattr(module, "as_png", stopped)
    command(bag, out, status=130)
    assert len(held(out)) == 3
    monkeypatch.undo()
    command(bag, out, "--every", 3)
    assert set(held(out)) == pictures("bag", "rgb", "depth", stamps=STAMPS[::3])


def test_frames_that_no_call_has_noted_are_not_written_over(tmp_path, capsys):
    bag, out = bag_of(tmp_path / "bag", {"/c/color": "rgb"}), tmp_path / "out"
    command(bag, out)
    for name in ("frames.csv", "recordings.csv"):  # as an earlier version left the folder
        (out / name).unlink()
    before = held(out)
    command(bag, out, status=2)
    assert f"error: {out}/rgb/bag_{STAMPS[0]}.png is there already, and not noted in frames.csv" in (
        capsys.readouterr().err
    )
    assert held(out) == before
    assert not (out / "recordings.csv").exists()
    command(bag, out, "--name", "new")
    assert set(held(out)) == set(before) | pictures("new", "rgb")


def test_frames_that_cannot_be_replaced_stay(tmp_path):
    """A call that can read no picture costs nothing."""
    bag, out = bag_of(tmp_path / "bag", {"/c/color": "rgb", "/c/camera_info": "info"}), tmp_path / "out"
    command(bag, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmcl_ros.bagfile.Bag.frames", lambda *_: iter(()))
        command(bag, out, status=2)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("other", ["/camera/camera_info", ""])
def test_a_camera_is_named_where_all_frames_have_it(tmp_path, capsys, other):
    kinds = {"/c/color": "rgb", "/c/camera_info": "info"}
    out, camera = tmp_path / "out", f" --camera {2 * len('/c/camera_info')},{2 * len('/c/camera_info')},2,2\n"
    for name in ("one", "two"):
        command(bag_of(tmp_path / name, kinds), out)
        said = capsys.readouterr()
        assert said.out.endswith(camera)
        assert "not all of one known camera" not in said.err
    command(bag_of(tmp_path / "three", {"/camera/color": "rgb"} | ({other: "info"} if other else {})), out)
    said = capsys.readouterr()
    assert said.out.endswith("val=0.2 --keep-groups\n")
    assert f"the pictures in {out} are not all of one known camera (28,28,2,2; " in said.err
    assert ("not known)" in said.err) is (not other)
