"""Tables of runs: what a table file may hold, which runs follow from it, its figures, and real sweeps that are killed.

Not tested: several GPUs.
"""

import csv
import itertools
import json
import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from mmcl_core import sweep as command
from mmcl_core.config import to_dict
from mmcl_core.engine.runfolder import read_config
from mmcl_core.engine.sweep import pages
from mmcl_core.engine.sweep.plan import Place, make_plan
from mmcl_core.engine.sweep.plots import save_plots
from mmcl_core.engine.sweep.pool import Outcome, Task, last_line, read_costs, run_tasks
from mmcl_core.engine.sweep.session import Session
from mmcl_core.engine.sweep.summary import Line, summarise
from mmcl_core.engine.sweep.table import read_table
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.methods import method_class

ROOT = Path(__file__).resolve().parents[1]
TABLES = sorted(path for path in (ROOT / "config/tables").glob("*.yaml") if path.name != "rendered.yaml")
TABLE = """
title: Tiny
base: base.yaml
sets: {tiny: SET}
settings: {train.target: "{modality}"}
columns: {rgb: {title: RGB}, depth: {}}
rows:
  - {name: ce, settings: {method: supervised, train.modalities: ["{modality}"]}, cells: {rgb: 92.5, depth: [79.2, 0.5]}}
  - {name: multi, title: Multi, cells: {rgb: 94.4, depth: 86.1}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("sweep") / "set")


@pytest.fixture
def write(tmp_path, data):
    """Write a table file and its base; ``SET`` stands for the set."""

    def write(text=TABLE, name="table.yaml", *overrides):
        config = tiny.settings(Path(), "data.val_fraction=0", "train.epochs=1", "train.threads=0", *overrides)
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(to_dict(config)))
        path = tmp_path / name
        path.write_text(text.replace("SET", str(data)))
        return path

    return write


# -------------------------------------------------------------------------------------------------- table files


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Tiny", "titel: Tiny", r"unknown setting 'titel'; did you mean 'title'\?"),
        ("name: ce, ", "name: ce, sell: 3, ", r"unknown setting 'rows\[0\]\.sell'; did you mean 'cells'"),
        ("base: base.yaml", "base: bas.yaml", "cannot read the configuration"),
        ("base: base.yaml", "", "a table has base, sets, columns and rows"),
        ("rgb: 92.5", "rbg: 92.5", r"row ce has a cell in an unknown column 'rbg'; did you mean 'rgb'\?"),
        ("rgb: 92.5", "rgb: high", r"rows\[0\]\.cells\.rgb\.paper is 'high'; give a number"),
        ("rgb: 92.5", "rgb: {papr: 92.5}", r"unknown setting 'rows\[0\]\.cells\.rgb\.papr'; did you mean 'paper'\?"),
        ("cells: {rgb: 94.4, depth: 86.1}", "", "row multi has no cells"),
        ("name: multi", "name: ce", "two rows are named 'ce'"),
        ("name: multi", "init_from: muti, name: multi", r"row multi, init_from: unknown name 'muti'; did you mean"),
        ("name: multi", "init_from: multi, name: multi", "in a circle: multi <- multi"),
        ("name: multi", "set: tny, name: multi", r"row multi, set: unknown name 'tny'; did you mean 'tiny'\?"),
        ("columns:", "compare: [{rows: [multi, c]}]\ncolumns:", r"rows: unknown name 'c'; did you mean 'ce'\?"),
        ("columns:", "compare: [{rows: [multi]}]\ncolumns:", "takes two rows"),
        ("columns:", "evaluate: [{name: real, set: reel}]\ncolumns:", "evaluate, set: unknown name 'reel'"),
        ("columns:", "compare: [{rows: [multi, ce], paper: {rgb: [2.5, 0.4]}}]\ncolumns:", "rgb is .*; give a number"),
        (
            "columns:",
            "evaluate: [{name: a, set: tiny}, {name: a, set: tiny}]\ncolumns:",
            "under evaluate are named 'a'",
        ),
        ("columns:", "settings: {train.epochs: 2}\ncolumns:", "the key 'settings' comes twice"),
        ("title: Tiny", "title: [", "not valid YAML"),
    ],
)
def test_a_wrong_table_is_refused(write, old, new, message):
    assert old in TABLE
    path = write(TABLE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_table(path)
    assert path.parent.name in str(caught.value)


def test_overrides_apply_in_the_documented_order(write):
    text = TABLE.replace("columns: {rgb: {title: RGB}", "columns: {rgb: {settings: {train.epochs: 3, optim.lr: 0.3}}")
    text = text.replace('settings: {train.target: "{modality}"}', "settings: {train.epochs: 2, model.ndf: 4}")
    text = text.replace("name: multi, ", "name: multi, settings: {optim.lr: 0.4, optim.eps: 0.4}, ")
    text = text.replace("rgb: 94.4", "rgb: {paper: 94.4, settings: {optim.eps: 0.5}}")
    text += "points: {setting: data.label_share, values: [0.5, 1]}\n"
    plan = make_plan(read_table(write(text)), [7], overrides={"loss.clip": 9.0})
    config = plan.runs[plan.keys[Place("multi", "rgb", 0.5, 7)]].config
    assert (config.model.ndf, config.train.epochs, config.optim.lr, config.optim.eps) == (4, 3, 0.4, 0.5)
    assert (config.data.label_share, config.loss.clip, config.seed, config.method) == (0.5, 9.0, 7, "mmcl")
    single = plan.runs[plan.keys[Place("ce", "depth", 1.0, 7)]].config
    assert single.train.modalities == ("depth",)


def test_a_row_may_have_some_of_the_points_alone(write, tmp_path):
    points = "points: {setting: data.label_share, values: [0.5, 1]}\n"
    text = TABLE.replace("{name: ce,", "{name: ce, points: [0.5],") + points
    table = read_table(write(text))
    plan = make_plan(table, [0, 1])
    points_of = {name: {place.point for place in plan.keys if place.row == name} for name in table.rows}
    assert points_of.pop("ce") == {0.5}
    assert points_of == {"multi": {0.5, 1.0}}
    lines = [(line.row.name, line.point) for line in summarise(plan, tmp_path, {}).lines]
    assert lines == [("ce", 0.5), ("multi", 0.5), ("multi", 1.0)]
    with pytest.raises(ConfigError, match=r"row ce has the point 0\.1; the table has 0\.5, 1"):
        read_table(write(text.replace("points: [0.5],", "points: [0.1],")))
    with pytest.raises(ConfigError, match=r"row ce has the point 0\.5; the table has none"):
        read_table(write(text.replace(points, "")))


def test_a_row_may_have_settings_of_its_own_at_a_point(write):
    text = TABLE + "points: {setting: data.label_share, values: [0.5, 1]}\n"
    own = "{0.5: {data.label_repeats: 2, data.label_share: 0.4, train.target: '{modality}'}, 1: {}}"
    plan = make_plan(read_table(write(text.replace("{name: ce,", f"{{name: ce, points: {own},"))), [0])
    few, every = (plan.runs[plan.keys[Place("ce", "depth", point, 0)]].config for point in (0.5, 1.0))
    assert (few.data.label_repeats, few.data.label_share, few.train.target) == (2, 0.4, "depth")
    assert (every.data.label_repeats, every.data.label_share) == (1, 1.0)
    assert plan.runs[plan.keys[Place("multi", "depth", 0.5, 0)]].config.data.label_repeats == 1
    for wrong in ("3", "[]", "[half]", "[[0.5]]", "{0.5: 3}", "{half: {}}"):
        with pytest.raises(ConfigError, match=r"rows\[0\]\.points is .*; give a list of numbers, or {number: "):
            read_table(write(text.replace("{name: ce,", f"{{name: ce, points: {wrong},")))


@pytest.mark.parametrize(("name", "option"), [("seed", "--seeds"), ("data.root", "--data")])
def test_seed_and_data_are_no_settings_of_a_sweep(write, name, option):
    with pytest.raises(ConfigError, match=f"{name} of a sweep is given by {option}"):
        make_plan(read_table(write()), [0], overrides={name: 7})


def test_a_further_test_set_for_a_modality_that_no_column_has(write):
    with pytest.raises(ConfigError, match=r"evaluate, more, modality: unknown name 'rbg'; did you mean 'rgb'"):
        read_table(write(TABLE + "evaluate: [{name: more, set: tiny, modality: [rbg]}]\n"))


def test_points_of_a_setting_of_whole_numbers(write):
    plan = make_plan(read_table(write(TABLE + "points: {setting: train.batch, values: [32, 64]}\n")), [0])
    assert {run.config.train.batch for run in plan.runs.values()} == {32, 64}
    assert not plan.problems


def test_publishing_onto_itself_is_refused_before_any_run(write, tmp_path, capsys):
    path = write(TABLE)
    line = ["--config", str(path), "--out", str(tmp_path / "o"), "--publish", str(tmp_path / "x/../o")]
    assert command.main(line) == 2
    assert "is the folder of --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "cpu", "cuda:99"], "'cuda:99'"),
        (["--data", "sets", "train.epochs=1"], "has no data set 'train.epochs'"),
        (["--data", "sets", "train.epochs=1"], "settings go before --data"),
    ],
)
def test_wrong_options_are_refused_before_any_run(write, tmp_path, capsys, options, message):
    assert command.main(["--config", str(write(TABLE)), "--out", str(tmp_path / "o"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_row_with_wrong_settings_costs_that_row_alone(write):
    text = TABLE.replace("method: supervised", "method: superviced")
    text = text.replace("name: multi, ", "name: multi, settings: {optim.lrr: 1}, ")
    text += "  - {name: good, cells: {rgb: null}}\n  - {name: odd, settings: {model.input_size: 33}, cells: {rgb: 1}}\n"
    plan = make_plan(read_table(write(text)), [0])
    assert {place.row: problem for place, problem in plan.problems.items()}.keys() == {"ce", "multi", "odd"}
    assert "did you mean supervised?" in plan.problems[Place("ce", "rgb", None, 0)]
    assert "row multi, column rgb: unknown setting 'optim.lrr'" in plan.problems[Place("multi", "rgb", None, 0)]
    assert "input_size is 33" in plan.problems[Place("odd", "rgb", None, 0)]
    assert [run.title for run in plan.runs.values()] == ["good, rgb, seed 0"]


def test_sources_come_first_and_are_shared(write):
    text = TABLE + "pretraining:\n  - {name: first, settings: {data.label_share: 0, train.target: both}}\n"
    text = text.replace("name: multi, ", "name: multi, init_from: first, ")
    text += "  - {name: second, settings: {data.label_share: 0.5, train.target: both}, init_from: first}\n"
    text = text.replace("name: ce, ", "name: ce, init_from: multi, ")
    plan = make_plan(read_table(write(text)), [0, 1], rows=["ce"])
    titles = [run.title for run in plan.wanted]
    assert titles == [
        *("first, rgb, seed 0", "multi, rgb, seed 0", "ce, rgb, seed 0", "multi, depth, seed 0", "ce, depth, seed 0"),
        *("first, rgb, seed 1", "multi, rgb, seed 1", "ce, rgb, seed 1", "multi, depth, seed 1", "ce, depth, seed 1"),
    ]
    multi = plan.runs[plan.keys[Place("multi", "depth", None, 1)]]
    assert plan.runs[multi.source].title == "first, rgb, seed 1"  # the columns do not differ in it
    assert plan.runs[multi.source].places == []
    assert plan.runs[multi.source].tests == []


def test_runs_are_named_by_content(write, data, tmp_path):
    """Equal cells share a run, across tables too; another seed, set or source is another run."""
    table = read_table(write())
    keys = make_plan(table, [0, 1]).keys
    assert len(set(keys.values())) == len(keys) == 8
    again = (
        TABLE.replace("name: multi", "name: same") + "  - {name: other, settings: {optim.lr: 0.5}, cells: {rgb: 1}}\n"
    )
    other = make_plan(read_table(write(again, "again.yaml")), [1]).keys
    place = Place("multi", "rgb", None, 1)
    assert other[place._replace(row="same")] == keys[place]
    assert other[place._replace(row="other")] not in keys.values()
    # Where the set lies, and how it is worked off, are no content; what it holds is.
    (tmp_path / "link").symlink_to(data)
    overrides = {"train.device": "cuda:3", "train.threads": 5}
    assert make_plan(table, [1], data=[f"tiny={tmp_path / 'link'}"], overrides=overrides).keys[place] == keys[place]
    # So is what weights hold that a run starts from, wherever they lie.
    named = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "start.safetensors").write_bytes(content)
        start = {"model.init_from": str(tmp_path / "start.safetensors")}
        named.append(make_plan(table, [1], overrides=start).keys[place])
    assert named[0] == named[2] != named[1]
    (tmp_path / "start.safetensors").rename(tmp_path / "moved.safetensors")
    start = {"model.init_from": str(tmp_path / "moved.safetensors")}
    assert make_plan(table, [1], overrides=start).keys[place] == named[0]
    other_set = tiny.make_set(tmp_path / "other", samples=38)
    assert make_plan(table, [1], data=[str(other_set)]).keys[place] != keys[place]


def test_runs_of_a_method_that_did_something_else_are_not_taken(write, monkeypatch):
    table = read_table(write())
    before = make_plan(table, [0]).keys
    monkeypatch.setattr(method_class("mmcl"), "version", 2)
    after = make_plan(table, [0]).keys
    methods = {place: make_plan(table, [0]).runs[key].config.method for place, key in after.items()}
    assert {methods[place] for place in after if before[place] != after[place]} == {"mmcl"}
    assert (
        {methods[place] for place in after if before[place] == after[place]}
        == set(methods.values()) - {"mmcl"}
        != set()
    )


def test_sets_that_are_not_there(write, tmp_path):
    table = read_table(write(TABLE + "evaluate: [{name: real crops, set: tiny, split: nowhere}]\n"))
    with pytest.raises(DataError, match="has no split 'nowhere'; it has"):
        make_plan(table, [0])
    table = read_table(write())
    with pytest.raises(DataError, match="--data tiny=DIR"):
        make_plan(table, [0], data=[str(tmp_path / "none")])
    with pytest.raises(ConfigError, match=r"no data set 'tny'; did you mean 'tiny'\?"):
        make_plan(table, [0], data=["tny=/x"])
    with pytest.raises(ConfigError, match=r"no row 'mult'; did you mean 'multi'\?"):
        make_plan(table, [0], rows=["mult"])
    text = TABLE.replace("sets: {", "sets: {real: /nowhere, ").replace("name: ", "set: tiny, name: ")
    text += "evaluate: [{name: real crops, set: real, optional: true}]\n"
    plan = make_plan(read_table(write(text)), [0])
    assert plan.left_out == ("real crops: no prepared set in /nowhere",)
    assert {len(run.tests) for run in plan.runs.values()} == {1}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_row_of_the_committed_tables_can_be_run(path):
    plan = make_plan(read_table(path), [0], dry=True)
    assert not plan.problems
    assert len(plan.wanted) == len(plan.runs)
    assert all(run.config.train.keep == "last" for run in plan.runs.values())


@pytest.mark.parametrize("name", ["table1", "table2", "table4"])
def test_schedules_and_numbers_of_operations_are_those_of_the_authors(name):
    """CE only has a schedule of its own; depth alone has two operations of RandAugment, beside RGB it has three."""
    plan = make_plan(read_table(ROOT / f"config/tables/{name}.yaml"), [0], dry=True)
    drawn = set()
    for place, key in plan.keys.items():
        config = plan.runs[key].config
        if config.method in ("supervised", "mmcl", "amdim"):
            schedule = ((61, 91), 0) if config.method == "supervised" else ((31, 46), 500)
            assert (config.optim.milestones, config.optim.warmup_steps) == schedule, place
        if config.augment.policy == "paper" and "depth" in config.train.modalities and not config.augment.depth_op:
            drawn.add((len(config.train.modalities), config.augment.depth_ops))
    assert drawn == ({(1, 2)} if name == "table4" else {(1, 2), (2, 3)})


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "figure3"])
def test_the_papers_figures_are_the_same_wherever_they_stand(name):
    """In the table on the paper's data set, and in that table on rendered crops."""
    tables = [read_table(path) for path in TABLES if path.stem.startswith(name)]
    found = {}
    for row in (row for table in tables for row in table.rows.values()):
        for column, point in itertools.product(row.cells, (None, 0.1, 1.0)):
            if figure := row.cells[column].figure(point):
                found.setdefault((row.name, column, point), []).append(figure)
    assert any(len(figures) == len(tables) for figures in found.values())
    assert [place for place, figures in found.items() if len(set(figures)) > 1] == []


