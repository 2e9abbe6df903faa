"""Put objects down: how they stand, lie and rest on one another.

The support is the plane z = 0. The target is above the origin, on the support but where it lies on something. All
lengths are metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.raycast import Placed, Solid
from mmcl_core.synth.shade import MeshSkin

__all__ = ["Item", "pile", "place", "random_pose", "resting_rotations", "turn_to", "yaw"]

_STARTS = 16  # directions from which a body is rolled to rest
_RAYS = 32  # vertical rays on a side of the grid that finds where two things touch
_CONTACT = 0.003  # metres within which things touch
_AIR = 1e-4  # metres between a thing and what carries it, so that flat ones are not hidden


class Item:
    """One object, ready to be placed and shaded: its solid, its skin, and how it comes to rest."""

    def __init__(self, name: str, instance: str, mesh: Mesh) -> None:
        self.name, self.instance = name, instance
        self.solid, self.skin = Solid(mesh), MeshSkin(mesh)
        self._resting: np.ndarray | None = None

    @property
    def resting(self) -> np.ndarray:
        """Rotations [P, 3, 3] in which it lies still on a table."""
        if self._resting is None:
            self._resting = resting_rotations(self.solid.outline)
        return self._resting


def yaw(angle: float) -> np.ndarray:
    """Rotation about +z, float64 [3, 3]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def resting_rotations(outline: np.ndarray) -> np.ndarray:
    """Rotations in which a body lies still: its centre is as low as it gets by rolling.

    The height of the centre above the lowest point is the support function of the body; rolling follows
    its slope from evenly spread starts.

    Args:
        outline: float [M, 3], its outermost points.

    Returns:
        float64 [16, 3, 3]; some repeat.
    """
    points = outline.astype(np.float64) - (outline.min(0) + outline.max(0)) / 2
    k = np.arange(_STARTS) + 0.5
    z, angle = 1 - 2 * k / _STARTS, np.pi * (1 + 5**0.5) * k
    down = np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)
    size = np.linalg.norm(points, axis=1).max()
    for step in np.geomspace(0.25, 0.003, 90):
        lowest = points[(down @ points.T).argmax(axis=1)]
        slope = lowest - np.einsum("ij,ij->i", lowest, down)[:, None] * down
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-3 * size)
        down -= step * slope
        down /= np.linalg.norm(down, axis=1, keepdims=True)
    return np.stack([turn_to(d, np.array([0.0, 0.0, -1.0])) for d in down])


