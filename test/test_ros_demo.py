"""Recordings of rendered scenes, as ``python -m mmcl_ros.record_demo`` makes them."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from small_sets import full_disk

from mmcl_core.errors import ConfigError, DataError
from mmcl_ros.bagfile import Bag
from mmcl_ros.record_demo import RenderedFrame, record
from mmcl_ros.truth import read_truth

ROOT = Path(__file__).resolve().parents[1]


def test_demo_recordings_look_at_their_meshes_first(tmp_path, capfd):
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex", reason="rendering needs embreex")
    from mmcl_ros.record_demo import main as record_main

    command = ["--out", str(tmp_path / "out"), "--objects", str(tmp_path / "meshes"), "--frames", "1"]
    assert record_main([*command, "--seed", "-1"]) == 2
    assert "--seed at least 0" in capfd.readouterr().err
    assert record_main(command) == 2  # and leaves nothing that is in the way of the next try
    for name in ("textured.obj", "other.obj"):
        (tmp_path / "meshes" / "mug").mkdir(parents=True, exist_ok=True)
        trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / "meshes" / "mug" / name)
    assert "there is no folder" in capfd.readouterr().err
    assert record_main(command) == 0
    assert "mesh files left out: 1, such as" in capfd.readouterr().err


def interrupted(views):
    yield views[0]
    raise KeyboardInterrupt


def test_a_full_disk_is_told_with_the_name_of_the_recording_and_leaves_nothing(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    view = RenderedFrame(picture, np.ones((64, 64), np.uint16), (4.0, 4.0, 2.0, 2.0), (), ())
    with pytest.raises(OSError, match="File too large") as caught, full_disk(1 << 12):
        record(tmp_path, iter([view] * 9))
    assert caught.value.filename == str(tmp_path / "bag")
    assert not list(tmp_path.iterdir())


def test_a_copy_without_messages_says_so_and_writes_nothing(tmp_path, monkeypatch):
    """As installed with MMCL_ROS=off."""
    monkeypatch.setattr("mmcl_ros.bagfile.shared", lambda package, name: None)
    with pytest.raises(ConfigError, match="the definitions of the messages of mmcl_ros, and this copy was installed"):
        record(tmp_path / "out", iter(()))
    assert not (tmp_path / "out").exists()


def test_a_recording_that_is_killed_stands_in_the_way_of_none(tmp_path):
    """As by SIGTERM: nothing can be removed then."""
    code = f"""if True:
        import os, pathlib, signal
        import numpy as np
        from mmcl_ros.record_demo import RenderedFrame, record
        def views():
            yield RenderedFrame(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint16), (4.0,) * 4, (), ())
            os.kill(os.getpid(), signal.SIGTERM)
            yield None
        record(pathlib.Path({str(tmp_path)!r}), views())"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGTERM
    assert not (tmp_path / "bag").exists()
    view = RenderedFrame(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint16), (4.0, 4.0, 2.0, 2.0), (), ())
    bag, _ = record(tmp_path, iter([view]))
    with Bag(bag) as opened:
        assert len(opened.stamps(opened.topics.rgb)) == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bag", "truth.csv"]


def test_a_recording_that_fails_leaves_a_table_that_was_there(tmp_path):
    view = RenderedFrame(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint16), (4.0, 4.0, 2.0, 2.0), (), ())
    (tmp_path / "truth.csv").write_text("drawn by hand\n")
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, interrupted([view]))
    assert [one.name for one in tmp_path.iterdir()] == ["truth.csv"]
    assert (tmp_path / "truth.csv").read_text() == "drawn by hand\n"


@pytest.mark.slow
def test_rendered_demo_recording(tmp_path):
    pytest.importorskip("embreex", reason="rendering needs embreex")
    from mmcl_ros.record_demo import render_views

    views = list(render_views("household", 2, seed=3))
    again = list(render_views("household", 2, seed=3))
    for view, same in zip(views, again, strict=True):
        np.testing.assert_array_equal(view.rgb, same.rgb)
        np.testing.assert_array_equal(view.depth, same.depth)
        assert view.rgb.shape == (480, 640, 3)
        assert view.depth.dtype == np.uint16
        assert len(view.boxes) == len(view.labels) >= 1
        for x, y, width, height in view.boxes:
            assert 0 <= x < x + width <= 640
            assert 0 <= y < y + height <= 480
            inside = view.depth[y : y + height, x : x + width]
            assert np.count_nonzero(inside) > 0.2 * inside.size
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, interrupted(views))
    assert not list(tmp_path.iterdir())  # nothing is in the way of the next try
    bag, table = record(tmp_path, iter(views))
    assert len(read_truth(table)) == 2
    with pytest.raises(DataError, match="is there already"):
        record(tmp_path, iter(views))
    with Bag(bag) as opened:
        frames = list(opened.frames([truth.request for truth in read_truth(table)], 0.02))
    np.testing.assert_array_equal(frames[0].pictures["depth"].data.view(np.uint16).reshape(480, 640), views[0].depth)