# -------------------------------------------------------------------------------------------------- figures


def fake_results(plan, out, figures, modality="rgb"):
    """Run folders that say they are finished, with figures {(row, seed): (top1, group mean, groups)}."""
    for place, key in plan.keys.items():
        if (place.row, place.seed) not in figures or place.column != modality:
            continue
        top1, mean, groups = figures[place.row, place.seed]
        folder = out / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").touch()
        for test in plan.runs[key].tests:
            place_of = folder / "evaluation" / test.label
            place_of.mkdir(parents=True)
            report = {"top1": {"value": top1}, "group_mean": {"value": mean}, "groups": groups, "per_class": {"a": {}}}
            report["samples"] = 20
            (place_of / "metrics.json").write_text(json.dumps({"modalities": {modality: report}}))
        cost = {"status": 0, "seconds": 1800, "cpu_seconds": 3600, "device": "cpu", "share": 1}
        (folder / "sweep.jsonl").write_text(json.dumps(cost) + "\n")


@pytest.fixture
def by_hand(write, tmp_path):
    """A table whose figures are made up, one run of it failed, and its summary."""
    text = TABLE + "evaluate: [{name: real, set: tiny, split: train}]\n"
    text += "compare: [{title: gain, rows: [multi, ce]}, {title: given, rows: [ce, multi], paper: {rgb: -3}}]\n"
    plan = make_plan(read_table(write(text)), [0, 1, 2, 3])
    fake_results(
        plan,
        tmp_path,
        {
            ("ce", 0): (0.50, 0.4, 9), ("ce", 1): (0.60, 0.5, 9), ("ce", 2): (0.70, 0.3, 9), ("ce", 3): (0.10, 0.2, 9),
            ("multi", 0): (0.51, 0.4, 9), ("multi", 1): (0.63, 0.5, 9), ("multi", 2): (0.75, 0.3, 9),
        },
    )  # fmt: skip
    broken = plan.keys[Place("multi", "rgb", None, 3)]
    return plan, summarise(plan, tmp_path, {broken: Outcome("failed", "no | memory")})


