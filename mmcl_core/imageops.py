"""Single operations of RandAugment on batches: every sample with a value of its own, no loop over samples.

Pictures are uint8 [n, C, H, W] (C = 3, R, G, B) or raw depth, float32 [n, 1, H, W] in mm with 0 for no reading. Results
on uint8 are those of PIL: exact for everything but rotation and shear, where PIL's fixed-point arithmetic may pick
the neighbouring pixel. Operations that treat the 256 levels of a channel alike are tables, [n, 3 or 1, 256], applied by
:func:`lookup`, so that different ones share a pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "add_then_solarize_table",
    "affine",
    "autocontrast_table",
    "brightness_table",
    "color",
    "contrast_table",
    "cutout",
    "equalize_table",
    "invert_table",
    "lookup",
    "lookup_between",
    "posterize_table",
    "rotation",
    "sharpness",
    "sharpness_depth",
    "shear",
    "solarize_add_table",
    "solarize_table",
    "speckle",
    "translation",
]


def lookup(image: Tensor, table: Tensor) -> Tensor:
    """Replace every level by its entry in the table of its sample and channel."""
    index = image.flatten(2).long()
    return table.expand(-1, image.shape[1], -1).gather(2, index).view_as(image)


def lookup_between(levels: Tensor, table: Tensor) -> Tensor:
    """:func:`lookup` of levels with fractions, float [n, 1, H, W] in 0..255: on the line between two entries."""
    index = levels.flatten(2).floor().long().clamp(0, 254)
    values = table.float()
    low, high = values.gather(2, index), values.gather(2, index + 1)
    return (low + (levels.flatten(2) - index) * (high - low)).view_as(levels)


def _levels(like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(256, device=like.device, dtype=dtype).view(1, 1, 256)


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1)


def _to_uint8(values: Tensor) -> Tensor:
    """Clip, in place, and cut off the fraction, as PIL does when it blends."""
    return values.clamp_(0, 255).to(torch.uint8)


def autocontrast_table(image: Tensor, use: Tensor | None = None) -> Tensor:
    """Stretch each channel from its darkest and brightest level to 0 and 255 (``ImageOps.autocontrast``).

    ``use``: bool, shape of ``image``, the pixels that count; ``None`` for all.
    """
    dark, bright = (image, image) if use is None else (image.masked_fill(~use, 255), image.masked_fill(~use, 0))
    low, high = dark.flatten(2).amin(2, keepdim=True).double(), bright.flatten(2).amax(2, keepdim=True).double()
    # A number over a tensor would be a product with the reciprocal, and PIL's cut-off shows the last bit.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    levels = _levels(image, torch.float64)
    return _to_uint8(torch.where(high > low, levels * scale - low * scale, levels))


def equalize_table(image: Tensor, use: Tensor | None = None) -> Tensor:
    """Make the histogram of each channel uniform (``ImageOps.equalize``); ``use`` as in :func:`autocontrast_table`."""
    flat = image.flatten(2)
    one = torch.ones((), device=image.device, dtype=torch.int32)
    counted = one.expand(flat.shape) if use is None else use.flatten(2).to(torch.int32)
    histogram = torch.zeros(*flat.shape[:2], 256, device=image.device, dtype=torch.int32)
    histogram.scatter_add_(2, flat.long(), counted)
    brightest = (flat if use is None else flat.masked_fill(~use.flatten(2), 0)).amax(2, keepdim=True).long()
    step = (histogram.sum(2, keepdim=True) - histogram.gather(2, brightest)) // 255
    below = histogram.cumsum(2) - histogram
    table = (below + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, table, _levels(image, torch.int64)).clamp(0, 255).to(torch.uint8)


def invert_table(image: Tensor) -> Tensor:
    """The negative (``ImageOps.invert``)."""
    return (255 - _levels(image)).to(torch.uint8).expand(len(image), 1, 256)


def posterize_table(bits: Tensor) -> Tensor:
    """Keep the upper ``bits`` [n] of each level (``ImageOps.posterize``); 0 bits leave black."""
    step = 2 ** (8 - _column(bits).to(torch.int64))
    return (_levels(bits, torch.int64) // step * step).to(torch.uint8)


def solarize_table(threshold: Tensor) -> Tensor:
    """Invert the levels from ``threshold`` [n] on (``ImageOps.solarize``)."""
    levels = _levels(threshold)
    return torch.where(levels < _column(threshold), levels, 255 - levels).to(torch.uint8)


def solarize_add_table(amount: Tensor) -> Tensor:
    """Add ``amount`` [n], cut to an integer, to the levels below 128: the published form."""
    levels = _levels(amount)
    return _to_uint8(torch.where(levels < 128, levels + _column(amount).trunc(), levels))


def add_then_solarize_table(amount: Tensor) -> Tensor:
    """Add ``amount`` [n], in levels, to all levels, clip, and invert those from 128 on: the authors' form."""
    added = (_levels(amount) + _column(amount)).clamp_(0, 255).trunc()
    return torch.where(added < 128, added, 255 - added).to(torch.uint8)


def brightness_table(factor: Tensor) -> Tensor:
    """Blend with black (``ImageEnhance.Brightness``); ``factor`` [n], 1 changes nothing."""
    return _to_uint8(_levels(factor) * _column(factor))


