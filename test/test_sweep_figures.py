"""Figures of a sweep from invented results: means, differences, costs, and the pages and plots that show them."""

import csv
import io
import json
import math
import re
import shutil
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_tables import TABLE, data, write

from mmcl_core.engine.sweep import pages, plots
from mmcl_core.engine.sweep.plan import Place, make_plan
from mmcl_core.engine.sweep.plots import save_plots
from mmcl_core.engine.sweep.pool import Outcome
from mmcl_core.engine.sweep.session import Session
from mmcl_core.engine.sweep.summary import Line, summarise
from mmcl_core.engine.sweep.table import read_table

__all__ = ["data", "write"]  # fixtures


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
    for groups in (20, 1):  # every sample a group of its own, and every class one: nothing that a group's mean tells
        fake_results(plan, tmp_path / str(groups), {("ce", 0): (0.50, 0.4, groups)})
        alone = summarise(plan, tmp_path / str(groups), {})
        assert alone.mean(alone.lines[0], "rgb", "real", "group_mean") is None
        assert alone.mean(alone.lines[0], "rgb", "real").mean == pytest.approx(50.0)
    assert summary.cost(ce).seconds == 4 * 1800
    assert summary.cost(ce).cpu_hours == pytest.approx(4)


def test_costs_of_processors_and_gpus(by_hand, tmp_path):
    """A run that went on on another device, and a GPU that two runs shared, of which half counts."""
    plan, _ = by_hand
    ce = plan.keys[Place("ce", "rgb", None, 0)]
    costs = [
        {"status": 75, "seconds": 900, "cpu_seconds": 1800, "device": "cpu", "share": 1},
        {"status": 75, "seconds": 3600, "cpu_seconds": 7200, "device": "cuda:0", "share": 2},
        {"status": 0, "seconds": 1800, "cpu_seconds": 7200, "device": "cuda:1", "share": 1},
    ]
    (tmp_path / "runs" / ce / "sweep.jsonl").write_text("".join(json.dumps(cost) + "\n" for cost in costs))
    cost = summarise(plan, tmp_path, {}).costs[ce]
    assert cost.seconds == 6300
    assert cost.cpu_hours == pytest.approx(0.5)
    assert cost.gpu_hours == pytest.approx(0.5 + 0.5)


def test_no_gain_of_the_paper_where_it_lacks_a_figure(write, tmp_path):
    text = TABLE.replace("rgb: 92.5", "rgb: null") + "compare: [{rows: [multi, ce]}]\n"
    plan = make_plan(read_table(write(text)), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0.4, 1), ("multi", 0): (0.6, 0.4, 1)})
    summary = summarise(plan, tmp_path, {})
    (gain,) = summary.gains()
    assert gain.paper is None
    assert gain.found.spread.mean == pytest.approx(10)
    assert gain.found.spread.number == 1


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
    paths = save_plots(summary, tmp_path)
    assert [path.name for path in paths] == ["plot.png", "plot-real.png"]
    page = pages.html_page(summary, paths, {"commands": ["<b>"]})
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained


def test_a_failure_of_an_earlier_start_is_not_forgotten(write, tmp_path):
    """Where other rows alone are run anew."""
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
    assert "| Multi | failed |\n" in page.split("Tested on real")[1]
    assert "| ce | … |\n" in page.split("Tested on real")[1]
    again = pages.markdown(summarise(make_plan(table, [0]), tmp_path, {}))
    assert "failed" not in again, "it is about to be tried again"


@pytest.mark.parametrize("points", ["", "points: {setting: data.label_share, values: [0.5, 1.0]}\n"])
def test_a_column_that_a_test_set_is_not_for_is_not_shown_with_it(write, tmp_path, points):
    text = TABLE + "evaluate: [{name: real, set: tiny, split: train, modality: [rgb]}]\n" + points
    plan = make_plan(read_table(write(text)), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0), ("multi", 0): (0.6, 0, 0)})
    summary = summarise(plan, tmp_path, {})
    assert "|  | RGB: top-1 |\n" in pages.markdown(summary)
    rows = list(csv.DictReader(io.StringIO(pages.csv_of_table(summary))))
    assert {(row["test"], row["column"]) for row in rows} == {
        ("test split", "rgb"), ("test split", "depth"), ("real", "rgb"),
    }  # fmt: skip
    own, real = (Image.open(path).size for path in save_plots(summary, tmp_path))
    assert real[0] < own[0]  # a panel less


