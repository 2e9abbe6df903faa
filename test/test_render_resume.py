"""The render command is interrupted and goes on."""

from __future__ import annotations

import shutil

import pytest
from small_meshes import files_of, meshes, run, whole, words_of
from tiny import start_and_kill

from mmcl_core.data.cache import merge_sets
from mmcl_core.errors import DataError

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes", "whole"]  # fixtures


#: The command with a note after each crop, and slow enough to be killed before its end.
SLOW = """
import sys, time
from mmcl_core import render
from mmcl_core.synth import rendered_set
rendered_set.SAVE_EVERY_S, sample = 0.0, rendered_set._sample
rendered_set._sample = lambda *words: time.sleep(0.1) or sample(*words)
if __name__ == "__main__":
    sys.exit(render.main(sys.argv[1:]))
"""


def test_a_killed_command_goes_on_to_the_same_set(meshes, whole, tmp_path, capsys):
    (tmp_path / "slow.py").write_text(SLOW)
    partial = tmp_path / "set.partial"
    words = [tmp_path / "slow.py", *words_of(meshes, tmp_path / "set"), "--workers", "2"]
    start_and_kill(words, (partial / "progress.json").is_file)
    assert not (tmp_path / "set").exists()
    other = tmp_path / meshes.name
    shutil.copytree(meshes, other)
    trimesh.creation.cylinder(0.05, 0.12).export(other / "can" / "can.stl")
    for source, more, told in (
        (meshes, (), "go on with --resume, or begin anew with --overwrite"),
        (meshes, ("--resume", "--size", "32"), "made with other options"),
        (meshes, ("--resume", "--piles", "0.5"), "made with other options"),
        (meshes, ("--resume", "--shard", "0/2"), "made with other --shard; give the same to go on"),
        (meshes, ("--resume", "--split", "val=0.2,test=0.2,train=0.6"), "made with other --split; give the same"),
        (other, ("--resume",), "made with other meshes (or read by another version); give the same to go on"),
    ):
        assert run(source, tmp_path / "set", *more) == 2
        assert told in capsys.readouterr().err
    assert run(meshes, tmp_path / "set", "--resume", "--workers", "1") == 0
    assert "20 crops of 2 classes" in capsys.readouterr().out
    assert files_of(tmp_path / "set") == files_of(whole)
    assert not partial.exists()


def test_resume_without_a_part_begins(meshes, tmp_path):
    for name, more in (("one", ()), ("two", ("--resume",))):
        assert run(meshes, tmp_path / name, "--count", "3", "--workers", "1", *more) == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_shards_whose_splits_were_named_in_another_order_are_not_merged(meshes, tmp_path):
    """Scenes and meshes are dealt to the splits in the order of --split."""
    for shard, split in (("0/2", "train=0.5,test=0.5"), ("1/2", "test=0.5,train=0.5")):
        more = ("--count", "6", "--size", "24", "--workers", "1", "--shard", shard, "--split", split)
        assert run(meshes, tmp_path / shard[0], *more) == 0
    with pytest.raises(DataError, match="but were rendered with the splits of --split in another order"):
        merge_sets([tmp_path / "0", tmp_path / "1"], tmp_path / "bad")
