"""The prepared format: a folder of flat arrays that training maps into memory.

======================  ==================  ==========================================================================
file                    type and shape      content
======================  ==================  ==========================================================================
``rgb.u8``              uint8 [N, S, S, 3]  RGB; ``rgb_<name>.u8`` for further views
``depth.u16``           uint16 [N, S, S]    z in millimetres, 0 = no reading; ``depth_<name>.u16`` for further views
``depth.u8``            uint8 [N, S, S, 3]  instead of it: a depth picture the data set already holds (HHA)
``labels.i64``          int64 [N]           row in the list of classes, -1 = unlabelled
``camera.f32``          float32 [N, 4]      fx, fy, cx, cy in pixels of the crop; zeros = unknown
``present.u1``          uint8 [N, M]        1 where the sample has the modality; its rows are zero elsewhere
``samples.csv``         N rows              key, group, split, source
``index.json``          JSON                classes, modalities, counts, provenance, size and SHA-256 of every file
======================  ==================  ==========================================================================

All numbers are little-endian. The same samples in the same order give the same bytes: nothing depends on time or place.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.crops import UNKNOWN
from mmcl_core.data.class_names import warn_of_like_names
from mmcl_core.data.files import INDEX
from mmcl_core.data.writer import COLUMNS, FORMAT_VERSION, PreparedWriter, Sample, index_checksum
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["PreparedSet", "merge_sets"]

logger = logging.getLogger(__name__)

_BLOCK = 1 << 22


class PreparedSet:
    """A prepared set on disk; the pictures are mapped, not read.

    Attributes:
        path: its folder.
        classes: names of the classes.
        size: side of the square crops in pixels.
        modalities: names of the modalities.
        images: by modality, read-only ``np.memmap``: uint8 [N, S, S, 3], or uint16 [N, S, S] in mm.
        labels: int64 [N], -1 = unlabelled.
        camera: float32 [N, 4] (fx, fy, cx, cy), zeros = unknown.
        present: bool [N, M], columns as in ``modalities``.
        keys, groups, splits, sources: text of each sample, object arrays [N].
        index: content of ``index.json``.
    """

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self.path, self.index = path, index
        self.classes: tuple[str, ...] = tuple(index["classes"])
        self.size = int(index["size"])
        self.modalities: tuple[str, ...] = tuple(index["modalities"])
        self._n = int(index["samples"])
        self.images = {
            name: np.memmap(path / entry["file"], dtype=f"<{np.dtype(entry['dtype']).str[1:]}", mode="r").reshape(
                entry["shape"]
            )
            for name, entry in index["modalities"].items()
        }
        self.labels: npt.NDArray[np.int64] = np.fromfile(path / "labels.i64", "<i8").astype(np.int64, copy=False)
        self.camera: npt.NDArray[np.float32] = np.fromfile(path / "camera.f32", "<f4").reshape(-1, 4)
        self.present: npt.NDArray[np.bool_] = np.fromfile(path / "present.u1", bool).reshape(self._n, -1)
        columns = _read_samples(path / "samples.csv", self._n)
        self.keys, self.groups, self.splits, self.sources = (columns[:, i] for i in range(len(COLUMNS)))

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> PreparedSet:
        """Open a set.

        Args:
            path: its folder.
            verify: compare the SHA-256 of every file with the index. Sizes are compared in any case.

        Raises:
            DataError: no prepared set there, a newer format, or a file that is missing, truncated or edited.
        """
        folder = Path(path)
        index = _read_index(folder)
        _check_files(folder, index, verify)
        return cls(folder, index)

    def __len__(self) -> int:
        return self._n

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that exist."""
        return tuple(self.index["splits"])

    def select(self, split: str) -> npt.NDArray[np.int64]:
        """Rows of a split, ascending, int64.

        Raises:
            DataError: no such split.
        """
        if split not in self.index["splits"]:
            raise DataError(f"{self.path} has no split {split!r}; it has {', '.join(self.split_names)}")
        return np.flatnonzero(self.splits == split).astype(np.int64)

    def sample(self, row: int) -> Sample:
        """One sample as it was written."""
        images = {name: self.images[name][row] for i, name in enumerate(self.modalities) if self.present[row, i]}
        fx, fy, cx, cy = map(float, self.camera[row])
        camera = (fx, fy, cx, cy) if fx > 0 else None
        split, key, group, source = (str(c[row]) for c in (self.splits, self.keys, self.groups, self.sources))
        return Sample(images, int(self.labels[row]), split, key, group, source, camera)