def test_figures_by_hand(by_hand, tmp_path):
    plan, summary = by_hand
    ce, multi = summary.lines
    found = summary.mean(multi, "rgb")
    assert found is not None
    assert found.mean == pytest.approx(63.0)
    assert found.std == pytest.approx(12.0)  # sqrt((12^2 + 0 + 12^2) / 2)
    assert found.number == 3
    assert summary.mean(ce, "rgb", "real", "group_mean").mean == pytest.approx(35.0)
    assert summary.mean(ce, "depth") is None
    gain, given = [gain for gain in summary.gains() if not gain.test]
    assert gain.found.spread.mean == pytest.approx(3.0)  # 1, 3, 5: the seeds that both have
    assert gain.found.spread.std == pytest.approx(2.0)
    assert gain.found.same_sign
    assert gain.paper == pytest.approx(1.9)
    assert given.paper == -3
    assert {(g.test, g.measure) for g in summary.gains()} == {("", "top1"), ("real", "top1"), ("real", "group_mean")}
    fake_results(plan, tmp_path / "alone", {("ce", 0): (0.50, 0.4, 20)})  # every sample a group of its own
    alone = summarise(plan, tmp_path / "alone", {})
    assert alone.mean(alone.lines[0], "rgb", "real", "group_mean") is None
    assert alone.mean(alone.lines[0], "rgb", "real").mean == pytest.approx(50.0)
    assert summary.cost(ce).seconds == 4 * 1800
    assert summary.cost(ce).cpu_hours == pytest.approx(4)


