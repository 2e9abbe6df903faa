"""A folder of crops or frames of several recordings: whose they are, and what a second call for a recording replaces.

======================  ===============================================================================================
file                    columns
======================  ===============================================================================================
``recordings.csv``      name (in front of the names of its files), recording, topics (empty: not known)
``crops.csv``           key of each crop that was written (its file without ``_rgb.png``), recording (its name)
``cameras.csv``         key, fx, fy, cx, cy where the camera is known; ``prepare folder`` reads it
``frames.csv``          key of each picture of a frame (its file without ``.png``), recording (its name), and of colour
                        the camera ``fx,fy,cx,cy``, empty where it is not known
======================  ===============================================================================================
"""

from __future__ import annotations

import csv
import fcntl
import glob
import io
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mmcl_core.atomic import write_text
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["CROPS", "FRAMES", "Before", "Written", "cameras_of_frames", "enter", "replace_earlier"]

logger = logging.getLogger(__name__)

CROPS, FRAMES = "crops.csv", "frames.csv"
COLUMNS = {
    "recordings.csv": ("name", "recording", "topics"),
    CROPS: ("key", "recording"),
    "cameras.csv": ("key", "fx", "fy", "cx", "cy"),
    FRAMES: ("key", "recording", "camera"),
}
EARLIER = {"recordings.csv": 2}  # the first columns, all that earlier versions wrote
ENDINGS = {CROPS: "_(rgb|depth)", FRAMES: ""}  # of files behind their keys, without .png
NAMED = 5  # most pictures that a warning names


class Written(NamedTuple):
    """A crop, or a picture of a frame, that was written: its camera (fx, fy, cx, cy) where known, and its files."""

    camera: tuple[float, ...] | None
    files: list[Path]


class Before(NamedTuple):
    """What a folder had of a recording: whether its name was known, and the rows of what calls meant to write."""

    known: bool
    noted: dict[str, tuple[str, ...]]


def enter(out: Path, table: str, name: str, recording: str, topics: str, planned: Collection[str]) -> Before:
    """Note whose files bear a name: those of two recordings would take each other's place.

    What is to be written is noted, too, so that a later call removes what this one leaves if it is stopped.

    Args:
        out: the folder.
        table: CROPS or FRAMES, what is to be written.
        name: in front of the names of the recording's files.
        recording: its path.
        topics: of its pictures.
        planned: keys of the files that may come.

    Raises:
        DataError: another recording, or other topics of this one, have the name; frames that no call has noted would
            be written over; or a table is of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        tables = {each: _read(out / each) for each in COLUMNS}
        known, what = tables["recordings.csv"], table.removesuffix(".csv")
        held, listed = known.get(name, (recording, topics))
        if held != recording or listed not in ("", topics):
            words = f"{held}, {listed}" if listed else held
            raise DataError(
                f"{out} holds {what} of another recording, or of other topics, named {name!r} ({words}); give --name "
                "NAME"
            )
        noted = tables[table]
        lost = [key for key in planned if key not in noted and (out / f"{key}.png").exists()]
        if table == FRAMES and lost:
            raise DataError(
                f"{out / lost[0]}.png is there already, and not noted in {FRAMES}: it may be of another recording; "
                "give --name NAME, or remove the frames of that name"
            )
        _write(out / "recordings.csv", {**known, name: (recording, topics)})
        _write(out / table, noted | dict.fromkeys(planned, _row(table, name)))
        return Before(name in known, {key: row for key, row in noted.items() if row[0] == name})


def replace_earlier(out: Path, table: str, name: str, written: Mapping[str, Written], before: Before) -> None:
    """Remove what earlier calls wrote of a recording and this one did not, if it wrote any; note what there is now.

    Args:
        out: the folder.
        table: CROPS or FRAMES, what was written.
        name: of the recording.
        written: by key, all that this call wrote; it lies in the folder already.
        before: of :func:`enter`.
    """
    with _alone(out):
        rows = {key: row for key, row in _read(out / table).items() if row[0] != name}
        if not written:
            _write(out / table, rows | before.noted)
            return
        _write(out / table, rows | {key: _row(table, name, one) for key, one in written.items()})
        if table == FRAMES:
            _remove_old(out, table, name, written, before.noted, ())
            return
        cameras = _read(out / "cameras.csv")
        earlier, folders = set(before.noted), set[str]()
        if before.known and not earlier:
            # An earlier version noted crops with a camera alone: others lie where it, or this call, has put some.
            own = re.compile(rf"{re.escape(name)}_\d+")
            earlier = {key for key in cameras if own.fullmatch(key.rpartition("/")[2])}
            folders = {key.rpartition("/")[0] for key in (*earlier, *written)}
        _remove_old(out, table, name, written, earlier, folders)
        cameras = {key: camera for key, camera in cameras.items() if key not in earlier}
        cameras |= {key: tuple(f"{value:.6g}" for value in one.camera) for key, one in written.items() if one.camera}
        if cameras or (out / "cameras.csv").exists():
            _write(out / "cameras.csv", cameras)


def cameras_of_frames(out: Path) -> dict[str, set[str]]:
    """The cameras of the colour pictures of a folder, as ``fx,fy,cx,cy``, by the name of the recording.

    Empty where a camera, or whose picture it is, is not known.
    """
    noted = _read(out / FRAMES)
    found: dict[str, set[str]] = {}
    for path in sorted((out / "rgb").glob("*.png")):
        name, camera = noted.get(f"rgb/{path.stem}", (path.stem.rpartition("_")[0], ""))
        found.setdefault(name, set()).add(camera)
    return found


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other calls waiting, for recordings of the same folder, that are about to change its tables."""
    opened = os.open(out, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _row(table: str, name: str, one: Written | None = None) -> tuple[str, ...]:
    """The values of a table behind the key."""
    if table == CROPS:
        return (name,)
    return (name, ",".join(f"{value:g}" for value in one.camera) if one and one.camera else "")


def _remove_old(
    out: Path,
    table: str,
    name: str,
    written: Mapping[str, Written],
    earlier: Collection[str],
    folders: Collection[str],
) -> None:
    """Remove the pictures of a recording that earlier calls wrote and this one did not; name those of other hands.

    Args:
        out, table, name, written: see :func:`replace_earlier`.
        earlier: keys known to be written.
        folders: those in which crops of no known name are taken for written, too.
    """
    own = re.compile(rf"({re.escape(name)}_\d+){ENDINGS[table]}")
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
        logger.info(
            "%s of an earlier call for the recording %r removed from %s", counted(removed, "picture"), name, out
        )
    if moved:
        more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
        one, many = "lies where no call has put it, and stays", "lie where no call has put them, and stay"
        pictures, lie = counted(len(moved), "picture"), one if len(moved) == 1 else many
        logger.warning("%s of the recording %r %s: %s%s", pictures, name, lie, ", ".join(moved[:NAMED]), more)


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
