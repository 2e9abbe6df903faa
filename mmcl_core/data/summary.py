"""A prepared set in words and numbers, as the commands print it."""

from __future__ import annotations

from mmcl_core.data.cache import PreparedSet

__all__ = ["summary", "table"]


def table(rows: list[list[str]]) -> str:
    """Rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def summary(prepared: PreparedSet) -> str:
    """Samples by split and class, missing modalities, what was skipped, and the command to go on with."""
    size = sum(entry["bytes"] for entry in prepared.index["files"].values())
    pictures = " + ".join(prepared.modalities)
    lines = [
        f"{prepared.path}: {len(prepared)} samples of {len(prepared.classes)} classes, {pictures}, {prepared.size} px, "
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
    lines.append(table(rows))
    skipped = prepared.index["skipped"]
    if skipped["samples"]:
        name, reason = skipped["first"][0]
        lines.append(f"skipped: {skipped['samples']}, the first: {name}: {reason} (more in {prepared.path}/index.json)")
    root = prepared.path
    if "train" in splits:
        lines.append(f"next: python -m mmcl_core.train --config config/demo.yaml --data {root}")
    else:
        lines.append(f"next: python -m mmcl_core.evaluate RUN --data {root} --split {names[0]} --out results")
    return "\n".join(lines)
