"""Tables of runs: what a table file may hold, which runs follow from it, and the committed ones."""

import itertools
import re
from pathlib import Path

import pytest
import tiny
from small_tables import TABLE, data, write

from mmcl_core.engine.sweep.plan import Place, locate_sets, make_plan
from mmcl_core.engine.sweep.summary import summarise
from mmcl_core.engine.sweep.table import read_table
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.methods import method_class

__all__ = ["data", "write"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]
BASES = ("rendered.yaml", "small_adamw.yaml")  # what tables start from
TABLES = sorted(path for path in (ROOT / "config/tables").glob("*.yaml") if path.name not in BASES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Tiny", "titel: Tiny", r"unknown setting 'titel'; did you mean 'title'\?"),
        ("title: Tiny", "title: Tiny\nnotes: mind this", r"unknown setting 'notes'; did you mean 'note'\?"),
        ("title: Tiny", "title: Tiny\nnote: [mind this, 3]", "note must be str, got 3"),
        ("name: ce, ", "name: ce, sell: 3, ", r"unknown setting 'rows\[0\]\.sell'; did you mean 'rows\[0\]\.cells'"),
        ("base: base.yaml", "base: bas.yaml", "cannot read the configuration"),
        ("base: base.yaml", "", "a table has base, sets, columns and rows"),
        ("rgb: 92.5", "rbg: 92.5", r"row ce has a cell in an unknown column 'rbg'; did you mean 'rgb'\?"),
        ("rgb: 92.5", "rgb: high", r"rows\[0\]\.cells\.rgb\.paper is 'high'; give a number"),
        ("rgb: 92.5", "rgb: {papr: 92.5}", r"rgb\.papr'; did you mean 'rows\[0\]\.cells\.rgb\.paper'\?"),
        ("cells: {rgb: 94.4, depth: 86.1}", "", "row multi has no cells"),
        ("name: multi", "name: ce", "two rows are named 'ce'"),
        ("title: Multi", "title: ce", "the rows ce and multi are both titled 'ce'; tell them apart"),
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
            "under evaluate are named 'a' and 'a'",
        ),
        (
            "columns:",
            "evaluate: [{name: far away, set: tiny}, {name: far-away, set: tiny}]\ncolumns:",
            "under evaluate are named 'far away' and 'far-away'; their plots would be one file",
        ),
        ("name: ce, ", "name: ce, shown: false, ", r"unknown setting 'rows\[0\]\.shown'"),
        ("rgb: {title: RGB}", "rgb: {name: red, title: RGB}", r"unknown setting 'columns\.rgb\.name'"),
        ("columns:", "settings: {train.epochs: 2}\ncolumns:", "the key 'settings' comes twice"),
        ("title: Tiny", "title: [", "not valid YAML"),
        ("rgb: 92.5", "32: 92.5", "row ce has a cell in an unknown column '32'; known are rgb, depth"),
        ("rgb: 92.5", "rgb: true", r"rows\[0\]\.cells\.rgb\.paper is True; give a number"),
        ("rgb: 92.5", "rgb: {0.5: 92.5}", r"row ce, rgb: a figure at the point 0\.5; the table has none"),
        ("rgb: 92.5", "rgb: [92.5, 0.5, 3]", r"rgb\.paper is \[92\.5, 0\.5, 3\]; give a number"),
        ("rgb: 92.5", "rgb: []", r"rgb\.paper is \[\]; give a number"),
        ("depth: {}", "depth: {title: RGB}", "the columns rgb and depth are both titled 'RGB'; tell them apart"),
        ("columns:", "compare: [{rows: [multi, ce]}, {title: multi - ce, rows: [ce, multi]}]\ncolumns:", "are titled"),
        ("columns:", "evaluate: [{name: test split, set: tiny}]\ncolumns:", "as the rows' own is in the CSV"),
        ("columns:", "points: {setting: data.label_share}\ncolumns:", "points takes a setting and its values"),
        ("columns:", "points: {values: [0.5, 1]}\ncolumns:", "points takes a setting and its values"),
        ("columns:", "points: {setting: data.label_share, values: [1, 1.0]}\ncolumns:", "each once"),
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