def test_pages_of_figures_by_hand(by_hand, tmp_path):
    _, summary = by_hand
    table = pages.markdown(summary)
    assert "| ce | 47.50 ± 26.30 | 92.5 | … | 79.2 ± 0.5 | 0 of 4 | 2 h 00 min | 4.00 CPU-h |" in table
    assert "| Multi | 63.00 ± 12.00 (3 of 4) | 94.4 |" in table
    assert "|  | RGB | paper | RGB, real |" in table  # no column for what was not compared
    assert "| gain | +3.00 ± 2.00 * (3 of 4) | +1.90 | +0.00 ± 0.00 (3 of 4) |" in table
    assert "| given | -3.00 ± 2.00 * (3 of 4) | -3.00 |" in table
    assert "- Failed: multi, rgb, seed 3: no | memory" in table
    rows = list(csv.DictReader(pages.csv_of_table(summary).splitlines()))
    row = next(r for r in rows if (r["row"], r["column"], r["test"]) == ("multi", "rgb", "test split"))
    assert (row["mean"], row["std"], row["seeds_done"], row["failed"]) == ("63.0000", "12.0000", "3", "1")
    runs = list(csv.DictReader(pages.csv_of_runs(summary).splitlines()))
    assert len(runs) == 16
    assert [r["state"] for r in runs if r["row"] == "multi" and r["column"] == "rgb"] == [*["done"] * 3, "failed"]
    plots = save_plots(summary, tmp_path)
    assert [path.name for path in plots] == ["plot.png", "plot-real.png"]
    page = pages.html_page(summary, plots, {"commands": ["<b>"]})
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained


def test_a_failure_of_an_earlier_start_is_not_forgotten(write, tmp_path):
    """Where other rows alone are run anew; and a test set that a column never sees is not waited for."""
    text = TABLE + "evaluate: [{name: real, set: tiny, split: train, modality: [rgb]}]\n"
    table = read_table(write(text))
    key = make_plan(table, [0]).keys[Place("multi", "rgb", None, 0)]
    folder = tmp_path / "runs" / key
    folder.mkdir(parents=True)
    (folder / "sweep.log").write_text("error: the loss is not finite\n")
    costs = [{"status": status, "seconds": 1, "cpu_seconds": 1, "device": "cpu", "share": 1} for status in (75, 1)]
    (folder / "sweep.jsonl").write_text("".join(json.dumps(cost) + "\n" for cost in costs))
    page = pages.markdown(summarise(make_plan(table, [0], ["ce"]), tmp_path, {}))
    assert "| Multi | failed | 94.4 | … |" in page
    assert "Failed: multi, rgb, seed 0: the loss is not finite (exit status 1)" in page
    assert "| Multi | failed | - |" in page.split("Tested on real")[1]
    assert "| ce | … | - |" in page.split("Tested on real")[1]
    again = pages.markdown(summarise(make_plan(table, [0]), tmp_path, {}))
    assert "failed" not in again, "it is about to be tried again"


