"""Compose a scene: a target on a support, neighbours, a room, lamps, a camera and the window of the crop.

Things stand on the plane z = 0, a hair above the table and the sheets on it. All lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmcl_core.errors import DataError
from mmcl_core.synth.background import TexturePool
from mmcl_core.synth.placing import Item, pile, place, turn_to, yaw
from mmcl_core.synth.raycast import Camera, Panel, Placed, cast
from mmcl_core.synth.shade import Lamp, Lighting, Pyramid

__all__ = ["IMAGER", "VERSION", "Scene", "compose"]

VERSION = 4  # of what a seed draws: raised with every change of scenes, as sets of one seed are no longer the same then

IMAGER = (640, 480)  # width and height of the virtual picture
MIN_VISIBLE = 0.45
_SUPPORT = -3e-4  # height of the table or floor: below the things, so that it hides nothing that is flat
_LAYER = 5e-5  # height of a sheet of paper above what is under it
_PROBE = 40  # rays on a side of the grid that measures visibility


@dataclass
class Scene:
    """What is cast and shaded.

    Attributes:
        placed, items: the solids in place (the target first) and the items they are.
        panels, textures: flat surroundings and the textures they name.
        lighting: all light.
        camera: the camera of the whole imager.
        left, top, side: window of the crop in pixels of the imager (outer corner; see :meth:`Camera.window`).
        visible: share of the target's picture that is inside the imager and not hidden, in [0, 1].
    """

    placed: list[Placed]
    items: list[Item]
    panels: list[Panel]
    textures: list[Pyramid]
    lighting: Lighting
    camera: Camera
    left: float
    top: float
    side: float
    visible: float


def compose(
    rng: np.random.Generator,
    target: Item,
    draw_neighbour: Callable[[np.random.Generator], Item],
    pool: TexturePool,
    wide: bool = False,
    most_neighbours: int = 4,
    piles: float = 0.0,
) -> Scene:
    """Draw a scene in which at least 45 % of the target is visible.

    Args:
        rng: the sample's own source of randomness.
        target: what the crop is of.
        draw_neighbour: gives another object.
        pool: background textures.
        wide: draw the light from a wider range, as held-back splits do.
        most_neighbours: other objects beside the target, at most; 0 to 4 of them are drawn.
        piles: share of scenes in which one more object lies on the target or a neighbour, or the target on it.

    Raises:
        DataError: a mesh of which no view shows enough, such as scattered triangles.
    """
    for attempt in range(12):
        count = min(most_neighbours, int(rng.choice(5, p=[0.15, 0.25, 0.3, 0.2, 0.1])))
        neighbours = [draw_neighbour(rng) for _ in range(count)]
        azimuth = float(rng.uniform(-np.pi, np.pi))
        placed, items = place(rng, target, neighbours if attempt < 8 else [], azimuth)
        if piles and rng.random() < piles and attempt < 8:
            pile(rng, placed, items, draw_neighbour(rng))
        camera = _aim(rng, placed[0], azimuth)
        found = _visible(camera, placed)
        if found is None or found[0] < MIN_VISIBLE:
            continue
        left, top, side = _window(rng, *found[1:])
        things = np.concatenate([thing.outline for thing in placed])
        panels, textures = _room(rng, pool, azimuth, things)
        lighting = _lighting(rng, textures[0].mean(), wide, float(np.linalg.norm(things, axis=1).max()))
        return Scene(placed, items, panels, textures, lighting, camera, left, top, side, found[0])
    raise DataError(
        f"none of twelve scenes shows enough of the mesh {target.instance}: too little of it is in its box, as with "
        "scattered triangles or bits far away; clean it, or leave it out"
    )


def _aim(rng: np.random.Generator, target: Placed, azimuth: float) -> Camera:
    """A camera above the support that has the target somewhere in its picture."""
    pick = rng.random()
    focal = (
        rng.uniform(980, 1120)
        if pick < 0.4
        else rng.uniform(510, 640)
        if pick < 0.8
        else np.exp(rng.uniform(6.17, 7.05))
    )
    elevation = np.deg2rad(rng.triangular(8, 35, 65))
    outline = target.outline
    middle = (outline.min(0) + outline.max(0)) / 2
    extent = 2 * float(np.linalg.norm(outline - middle, axis=1).max())
    distance = rng.uniform(0.5, 1.25) if rng.random() < 0.75 else rng.uniform(0.4, 2.0)
    distance = float(
        np.clip(distance, extent * focal / 420, max(extent * focal / 52, 0.4))
    )  # 52 to 420 pixels, tiny things fewer
    width, height = IMAGER
    cx, cy = width / 2 + rng.normal(0, 8) - 0.5, height / 2 + rng.normal(0, 8) - 0.5
    edge = -0.02 if rng.random() < 0.1 else 0.2
    u, v = rng.uniform(edge, 1 - edge) * width, rng.uniform(edge, 1 - edge) * height
    away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    position = middle + distance * away
    right = np.cross(-away, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    roll = rng.normal(0, np.deg2rad(4))
    basis = np.stack([right, np.cross(-away, right), -away], axis=1) @ yaw(float(roll))
    ray = np.array([(u - cx) / focal, (v - cy) / focal, 1.0])
    rotation = basis @ turn_to(ray / np.linalg.norm(ray), np.array([0.0, 0.0, 1.0]))
    return Camera(float(focal), float(focal), float(cx), float(cy), rotation, position)


def _visible(camera: Camera, placed: Sequence[Placed]) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Visible share of the target, box of its visible part and box of all of it (x0, y0, x1, y1 in pixels)."""
    pixels, z = camera.project(placed[0].outline)
    if z.min() < 0.15:
        return None
    whole = np.concatenate([pixels.min(0), pixels.max(0)])
    step = (whole[2:] - whole[:2]) / _PROBE
    x, y = (whole[k] + (np.arange(_PROBE) + 0.5) * step[k] for k in (0, 1))
    pinhole = (camera.fx / step[0], camera.fy / step[1], (camera.cx - x[0]) / step[0], (camera.cy - y[0]) / step[1])
    grid = Camera(*pinhole, camera.rotation, camera.position)
    rays = grid.rays(_PROBE, _PROBE)
    alone = cast(camera.position, rays, placed[:1])
    on_target = np.flatnonzero(alone.owner == 0)
    before = cast(camera.position, rays.take(on_target, 1), placed[1:]).z < alone.z[on_target]
    clear = np.zeros(len(alone.z), bool)
    clear[on_target] = ~before
    inside = ((x > -0.5) & (x < IMAGER[0] - 0.5))[None] & ((y > -0.5) & (y < IMAGER[1] - 0.5))[:, None]
    seen = clear.reshape(_PROBE, _PROBE) & inside
    if not seen.any():
        return None
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    box = np.array([x[columns[0]], y[rows[0]], x[columns[-1]], y[rows[-1]]]) + np.concatenate([-step, step]) / 2
    return float(seen.sum() / max(len(on_target), 1)), box, whole


