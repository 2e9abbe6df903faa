"""RandAugment (Cubuk et al., 2020) for batches: which operations there are, over which ranges, and their application.

The tables below are all there is to a policy. N operations are drawn with replacement for every sample, without an
identity; at magnitude M of 30 an operation gets ``low + M / 30 (high - low)``.

Operations on grey levels (``Brightness`` ... ``Speckle``) are made for 8-bit pictures. On metric depth they act on the
levels that the model's ``depth_range_m`` maps distances to, 0 the nearest and 255 the farthest, as ``replicate`` does:
distance -> level -> operation -> distance. Levels keep their fraction, so nothing is rounded to a 255th of the range;
a reading outside of the range comes back as its nearest or farthest distance, and at least as 1 mm. What has no reading
keeps none and is left out of histograms, extremes and means. Sharpness works on millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl_core import imageops
from mmcl_core.config import AugmentConfig
from mmcl_core.depth import valid_readings
from mmcl_core.errors import ConfigError

__all__ = [
    "DEPTH_SETS",
    "MAX_MAGNITUDE",
    "RGB_POLICIES",
    "Op",
    "RandAugment",
    "depth_ops",
    "depth_policy",
    "describe",
    "single_op",
]

MAX_MAGNITUDE = 30
#: Pixel ranges are given for crops of this side and scale with it.
REFERENCE_SIZE = 128
#: What :func:`mmcl_core.imageops.cutout` leaves in RGB: about the mean colour of photographs.
CUTOUT_GREY = (125, 123, 114)


@dataclass(frozen=True)
class Op:
    """One row of a policy.

    Attributes:
        name: of the operation.
        low, high: its value at magnitude 0 and 30.
        unit: of the value; ``px`` is for crops of 128 pixels and scales with the crop; ``change`` means 1 + value.
        signed: whether the sign of the value is drawn too.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    signed: bool = False

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
    Op("SolarizeAdd", 0, 110, "level"),
    Op("Contrast", 0.1, 1.9, "factor"),
    Op("Brightness", 0.1, 1.9, "factor"),
    Op("Rotate", 0, 30, "degrees", signed=True),
    Op("ShearX", 0, 0.3, "share", signed=True),
    Op("ShearY", 0, 0.3, "share", signed=True),
    Op("TranslateX", 0, 100, "px", signed=True),
    Op("TranslateY", 0, 100, "px", signed=True),
    Op("Color", 0.1, 1.9, "factor"),
    Op("Sharpness", 0.1, 1.9, "factor"),
    Op("Cutout", 0, 40, "px"),
)

#: What ``sound`` has instead: a larger magnitude always changes more, and nothing blackens the picture. ``Invert`` is
#: left out, as it knows no magnitude and turns every colour into its opposite.
_REPAIRED = {
    "Posterize": Op("Posterize", 8, 4, "bits"),
    "Solarize": Op("Solarize", 256, 0, "level"),
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
#: standard deviation 1, whatever the magnitude; ``sound`` lets the deviation grow with it.
_EXTRA = (Op("Speckle", 1, 1, "deviation"),)

#: No operation makes a reading vanish or brings it nearer than this.
NEAREST_MM = 1.0

_TABLES = frozenset(
    ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "Contrast", "Brightness")
)
_MOVES = frozenset(("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"))


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


def depth_policy(config: AugmentConfig, size: int, range_m: tuple[float, float] = (0.0, 2.55)) -> RandAugment:
    """RandAugment of depth: N of the depth-safe set, or the one operation of ``augment.depth_op``.

    Raises:
        ConfigError: a setting out of its range, or an operation without one.
    """
    if not config.depth_op:
        ops = depth_ops(config.policy, config.depth_set)
        return RandAugment(ops, config.depth_ops, config.depth_magnitude, size, range_m=range_m)
    ops, share = single_op(config.policy, config.depth_op), config.depth_op_probability
    return RandAugment(ops, 1, config.depth_magnitude, size, range_m=range_m, probability=share)


def describe(config: AugmentConfig, size: int) -> list[dict[str, Any]]:
    """The operations that settings lead to, one row each: kind, name, range, unit, value at the magnitude."""
    depth = depth_policy(config, size)
    kinds = (
        ("rgb", RGB_POLICIES[config.policy], config.rgb_ops, config.rgb_magnitude),
        ("depth", depth.ops, depth.count, config.depth_magnitude),
    )
    return [
        {
            "kind": kind, "op": op.name, "low": op.low, "high": op.high, "unit": op.unit, "signed": op.signed,
            "value": op.value(magnitude, size),
        }
        for kind, ops, count, magnitude in kinds if count for op in ops
    ]  # fmt: skip


