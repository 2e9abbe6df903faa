"""Household objects that are turned: mugs, bowls, plates, tumblers, pans, bottles and cans.

Each function builds one instance from a generator: (generator) -> :class:`~mmcl_core.synth.mesh.Mesh`.
"""

from __future__ import annotations

import cv2
import numpy as np

from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.paint import colour, finish, label, mix, palette, tint
from mmcl_core.synth.shapes import Part, assemble, ellipse, revolve, rounded, smooth, sweep
from mmcl_core.synth.textures import ceramic, glaze, texture

__all__ = ["bottle", "bowl", "can", "mug", "pan", "plate", "tumbler"]


def mug(rng: np.random.Generator) -> Mesh:
    """A mug of 8 to 11.5 cm with one of several wall profiles and handles; ceramic, or enamelled metal."""
    height, radius = rng.uniform(0.08, 0.115), rng.uniform(0.036, 0.049)
    wall = rng.uniform(0.003, 0.005)
    belly = {"straight": (1, 1, 1, 1), "taper": (0.78, 0.86, 0.94, 1), "barrel": (0.82, 1.05, 1.06, 0.95)}
    belly["waist"] = (1.02, 0.9, 0.88, 1.04)
    factor = np.array(belly[str(rng.choice(list(belly)))]) + rng.normal(0, 0.015, 4)
    outer = smooth(np.column_stack([radius * factor, height * np.array((0.0, 0.33, 0.66, 1.0))]), 12)
    base = glaze(rng)
    inside = base if rng.random() < 0.4 else glaze(rng)
    trim = texture("plain", rng, 16, base if rng.random() < 0.75 else glaze(rng))
    pieces = _shell(
        outer, wall, rng.uniform(0.004, 0.008), ceramic(rng, (96, 256), base), texture("plain", rng, 48, inside), trim
    )
    return assemble([*pieces, (_handle(rng, outer, wall), trim)], gloss=rng.uniform(0.3, 0.6))


def _handle(rng: np.random.Generator, outer: np.ndarray, wall: float) -> Part:
    """A handle in the plane of x and z, both ends sunk into the wall: round, square or ear-shaped."""
    height = outer[-1, 1]
    low, high = height * rng.uniform(0.12, 0.3), height * rng.uniform(0.72, 0.88)
    reach = rng.uniform(0.024, 0.036)
    start, end = (np.interp(z, outer[:, 1], outer[:, 0]) - 0.5 * wall for z in (low, high))
    power = rng.uniform(2.0, 4.5)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 17)
    bow = np.stack([np.cos(angle), np.sin(angle)], 1)
    bow = np.sign(bow) * np.abs(bow) ** (2 / power)
    ear = 1 + rng.uniform(-0.3, 0.35) * bow[:, 1]
    z = (low + high) / 2 + (high - low) / 2 * bow[:, 1]
    x = np.interp(z, (low, high), (start, end)) + reach * bow[:, 0] * ear
    section = ellipse(10, rng.uniform(0.0028, 0.0045), rng.uniform(0.004, 0.0085), rng.uniform(2, 3.5))
    return sweep(np.column_stack([x, 0 * x, z]), section, (0, -1, 0))


def bowl(rng: np.random.Generator) -> Mesh:
    """A bowl of 11 to 22 cm across, flat to deep, on a foot."""
    radius = rng.uniform(0.055, 0.11)
    height = radius * rng.uniform(0.62, 1.0)
    foot, rise = radius * rng.uniform(0.4, 0.58), rng.uniform(0.003, 0.009)
    t = np.linspace(0, np.pi / 2, 14)[:, None]
    curve = np.hstack([np.sin(t) ** rng.uniform(0.75, 1.15), 1 - np.cos(t) ** rng.uniform(0.8, 1.3)])
    wall = rng.uniform(0.003, 0.005)
    outer = np.vstack([[(foot, 0.0), (foot, rise * 0.7)], (foot, rise) + curve * (radius - foot, height - rise)])
    base = glaze(rng)
    outside, inside = ceramic(rng, (80, 256), base), ceramic(rng, (80, 192), base if rng.random() < 0.6 else None)
    kind = rng.random()
    if kind < 0.12:
        outside = inside = texture("wood", rng, (96, 192))
    elif kind < 0.24:
        outside = inside = texture("metal", rng, (96, 192))
    pieces = _shell(outer, wall, rise + wall, outside, inside, texture("plain", rng, 16, outside[0].mean(0)))
    return assemble(pieces, gloss=rng.uniform(0.3, 0.6))


