"""Metric depth as three channels for a network: batched tensor code on the tensors' own device.

All functions take raw depth, float32 [B, 1, H, W] in millimetres along the optical axis with 0 (or anything that is
not a positive finite number) for "no reading", and cameras, float32 [B, 4] = fx, fy, cx, cy in pixels, a row of zeros
for an unknown one. Axes are those of the camera: x to the right, y down, z away from it.

=========  ==========================================================  ==============================================
encoding   channels                                                    channels with metric size
=========  ==========================================================  ==============================================
replicate  distance over ``range_m`` as 0..255, normalised, 3 times    distance, X, Y
relative   distance to the object / 0.2 m, validity, the same / 0.05 m distance to the object / 0.2 m, X, Y
normals    x, y, -z of the surface normal that faces the camera        x, y, log extent
relief     slope to the right, slope down, distance to the object      (none is free, and none is needed)
hha        disparity, height, angle to gravity, normalised             (none is free)
=========  ==========================================================  ==============================================

X and Y are the metric offsets from the centre of the crop, in units of 0.1 m, of each pixel's ray at the distance of
the object (:func:`reference_distance`); the log extent is one number per crop. Both are 0 where there is no reading and
all over the crop where the camera is unknown, which no real object has. The slopes of ``relief`` are metres of depth
across the crop, for which no camera is needed, over 0.15 m and bent into +-1; its distance is in units of 0.1 m.
Without a reading ``relative``, ``normals`` and ``relief`` are 0 in all channels, ``hha`` is the mean colour (0 after
normalisation), and ``replicate`` is distance 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ENCODINGS",
    "NEAREST_MM",
    "drop_background",
    "encode",
    "gravity_direction",
    "hha",
    "known_camera",
    "log_extent",
    "metric_offsets",
    "normalise",
    "plane_fit",
    "reference_distance",
    "surface_normals",
    "surface_slopes",
    "valid_readings",
]

ENCODINGS = ("replicate", "relative", "normals", "relief", "hha", "stored")

#: Share of the readings in the middle of the crop that are nearer than the reference distance. Below one half, as what
#: shares the middle with a thin object lies behind it.
REFERENCE_QUANTILE = 0.4
#: Readings a side that the reference distance is estimated from.
REFERENCE_GRID = 16
COARSE_M, FINE_M, RELATIVE_CLIP = 0.2, 0.05, 1.5
RELIEF_M, SLOPE_M = 0.1, 0.15
OFFSET_UNIT_M, OFFSET_CLIP = 0.1, 4.0
SMALLEST_EXTENT_M = 0.03
#: Augmentation brings no reading nearer than this, and points nearer are not seen.
NEAREST_MM = 1.0
#: Pixels that :func:`encode` works on at a time on a processor: its some 200 operations then find them in the cache.
CACHED_PIXELS = 1 << 16
#: Focal length in crop sides where the camera is unknown: 0.2 m seen from 0.8 m fill the crop.
DEFAULT_FOCAL = 4.0


def valid_readings(depth: Tensor) -> Tensor:
    """Where there is a reading: bool, same shape as ``depth``."""
    return (depth > 0) & (depth < math.inf)


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(image - mean) / std`` of [B, C, H, W], with one or three values each; three make three channels."""
    if len(mean) == len(std) == 1:
        return (image - mean[0]) / std[0]
    # Plain numbers: a tensor of constants would have to be sent to the device at every call.
    mean, std = ([*values] * (3 // len(values)) for values in (mean, std))
    planes = image.expand(-1, 3, -1, -1).unbind(1)
    return torch.stack([(plane - m) / s for plane, m, s in zip(planes, mean, std, strict=True)], dim=1)


def reference_distance(depth: Tensor) -> Tensor:
    """How far the object in the middle of the crop is away.

    The quantile ``REFERENCE_QUANTILE`` of the valid readings in the central half (in width and height) of the crop,
    taken on a grid of at most ``REFERENCE_GRID`` readings a side; of the whole crop where the middle has none.

    Returns:
        float32 [B], mm; 0 for a crop without any reading.
    """
    height, width = depth.shape[-2:]
    plane = depth[:, 0]
    middle = plane[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    central = _valid_quantile(middle, REFERENCE_QUANTILE)
    return torch.where(central > 0, central, _valid_quantile(plane, REFERENCE_QUANTILE))


def _valid_quantile(plane: Tensor, quantile: float) -> Tensor:
    steps = [max(1, math.ceil(side / REFERENCE_GRID)) for side in plane.shape[1:]]
    readings = plane[:, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].flatten(1)
    valid = valid_readings(readings)
    ranked = torch.where(valid, readings, math.inf).sort(dim=1).values
    count = valid.sum(dim=1)
    place = ((count - 1).clamp(min=0) * quantile).long()
    return torch.where(count > 0, ranked.gather(1, place[:, None])[:, 0], 0.0)


def drop_background(depth: Tensor, background_m: float | Tensor) -> Tensor:
    """Depth without the readings that lie farther than ``background_m`` (one or [B]) behind the object.

    The distance of the object is :func:`reference_distance`. What is dropped becomes 0, "no reading".
    """
    limit = reference_distance(depth) + background_m * 1000
    return depth * (depth <= limit[:, None, None, None])


def metric_offsets(depth: Tensor, camera: Tensor, reference: Tensor | None = None) -> Tensor:
    """X and Y of every pixel's ray at the object's distance, from the centre of the crop, in units of 0.1 m.

    ``reference``: the :func:`reference_distance` where it is known already.

    Returns:
        float32 [B, 2, H, W], clipped to +-4; 0 without a reading and where the camera is unknown.
    """
    height, width = depth.shape[-2:]
    reference = reference_distance(depth) if reference is None else reference
    scale = reference[:, None] / 1000 / OFFSET_UNIT_M / camera[:, :2].clamp(min=1e-6)
    scale = torch.where(camera[:, :2] > 0, scale, 0.0)
    x = (torch.arange(width, device=depth.device) - (width - 1) / 2) * scale[:, :1]
    y = (torch.arange(height, device=depth.device) - (height - 1) / 2) * scale[:, 1:]
    shape = (-1, height, width)
    planes = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=1)
    return planes.clamp(-OFFSET_CLIP, OFFSET_CLIP) * valid_readings(depth)


def log_extent(depth: Tensor, camera: Tensor) -> Tensor:
    """Metric side of the crop at the object's distance as ``log2(side / 0.03 m) / 2``, clipped to 0..3.

    Returns:
        float32 [B, 1, H, W], constant over the readings of a crop; 0 without a reading or where the camera is unknown.
    """
    height, width = depth.shape[-2:]
    focal = camera[:, 0] * camera[:, 1]
    side = reference_distance(depth) / 1000 * (height * width / focal.clamp(min=1e-6)).sqrt()
    value = (torch.log2(side.clamp(min=SMALLEST_EXTENT_M) / SMALLEST_EXTENT_M) / 2).clamp(max=3.0)
    value = torch.where(focal > 0, value, 0.0)
    return value[:, None, None, None] * valid_readings(depth)


def plane_fit(depth: Tensor, camera: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Fit a plane to the readings around every pixel.

    A plane ``n . P = 1`` through the points ``P = z (x, y, 1)`` of normalised image coordinates x, y means
    ``1/z = n . (x, y, 1)``: a linear regression of inverse depth in the image, solved from sums over the
    (2 radius + 1)^2 window, readings only.

    Args:
        depth: [B, 1, H, W] mm.
        camera: [B, 4], all known.
        radius: of the window, pixels.

    Returns:
        Unit normals [B, 3, H, W] that point away from the camera (n . P > 0), and where they are defined, bool
        [B, 1, H, W]: at readings with at least three others around that do not lie on one line.
    """
    a, b, inverse, defined = _inverse_planes(depth, radius)
    fx, fy, cx, cy = camera.view(-1, 4, 1, 1, 1).unbind(1)
    columns = torch.arange(depth.shape[3], device=depth.device).view(1, 1, 1, -1)
    rows = torch.arange(depth.shape[2], device=depth.device).view(1, 1, -1, 1)
    at_axis = inverse - a * (columns - cx) - b * (rows - cy)
    x, y = a * fx, b * fy
    inverse_length = (x * x + y * y + at_axis * at_axis).clamp(min=1e-12).rsqrt() * defined
    return torch.cat([x, y, at_axis], dim=1) * inverse_length, defined


def _inverse_planes(depth: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The regression of :func:`plane_fit`, which needs no camera.

    Returns:
        Change of 1/z per pixel to the right and down, 1/z of the plane at the pixel itself (1/m), and where they are
        defined; [B, 1, H, W] each.
    """
    valid = valid_readings(depth)
    mask = valid.float()
    inverse = torch.where(valid, 1000 / depth.clamp(min=1e-3), 0.0)
    # Sums of squares lose digits when the mean is large, so the mean goes first.
    mean = inverse.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    centred = (inverse - mean) * mask
    (count, sv, svv), (su, suv), (suu,) = _window_sums(mask, radius, 2)
    (sw, svw), (suw,) = _window_sums(centred, radius, 1)
    n = count.clamp(min=1)
    u, v, w = su / n, sv / n, sw / n
    cuu, cuv, cvv = suu / n - u * u, suv / n - u * v, svv / n - v * v
    cuw, cvw = suw / n - u * w, svw / n - v * w
    determinant = cuu * cvv - cuv * cuv
    defined = valid & (count >= 4) & (determinant > 1e-3)
    determinant = torch.where(defined, determinant, 1.0)
    a = (cuw * cvv - cvw * cuv) / determinant
    b = (cvw * cuu - cuw * cuv) / determinant
    return a, b, mean + w - a * u - b * v, defined


def _window_sums(plane: Tensor, radius: int, degree: int) -> list[list[Tensor]]:
    """Sums of ``plane * du^i * dv^j`` over a square window, du and dv from its centre: item [i][j], i + j <= degree.

    Added up shift by shift: a convolution may be computed with ten bits of mantissa on a GPU.
    """
    along_rows = _line_sums(plane, radius, degree, dim=3)
    return [_line_sums(sums, radius, degree - i, dim=2) for i, sums in enumerate(along_rows)]


def _line_sums(plane: Tensor, radius: int, degree: int, dim: int) -> list[Tensor]:
    size = plane.shape[dim]
    padded = F.pad(plane, (radius, radius) if dim == 3 else (0, 0, radius, radius))
    sums = [plane.clone(), *(torch.zeros_like(plane) for _ in range(degree))]
    for step in range(1, radius + 1):
        ahead, behind = padded.narrow(dim, radius + step, size), padded.narrow(dim, radius - step, size)
        by_parity = (ahead + behind, ahead - behind) if degree else (ahead + behind,)
        for power, total in enumerate(sums):
            total.add_(by_parity[power % 2], alpha=step**power)
    return sums


def known_camera(depth: Tensor, camera: Tensor) -> Tensor:
    """Cameras with unknown rows replaced by a focal length of 4 crop sides and the middle of the crop."""
    height, width = depth.shape[-2:]
    focal = DEFAULT_FOCAL * max(height, width)
    default = torch.cat(
        [torch.full_like(camera[:, :1], value) for value in (focal, focal, (width - 1) / 2, (height - 1) / 2)], dim=1
    )
    return torch.where((camera[:, :2] > 0).all(1, keepdim=True), camera, default)


def surface_normals(depth: Tensor, camera: Tensor) -> Tensor:
    """Unit normals that face the camera, as x, y, -z in the camera's axes: a surface seen head-on is (0, 0, 1).

    Unknown cameras count as in :func:`known_camera`. Fitted over a window of a fourteenth of the crop, as single
    differences drown in sensor noise.

    Returns:
        float32 [B, 3, H, W]; 0 where undefined.
    """
    normals, _ = plane_fit(depth, known_camera(depth, camera), _fit_radius(depth))
    return torch.cat([-normals[:, :2], normals[:, 2:]], dim=1)


def surface_slopes(depth: Tensor) -> Tensor:
    """How much depth grows to the right and downwards, in metres across the crop; no camera is needed.

    Fitted over the same window as :func:`surface_normals`.

    Returns:
        float32 [B, 2, H, W]; 0 where undefined.
    """
    a, b, inverse, defined = _inverse_planes(depth, _fit_radius(depth))
    per_pixel = -torch.cat([a, b], dim=1) / inverse.clamp(min=1e-2).square()  # of z = 1/i: -1/i^2 times that of i
    return per_pixel * max(depth.shape[-2:]) * defined


def _fit_radius(depth: Tensor) -> int:
    return max(1, round(max(depth.shape[-2:]) / 28))


def gravity_direction(normals: Tensor, defined: Tensor) -> Tensor:
    """Estimate which way is down from the normals of a crop (Gupta, Arbelaez and Malik, CVPR 2013, Section 3).

    Starts from the camera's y axis. Normals within a threshold of the current direction are taken for floors, those
    within it of the perpendicular plane for walls; the new direction is the one most parallel to the former and most
    perpendicular to the latter. 5 rounds at 45 degrees, 5 at 15. The current direction counts as a thousandth of the
    evidence, as the normals of a single wall leave its roll open.

    Args:
        normals: [B, 3, H, W] unit vectors of either sign.
        defined: bool [B, 1, H, W].

    Returns:
        Unit vectors [B, 3] in camera axes; the y axis itself where nothing is defined.
    """
    flat, use = normals.flatten(2), defined.flatten(2)
    down = torch.zeros_like(flat[:, :, 0])
    down[:, 1] = 1
    for degrees in (45,) * 5 + (15,) * 5:
        cosine = (down[:, :, None] * flat).sum(1, keepdim=True).abs()
        floor = (cosine > math.cos(math.radians(degrees))) & use
        wall = (cosine < math.sin(math.radians(degrees))) & use
        weighted = flat * (wall.to(flat.dtype) - floor.to(flat.dtype))
        prior = 1e-3 * use.sum(2)[:, :, None] * down[:, :, None] * down[:, None, :]
        spread = weighted @ flat.transpose(1, 2) - prior
        vector = torch.linalg.eigh(spread.double()).eigenvectors[:, :, 0].to(flat.dtype)
        vector = vector * torch.where((vector * down).sum(1, keepdim=True) < 0, -1.0, 1.0)
        down = torch.where(use.any(2), vector, down)
    return down


def hha(depth: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """Disparity, height and angle (Gupta et al., ECCV 2014) of crops.

    Disparity is ``31000 / max(z, 100 cm)``, height is in cm above the lowest reading of the crop, the angle is that of
    the normal to gravity in degrees + 38 (180 where undefined): 38 for floors, 128 for walls. Rounded and clipped to
    0..255. The windows of the normals are those of the original program, radius 3 for the angle and 10 for gravity,
    and shrink with crops below 128 pixels. Unknown cameras count as in :func:`known_camera`.

    Returns:
        The pictures float32 [B, 3, H, W], and where there is a reading, bool [B, 1, H, W].
    """
    camera = known_camera(depth, camera)
    share = min(1.0, max(depth.shape[-2:]) / 128)
    coarse = plane_fit(depth, camera, max(2, round(10 * share)))
    down = gravity_direction(*coarse)[:, :, None, None]
    normals, defined = plane_fit(depth, camera, max(1, round(3 * share)))
    cosine = (normals * down).sum(1, keepdim=True).clamp(-1, 1)
    angle = torch.where(defined, torch.rad2deg(torch.acos(cosine)), 180.0) + 38
    valid = valid_readings(depth)
    z_cm = torch.where(valid, depth, 0.0) / 10
    fx, fy, cx, cy = camera.view(-1, 4, 1, 1, 1).unbind(1)
    columns = torch.arange(depth.shape[3], device=depth.device).view(1, 1, 1, -1)
    rows = torch.arange(depth.shape[2], device=depth.device).view(1, 1, -1, 1)
    points = torch.cat([(columns - cx) / fx * z_cm, (rows - cy) / fy * z_cm, z_cm], dim=1)
    depth_below = (points * down).sum(1, keepdim=True)
    lowest = torch.where(valid, depth_below, -math.inf).amax((2, 3), keepdim=True)
    picture = torch.cat([31000 / z_cm.clamp(min=100), lowest - depth_below, angle], dim=1)
    return torch.where(valid, picture, 0.0).round().clamp(0, 255), valid


def encode(
    depth: Tensor,
    camera: Tensor,
    *,
    encoding: str,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (255.0,),
    range_m: tuple[float, float] = (0.0, 2.55),
    background_m: float = 0.0,
    metric_size: bool = False,
) -> Tensor:
    """Encode raw depth; the table above says what the channels are.

    Args:
        depth: float32 [B, 1, H, W] mm.
        camera: float32 [B, 4].
        encoding: ``replicate``, ``relative``, ``normals``, ``relief`` or ``hha``.
        mean, std: one or three values on the scale 0-255, for ``replicate`` and ``hha``.
        range_m: distances that ``replicate`` maps to 0 and 255.
        background_m: drop what lies farther behind the object than this; 0 keeps all.
        metric_size: whether the free channels tell the metric size.

    Returns:
        float32 [B, 3, H, W].
    """
    crops = max(1, CACHED_PIXELS // (depth.shape[2] * depth.shape[3]))
    if depth.device.type == "cpu" and not torch.compiler.is_compiling() and len(depth) > crops:
        parts = zip(depth.split(crops), camera.split(crops), strict=True)
        return torch.cat([_encode(*part, encoding, mean, std, range_m, background_m, metric_size) for part in parts])
    return _encode(depth, camera, encoding, mean, std, range_m, background_m, metric_size)


def _encode(
    depth: Tensor,
    camera: Tensor,
    encoding: str,
    mean: Sequence[float],
    std: Sequence[float],
    range_m: tuple[float, float],
    background_m: float,
    metric_size: bool,
) -> Tensor:
    if background_m > 0:
        depth = drop_background(depth, background_m)
    valid = valid_readings(depth)
    depth = torch.where(valid, depth, 0.0)
    if encoding == "replicate":
        near, far = range_m
        level = ((depth / 1000 - near) * (255 / (far - near))).clamp(0, 255)
        picture = normalise(level, mean, std)
        if metric_size:
            return torch.cat([picture[:, :1], metric_offsets(depth, camera)], dim=1)
        return picture.expand(-1, 3, -1, -1).contiguous()
    if encoding == "relative":
        reference = reference_distance(depth)
        behind = (depth - reference[:, None, None, None]) / 1000 * valid
        coarse = (behind / COARSE_M).clamp(-RELATIVE_CLIP, RELATIVE_CLIP)
        if metric_size:
            return torch.cat([coarse, metric_offsets(depth, camera, reference)], dim=1)
        return torch.cat([coarse, valid.float(), (behind / FINE_M).clamp(-RELATIVE_CLIP, RELATIVE_CLIP)], dim=1)
    if encoding == "normals":
        normals = surface_normals(depth, camera)
        return torch.cat([normals[:, :2], log_extent(depth, camera)], dim=1) if metric_size else normals
    if encoding == "relief":
        behind = (depth - reference_distance(depth)[:, None, None, None]) / 1000 * valid
        slope = surface_slopes(depth) / SLOPE_M
        bent = slope * (1 + slope.square()).rsqrt()
        return torch.cat([bent, (behind / RELIEF_M).clamp(-RELATIVE_CLIP, RELATIVE_CLIP)], dim=1)
    assert encoding == "hha", encoding
    picture, valid = hha(depth, camera)
    return normalise(picture, mean, std) * valid
