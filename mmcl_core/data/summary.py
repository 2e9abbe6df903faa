"""A prepared set, or what a check of a data set found, in words and numbers, as the commands print it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from shlex import quote

import numpy as np

from mmcl_core.config import load
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.pictures import FARTHEST_USUAL_M
from mmcl_core.data.runner import Findings
from mmcl_core.data.skips import examples
from mmcl_core.data.sources import Plan
from mmcl_core.data.splits import TRAINING, VALIDATION, split_named
from mmcl_core.errors import ConfigError
from mmcl_core.presets import preset_file
from mmcl_core.words import counted

__all__ = ["check_summary", "next_command", "preset", "summary"]

#: Data sets of the paper that have a file of settings.
PAPER = ("falling_things", "nyud", "scenenet")
#: Training crops below which a model trained on others is the better start, and updates that suit so few.
FEW_CROPS, FEW_UPDATES = 1000, 300
#: Crops whose depth is looked at for the summary.
DEPTHS_SEEN = 256


def _table(rows: list[list[str]]) -> str:
    """Rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def preset(prepared: PreparedSet) -> tuple[str, list[str]]:
    """The file of settings to begin with, and what to change in it.

    The paper's for its data sets, otherwise by the size of the crops. 8-bit depth pictures need settings that take them
    as they are.
    """
    source = _source(prepared)
    stored = any("stored" in entry["unit"] for entry in prepared.index["modalities"].values())
    encoding = ["model.depth_encoding=stored"] if stored else []
    if source in PAPER:
        own = f"paper_{source}.yaml"
        if source == "falling_things" and "rgb_right" in prepared.modalities:
            own = "protocols/stereo.yaml"
        usual = stored == (source != "falling_things")
        return preset_file(own), [] if usual else encoding or ["model.depth_encoding=hha"]
    return preset_file("small.yaml" if prepared.size > 64 else "demo.yaml"), encoding


def next_command(prepared: PreparedSet) -> str:
    """The command to go on with: training where there is a split for it, otherwise evaluation."""
    place = quote(str(prepared.path))
    train = split_named(prepared.split_names, TRAINING)
    if not train:
        return f"python -m mmcl_core.evaluate RUN --data {place} --split {quote(prepared.split_names[0])}"
    file, changes = preset(prepared)
    rows = prepared.select(train)
    samples = len(rows)
    few = 2 <= samples < FEW_CROPS and prepared.size > 64 and not changes and _source(prepared) not in PAPER
    if few:
        file = preset_file("protocols/few_crops.yaml")
    val = split_named(prepared.split_names, VALIDATION) or "val"
    words = [f"data.{key}_split={quote(name)}" for key, name in (("train", train), ("val", val)) if name != key]
    with suppress(ConfigError):
        settings = load(file).train
        if not set(settings.modalities) <= set(prepared.modalities):
            several, names = len(prepared.modalities) > 1, ",".join(prepared.modalities)
            alone = f"train.modalities={names} method=supervised"
            words.append(quote(f"train.modalities=[{names}]") if several else alone)
        elif len(settings.modalities) > 1 and prepared.present[rows].sum(axis=1).max(initial=0) < 2:
            words.append("method=supervised")  # no sample has two sensors: there is nothing to contrast
        if 2 <= samples < settings.batch:
            words.append(f"train.batch={samples}")
        if few:
            words.append(f"train.epochs={ceil(FEW_UPDATES / (samples // min(samples, settings.batch)))}")
    return " ".join([f"python -m mmcl_core.train --config {quote(file)} --data {place}", *changes, *words])


def _source(prepared: PreparedSet) -> str:
    return str(prepared.index["description"].get("made_by", "")).rpartition(" ")[2]


