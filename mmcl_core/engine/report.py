"""The report page of a run: one self-contained file ``report/index.html``, light or dark as the reader's screen.

It shows what is there: training curves from ``metrics.jsonl``, the figures of every evaluation under ``evaluation/``,
confusion and calibration, right and wrong answers, settings, environment and the provenance of the data.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from mmcl_core.atomic import write_text
from mmcl_core.engine.charts import Series, colour_of, heat_table, line_chart, reliability_chart
from mmcl_core.engine.page import html_document, table_of_values
from mmcl_core.engine.runfolder import flat
from mmcl_core.engine.runlog import read_rows
from mmcl_core.errors import CheckpointError, DataError
from mmcl_core.metrics import FUSED, titles
from mmcl_core.settings import yaml_problem
from mmcl_core.weights import read_metadata
from mmcl_core.words import counted

__all__ = ["try_report", "write_report"]

logger = logging.getLogger(__name__)

#: What to do about a file that is damaged.
_ADVICE = "evaluate again if it is of an evaluation, or move it away"
_DEPTH_COLOURS = '<p class="muted">Depth: near red, far blue, stretched for each crop; black: no reading</p>'
_NO_TERMS = {"stage", "epoch", "step", "split", "lr", "loss"}
#: Settings of an evaluation that make another one of it, and what the page calls it.
_WAYS = {"legacy": "legacy protocol", "hide_camera": "cameras withheld", "mirror": "mirrored"}


def write_report(run: str | Path, evaluations: Sequence[str | Path] = ()) -> Path:
    """Write the page of a run, in place of the one that is there.

    Args:
        run: run folder, or a folder with an evaluation only.
        evaluations: folders of evaluations to show first; those under ``run/evaluation`` follow.

    Returns:
        The page.

    Raises:
        DataError: an evaluation or another file of the run that cannot be read.
    """
    run = Path(run)
    found = [Path(folder) for folder in evaluations]
    found += sorted(path.parent for path in (run / "evaluation").glob("*/metrics.json"))
    folders = list({folder.resolve(): folder for folder in found}.values())
    reports = [_read(folder / "metrics.json") for folder in folders]
    sections = []
    for folder, report in zip(folders, reports, strict=True):
        sections.append(_shown(folder / "metrics.json", _evaluation, report, folder))
    sections.insert(0, _header(run, reports))  # of evaluations that can be shown
    for name, show in (("metrics.jsonl", _curves), ("config.yaml", _settings), ("environment.json", _environment)):
        sections.append(_shown(run / name, show, run))
    page = html_document(run.resolve().name, "".join(sections))
    path = run / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.encode("utf-8", "backslashreplace").decode())  # names of files need not be UTF-8
    return path


def try_report(run: Path) -> None:
    """Write the page of a run, or log why not: a page that fails must not spoil a training that succeeded."""
    try:
        write_report(run)
    except (OSError, DataError) as error:
        logger.warning("the report could not be written: %s", error)
    except Exception:
        logger.exception("the report could not be written")


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_ADVICE}") from error
    return values


def _shown(path: Path, show: Callable[..., str], *arguments: Any) -> str:
    """A section of the page.

    Raises:
        DataError: the file that it is made from is of another kind, or was edited.
    """
    try:
        return show(*arguments)
    except DataError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        what = yaml_problem(error) if isinstance(error, yaml.YAMLError) else repr(error)
        raise DataError(f"{path} does not hold what belongs there ({what}); {_ADVICE}") from error


def _header(run: Path, reports: Sequence[Mapping[str, Any]]) -> str:
    try:
        metadata = read_metadata(run)
    except CheckpointError:
        metadata = {}
    facts = []
    if metadata:
        model = metadata["model"]
        facts = [
            f"method {metadata['method']}" if metadata.get("method") else "",
            f"seed {metadata['seed']}" if metadata.get("seed") is not None else "",
            counted(len(metadata["classes"]), "class"),
            f"recognises {', '.join(metadata['trained_modalities']) or 'nothing (no classifier trained)'}",
            f"{model['input_size']} px, {_network(model)}",
            f"depth as {model['depth_encoding']}" + (" with metric size" if model["metric_size"] else ""),
            f"weights: {metadata['selection']}" if metadata.get("selection") else "",
        ]
    elif reports:
        facts = [f"model {reports[0]['model']['model_id']}"]
    line = " · ".join(escape(fact) for fact in facts if fact)
    if reports:
        tiles = '<div class="tiles">' + "".join(_tiles(reports[0])) + "</div>"
    elif metadata and not metadata["trained_modalities"]:
        tiles = '<div class="box">Trained without labels: there are no answers to evaluate</div>'
    else:
        tiles = (
            '<div class="box">Not evaluated yet: '
            f"<code>python -m mmcl_core.evaluate {escape(quote(str(run)))} --data DIR</code></div>"
        )
    return f'<h1>{escape(run.resolve().name)}</h1><p class="muted">{line}</p>{tiles}'


def _network(model: Mapping[str, Any]) -> str:
    """The settings that the network of a run has."""
    if model.get("backbone", "encoder") == "encoder":
        return f"ndf {model['ndf']}, nrkhs {model['nrkhs']}, depth {model['depth']}"
    return f"{model['backbone']}, nrkhs {model['nrkhs']}"


def _tiles(report: Mapping[str, Any]) -> Iterable[str]:
    for name, figures in report["modalities"].items():
        yield (
            f'<div class="tile s{colour_of(name, {})}"><span class="sub">{escape(name)}, top-1 on '
            f"{escape(_what(report))}</span><b>{_percent(figures['top1']['value'])} %</b>"
            f'<span class="sub">{_interval(figures)}, {counted(figures["samples"], "sample")}</span></div>'
        )


def _interval(figures: Mapping[str, Any]) -> str:
    """How far the share of right answers can be trusted: near-duplicates of a group are no further evidence."""
    top1, mean, groups = figures["top1"], figures.get("group_mean"), figures.get("groups", 0)
    if not mean or not groups < figures["samples"]:
        return f"95 % interval {_percent(top1['low'])} to {_percent(top1['high'])}"
    same = _percent(mean["value"]) == _percent(top1["value"])
    what = "" if same else f"group mean {_percent(mean['value'])} %, "
    return f"{what}95 % interval {_percent(mean['low'])} to {_percent(mean['high'])} over {counted(groups, 'group')}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") if share in (0, 1) else f"{100 * share:.1f}"


def _evaluation(report: Mapping[str, Any], folder: Path) -> str:
    data, modalities = report["data"], report["modalities"]
    parts = [f"<h2>Evaluation on {escape(_what(report))}</h2>"]
    kind = "box warn" if report["settings"]["legacy"] else "muted"
    parts.append(f'<p class="{kind}">Protocol: {escape(report["protocol"])}</p>')
    parts.append(_figures_table(report))
    parts += [f'<p class="muted">{escape(note)}</p>' for note in _notes(report)]
    charts = [_calibration(name, figures) for name, figures in modalities.items()]
    scored = {name: figures.get("min_score", {}) for name, figures in modalities.items()}
    charts += [_min_score(name, found) for name, found in scored.items() if "unknown" in found]  # not in an older one
    heats = "".join(
        f"<figure><figcaption>Confusion, {escape(name)} (row: true class, column: answer)</figcaption>"
        f"{heat_table(figures['confusion'], report['model']['classes'])}</figure>"
        for name, figures in modalities.items()
    )
    parts.append(f'<div class="heats">{heats}</div>')
    parts.append(_class_table(modalities, report["model"]["classes"]))
    parts.append(f'<div class="plots small">{"".join(charts)}</div>')
    if (folder / "samples.json").exists():
        examples = _read(folder / "samples.json")
        note = _DEPTH_COLOURS if examples.get("metric_depth") else ""
        for kind, title in (("wrong", "Wrong answers, the surest of each class first"), ("right", "Right answers")):
            if examples[kind]:
                cards = "".join(_card(example) for example in examples[kind])
                parts.append(f'<h3>{title}</h3>{note}<div class="gallery">{cards}</div>')
                note = ""
    provenance = {"path": data["path"], "index.json, SHA-256": data["index_sha256"], **data["description"]}
    parts.append(f"<details><summary>Where the data come from</summary>{table_of_values(provenance)}</details>")
    return "".join(parts)


def _what(report: Mapping[str, Any]) -> str:
    """What was evaluated on, and how, where it was another way than the usual one."""
    data, settings = report["data"], report["settings"]
    ways = [words for key, words in _WAYS.items() if settings.get(key)]  # an older evaluation may lack some
    ways += ["bfloat16"] if settings.get("precision") == "bf16" else []
    return ", ".join([data["name"], f"split {data['split']}", *ways])


def _calibration(name: str, figures: Mapping[str, Any]) -> str:
    bins = figures["calibration"]
    return reliability_chart(
        f"Calibration, {name}: ECE {figures['ece']['value']:.3f}",
        bins["edges"],
        bins["confidence"],
        bins["accuracy"],
        bins["samples"],
        colour_of(name, {}),
    )


def _min_score(name: str, found: Mapping[str, Any]) -> str:
    lines = {"answered": "answered", "right": "right of these"}
    title = f"min_score, {name}"
    if found["unknown"]:
        lines["unknown_answered"] = "unknown objects answered"
        title += f": {counted(found['unknown'], 'unknown object')}"
    if found["auroc"] is not None:
        title += f", AUROC {found['auroc']:.3f}"
    series = [
        Series(words, [(x, y) for x, y in zip(found["thresholds"], found[key], strict=True) if y is not None], place)
        for place, (key, words) in enumerate(lines.items())
    ]
    return line_chart(title, series, "min_score", (0.0, 1.0), last=False)


def _notes(report: Mapping[str, Any]) -> Iterable[str]:
    left = report["data"]["left_out"]
    if left["unlabelled"]:
        yield f"Left out: {counted(left['unlabelled'], 'sample')} without a label."
    if dropped := left.get("incomplete_batch"):  # an older evaluation does not have it
        yield f"Left out: {counted(dropped, 'sample')} of the last, incomplete batch."
    for name, count in left["unknown_classes"].items():
        how = "Left out" if report["settings"]["legacy"] else "For min_score alone"
        yield f"{how}: {counted(count, 'sample')} of {name}, which the model has no name for."
    for name, figures in report["modalities"].items():
        if figures["missing"]:
            yield f"{name}: missing in {counted(figures['missing'], 'sample')}."
        if figures.get("without_reading"):
            how = "answered by colour alone" if name == FUSED else "counted as a guess among all classes"
            yield f"{name}: the depth of {counted(figures['without_reading'], 'sample')} has no reading; {how}."
        if "restricted" in figures:
            only = figures["restricted"]
            yield (
                f"{name}: the model's {counted(len(report['model']['classes']), 'class')} compete; among the "
                f"{only['classes']} of this split alone, top-1 is {100 * only['top1']:.1f} %."
            )
    yield (
        "Top-1: share of right answers; top-5: of samples whose class is among the five with the highest scores. "
        "Macro-F1: F1, of precision and recall, averaged over classes. Small figures: 95 % interval."
    )
    yield "Group mean: accuracy averaged over (scene or instance, class) pairs, so that near-duplicates count once."
    yield (
        "min_score: what remains where answers of a lower score become unknown. Unknown objects, samples of no class "
        "the model knows, had better not be answered; AUROC: how often a known sample scores higher than an unknown "
        "one. Depth counts if it has any reading; a robot's min_depth_valid may ask for more."
    )
    yield (
        "ECE: expected calibration error, how far scores lie from the share of right answers (bars, with the "
        "number of samples; dashed: both equal); 0 is best."
    )


def _figures_table(report: Mapping[str, Any]) -> str:
    columns = titles(len(report["model"]["classes"]))
    head = "".join(f"<th>{title}</th>" for title in columns.values())
    rows = []
    for name, figures in report["modalities"].items():
        cells = "".join(f"<td>{_figure(key, figures[key])}</td>" for key in columns)
        rows.append(f"<tr><td><b>{escape(name)}</b></td><td>{figures['samples']}</td>{cells}</tr>")
    body = f"<tr><th></th><th>samples</th>{head}</tr>{''.join(rows)}"
    return f'<div class="scroll"><table class="plain">{body}</table></div>'


def _figure(name: str, value: Mapping[str, float]) -> str:
    """A figure with its interval; resampling widens ECE, and so the quantiles are no interval of it."""
    interval = "" if name == "ece" else f" <small>{value['low']:.3f} to {value['high']:.3f}</small>"
    return f"{value['value']:.3f}{interval}"


def _class_table(modalities: Mapping[str, Any], classes: Sequence[str]) -> str:
    columns = {"support": "{:.0f}", "recall": "{:.2f}", "precision": "{:.2f}", "f1": "{:.2f}"}
    head = "".join(
        f"<th>{escape(name)}: samples</th><th>recall</th><th>precision</th><th>F1</th>" for name in modalities
    )
    rows = []
    for label in classes:
        scores = [figures["per_class"].get(label) for figures in modalities.values()]
        if not any(scores):
            continue
        cells = "".join(
            "".join(f"<td>{form.format(score[key])}</td>" for key, form in columns.items())
            if score
            else "<td>0</td>" + "<td></td>" * 3
            for score in scores
        )
        rows.append(f"<tr><td>{escape(label)}</td>{cells}</tr>")
    table = f'<table class="plain"><tr><th>class</th>{head}</tr>{"".join(rows)}</table>'
    return f'<details><summary>Per class</summary><div class="scroll">{table}</div></details>'


def _card(example: Mapping[str, Any]) -> str:
    pictures = "".join(
        f'<img alt="{escape(name)}" title="{escape(name)}" src="data:image/jpeg;base64,{code}">'
        for name, code in example["pictures"].items()
    )
    answers = "".join(
        f'<div class="answer"><span>{escape(name)}</span><span class="{"yes" if answer["right"] else "no"}">'
        f"{'✓' if answer['right'] else '✗'}&nbsp;{escape(answer['predicted'])}</span>"
        f"<span>{answer['score']:.2f}</span></div>"
        for name, answer in example["answers"].items()
    )
    title = f'<b title="{escape(example["key"])}">{escape(example["class"])}</b>'
    return f'<div class="card"><div class="pictures">{pictures}</div>{title}{answers}</div>'


def _curves(run: Path) -> str:
    if not (run / "metrics.jsonl").exists():
        return ""
    rows = read_rows(run)
    train = [row for row in rows if row.get("split") == "train"]
    starts: dict[str, int] = {}
    for row in train:
        starts.setdefault(row["stage"], row["step"])
    marks = list(starts.values())[1:]
    keys = dict.fromkeys(key for row in train for key in row if key not in _NO_TERMS)
    terms = [key for key in keys if not key.endswith("grad_norm")]
    charts = [
        line_chart("Loss (training)", _series(train, ["loss"]), marks=marks),
        line_chart("Its terms", _series(train, terms), marks=marks),
    ]
    for title, beginning in (("Accuracy (validation)", "accuracy/"), ("Cross-entropy (validation)", "loss/")):
        charts.append(line_chart(title, _by_modality(rows, "val", beginning), marks=marks))
    for title, beginning in (("Nearest neighbours (probe)", "knn/"), ("Linear probe", "linear/")):
        charts.append(line_chart(title, _by_modality(rows, "probe", beginning), marks=marks))
    charts.append(line_chart("Learning rate", _series(train, ["lr"]), marks=marks))
    stages = f'<p class="muted">Stages: {escape(", ".join(starts))}</p>' if len(starts) > 1 else ""
    return f'<h2>Training</h2>{stages}<div class="plots">{"".join(charts)}</div>'


def _series(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Series]:
    return [
        Series(key, [(row["step"], float(row[key])) for row in rows if key in row], place % 8)
        for place, key in enumerate(keys)
    ]


def _by_modality(rows: Sequence[Mapping[str, Any]], split: str, beginning: str) -> list[Series]:
    chosen = [row for row in rows if row.get("split") == split]
    keys = list(dict.fromkeys(key for row in chosen for key in row if key.startswith(beginning)))
    names = {key.removeprefix(beginning): place for place, key in enumerate(keys)}
    return [
        Series(name, [(row["step"], float(row[beginning + name])) for row in chosen if beginning + name in row],
               colour_of(name, names))
        for name in names
    ]  # fmt: skip


def _settings(run: Path) -> str:
    from mmcl_core.config import Config, to_dict

    if not (run / "config.yaml").exists():
        return ""
    values = dict(flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}))
    usual = dict(flat(to_dict(Config())))
    changed = {key: value for key, value in values.items() if usual.get(key) != value}
    rest = {key: value for key, value in values.items() if key not in changed}
    return (
        f"<h2>Settings</h2><h3>Different from the defaults</h3>{table_of_values(changed)}"
        f"<details><summary>Defaults</summary>{table_of_values(rest)}</details>"
    )


def _environment(run: Path) -> str:
    path = run / "environment.json"
    return f"<h2>Environment</h2>{table_of_values(_read(path))}" if path.exists() else ""