def plate(rng: np.random.Generator) -> Mesh:
    """A plate of 17 to 29 cm across, with a rim or shaped like a dish."""
    radius, height = rng.uniform(0.085, 0.145), rng.uniform(0.015, 0.032)
    base = rng.uniform(0.55, 0.72)
    if rng.random() < 0.6:  # well and rim
        well = rng.uniform(base + 0.04, 0.8)
        knots = [(base, 0.0), (well, 0.42), (well + 0.06, 0.62), (1.0, 1.0)]
    else:
        knots = [(base, 0.0), (base + 0.15, 0.12), (0.93, 0.55), (1.0, 1.0)]
    outer = smooth(np.array(knots) * (radius, height), 12)
    colours = glaze(rng)
    top = ceramic(rng, (128, 256), colours)
    under = texture("plain", rng, 48, colours)
    pieces = _shell(
        outer, rng.uniform(0.003, 0.0045), 0.0035, under, top, texture("plain", rng, 16, top[0].mean(0)), 40
    )
    return assemble(pieces, gloss=rng.uniform(0.3, 0.6))


def tumbler(rng: np.random.Generator) -> Mesh:
    """A cup without a handle, 10 to 16.5 cm: paper or plastic, printed or plain, a steel cup, or a faceted glass."""
    height = rng.uniform(0.1, 0.165)
    radius = height * rng.uniform(0.26, 0.36)
    taper, bulge = rng.uniform(0.64, 0.9), rng.normal(0, 0.025)
    z = np.linspace(0, 1, 9)
    outer = np.column_stack([radius * (taper + (1 - taper) * z + bulge * np.sin(np.pi * z)), height * z])
    kind = rng.choice(["paper", "plastic", "steel", "glass"], p=[0.35, 0.3, 0.15, 0.2])
    if kind == "paper":
        ground = tint(rng, white=3, sand=2, brown=1, red=1, green=1)
        outside, inside = label(rng, (128, 256), palette(rng, 4, ground)), texture("paper", rng, 48)
    elif kind == "plastic":
        main = tint(rng, red=3, blue=3, green=1, yellow=1, pink=1, white=2, orange=1)
        outside = texture(str(rng.choice(["plain", "stripes", "plain"])), rng, (96, 192), main)
        inside = texture("plain", rng, 48, main * 0.9)
    elif kind == "steel":
        outside, inside = texture("metal", rng, (96, 96)), texture("metal", rng, 48)
    else:
        main = colour(rng, (0.05, 0.3), (0.6, 0.85), (0.3, 0.65))
        outside, inside = texture("gradient", rng, (64, 64), main), texture("plain", rng, 32, main * 0.85)
        outside = finish(0.35 * outside + 0.65 * main)
    segments = int(rng.integers(7, 13)) if kind == "glass" and rng.random() < 0.5 else 32
    trim = texture("plain", rng, 16, inside.mean((0, 1)))
    pieces = _shell(outer, rng.uniform(0.0015, 0.003), rng.uniform(0.004, 0.01), outside, inside, trim, segments)
    return assemble(pieces, gloss=0.3 if kind == "paper" else 0.6)


