"""Sample number i of a rendered set: which object, which split, and its crop.

Sample i depends on the seed and i alone, so any number of processes or machines may share the work. The
class is ``i modulo classes``; each run of ``classes`` samples (a round) lies in one split, and the rounds
are dealt to the splits evenly at any length of the set.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mmcl_core.data.sources import NOT_UTF8, printable
from mmcl_core.errors import DataError
from mmcl_core.progress import progress_bar
from mmcl_core.synth.background import TexturePool, background_texture
from mmcl_core.synth.mesh import MESH_SUFFIXES, Mesh, object_files
from mmcl_core.synth.mesh_files import check_textures, load_mesh
from mmcl_core.synth.placing import Item
from mmcl_core.synth.raycast import Camera, cast
from mmcl_core.synth.scene import IMAGER, Scene, compose
from mmcl_core.synth.sensor import DEPTH_CAMERAS, ColourCamera, DepthCamera, to_millimetres
from mmcl_core.synth.shade import SRGB_TO_LINEAR, lit, surface

__all__ = ["Crop", "CropMaker", "FolderStock", "HouseholdStock", "render_scene", "split_of_round"]

logger = logging.getLogger(__name__)

_GOLDEN = 0.6180339887498949
_KEEP = 192  # objects a process holds, those used last
_KEEP_BYTES = 2 << 30  # that meshes from files may take of its memory
_WINDOW = 2  # rounds of a split that share their instances
_DISTRACTORS = 10
_LARGE = 1.5  # metres: larger meshes are warned of


@dataclass
class Crop:
    """One rendered sample.

    Attributes:
        rgb: uint8 [S, S, 3].
        depth: uint16 [S, S], millimetres, 0 = no reading.
        camera: (fx, fy, cx, cy) in pixels of the crop.
        label: index of the class.
        split, group, source: as in the prepared format.
        visible: share of the target that can be seen.
    """

    rgb: np.ndarray
    depth: np.ndarray
    camera: tuple[float, float, float, float]
    label: int
    split: str
    group: str
    source: str
    visible: float


def split_of_round(number: int, shares: Mapping[str, float]) -> str:
    """The split of a round, dealt by the golden ratio: any stretch of rounds has about the shares asked for."""
    place = ((number + 0.5) * _GOLDEN) % 1.0 * sum(shares.values())
    total = 0.0
    for name, share in shares.items():
        total += share
        if place < total:
            return name
    return list(shares)[-1]


class FolderStock:
    """The meshes of a folder; every split shows all of them, in scenes of its own, or see :meth:`keep_instances`.

    Args:
        folder: see :mod:`mmcl_core.synth.mesh`.
        up: the axis that is up in the files, see :func:`mmcl_core.synth.mesh_files.load_mesh`.

    Raises:
        DataError: no such folder, or no mesh in it that can be used.
    """

    unseen = "scenes"
    together = 1  # crops in a row that share objects which have to be built

    def __init__(self, folder: str | Path, up: str = "z") -> None:
        self._up = up
        files, self._left_out = object_files(folder)
        self._files = [file for file in files if printable(file[1]) == file[1]]
        self._misnamed = [path for _, name, path in files if printable(name) != name]
        if not self._files:
            raise DataError(f"no mesh in {folder} can be used: {self._misnamed[0]} {NOT_UTF8}")
        self.classes = tuple(sorted({name for name, _, _ in self._files}))
        named = {place.name for place in Path(folder).iterdir() if place.is_dir() and not place.name.startswith(".")}
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
            more = f" and {len(few) - 5} classes more" if len(few) > 5 else ""
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

    def check(self) -> str:
        """Load every mesh of the classes that are used: a broken one must not end a work of hours that draws it late.

        Warns of class folders that hold no mesh, of meshes that are left out, for their name or beside another one, of
        materials that are missing, and of colours that cannot be shown.

        Returns:
            A checksum of the meshes and their names, hexadecimal.

        Raises:
            DataError: a mesh cannot be used, see :func:`mmcl_core.synth.mesh_files.load_mesh`.
        """
        self._tell_left_out()
        used = [path for name, _, path in self._files if name in self.classes]
        checksum = hashlib.sha256(repr([file[:2] for file in self._files if file[0] in self.classes]).encode())
        broken, remarks, large, memory = [], [], [], 0
        for path in progress_bar(used, title="check meshes", unit=" meshes", leave=False):
            try:
                mesh = load_mesh(path, self._up)
                remarks += [(path, remark) for remark in mesh.remarks]
                memory += _memory(mesh)
                large += [path] if np.ptp(mesh.bounds, axis=0).max() > _LARGE else []
                for array in (mesh.vertices, mesh.faces, mesh.uv, mesh.shows, mesh.texture, *mesh.others):
                    checksum.update(repr(array.shape).encode())
                    checksum.update(np.ascontiguousarray(array).data)
            except DataError as error:
                broken.append(error)
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

    def _tell_left_out(self) -> None:
        if self._empty:
            logger.warning(
                "class folders without a mesh, left out: %d, such as %s; expected in them or one folder below: %s",
                len(self._empty), printable(self._empty[0]), " ".join(MESH_SUFFIXES),
            )  # fmt: skip
        if self._left_out:
            first = self._left_out[0]
            taken = [*(path for _, _, path in self._files), *self._misnamed]
            place = next(path for path in taken if path.parent in (first.parent, first.parent.parent))
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
        return Item(name, instance, load_mesh(path, self._up))


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
        self.together = _WINDOW * len(categories)
        self._built = lru_cache(_KEEP)(self._make)

    def item(self, label: int, split: str, window: int, rng: np.random.Generator) -> Item:
        """The instance of a class that belongs to a window of rounds of a split."""
        return self._built(label, split, window)

    def _make(self, label: int, split: str, window: int) -> Item:
        name = self.classes[label]
        numbers = np.random.SeedSequence([self._seed, label, window, *split.encode()]).generate_state(1)
        return Item(name, f"{name}/{split}-{window:05d}", self._build(name, int(numbers[0])))


class CropMaker:
    """Renders sample after sample.

    Args:
        stock: where objects come from.
        seed: the set's seed.
        size: side of the crops in pixels.
        shares: splits and their shares. The split ``train``, or the first where none is named so, is for training: it
            has 48 background textures of each kind; the others have 16 and see a wider range of light.
        sensor: kind of depth camera; ``any``: one drawn for each crop; ``none``: exact depth.
        neighbours: objects beside the target, at most.
        spread: how many times as wide as usual the properties of both cameras are drawn.
        piles: share of scenes with an object on another, see :func:`mmcl_core.synth.scene.compose`.
        paint: how far the colours of objects may be from those of their textures, as scans are not calibrated: at 1
            brightness by a factor of 1.4 and the balance of colours by 10 % (standard deviations).
    """

    def __init__(
        self,
        stock: FolderStock | HouseholdStock,
        seed: int,
        size: int,
        shares: Mapping[str, float],
        sensor: str = "xtion",
        neighbours: int = 4,
        spread: float = 1.0,
        piles: float = 0.0,
        paint: float = 0.0,
    ) -> None:
        self.stock, self.seed, self.size, self.sensor, self.neighbours = stock, seed, size, sensor, neighbours
        self.spread, self.piles, self.paint = spread, piles, paint
        self.shares = dict(shares)
        self._training = "train" if "train" in shares else next(iter(shares))
        self._pools: dict[str, TexturePool] = {}
        self._distractors: dict[tuple[str, int], Item] = {}

    def __call__(self, number: int) -> Crop:
        """Sample ``number``."""
        label, turn = number % len(self.stock.classes), number // len(self.stock.classes)
        split = split_of_round(turn, self.shares)
        rng = np.random.default_rng([self.seed, number])
        window, training = turn // _WINDOW, split == self._training
        target = self.stock.item(label, split, window, rng)
        if split not in self._pools:
            self._pools[split] = TexturePool(self._split_seed(split), 48 if training else 16)

        def neighbour(source: np.random.Generator) -> Item:
            if source.random() < 0.2:
                return self._distractor(split, int(source.integers(_DISTRACTORS)))
            return self.stock.item(int(source.integers(len(self.stock.classes))), split, window, source)

        scene = compose(rng, target, neighbour, self._pools[split], not training, self.neighbours, self.piles)
        if self.paint:
            brush = np.random.default_rng([self.seed, number, 1])  # its own: the scene stays what it is
            for thing in scene.placed:
                thing.paint = np.exp(self.paint * (brush.normal(0, 0.35) + brush.normal(0, 0.1, 3)))
        rgb, depth, camera = render_scene(scene, self.size, self.sensor, rng, self.spread)
        group = target.instance if self.stock.unseen == "instances" else f"scene-{number:07d}"
        intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy)
        return Crop(rgb, depth, intrinsics, label, split, group, target.instance, scene.visible)

    def _split_seed(self, split: str) -> int:
        return int(np.random.SeedSequence([self.seed, *split.encode()]).generate_state(1)[0])

    def _distractor(self, split: str, index: int) -> Item:
        """A box of no class, covered in some print, to stand beside the target."""
        key = (split, index)
        if key not in self._distractors:
            rng = np.random.default_rng([self._split_seed(split), index])
            kind = ("print", "table", "wall")[int(rng.integers(3))]
            mesh = _box(np.exp(rng.uniform(np.log(0.03), np.log(0.22), 3)), background_texture(kind, rng, 256))
            self._distractors[key] = Item("", f"box-{index}", mesh)
        return self._distractors[key]


def render_scene(
    scene: Scene, size: int, sensor: str, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, Camera]:
    """Render the window of a scene.

    The rays are cast at the resolution of the virtual imager where that is coarser than the crop, so that
    a small picture of an object looks as soft and as noisy as a real one.

    Args:
        scene: what to render.
        size: side S of the crop.
        sensor: see :class:`CropMaker`.
        rng: noise and jitter.
        spread: see :class:`CropMaker`.

    Returns:
        RGB uint8 [S, S, 3], depth uint16 [S, S] in mm, and the camera of the S x S crop.
    """
    grid = int(np.clip(round(scene.side), 40, size))
    camera = scene.camera.window(scene.left, scene.top, scene.side, grid)
    rays = camera.rays(grid, grid)
    hits = cast(camera.position, rays, scene.placed, scene.panels)
    skins = [item.skin for item in scene.items]
    seen = surface(camera, rays, hits, scene.placed, skins, scene.panels, scene.textures)
    light = lit(seen, (grid, grid), scene.lighting, scene.placed, 0.0, rng)
    level = float(scene.lighting.above.mean() + 0.6 * sum(lamp.colour.mean() for lamp in scene.lighting.lamps))
    photo = ColourCamera.draw(rng, spread).photograph(light, level, scene.side / grid, rng)
    rgb = photo if grid == size else cv2.resize(photo, (size, size), interpolation=cv2.INTER_LINEAR)
    square = (grid, grid)
    if sensor == "none":
        z = cv2.resize(hits.z.reshape(square), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
        depth = to_millimetres(z, np.isfinite(z))
    else:
        brightness = SRGB_TO_LINEAR[np.maximum.reduce(seen.colour.T)].reshape(square)
        looks = (seen.facing.reshape(square), brightness, seen.gloss.reshape(square))
        kind = DEPTH_CAMERAS[int(rng.integers(len(DEPTH_CAMERAS)))] if sensor == "any" else sensor
        depth = DepthCamera.draw(rng, spread, kind).sense(hits.z.reshape(square), *looks, camera.fx, size, rng)
    rgb, depth = _cut_at_border(rgb, depth, scene)
    return rgb, depth, scene.camera.window(scene.left, scene.top, scene.side, size)


def _cut_at_border(rgb: np.ndarray, depth: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Beyond the edge of the imager the last row or column of colour repeats and depth has no reading."""
    size = len(rgb)
    middle = (np.arange(size) + 0.5) * scene.side / size
    spans = []
    for start, length in ((scene.left, IMAGER[0]), (scene.top, IMAGER[1])):
        inside = np.flatnonzero((middle + start > 0) & (middle + start < length))
        spans.append((int(inside[0]), int(inside[-1])))
    (x0, x1), (y0, y1) = spans
    if (x0, y0, x1, y1) == (0, 0, size - 1, size - 1):
        return rgb, depth
    index = np.arange(size)
    rgb = rgb[np.clip(index, y0, y1)][:, np.clip(index, x0, x1)]
    kept = np.zeros_like(depth)
    kept[y0 : y1 + 1, x0 : x1 + 1] = depth[y0 : y1 + 1, x0 : x1 + 1]
    return rgb, kept


def _box(sides: np.ndarray, texture: np.ndarray) -> Mesh:
    """A box with the whole texture on each face."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) * sides
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    square = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    return Mesh(corners, faces, np.tile(square[[0, 1, 2, 0, 2, 3]].reshape(2, 3, 2), (6, 1, 1)), texture)
