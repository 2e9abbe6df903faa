"""The commands that the documentation prints: they parse, their files exist, and each reads what one before it made."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mmcl_core import prepare
from mmcl_core.config import Config, load
from mmcl_core.data.sources import data_sets
from mmcl_core.engine.checks import check_settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data_sets.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[2:] for line in PAGE.splitlines() if line.startswith("python -m mmcl_core.")]


def printed(path):
    """The commands in a page, lines that end in a backslash joined, comments and brackets of what is optional away."""
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("python -m mmcl_")]
    return [shlex.split(re.sub(r"[][]", " ", line), comments=True)[2:] for line in lines]


PAGES = ("README.md", "CONTRIBUTING.md", "docs/data_sets.md", "docs/ros.md", "mmcl_core/models/README.md")
RESULTS = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "results").glob("*.md")))
EVERYWHERE = [(page, words) for page in PAGES for words in printed(page)]


@pytest.mark.parametrize(("page", "words"), EVERYWHERE, ids=lambda value: value if isinstance(value, str) else value[0])
def test_options_that_are_printed_exist(page, words, capsys):
    if words[0].startswith("mmcl_ros."):
        for package in ("rclpy", "rosbags"):
            pytest.importorskip(package, reason=f"{package} is not installed")
    command = importlib.import_module(words[0])
    if "--ros-args" not in words:
        group = words[1:2] if words[0] in ("mmcl_core.prepare", "mmcl_ros.benchmark") else []
        with pytest.raises(SystemExit) as end:
            command.main([*group, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}(?![\w-])", text), f"{page}: {words[0]} has no {flag}"
    for word in words:
        if word.startswith("config/"):
            assert (ROOT / word).is_file(), f"{page}: {word}"


@pytest.mark.parametrize("page", [*PAGES, *RESULTS])
def test_links_lead_somewhere(page):
    """To files that exist, and to headings of theirs."""
    if not (ROOT / "results").is_dir():
        pytest.skip("a packed source has no results/, which the pages link to")
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{page}: {link} ({slugs})"


def option(words, name):
    return words[words.index(name) + 1]


@pytest.mark.parametrize("words", [c for c in COMMANDS if "prepare" in c[0] or "prepare" in c[1]], ids=" ".join)
def test_prepare_commands_parse(words):
    measured = words[0] == "mmcl_core.benchmark"
    options = prepare.parse(words[2:] if measured else words[1:])
    assert options.what in (*data_sets(), "merge")
    assert measured or options.out.parts[0] == "data_sets"


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] in ("mmcl_core.train", "mmcl_core.sweep")], ids=" ".join)
def test_settings_load(words):
    if words[0] == "mmcl_core.sweep":
        assert (ROOT / option(words, "--config")).is_file()
    else:
        check_settings(load(ROOT / option(words, "--config"), [word for word in words[1:] if "=" in word]), 1)


WITH_SETTINGS = ("README.md", "docs/data_sets.md", *(f"results/{name}.md" for name in ("README", "beyond_the_paper")))


@pytest.mark.parametrize("page", [*WITH_SETTINGS, "results/real_crops.md"])
def test_settings_that_a_page_names_are_settings(page):
    """Also those in sentences and tables."""
    if not (ROOT / page).exists():
        pytest.skip("a packed source has no results/")
    sections = [name for name, value in vars(Config()).items() if dataclasses.is_dataclass(value)]
    text = (ROOT / page).read_text(encoding="utf-8")
    given = dict.fromkeys(re.findall(rf"\b((?:{'|'.join(sections)})\.[a-z0-9_]+=[^\s`;)|]+)", text))
    assert given
    for setting in given:
        load(None, [setting])


def test_every_set_and_run_was_made_by_a_command_before():
    made = set()
    for words in COMMANDS:
        needed = [option(words, "--data")] if "--data" in words else []
        needed += [words[1]] if words[0] == "mmcl_core.evaluate" else []
        needed += [word.partition("=")[2] for word in words if word.startswith("model.init_from=")]
        assert set(needed) <= made, words
        made |= {option(words, "--out")} if "--out" in words else set()


def test_the_papers_sets_are_prepared_with_256_pixels():
    """Half as many, the side of the network's input, would lose what the authors' program crops from."""
    pages = [ROOT / "docs/data_sets.md", *(ROOT / "config").rglob("*.yaml")]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.search(r"mmcl_core\.prepare (falling_things|nyud|scenenet) ", line)]
    assert len(found) >= 10
    assert [line for line in found if "--size 256" not in line] == []


def test_every_data_set_and_protocol_has_its_place():
    for name in data_sets():
        assert f"`{name}`" in PAGE
    for path in (ROOT / "config" / "protocols").glob("*.yaml"):
        assert f"config/protocols/{path.name}" in PAGE
