"""The report page: well-formed, self-contained, and showing what the run folder holds."""

import json
import warnings
from html.parser import HTMLParser
from shlex import quote

import cv2
import numpy as np
import pytest
from small_models import save_model

from mmcl_core import metrics
from mmcl_core.confusion import save_confusion
from mmcl_core.engine.charts import Series, heat_table, line_chart, reliability_chart, ticks
from mmcl_core.engine.report import try_report, write_report
from mmcl_core.errors import DataError

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that tags close in order; collects text and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for tag, key, value in page.attributes:
        if key in ("src", "href", "data"):
            assert value.startswith("data:"), (tag, value)
    assert "://" not in text.replace("data:", "")
    assert not {"script", "link", "iframe"} & set(page.tags)
    return " ".join(page.text), page


def write_run(run, classes=("mug", "ball", "pen"), **model):
    """A run folder as training leaves it."""
    run.mkdir()
    save_model(run / "weights.safetensors", **model)
    rows = [
        {"stage": "train" if step < 60 else "heads", "epoch": 0, "step": step, "split": "train", "lr": 1e-4,
         "loss": 9 - step / 20, "1-5 rgb->depth": 3.5 if step != 40 else float("nan"), "class rgb": 1 / step}
        for step in range(20, 120, 20)
    ]  # fmt: skip
    rows += [{"stage": "train", "epoch": 0, "step": 50, "split": "val", "accuracy": 0.5, "accuracy/rgb": 0.61}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text("seed: 7\noptim: {lr: 0.003, eps: 1.0e-08}\n")
    (run / "environment.json").write_text(json.dumps({"torch": "2.9", "cpus": 2}))
    return run


def write_evaluation(folder, name="set", legacy=False, classes=("mug", "ball", "<b>pen"), **settings):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    probabilities = metrics.softmax(generator.normal(size=(40, 3)) + 2 * np.eye(3)[labels])
    summary = metrics.summarise(probabilities, labels, ["s"] * 40, resamples=20)
    confusion = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), 3)
    scores = metrics.per_class(confusion)
    bins = metrics.calibration_bins(probabilities, labels)
    figures = {key: value._asdict() for key, value in summary.items()} | {
        "samples": 40, "missing": 3, "groups": 3, "confusion": confusion.tolist(),
        "restricted": {"classes": 2, "top1": 0.75},
        "min_score": {"thresholds": [0.0], "answered": [1.0], "stranger": 3},  # as an earlier version wrote it
        "per_class": {c: {k: float(v[i]) for k, v in scores.items()} for i, c in enumerate(classes)},
        "calibration": {
            "edges": bins.edges.tolist(), "samples": bins.samples.tolist(),
            **{k: [None if np.isnan(x) else float(x) for x in getattr(bins, k)] for k in ("confidence", "accuracy")},
        },
    }  # fmt: skip
    report = {
        "protocol": "LEGACY PROTOCOL" if legacy else "clean",
        "model": {"path": "run", "model_id": "abc-123", "classes": list(classes)},
        "data": {"path": f"/data/{name}", "name": name, "split": "test", "index_sha256": "f00d", "samples": 43,
                 "left_out": {"unlabelled": 2, "unknown_classes": {"kite": 5}}, "description": {"licence": "MIT & co"}},
        "settings": {"legacy": legacy, **settings},
        "modalities": {"rgb": figures, "depth": figures},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(report))
    example = {"key": 'k"1', "class": "mug", "pictures": {"rgb": "QUJD", "depth": "QUJD"},
               "answers": {"rgb": {"predicted": "<b>pen", "score": 0.9, "right": False}}}  # fmt: skip
    (folder / "samples.json").write_text(json.dumps({"wrong": [example], "right": [example] * 2}))
    return figures


def test_letters_that_reach_below_the_line_are_inside_the_chart():
    page = Page(line_chart("loss", [Series("loss", [(0, 1), (10, 2)], 0)], "update, min_score"))
    height = next(float(value.split()[3]) for tag, key, value in page.attributes if (tag, key) == ("svg", "viewbox"))
    lines = [float(value) for tag, key, value in page.attributes if (tag, key) == ("text", "y")]
    assert max(lines) + 4 <= height  # a third of 11 px


