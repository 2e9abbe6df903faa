"""The encoder: one residual network for every modality, with feature maps of 7 x 7, 5 x 5 and 1 x 1.

Source: paper, Section III-B and Algorithm 1. The second convolution is printed there as 5 x 5 with stride 2,
which gives no 7 x 7 map; 3 x 3 with stride 1 does and is what the authors' program computes. The stacks for 128 and
64 px are the authors'; that for 32 px is not: theirs has one more residual unit, of 1 x 1, after the first convolution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.errors import ConfigError, InputError
from mmcl_core.nn.heads import FeatureHead, first_convolution, second_convolution
from mmcl_core.nn.norm import ModalityBatchNorm

__all__ = ["LEVELS", "SIZES", "Encoder", "Features", "ResidualBlock", "ResidualUnit"]

LEVELS = (1, 5, 7)
"""Sides of the feature maps."""

SIZES: dict[int, tuple[tuple[int, int, int], ...]] = {
    128: ((2, 4, 2), (4, 4, 2), (8, 2, 2)),
    64: ((2, 4, 2), (4, 4, 2), (8, 2, 2)),
    32: ((2, 4, 2), (4, 2, 2)),
}
"""Side of the input -> the blocks down to the 7 x 7 map: width in units of ndf, kernel, stride."""


class Features(NamedTuple):
    """Embeddings of a batch, float32; a level that was not asked for, or has no head, is ``None``.

    Attributes:
        f1: [B, R], the embedding of the whole picture.
        f5: [B, R, 5, 5].
        f7: [B, R, 7, 7].
    """

    f1: Tensor
    f5: Tensor | None = None
    f7: Tensor | None = None


class ResidualUnit(nn.Module):
    """``conv1x1(ReLU(BN?(conv_kxk(x)))) + average_pool(x, k, stride)``, nothing after the sum.

    Where the output is wider than the input, zero channels are appended to the skip; where it is narrower, the
    skip loses its last channels. For k = 1 the pool is the identity and not computed.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, unit_norm: bool, modalities: Sequence[str]
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.widening = n_out - n_in
        self.conv1 = first_convolution(n_in, n_out, kernel, stride)
        self.norm = ModalityBatchNorm(n_out, modalities) if unit_norm else None
        self.conv2 = second_convolution(n_out)

    def forward(self, x: Tensor, modality: str | tuple[str, ...]) -> Tensor:
        """[B, n_in, h, w] -> [B, n_out, (h - k) / stride + 1, (w - k) / stride + 1]."""
        hidden = self.conv1(x)
        if self.norm is not None:
            hidden = self.norm(hidden, modality)
        y: Tensor = self.conv2(F.relu(hidden, inplace=True))
        skip = x if self.kernel == 1 else F.avg_pool2d(x, self.kernel, self.stride)
        if self.widening:
            skip = F.pad(skip, (0, 0, 0, 0, 0, self.widening))
        y += skip
        return y