def test_plots_of_an_earlier_start_do_not_stay(by_hand, tmp_path):
    plan, summary = by_hand
    assert {path.name for path in save_plots(summary, tmp_path)} == {"plot.png", "plot-real.png"}
    (tmp_path / "others.png").touch()
    nothing_yet = summarise(plan, tmp_path / "another", {})
    assert save_plots(nothing_yet, tmp_path) == []
    assert [path.name for path in tmp_path.glob("*.png*")] == ["others.png"]


def test_long_titles_leave_room_for_the_figures(write, tmp_path):
    long = "set 1 - RandAugment with Cutout, Rotate, TranslateX, ShearX, ShearY, Sharpness"
    plan = make_plan(read_table(write(TABLE.replace("title: Multi", f"title: '{long}'"))), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0), ("multi", 0): (0.6, 0, 0)})
    picture = np.asarray(Image.open(save_plots(summarise(plan, tmp_path, {}), tmp_path)[0]).convert("RGB"))
    grid = (picture == [0xDF, 0xE1, 0xE4]).all(2)
    assert grid.mean(1).max() > 0.6  # the share of the picture's width that the lines of the rows run over


def test_signs_that_differ_and_points(write, tmp_path):
    text = TABLE + "compare: [{rows: [multi, ce]}]\npoints: {setting: data.label_share, values: [0.5, 1.0]}\n"
    text = text.replace("rgb: 94.4", "rgb: {0.5: 70, 1.0: [94.4, 1]}")
    plan = make_plan(read_table(write(text)), [0, 1])
    figures = {("ce", 0): (0.5, 0, 0), ("ce", 1): (0.5, 0, 0), ("multi", 0): (0.6, 0, 0), ("multi", 1): (0.4, 0, 0)}
    fake_results(plan, tmp_path, figures)
    summary = summarise(plan, tmp_path, {})
    assert len(summary.lines) == 4
    assert [gain.point for gain in summary.gains()] == [0.5, 1.0]
    assert not any(gain.found.same_sign for gain in summary.gains())
    multi = plan.table.rows["multi"]
    assert summary.paper(Line(multi, 0.5), "rgb") == (70.0,)
    assert summary.paper(Line(multi, 1.0), "rgb") == (94.4, 1.0)
    assert summary.paper(Line(multi, 1.0), "depth") == (86.1,)
    assert save_plots(summary, tmp_path)[0].stat().st_size > 5000
    one = summarise(make_plan(read_table(write(text)), [0]), tmp_path, {})
    mean = one.mean(one.lines[0], "rgb")
    assert math.isnan(mean.std)
    assert "| ce, 0.5 | 50.00 | 92.5 |" in pages.markdown(one)