def test_page_of_a_run(tmp_path):
    run = write_run(tmp_path / "my run")
    figures = write_evaluation(run / "evaluation" / "set-test")
    write_evaluation(run / "evaluation" / "set-test-legacy", legacy=True)
    text, page = page_of(write_report(run))
    top1 = figures["top1"]["value"]
    for expected in (
        "my run", f"{100 * top1:.1f} %", "over 3 groups, 40 samples", "LEGACY PROTOCOL", "MIT & co", "f00d", "optim.lr",
        "0.003", "2.9", "Stages: train, heads", "<b>pen",
        "Top-1: share", "top-5: of samples", "Macro-F1: F1", "95 % interval", "Group mean: accuracy",
        "ECE: expected calibration error",
        "5 samples of kite, which the model has no name for", "rgb: missing in 3 samples", "class rgb",
        "Calibration, depth", "Wrong answers, the surest of each class first",
    ):  # fmt: skip
        assert expected in text, expected
    assert page.tags.count("img") == 2 * 3 * 2
    assert page.tags.count("h2") == 5
    assert sum(tag == "polyline" for tag in page.tags) == 2 * 4 + 1  # loss, two terms, rate; validation
    different = text.index("Different from the defaults")
    assert different < text.index("optim.lr") < text.index("Defaults", different) < text.index("optim.eps")


@pytest.mark.parametrize(
    ("groups", "mean", "words"),
    [
        (13, 0.962, "95 % interval 76.9 to 100 over 13 groups, 260 samples"),
        (13, 0.9, "group mean 90.0 %, 95 % interval 76.9 to 100 over 13 groups, 260 samples"),
        (1, 0.962, "over 1 group, 260 samples"),
        (260, 0.962, "95 % interval 93.5 to 98.1, 260 samples"),
    ],
)
def test_near_duplicates_do_not_narrow_the_interval_that_the_page_begins_with(tmp_path, groups, mean, words):
    write_evaluation(tmp_path / "alone")
    path = tmp_path / "alone" / "metrics.json"
    report = json.loads(path.read_text())
    report["modalities"]["rgb"] |= {
        "samples": 260, "groups": groups, "top1": {"value": 0.962, "low": 0.935, "high": 0.981},
        "group_mean": {"value": mean, "low": 0.769, "high": 1.0},
    }  # fmt: skip
    path.write_text(json.dumps(report))
    text, _ = page_of(write_report(tmp_path / "alone", [tmp_path / "alone"]))
    assert words in text[: text.index("Evaluation on")]


def test_calibration_error_has_no_interval_that_resampling_moves_away_from_it(tmp_path):
    figures = write_evaluation(tmp_path / "alone")
    path = write_report(tmp_path / "alone", [tmp_path / "alone"])
    assert f"<td>{figures['ece']['value']:.3f}</td>" in path.read_text()


def test_colours_of_depth_are_explained_once_and_only_of_distances(tmp_path):
    write_evaluation(tmp_path / "alone")
    samples = tmp_path / "alone" / "samples.json"
    assert "near red" not in page_of(write_report(tmp_path / "alone", [tmp_path / "alone"]))[0]
    samples.write_text(json.dumps(json.loads(samples.read_text()) | {"metric_depth": True}))
    text, _ = page_of(write_report(tmp_path / "alone", [tmp_path / "alone"]))
    assert text.count("Depth: near red, far blue, stretched for each crop; black: no reading") == 1


def test_a_bin_without_a_right_answer_is_seen():
    page = Page(reliability_chart("c", [0, 0.5, 0.9, 1], [0.3, 0.7, None], [0, 0.75, None], [7, 12345, 0], 0))
    heights = [float(value) for tag, key, value in page.attributes if (tag, key) == ("rect", "height")]
    assert heights[0] == 3
    assert heights[1] > 100
    assert len(heights) == 2
    assert {"7", "12k", "share right", "confidence"} <= set(page.text)


