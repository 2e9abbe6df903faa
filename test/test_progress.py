"""Progress bars: on terminals, in logs where asked for, and none with ``--quiet``."""

import io
import logging
import sys

import pytest

from mmcl_core.cli import set_up_logging
from mmcl_core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def usual_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging()
    yield
    set_up_logging()
    root.handlers[:], root.level = handlers, level


def drawn(monkeypatch, stream, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar(range(3), title="count", unit=" sheep", **options)) == [0, 1, 2]
    return stream.getvalue()


def test_a_bar_is_drawn_on_a_terminal_and_elsewhere_only_where_asked_for(monkeypatch):
    assert "count" in drawn(monkeypatch, Terminal())
    assert drawn(monkeypatch, io.StringIO()) == ""
    assert "sheep" in drawn(monkeypatch, io.StringIO(), in_logs=True)


@pytest.mark.parametrize("leave", [True, False])
def test_in_a_log_each_state_of_a_bar_is_a_line_of_its_own(monkeypatch, leave):
    log = io.StringIO(newline="")
    monkeypatch.setattr(sys, "stderr", log)
    bar = progress_bar(title="count", unit=" sheep", total=3, leave=leave, in_logs=True)
    for done in (1, 2, 3):
        bar.update()
        bar.refresh()
        logging.getLogger().info("%d in the fold", done)
    bar.close()
    text = log.getvalue()
    assert "\r" not in text
    states, said = ([line for line in text.splitlines() if words in line] for words in ("count:", "in the fold"))
    assert len(states) + len(said) == len(text.splitlines())
    assert all(f"{done}/3" in line for done, line in enumerate(states[:4]))
    assert len(said) == 3


@pytest.mark.parametrize("done", [0, 2])
def test_in_a_log_no_count_comes_twice(monkeypatch, done):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(title="count", unit=" sheep", total=2, done=done, in_logs=True) as bar:
        bar.mininterval = 0.0  # as where every item takes longer than the interval
        for _ in range(done, 2):
            bar.update()
        bar.refresh()
    lines = sys.stderr.getvalue().splitlines()
    assert [line.partition("/2")[0][-1] for line in lines] == [str(count) for count in range(done, 3)]


@pytest.mark.parametrize(("rank", "level"), [("0", logging.WARNING), ("1", logging.INFO)])
def test_quiet_commands_and_further_processes_draw_none(monkeypatch, rank, level):
    monkeypatch.setenv("RANK", rank)
    set_up_logging(level)
    assert drawn(monkeypatch, Terminal(), in_logs=True) == ""
    monkeypatch.delenv("RANK")


def test_a_bar_goes_on_from_what_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(title="steps", unit=" steps", total=10, done=4) as bar:
        bar.update()
        bar.set_postfix_str("loss 1.000")
    assert "5/10" in sys.stderr.getvalue()
    assert "loss 1.000" in sys.stderr.getvalue()