def _distances(prepared: PreparedSet) -> Iterator[str]:
    """A line for each modality of metric depth: how far things are."""
    for column, name in enumerate(prepared.modalities):
        rows = np.flatnonzero(prepared.present[:, column])
        if not len(rows) or "mm" not in prepared.index["modalities"][name]["unit"]:
            continue
        looked = rows[np.linspace(0, len(rows) - 1, min(len(rows), DEPTHS_SEEN)).astype(int)]
        readings = [image[image > 0] for image in (np.asarray(prepared.images[name][row]) for row in looked)]
        medians = [float(np.median(some)) / 1000 for some in readings if len(some)]
        if medians:
            low, middle, high = np.percentile(medians, (5, 50, 95))
            doubt = middle > FARTHEST_USUAL_M and _source(prepared) in ("folder", "coco")
            text = f"{name}: the crops are {middle:.2f} m away (5 to 95 %: {low:.2f} to {high:.2f} m)"
            yield text + ("; that is far: is --depth-unit right?" if doubt else "")


def summary(prepared: PreparedSet) -> str:
    """Samples by split and class, missing modalities, what was skipped, and the command to go on with."""
    size = sum(entry["bytes"] for entry in prepared.index["files"].values())
    pictures, samples = " + ".join(prepared.modalities), counted(len(prepared), "sample")
    lines = [
        f"{prepared.path}: {samples} of {counted(len(prepared.classes), 'class')}, {pictures}, {prepared.size} px, "
        f"{size / 1e6:.1f} MB"
    ]
    splits = prepared.index["splits"]
    names = list(splits)
    rows = [["class", *names]]
    rows += [[name, *(str(splits[s]["classes"][name]) for s in names)] for name in prepared.classes]
    if any(splits[s]["unlabelled"] for s in names):
        rows.append(["(unlabelled)", *(str(splits[s]["unlabelled"]) for s in names)])
    rows.append(["all", *(str(splits[s]["samples"]) for s in names)])
    for column, name in enumerate(prepared.modalities):
        gone = [int((~prepared.present[prepared.select(s), column]).sum()) for s in names]
        rows.append([f"without {name}", *map(str, gone)])
    rows.append(["with a camera", *(str(int((prepared.camera[prepared.select(s), 0] > 0).sum())) for s in names)])
    lines.append(_table(rows))
    lines += _distances(prepared)
    skipped = prepared.index["skipped"]
    if skipped["samples"]:
        name, reason = skipped["first"][0]
        number = f"skipped: {_files_or_samples(skipped['samples'])}"
        lines.append(f"{number}, the first: {name}: {reason} (more in {prepared.path}/index.json)")
    lines.append(f"next: {next_command(prepared)}")
    return "\n".join(lines)


def _files_or_samples(number: int, kind: str = "") -> str:
    return f"{counted(number, f'{kind}file')} or sample{'' if number == 1 else 's'}"


def check_summary(plan: Plan, found: Findings, whole: bool) -> tuple[str, list[str]]:
    """What a check of a data set counted and what is bad, and the problems in short.

    Args:
        plan: the work that was checked.
        found: of it.
        whole: whether all of the data set was looked at; only then the numbers of its splits are held to the expected.
    """
    splits = sorted({split for split, _ in found.samples})
    names = sorted({name for _, name in found.samples})
    rows = [["class", *splits]] + [[name, *(str(found.samples[split, name]) for split in splits)] for name in names]
    totals = {split: sum(found.samples[split, name] for name in names) for split in splits}
    lines = [_table([*rows, ["all", *(str(totals[split]) for split in splits)]])]
    if found.empty_depth:
        lines.append(f"depth without a single reading: {found.empty_depth}")
    named = examples(found.bad)
    lines += [f"bad: {skip.name}: {skip.reason}" for skip in named]
    if len(found.bad) > len(named):
        lines.append(f"bad: {len(found.bad) - len(named)} more")
    problems = [f"{_files_or_samples(len(found.bad), 'bad ')}, the first: {found.bad[0].name}"] if found.bad else []
    for what, (count, published) in plan.published.items():
        lines.append(f"{what}: {count} found, {published} published")
        problems += [f"{what}: {count} found, the published set has {published}"] if count != published else []
    for split, expected in (plan.expected or {}).items() if whole else ():
        if (there := totals.get(split, 0)) != expected:
            problems.append(f"{split}: {counted(expected, 'sample')} expected, found {there}")
    if not totals:
        problems.append("nothing usable")
    return "\n".join(lines), problems