def merge_sets(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    unknown: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> PreparedSet:
    """Join prepared sets into one, ordered by key.

    Shards of one job whose samples were written in the order of their keys give, byte for byte, the set that the
    unsharded job gives. Sets of different class lists are joined by the names of the classes. Where jobs of different
    descriptions have keys in common, such as two calls of ``render``, keys and groups of each get the name of its
    folder in front.

    Args:
        sources: folders of the sets.
        out: folder of the new set.
        unknown: folders of further sets, whose samples, labelled or not, all become the class ``unknown``: things that
            are none of the classes.
        overwrite: replace a prepared set that is already there.

    Raises:
        DataError: no sources, a damaged one, different sizes or kinds of depth, shards that were rendered from
            different meshes, or a key that occurs twice in a job.
    """
    if not sources:
        raise DataError("nothing to merge; name the prepared sets")
    sets = [PreparedSet.open(source) for source in (*sources, *unknown)]
    others = [place >= len(sources) for place in range(len(sets))]
    first = sets[0]
    stored: dict[str, bool] = {}
    for part in sets:
        if part.size != first.size:
            raise DataError(
                f"{part.path} has crops of {part.size} px, {first.path} of {first.size} px; make both with one --size"
            )
        for name, entry in part.index["modalities"].items():
            if stored.setdefault(name, entry["dtype"] == "uint8") != (entry["dtype"] == "uint8"):
                raise DataError(f"{part.path}: {name} is {entry['unit']} here and another kind of picture elsewhere")
    classes = list(dict.fromkeys(name for part in sets[: len(sources)] for name in part.classes))
    classes += [UNKNOWN] if unknown and UNKNOWN not in classes else []
    warn_of_like_names(classes)
    descriptions = [
        {k: v for k, v in part.index["description"].items() if k != "shard"} | ({"all": UNKNOWN} if other else {})
        for part, other in zip(sets, others, strict=True)
    ]
    _check_meshes(sets, descriptions)
    prefixes = _prefixes(sets, descriptions)
    _warn_of_missing(sets, descriptions)
    same = all(description == descriptions[0] for description in descriptions)
    with PreparedWriter(
        out,
        classes=classes,
        size=first.size,
        modalities=list(stored),
        stored=[name for name, picture in stored.items() if picture],
        description=descriptions[0] if same else {"merged": descriptions},
        overwrite=overwrite,
    ) as writer:
        parts = [_by_key(*part, classes) for part in zip(sets, prefixes, others, strict=True)]
        for _, sample in heapq.merge(*parts, key=lambda item: item[0]):
            writer.add(sample)
        writer.take_skips([part.index["skipped"] for part in sets])
    return PreparedSet.open(out, verify=False)


def _check_meshes(sets: Sequence[PreparedSet], descriptions: Sequence[dict[str, Any]]) -> None:
    """Refuse shards of one rendered set that show different meshes, or deal them to the splits in another order.

    They are told from whole sets by their keys: sets that the same command has rendered whole have the same keys.

    Raises:
        DataError: such shards.
    """
    jobs: dict[str, dict[tuple[str, ...], list[PreparedSet]]] = {}
    for part, description in zip(sets, descriptions, strict=True):
        command = json.dumps({**description, "meshes": ""}, sort_keys=True)
        made = (str(description.get("meshes", "")), *description.get("shares", {}))
        jobs.setdefault(command, {}).setdefault(made, []).append(part)
    for job in jobs.values():
        for first, second in combinations(job, 2):
            one, other = ({key for part in job[made] for key in part.keys} for made in (first, second))
            if not one.isdisjoint(other):
                continue
            what = "with the splits of --split in another order"
            if first[0] != second[0]:
                what = (
                    "from different meshes (other files or --classes, or read by another version of this program, "
                    "trimesh or pillow)"
                )
            raise DataError(
                f"{job[first][0].path} and {job[second][0].path} look like shards of one set, but were rendered "
                f"{what}; render all shards from the same"
            )


def _warn_of_missing(sets: Sequence[PreparedSet], descriptions: Sequence[Mapping[str, Any]]) -> None:
    """Tell of rendered sets whose shards hold fewer crops together than their index says that the whole set has."""
    jobs = [list(descriptions).index(description) for description in descriptions]
    for job in dict.fromkeys(jobs):
        count = descriptions[job].get("count", 0)
        found = sum(len(part) for part, own in zip(sets, jobs, strict=True) if own == job)
        if found < count:
            told = "%s is a shard of a set of %d crops, of which %d are here; name all shards to have all of it"
            logger.warning(told, sets[job].path, count, found)


def _prefixes(sets: Sequence[PreparedSet], descriptions: Sequence[dict[str, Any]]) -> list[str]:
    """What goes before the keys and groups of each set: nothing, unless keys of different jobs are the same.

    Raises:
        DataError: a key occurs twice in a job.
    """
    jobs = [descriptions.index(description) for description in descriptions]
    prefixes = _told_apart({job: sets[job].path.resolve() for job in jobs})
    names = [prefixes[job] for job in jobs]
    seen: set[str] = set()
    owners: dict[str, PreparedSet] = {}
    shared = False
    for part, name in zip(sets, names, strict=True):
        own = {f"{name}{key}" for key in part.keys}
        if twice := owners.keys() & own:
            key = min(twice)
            raise DataError(
                f"{owners[key].path} and {part.path} both have the sample {key.removeprefix(name)!r}; name each part "
                "of one job once; jobs are told apart by their settings and the name of their source"
            )
        owners |= dict.fromkeys(own, part)
        shared = shared or not seen.isdisjoint(part.keys)
        seen.update(part.keys)
    if shared:
        logger.warning(
            "jobs of different settings have keys in common: samples are named <folder>/<key>; where they show the "
            "same scenes, make sure that these are in the same split of each"
        )
    return names if shared else [""] * len(sets)


def _told_apart(folders: Mapping[int, Path]) -> dict[int, str]:
    """A prefix for each job: the name of its folder, with those above it as far as they tell equal ones apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders.values()) + 1):
        names = {job: "/".join(folder.parts[-depth:]).lstrip("/") + "/" for job, folder in folders.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _by_key(part: PreparedSet, prefix: str, other: bool, classes: Sequence[str]) -> Iterator[tuple[str, Sample]]:
    """The samples of a part in the order of their keys, with labels in ``classes``; ``other``: all ``unknown``."""
    labels = [classes.index(UNKNOWN if other else name) for name in part.classes]
    unlabelled = classes.index(UNKNOWN) if other else -1
    for row in np.argsort(part.keys, kind="stable"):
        sample = part.sample(row)
        sample.label = labels[sample.label] if sample.label >= 0 else unlabelled
        sample.key = f"{prefix}{sample.key}"
        sample.group = f"{prefix}{sample.group}" if sample.group else ""
        yield sample.key, sample


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        if folder.is_file():
            raise DataError(f"{folder} is a file; name its folder, {folder.parent}, if that is the prepared set")
        found = "no such folder"
        if folder.is_dir():
            names = sorted(entry.name for entry in folder.iterdir())
            found = f"found {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"
        if folder.resolve().with_name(folder.resolve().name + ".partial").is_dir():
            found += f"; {folder}.partial is what an unfinished or killed command left"
        raise DataError(f"{folder} is not a prepared set: {INDEX} expected, {found}. Make one with mmcl_core.prepare")
    try:
        index: Any = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is damaged: valid JSON expected, found {error}") from error
    version = index.get("version") if isinstance(index, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{path} is damaged: a format version expected, found {version!r}")
    if version > FORMAT_VERSION:
        raise DataError(f"{path} is of format version {version}; this program reads up to {FORMAT_VERSION}: update it")
    if index.get("checksum") != (found := index_checksum(index)):
        raise DataError(f"{path} was edited: checksum {index.get('checksum')} expected, found {found}")
    return dict(index)


def _check_files(folder: Path, index: dict[str, Any], verify: bool) -> None:
    entries = index["files"]
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {INDEX} lists it with {entry['bytes']} bytes")
        if (size := path.stat().st_size) != entry["bytes"]:
            state = "truncated" if size < entry["bytes"] else "longer than it was"
            raise DataError(f"{path} is {state}: {entry['bytes']} bytes expected, found {size}")
    if not verify:
        return
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        paths = [folder / name for name in entries]
        for path, found, entry in zip(paths, pool.map(_sha256, paths), entries.values(), strict=True):
            if found != entry["sha256"]:
                raise DataError(f"{path} was changed: SHA-256 {entry['sha256']} expected, found {found}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_samples(path: Path, samples: int) -> npt.NDArray[np.object_]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS or len(rows) != samples + 1:
        raise DataError(f"{path}: {counted(samples, 'row')} of {', '.join(COLUMNS)} expected, found {len(rows) - 1}")
    return np.array(rows[1:], dtype=object)