def contrast_table(image: Tensor, factor: Tensor, use: Tensor | None = None) -> Tensor:
    """Blend with the mean grey of the picture (``ImageEnhance.Contrast``); ``factor`` [n], 1 changes nothing.

    ``image`` may have one channel; ``use`` as in :func:`autocontrast_table`, of one channel.
    """
    grey = _grey(image.expand(-1, 3, -1, -1)).double()
    counted = torch.ones_like(grey) if use is None else use.double()
    middle = (grey * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp(min=1)
    mean = _column((middle + 0.5).floor().float())
    return _to_uint8(mean + _column(factor) * (_levels(image) - mean))


def color(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey picture (``ImageEnhance.Color``); ``factor`` [n], 0 is grey, 1 changes nothing."""
    grey = _grey(image).float()
    return _to_uint8(image.float().sub_(grey).mul_(factor.view(-1, 1, 1, 1)).add_(grey))


def _grey(image: Tensor) -> Tensor:
    """Luma (ITU-R 601-2) in PIL's fixed-point arithmetic, int32 [n, 1, H, W]."""
    red, green, blue = image.to(torch.int32).split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _smooth_sum(values: Tensor) -> Tensor:
    """Sums of the 3 x 3 neighbourhoods, of [n, C, H, W], inside the border: [n, C, H-2, W-2]."""
    rows = (values[:, :, :-2] + values[:, :, 1:-1]).add_(values[:, :, 2:])
    return (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed picture (``ImageEnhance.Sharpness``), the border left alone.

    ``factor`` [n]: below 1 blurs, above 1 sharpens. The filter is 3 x 3 with 5 in the middle and 1 elsewhere.
    """
    values = image.float()
    inner = values[:, :, 1:-1, 1:-1]
    smooth = _smooth_sum(values).add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    values[:, :, 1:-1, 1:-1] = (inner - smooth).mul_(factor.view(-1, 1, 1, 1)).add_(smooth)
    return _to_uint8(values)


def sharpness_depth(depth: Tensor, factor: Tensor) -> Tensor:
    """:func:`sharpness` of readings whose eight neighbours are readings too; the others keep their value."""
    inner = depth[:, :, 1:-1, 1:-1]
    smooth = (_smooth_sum(depth) + 4 * inner) / 13
    blended = smooth + factor.view(-1, 1, 1, 1) * (inner - smooth)
    use = (_smooth_sum((depth > 0).float()) == 9) & (blended > 0)
    result = depth.clone()
    result[:, :, 1:-1, 1:-1] = torch.where(use, blended, inner)
    return result


def speckle(levels: Tensor, noise: Tensor, deviation: Tensor) -> Tensor:
    """Multiply every pixel by ``1 + deviation * noise`` and clip to 0..255.

    Args:
        levels: [n, C, H, W] on the scale 0..255, of any type.
        noise: [n, H, W], standard normal; one number for all channels of a pixel.
        deviation: [n].

    Returns:
        float32, shape of ``levels``.
    """
    return (levels.float() * (1 + deviation.view(-1, 1, 1, 1) * noise[:, None])).clamp_(0, 255)


def rotation(degrees: Tensor, size: tuple[int, int]) -> Tensor:
    """Counter-clockwise rotation about the middle of pictures of (height, width), as for :func:`affine`."""
    angle = -torch.deg2rad(degrees)
    cosine, sine = angle.cos(), angle.sin()
    y, x = size[0] / 2, size[1] / 2
    rows = [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def shear(amount: Tensor, axis: str) -> Tensor:
    """Shear along ``x`` or ``y``, the upper left corner fixed, as for :func:`affine`."""
    return _identity_with(amount, 1 if axis == "x" else 3)


def translation(pixels: Tensor, axis: str) -> Tensor:
    """Content moves by ``-pixels`` along ``x`` or ``y``, as for :func:`affine`."""
    return _identity_with(pixels, 2 if axis == "x" else 5)


def _identity_with(values: Tensor, place: int) -> Tensor:
    matrix = values.new_zeros(len(values), 6)
    matrix[:, 0::4] = 1
    matrix[:, place] = values
    return matrix.view(-1, 2, 3)


def affine(image: Tensor, matrix: Tensor) -> Tensor:
    """Move pixels (``Image.transform(AFFINE)``, nearest neighbour); what comes from outside is 0.

    Args:
        image: [n, C, H, W] of any type.
        matrix: float32 [n, 2, 3], from output to input coordinates (x, y), the first pixel covering 0..1.
    """
    height, width = image.shape[-2:]
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrix.view(-1, 2, 3, 1, 1).unbind(1))
    x = (torch.arange(width, device=image.device) + 0.5).view(1, 1, -1)
    y = (torch.arange(height, device=image.device) + 0.5).view(1, -1, 1)
    columns = (a * x + (b * y + c)).floor_()
    rows = (d * x + (e * y + f)).floor_()
    column, row = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    inside = (column == columns) & (row == rows)
    index = row.mul_(width).add_(column).long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view_as(image).mul_(inside[:, None].to(image.dtype))


def cutout(image: Tensor, centre: Tensor, side: Tensor, fill: tuple[int, ...], *, inclusive: bool = False) -> Tensor:
    """Overwrite a square that the border may cut.

    Args:
        image: [n, C, H, W].
        centre: [n, 2], y and x as shares of the height and width.
        side: [n], pixels.
        fill: one value or one a channel.
        inclusive: whether the pixel at the far end belongs to it, one more than ``side``, as in rectangles of PIL.
    """
    height, width = image.shape[-2:]
    beyond = side.floor()[:, None] + inclusive
    hit = []
    for length, share in ((height, centre[:, 0]), (width, centre[:, 1])):
        low = (share * length - side / 2).clamp(min=0).floor()[:, None]
        place = torch.arange(length, device=image.device)
        hit.append((place >= low) & (place < low + beyond))
    mask = (hit[0].to(image.dtype)[:, :, None] * hit[1].to(image.dtype)[:, None, :])[:, None]
    covered = torch.cat([mask * value for value in fill], dim=1)
    return (image * (1 - mask)).add_(covered)
