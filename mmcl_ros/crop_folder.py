"""A folder of crops of several recordings: whose crops lie in it, and what a second call for a recording replaces.

======================  ===============================================================================================
file                    columns
======================  ===============================================================================================
``recordings.csv``      name (in front of the names of its crops), recording, topics (empty: not known)
``crops.csv``           key of each crop that was written (its file without ``_rgb.png``), recording (its name)
``cameras.csv``         key, fx, fy, cx, cy where the camera is known; ``prepare folder`` reads it
======================  ===============================================================================================
"""

from __future__ import annotations

import csv
import glob
import io
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from mmcl_core.atomic import write_text
from mmcl_core.errors import DataError

__all__ = ["Before", "Written", "enter", "replace_crops"]

logger = logging.getLogger(__name__)

COLUMNS = {
    "recordings.csv": ("name", "recording", "topics"),
    "crops.csv": ("key", "recording"),
    "cameras.csv": ("key", "fx", "fy", "cx", "cy"),
}
EARLIER = {"recordings.csv": 2}  # the first columns, all that earlier versions wrote
NAMED = 5  # most pictures that a warning names


class Written(NamedTuple):
    """A crop that was written: its camera (fx, fy, cx, cy) where it is known, and its files."""

    camera: tuple[float, ...] | None
    files: list[Path]


class Before(NamedTuple):
    """What a folder had of a recording: whether its name was known, and the keys that calls meant to write."""

    known: bool
    noted: set[str]


def enter(out: Path, name: str, recording: str, topics: str, planned: Collection[str]) -> Before:
    """Note whose crops bear a name: crops of two recordings would take each other's place.

    What is to be written is noted, too, so that a later call removes what this one leaves if it is stopped.

    Args:
        out: folder of the crops.
        name: in front of the names of the recording's crops.
        recording: path of the recording.
        topics: of its pictures.
        planned: keys of the crops that may come.

    Raises:
        DataError: another recording, or other topics of this one, have the name, or a table is of something else.
    """
    tables = {table: _read(out / table) for table in COLUMNS}
    known = tables["recordings.csv"]
    held, listed = known.get(name, (recording, topics))
    if held != recording or listed not in ("", topics):
        words = f"{held}, {listed}" if listed else held
        raise DataError(
            f"{out} holds crops of another recording, or of other topics, named {name!r} ({words}); give --name NAME"
        )
    out.mkdir(parents=True, exist_ok=True)
    crops = tables["crops.csv"]
    _write(out / "recordings.csv", {**known, name: (recording, topics)})
    _write(out / "crops.csv", crops | dict.fromkeys(planned, (name,)))
    return Before(name in known, {key for key, (owner,) in crops.items() if owner == name})


def replace_crops(out: Path, name: str, written: Mapping[str, Written], before: Before) -> None:
    """Remove what earlier calls wrote of a recording and this one did not, if it wrote any; note what there is now.

    Args:
        out: folder of the crops.
        name: of the recording.
        written: by key, all crops of this call; they lie in the folder already.
        before: of :func:`enter`.
    """
    others = {key: owner for key, owner in _read(out / "crops.csv").items() if owner != (name,)}
    _write(out / "crops.csv", others | dict.fromkeys(written or before.noted, (name,)))
    if not written:
        return
    cameras = _read(out / "cameras.csv")
    earlier, folders = before.noted, set[str]()
    if before.known and not earlier:
        # An earlier version noted crops with a camera alone: others lie where it, or this call, has put some.
        own = re.compile(rf"{re.escape(name)}_\d+")
        earlier = {key for key in cameras if own.fullmatch(key.rpartition("/")[2])}
        folders = {key.rpartition("/")[0] for key in (*earlier, *written)}
    _remove_old(out, name, written, earlier, folders)
    cameras = {key: camera for key, camera in cameras.items() if key not in earlier}
    cameras |= {key: tuple(f"{value:.6g}" for value in one.camera) for key, one in written.items() if one.camera}
    if cameras or (out / "cameras.csv").exists():
        _write(out / "cameras.csv", cameras)


def _remove_old(
    out: Path, name: str, written: Mapping[str, Written], earlier: Collection[str], folders: Collection[str]
) -> None:
    """Remove the pictures of a recording that earlier calls wrote and this one did not; name those of other hands.

    Args:
        out, name, written: see :func:`replace_crops`.
        earlier: keys of crops known to be written.
        folders: those in which crops of no known name are taken for written, too.
    """
    own = re.compile(rf"({re.escape(name)}_\d+)_(rgb|depth)")
    new = {path for one in written.values() for path in one.files}
    names = {key.rpartition("/")[2] for key in earlier}
    removed, moved = 0, []
    for path in sorted(out.rglob(f"{glob.escape(name)}_*.png")):
        found = own.fullmatch(path.stem)
        if path in new or not found:
            continue
        place = path.relative_to(out)
        if place.with_name(found[1]).as_posix() in earlier or (
            place.parent.as_posix() in folders and found[1] not in names
        ):
            path.unlink()
            removed += 1
        else:
            moved.append(place.as_posix())
    if removed:
        logger.info("%d pictures of an earlier call for the recording %r in %s are removed", removed, name, out)
    if moved:
        more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
        words = "%d pictures of the recording %r lie where no call has put them, and stay: %s%s"
        logger.warning(words, len(moved), name, ", ".join(moved[:NAMED]), more)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """The rows of a table by their first value, none where there is no file; what an earlier version left is empty."""
    if not path.exists():
        return {}
    columns = COLUMNS[path.name]
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        head = tuple(next(rows, ()))
        if head not in (columns, columns[: EARLIER.get(path.name)]):
            raise DataError(
                f"{path} has the columns {', '.join(head) or '(none)'}; this command writes {', '.join(columns)}: "
                "move the file away, or take another --out"
            )
        return {key: (*values, *[""] * (len(columns) - 1 - len(values))) for key, *values in filter(None, rows)}


def _write(path: Path, rows: Mapping[str, tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS[path.name])
    writer.writerows((key, *values) for key, values in sorted(rows.items()))
    write_text(path, text.getvalue())
