"""Other colours for a batch of RGB crops: exposure, contrast, white balance and saturation, drawn for every sample.

Colours are what differs most between two cameras in two rooms. All four changes are linear in a pixel's colour ``c``,
so they are one product with a matrix and an offset a sample::

    c' = e k (S W c) + (1 - k) m,    S = s I + (1 - s) 1 luma^T,    W = diag(r, 1, b)

with exposure ``e``, contrast ``k`` about the mean grey ``m`` of the recoloured picture, saturation ``s``, gains ``r``
and ``b`` of red and blue. At strength ``j`` the logarithms of ``e``, ``k`` and ``s`` are uniform in ``-j..j``, those
of ``r`` and ``b`` in half of that. Gains act on 8-bit (sRGB) levels, as a white balance in a driver often does.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NUMBERS", "recolour"]

#: Random numbers that a sample takes.
NUMBERS = 6
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def recolour(image: Tensor, numbers: Tensor, jitter: float, grey: float) -> Tensor:
    """Change the colours of each picture.

    Args:
        image: uint8 [B, 3, H, W].
        numbers: [B, 6] in 0..1: exposure, contrast, saturation, red, blue, and whether the colours go.
        jitter: strength of the change, in 0..1.
        grey: probability that a picture loses its colours.

    Returns:
        uint8 [B, 3, H, W].
    """
    steps = (2 * numbers - 1) * jitter
    exposure, contrast, saturation = steps[:, :3].exp().unbind(1)
    red, blue = (steps[:, 3:5] / 2).exp().unbind(1)
    saturation = torch.where(numbers[:, 5] < grey, 0.0, saturation)[:, None, None]
    luma = torch.stack([torch.full((), part, device=image.device) for part in _LUMA])  # made there: nobody waits
    mix = saturation * torch.eye(3, device=image.device) + (1 - saturation) * luma
    matrix = exposure[:, None, None] * mix * torch.stack([red, torch.ones_like(red), blue], dim=1)[:, None]
    pixels = image.flatten(2)
    mean = pixels.sum(2).div(pixels.shape[2])  # of whole numbers: exact, whatever the batch
    middle = (matrix * mean[:, None]).sum(2).mul(luma).sum(1)[:, None]
    contrast = contrast[:, None]
    offset, matrix = (1 - contrast) * middle, contrast[:, None] * matrix
    red, green, blue = pixels.float().split(1, dim=1)
    changed = matrix[..., :1] * red
    changed.addcmul_(matrix[..., 1:2], green).addcmul_(matrix[..., 2:], blue).add_(offset[..., None] + 0.5)
    return changed.clamp_(0, 255).to(torch.uint8).view_as(image)
