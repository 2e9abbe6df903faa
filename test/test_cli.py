"""What all commands have in common: their help, the options of the log, and errors as one line or with a traceback."""

import importlib
import io
import logging
import os
import re
import subprocess
import sys

import pytest

from mmcl_core.cli import add_logging_options, as_plain_text, command_parser, run_command, set_up_logging
from mmcl_core.errors import ConfigError, DataError, RunInterruptedError, TrainingError

pytestmark = pytest.mark.usefixtures("usual_log")


CORE = ("train", "evaluate", "prepare", "render", "export", "recognize", "sweep", "benchmark")
ROS = ("evaluate_bag", "crop_bag", "unpack_bag", "record_demo", "play_bag", "benchmark")
COMMANDS = [*(f"mmcl_core.{name}" for name in CORE), *(f"mmcl_ros.{name}" for name in ROS)]
#: The commands of these take the options of the log, and may have further ones.
GROUPS = {
    "mmcl_core.prepare": ("folder", "coco", "falling_things", "washington", "merge", "show"),
    "mmcl_ros.benchmark": ("latency", "loss", "malformed", "memory"),
}


def help_of(name, capsys, *words):
    if name == "mmcl_ros.play_bag":
        pytest.importorskip("mmcl_ros.msg", reason="the messages of mmcl_ros are not built")
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as end:
        module.main([*words, "--help"])
    assert end.value.code == 0
    return module, capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_names_the_command_and_says_what_its_module_says(name, capsys):
    module, text = help_of(name, capsys)
    assert text.startswith(f"usage: python -m {name} ")
    assert as_plain_text(module.__doc__).strip() in text
    assert "``" not in text
    for words in GROUPS.get(name, [""]):
        listed = help_of(name, capsys, *words.split())[1]
        assert "--quiet" in listed
        assert "--verbose" in listed
        assert not re.search(r"\(default [^:]|\(default\)", " ".join(listed.split()))


def test_text_of_a_docstring_on_a_terminal():
    text = """**Bold.** ``code`` of :mod:`a.b` and :func:`~a.c`, 2 ** 3.

=========  =====
``a b``    first
``long``,  ``x`` is  third
           more
=========  =====
"""
    assert (
        as_plain_text(text)
        == """Bold. code of a.b and a.c, 2 ** 3.

=========  =====
a b        first
long,      x is      third
           more
=========  =====
"""
    )


def parsed(*words):
    parser = command_parser("mmcl_core.nothing", "Does nothing.", "  python -m mmcl_core.nothing")
    add_logging_options(parser)
    return parser, parser.parse_args(words)


def test_a_parser_keeps_lines_and_shows_examples():
    parser, options = parsed()
    assert parser.prog == "python -m mmcl_core.nothing"
    assert parser.format_help().endswith("examples:\n  python -m mmcl_core.nothing\n")
    assert options.log_level == logging.INFO


def test_the_home_folder_is_known_where_shells_leave_it_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = command_parser("mmcl_core.nothing", "Does nothing.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out")
    commands = ["--out=~/run", "~/a", "b~/c", "key=~/d", "~nobody/e"]
    for options in (parser.parse_args(commands), parser.parse_intermixed_args(commands)):
        assert options.out == f"{tmp_path}/run"
        assert options.words == [f"{tmp_path}/a", "b~/c", "key=~/d", "~nobody/e"]
    assert parser.parse_args(["--out", "~/run"]).out == f"{tmp_path}/run"


