"""The scripts and the Makefile, with a Python that does nothing: what becomes of the folders they are given."""

import fcntl
import os
import platform
import subprocess
from pathlib import Path

import pytest

from mmcl_core.config import load

ROOT = Path(__file__).resolve().parents[1]


def make_folder(root, *written):
    """A folder with a file of somebody's and with what is left of an earlier demonstration."""
    for name in ("mine.txt", "own/mine.txt", *written):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


MARK = ".mmcl_demo"
SETTINGS = ("VENV", "DEMO", "MAKEFLAGS", "MFLAGS")  # of the make that runs the tests: not of what they run
DEMO = ["household/index.json", "household.partial/progress.json", "run/config.yaml", "ros/truth.csv"]
COMMANDS = [
    (["scripts/demo.sh", "{}"], DEMO),
    (["scripts/demo_ros.sh", "run", "{}"], ["bag/metadata.yaml", "truth.csv", "evaluation/metrics.json"]),
    (["make", "clean", "DEMO={}", "VENV={}/venv"], [*DEMO, "venv/pyvenv.cfg"]),
]


def start(root, command, where=None, **environment):
    """A command that has ended; Python is a script that notes its arguments and environment, make works in ``root``."""
    python = root / "python"
    python.write_text(
        f'#!/bin/sh\necho "$PWD $*" >> "{root}/called"\n'
        'case "$*" in *recognizer_node*) exec sleep 600 ;; esac\n'  # a node runs until it is ended
        'case "$*" in *rclpy*) [ -z "$RMW_IMPLEMENTATION$BROKEN" ] || { echo "Oh: no" >&2; exit 1; } ;; esac\n'
        'case "$*" in *"${WITHOUT:-nothing}"*) exit 1 ;; esac\n'
        f'env > "{root}/seen"\n'
    )
    python.chmod(0o755)
    if command[0] == "make":  # not where make clean would remove the builds of the one who tests
        command, where = ["make", "-f", str(ROOT / "Makefile"), *command[1:]], root
    outer = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment = {**outer, "PYTHON": str(python), **environment}
    return subprocess.run(command, cwd=where or ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("command", "written"), COMMANDS)
def test_only_what_the_demonstration_has_written_is_removed(tmp_path, command, written):
    folder = make_folder(tmp_path / "data", *written, MARK, "venv/.made_by_make")
    done = start(tmp_path, [word.format(folder) for word in command])
    assert done.returncode == 0, done.stderr
    assert not any((folder / name).exists() for name in written)
    assert (folder / "mine.txt").exists()
    assert (folder / "own" / "mine.txt").exists()
    if command[0] == "make":
        assert {path.name for path in folder.iterdir()} == {"mine.txt", "own"}


@pytest.mark.parametrize(("command", "written"), COMMANDS)
def test_what_lies_there_under_the_names_of_the_demonstration_without_its_mark_stays(tmp_path, command, written):
    folder = make_folder(tmp_path / "data", *written)
    done = start(tmp_path, [word.format(folder) for word in command])
    assert all((folder / name).exists() for name in written)
    if command[0] == "make":
        assert f"{folder} stays" in done.stdout
        assert f"{folder}/venv stays" in done.stdout
    else:
        assert done.returncode == 2
        assert f"{folder / written[0].partition('/')[0]} is there" in done.stderr
        assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(("command", "written"), COMMANDS[:2])
def test_two_demonstrations_do_not_work_in_one_folder(tmp_path, command, written):
    folder = make_folder(tmp_path / "data", *written, MARK)
    with (folder / MARK).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        done = start(tmp_path, [word.format(folder) for word in command])
    assert done.returncode == 2
    assert f"another demonstration is at work in {folder}" in done.stderr
    assert all((folder / name).exists() for name in written)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("seconds", "without", "epochs"),
    [
        (70, "multiplies_bf16", 28),
        (90, "multiplies_bf16", 23),
        (150, "", 24),
        (0, "", 28),
        (146, "bf16", 12),
        (500, "", 8),
    ],
)
def test_a_slow_processor_trains_for_fewer_epochs(tmp_path, seconds, without, epochs):
    looks = make_folder(tmp_path / "bin", "looks") / "looks"
    clock = looks.with_name("date")  # each look at it is so many seconds later
    clock.write_text(f'#!/bin/sh\necho >> "{looks}"\necho $(({seconds} * $(wc -l < "{looks}")))\n')
    clock.chmod(0o755)
    command = ["scripts/demo.sh", str(tmp_path / "demo")]
    done = start(tmp_path, command, PATH=f"{clock.parent}:{os.environ['PATH']}", WITHOUT=without)
    assert done.returncode == 0, done.stderr
    assert load(ROOT / "config/demo.yaml").train.epochs == 28
    shorter = f" train.epochs={epochs}" if epochs < 28 else ""
    assert f" --out {tmp_path}/demo/run{shorter}\n" in (tmp_path / "called").read_text()
    assert (f"cut to {epochs} epochs (28" in done.stdout) == bool(shorter)