@pytest.mark.parametrize(
    ("split", "evaluate", "refused"),
    [
        ("test", "", {"rgb", "depth"}),
        ("train", "", set()),
        ("train", "evaluate: [{name: more, set: tiny, split: train, modality: [depth]}]\n", {"depth"}),
    ],
)
def test_weights_are_not_tested_on_what_they_are_chosen_by(write, split, evaluate, refused):
    """The other row keeps the last ones."""
    text = TABLE.replace("name: multi,", f"name: multi, settings: {{train.keep: best, data.val_split: {split}}},")
    plan = make_plan(read_table(write(text + evaluate, "table.yaml", "data.val_split=test")), [0])
    assert {(place.row, place.column) for place in plan.problems} == {("multi", column) for column in refused}
    assert all(f"weights by data.val_split={split}" in problem for problem in plan.problems.values())
    assert all(run.places for run in plan.runs.values()), "one without a cell would count as a pre-training"


def test_what_weights_start_from_is_not_chosen_by_what_they_are_tested_on(write):
    text = TABLE.replace("name: multi,", "name: multi, settings: {train.keep: best, data.val_split: test},")
    text = text.replace("name: ce,", "name: ce, init_from: multi,")
    plan = make_plan(read_table(write(text)), [0])
    assert {(place.row, place.column) for place in plan.problems} == {
        (row, column) for row in ("ce", "multi") for column in ("rgb", "depth")
    }
    assert all(problem.startswith("multi, ") for problem in plan.problems.values()), "whose choice it is"


@pytest.mark.parametrize(("name", "option"), [("seed", "--seeds"), ("data.root", "--data")])
def test_seed_and_data_are_no_settings_of_a_sweep(write, name, option):
    with pytest.raises(ConfigError, match=f"{name} of a sweep is given by {option}"):
        make_plan(read_table(write()), [0], overrides={name: 7})
    section, _, key = name.rpartition(".")
    with pytest.raises(ConfigError, match=f"{name} of a sweep is given by {option}"):
        make_plan(read_table(write()), [0], overrides={section: {key: 7}} if section else {name: 7})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: multi", "settings: {seed: 3}, name: multi"),
        ("title: RGB", "settings: {seed: 3}"),
        ("rgb: 94.4", "rgb: {settings: {seed: 3}}"),
        ("{train.target", "{seed: 3, train.target"),
        ("columns:", "points: {setting: seed, values: [1, 2]}\ncolumns:"),
    ],
)
def test_seed_and_data_are_no_settings_in_a_table(write, old, new):
    with pytest.raises(ConfigError, match="seed of a sweep is given by --seeds"):
        make_plan(read_table(write(TABLE.replace(old, new, 1))), [0])


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("name: multi", "settings: {data.label_share: 0.0}, name: multi", "row multi"),
        ("title: RGB", "settings: {data.label_share: 0.0}, title: RGB", "columns"),
        ("rgb: 94.4", "rgb: {settings: {data.label_share: 0.0}}", "row multi"),
        ("{train.target", "{data.label_share: 0.0, train.target", "settings"),
        ("name: multi", "settings: {data: {label_share: 0.0}}, name: multi", "row multi"),
    ],
)
def test_the_setting_of_the_points_is_given_by_them_alone(write, old, new, where):
    points = "points: {setting: data.label_share, values: [0.5, 1]}\n"
    table = read_table(write(TABLE.replace(old, new, 1) + points))
    with pytest.raises(ConfigError, match=f"{where}: data.label_share is set by the points"):
        make_plan(table, [0])
    for overrides in ({"data.label_share": 0.3}, {"data": {"label_share": 0.3}}):
        with pytest.raises(ConfigError, match=r"data\.label_share is what the points of .* are values of"):
            make_plan(read_table(write(TABLE + points)), [0], overrides=overrides)


def test_names_and_keys_may_look_like_numbers(write, tmp_path):
    text = TABLE.replace("rgb: ", "32: ").replace("depth: ", "64: ")
    text = text.replace("{title: RGB}", "{modality: rgb}").replace("{}", "{modality: depth}")
    table = read_table(write(text + "compare: [{rows: [multi, ce], paper: {32: 2.0}}]\n"))
    assert list(table.columns) == ["32", "64"]
    assert table.compare[0].paper == {"32": 2.0}
    plan = make_plan(table, [0])
    assert not plan.problems
    assert plan.runs[plan.keys[Place("ce", "32", None, 0)]].config.train.modalities == ("rgb",)
    plan = make_plan(read_table(write(TABLE.replace("settings: {train.target", "settings: {5: 3, train.target"))), [0])
    assert all("unknown setting '5'" in problem for problem in plan.problems.values())
    assert plan.problems


