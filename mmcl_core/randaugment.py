"""The application of RandAugment to batches: every sample with operations of its own, those alike in one pass.

What each draw does (its value, the pixels' way, which table) is decided for the whole batch on the CPU and sent to the
device of the pictures at once; there only what looks at pixels is done.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mmcl_core import imageops
from mmcl_core.config import AugmentConfig
from mmcl_core.depth import NEAREST_MM, valid_readings
from mmcl_core.errors import ConfigError
from mmcl_core.policy import CUTOUT_GREY, MAX_MAGNITUDE, Op, depth_ops, single_op

__all__ = ["RandAugment", "depth_policy", "sent"]

_TABLES = frozenset(
    ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "Contrast", "Brightness")
)
#: Of these, the ones whose table depends on the picture.
_LOOKING = frozenset(("AutoContrast", "Equalize", "Contrast"))
_MOVES = frozenset(("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"))


def depth_policy(config: AugmentConfig, size: int, range_m: tuple[float, float] = (0.0, 2.55)) -> RandAugment:
    """RandAugment of depth: N of the depth-safe set, or the one operation of ``augment.depth_op``.

    Raises:
        ConfigError: a setting out of its range, or an operation without one.
    """
    fill = CUTOUT_GREY if config.policy == "paper" else (0,)
    if not config.depth_op:
        ops = depth_ops(config.policy, config.depth_set)
        return RandAugment(ops, config.depth_ops, config.depth_magnitude, size, fill, range_m=range_m)
    ops, share = single_op(config.policy, config.depth_op), config.depth_op_probability
    return RandAugment(ops, 1, config.depth_magnitude, size, fill, range_m=range_m, probability=share)


def sent(numbers: Tensor, device: torch.device | str) -> Tensor:
    """Numbers drawn on the CPU, on a device. A GPU is not waited for: they are copied when their turn has come."""
    if torch.device(device).type == "cuda" and numbers.device.type == "cpu":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


class RandAugment:
    """A policy at a magnitude, for pictures of one size.

    Args:
        ops: the operations.
        count: N, drawn for every sample.
        magnitude: M, in 0..30.
        size: side of the pictures.
        fill: what cutout leaves in 8-bit pictures, one value or one a channel; in metric depth it leaves no reading.
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
        self.ops, self.size, self.fill = ops, size, fill
        self.range_mm, self.probability = (1000 * range_m[0], 1000 * range_m[1]), probability
        self.count = count if ops else 0
        names = [op.name for op in ops]
        groups = [[n for n, name in enumerate(names) if name in group] for group in (_TABLES, _MOVES)]
        single = [[n] for n, name in enumerate(names) if name not in _TABLES | _MOVES]
        self._groups = [group for group in (*groups, *single) if group]
        self._value = torch.tensor([op.value(magnitude, size) for op in ops])
        self._signed = torch.tensor([op.signed for op in ops])
        self._change = torch.tensor([float(op.unit == "change") for op in ops])
        self._fixed_tables: Tensor | None = None
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
            ops, numbers: see :meth:`draw`; on the CPU, where it is decided which rows are worked on and how.
            noise: see :meth:`draw`; on the device of the image.

        Returns:
            ``image`` and ``camera``.
        """
        order = sent(ops.argsort(dim=0, stable=True).t().contiguous(), image.device)
        counts = (ops[:, :, None] == torch.arange(len(self.ops))).sum(0).tolist()
        values = self._values(ops, numbers)
        matrices = self._matrices(ops, values)
        table = ops.clamp(min=0) * 2 + (numbers[..., 0] >= 0.5)
        plan = torch.cat(
            [values[..., None], numbers[..., 1:], table[..., None], matrices[..., :2, :].flatten(2)], dim=2
        )
        plan = sent(plan, image.device)
        for turn in range(self.count):
            none = len(ops) - sum(counts[turn])
            ends = torch.tensor([none, *counts[turn]]).cumsum(0).tolist()
            for group in self._groups:
                rows = order[turn, ends[group[0]] : ends[group[-1] + 1]]
                if not len(rows):
                    continue
                parts = [(self.ops[n], counts[turn][n]) for n in group if counts[turn][n]]
                part, own = image.index_select(0, rows), plan[rows, turn]
                _put(image, rows, self._apply(parts, part, own, None if noise is None else noise[rows]))
        if any(op.name in _MOVES for op in self.ops):
            whole = matrices[:, 0]
            for turn in range(1, self.count):
                whole = whole @ matrices[:, turn]
            camera.copy_(_carry(camera, sent(whole[:, :2], image.device)))
        return image, camera

    def _apply(self, parts: list[tuple[Op, int]], image: Tensor, own: Tensor, noise: Tensor | None) -> Tensor:
        """A group of operations on the rows that drew them, those of each operation together."""
        values, centre, table, matrix = own.split([1, 2, 1, 6], dim=1)
        values, op = values[:, 0], parts[0][0]
        if op.name in _MOVES:
            return imageops.affine(image, matrix.reshape(-1, 2, 3))
        if op.name in _TABLES:
            return self._look_up(parts, image, values, table[:, 0].long())
        if op.name == "Speckle":
            assert noise is not None
            return self._speckle(image, noise, values)
        if op.name == "Cutout":
            picture = image.dtype == torch.uint8
            fill = self.fill if picture else (0,)
            return imageops.cutout(image, centre, values, fill, inclusive=op.authors and picture)
        if op.name == "Color":
            return imageops.color(image, values)
        assert op.name == "Sharpness", op.name
        sharpen = imageops.sharpness if image.dtype == torch.uint8 else imageops.sharpness_depth
        return sharpen(image, values)

    def _values(self, ops: Tensor, numbers: Tensor) -> Tensor:
        """What each draw's operation gets, [B, N]; that of the first operation where none is applied."""
        at = ops.clamp(min=0)
        values = self._value[at]
        return torch.where(self._signed[at] & (numbers[..., 0] < 0.5), -values, values) + self._change[at]

    def _matrices(self, ops: Tensor, values: Tensor) -> Tensor:
        """How each draw moves pixels, [B, N, 3, 3], from output to input; the identity where it does not."""
        matrices = torch.eye(3).repeat(*ops.shape, 1, 1)
        for number, op in enumerate(self.ops):
            if op.name not in _MOVES:
                continue
            drawn = ops == number
            if op.name == "Rotate":
                moved = imageops.rotation(values[drawn], (self.size, self.size))
            else:
                move = imageops.shear if op.name.startswith("Shear") else imageops.translation
                moved = move(values[drawn], op.name[-1].lower())
            matrices[drawn] = torch.cat([moved, torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(moved), 1, 3)], dim=1)
        return matrices

    def _look_up(self, parts: list[tuple[Op, int]], image: Tensor, values: Tensor, fixed: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return imageops.lookup(image, self._tables(parts, image, values, fixed, None))
        use, levels = valid_readings(image), self._to_levels(image)
        tables = self._tables(parts, levels.round().to(torch.uint8), values, fixed, use)
        return self._to_mm(imageops.lookup_between(levels, tables), use)

    def _tables(
        self, parts: list[tuple[Op, int]], image: Tensor, values: Tensor, fixed: Tensor, use: Tensor | None
    ) -> Tensor:
        """The table of each row, [n, C, 256]; operations in a row that need no look at pictures take theirs at once."""
        tables, begin = [], 0
        for looks, run in itertools.groupby(parts, lambda part: part[0].name in _LOOKING):
            for name, count in [(op.name, n) for op, n in run] if looks else [("", sum(n for _, n in run))]:
                rows, begin = slice(begin, begin + count), begin + count
                if looks:
                    table = _table_of(name, image[rows], values[rows], None if use is None else use[rows])
                else:
                    table = self._fixed(image.device).index_select(0, fixed[rows])
                tables.append(table.expand(-1, image.shape[1], -1))
        return torch.cat(tables)

    def _fixed(self, device: torch.device) -> Tensor:
        """The tables that do not depend on the picture, [2 x operations, 1, 256]: of the lower and the upper sign."""
        if self._fixed_tables is None or self._fixed_tables.device != device:
            numbers = torch.tensor([0.0, 1.0]).view(1, 2, 1)
            tables = []
            for number, op in enumerate(self.ops):
                known = op.name in _TABLES - _LOOKING
                values = self._values(torch.full((1, 2), number), numbers)[0]
                tables.append(_fixed_table(op, values) if known else torch.zeros(2, 1, 256, dtype=torch.uint8))
            self._fixed_tables = torch.cat(tables).to(device)
        return self._fixed_tables

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


def _table_of(name: str, image: Tensor, values: Tensor, use: Tensor | None) -> Tensor:
    """The table of an operation that looks at the picture."""
    if name == "Contrast":
        return imageops.contrast_table(image, values, use)
    return imageops.autocontrast_table(image, use) if name == "AutoContrast" else imageops.equalize_table(image, use)


def _fixed_table(op: Op, values: Tensor) -> Tensor:
    match op.name:
        case "Invert":
            return imageops.invert_table(values)
        case "Posterize":
            return imageops.posterize_table(values.trunc())
        case "Solarize":
            return imageops.solarize_table(values)
        case "SolarizeAdd":
            return (imageops.add_then_solarize_table if op.authors else imageops.solarize_add_table)(values)
    assert op.name == "Brightness", op.name
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