class RandAugment:
    """A policy at a magnitude, for pictures of one size.

    Args:
        ops: the operations.
        count: N, drawn for every sample.
        magnitude: M, in 0..30.
        size: side of the pictures.
        fill: what cutout leaves, one value or one a channel.
        range_m: the distances in metres whose levels are 0 and 255, for metric depth.
        probability: of each of the N draws to be applied, in 0..1.

    Raises:
        ConfigError: N, M or the probability out of range.
    """

    def __init__(
        self,
        ops: tuple[Op, ...],
        count: int,
        magnitude: float,
        size: int,
        fill: tuple[int, ...] = (0,),
        *,
        range_m: tuple[float, float] = (0.0, 2.55),
        probability: float = 1.0,
    ) -> None:
        if count < 0:
            raise ConfigError(f"RandAugment draws {count} operations a sample; a number >= 0 is expected")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ConfigError(f"RandAugment has magnitude {magnitude}; it lies in 0..{MAX_MAGNITUDE}")
        if not 0 <= probability <= 1:
            raise ConfigError(f"an operation is applied with probability {probability}; it lies in 0..1")
        self.ops, self.magnitude, self.size, self.fill = ops, magnitude, size, fill
        self.range_mm, self.probability = (1000 * range_m[0], 1000 * range_m[1]), probability
        self.count = count if ops else 0
        names = [op.name for op in ops]
        groups = [[n for n, name in enumerate(names) if name in group] for group in (_TABLES, _MOVES)]
        single = [[n] for n, name in enumerate(names) if name not in _TABLES | _MOVES]
        self._groups = [group for group in (*groups, *single) if group]
        assert all(group == list(range(group[0], group[-1] + 1)) for group in self._groups), "groups must be contiguous"

    def draw(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of a batch.

        Returns:
            ``ops``: int64 [batch, N], which operation, -1 for none; ``numbers``: [batch, N, 3] in 0..1 for its sign
            and place; ``noise``: standard normal [batch, S, S], only where there is speckle.
        """
        if not self.count:
            return {}
        drawn = {
            "ops": torch.randint(len(self.ops), (batch, self.count), generator=generator),
            "numbers": torch.rand(batch, self.count, 3, generator=generator),
        }
        if self.probability < 1:
            applied = torch.rand(batch, self.count, generator=generator) < self.probability
            drawn["ops"] = torch.where(applied, drawn["ops"], -1)
        if any(op.name == "Speckle" for op in self.ops):
            drawn["noise"] = torch.randn(batch, self.size, self.size, generator=generator)
        return drawn

    def __call__(
        self, image: Tensor, camera: Tensor, ops: Tensor, numbers: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply what was drawn.

        The principal point goes where its pixel goes; rotation and shear keep the focal lengths, which is exact for a
        rotation of a camera with fx = fy and an approximation for a shear.

        Args:
            image: uint8 [B, C, S, S], or depth float32 [B, 1, S, S] in mm. Changed in place.
            camera: [B, 4]. Changed in place.
            ops: see :meth:`draw`; on the CPU, as it decides which rows are worked on.
            numbers, noise: see :meth:`draw`; on the device of the image.

        Returns:
            ``image`` and ``camera``.
        """
        order = ops.argsort(dim=0, stable=True).t().contiguous().to(image.device, non_blocking=True)
        counts = (ops[:, :, None] == torch.arange(len(self.ops))).sum(0).tolist()
        for turn in range(self.count):
            none = len(ops) - sum(counts[turn])
            ends = torch.tensor([none, *counts[turn]]).cumsum(0).tolist()
            for group in self._groups:
                rows = order[turn, ends[group[0]] : ends[group[-1] + 1]]
                if not len(rows):
                    continue
                chosen = [self.ops[n] for n in group]
                parts = [counts[turn][n] for n in group]
                part = image.index_select(0, rows)
                drawn = numbers[rows, turn]
                if chosen[0].name in _MOVES:
                    matrix = self._matrices(chosen, parts, drawn)
                    part = imageops.affine(part, matrix)
                    camera.index_copy_(0, rows, _carry(camera[rows], matrix))
                elif chosen[0].name in _TABLES:
                    part = self._look_up(chosen, parts, part, drawn)
                elif chosen[0].name == "Speckle":
                    assert noise is not None
                    part = self._speckle(part, noise[rows], self._values(chosen[0], drawn))
                else:
                    part = self._single(chosen[0], part, drawn)
                _put(image, rows, part)
        return image, camera

    def _values(self, op: Op, drawn: Tensor) -> Tensor:
        value = op.value(self.magnitude, self.size)
        values = torch.where(drawn[:, 0] < 0.5, -value, value) if op.signed else torch.full_like(drawn[:, 0], value)
        return values + 1 if op.unit == "change" else values

    def _look_up(self, ops: list[Op], counts: list[int], image: Tensor, drawn: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return imageops.lookup(image, self._tables(ops, counts, image, drawn, None))
        use, levels = valid_readings(image), self._to_levels(image)
        tables = self._tables(ops, counts, levels.round().to(torch.uint8), drawn, use)
        return self._to_mm(imageops.lookup_between(levels, tables), use)

    def _tables(self, ops: list[Op], counts: list[int], image: Tensor, drawn: Tensor, use: Tensor | None) -> Tensor:
        tables, begin = [], 0
        for op, count in zip(ops, counts, strict=True):
            rows, begin = slice(begin, begin + count), begin + count
            if count:
                values = self._values(op, drawn[rows])
                table = _table(op.name, image[rows], values, None if use is None else use[rows])
                tables.append(table.expand(-1, image.shape[1], -1))
        return torch.cat(tables)

    def _speckle(self, image: Tensor, noise: Tensor, deviation: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return imageops.speckle(image, noise, deviation).round_().to(torch.uint8)
        levels = imageops.speckle(self._to_levels(image), noise, deviation)
        return self._to_mm(levels, valid_readings(image))

    def _to_levels(self, depth: Tensor) -> Tensor:
        near, far = self.range_mm
        return ((depth - near) * (255 / (far - near))).clamp_(0, 255)

    def _to_mm(self, levels: Tensor, use: Tensor) -> Tensor:
        near, far = self.range_mm
        return torch.where(use, (near + levels * ((far - near) / 255)).clamp_(min=NEAREST_MM), 0.0)

    def _matrices(self, ops: list[Op], counts: list[int], drawn: Tensor) -> Tensor:
        matrices = []
        for op, numbers in zip(ops, drawn.split(counts), strict=True):
            values = self._values(op, numbers)
            if op.name == "Rotate":
                matrices.append(imageops.rotation(values, (self.size, self.size)))
            else:
                move = imageops.shear if op.name.startswith("Shear") else imageops.translation
                matrices.append(move(values, op.name[-1].lower()))
        return torch.cat(matrices)

    def _single(self, op: Op, image: Tensor, drawn: Tensor) -> Tensor:
        values = self._values(op, drawn)
        if op.name == "Cutout":
            return imageops.cutout(image, drawn[:, 1:], values, self.fill)
        if op.name == "Color":
            return imageops.color(image, values)
        assert op.name == "Sharpness", op.name
        sharpen = imageops.sharpness if image.dtype == torch.uint8 else imageops.sharpness_depth
        return sharpen(image, values)


def _table(name: str, image: Tensor, values: Tensor, use: Tensor | None) -> Tensor:
    match name:
        case "AutoContrast":
            return imageops.autocontrast_table(image, use)
        case "Equalize":
            return imageops.equalize_table(image, use)
        case "Invert":
            return imageops.invert_table(image)
        case "Posterize":
            return imageops.posterize_table(values.trunc())
        case "Solarize":
            return imageops.solarize_table(values)
        case "SolarizeAdd":
            return imageops.solarize_add_table(values)
        case "Contrast":
            return imageops.contrast_table(image, values, use)
    assert name == "Brightness", name
    return imageops.brightness_table(values)


def _put(image: Tensor, rows: Tensor, part: Tensor) -> None:
    """``image[rows] = part``, by eight bytes at a time where they fit: many times faster than one pixel at a time."""
    if image[0].numel() * image.element_size() % 8 == 0:
        image, part = (picture.flatten(1).view(torch.int64) for picture in (image, part))
    image.index_copy_(0, rows, part)


def _carry(camera: Tensor, matrix: Tensor) -> Tensor:
    """Cameras [n, 4] after :func:`mmcl_core.imageops.affine`: the principal point is where its pixel went."""
    x, y = (camera[:, 2:] + 0.5 - matrix[:, :, 2]).unbind(1)
    a, b, c, d = matrix[:, :, :2].flatten(1).unbind(1)
    determinant = a * d - b * c
    centre = torch.stack([(d * x - b * y) / determinant, (a * y - c * x) / determinant], dim=1) - 0.5
    known = (camera[:, :2] > 0).all(1, keepdim=True)
    return torch.cat([camera[:, :2], torch.where(known, centre, camera[:, 2:])], dim=1)
