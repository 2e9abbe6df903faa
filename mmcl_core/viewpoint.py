"""Depth as geometry: what a depth sensor would read from another place, computed from one depth picture.

The paper's discussion names changes of viewpoint as the augmentation that depth asks for and pictures do not allow. The
readings are unprojected to points, turned about the object, and projected again with the same camera; of all points
that fall on a pixel the nearest is seen (z-buffer). What was hidden before stays without a reading.

A surface that turns towards the camera grows, and points alone would leave gaps in it. So the middles between
neighbouring readings are projected too, wherever the two lie on one surface (no steeper than :data:`STEEPEST`). They
fill pixels that no reading fell on, and cover readings that lie behind the surface. Missing readings stay missing, as
nothing is made up beside them. Single pixels may still be left out, at 15 degrees fewer than one in a hundred.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcl_core.depth import NEAREST_MM, known_camera, reference_distance

__all__ = ["change_view", "random_rotations"]

#: Greatest change of distance from a pixel to the next, in widths of a pixel at that distance, that is a surface and
#: not an edge: 80 degrees.
STEEPEST = 5.7


def random_rotations(numbers: Tensor, degrees: float) -> Tensor:
    """Rotations by an angle uniform in 0..``degrees`` about an axis uniform on the sphere.

    Args:
        numbers: [B, 3], uniform in 0..1.
        degrees: largest angle.

    Returns:
        float32 [B, 3, 3].
    """
    z, turn = 2 * numbers[:, 0] - 1, 2 * math.pi * numbers[:, 1]
    radius = (1 - z * z).clamp(min=0).sqrt()
    x, y, zero = radius * turn.cos(), radius * turn.sin(), torch.zeros_like(z)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    angle = (numbers[:, 2] * math.radians(degrees))[:, None, None]
    return torch.eye(3, device=z.device) + angle.sin() * cross + (1 - angle.cos()) * _product(cross, cross)


def change_view(depth: Tensor, camera: Tensor, rotation: Tensor) -> Tensor:
    """Depth crops with everything in them turned about the object.

    The centre is the middle of the crop at the distance of the object (:func:`mmcl_core.depth.reference_distance`), so
    that the object stays where it is. The camera stays the same. Distances are those of the points; their place is
    rounded to the nearest pixel.

    Args:
        depth: float32 [B, 1, H, W], mm, 0 = no reading.
        camera: [B, 4] (fx, fy, cx, cy) in pixels; an unknown one, a row of zeros, counts as a focal length of 4 crop
            sides, a field of view of 14 degrees (:func:`mmcl_core.depth.known_camera`).
        rotation: [B, 3, 3], of points, in camera axes (x right, y down, z away).

    Returns:
        Depth of the same shape, 0 where nothing is seen. A crop whose object has no distance is returned as it is.
    """
    camera = known_camera(depth, camera)
    reference = reference_distance(depth)
    plane = depth[:, 0].nan_to_num(0.0, 0.0, 0.0)
    x, y, z = _turned(plane, camera, reference, rotation)
    # A point at an infinite distance covers nothing, and so does what lies between it and another one.
    z.masked_fill_((plane <= 0) | (z < NEAREST_MM), math.inf)
    first, second = (plane.new_full((len(plane), plane.shape[1] + 2, plane.shape[2] + 2), math.inf) for _ in range(2))
    _splat(first, x, y, z, z)
    slope = (STEEPEST / camera[:, :2].amin(1))[:, None, None]
    for dim in (1, 2):
        x_2, y_2, z_2 = (_ahead(part, dim) + _behind(part, dim) for part in (x, y, z))
        _splat(second, x_2, y_2, z_2, (z_2 / 2).masked_fill_(_apart(plane, dim, slope), math.inf))
    seen = torch.where(second < first * (1 - slope), second, first)[:, 1:-1, 1:-1]
    seen = seen.masked_fill(seen == math.inf, 0)
    return torch.where(reference[:, None, None] > 0, seen, depth[:, 0])[:, None]


def _turned(plane: Tensor, camera: Tensor, reference: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projections (u z, v z, z), each [B, H, W], of the turned points.

    A point is ``P = z K^-1 p`` for the pixel p = (u, v, 1), and becomes ``R (P - C) + C``. Its projection is
    ``z (K R K^-1) p + K (C - R C)``: a homography, times the distance, and a shift.
    """
    height, width = plane.shape[1:]
    fx, fy, cx, cy = camera.unbind(1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    project = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=1).view(-1, 3, 3)
    lift = torch.stack([1 / fx, zero, -cx / fx, zero, 1 / fy, -cy / fy, zero, zero, one], dim=1).view(-1, 3, 3)
    ray = torch.stack([((width - 1) / 2 - cx) / fx, ((height - 1) / 2 - cy) / fy, one], dim=1)
    centre = ray[:, :, None] * reference[:, None, None]
    homography = _product(_product(project, rotation), lift)[..., None, None]
    shift = _product(project, centre - _product(rotation, centre))[..., None]
    u = torch.arange(width, device=plane.device)
    v = torch.arange(height, device=plane.device)[:, None]
    x, y, z = (
        (homography[:, row, 0] * u + (homography[:, row, 1] * v + homography[:, row, 2]))
        .mul_(plane)
        .add_(shift[:, row])
        for row in range(3)
    )
    return x, y, z


def _apart(plane: Tensor, dim: int, slope: Tensor) -> Tensor:
    """Where neighbours along an axis do not lie on one surface: one is more than ``1 + slope`` times as far."""
    ahead, behind = _ahead(plane, dim), _behind(plane, dim)
    return (ahead - behind).abs_() > (ahead + behind).mul_(slope / (2 + slope))


def _ahead(plane: Tensor, dim: int) -> Tensor:
    return plane.narrow(dim, 1, plane.shape[dim] - 1)


def _behind(plane: Tensor, dim: int) -> Tensor:
    return plane.narrow(dim, 0, plane.shape[dim] - 1)


def _splat(buffer: Tensor, x: Tensor, y: Tensor, z: Tensor, distance: Tensor) -> None:
    """Lower the distances of pictures to those of points where these are nearer.

    Args:
        buffer: [B, H + 2, W + 2]; what falls beside the picture goes to its margin.
        x, y, z: projections u z, v z, z of the points in the picture, or multiples of them, [B, h, w] each.
        distance: of the points, [B, h, w].
    """
    height, width = buffer.shape[1:]
    column = (x / z).round_().clamp_(-1, width - 2)
    place = (y / z).round_().clamp_(-1, height - 2).add_(1).mul_(width).add_(column).add_(1)
    buffer.view(len(buffer), -1).scatter_reduce_(1, place.long().flatten(1), distance.flatten(1), "amin")


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of small matrices in full float32, which a GPU may not give products."""
    return (a[:, :, :, None] * b[:, None, :, :]).sum(2)