def random_pose(rng: np.random.Generator, item: Item) -> np.ndarray:
    """Rotation of an object on its support: 45 % upright, 25 % on a side, 15 % at rest in some way, 15 % any."""
    pick = rng.random()
    turn = yaw(float(rng.uniform(-np.pi, np.pi)))
    if pick < 0.45:
        return turn
    if pick < 0.70:
        side = (
            np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
            if rng.random() < 0.5
            else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        )
        return turn @ (side if rng.random() < 0.5 else side.T)
    if pick < 0.85:
        return turn @ item.resting[int(rng.integers(len(item.resting)))]
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def turn_to(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation, float64 [3, 3], that takes one unit vector to another."""
    c = float(start @ end)
    if c < -0.999999:
        return np.diag([1.0, -1.0, -1.0]) if abs(start[0]) < 0.9 else np.diag([-1.0, -1.0, 1.0])
    v = np.cross(start, end)
    k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + k + k @ k / (1 + c)


def _stand(item: Item, rotation: np.ndarray) -> Placed:
    """Put an object down: its box centred on the origin, its lowest point on the support."""
    outline = item.solid.outline @ rotation.T.astype(np.float32)
    lowest = float((item.solid.mesh.vertices @ rotation[2].astype(np.float32)).min())
    across = (outline.min(0) + outline.max(0))[:2] / 2
    return Placed(item.solid, rotation, np.array([-across[0], -across[1], -lowest]))


def _moved(thing: Placed, x: float, y: float) -> Placed:
    """Move a thing over the support, in the precision in which rays are cast."""
    return replace(thing, position=np.add(thing.position, [x, y, 0], dtype=np.float32))


def place(
    rng: np.random.Generator, target: Item, neighbours: Sequence[Item], azimuth: float
) -> tuple[list[Placed], list[Item]]:
    """The target at the origin and its neighbours around it, without running into each other.

    Args:
        rng: source of poses and places.
        target, neighbours: what to put down; a neighbour that finds no room is left out.
        azimuth: direction of the camera, radians; 40 % of the neighbours stand about there, in front of the target.

    Returns:
        What was placed, the target first, and the items that those are.
    """
    placed, items = [_stand(target, random_pose(rng, target))], [target]
    for item in neighbours:
        standing = _stand(item, random_pose(rng, item))
        for _ in range(4):
            towards = rng.normal(0, 0.7) if rng.random() < 0.4 else rng.uniform(-np.pi, np.pi)
            direction = np.array([np.cos(azimuth + towards), np.sin(azimuth + towards), 0], np.float32)
            apart = (placed[0].outline @ direction).max() - (standing.outline @ direction).min()
            x, y = direction[:2] * (apart + rng.exponential(0.04))
            thing = _moved(standing, float(x), float(y))
            if all(_separate(thing, other) for other in placed):
                placed.append(thing)
                items.append(item)
                break
    for thing in placed:
        thing.shine = float(np.exp(rng.normal(0, 0.7)))
    return placed, items


def pile(rng: np.random.Generator, placed: list[Placed], items: list[Item], item: Item) -> None:
    """Put one more object under the target, or on one of the things that are there.

    The upper one is let down until it touches. Of several places for it, that is taken in which it would tip least. A
    new thing that finds no place under the target lies on it instead, or on another thing.

    Args:
        rng: source of pose and place.
        placed, items: as :func:`place` returns them; changed in place.
        item: what is put there; left out where nothing that is there can carry it.
    """
    standing = _stand(item, random_pose(rng, item))
    standing.shine = float(np.exp(rng.normal(0, 0.7)))
    base = 0 if rng.random() < 0.5 else int(rng.integers(len(placed)))
    under = base == 0 and rng.random() < 0.5
    others = [int(k) for k in rng.permutation(len(placed)) if k != base]
    for lower, beneath in [*([(base, True)] if under else []), (base, False), *((k, False) for k in others)]:
        found: list[tuple[float, Placed, Placed]] = []  # how far the upper thing tips, that thing, the new one
        for x, y in _spots(rng, placed[lower].outline):
            new = _moved(standing, float(x), float(y))
            if beneath and not all(_separate(new, other) for other in placed[1:]):
                continue
            upper, tips = _let_down(placed[0], [new, *placed[1:]]) if beneath else _let_down(new, placed)
            if tips is not None:
                found.append((tips, upper, new if beneath else upper))
        if found:
            _, upper, new = min(found, key=lambda one: one[0])
            placed[0] = upper if beneath else placed[0]
            placed.append(new)
            items.append(item)
            return


def _spots(rng: np.random.Generator, outline: np.ndarray) -> list[np.ndarray]:
    """Places [2] over or under a thing of such an outline: five drawn, its middle, and its highest point."""
    low, high = outline.min(0)[:2], outline.max(0)[:2]
    middle = (low + high) / 2
    return [*(middle + rng.uniform(-0.35, 0.35, (5, 2)) * (high - low)), middle, outline[outline[:, 2].argmax(), :2]]


def _let_down(thing: Placed, others: Sequence[Placed]) -> tuple[Placed, float | None]:
    """Move a thing along z until it touches another one, or the support, and is inside nothing.

    Where they touch is looked for on a grid of vertical rays and along the edges of both meshes, which rays alone would
    miss on edge-on faces: to about a millimetre for things of a household. Where two walls without thickness cross,
    both edge-on, neither is found.

    Returns:
        The thing there, and how far its middle is from the box around the points that carry it, metres; ``None``: the
        support carries it.
    """
    low, high = thing.outline.min(0), thing.outline.max(0)
    cells = (np.arange(_RAYS, dtype=np.float32) + 0.5) / _RAYS
    grid = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2) * (high - low)[:2] + low[:2]
    own, theirs = thing.edges, np.concatenate([other.edges for other in others])
    points = np.concatenate([grid, own[:, :2]])
    below = np.zeros(len(points), np.float32)
    for other in others:
        below = np.fmax(below, _height(other, points, down=True))
    gaps = np.concatenate([_height(thing, grid, down=False), own[:, 2]]) - below
    gaps = np.concatenate([gaps, _height(thing, theirs[:, :2], down=False) - theirs[:, 2]])
    by_other = np.concatenate([below > 0, theirs[:, 2] > 0])
    gap = np.nanmin(gaps)
    if not (by_other & (gaps <= gap + 1e-5)).any():
        return replace(thing, position=thing.position - np.array([0, 0, gap])), None
    carried = np.concatenate([points, theirs[:, :2]])[gaps < gap + _CONTACT]
    middle = (low + high)[:2] / 2
    tips = float(np.linalg.norm(np.maximum(np.maximum(carried.min(0) - middle, middle - carried.max(0)), 0)))
    return replace(thing, position=thing.position - np.array([0, 0, gap - _AIR])), tips


def _height(thing: Placed, points: np.ndarray, down: bool) -> np.ndarray:
    """Height of a thing's upper side (``down``: seen from above) or lower side over points [N, 2]; NaN beside it."""
    result = np.full(len(points), np.nan, np.float32)
    reach = thing.solid.radius * 1.001
    index = np.flatnonzero(((points - thing.centre[:2]) ** 2).sum(axis=1) <= reach**2)
    if len(index) == 0:
        return result
    way = -1.0 if down else 1.0
    start = float(thing.centre[2]) - way * reach
    origins = np.column_stack([points[index], np.full(len(index), start)])
    rotation = thing.rotation.astype(np.float32)
    inside = ((origins - thing.position) @ rotation).astype(np.float32)
    rays = np.tile(np.array([0, 0, way], np.float32) @ rotation, (len(index), 1))
    found = thing.solid.hit(inside, rays)
    met = found["geomID"] >= 0
    result[index[met]] = start + way * found["tfar"][met]
    return result


def _separate(a: Placed, b: Placed) -> bool:
    """Whether a vertical plane across the line between their centres, or along an axis, parts two things."""
    first, second = a.outline, b.outline
    line = (second.min(0) + second.max(0) - first.min(0) - first.max(0))[:2]
    length = float(np.linalg.norm(line))
    axes = np.array([line / max(length, 1e-6), [1, 0], [0, 1]], np.float32).T
    p, q = first[:, :2] @ axes, second[:, :2] @ axes
    return bool(((p.max(0) <= q.min(0)) | (q.max(0) <= p.min(0))).any())