class ResidualBlock(nn.ModuleList):
    """One k x k unit followed by ``depth - 1`` units of 1 x 1."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, depth: int, unit_norm: bool, modalities: Sequence[str]
    ) -> None:
        units = [ResidualUnit(n_in, n_out, kernel, stride, unit_norm, modalities)]
        units += [ResidualUnit(n_out, n_out, 1, 1, unit_norm, modalities) for _ in range(depth - 1)]
        super().__init__(units)

    def forward(self, x: Tensor, modality: str | tuple[str, ...]) -> Tensor:
        """Apply all units."""
        for unit in self:
            x = unit(x, modality)
        return x


class Encoder(nn.Module):
    """Pictures of any modality to embeddings at three levels.

    Args:
        size: side of the square input in pixels: 128, 64 or 32.
        ndf: base width.
        nrkhs: width R of the embeddings.
        depth: residual units in a block.
        unit_norm: BatchNorm inside the residual units (paper: off; one that is off has no parameters).
        modalities: names of the modalities; each has running statistics of its own.
        feature_heads: levels among 5 and 7 that get an embedding head. ``True`` is both, ``False`` none.
        channels: of the input; 3, or those of several pictures one after the other.

    Raises:
        ConfigError: an impossible size or width, or an unknown level.
    """

    def __init__(
        self,
        size: int,
        ndf: int,
        nrkhs: int,
        depth: int,
        unit_norm: bool,
        modalities: Sequence[str],
        feature_heads: bool | Collection[int] = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ConfigError(f"model.input_size is {size}; choose from {', '.join(map(str, SIZES))}")
        if min(ndf, nrkhs, depth) < 1:
            raise ConfigError(f"model.ndf, nrkhs and depth must be positive, got {ndf}, {nrkhs}, {depth}")
        if not modalities or isinstance(modalities, str):
            raise ConfigError(f"an encoder needs a list of modalities, got {modalities!r}")
        levels = LEVELS[1:] if feature_heads is True else feature_heads or ()
        if not set(levels) <= {5, 7}:
            raise ConfigError(f"there are feature heads for the levels 5 and 7, not for {sorted(levels)}")
        self.size = size
        self.channels = channels
        self.modalities = tuple(modalities)
        self.stem = nn.ModuleList([nn.Conv2d(channels, ndf, 3)])
        if size == 128:
            halving = nn.Conv2d(channels, ndf, 5, stride=2, padding=2, padding_mode="reflect")
            self.stem = nn.ModuleList([halving, nn.Conv2d(ndf, ndf, 3)])
        self.to7 = nn.ModuleList()
        width = ndf
        for factor, kernel, stride in SIZES[size]:
            n_in, width = width, factor * ndf
            self.to7.append(ResidualBlock(n_in, width, kernel, stride, depth, unit_norm, modalities))
        self.to5 = ResidualBlock(width, width, 3, 1, depth, unit_norm, modalities)
        self.to3 = ResidualBlock(width, width, 3, 1, depth, unit_norm, modalities)
        self.to1 = ResidualUnit(width, nrkhs, 3, 1, unit_norm, modalities)
        self.norm = ModalityBatchNorm(nrkhs, modalities)
        self.heads = nn.ModuleDict(
            {str(level): FeatureHead(width, nrkhs, unit_norm, modalities) for level in sorted(levels)}
        )

    def forward(self, x: Tensor, modality: str | tuple[str, ...], levels: Collection[int] = LEVELS) -> Features:
        """Embed a batch of one modality, or equal parts of several at once.

        The parts share all products, of twice the size and half the number, and nothing else: each is normalised by
        itself, so that the result is that of one call a part.

        Args:
            x: network input [B, channels, size, size], normalised.
            modality: its name; a tuple names that of each of the equal parts which the batch consists of.
            levels: the levels that are wanted; f1 is always computed.

        Raises:
            InputError: ``x`` has another shape.
            UntrainedModalityError: an unknown modality or, in evaluation, one never seen in training.
        """
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise InputError(f"the encoder takes [B, {self.channels}, {self.size}, {self.size}], got {list(x.shape)}")
        self.norm.require(modality)
        for convolution in self.stem:
            x = F.relu(convolution(x), inplace=True)
        for block in self.to7:
            x = block(x, modality)
        map7 = x
        map5 = self.to5(map7, modality)
        x = self.to1(self.to3(map5, modality), modality)
        # The embeddings are float32 under autocast too: their BatchNorm divides by small deviations.
        f1 = self.norm(x.flatten(1).float(), modality)
        return Features(f1, self._embed(5, map5, modality, levels), self._embed(7, map7, modality, levels))

    def _embed(self, level: int, x: Tensor, modality: str | tuple[str, ...], levels: Collection[int]) -> Tensor | None:
        if level not in levels or str(level) not in self.heads:
            return None
        embedded: Tensor = self.heads[str(level)](x, modality)
        return embedded
