"""A prepared set in words and numbers, as the commands print it."""

from __future__ import annotations

from shlex import quote

from mmcl_core.data.cache import PreparedSet

__all__ = ["next_command", "preset", "summary", "table"]

#: Data sets of the paper that have a file of settings.
PAPER = ("falling_things", "nyud", "scenenet")


def table(rows: list[list[str]]) -> str:
    """Rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def preset(prepared: PreparedSet) -> str:
    """The settings to begin with: those of the paper for its data sets, otherwise by the size of the crops.

    8-bit depth pictures need settings that take them as they are.
    """
    source = str(prepared.index["description"].get("made_by", "")).rpartition(" ")[2]
    stored = any("stored" in entry["unit"] for entry in prepared.index["modalities"].values())
    encoding = " model.depth_encoding=stored" if stored else ""
    if source in PAPER:
        own = f"config/paper_{source}.yaml"
        if source == "falling_things" and "rgb_right" in prepared.modalities:
            own = "config/protocols/stereo.yaml"
        if stored == (source != "falling_things"):
            return own
        return own + (encoding or " model.depth_encoding=hha")
    return ("config/small.yaml" if prepared.size > 64 else "config/demo.yaml") + encoding


def next_command(prepared: PreparedSet) -> str:
    """The command to go on with: training where there is a split for it, otherwise evaluation."""
    names, place = prepared.split_names, quote(str(prepared.path))
    if "train" in names:
        return f"python -m mmcl_core.train --config {preset(prepared)} --data {place}"
    return f"python -m mmcl_core.evaluate RUN --data {place} --split {quote(names[0])} --out results"


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
    lines.append(f"next: {next_command(prepared)}")
    return "\n".join(lines)