def pan(rng: np.random.Generator) -> Mesh:
    """A frying pan or a saucepan, 15 to 30 cm across, with a long handle."""
    sauce = rng.random() < 0.3
    radius = rng.uniform(0.075, 0.1) if sauce else rng.uniform(0.095, 0.15)
    height = rng.uniform(0.07, 0.1) if sauce else rng.uniform(0.036, 0.06)
    flare = 1.0 if sauce else rng.uniform(0.74, 0.86)
    wall = rng.uniform(0.002, 0.0035)
    outer = smooth([(radius * flare, 0), (radius * (flare + 0.06 * (1 - sauce)), height * 0.25), (radius, height)], 10)
    shade = texture("plain", rng, 32, colour(rng, (0, 0.15), (0.06, 0.25)))
    steel = texture("metal", rng, (64, 128))
    enamel = texture("plain", rng, 32, tint(rng, red=3, blue=1, green=1, cream=1, grey=1))
    outside = (steel, shade, enamel)[int(rng.choice(3, p=[0.4, 0.4, 0.2]))]
    inside = steel if rng.random() < (0.7 if sauce else 0.25) else shade
    pieces = _shell(outer, wall, 0.004, outside, inside, outside, 40)
    length, rise = rng.uniform(0.13, 0.2), rng.uniform(0.0, 0.045)
    z = height * rng.uniform(0.65, 0.85)
    x = np.interp(z, outer[:, 1], outer[:, 0]) - 0.5 * wall
    t = np.linspace(0, 1, 12)
    path = np.column_stack([x + length * t, 0 * t, z + rise * np.sin(t * rng.uniform(1.2, 2.2))])
    section = ellipse(12, rng.uniform(0.0045, 0.008), rng.uniform(0.008, 0.013), rng.uniform(2, 3))
    scale = np.interp(t, (0, 0.2, 0.35, 0.9, 1), (0.85, 0.65, 1, rng.uniform(0.9, 1.3), 0.9))
    grip = (shade, steel, texture("wood", rng, (64, 32)))[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    return assemble([*pieces, (sweep(path, section, (0, -1, 0), scale), grip)], gloss=rng.uniform(0.3, 0.7))


def bottle(rng: np.random.Generator) -> Mesh:
    """A closed bottle of 17 to 32 cm: wine, water, beer, sauce or detergent, with label and cap."""
    styles = {  # height, radius / height, shoulder, neck (both of the height), neck radius / radius, depth
        "wine": ((0.27, 0.32), (0.115, 0.135), 0.6, 0.76, 0.37, 1.0),
        "water": ((0.19, 0.29), (0.13, 0.17), 0.68, 0.9, 0.4, 1.0),
        "beer": ((0.19, 0.25), (0.125, 0.145), 0.58, 0.82, 0.42, 1.0),
        "sauce": ((0.17, 0.23), (0.14, 0.18), 0.76, 0.88, 0.5, rng.uniform(0.7, 1.0)),
        "detergent": ((0.2, 0.28), (0.17, 0.21), 0.72, 0.86, 0.34, rng.uniform(0.5, 0.7)),
    }
    style = str(rng.choice(list(styles)))
    tall, slim, shoulder, neck, throat, depth = styles[style]
    height = rng.uniform(*tall)
    radius, cap = height * rng.uniform(*slim), rng.uniform(0.06, 0.13)
    shoulder, throat = shoulder + rng.normal(0, 0.025), throat * rng.uniform(0.9, 1.1)
    foot = 0.92 if style != "sauce" else rng.uniform(0.85, 1.0)
    waist = rng.uniform(0.88, 1.0) if style in ("water", "sauce", "detergent") else 1.0
    label_low, label_high = 0.1 + rng.uniform(0, 0.12), shoulder - rng.uniform(0.02, 0.12)
    body = smooth([(foot, 0.0), (1, 0.03), (1, 0.06), (1, label_low)], 8) * (radius, height)
    bend = smooth([(1, label_low), (waist, (label_low + label_high) / 2), (1, label_high)], 9) * (radius, height)
    top = [(1, label_high), (1, shoulder), (0.5 + 0.5 * throat, shoulder + 0.55 * (neck - shoulder))]
    upper = smooth([*top, (throat, neck), (throat, 1 - cap)], 18) * (radius, height)
    hues: dict[str, dict[str, float]] = {
        "wine": {"black": 1, "green": 1},
        "water": {"blue": 2, "teal": 1, "white": 1, "grey": 1},
        "beer": {"brown": 3, "green": 2},
        "sauce": {"red": 3, "yellow": 2, "brown": 2, "white": 1},
        "detergent": {"white": 3, "blue": 2, "green": 2, "pink": 1, "orange": 1},
    }
    glass = tint(rng, **hues[style]) * (0.4 if style == "wine" else 1.0)
    surface = texture("plain", rng, 32, glass)
    wrap = label(rng, (112, 224))
    if rng.random() < 0.45:  # the label goes round only part of the body
        left = int(rng.integers(30, 80))
        wrap[:, :left] = wrap[:, 224 - left :] = np.rint(glass)
    lid = texture("plain", rng, 16, tint(rng, red=2, white=2, blue=2, black=2, green=1, yellow=1))
    wide = throat * radius * rng.uniform(1.06, 1.3)
    stopper = rounded(wide, height * (1 - cap), height, 0.0015)
    if style in ("sauce", "detergent") and rng.random() < 0.5:  # a nozzle
        stopper = np.array(
            [(0, 1 - cap), (wide / height, 1 - cap), (wide / height, 1 - 0.7 * cap), (0.3 * wide / height, 1), (0, 1)]
        )
        stopper = stopper * height
    parts: list[tuple[Part, np.ndarray]] = [
        (revolve([(0, 0.004), (0.6 * foot * radius, 0.003), (foot * radius, 0)], 32, depth), surface),
        (revolve(body, 32, depth), surface),
        (revolve(bend, 32, depth), wrap),
        (revolve(_round_off(upper), 32, depth), surface),
        (revolve(stopper, 24, 1.0 if depth > 0.8 else max(depth, 0.75)), lid),
    ]
    return assemble(parts, gloss=rng.uniform(0.4, 0.8))


def _round_off(profile: np.ndarray) -> np.ndarray:
    """Close a profile at its upper end."""
    return np.vstack([profile, (0.0, profile[-1, 1])])


def can(rng: np.random.Generator) -> Mesh:
    """A closed can with a recessed lid: a drink, a tall or a flat food can; printed all round."""
    kind = rng.choice(["drink", "food", "flat"], p=[0.45, 0.4, 0.15])
    if kind == "drink":
        radius, height = rng.uniform(0.026, 0.033), rng.uniform(0.105, 0.17)
    else:
        radius = rng.uniform(0.032, 0.05)
        height = radius * rng.uniform(1.0, 1.4) if kind == "flat" else radius * rng.uniform(2.0, 2.9)
    neck = rng.uniform(0.8, 0.88) if kind == "drink" else 0.985
    slope = 0.011 if kind == "drink" else 0.002
    z = np.linspace(slope, height - slope, 40 if kind != "drink" else 6)
    ribs = rng.uniform(0, 0.0007) * np.sin(z / height * 2 * np.pi * rng.integers(8, 14)) if kind != "drink" else 0 * z
    wall = np.column_stack([radius + ribs * (np.abs(z / height - 0.5) < 0.3), z])
    rim, lip = neck * radius, 0.0015
    bottom = [(0, 0.006), (rim * 0.6, 0.005), (rim - 2 * lip, 0.002), (rim - lip, 0), (rim, lip), (radius, slope)]
    sunk = height - rng.uniform(0.003, 0.005)
    upper = [
        (radius, height - slope),
        (rim, height - 2 * lip),
        (rim + 0.4 * lip, height - 0.5 * lip),
        (rim - 0.3 * lip, height),
    ]
    upper += [(rim - 1.5 * lip, height), (rim - 2 * lip, sunk)]
    metal = texture("metal", rng, 48, colour(rng, (0, 0.06), (0.6, 0.85)))
    colours = palette(rng, 4)
    wrap = label(rng, (128, 256), colours)
    if rng.random() < 0.5:  # the same front twice, as on most cans
        wrap = np.hstack([cv2.resize(wrap, (128, 128), interpolation=cv2.INTER_AREA)] * 2)
    ends = finish(np.full((8, 8, 3), colours[0])) if kind == "drink" and rng.random() < 0.3 else metal
    lid = revolve([(rim - 2 * lip, sunk), (0, sunk)]).projected()
    parts = [(revolve(bottom), metal), (revolve(wall), wrap), (revolve(upper), ends), (lid, _lid(rng, kind == "drink"))]
    return assemble(parts, gloss=rng.uniform(0.4, 0.8))


def _lid(rng: np.random.Generator, drink: bool) -> np.ndarray:
    """The lid of a can seen from above: rings, a pull tab, and an opening on drinks; uint8 [64, 64, 3]."""
    picture = texture("metal", rng, 64).astype(np.float32)
    y, x = (np.mgrid[0:64, 0:64] - 31.5) / 32
    far = np.hypot(x, y)
    picture = mix(picture, picture * 0.7, 0.5 * (np.sin(far * (20 if drink else 45)) > 0.6) * (far > 0.3))
    if drink or rng.random() < 0.5:
        picture = mix(picture, picture * 0.35, np.hypot(x / 0.5, (y - 0.5) / 0.35) < 1 if drink else far < 0)
        tab = np.hypot(x / 0.22, (y + 0.15) / 0.42) < 1
        picture = mix(picture, np.float32(0.6 * picture + 90), tab & ~(np.hypot(x / 0.1, (y + 0.3) / 0.13) < 1))
    return finish(picture)


def _shell(
    outer: np.ndarray,
    wall: float,
    floor: float,
    outside: np.ndarray,
    inside: np.ndarray,
    trim: np.ndarray,
    segments: int = 32,
) -> list[tuple[Part, np.ndarray]]:
    """An open vessel of even thickness.

    Args:
        outer: profile [P, 2] of the outer wall, from the foot at height 0 to the rim.
        wall: thickness of the wall.
        floor: height of the inner floor.
        outside: picture of the outer wall.
        inside: picture of the inside, its first row at the rim.
        trim: picture of the rim and the base.
        segments: corners around.
    """
    tangent = np.gradient(outer, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    inner = outer + wall * np.column_stack([-tangent[:, 1], tangent[:, 0]])
    inner = inner[(inner[:, 1] > floor) & (inner[:, 0] > wall)]
    turn = np.linspace(0, np.pi, 5)[:, None]
    middle, reach = (outer[-1] + inner[-1]) / 2, (outer[-1] - inner[-1]) / 2
    rim = middle + reach * np.cos(turn) + tangent[-1] * np.linalg.norm(reach) * np.sin(turn)
    bottom = [(0.97 * inner[0, 0], floor), (0.0, floor)]
    return [
        (revolve([(0.0, 0.0), outer[0]], segments), trim),
        (revolve(outer, segments), outside),
        (revolve(rim, segments), trim),
        (revolve(np.vstack([inner[::-1], bottom]), segments).upended(), inside),
    ]