def test_an_option_of_several_values_may_come_again_and_a_list_of_numbers_may_begin_with_a_minus():
    parser = command_parser("mmcl_core.nothing", "Does nothing.")
    parser.add_argument("--of", nargs="+", type=int, default=[7])
    parser.add_argument("--box")
    assert parser.parse_args([]).of == [7]
    assert parser.parse_args(["--of", "1", "2"]).of == [1, 2]
    for words in (["--of", "1", "2", "--box", "-3,4,5", "--of", "6"], ["--of", "1", "2", "--of=6", "--box=-3,4,5"]):
        for options in (parser.parse_args(words), parser.parse_intermixed_args(words)):
            assert options.of == [1, 2, 6]
            assert options.box.strip() == "-3,4,5"
    assert parser.parse_args(["--of", "-1"]).of == [-1]
    for word in ("-x,3", "-1,2.png"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--box", word])


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_setting_given_as_an_option_is_told_how_settings_are_given(name, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"mmcl_core.{name}").main(["--config", "some.yaml", "--epochs", "3"])
    assert "unrecognized arguments: --epochs; settings are given as section.key=value" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        importlib.import_module("mmcl_core.export").main(["run", "--out", "file.onnx", "--epochs"])
    assert "settings are" not in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--quiet", "--verbose"])
def test_an_error_is_one_line_and_shows_its_traceback_where_asked_for(flag, capsys):
    def fail():
        raise ConfigError("this cannot be")

    assert run_command(fail, parsed(flag)[1].log_level) == 2
    said = capsys.readouterr().err
    assert said.endswith("error: this cannot be\n")
    assert ("Traceback" in said) == (flag == "--verbose")


@pytest.mark.parametrize("name", CORE)
def test_settings_are_never_said_to_be_required(name, capfd):
    try:
        status = importlib.import_module(f"mmcl_core.{name}").main([])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert "section.key=value" not in capfd.readouterr().err.splitlines()[-1]


def raising(error):
    def action():
        raise error

    return action


def test_exit_statuses(capfd):
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 75) == 75
    assert run_command(raising(ConfigError("no such knob"))) == 2
    assert run_command(raising(TrainingError("the loss is not finite"))) == 1
    assert run_command(raising(PermissionError(13, "Permission denied", "/data/x"))) == 2
    assert run_command(raising(KeyboardInterrupt())) == 130
    error = capfd.readouterr().err
    assert error.splitlines() == [
        "error: no such knob",
        "error: the loss is not finite",
        "error: /data/x: Permission denied",
        "",
        "interrupted",
    ]
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
    assert run_command(raising(RunInterruptedError("the state is saved"))) == 75
    error = capfd.readouterr().err
    assert error.endswith(" WARNING the state is saved\n")
    assert "error" not in error


def test_a_lack_of_memory_is_one_line_that_says_what_to_do(capfd):
    library = type("Fail", (Exception,), {})  # as ONNX Runtime raises it
    for error, why in (
        (MemoryError(), "host memory"),
        (RuntimeError("the allocator can't allocate memory\nmore"), "the allocator can't allocate memory"),
        (library("Failed to allocate memory for requested buffer"), "Failed to allocate memory for requested buffer"),
    ):
        assert run_command(raising(error)) == 1
        told = capfd.readouterr().err
        assert told.startswith("error: out of memory: ")
        assert "fewer or smaller pictures" in told
        assert told.endswith(f" [{why}]\n")
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_command(raising(RuntimeError("size of tensor")))


def test_a_file_in_the_place_of_a_folder_is_told_from_other_errors(tmp_path, capfd):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert run_command(place.mkdir) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"error: {place}: ")
        assert error.endswith("; a folder is expected there: name another place\n")
    assert run_command((tmp_path / "absent").read_text) == 2
    assert capfd.readouterr().err == f"error: {tmp_path}/absent: No such file or directory\n"


def test_only_process_0_logs_what_is_no_error(monkeypatch, capfd):
    for rank, expected in (("0", ["hello", "careful", "broken"]), ("1", ["broken"])):
        monkeypatch.setenv("RANK", rank)
        set_up_logging()
        logging.getLogger("x").info("hello")
        logging.getLogger("x").warning("careful")
        logging.getLogger("x").error("broken")
        assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == expected


def test_names_that_are_no_utf8_are_printed(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8"))
    assert run_command(lambda: print(os.fsdecode(b"caf\xe9"), flush=True)) == 0
    assert written.getvalue() == b"caf\\udce9\n"


def test_a_reader_that_has_gone_is_no_error():
    """Whether it is met while the command prints, or with what is left in the buffer at its end."""
    script = "import sys; from mmcl_core.cli import run_command; sys.exit(run_command(lambda: print('x' * {})))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONUNBUFFERED", None)
    for letters in (10, 1_000_000):
        ends = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", script.format(letters)], stdout=ends[1], stderr=subprocess.PIPE, env=environment
        )
        for end in ends:
            os.close(end)
        assert (process.communicate()[1], process.returncode) == (b"", 0)


def test_a_pipe_that_broke_elsewhere_is_an_error(capfd):
    assert run_command(raising(BrokenPipeError(32, "Broken pipe"))) == 2
    assert capfd.readouterr().err == "error: Broken pipe\n"


def test_a_command_without_standard_output_does_its_work(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run_command(lambda: print("hello")) == 0


def test_a_traceback_is_shown_on_request(capfd):
    run_command(raising(DataError("bad")), logging.DEBUG)
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_a_command_whose_streams_are_closed_works_and_its_files_do_not_take_their_places(tmp_path, closed):
    script = """
import os, subprocess, sys
from mmcl_core.cli import run_command
from mmcl_core.progress import progress_bar
def work():
    with open(sys.argv[1], "w") as file:
        file.write(str(file.fileno()))
        for _ in progress_bar([0], title="x", unit="y", in_logs=True):
            os.write(2, b"what a library says")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('said')"], check=True)
sys.exit(run_command(work))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "file"], check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: [os.close(number) for number in closed],
    )  # fmt: skip
    assert done.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2