def _window(rng: np.random.Generator, visible: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """Square window of 1.2 times the box (of what is visible, or of the whole inside the picture), jittered."""
    bounds = np.array([*IMAGER, *IMAGER]) - 0.5
    box = visible if rng.random() < 0.75 else np.clip(whole, -0.5, bounds)
    sides = box[2:] - box[:2]
    side = float(max(sides.max(), 8.0)) * float(np.clip(1.2 * np.exp(rng.normal(0, 0.08)), 1.0, 1.5))
    centre = (box[:2] + box[2:]) / 2 + np.clip(rng.normal(0, 0.03, 2), -0.1, 0.1) * side
    return float(centre[0] + 0.5 - side / 2), float(centre[1] + 0.5 - side / 2), side


def _room(
    rng: np.random.Generator, pool: TexturePool, azimuth: float, things: np.ndarray
) -> tuple[list[Panel], list[Pyramid]]:
    """Support, floor, wall and things lying flat; the first texture is that of the support.

    Args:
        rng: what they are drawn from.
        pool: background textures.
        azimuth: direction of the camera.
        things: float [N, 3], outermost points of all that stands on the support: the table is under and the wall behind
            them.
    """
    textures = [pool.get(kind, int(rng.integers(pool.count))) for kind in ("table", "floor", "wall")]
    up, infinite = np.array([0, 0, 1.0]), (np.inf, np.inf)
    turn = yaw(float(rng.uniform(-np.pi, np.pi)))
    u, v = turn[:, 0], turn[:, 1]
    offset = (float(rng.random()), float(rng.random()))
    on_floor = rng.random() < 0.15
    scale = float(rng.uniform(0.25, 0.9))
    gloss = float(rng.choice([0.0, 0.1, 0.4]))
    if on_floor:
        textures[0] = textures[1]
        panels = [Panel(np.array([0, 0, _SUPPORT]), u, v, infinite, 0, scale, offset, gloss)]
    else:
        half = np.array([rng.uniform(0.3, 1.0), rng.uniform(0.25, 0.6)])
        middle, disc = rng.uniform(-1, 1, 2) * (half - 0.08), bool(rng.random() < 0.12)
        half, middle = _table(half, middle, things @ turn[:, :2], disc)
        extent = (float(half[0]), float(half[1]))
        place = turn[:, :2] @ middle + np.array([0, 0, _SUPPORT])
        panels = [Panel(place, u, v, extent, 0, scale, offset, gloss, disc)]
        floor = np.array([0, 0, -rng.uniform(0.45, 0.8)])
        panels.append(Panel(floor, u, v, infinite, 1, float(rng.uniform(0.3, 1.0)), offset, 0.05))
    distance = rng.uniform(0.25, 0.8) if rng.random() < 0.25 else rng.uniform(0.8, 3.5)
    aside = float(np.clip(rng.normal(0, 0.5), -1.3, 1.3))  # more, and the wall could stand before things
    facing = yaw(aside) @ np.array([-np.cos(azimuth), -np.sin(azimuth), 0.0])  # from the camera
    distance = max(distance, float((things @ facing).max()) + 0.002)
    across = np.cross(up, facing)
    panels.append(Panel(facing * distance, across, -up, infinite, 2, float(rng.uniform(0.8, 2.5)), offset, 0.05))
    for layer in range(int(rng.choice(4, p=[0.55, 0.2, 0.15, 0.1]))):
        textures.append(pool.get("print", int(rng.integers(pool.count))))
        panels.append(_sheet(rng, panels[0], len(textures) - 1, _SUPPORT + _LAYER * (layer + 1)))
    return panels, textures


def _table(half: np.ndarray, middle: np.ndarray, things: np.ndarray, disc: bool) -> tuple[np.ndarray, np.ndarray]:
    """Half sides and middle [2] of a table, moved and enlarged only where points [N, 2] of its own axes are off it."""
    if disc and (((things - middle) / half) ** 2).sum(axis=1).max() <= 1:
        return half, middle
    low, high = things.min(0), things.max(0)
    inner = 1 / np.sqrt(2) if disc else 1.0  # the rectangle inside an ellipse
    half = np.maximum(half, (high - low) / 2 / inner)
    return half, np.clip(middle, high - half * inner, low + half * inner)


def _sheet(rng: np.random.Generator, table: Panel, texture: int, height: float) -> Panel:
    """A sheet of paper or the like that lies on the table, at ``height``."""
    turn = yaw(float(rng.uniform(-np.pi, np.pi)))
    size = np.exp(rng.uniform(np.log(0.03), np.log(0.3), 2))
    place = np.array([*rng.uniform(-0.4, 0.4, 2), height])
    if np.isfinite(table.half[0]):
        room = np.array(table.half) * (1 / np.sqrt(2) if table.round else 1.0) - float(np.hypot(*size)) / 2
        axes = np.stack([table.u, table.v], axis=1)
        along = np.clip((place - table.centre) @ axes, -np.maximum(room, 0), np.maximum(room, 0))
        place[:2] = (table.centre + axes @ along)[:2]
    half = (float(size[0]) / 2, float(size[1]) / 2)
    return Panel(place, turn[:, 0], turn[:, 1], half, texture, float(size.max()), (0.5, 0.5), 0.1)


def _lighting(rng: np.random.Generator, ground_colour: np.ndarray, wide: bool, reach: float) -> Lighting:
    """Ambient light and one to three lamps above; the support throws its own colour back up.

    ``reach``: metres from the origin within which all things are, and no lamp.
    """
    warmth = rng.normal(0, 0.07 if wide else 0.05)
    white = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
    key = float(rng.uniform(0.15, 1.4) if wide else rng.uniform(0.25, 1.1))
    lowest = 18.0 if wide else 30.0
    lamps = []
    for k in range(int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))):
        azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(lowest, 88))
        distance = rng.uniform(1.2, 3.0) * max(1.0, reach)
        direction = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        colour = white * np.float32(key * rng.uniform(0.5, 1.0) * (1.0 if k == 0 else 0.6))
        lamps.append(Lamp(direction * distance, colour.astype(np.float32), float(rng.uniform(0.02, 0.5)), k < 2))
    above = (white * rng.uniform(0.35, 0.8)).astype(np.float32)
    light = above + sum(lamp.colour for lamp in lamps) * 0.5
    below = (0.1 + 0.5 * ground_colour * light).astype(np.float32)
    return Lighting(lamps, above, below)