def test_the_counts_of_a_class_are_those_of_each_modality(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation" / "set-test")
    path = run / "evaluation" / "set-test" / "metrics.json"
    report = json.loads(path.read_text())
    report["modalities"]["depth"] = depth = json.loads(json.dumps(report["modalities"]["rgb"]))
    del depth["per_class"]["ball"]
    for modality, count in (("rgb", 711), ("depth", 702)):
        report["modalities"][modality]["per_class"]["mug"]["support"] = count
    path.write_text(json.dumps(report))
    text, _ = page_of(write_report(run))
    table = text[text.index("Per class") :]
    assert table.index("rgb: samples") < table.index("depth: samples") < table.index("711") < table.index("702")


def test_page_without_evaluation_or_training(tmp_path):
    text, _ = page_of(write_report(write_run(tmp_path / "run")))
    assert "Not evaluated yet" in text
    text, _ = page_of(write_report(write_run(tmp_path / "a run")))
    assert f"mmcl_core.evaluate {quote(str(tmp_path / 'a run'))} --data DIR" in text
    write_evaluation(tmp_path / "alone")
    text, _ = page_of(write_report(tmp_path / "alone", [tmp_path / "alone"]))
    assert "abc-123" in text
    assert "Training" not in text


def test_page_of_a_resnet_names_its_own_settings_only(tmp_path):
    text, _ = page_of(write_report(write_run(tmp_path / "encoder")))
    assert "32 px, ndf 8, nrkhs" in text
    text, _ = page_of(write_report(write_run(tmp_path / "resnet", backbone="resnet18")))
    assert "32 px, resnet18, nrkhs" in text
    assert "ndf 8" not in text


def test_gradient_norms_are_no_terms_of_the_loss(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [
        {"stage": "duel", "epoch": 0, "step": step, "split": "train", "lr": 1e-4, "loss": 2.0, "critic/critic": 1.0,
         "critic/grad_norm": 5.0, "model/fool": 1.0, "model/grad_norm": 7.0}
        for step in (1, 2)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, page = page_of(write_report(run))
    assert "critic/critic" in text
    assert "grad_norm" not in text
    assert sum(tag == "polyline" for tag in page.tags) == 4  # loss, two terms, learning rate


def test_an_evaluation_is_shown_once(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation" / "a", "first")
    write_evaluation(run / "evaluation" / "b", "second")
    text, _ = page_of(write_report(run, [run / "evaluation" / "b"]))
    assert text.count("Evaluation on first") == text.count("Evaluation on second") == 1
    assert text.index("Evaluation on second") < text.index("Evaluation on first")


def test_evaluations_of_one_split_are_told_apart(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation" / "a", hide_camera=False, mirror=False)
    write_evaluation(run / "evaluation" / "b", hide_camera=True, mirror=False)
    write_evaluation(run / "evaluation" / "c", legacy=True, hide_camera=True, mirror=True)
    text, _ = page_of(write_report(run, [run / "evaluation" / "c"]))
    last = "set, split test, legacy protocol, cameras withheld, mirrored "
    for title in ("set, split test ", "set, split test, cameras withheld ", last):
        assert text.count(f"Evaluation on {title}") == 1, title
    assert f"top-1 on {last}" in text  # the page begins with figures of this one


def test_damaged_evaluation_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "evaluation" / "bad").mkdir(parents=True)
    (run / "evaluation" / "bad" / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"bad.metrics\.json"):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation/other/metrics.json", "{}"),
        ("evaluation/other/metrics.json", "[]"),
        ("evaluation/other/metrics.json", '{"loss": 5}'),
        ("evaluation/set/samples.json", "{}"),
        ("metrics.jsonl", '{"stage": "train", "epo\n'),
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", '{"split": "train"}\n'),
        ("metrics.jsonl", '{"stage": "a", "epoch": 0, "step": 1, "split": "train", "loss": null}\n'),
        ("config.yaml", "train: ["),
        ("config.yaml", "5"),
        ("environment.json", "[]"),
        ("environment.json", "\udcff"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, caplog, name, content):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation" / "set")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=(run / name).parent.name):
        write_report(run)
    try_report(run)  # as the end of a training does
    assert [record.exc_info for record in caplog.records] == [None]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.94), (-3.2, 17), (1e-6, 2e-4), (0, 18640)])
def test_ticks_are_round_and_inside(low, high):
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    assert all(low - 1e-9 <= value <= high * (1 + 1e-9) for value in values)
    steps = np.diff(values)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.0e}"[0] in "125"


