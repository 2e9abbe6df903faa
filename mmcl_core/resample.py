"""Cropping, mirroring and resizing of batches in which every sample has a window of its own.

Bicubic resampling is two batched matrix products, rows then columns, with the weights of every sample in a dense
matrix: exact antialiasing when shrinking, the same as PIL and torchvision compute, up to their rounding between the
two passes. Depth is taken from the nearest pixel, so that readings are never mixed with each other or with holes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axis", "bicubic", "moved_camera", "nearest"]


@dataclass(frozen=True)
class Axis:
    """Where the output pixels along one image axis come from.

    The picture is mirrored first where asked, then a window of it is stretched over ``total`` pixels, of which
    those from ``offset`` on are the output.

    Attributes:
        size: pixels of the source.
        low: [B], first pixel of the window (counted in the mirrored picture), a whole number.
        extent: [B], pixels of the window, a whole number.
        out: pixels of the output.
        mirrored: bool [B], or ``None`` for nowhere.
        total: pixels that the window is stretched over; ``None``: ``out``.
        offset: pixels of these before the first output pixel.
    """

    size: int
    low: Tensor
    extent: Tensor
    out: int
    mirrored: Tensor | None = None
    total: int | None = None
    offset: int = 0

    @property
    def scale(self) -> Tensor:
        """Source pixels in an output pixel, [B]."""
        return self.extent / float(self.total or self.out)

    def centres(self) -> Tensor:
        """Source coordinates [B, out] of the middles of the output pixels; the first pixel covers 0..1."""
        steps = torch.arange(self.out, device=self.low.device) + (self.offset + 0.5)
        return self.low[:, None] + steps * self.scale[:, None]

    def nearest(self) -> Tensor:
        """Index [B, out] of the source pixel that each output pixel's middle lies in."""
        steps = torch.arange(self.out, device=self.low.device) + self.offset
        # In whole numbers: a middle may fall on the edge of a pixel, and rounding must not say on which side.
        within = (2 * steps + 1) * self.extent.long()[:, None] // (2 * (self.total or self.out))
        index = (self.low.long()[:, None] + within).clamp(0, self.size - 1)
        return index if self.mirrored is None else torch.where(self.mirrored[:, None], self.size - 1 - index, index)

    def weights(self) -> Tensor:
        """Antialiased bicubic (a = -0.5) weights [B, out, size]; each row sums to 1 over its window."""
        source = torch.arange(self.size, device=self.low.device, dtype=torch.float32)
        place = source.expand(len(self.low), -1)
        if self.mirrored is not None:
            place = torch.where(self.mirrored[:, None], self.size - 1 - place, place)
        inside = (place >= self.low[:, None]) & (place < (self.low + self.extent)[:, None])
        width = self.scale.clamp(min=1)[:, None]
        # Outside the window a distance of 2 has weight 0.
        place = torch.where(inside, (place + 0.5) / width, 1e6)
        distance = torch.sub(place[:, None, :], (self.centres() / width)[:, :, None]).abs_()
        # The two cubic pieces as p^2 (p - 1) / 2, from 2 inwards, and q^2 (1 - 2 q) on top of it, from 1 inwards.
        p = distance.neg_().add_(2).clamp_(min=0)
        q = (p - 1).clamp_(min=0)
        weights = (p - 1).mul_(p).mul_(p).add_((2 - 4 * q).mul_(q).mul_(q))
        return weights.div_(weights.sum(dim=2, keepdim=True))


def bicubic(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Resample uint8 pictures [B, H, W, C] to uint8 [B, C, out, out]."""
    batch, height, width, channels = image.shape
    with torch.autocast(image.device.type, enabled=False):
        tall = torch.bmm(rows.weights(), image.reshape(batch, height, width * channels).float())
        tall = tall.view(batch, rows.out, width, channels).permute(0, 3, 1, 2).reshape(batch, -1, width)
        result = torch.bmm(tall, columns.weights().transpose(1, 2))
    return result.round_().clamp_(0, 255).to(torch.uint8).view(batch, channels, rows.out, columns.out)


def nearest(plane: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Resample [B, H, W] of any type to [B, out, out]."""
    index = rows.nearest()[:, :, None] * plane.shape[2] + columns.nearest()[:, None, :]
    return plane.flatten(1).gather(1, index.flatten(1)).view(len(plane), rows.out, columns.out)


def moved_camera(camera: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The camera [B, 4] of the resampled pictures; rows of zeros, unknown cameras, stay."""
    fx, fy, cx, cy = camera.unbind(1)
    if columns.mirrored is not None:
        cx = torch.where(columns.mirrored, columns.size - 1 - cx, cx)
    moved = torch.stack([fx / columns.scale, fy / rows.scale, _moved(cx, columns), _moved(cy, rows)], dim=1)
    return torch.where((camera[:, :2] > 0).all(1, keepdim=True), moved, torch.zeros_like(camera))


def _moved(centre: Tensor, axis: Axis) -> Tensor:
    return (centre + 0.5 - axis.low) / axis.scale - 0.5 - axis.offset
