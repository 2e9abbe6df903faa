"""The commands that the documentation prints: they parse, their files exist, and each reads what one before it made."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mmcl_core import prepare
from mmcl_core.config import load
from mmcl_core.data.sources import data_sets
from mmcl_core.engine.checks import check_settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data_sets.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[2:] for line in PAGE.splitlines() if line.startswith("python -m mmcl_core.")]


def option(words, name):
    return words[words.index(name) + 1]


@pytest.mark.parametrize("words", [c for c in COMMANDS if "prepare" in c[0] or "prepare" in c[1]], ids=" ".join)
def test_prepare_commands_parse(words):
    measured = words[0] == "mmcl_core.benchmark"
    options = prepare.parse(words[2:] if measured else words[1:])
    assert options.what in data_sets()
    assert measured or options.out.parts[0] == "data_sets"


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] in ("mmcl_core.train", "mmcl_core.sweep")], ids=" ".join)
def test_settings_load(words):
    if words[0] == "mmcl_core.sweep":
        assert (ROOT / option(words, "--config")).is_file()
    else:
        check_settings(load(ROOT / option(words, "--config"), [word for word in words[1:] if "=" in word]), 1)


def test_every_set_and_run_was_made_by_a_command_before():
    made = set()
    for words in COMMANDS:
        needed = [option(words, "--data")] if "--data" in words else []
        needed += [words[1]] if words[0] == "mmcl_core.evaluate" else []
        needed += [word.partition("=")[2] for word in words if word.startswith("model.init_from=")]
        assert set(needed) <= made, words
        made |= {option(words, "--out")} if "--out" in words else set()


def test_every_data_set_and_protocol_has_its_place():
    for name in data_sets():
        assert f"`{name}`" in PAGE
    for path in (ROOT / "config" / "protocols").glob("*.yaml"):
        assert f"config/protocols/{path.name}" in PAGE
