"""Discriminators and their losses: of pictures, patch by patch (pix2pix), and of embeddings, by class (ADMD).

All losses are computed in float32, under autocast too, and are means over the global batch; see
:mod:`mmcl_core.nn.gather` for the rule of gradients.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.errors import ConfigError
from mmcl_core.nn.gather import mean_over_samples
from mmcl_core.nn.generator import SLOPE, initialise
from mmcl_core.nn.norm import ModalityBatchNorm

__all__ = ["EmbeddingDiscriminator", "PatchDiscriminator", "class_or_fake_loss", "l1_loss", "patch_loss"]

_PAIR = "pair"  # the key of the running statistics


class PatchDiscriminator(nn.Module):
    """PatchGAN: tells for overlapping patches whether target and source belong together (Isola et al., 6.1.2).

    Convolutions 4 x 4: some of stride 2, then two of stride 1, with BatchNorm after all but the first and the last. The
    patch is 70 x 70 with three of stride 2. Smaller pictures get fewer, so that a patch stays about half the picture
    and its side of the output 14: 70 pixels at 128, 34 at 64, 16 at 32.

    Args:
        size: side of the pictures, a power of two from 32 on.
        width: base width (publication: 64).

    Raises:
        ConfigError: an impossible size or width.
    """

    def __init__(self, size: int, width: int = 64) -> None:
        super().__init__()
        if size < 32 or width < 1:
            raise ConfigError(f"a patch discriminator needs a side >= 32 and a width >= 1, got {size} and {width}")
        strided = min(3, size.bit_length() - 5)
        widths = [6, *(width << n for n in range(strided + 1)), 1]
        self.strided = strided
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleDict()
        for n, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            plain = n in (0, strided + 1)
            self.convolutions.append(nn.Conv2d(n_in, n_out, 4, 2 if n < strided else 1, 1, bias=plain))
            if not plain:
                self.norms[str(n)] = ModalityBatchNorm(n_out, (_PAIR,))
        initialise(self)

    @property
    def patch(self) -> int:
        """Side in pixels of what one output sees."""
        side = 7  # of the two convolutions of stride 1
        for _ in range(self.strided):
            side = 2 * side + 2
        return side

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Network inputs [B, 3, S, S] of both -> logits [B, 1, h, w]; positive: the target is real."""
        x = torch.cat((source, target), 1)
        last = len(self.convolutions) - 1
        for n, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if str(n) in self.norms:
                x = self.norms[str(n)](x, _PAIR)
            if n < last:
                x = F.leaky_relu(x, SLOPE)
        return x


class EmbeddingDiscriminator(nn.Module):
    """ADMD's residual discriminator of embeddings: one output a class and one more for fakes (Garcia et al., 2019).

    As in the authors' program: a fully connected layer of ``hidden`` units, two residual ones, then 2 and 3 times as
    many units, then the outputs, with ReLU between all. Weights start as Xavier-uniform, biases as zero.

    Args:
        n_in: width R of the embedding (publication: 128).
        classes: number C of classes.
        hidden: units of the first layer (publication: 1024).
    """

    def __init__(self, n_in: int, classes: int, hidden: int = 1024) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, hidden)
        self.residual = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.wide = nn.ModuleList((nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, 3 * hidden)))
        self.output = nn.Linear(3 * hidden, classes + 1)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings [B, R] -> logits [B, C + 1]; the last is "fake"."""
        x = F.relu(self.first(embedding))
        for layer in self.residual:
            x = F.relu(x + layer(x))
        for layer in self.wide:
            x = F.relu(layer(x))
        logits: Tensor = self.output(x)
        return logits


def patch_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of patches [B, 1, h, w] to be judged real, or fake: mean over patches and samples."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        return mean_over_samples(F.softplus(-logits if real else logits).flatten(1).mean(1))


def l1_loss(generated: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of pictures [B, C, h, w]."""
    return mean_over_samples((generated.float() - wanted.float()).abs().flatten(1).mean(1))


def class_or_fake_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of an :class:`EmbeddingDiscriminator`, mean over samples.

    Args:
        logits: [B, C + 1].
        labels: int64 [B]: a class; C for "fake"; -1 for "real, of an unknown class", which counts as minus the
            logarithm of the probability of all classes together.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_p = F.log_softmax(logits.float(), 1)
        known = log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        return mean_over_samples(-torch.where(labels >= 0, known, log_p[:, :-1].logsumexp(1)))
