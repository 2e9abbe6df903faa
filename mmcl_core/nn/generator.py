"""The image-to-image generator of pix2pix: a U-Net from the network input of one modality to that of another.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017), appendix 6.1.1.
Where it differs:

* It halves the picture down to 1 x 1 whatever the size: 8 times at the 256 pixels of the publication, 7 at 128, 6 at
  64, 5 at 32. The publication drops out half of the three innermost decoder levels of 8; here as many, but never so
  many that fewer than four are left without: 3 at 128, 2 at 64, 1 at 32.
* The output is linear, not a tanh. What is generated is normalised network input, whose range depends on the encoding
  (RGB about -2..3, relative depth -1.5..1.5, stored pictures by their statistics); a tanh would cut it off. The L1
  term of the loss holds the values in place.
* It answers without dropout, with the running statistics of training: the same picture gets the same answer. (The
  publication leaves both on at test time as its only source of noise and reports that it makes little difference.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.errors import ConfigError, InputError
from mmcl_core.nn.norm import ModalityBatchNorm

__all__ = ["SLOPE", "Generator", "initialise"]

#: Slope of the leaky ReLUs for negative values.
SLOPE = 0.2
#: Most decoder levels with dropout, and levels that always are without.
DROPPED, UNDROPPED = 3, 4


class Generator(nn.Module):
    """A U-Net: convolutions 4 x 4 of stride 2 down to 1 x 1 and back, with a skip connection at every side.

    Every level but the outermost and the innermost of the encoder, and but the outermost of the decoder, is followed
    by BatchNorm. Widths are 1, 2, 4, 8, 8, ... times ``width``.

    Args:
        size: side of the pictures, a power of two from 16 on.
        source: modality of the pictures it is given; the key of its running statistics.
        width: base width (publication: 64).
        dropout: in the innermost decoder levels, in [0, 1) (publication: 0.5).

    Raises:
        ConfigError: an impossible size or width.
    """

    def __init__(self, size: int, source: str, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        levels = size.bit_length() - 1
        if size != 1 << levels or size < 16 or width < 1:
            raise ConfigError(f"a generator needs a side of 16, 32, 64, ... and a width >= 1, got {size} and {width}")
        self.size, self.source, self.dropout = size, source, dropout
        self.dropped = min(DROPPED, levels - UNDROPPED)
        widths = [width * min(8, 1 << level) for level in range(levels)]
        self.down, self.down_norm = nn.ModuleList(), nn.ModuleDict()
        self.up, self.up_norm = nn.ModuleList(), nn.ModuleDict()
        for level, channels in enumerate(widths):
            innermost = level == levels - 1
            plain = level == 0 or innermost
            self.down.append(nn.Conv2d(widths[level - 1] if level else 3, channels, 4, 2, 1, bias=plain))
            if not plain:
                self.down_norm[str(level)] = ModalityBatchNorm(channels, (source,))
            n_in, n_out = channels if innermost else 2 * channels, widths[level - 1] if level else 3
            self.up.append(nn.ConvTranspose2d(n_in, n_out, 4, 2, 1, bias=level == 0))
            if level:
                self.up_norm[str(level)] = ModalityBatchNorm(n_out, (source,))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Network input of the source [B, 3, size, size] -> of the target, of the same shape, float32.

        Raises:
            InputError: ``x`` has another shape.
            UntrainedModalityError: in evaluation, a generator that was never trained.
        """
        if x.shape[1:] != (3, self.size, self.size):
            raise InputError(f"the generator takes [B, 3, {self.size}, {self.size}], got {list(x.shape)}")
        maps = []
        for level, convolution in enumerate(self.down):
            x = convolution(F.leaky_relu(x, SLOPE) if level else x)
            x = self._norm(self.down_norm, level, x)
            maps.append(x)
        innermost = len(maps) - 1
        for level in range(innermost, -1, -1):
            x = self._norm(self.up_norm, level, self.up[level](F.relu(x)))
            if innermost - level < self.dropped:
                x = F.dropout(x, self.dropout, self.training)
            if level:
                x = torch.cat((x, maps[level - 1]), 1)
        return x.float()

    def _norm(self, norms: nn.ModuleDict, level: int, x: Tensor) -> Tensor:
        if str(level) not in norms:
            return x
        normalised: Tensor = norms[str(level)](x, self.source)
        return normalised


def initialise(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), BatchNorm factors from N(1, 0.02), all biases 0, as in the publication."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, ModalityBatchNorm):
            nn.init.normal_(part.weight, 1.0, 0.02)
