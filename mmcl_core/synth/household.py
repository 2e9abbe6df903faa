"""Procedural household objects: sixteen categories, each an endless supply of instances.

Some categories share their shape and differ in print (a book and a cereal box), others share their surface and
differ in shape (mug, bowl and plate are glazed alike); colours are drawn alike for most. So neither colour nor shape
alone tells all of them apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from mmcl_core.errors import ConfigError
from mmcl_core.synth import implements, packages, vessels
from mmcl_core.synth.mesh import Mesh

__all__ = ["CATEGORIES", "household"]

_BUILDERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "ball": implements.ball,
    "banana": implements.banana,
    "book": packages.book,
    "bottle": vessels.bottle,
    "bowl": vessels.bowl,
    "can": vessels.can,
    "carton": packages.carton,
    "cereal_box": packages.cereal_box,
    "hammer": implements.hammer,
    "mug": vessels.mug,
    "pan": vessels.pan,
    "pen": implements.pen,
    "plate": vessels.plate,
    "scissors": implements.scissors,
    "spoon": implements.spoon,
    "tumbler": vessels.tumbler,
}

CATEGORIES: tuple[str, ...] = tuple(_BUILDERS)


def household(category: str, instance_seed: int) -> Mesh:
    """Build one instance of a category.

    Args:
        category: one of :data:`CATEGORIES`.
        instance_seed: a number >= 0; shape, size, proportions and texture are a pure function of it.

    Returns:
        The instance in metres and real size, as it usually stands or lies (+z up), centred over the origin on z = 0.

    Raises:
        ConfigError: there is no such category.
    """
    if category not in _BUILDERS:
        raise ConfigError(f"there is no household category {category!r}; choose one of {', '.join(CATEGORIES)}")
    seed = np.random.SeedSequence((zlib.crc32(category.encode()), instance_seed))
    return _BUILDERS[category](np.random.Generator(np.random.PCG64(seed)))