def test_edited_files_of_a_run_cost_its_figures_alone(by_hand, tmp_path):
    plan, summary = by_hand
    known = {place: result.scores for place, result in summary.results.items()}
    place = next(place for place, scores in known.items() if scores)
    folder = summary.out / "runs" / plan.keys[place]
    for path in folder.glob("evaluation/*/metrics.json"):
        path.write_text('{"modalities": {"rgb": {"top1": 0.5}}}')
    with (folder / "sweep.jsonl").open("ab") as file:
        file.write(
            b'{}\n{"seconds": 5}}\n\xff\xfe}\n[1]\n{"status": 0, "seconds": null, "cpu_seconds": 1, "share": 1}\n'
        )
    (folder / "environment.json").write_text('{"gpu": null}')
    table = tmp_path / "sweep" / plan.table.path.stem
    table.mkdir(parents=True)
    (table / "environment.json").write_text("[]")
    shutil.copytree(summary.out / "runs", tmp_path / "sweep" / "runs")
    found = Session(plan, tmp_path / "sweep", ["cpu"]).write()
    assert {p: r.scores for p, r in found.results.items()} == known | {place: {}}
    assert found.results[place].state == "open"
    assert found.costs == summary.costs


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


@pytest.mark.parametrize("points", ["", "points: {title: '$x$ $', setting: data.label_share, values: [0.5, 1.0]}\n"])
def test_a_dollar_in_a_title_is_no_formula(write, tmp_path, points):
    text = TABLE.replace("title: Multi", "title: '5 $ or $\\nonsense{$ a crop'").replace(
        "rgb: {title: RGB}", "rgb: {title: $R^$}"
    )
    plan = make_plan(read_table(write(text + points)), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0), ("multi", 0): (0.6, 0, 0)})
    assert [path.name for path in save_plots(summarise(plan, tmp_path, {}), tmp_path)][:1] == ["plot.png"]


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
    assert "| ce, 50 % of the labels | 50.00 | 92.5 |" in pages.markdown(one)
    assert "| multi - ce, 50 % of the labels | +10.00 | -22.50 |" in pages.markdown(one), "one seed has but one sign"
    assert {row["std"] for row in csv.DictReader(pages.csv_of_table(one).splitlines())} == {""}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of their files."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


def test_a_point_of_accuracy_is_as_wide_in_every_panel(write, tmp_path, figures):
    text = TABLE.replace("{rgb: 92.5, depth: [79.2, 0.5]}", "{rgb: 10, depth: 79.2}")
    plan = make_plan(read_table(write(text)), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0), ("multi", 0): (0.6, 0, 0)})
    save_plots(summarise(plan, tmp_path, {}), tmp_path)
    (rgb, depth) = (panel.get_xlim() for panel in figures[0].axes)
    assert rgb[1] - rgb[0] == pytest.approx(depth[1] - depth[0])
    assert rgb[0] < 10 < 94.4 < rgb[1]
    assert depth[0] < 79.2 < 86.1 < depth[1] <= 101.001


def test_a_modality_has_its_colour_and_the_diamond_is_explained_where_there_is_one(write, tmp_path, figures):
    text = TABLE.replace("{rgb: {title: RGB}, depth: {}}", "{depth: {}}")
    text = text.replace("rgb: 92.5, depth: [79.2, 0.5]", "depth: null").replace("rgb: 94.4, depth: 86.1", "depth: 86.1")
    for one in (text, text.replace("depth: 86.1", "depth: null")):
        plan = make_plan(read_table(write(one)), [0])
        fake_results(plan, tmp_path / str(len(figures)), {("ce", 0): (0.5, 0, 0)}, "depth")
        save_plots(summarise(plan, tmp_path / str(len(figures)), {}), tmp_path)
    with_paper, without = figures
    assert {line.get_color() for line in without.axes[0].lines} == {"#d07a1c"}
    below_with, below_without = ("".join(text.get_text() for text in one.texts) for one in (with_paper, without))
    assert "diamond: the paper's figure" in below_with
    assert "diamond" not in below_without


