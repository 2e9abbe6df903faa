"""Sample number i of a rendered set: which object, which split, and its crop.

Sample i depends on the seed and i alone, so any number of processes or machines may share the work. The
class is ``i modulo classes``; each run of ``classes`` samples (a round) lies in one split, and the rounds
are dealt to the splits evenly at any length of the set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from mmcl_core.synth.background import TexturePool, background_texture
from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.placing import Item
from mmcl_core.synth.raycast import Camera, cast
from mmcl_core.synth.scene import IMAGER, Scene, compose
from mmcl_core.synth.sensor import DEPTH_CAMERAS, ColourCamera, DepthCamera, to_millimetres
from mmcl_core.synth.shade import SRGB_TO_LINEAR, lit, surface
from mmcl_core.synth.stock import WINDOW, FolderStock, HouseholdStock

__all__ = ["Crop", "CropMaker", "render_scene", "split_of_round"]

_GOLDEN = 0.6180339887498949
_DISTRACTORS = 10


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
        camera_spread: how many times as wide as usual the properties of both cameras are drawn.
        piles: share of scenes with an object on another, see :func:`mmcl_core.synth.scene.compose`.
        paint_spread: how far the colours of objects may be from those of their textures, as scans are not calibrated:
            at 1 brightness by a factor of 1.4 and the balance of colours by 10 % (standard deviations).
    """

    def __init__(
        self,
        stock: FolderStock | HouseholdStock,
        seed: int,
        size: int,
        shares: Mapping[str, float],
        sensor: str = "xtion",
        neighbours: int = 4,
        camera_spread: float = 1.0,
        piles: float = 0.0,
        paint_spread: float = 0.0,
    ) -> None:
        self.stock, self.seed, self.size, self.sensor, self.neighbours = stock, seed, size, sensor, neighbours
        self.camera_spread, self.piles, self.paint_spread = camera_spread, piles, paint_spread
        self.shares = dict(shares)
        self._training = "train" if "train" in shares else next(iter(shares))
        self._pools: dict[str, TexturePool] = {}
        self._distractors: dict[tuple[str, int], Item] = {}

    def __call__(self, number: int) -> Crop:
        """Sample ``number``."""
        label, turn = number % len(self.stock.classes), number // len(self.stock.classes)
        split = split_of_round(turn, self.shares)
        rng = np.random.default_rng([self.seed, number])
        window, training = turn // WINDOW, split == self._training
        target = self.stock.item(label, split, window, rng)
        if split not in self._pools:
            self._pools[split] = TexturePool(self._split_seed(split), 48 if training else 16)

        def neighbour(source: np.random.Generator) -> Item:
            if source.random() < 0.2:
                return self._distractor(split, int(source.integers(_DISTRACTORS)))
            return self.stock.item(int(source.integers(len(self.stock.classes))), split, window, source)

        scene = compose(rng, target, neighbour, self._pools[split], not training, self.neighbours, self.piles)
        if self.paint_spread:
            brush = np.random.default_rng([self.seed, number, 1])  # its own: the scene stays what it is
            for thing in scene.placed:
                thing.paint = np.exp(self.paint_spread * (brush.normal(0, 0.35) + brush.normal(0, 0.1, 3)))
        rgb, depth, camera = render_scene(scene, self.size, self.sensor, rng, self.camera_spread)
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
        spread: ``camera_spread`` of :class:`CropMaker`.

    Returns:
        RGB uint8 [S, S, 3], depth uint16 [S, S] in mm, and the camera of the S x S crop.
    """
    grid = int(np.clip(round(scene.side), 40, size))
    camera = scene.camera.window(scene.left, scene.top, scene.side, grid)
    rays = camera.rays(grid, grid)
    hits = cast(camera.position, rays, scene.placed, scene.panels)
    skins = [item.skin for item in scene.items]
    seen = surface(camera, rays, hits, scene.placed, skins, scene.panels, scene.textures)
    light = lit(seen, (grid, grid), scene.lighting, scene.placed, rng)
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
