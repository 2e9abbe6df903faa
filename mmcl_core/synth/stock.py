"""Where the objects of rendered scenes come from: a folder of meshes, or procedural ones."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.data.sources import NOT_UTF8, folders_in, printable
from mmcl_core.data.workers import in_order, start_worker
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.progress import progress_bar
from mmcl_core.synth.mesh import MESH_SUFFIXES, Mesh, object_files
from mmcl_core.synth.mesh_files import check_textures, load_mesh
from mmcl_core.synth.placing import Item
from mmcl_core.synth.shelf import MeshShelf
from mmcl_core.words import counted

__all__ = ["WINDOW", "FolderStock", "HouseholdStock", "make_stock"]

logger = logging.getLogger(__name__)

WINDOW = 2
"""Rounds of a split that share their instances of procedural objects."""

_KEEP = 192  # objects a process holds, those used last
_KEEP_BYTES = 2 << 30  # that meshes from files may take of its memory
_LARGE = 1.5  # metres: larger meshes are warned of
_READS = 8  # meshes that a process is worth starting for

_reader: tuple[str, MeshShelf | None] = "z", None  # of a worker process: which axis is up, and where to lay them down


class FolderStock:
    """The meshes of a folder; every split shows all of them, in scenes of its own, or see :meth:`keep_instances`.

    Args:
        folder: see :mod:`mmcl_core.synth.mesh`.
        up: the axis that is up in the files, see :func:`mmcl_core.synth.mesh_files.load_mesh`.
        shelf: where :meth:`check` lays the meshes down, and where they are taken from, as far as they lie there.

    Raises:
        DataError: no such folder, or no mesh in it that can be used.
    """

    unseen = "scenes"
    together = 1  # crops in a row that share objects which have to be built

    def __init__(self, folder: str | Path, up: str = "z", shelf: MeshShelf | None = None) -> None:
        self._up, self._shelf = up, shelf
        files, self._left_out = object_files(folder)
        self._files = [file for file in files if printable(file[1]) == file[1]]
        self._misnamed = [path for _, name, path in files if printable(name) != name]
        if not self._files:
            raise DataError(f"no mesh in {folder} can be used: {self._misnamed[0]} {NOT_UTF8}")
        self.classes = tuple(sorted({name for name, _, _ in self._files}))
        named = {place.name for place in folders_in(Path(folder))}
        self._empty = sorted(named - {name for name, _, _ in files})
        self._kept: OrderedDict[int, Item] = OrderedDict()  # those used last behind
        self._bytes = 0  # of these
        self._own: dict[tuple[int, str], list[int]] = {}
        self._split: dict[int, str] = {}  # of the meshes that are shown in one split alone

    def keep_instances(self, shares: Mapping[str, float], seed: int) -> None:
        """Deal the meshes of each class to the splits, so that none is shown in two; at least one to each.

        Args:
            shares: splits and their shares.
            seed: of the draw, which depends on the meshes of the class alone besides.

        Raises:
            DataError: a class has fewer meshes than there are splits.
        """
        meshes = {name: [k for k, file in enumerate(self._files) if file[0] == name] for name in self.classes}
        if few := [f"{name} has {len(own)}" for name, own in meshes.items() if len(own) < len(shares)]:
            more = f" and {counted(len(few) - 5, 'class')} more" if len(few) > 5 else ""
            raise DataError(
                f"--keep-instances: {len(shares)} splits need {len(shares)} meshes of each class; "
                f"{', '.join(few[:5])}{more}: add meshes, ask for fewer splits (--split), or name other --classes"
            )
        for name, own in meshes.items():
            order = np.random.default_rng([seed, *name.encode(errors="surrogateescape")]).permutation(own).tolist()
            left = {split: share * len(own) for split, share in shares.items()}
            for place, mesh in enumerate(order):
                split = [*shares][place] if place < len(shares) else max(left, key=lambda one: round(left[one], 9))
                left[split] -= 1
                self._split[mesh] = split
        self.unseen = "instances"

    def check(self, workers: int = 1) -> str:
        """Load every mesh of the classes that are used: a broken one must not end a work of hours that draws it late.

        Warns of class folders that hold no mesh, of meshes that are left out, for their name or beside another one, of
        materials that are missing, and of colours that cannot be shown.

        Args:
            workers: processes to read them, at most.

        Returns:
            A checksum of the meshes and their names, hexadecimal.

        Raises:
            DataError: a mesh cannot be used, see :func:`mmcl_core.synth.mesh_files.load_mesh`.
        """
        self._tell_left_out()
        used = {path: number for number, (name, _, path) in enumerate(self._files) if name in self.classes}
        checksum = hashlib.sha256(repr([file[:2] for file in self._files if file[0] in self.classes]).encode())
        broken, remarks, large, memory = [], [], [], 0
        for path, read in zip(used, self._read(used, workers), strict=True):
            if isinstance(read, DataError):
                broken.append(read)
                continue
            checksum.update(read.digest)
            remarks += [(path, remark) for remark in read.remarks]
            large += [path] if read.extent > _LARGE else []
            memory += read.memory
        if len(broken) > 1:
            raise DataError(f"{len(broken)} of {len(used)} meshes cannot be used, the first: {broken[0]}")
        if broken:
            raise broken[0]
        for path, remark in remarks:
            logger.warning("colours of %s: %s", path, remark)
        if large:
            logger.warning(
                "meshes above %.1f m: %d, such as %s; to be seen whole they are so far away that depth cameras, which "
                "end at 3 to 8 m, often read nothing of them",
                _LARGE, len(large), large[0],
            )  # fmt: skip
        if memory > _KEEP_BYTES:
            logger.warning(
                "%d meshes with their textures take %.1f GB, of which each process holds %.1f: most crops have to load "
                "some anew, and smaller textures render faster", len(used), memory / 1e9, _KEEP_BYTES / 1e9,
            )  # fmt: skip
        plain = [(path, reason) for path in used if (reason := check_textures(path))]
        if plain:
            logger.warning("meshes of plain colour, or with plain parts: %d, such as %s: %s", len(plain), *plain[0])
        return checksum.hexdigest()

    def _read(self, used: Mapping[Path, int], workers: int) -> Iterator[_Read | DataError]:
        """What comes of reading each file, in their order, with progress.

        Args:
            used: files, and the numbers under which their meshes are laid down.
            workers: processes, at most.
        """
        reads: Iterator[_Read | DataError]
        workers = min(workers, len(used) // _READS)
        if workers > 1:
            shelf = self._shelf and MeshShelf(self._shelf.folder, self._shelf.room // workers)
            reads = in_order(_read_file, used.items(), workers, _start_reader, (self._up, shelf))
        else:
            _set_reader(self._up, self._shelf)
            reads = (read for file in used.items() for read in _read_file(file))
        yield from progress_bar(reads, title="check meshes", unit=" meshes", total=len(used), leave=False)

    def _tell_left_out(self) -> None:
        if self._empty:
            logger.warning(
                "class folders without a mesh, left out: %d, such as %s; expected in them or one folder below: %s",
                len(self._empty), printable(self._empty[0]), " ".join(MESH_SUFFIXES),
            )  # fmt: skip
        if self._left_out:
            first = self._left_out[0]
            taken = [*(path for _, _, path in self._files), *self._misnamed]
            near = (first.parent, first.parent.parent)
            place = next(path for path in taken if path.parent in near or path.parent.parent == near[1])
            logger.warning(
                "mesh files left out: %d, such as %s, beside which %s is taken",
                len(self._left_out), first, place,
            )  # fmt: skip
        if self._misnamed:
            odd = printable(str(self._misnamed[0]))
            logger.warning("mesh files left out: %d, such as %s, which %s", len(self._misnamed), odd, NOT_UTF8)

    def item(self, label: int, split: str, window: int, rng: np.random.Generator) -> Item:
        """An object of a class."""
        if (label, split) not in self._own:
            named = [k for k, (name, _, _) in enumerate(self._files) if name == self.classes[label]]
            self._own[label, split] = [k for k in named if self._split.get(k, split) == split]
        own = self._own[label, split]
        return self._loaded(own[int(rng.integers(len(own)))])

    def _loaded(self, number: int) -> Item:
        if number not in self._kept:
            self._kept[number] = self._load(number)
            self._bytes += _memory(self._kept[number].skin.mesh)
            while len(self._kept) > 1 and (len(self._kept) > _KEEP or self._bytes > _KEEP_BYTES):
                self._bytes -= _memory(self._kept.popitem(last=False)[1].skin.mesh)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _load(self, number: int) -> Item:
        name, instance, path = self._files[number]
        mesh = self._shelf.take(number) if self._shelf else None
        return Item(name, instance, mesh or load_mesh(path, self._up))


@dataclass(frozen=True)
class _Read:
    """What a mesh file holds.

    Attributes:
        digest: of its geometry and pictures.
        remarks: what of its colours is not shown.
        extent: its longest side, metres.
        memory: bytes that the mesh takes.
    """

    digest: bytes
    remarks: tuple[str, ...]
    extent: float
    memory: int


def _start_reader(up: str, shelf: MeshShelf | None) -> None:
    start_worker()
    _set_reader(up, shelf)


def _set_reader(up: str, shelf: MeshShelf | None) -> None:
    global _reader
    _reader = up, shelf


def _read_file(file: tuple[Path, int]) -> list[_Read | DataError]:
    """Read a file and lay its mesh down; an error is handed over, for others may have one, too."""
    path, number = file
    up, shelf = _reader
    try:
        mesh = load_mesh(path, up)
    except DataError as error:
        return [error]
    digest = hashlib.sha256()
    for array in (mesh.vertices, mesh.faces, mesh.uv, mesh.shows, mesh.texture, *mesh.others):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    if shelf:
        shelf.put(number, mesh)
    return [_Read(digest.digest(), tuple(mesh.remarks), float(np.ptp(mesh.bounds, axis=0).max()), _memory(mesh))]


def _memory(mesh: Mesh) -> int:
    """Bytes that a mesh takes, about: its textures with their halvings, and its geometry with what is made of it."""
    geometry = (mesh.vertices, mesh.faces, mesh.uv, mesh.normals)
    return sum(4 * one.nbytes // 3 for one in (mesh.texture, *mesh.others)) + 3 * sum(one.nbytes for one in geometry)


class HouseholdStock:
    """Procedural objects; every split has instances of its own.

    Args:
        seed: what all instances follow from.
        categories: names of the classes.
        build: (category, seed of the instance) -> mesh.
    """

    unseen = "instances"

    def __init__(self, seed: int, categories: tuple[str, ...], build: Callable[[str, int], Mesh]) -> None:
        self.classes, self._seed, self._build = categories, seed, build
        self.together = WINDOW * len(categories)
        self._built = lru_cache(_KEEP)(self._make)

    def __reduce__(self) -> tuple[type[HouseholdStock], tuple[Any, ...]]:
        return HouseholdStock, (self._seed, self.classes, self._build)  # without what it has built

    def item(self, label: int, split: str, window: int, rng: np.random.Generator) -> Item:
        """The instance of a class that belongs to a window of rounds of a split."""
        return self._built(label, split, window)

    def _make(self, label: int, split: str, window: int) -> Item:
        name = self.classes[label]
        numbers = np.random.SeedSequence([self._seed, label, window, *split.encode()]).generate_state(1)
        return Item(name, f"{name}/{split}-{window:05d}", self._build(name, int(numbers[0])))


def make_stock(
    objects: str,
    seed: int,
    classes: Sequence[str] = (),
    apart: Mapping[str, float] | None = None,
    up: str = "z",
    shelf: MeshShelf | None = None,
) -> FolderStock | HouseholdStock:
    """The source of objects that ``--objects`` names: ``household`` or a folder of meshes.

    Args:
        objects: the option.
        seed: what procedural objects follow from.
        classes: only these, in this order; empty: all, in the source's order.
        apart: splits and their shares, each of which is to have meshes of its own; procedural objects always are.
        up: the axis that is up in meshes, ``z`` or ``y``.
        shelf: see :class:`FolderStock`.

    Raises:
        ConfigError: packages for rendering that are not installed, a class that is not there or named twice, or
            ``up`` for objects that have no files.
        DataError: a folder without meshes, or with too few to have them apart.
    """
    missing = [name for name in ("trimesh", "embreex") if importlib.util.find_spec(name) is None]
    if missing:
        where = "; of embreex there are wheels for x86-64 and macOS alone" if "embreex" in missing else ""
        raise ConfigError(f"rendering needs {' and '.join(missing)}: pip install {' '.join(missing)}{where}")
    if objects == "household":
        from mmcl_core.synth.household import CATEGORIES, household

        if up != "z":
            raise ConfigError(f"--up {up} is for folders of meshes; household objects stand as they are: leave it out")
        return HouseholdStock(seed, _chosen(classes, CATEGORIES), household)
    stock = FolderStock(objects, up, shelf)
    stock.classes = _chosen(classes, stock.classes)
    if apart is not None:
        stock.keep_instances(apart, seed)
    return stock


def _chosen(classes: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in classes if name not in known]
    if unknown or len(set(classes)) < len(classes):
        wrong = f"has no class {unknown[0]!r}" if unknown else "is given a class twice"
        raise ConfigError(f"--classes: the source {wrong}; it has {', '.join(known)}")
    return tuple(classes) or known
