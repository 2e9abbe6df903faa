"""Household objects that are folded or bound: cartons with a gable top, cereal boxes, books.

Each function builds one instance from a generator: (generator) -> :class:`~mmcl_core.synth.mesh.Mesh`.
"""

from __future__ import annotations

import numpy as np

from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.paint import cover, finish, label, page_edges, palette, small_print, tint
from mmcl_core.synth.shapes import Part, assemble, box, patch, revolve, rotation, rounded
from mmcl_core.synth.textures import texture

__all__ = ["book", "carton", "cereal_box"]


def carton(rng: np.random.Generator) -> Mesh:
    """A drink carton with a gable top and its fin, 5.5 to 9.5 cm wide and 11 to 31 cm tall, with or without a cap."""
    width = rng.uniform(0.055, 0.095)
    depth = width * rng.uniform(0.85, 1.0)
    body = width * rng.uniform(1.5, 2.5)
    gable = depth * rng.uniform(0.32, 0.5)
    fin = rng.uniform(0.012, 0.022)
    colours = palette(rng, 4, tint(rng, white=5, cream=1, blue=1, green=1, orange=1))
    colours[1] = tint(rng, blue=3, green=3, orange=2, red=1, yellow=1)
    wide = 96
    tall = round(wide * body / width)
    front, back = label(rng, (tall, wide), colours), label(rng, (tall, wide), colours)
    sides = [small_print(rng, (tall, wide), colours) for _ in range(2)]
    roof = texture("plain", rng, 32, colours[int(rng.integers(2))])
    half_w, half_d, top = width / 2, depth / 2, body + gable
    west, east, south, north = -half_w, half_w, -half_d, half_d
    parts: list[tuple[Part, np.ndarray]] = [
        (patch([(west, south, 0), (east, south, 0), (east, south, body), (west, south, body)]), front),
        (patch([(east, north, 0), (west, north, 0), (west, north, body), (east, north, body)]), back),
        (patch([(east, south, 0), (east, north, 0), (east, north, body), (east, south, body)]), sides[0]),
        (patch([(west, north, 0), (west, south, 0), (west, south, body), (west, north, body)]), sides[1]),
        (patch([(west, north, 0), (east, north, 0), (east, south, 0), (west, south, 0)]), roof),
        (patch([(west, south, body), (east, south, body), (east, 0, top), (west, 0, top)]), roof),
        (patch([(east, north, body), (west, north, body), (west, 0, top), (east, 0, top)]), roof),
    ]
    for side in (1.0, -1.0):  # the ends of the gable are folded inwards
        turn = np.diag([side, side, 1.0])
        fold = (half_w - 0.45 * gable, 0.0, body + 0.45 * gable)
        low, high, tip = (half_w, south, body), (half_w, north, body), (half_w, 0.0, top)
        parts += [
            (patch([*three, three[-1]], 2).turned(turn), roof)
            for three in ((low, high, fold), (low, fold, tip), (fold, high, tip))
        ]
    strip = box((width, 0.003, fin), 0.0008)
    parts += [(part.moved(z=top + fin / 2 - 0.001), roof) for part in strip.values()]
    if rng.random() < 0.45:
        slope = np.rad2deg(np.arctan2(gable, half_d))
        cap = revolve(rounded(rng.uniform(0.011, 0.016) * width / 0.08, -0.002, rng.uniform(0.008, 0.014), 0.001), 20)
        lid = texture("plain", rng, 16, tint(rng, white=2, red=1, blue=1, green=1, orange=1))
        parts.append((cap.turned(rotation(0, slope)).moved(y=-half_d / 2, z=body + gable / 2), lid))
    return assemble(parts, gloss=rng.uniform(0.15, 0.4))


def cereal_box(rng: np.random.Generator) -> Mesh:
    """An upright packet of cereal or crackers, 13 to 21 cm wide, 4.5 to 8 cm deep; printed all over, bulged."""
    width = rng.uniform(0.13, 0.21)
    height, depth = width * rng.uniform(1.2, 1.6), rng.uniform(0.045, 0.08)
    colours = palette(rng, 4, tint(rng, yellow=3, red=3, orange=2, blue=3, green=1, brown=1, purple=1, white=1))
    wide, narrow = 128, 48
    tall = round(wide * height / width)
    front = label(rng, (tall, wide), colours)
    back = front if rng.random() < 0.4 else label(rng, (tall, wide), colours)
    flap = texture("plain", rng, (narrow, wide), colours[int(rng.integers(2))])
    flap[narrow // 2 - 1 : narrow // 2 + 1] //= 2  # the gap between the flaps
    prints = {"front": front, "back": back, "top": flap, "bottom": flap}
    prints |= {side: small_print(rng, (tall, narrow), colours) for side in ("left", "right")}
    bulge = rng.uniform(0, 0.004)

    def swell(points: np.ndarray) -> np.ndarray:
        reach = np.clip(1 - (2 * points[:, 0] / width) ** 2, 0, 1) * np.clip(1 - (2 * points[:, 2] / height) ** 2, 0, 1)
        return points + np.column_stack([0 * reach, np.sign(points[:, 1]) * bulge * reach, 0 * reach])

    sides = box((width, depth, height), 0.0012, divisions=6)
    return assemble([(side.bent(swell), prints[name]) for name, side in sides.items()], gloss=rng.uniform(0.1, 0.35))


def book(rng: np.random.Generator) -> Mesh:
    """A closed book lying flat, 11 to 22 cm wide and 1 to 4.5 cm thick: a paperback, or boards that overhang."""
    width = rng.uniform(0.11, 0.22)
    height, thick = width * rng.uniform(1.25, 1.6), rng.uniform(0.01, 0.045)
    bound = rng.random() < 0.55
    board, inset = (rng.uniform(0.0018, 0.003), rng.uniform(0.002, 0.004)) if bound else (0.0006, 0.0004)
    colours = palette(rng, 4, tint(rng, navy=2, black=2, brown=2, cream=2, white=2, red=1, green=1, teal=1, grey=1))
    wide = 128
    tall = round(wide * height / width)
    front = cover(rng, (tall, wide), colours)
    back = small_print(rng, (tall, wide), [colours[0], colours[0]])
    inner = texture("paper", rng, 16)
    spine = np.ascontiguousarray(np.rot90(cover(rng, (40, tall), [colours[0], colours[0], colours[1], colours[2]])))
    plain = finish(np.full((8, 8, 3), colours[0]))
    pages = page_edges(rng, (48, 128))
    block = box((width - board - inset, height - 2 * inset, thick - 2 * board), 0.0003)
    parts: list[tuple[Part, np.ndarray]] = []
    for name, side in block.items():  # the block of pages, open to three sides
        parts.append((side.moved(x=(board - inset) / 2), inner if name in ("top", "bottom") else pages))
    for level in (1, -1):
        lid = box((width, height, board), 0.4 * board)
        for name, side in lid.items():
            picture = {"top": front if level > 0 else inner, "bottom": back if level < 0 else inner}.get(name, plain)
            parts.append((side.moved(z=level * (thick - board) / 2), picture))
    back_edge = box((board, height, thick - 1.2 * board), 0.4 * board)
    for name, side in back_edge.items():
        parts.append((side.moved(x=(board - width) / 2), spine if name == "left" else plain))
    return assemble(parts, gloss=rng.uniform(0.05, 0.35))