def test_rows_of_curves_differ_in_more_than_colour_and_do_not_hide_each_other(write, tmp_path, figures):
    text = TABLE.replace("{rgb: {title: RGB}, depth: {}}", "{depth: {}, rgb: {title: RGB}}")
    text += "points: {setting: data.label_share, title: share, values: [0.1, 1.0]}\n"
    plan = make_plan(read_table(write(text)), [0, 1])
    shown = {(row, seed): (0.5, 0, 0) for row in ("ce", "multi") for seed in (0, 1)}
    fake_results(plan, tmp_path, shown)
    save_plots(summarise(plan, tmp_path, {}), tmp_path)
    rgb, depth = figures[0].axes
    assert [rgb.get_title(loc="left"), depth.get_title(loc="left")] == ["RGB", "depth"]
    assert rgb.get_xlabel() == "share (log scale)"
    one, other = (container.lines[0] for container in rgb.containers)
    assert one.get_marker() != other.get_marker()
    assert one.get_linestyle() != other.get_linestyle()
    assert other.get_xdata() / one.get_xdata() == pytest.approx(1.02, abs=0.001)
    assert "% of the labels" in pages.markdown(summarise(plan, tmp_path, {}))


def test_curves_go_from_left_to_right_and_titles_of_panels_stay_over_them(write, tmp_path, figures):
    text = TABLE.replace("title: RGB", "title: colours of a camera that training has never seen at all")
    text += "points: {setting: data.label_share, values: [1.0, 0.1, 0.5]}\n"
    plan = make_plan(read_table(write(text)), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0)})
    save_plots(summarise(plan, tmp_path, {}), tmp_path)
    (curve,) = (container.lines[0] for container in figures[0].axes[0].containers)
    assert list(curve.get_xdata()) == sorted(curve.get_xdata())
    assert max(map(len, figures[0].axes[0].get_title(loc="left").splitlines())) < 47


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_are_told_once(write, tmp_path, caplog):
    plan = make_plan(read_table(write(TABLE.replace("title: RGB", "title: 赤"))), [0])
    fake_results(plan, tmp_path, {("ce", 0): (0.5, 0, 0)})
    for _ in range(2):
        save_plots(summarise(plan, tmp_path, {}), tmp_path)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'plot.png'} shows boxes for letters that its font lacks")


def test_abbreviations_of_titles_are_explained(write):
    text = TABLE.replace("name: ce,", "name: ce, title: CL + CE,").replace("title: Multi", "title: CERAMIC")
    found = pages.markdown(summarise(make_plan(read_table(write(text)), [0]), Path("/nowhere"), {}))
    assert "CE: classification by cross-entropy; CL: contrastive learning.\n" in found
    assert "RandAugment" not in found
    assert "cross-entropy" not in pages.markdown(summarise(make_plan(read_table(write()), [0]), Path("/nowhere"), {}))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("note: The figures are for <others>.", ["The figures are for <others>."]),
        ("note: [One., '', Two.]", ["One.", "Two."]),
        ("note:", []),
    ],
)
def test_notes_of_a_table_stand_under_its_result(write, given, shown):
    text = TABLE.replace("title: Tiny", f"title: Tiny\n{given}").replace("name: multi,", "name: multi, note: a row's,")
    text += "evaluate: [{name: real, set: tiny, split: train}]\n"
    summary = summarise(make_plan(read_table(write(text)), [0]), Path("/nowhere"), {})
    result, others = pages.markdown(summary).split("## Tested on real")
    assert [line[2:] for line in result.splitlines() if line.startswith("- ")] == [*shown, "Multi: a row's"]
    assert "- " not in others.splitlines()
    page = pages.html_page(summary, [], {})
    result = page[page.index("<h2>Result") : page.index("<h2>Tested on real")]
    assert re.findall('<p class="muted">(.*?)</p>', result) == [escape(note) for note in (*shown, "Multi: a row's")]


def test_titles_over_several_lines_stay_in_their_cells(write, tmp_path):
    text = TABLE.replace("title: Multi", 'title: "Multi\\n  task\\n"').replace("title: RGB", 'title: "RGB\\n"')
    page = pages.markdown(summarise(make_plan(read_table(write(text)), [0]), tmp_path, {}))
    assert "| Multi task | … | 94.4 | … | 86.1 |" in page
    assert "|  | RGB | paper | depth | paper |" in page


def test_a_data_set_is_named_by_its_folder_however_that_is_given(write, data, tmp_path, monkeypatch):
    table = read_table(write())
    monkeypatch.chdir(data)
    page = pages.markdown(summarise(make_plan(table, [0], data=["."]), tmp_path, {}))
    assert "\nData: set.\n" in page
