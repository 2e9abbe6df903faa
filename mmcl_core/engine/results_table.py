"""The figures of an evaluation as text, the way the command prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcl_core.metrics import FUSED, titles
from mmcl_core.words import counted

__all__ = ["table"]

#: Values of min_score that are printed; metrics.json and the report have more.
SHOWN_SCORES = (0.0, 0.5, 0.7, 0.8, 0.9)


def table(report: Mapping[str, Any]) -> str:
    """The figures of a ``metrics.json`` as text, with their 95 % intervals."""
    data = report["data"]
    samples, model = counted(data["samples"], "sample"), report["model"]["model_id"]
    lines = [f"{data['name']}, split {data['split']}: {samples}, model {model}"]
    if report["settings"]["legacy"]:
        lines.append(f"!! {report['protocol']}")
    if report["settings"]["mirror"]:
        lines.append("mirrored: every answer is the mean of the sample's and of its mirror image's")
    if data["without_camera"] and report["model"]["uses_camera"]:
        samples = counted(data["without_camera"], "sample")
        lines.append(f"without a camera: {samples}; depth is worth less to this model without")
    left = data["left_out"]
    if left["unlabelled"] or left["unknown_classes"]:
        others = sum(left["unknown_classes"].values())
        lines.append(f"left out: {left['unlabelled']} unlabelled, {others} of things that the model has no name for")
    if left["incomplete_batch"]:
        lines.append(f"left out: {left['incomplete_batch']} of the last, incomplete batch")
    columns = titles(len(report["model"]["classes"]))
    lines.append("".join([f"{'':10}{'samples':>8}", *(f"{title:>24}" for title in columns.values())]))
    for name, figures in report["modalities"].items():
        cells = (_cell(key, figures[key]) for key in columns)
        lines.append("".join([f"{name:10}{figures['samples']:>8}", *(f"{cell:>24}" for cell in cells)]))
    for name, figures in report["modalities"].items():
        if figures["missing"]:
            lines.append(f"{name}: missing in {counted(figures['missing'], 'sample')}")
        if figures["without_reading"]:
            how = "answered by colour" if name == FUSED else "counted as a guess"
            samples = counted(figures["without_reading"], "sample")
            lines.append(f"{name}: the depth of {samples} has no reading; {how}")
        if "restricted" in figures:
            only = figures["restricted"]
            classes = counted(only["classes"], "class")
            lines.append(f"{name}: top-1 among the {classes} of the split alone: {only['top1']:.3f}")
    return "\n".join(lines + _min_scores(report["modalities"]))


def _cell(name: str, value: Mapping[str, float]) -> str:
    """A figure with its interval; resampling widens ECE, and so the quantiles are no interval of it."""
    return f"{value['value']:.3f}" + ("" if name == "ece" else f" [{value['low']:.3f}, {value['high']:.3f}]")


def _min_scores(modalities: Mapping[str, Any]) -> list[str]:
    """What some values of ``min_score`` make of unknown objects, where there are any."""
    lines = []
    for name, figures in modalities.items():
        found = figures["min_score"]
        if not found["unknown"]:
            continue
        for place, threshold in enumerate(found["thresholds"]):
            if threshold in SHOWN_SCORES:
                shares = [found[key][place] for key in ("answered", "right", "unknown_answered")]
                answered, right, unknown = ("-" if share is None else f"{share:.3f}" for share in shares)
                lines.append(f"{name:10}{threshold:>10.2f}{answered:>12}{right:>18}{unknown:>13} of {found['unknown']}")
    if lines:
        lines.insert(0, f"\n{'':10}{'min_score':>10}{'answered':>12}{'right of these':>18}{'unknown answered':>22}")
    return lines