# -------------------------------------------------------------------------------------------------- processes

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
job = json.loads(sys.stdin.readline())
print("working on", job["name"], job["device"], flush=True)
with open(job["log"], "a") as log:
    log.write(f"+{job['name']}\\n")
    log.flush()
    if job["do"] == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print("waits", flush=True)
        sys.stdin.read()
        sys.exit(75)
    if job["do"] == "fail":
        print("error: it broke", flush=True)
        sys.exit(3)
    if job["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    log.write(f"-{job['name']}\\n")
"""


def tasks_of(folder, *specs):
    """Tasks from (name, what it does, what it comes after)."""
    return [
        Task(name, folder / name, {"name": name, "do": do, "log": str(folder / "log")}, after)
        for name, do, after in specs
    ]


def run_pool(tasks, slots):
    outcomes = {}
    complete = run_tasks(tasks, (sys.executable, "-c", CHILD), slots, lambda t, o: outcomes.update({t.key: o}))
    return complete, outcomes


def test_order_failures_and_devices(tmp_path):
    specs = [("late", "", "a"), ("a", "", ""), ("b", "fail", ""), ("c", "", "b"), ("d", "", "c"), ("e", "die", "")]
    complete, outcomes = run_pool(tasks_of(tmp_path, *specs), ["x", "y"])
    assert complete
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        **{"late": "done", "a": "done"}, **dict.fromkeys("bcde", "failed")
    }  # fmt: skip
    assert outcomes["b"].reason == "it broke (exit status 3)"
    assert outcomes["c"].reason == outcomes["d"].reason == "the run it starts from failed"
    assert "killed by SIGKILL" in outcomes["e"].reason
    events = (tmp_path / "log").read_text().split()
    assert events.index("-a") < events.index("+late")
    assert not {"+c", "+d"} & set(events)
    assert "working on a x" in (tmp_path / "a" / "sweep.log").read_text()
    (cost,) = read_costs(tmp_path / "a")
    assert (cost["status"], cost["device"], cost["share"]) == (0, "x", 1)
    assert cost["seconds"] >= 0.1
    assert 0 < cost["cpu_seconds"] < cost["seconds"] + 1


def test_a_signal_stops_all_and_starts_no_more(tmp_path):
    tasks = tasks_of(tmp_path, ("a", "wait", ""), ("b", "wait", ""), ("c", "", ""))

    def ask():
        while not all(last_line(tmp_path / name / "sweep.log") == "waits" for name in "ab"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    complete, outcomes = run_pool(tasks, ["cpu", "cpu"])
    assert not complete
    assert {key: outcome.state for key, outcome in outcomes.items()} == {"a": "stopped", "b": "stopped"}
    assert read_costs(tmp_path / "a")[0]["share"] == 2


# -------------------------------------------------------------------------------------------------- real sweeps


def figures_of(path):
    """Lines of runs.csv without the costs."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "cpu_hours", "gpu_hours")}
        for row in csv.DictReader((path / "runs.csv").read_text().splitlines())
    ]


def sweep(*arguments):
    return command.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    """A finished sweep of three rows and two seeds: one that another starts from, and one that fails."""
    folder = tmp_path_factory.mktemp("swept")
    config = tiny.settings(Path(), "data.val_fraction=0", "train.epochs=3", "train.threads=0", "train.save_every=1")
    (folder / "base.yaml").write_text(yaml.safe_dump(to_dict(config)))
    text = TABLE.replace("SET", str(data)).replace(", depth: 86.1", "").replace(", depth: [79.2, 0.5]", "")
    text = text.replace("name: multi, ", "name: multi, init_from: ce, ")
    text += "  - {name: bad, settings: {train.batch: 4000}, cells: {rgb: 1}}\ncompare: [{rows: [multi, ce]}]\n"
    text += "evaluate: [{name: camera unknown, set: tiny, hide_camera: true}]\n"
    (folder / "table.yaml").write_text(text)
    options = ("--seeds", 0, 1, "--jobs", 2, "--publish", folder / "p")
    assert sweep("--config", folder / "table.yaml", "--out", folder / "out", *options) == command.EXIT_FAILED
    return folder


