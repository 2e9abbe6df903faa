"""The render command is interrupted and goes on."""

from __future__ import annotations

import shutil

import pytest
from test_render import files_of, meshes, run, whole, words_of
from test_workers import start_and_kill

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes", "whole"]  # fixtures


#: The command with a note after each crop, and slow enough to be killed before its end.
SLOW = """
import sys, time
from mmcl_core import render
render.SAVE_EVERY_S, sample = 0.0, render._sample
render._sample = lambda *words: time.sleep(0.1) or sample(*words)
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
