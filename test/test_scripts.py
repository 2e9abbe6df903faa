"""The scripts and the Makefile, with a Python that does nothing: what becomes of the folders they are given."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def make_folder(root, *written):
    """A folder with a file of somebody's and with what is left of an earlier demonstration."""
    for name in ("mine.txt", "own/mine.txt", *written):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (["scripts/demo.sh", "{}"], ["household/index.json", "run/config.yaml", "ros/truth.csv"]),
        (["scripts/demo_ros.sh", "run", "{}"], ["bag/metadata.yaml", "truth.csv", "evaluation/metrics.json"]),
        (["make", "clean", "DEMO={}", "VENV={}/venv"], ["household/index.json", "run/config.yaml", "venv/pyvenv.cfg"]),
    ],
)
def test_only_what_the_demonstration_has_written_is_removed(tmp_path, command, written):
    folder, python = make_folder(tmp_path / "data", *written), tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *recognizer_node*) exec sleep 1 ;; esac\n')  # a node that runs a while
    python.chmod(0o755)
    line = [word.format(folder) for word in command]
    environment = {**os.environ, "PYTHON": str(python)}
    where = tmp_path if line[0] == "make" else ROOT  # make clean is not to remove the builds of the one who tests
    line[1:1] = ["-f", str(ROOT / "Makefile")] if line[0] == "make" else []
    subprocess.run(line, cwd=where, env=environment, check=True, capture_output=True, timeout=60)
    assert {path.name for path in folder.iterdir() if path.name not in ("mine.txt", "own")} == set()
    assert (folder / "mine.txt").exists()
    assert (folder / "own" / "mine.txt").exists()


def test_make_clean_removes_a_folder_of_the_demonstration_alone(tmp_path):
    (tmp_path / "demo" / "run").mkdir(parents=True)
    subprocess.run(["make", "-f", str(ROOT / "Makefile"), "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "demo").exists()
