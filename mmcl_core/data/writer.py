"""Writing a prepared set: one pass, hashed on the way, never half there (format: :mod:`mmcl_core.data.cache`)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.files import FORMAT, INDEX, PROGRESS, HashedFile, claim, partial_of, publish, refuse_to_write
from mmcl_core.errors import DataError

__all__ = ["COLUMNS", "FORMAT_VERSION", "PreparedWriter", "Sample", "index_checksum"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
COLUMNS = ("key", "group", "split", "source")
_SKIPS_LISTED = 200


@dataclass
class Sample:
    """One crop.

    Attributes:
        images: by modality: uint8 [S, S, 3], or uint16 [S, S] for metric depth in mm. A missing modality is left out.
        label: row in the list of classes, -1 = unlabelled.
        split: such as ``train`` or ``test``.
        key: names the sample; unique in the set.
        group: what near-duplicates share, such as a scene or an object instance; empty: unknown.
        source: where it came from, such as a file relative to the root of the source.
        camera: fx, fy, cx, cy in pixels of the crop, pixel centres at integer coordinates; None = unknown.
    """

    images: Mapping[str, npt.NDArray[Any]]
    label: int
    split: str
    key: str
    group: str = ""
    source: str = ""
    camera: tuple[float, float, float, float] | None = None


class PreparedWriter:
    """Writes a prepared set, one sample after the other.

    Everything goes to ``<out>.partial``, which becomes ``out`` when :meth:`close` is done; a writer that is killed
    leaves nothing under the final name. As a context manager it closes on success and discards on an exception, unless
    :meth:`save` was called: then the part that was saved stays, and ``resume`` goes on from there.

    Args:
        out: folder of the new set.
        classes: names of the classes; a label is a row of it.
        size: side S of the square crops in pixels.
        modalities: names, such as ``("rgb", "depth")``.
        description: provenance as plain JSON values: the source, its licence, the crop rule under ``crop``. Equal for
            all shards of one job, otherwise the merged set cannot equal an unsharded one.
        stored: those depth modalities that are 8-bit pictures of three channels instead of millimetres.
        overwrite: replace a prepared set that is already there, or a part of one that was saved.
        resume: go on with what was saved (see :attr:`saved`); without such a part, begin.

    Attributes:
        saved: what :meth:`save` was given in the run that this one goes on from; empty for a new set.

    Raises:
        DataError: ``out`` is not empty, is no prepared set, or is being written by another process; a saved part is
            there and neither ``overwrite`` nor ``resume`` was asked for, or it was made otherwise; bad arguments.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        classes: Sequence[str],
        size: int,
        modalities: Sequence[str],
        description: Mapping[str, Any] | None = None,
        stored: Sequence[str] = (),
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        from mmcl_core.modality import modality  # here, so that workers that only make samples need no torch

        self.out = Path(out)
        self.classes, self.size, self.modalities = tuple(classes), int(size), tuple(modalities)
        self._description = dict(description or {})
        self._check_arguments()
        kinds = {name: modality(name) for name in self.modalities}
        self._metric = {name: m.kind == "depth" and name not in stored for name, m in kinds.items()}
        self._units = {
            name: "stored depth picture" if m.kind == "depth" and name in stored else m.unit
            for name, m in kinds.items()
        }
        # Where a link points to: the work may have to stay on the disk that was chosen by it.
        self._target = self.out.resolve()
        refuse_to_write(self._target, overwrite, resume)
        self._partial = partial_of(self._target)
        unfinished = (self._partial / PROGRESS).is_file()
        self._keys: set[str] = set()
        self._counts: dict[str, Counter[int]] = {}
        self._present = Counter[str]()
        self._skipped: list[tuple[str, str]] = []
        self._skip_count = 0
        self.saved: dict[str, Any] = {}
        self._lock = claim(self._partial, keep=resume and unfinished)
        try:
            self._open(self._read_progress() if resume and unfinished else {})
        except BaseException:
            os.close(self._lock)
            raise

    def _check_arguments(self) -> None:
        """Refuse arguments that cannot be written, now rather than after hours of work."""
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise DataError(f"{self.out}: modalities are {self.modalities}; one or more different names are expected")
        if len(set(self.classes)) < len(self.classes):
            raise DataError(f"{self.out}: a class is named twice in {self.classes}")
        try:
            json.dumps([self.classes, self._description], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{self.out}: a class or the description is no valid Unicode text: {error}") from error

    def _open(self, kept: Mapping[str, int]) -> None:
        """Begin the files, or go on after so many bytes of each."""
        names = [self._file(m) for m in self.modalities] + ["labels.i64", "camera.f32", "present.u1", "samples.csv"]
        self._files = {name: HashedFile(self._partial / name, kept.get(name, 0)) for name in names}
        if kept:
            self._restore()
        else:
            self._write_row(COLUMNS)

    def __len__(self) -> int:
        return len(self._keys)

    def _file(self, name: str) -> str:
        return f"{name}.u16" if self._metric[name] else f"{name}.u8"

    def _write_row(self, values: Sequence[str]) -> None:
        text = io.StringIO()
        # Readers take a carriage return for the end of a line where it is not quoted, and csv does not quote it.
        breaks = "\r" in "".join(values)
        csv.writer(text, quoting=csv.QUOTE_ALL if breaks else csv.QUOTE_MINIMAL, lineterminator="\n").writerow(values)
        self._files["samples.csv"].write(text.getvalue().encode())

    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            DataError: a picture of the wrong shape or type, an unknown modality, a label that is no class, a key that
                was there before, or a sample without any picture.
        """
        self._check(sample)
        self._keys.add(sample.key)
        for name in self.modalities:
            shape, kind = ((self.size,) * 2, "<u2") if self._metric[name] else ((self.size, self.size, 3), "u1")
            image = sample.images.get(name)
            pixels = np.zeros(shape, kind) if image is None else np.ascontiguousarray(image, dtype=kind)
            self._files[self._file(name)].write(pixels.data.cast("B"))
            self._present[name] += image is not None
        self._files["labels.i64"].write(np.int64(sample.label).astype("<i8").tobytes())
        self._files["camera.f32"].write(np.asarray(sample.camera or (0, 0, 0, 0), dtype="<f4").tobytes())
        self._files["present.u1"].write(bytes(name in sample.images for name in self.modalities))
        self._write_row((sample.key, sample.group, sample.split, sample.source))
        self._counts.setdefault(sample.split, Counter())[int(sample.label)] += 1

    def _fingerprint(self) -> str:
        """What must be the same to go on: all that the index says before the first sample.

        But for ``meshes`` of the description, which ``render`` compares itself, to name them.
        """
        description = {name: value for name, value in self._description.items() if name != "meshes"}
        plain = [self.classes, self.size, self._units, description]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def save(self, state: Mapping[str, Any]) -> None:
        """Note that everything up to here is good, and where its maker was, as plain values, to go on from."""
        content = {
            "fingerprint": self._fingerprint(),
            "bytes": {name: file.flush() for name, file in self._files.items()},
            "skipped": {"samples": self._skip_count, "first": self._first_skips()},
            "state": dict(state),
        }
        new = self._partial / f"{PROGRESS}.new"
        new.write_text(json.dumps(content), encoding="utf-8")
        new.replace(self._partial / PROGRESS)
        self.saved = dict(state)

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Key, split and label of the samples that were kept, in their order."""
        labels = np.fromfile(self._partial / "labels.i64", "<i8").tolist()
        with (self._partial / "samples.csv").open(encoding="utf-8", newline="") as file:
            for label, (key, _, split, _) in zip(labels, islice(csv.reader(file), 1, None), strict=True):
                yield key, split, label

    def _read_progress(self) -> dict[str, int]:
        """Bytes of every file that are good."""
        path = self._partial / PROGRESS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            same = content["fingerprint"] == self._fingerprint()
            kept = {str(name): int(size) for name, size in content["bytes"].items()}
            self._skip_count = int(content["skipped"]["samples"])
            self._skipped = [(str(key), str(reason)) for key, reason in content["skipped"]["first"]]
            self.saved = dict(content["state"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}); --overwrite begins anew") from error
        if not same:
            raise DataError(
                f"{self._partial} was made with other options, from another source or by another version; give the "
                "same to go on, or --overwrite to begin anew"
            )
        return kept

    def _restore(self) -> None:
        """Count what is kept, as :meth:`add` did."""
        for key, split, label in self.rows():
            self._keys.add(key)
            self._counts.setdefault(split, Counter())[label] += 1
        present = np.fromfile(self._partial / "present.u1", bool).reshape(len(self._keys), -1)
        self._present.update(dict(zip(self.modalities, present.sum(0).tolist(), strict=True)))

    def skip(self, key: str, reason: str) -> None:
        """Note a sample that could not be used; the index keeps the count and the first ones by name."""
        self._skip_count += 1
        self._skipped.append((key, reason))
        if len(self._skipped) >= 2 * _SKIPS_LISTED:
            self._skipped = self._first_skips()

    def _first_skips(self) -> list[tuple[str, str]]:
        return sorted(self._skipped)[:_SKIPS_LISTED]

    def take_skips(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Take over what the ``skipped`` entries of other indexes say."""
        self._skip_count += sum(part["samples"] for part in parts)
        self._skipped += ((str(key), str(reason)) for part in parts for key, reason in part["first"])
        self._skipped = self._first_skips()

    def _check(self, sample: Sample) -> None:
        where = f"sample {sample.key!r}"
        if not sample.key or sample.key in self._keys:
            raise DataError(f"{where}: keys must be unique and not empty")
        if not sample.split:
            raise DataError(f"{where}: has no split; name it train or test, say")
        if not -1 <= sample.label < len(self.classes):
            raise DataError(f"{where}: label {sample.label}; expected -1 (unlabelled) to {len(self.classes) - 1}")
        if not sample.images:
            raise DataError(f"{where}: has no picture at all")
        for name, image in sample.images.items():
            if name not in self._metric:
                raise DataError(f"{where}: has the modality {name!r}; the set holds {', '.join(self.modalities)}")
            shape = (self.size, self.size) + (() if self._metric[name] else (3,))
            kind = np.dtype(np.uint16 if self._metric[name] else np.uint8)
            if image.shape != shape or image.dtype != kind:
                raise DataError(
                    f"{where}: {name} is {image.dtype} of shape {image.shape}; expected {kind} of shape {shape}"
                )
        camera = sample.camera
        if camera is not None and (len(camera) != 4 or not np.isfinite(camera).all() or min(camera[:2]) <= 0):
            raise DataError(f"{where}: camera is {camera}; expected finite (fx, fy, cx, cy) in pixels, fx and fy > 0")

    def close(self) -> None:
        """Write the index and give the set its final name.

        Raises:
            DataError: no sample was added.
        """
        if not self._keys:
            self.discard()
            raise DataError(f"{self.out}: no sample to write")
        index = self._index({name: file.close() for name, file in self._files.items()})
        with (self._partial / INDEX).open("w", encoding="utf-8") as file:
            file.write(json.dumps({**index, "checksum": index_checksum(index)}, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        publish(self._partial, self._target)
        (self._target / PROGRESS).unlink(missing_ok=True)  # after it, which may fail: there is something to go on from
        self._unlock()

    def _index(self, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
        n, s = len(self._keys), self.size
        pictures = {
            name: {
                "file": self._file(name),
                "dtype": "uint16" if metric else "uint8",
                "shape": [n, s, s] if metric else [n, s, s, 3],
                "unit": self._units[name],
                "samples": self._present[name],
            }
            for name, metric in self._metric.items()
        }
        splits = {
            split: {
                "samples": sum(counts.values()),
                "unlabelled": counts[-1],
                "classes": {name: counts[label] for label, name in enumerate(self.classes)},
            }
            for split, counts in sorted(self._counts.items())
        }
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "samples": n,
            "size": s,
            "classes": list(self.classes),
            "modalities": pictures,
            "splits": splits,
            "description": self._description,
            "skipped": {"samples": self._skip_count, "first": [list(skip) for skip in self._first_skips()]},
            "files": dict(sorted(files.items())),
        }

    def discard(self) -> None:
        """Throw away what was written."""
        for file in self._files.values():
            file.abandon()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _leave(self) -> None:
        """Keep what was saved to go on from; without that, throw away what was written."""
        if not self.saved:
            self.discard()
            return
        for file in self._files.values():
            file.abandon()
        self._unlock()

    def __enter__(self) -> PreparedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._leave()
            return
        try:
            self.close()
        except BaseException:  # such as a full disk, which is met where the last bytes are written
            if self.saved:
                logger.warning("what was done is kept in %s.partial; the same command with --resume goes on", self.out)
            self._leave()
            raise


def index_checksum(index: Mapping[str, Any]) -> str:
    """SHA-256 of the content of an index, its own entry ``checksum`` left out."""
    plain = {key: value for key, value in index.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
