"""RandAugment (Cubuk et al., 2020): which operations there are, and over which ranges.

The tables below are all there is to a policy. N operations are drawn with replacement for every sample, without an
identity; at magnitude M of 30 an operation gets ``low + M / 30 (high - low)``.

Operations on grey levels (``Brightness`` ... ``Speckle``) are made for 8-bit pictures. On metric depth they act on the
levels that the model's ``depth_range_m`` maps distances to, 0 the nearest and 255 the farthest, as ``replicate`` does:
distance -> level -> operation -> distance. A level between two of the 256 comes out between their results, which are
whole levels as in 8-bit pictures: where these are the same, as in a darker picture, so are the distances between. A
reading outside of the range comes back as its nearest or farthest distance, and at least as 1 mm. What has no reading
keeps none and is left out of histograms, extremes and means. Speckle cuts no fractions off; Sharpness works on
millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmcl_core.errors import ConfigError

__all__ = ["CUTOUT_GREY", "DEPTH_SETS", "MAX_MAGNITUDE", "RGB_POLICIES", "Op", "depth_ops", "single_op"]

MAX_MAGNITUDE = 30
#: Pixel ranges are given for crops of this side and scale with it.
REFERENCE_SIZE = 128
#: What cutout leaves in RGB: about the mean colour of photographs. The authors' program leaves it in depth, too.
CUTOUT_GREY = (125, 123, 114)


@dataclass(frozen=True)
class Op:
    """One row of a policy.

    Attributes:
        name: of the operation.
        low, high: its value at magnitude 0 and 30.
        unit: of the value; ``px`` is for crops of 128 pixels and scales with the crop; ``change`` means 1 + value.
        signed: whether the sign of the value is drawn too.
        authors: whether 8-bit pictures get the form of the authors' program, where that is not the published one:
            ``SolarizeAdd`` adds to all levels, clips, and inverts those from 128 on (published: it adds to those below
            128); the last row and column of ``Cutout`` are one pixel farther, and in a depth picture it leaves
            :data:`CUTOUT_GREY`, not 0. Metric depth gets a hole of the side itself in either form.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    signed: bool = False
    authors: bool = False

    def value(self, magnitude: float, size: int) -> float:
        """The value at a magnitude, for crops of ``size`` pixels, without its sign."""
        value = self.low + magnitude / MAX_MAGNITUDE * (self.high - self.low)
        return value * size / REFERENCE_SIZE if self.unit == "px" else value


#: Operations on the 256 levels come first, then those that move pixels: each group is applied in one pass.
_PAPER = (
    Op("AutoContrast"),
    Op("Equalize"),
    Op("Invert"),
    Op("Posterize", 0, 4, "bits"),
    Op("Solarize", 0, 256, "level"),
    Op("SolarizeAdd", 0, 110, "level", authors=True),
    Op("Contrast", 0.1, 1.9, "factor"),
    Op("Brightness", 0.1, 1.9, "factor"),
    Op("Rotate", 0, 30, "degrees", signed=True),
    Op("ShearX", 0, 0.3, "share", signed=True),
    Op("ShearY", 0, 0.3, "share", signed=True),
    Op("TranslateX", 0, 100, "px", signed=True),
    Op("TranslateY", 0, 100, "px", signed=True),
    Op("Color", 0.1, 1.9, "factor"),
    Op("Sharpness", 0.1, 1.9, "factor"),
    Op("Cutout", 0, 40, "px", authors=True),
)

#: What ``sound`` has instead: a larger magnitude always changes more, nothing blackens the picture, and operations have
#: their published form. ``Invert`` is left out, as it knows no magnitude and turns every colour into its opposite.
_REPAIRED = {
    "Posterize": Op("Posterize", 8, 4, "bits"),
    "Solarize": Op("Solarize", 256, 0, "level"),
    "SolarizeAdd": Op("SolarizeAdd", 0, 110, "level"),
    "Cutout": Op("Cutout", 0, 40, "px"),
    "Speckle": Op("Speckle", 0, 1, "deviation"),
    **{name: Op(name, 0, 0.9, "change", signed=True) for name in ("Contrast", "Brightness", "Color", "Sharpness")},
}

RGB_POLICIES: dict[str, tuple[Op, ...]] = {
    "paper": _PAPER,
    "sound": tuple(_REPAIRED.get(op.name, op) for op in _PAPER if op.name != "Invert"),
    "none": (),
}

#: The depth-safe sets (paper, Table IV): 1 is footnote 1, 2 is footnote 2. Other operations change distances.
DEPTH_SETS: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("Rotate", "ShearX", "ShearY", "TranslateX", "Sharpness", "Cutout"),
    2: ("Rotate", "Cutout"),
}

#: Operations that only the study of single ones has. The authors' program multiplies with a factor of mean 1 and
#: standard deviation 1, whatever the magnitude; ``sound`` lets the deviation grow with it. Their product is neither
#: clipped nor 8 bit any more, so that their program does not divide it by 255 as it does test pictures: the network was
#: trained on another scale than it was tested on. That is not imitated; here the product is clipped to 0..255.
_EXTRA = (Op("Speckle", 1, 1, "deviation"),)


def depth_ops(policy: str, number: int) -> tuple[Op, ...]:
    """The operations of a depth-safe set with the ranges of a policy."""
    return tuple(op for op in RGB_POLICIES[policy] if op.name in DEPTH_SETS[number])


def single_op(policy: str, name: str) -> tuple[Op, ...]:
    """One operation with the range of a policy; one that ``sound`` leaves out has the range of ``paper``.

    Raises:
        ConfigError: the policy ``none`` has no ranges.
    """
    if policy == "none":
        raise ConfigError(
            f"augment.depth_op={name} needs the ranges of a policy and augment.policy is none; "
            "choose paper or sound (augment.rgb_ops=0 leaves RGB alone)"
        )
    op = next(op for op in (*_PAPER, *_EXTRA) if op.name == name)
    return (_REPAIRED.get(name, op) if policy == "sound" else op,)