def test_a_further_test_set_for_a_modality_that_no_column_has(write):
    with pytest.raises(ConfigError, match=r"evaluate, more, modality: unknown name 'rbg'; did you mean 'rgb'"):
        read_table(write(TABLE + "evaluate: [{name: more, set: tiny, modality: [rbg]}]\n"))


def test_a_further_test_set_is_for_the_columns_of_its_modalities_alone(write):
    text = TABLE + "evaluate: [{name: real, set: tiny, split: train, modality: [rgb]}]\n"
    plan = make_plan(read_table(write(text)), [0])
    for row in ("ce", "multi"):
        runs = {column: plan.runs[plan.keys[Place(row, column, None, 0)]] for column in ("rgb", "depth")}
        tests = {column: [test.name for test in run.tests] for column, run in runs.items()}
        assert tests == {"rgb": ["", "real"], "depth": [""]}


def test_points_of_a_setting_of_whole_numbers(write):
    plan = make_plan(read_table(write(TABLE + "points: {setting: train.batch, values: [32, 64]}\n")), [0])
    assert {run.config.train.batch for run in plan.runs.values()} == {32, 64}
    assert not plan.problems


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


def test_a_cell_may_start_from_another_row_than_its_row_does(write):
    text = TABLE.replace("name: multi, ", "name: multi, init_from: first, ")
    text = text.replace("depth: 86.1", "depth: {paper: 86.1, init_from: second}") + "pretraining:\n"
    for name, share in (("first", 0), ("second", 0.5)):
        text += f"  - {{name: {name}, settings: {{data.label_share: {share}, train.target: both}}}}\n"
    plan = make_plan(read_table(write(text)), [0])
    runs = [plan.runs[plan.keys[Place("multi", column, None, 0)]] for column in ("rgb", "depth")]
    assert [plan.runs[run.source].title for run in runs] == ["first, rgb, seed 0", "second, depth, seed 0"]


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


def test_runs_are_named_by_the_content_of_the_weights_of_their_backbone(write, tmp_path):
    table, keys = read_table(write()), []
    for name, content in (("a.pth", b"one"), ("b.pth", b"two"), ("moved.pth", b"one")):
        (tmp_path / name).write_bytes(content)
        start = {"model.backbone": "resnet18", "model.backbone_weights": str(tmp_path / name)}
        keys.append(make_plan(table, [0], overrides=start).keys[Place("ce", "rgb", None, 0)])
    assert keys[0] == keys[2] != keys[1]


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
    for content in ("[]", '{"splits": null}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(DataError, match="--data tiny=DIR"):
            make_plan(table, [0], data=[str(tmp_path)])
    with pytest.raises(ConfigError, match="--data b: the data set 'tiny' is given twice"):
        make_plan(table, [0], data=["a", "b"])
    with pytest.raises(ConfigError, match=r"no row 'mult'; did you mean 'multi'\?"):
        make_plan(table, [0], rows=["mult"])
    text = TABLE.replace("sets: {", "sets: {real: /nowhere, ").replace("name: ", "set: tiny, name: ")
    text += "evaluate: [{name: real crops, set: real, optional: true}]\n"
    plan = make_plan(read_table(write(text)), [0])
    assert plan.left_out == ("real crops: no prepared set in /nowhere",)
    assert {len(run.tests) for run in plan.runs.values()} == {1}


def test_the_home_folder_is_known_in_the_folders_of_sets(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    table = read_table(write(TABLE.replace("SET", "~/set")))
    assert table.sets == {"tiny": f"{tmp_path}/set"}
    assert locate_sets(table, ["tiny=~/other"]) == {"tiny": tmp_path / "other"}


ON_OTHER_DATA = [f"table{n}_rendered" for n in (1, 2, 3, 4)]
ON_OTHER_DATA += ["figure3_rendered", "figure3_small", "table1_small", "table1_small_time", "table1_paper_encoder"]
ON_OTHER_DATA += ["table2_small", "table3_small", "table4_small"]


@pytest.mark.parametrize("name", ON_OTHER_DATA)
def test_tables_on_other_data_than_the_papers_say_what_its_figures_are_for(name):
    (note,) = read_table(ROOT / "config" / "tables" / f"{name}.yaml").note
    assert re.match(r"The paper's figures are for (the real Falling Things|NYU-D)\b", note)


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