def test_make_clean_removes_a_folder_of_the_demonstration_alone(tmp_path, monkeypatch):
    make_folder(tmp_path / "demo", "run/config.yaml", MARK)
    make_folder(tmp_path / "running", ".made_by_make", MARK)  # where make test VENV=... would have the tests run
    monkeypatch.setenv("VENV", f"{tmp_path}/running")
    monkeypatch.setenv("MAKEFLAGS", f" -- VENV={tmp_path}/running DEMO={tmp_path}/running")
    for name in ("mine.txt", "own/mine.txt"):
        (tmp_path / "demo" / name).unlink()
    (tmp_path / "demo" / "own").rmdir()
    assert start(tmp_path, ["make", "clean"]).returncode == 0
    assert not (tmp_path / "demo").exists()
    assert (tmp_path / "running" / MARK).exists()
    assert (tmp_path / "running" / ".made_by_make").exists()


@pytest.mark.parametrize("setting", ["DEMO=", "VENV=", "PYTHON=", "VENV=my env"])
def test_a_setting_of_make_that_is_empty_or_cannot_be_worked_with_is_refused(tmp_path, setting):
    done = start(tmp_path, ["make", "--dry-run", "clean", setting])
    assert done.returncode == 2
    assert setting.partition("=")[0] in done.stderr
    assert "rm" not in done.stdout


def test_a_home_folder_that_the_shell_has_left_as_a_tilde_is_that_of_the_user(tmp_path):
    make_folder(tmp_path / "demo", "run/config.yaml", MARK)
    make_folder(tmp_path / "venv", ".made_by_make")
    settings = ["VENV=~/venv", "DEMO=~/demo"]
    command = ["env", "make", "-C", str(ROOT), "--dry-run", "demo", *settings]
    planned = start(tmp_path, command, HOME=str(tmp_path)).stdout
    assert f'PYTHON={tmp_path}/venv/bin/python scripts/demo.sh "{tmp_path}/demo"' in planned
    assert start(tmp_path, ["make", "clean", *settings], HOME=str(tmp_path)).returncode == 0
    assert not (tmp_path / "venv").exists()
    assert not (tmp_path / "demo" / "run").exists()


def test_folders_that_scripts_are_given_are_of_the_folder_that_they_are_called_in(tmp_path):
    (tmp_path / "run").mkdir()
    assert start(tmp_path, [str(ROOT / "scripts/demo_ros.sh"), "run", "-out"], where=tmp_path).returncode == 0
    assert start(tmp_path, [str(ROOT / "scripts/demo.sh"), "-demo"], where=tmp_path).returncode == 0
    assert (tmp_path / "-out" / MARK).exists()
    assert (tmp_path / "-demo" / MARK).exists()
    called = (tmp_path / "called").read_text()
    assert f"{ROOT} -m mmcl_ros.record_demo --out {tmp_path}/-out " in called
    assert f"--model {tmp_path}/run " in called
    assert f"{ROOT} -m mmcl_core.render --objects household --out {tmp_path}/-demo/household " in called