def test_a_run_that_was_never_started_has_no_log_to_name(write, tmp_path, monkeypatch, caplog):
    def fail(tasks, command, slots, ended):
        (tasks[0].folder).mkdir(parents=True)
        (tasks[0].folder / "sweep.log").write_text("wrong")
        for task in tasks:
            ended(task, Outcome("failed", "why"))
        return True

    monkeypatch.setattr("mmcl_core.engine.sweep.session.run_tasks", fail)
    Session(make_plan(read_table(write()), [0], ["ce"]), tmp_path / "out", ["cpu"]).run()
    first, second = (record.message for record in caplog.records if " failed: why" in record.message)
    assert "sweep.log" in first
    assert "log" not in second


@pytest.mark.slow
def test_a_real_sweep(swept):
    out = swept / "out"
    rows = figures_of(out / "table")
    assert [row["state"] for row in rows] == ["done"] * 4 + ["failed"] * 2
    reason = "train.batch is 4000, but the training split has 40 samples; give train.batch=40 or less"
    assert all(reason in row["reason"] for row in rows[4:])
    assert "| bad | failed |" in (out / "table" / "table.md").read_text()
    for row in rows[:4]:
        run = out / "runs" / row["run"]
        report, hidden = (
            json.loads(next(run.glob(f"evaluation/set-test-????????{ending}/metrics.json")).read_text())
            for ending in ("", "-no-camera")
        )
        assert [told["settings"]["hide_camera"] for told in (report, hidden)] == [False, True]
        assert float(row["test split: top1"]) == pytest.approx(100 * report["modalities"]["rgb"]["top1"]["value"])
        assert report["data"]["samples"] == 12
        config = read_config(run)
        assert config.train.threads == max(1, len(os.sched_getaffinity(0)) // 2)
        assert config.seed == int(row["seed"])
        source = next(r["run"] for r in rows if r["row"] == "ce" and r["seed"] == row["seed"])
        assert config.model.init_from == ("" if row["row"] == "ce" else str(out / "runs" / source))
    published = sorted(path.name for path in (swept / "p" / "table").iterdir())
    plots = ["plot-camera_unknown.png", "plot.png"]
    assert published == ["environment.json", "index.html", *plots, "runs.csv", "table.csv", "table.md"]
    facts = json.loads((swept / "p" / "table" / "environment.json").read_text())
    written = "python -m mmcl_core.sweep --config table.yaml --out out --seeds 0 1 --jobs 2 --publish p"
    assert facts["commands"] == [written]
    assert sum(facts["runs"].values()) == 4


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(swept, tmp_path):
    """SIGKILL of the sweep alone: its run saves and stops, and nothing that was done is done again."""
    expected = [row for row in figures_of(swept / "out" / "table") if row["seed"] == "0"][:2]
    out = tmp_path / "out"
    arguments = ("--config", swept / "table.yaml", "--out", out, "--seeds", 0, "--jobs", 2, "--rows", "ce", "multi")
    first = tiny.start(sweep, *arguments, PYTHONPATH=str(ROOT))
    log = out / "runs" / expected[0]["run"] / "metrics.jsonl"
    while first.exitcode is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    first.kill()
    first.join()
    assert sweep(*arguments) == 0
    assert figures_of(out / "table")[:2] == expected
    for row in expected:
        name = Path("runs") / row["run"] / "metrics.jsonl"
        assert (out / name).read_bytes() == (swept / "out" / name).read_bytes()
    saved = (out / "runs" / expected[0]["run"] / "sweep.log").read_text()
    assert saved.count("--- ") == 2  # the process of the first sweep, and that which went on
    assert "the state is saved" in saved
    # Once more: nothing to do, not even an evaluation, and no process is started.
    files = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*")}
    assert sweep(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*")} == files


def test_dry_run_lists_and_starts_nothing(write, tmp_path, capsys):
    path = write()
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "--seeds", "0"]) == 0
    text = capsys.readouterr().out
    assert "4 runs" in text
    assert "multi, depth, seed 0" in text
    assert not (tmp_path / "out").exists()
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "method=mmlc"]) == 1
    wrong = write(TABLE.replace("name: multi, ", "name: multi, settings: {method: mmlc}, "))
    dry = ["--config", str(wrong), "--out", str(tmp_path / "out"), "--dry-run", "--rows"]
    assert [command.main([*dry, name]) for name in ("multi", "ce")] == [
        1,
        0,
    ]  # others cost nothing
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "--rows", "x"]) == 2