def test_line_chart():
    long = [(x, float(x % 2)) for x in range(5000)]
    chart = line_chart("title <x>", [Series("a&b", long, 0), Series("dot", [(3, 1.0)], 1)])
    Page(chart)
    points = chart.split('points="')[1].split('"')[0].split()
    assert len(points) <= 300
    assert "a&amp;b" in chart
    assert "title &lt;x&gt;" in chart
    assert chart.count("<circle") == 1
    assert line_chart("empty", [Series("a", [(1, float("nan"))], 0)]) == ""


def test_lines_end_where_a_stage_does():
    """What a stage does not have is not drawn across it, and nothing is averaged over two stages."""
    points = [(1, 2.0), (2, 1.0), (7, 6.0), (8, 5.0)]
    chart = line_chart("t", [Series("both", points, 0), Series("first", points[:2], 1)], marks=[7])
    assert [line.split('"')[0].count(",") for line in chart.split('points="')[1:]] == [2, 2, 2]
    assert "<b>5</b>" in chart
    long = line_chart("t", [Series("a", [(x, float(x >= 450)) for x in range(900)], 0)], marks=[450])
    heights = [{at.split(",")[1] for at in line.split('"')[0].split()} for line in long.split('points="')[1:]]
    assert [len(some) for some in heights] == [1, 1]


def test_heat_table_leaves_unused_classes_out():
    table = heat_table([[3, 1, 0], [0, 0, 0], [0, 0, 0]], ["a", "b", "never"])
    Page(table)
    assert "never" not in table
    assert "a called b: 1 of 4" in table
    assert "--a:0.75" in table


def test_confusions_of_many_classes_are_listed_before_their_matrix():
    names = [f"class {number}" for number in range(31)]
    counts = np.diag(np.full(31, 5))
    counts[7, 9] = 3
    table = heat_table(counts.tolist(), names)
    Page(table)
    listed = "<td>class 7</td><td>class 9</td><td>3</td><td>0.38</td>"
    assert listed in table
    assert 'title="class 30"' in table
    fewer = heat_table(counts[:30, :30].tolist(), names[:30])
    assert listed not in fewer
    assert "class 7 called class 9: 3 of 8" in fewer


def test_a_class_that_is_wholly_wrong_does_not_look_right(tmp_path):
    """Right answers are blue and wrong ones red, where the names are the same, not the places."""
    names = ["one", "two"]
    for file, columns, counts in (("a", names, [[5, 0], [5, 0]]), ("b", ["zero", *names], [[0, 5, 0], [0, 5, 0]])):
        save_confusion(tmp_path / f"{file}.png", {"rgb": counts}, names, columns)
        picture = cv2.imread(str(tmp_path / f"{file}.png")).astype(int)
        blue, _, red = picture[:, : picture.shape[1] * 2 // 3].transpose(2, 0, 1)  # without the colour bars
        right, wrong = blue - red > 60, red - blue > 60
        assert min(right.sum(), wrong.sum()) > 500
        assert np.argwhere(right)[:, 0].max() < np.argwhere(wrong)[:, 0].min()


def test_large_matrices_stand_one_under_another(tmp_path):
    shapes = {}
    for number in (30, 31):
        names = [str(n) for n in range(number)]
        save_confusion(tmp_path / "c.png", dict.fromkeys("ab", np.eye(number, dtype=int)), names, names)
        shapes[number] = cv2.imread(str(tmp_path / "c.png")).shape
    assert shapes[30][1] > 1.5 * shapes[30][0]
    assert shapes[31][0] > 1.5 * shapes[31][1]


def test_names_that_the_font_of_the_figure_lacks_are_told_once(tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for names in (["T\u00e4sse", "\u5927"], ["$5_$10", "a$b$c"]):  # the dollars are no formulas
            save_confusion(tmp_path / "confusion.png", {"rgb": [[2, 1], [0, 3]]}, names, names)
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
    assert caplog.text.count("letters that its font lacks") == 1