def test_the_node_of_the_demonstration_is_by_itself(tmp_path):
    robot = {
        "ROS_DOMAIN_ID": "177",
        "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
        "ROS_DISCOVERY_SERVER": "10.0.0.1:11811",
    }
    (tmp_path / "run").mkdir()
    command = [str(ROOT / "scripts/demo_ros.sh"), "run", str(tmp_path / "ros")]
    assert start(tmp_path, command, where=tmp_path, **robot).returncode == 0
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    assert seen["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert seen["ROS_LOG_DIR"] == f"{tmp_path}/ros/log"
    assert 1 <= int(seen["ROS_DOMAIN_ID"]) <= 100
    assert not {"RMW_IMPLEMENTATION", "ROS_DISCOVERY_SERVER"} & set(seen)


@pytest.mark.parametrize("setting", ["RMW_IMPLEMENTATION", "BROKEN"])
def test_the_node_is_left_out_where_ros_is_broken_and_not_where_another_is_set(tmp_path, setting):
    done = start(tmp_path, ["scripts/demo.sh", str(tmp_path / "demo")], **{setting: "rmw_other"})
    assert done.returncode == 0
    played = "mmcl_ros.play_bag" in (tmp_path / "called").read_text()
    assert (played, "(Oh: no)" in done.stdout) == ((True, False) if setting == "RMW_IMPLEMENTATION" else (False, True))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere there are no wheels of ROS 2")
@pytest.mark.parametrize("sourced", [True, False])
def test_make_works_without_a_sourced_ros(tmp_path, sourced):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / ".installed").touch()
    names = ("LD_LIBRARY_PATH", "PYTHONPATH", "ROS_DISTRO")
    environment = dict.fromkeys(names, "/opt/ros/humble") | {"AMENT_PREFIX_PATH": "/opt/ros/humble" if sourced else ""}
    (tmp_path / "venv" / "bin" / "python").symlink_to(tmp_path / "python")
    command = ["env", "make", "-C", str(ROOT), "test", f"VENV={tmp_path}/venv"]
    assert start(tmp_path, command, **environment).returncode == 0
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert seen & set(names) == (set() if sourced else set(names))


def environment_of(folder, version):
    """What looks like an environment with everything in it, whose Python tells its version and notes its arguments."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> "{folder}/called"\ncase "$1" in -c) echo "{version} in /usr" ;; esac\n')
    python.chmod(0o755)
    (folder / ".installed").touch()
    return python


def make_env(folder, *settings):
    environment = {key: value for key, value in os.environ.items() if key not in (*SETTINGS, "PYTHON", "MMCL_ROS")}
    command = ["make", "-C", str(ROOT), "env", f"VENV={folder}", *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_an_interpreter_that_is_not_that_of_the_environment_is_told(tmp_path):
    environment_of(tmp_path / "venv", "3.11.7")
    same, other = (environment_of(tmp_path / version, version) for version in ("3.11.7", "3.12.1"))
    said = make_env(tmp_path / "venv", f"PYTHON={other}")
    assert f"PYTHON={other} is not used: {tmp_path}/venv is there already, with Python 3.11.7" in said
    assert f"PYTHON={tmp_path}/none is not used" in make_env(tmp_path / "venv", f"PYTHON={tmp_path}/none")
    assert "not used" not in make_env(tmp_path / "venv", f"PYTHON={same}")
    assert "not used" not in make_env(tmp_path / "venv")


def test_an_environment_whose_interpreter_has_gone_is_told(tmp_path):
    python = environment_of(tmp_path / "venv", "3.11.7")
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    command = ["env", "make", "-C", str(ROOT), "env", f"VENV={tmp_path}/venv"]
    done = start(tmp_path, command)
    assert done.returncode == 2
    assert f"{python} leads nowhere: the Python that {tmp_path}/venv was built with is gone; remove" in done.stderr


def test_the_copy_in_the_environment_is_renewed_where_a_source_is_newer_and_not_else(tmp_path):
    environment_of(tmp_path / "venv", "3.11.7")
    called = tmp_path / "venv" / "called"
    make_env(tmp_path / "venv")
    make_env(tmp_path / "venv", "-W", "README.md")
    assert called.read_text() == "-I scripts/refresh_copy.py\n"
    for number, source in enumerate(("mmcl_core/nn/model.py", "launch", "config/demo.yaml", "scripts/recognizer")):
        make_env(tmp_path / "venv", "-W", source)
        assert called.read_text() == "-I scripts/refresh_copy.py\n" * (number + 2)


def test_messages_that_were_not_built_are_told_where_there_are_generators(tmp_path):
    """pip shows nothing of what a build says that ends well."""
    environment_of(tmp_path / "venv", "3.11.7")

    def said(*settings):
        (tmp_path / "venv" / ".installed").unlink()
        return "messages of mmcl_ros were not built" in make_env(tmp_path / "venv", "PYTHON=true", *settings)

    assert not said()
    (tmp_path / "venv/share/rosidl_default_generators").mkdir(parents=True)
    assert said()
    assert not said("MMCL_ROS=off")
    (tmp_path / "venv/share/mmcl_ros").mkdir()
    assert not said()
