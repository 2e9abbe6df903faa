"""Household objects that are swept, forged or grown: scissors, pens, spoons, hammers, bananas, balls.

Each function builds one instance from a generator: (generator) -> :class:`~mmcl_core.synth.mesh.Mesh`.
Long things lie along x, as they would on a table.
"""

from __future__ import annotations

import numpy as np

from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.paint import colour, finish, mix, noise, tint
from mmcl_core.synth.shapes import Part, assemble, box, ellipse, loft, prism, revolve, rotation, rounded, smooth, sweep
from mmcl_core.synth.textures import texture

__all__ = ["ball", "banana", "hammer", "pen", "scissors", "spoon"]


def scissors(rng: np.random.Generator) -> Mesh:
    """A pair of scissors of 13 to 22 cm, closed or open up to 40 degrees, with two rings to hold."""
    blade, wide = rng.uniform(0.07, 0.115), rng.uniform(0.013, 0.02)
    thick, back = rng.uniform(0.0018, 0.0028), rng.uniform(0.05, 0.075)
    steel = texture("metal", rng, (32, 96))
    grip = texture("plain", rng, 16, tint(rng, black=4, red=2, orange=2, blue=2, green=1, grey=1, yellow=1))
    opening = rng.uniform(0, 40) if rng.random() < 0.7 else 0.0
    point = rng.uniform(-0.45, 0.1)
    outline = [(-0.014, -0.4), (0, -0.5), (0.55 * blade, -0.45), (blade, point), (blade, point + 0.12)]
    outline += [(0.5 * blade, 0.5), (0, 0.5), (-0.014, 0.45)]
    plate = prism(np.array(outline) * (1, wide), 0, thick, 0.0004)
    ring_a, ring_b, rod = rng.uniform(0.019, 0.028), rng.uniform(0.014, 0.02), rng.uniform(0.0035, 0.0055)
    parts: list[tuple[Part, np.ndarray]] = []
    for side in (1, -1):
        apart = ring_b + rod + 0.0005 * (opening > 0)
        scale = rng.uniform(1.0, 1.3) if side > 0 else 1.0
        centre = np.array([-back, -apart * scale])
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        ring = np.column_stack(
            [centre + scale * np.column_stack([ring_a * np.cos(angle), ring_b * np.sin(angle)]), 0 * angle]
        )
        knots = np.array([(0.004, 0), (-0.012, -0.001), (-0.6 * (back - ring_a), -0.35 * apart), (0, 0)])
        knots[-1] = centre + np.array((0.96 * ring_a * scale, 0.3 * ring_b))
        shank = np.column_stack([smooth(knots, 9), np.zeros(9)])
        section = ellipse(10, rod, rod, 2.5)
        swell = np.column_stack([np.linspace(1.3, 1.0, 9), np.linspace(0.6 * thick / rod, 1.0, 9)])
        turn = rotation(2, side * opening / 2) @ np.diag([1.0, side, 1.0])
        middle = side * thick / 2
        parts += [
            (plate.moved(z=-thick / 2).turned(turn).moved(z=middle), steel),
            (sweep(ring, section, (0, 0, 1), closed=True).turned(turn).moved(z=0.3 * middle), grip),
            (sweep(shank, section, (0, 0, 1), swell).turned(turn).moved(z=0.6 * middle), grip),
        ]
    screw = revolve(rounded(rng.uniform(0.003, 0.0045), -1.4 * thick, 1.4 * thick, 0.0006, 2), 14)
    return assemble([*parts, (screw, steel)], gloss=rng.uniform(0.4, 0.8))


def pen(rng: np.random.Generator) -> Mesh:
    """A ballpoint pen, a capped pen, or a marker, 12 to 16 cm, with a clip."""
    kind = rng.choice(["click", "capped", "marker"], p=[0.45, 0.35, 0.2])
    length = rng.uniform(0.125, 0.155)
    radius = rng.uniform(0.007, 0.0105) if kind == "marker" else rng.uniform(0.0042, 0.0062)
    colours = [tint(rng, blue=3, black=3, white=2, red=2, navy=1, grey=1, green=1) for _ in range(2)]
    barrel = texture(str(rng.choice(["plain", "plain", "metal"])), rng, (64, 16), colours[0])
    second = texture("plain", rng, 16, colours[1])
    steel = texture("metal", rng, 16)
    tip, grip = 0.1 * length, rng.uniform(0.25, 0.4) * length
    waist = rng.uniform(0.85, 1.1)
    cone = [(0.0, 0.0), (0.0009, 0.0003), (0.0012, 0.2 * tip), (0.55 * radius, 0.5 * tip), (0.8 * radius, tip)]
    grip_line = smooth([(0.8 * radius, tip), (waist * 0.95 * radius, 0.6 * tip + 0.4 * grip), (radius, grip)], 6)
    end = 0.94 * length
    parts: list[tuple[Part, np.ndarray]]
    if kind == "click":
        parts = [(revolve(cone, 16), steel), (revolve(grip_line, 16), second)]
        parts.append(
            (revolve(smooth([(radius, grip), (1.06 * radius, 0.6 * length), (0.95 * radius, end)], 6), 16), barrel)
        )
        parts.append(
            (
                revolve([(0.95 * radius, end), (0.5 * radius, end), (0.5 * radius, length - 0.001), (0, length)], 16),
                second,
            )
        )
    else:  # a cap over the tip
        parts = [(revolve(rounded(1.18 * radius, 0, grip, 0.15 * radius), 16), second)]
        parts.append((revolve(rounded(radius, grip - 0.002, length, 0.2 * radius), 16), barrel))
    reach = rng.uniform(0.24, 0.34) * length
    clip = box((0.0022, 0.55 * radius, reach), 0.0004)
    place = end - reach / 2 if kind == "click" else reach / 2 + 0.003
    holder = steel if rng.random() < 0.5 else second
    parts += [(side.moved(x=1.42 * radius, z=place), holder) for side in clip.values()]
    root = box((0.6 * radius, 0.5 * radius, 0.004), 0.0004)
    foot = place + (reach / 2 - 0.002) * (1 if kind == "click" else -1)
    parts += [(side.moved(x=1.15 * radius, z=foot), holder) for side in root.values()]
    lay = rotation(1, 90) @ rotation(2, rng.uniform(60, 300))
    return assemble([(part.turned(lay), picture) for part, picture in parts], gloss=rng.uniform(0.3, 0.7))


def spoon(rng: np.random.Generator) -> Mesh:
    """A spoon of 13 to 30 cm: steel cutlery, plastic, or a wooden spoon for cooking."""
    wooden = rng.random() < 0.3
    length = rng.uniform(0.2, 0.3) if wooden else rng.uniform(0.13, 0.21)
    bowl = length * (rng.uniform(0.22, 0.27) if wooden else rng.uniform(0.28, 0.34))
    wide = bowl * rng.uniform(0.33, 0.4)
    deep = wide * rng.uniform(0.35, 0.6)
    thick = rng.uniform(0.004, 0.006) if wooden else rng.uniform(0.0012, 0.002)
    stem = rng.uniform(0.0045, 0.0065) if wooden else rng.uniform(0.003, 0.0045)
    flare = 1.0 if wooden else rng.uniform(1.4, 2.6)
    bend = np.linspace(0, np.pi, 19)
    along = np.concatenate([np.linspace(0, length - bowl, 14)[:-1], length - bowl / 2 - bowl / 2 * np.cos(bend)])
    handle = stem * np.interp(
        along / (length - bowl),
        (0, 0.04, 0.12, 0.6, 1),
        (0.5, 0.9, 1, 0.7, 0.6) * np.array([flare, flare, flare, 1, 1]),
    )
    t = np.clip((along - (length - bowl)) / bowl, 0, 1)
    oval = wide * np.sqrt(np.clip(1 - (2 * t - 1) ** 2, 0, 1)) * (1.12 - 0.24 * t)
    half = np.where(t > 0, np.maximum(oval, np.where(t < 0.3, handle, 0.0004)), handle)
    hollow = deep * np.clip(1 - (2 * t - 1) ** 2, 0, 1) * (t > 0)
    arch = rng.uniform(0.004, 0.018) * np.sin(np.pi * np.clip(along / (length - bowl), 0, 1)) ** 1.5
    across = np.linspace(-1, 1, 11)
    upper = arch[:, None] - hollow[:, None] * (1 - across**2)
    body = thick * np.where(t > 0, 1.0, rng.uniform(1.0, 1.6)) if not wooden else np.where(t > 0, thick, 1.6 * stem)
    crown = np.sqrt(np.clip(1.02 - across**2, 0, 1))
    lower = upper - body[:, None] * np.clip(crown, 0.15, 1)
    y = half[:, None] * across
    x = np.repeat(along[:, None], 11, 1)
    rings = np.concatenate([np.stack([x, y, lower], -1), np.stack([x, y, upper], -1)[:, ::-1]], axis=1)
    ends = [np.broadcast_to(rings[k].mean(0), rings[k].shape)[None] for k in (0, -1)]
    surface = texture("wood", rng, (32, 128)) if wooden else texture("metal", rng, (32, 64))
    if not wooden and rng.random() < 0.25:
        surface = texture("plain", rng, 16, tint(rng, white=2, black=2, red=1, blue=1))
    shape = loft(np.concatenate([ends[0], rings, ends[1]])).projected()
    return assemble([(shape, surface)], gloss=0.1 if wooden else rng.uniform(0.5, 1.0))


def hammer(rng: np.random.Generator) -> Mesh:
    """A claw hammer, a ball-peen hammer, or a mallet, 22 to 34 cm, lying on its side."""
    kind = rng.choice(["claw", "ball", "mallet"], p=[0.45, 0.25, 0.3])
    length = rng.uniform(0.22, 0.34)
    stout = rng.uniform(0.011, 0.015)
    t = np.linspace(0, 1, 14)
    path = np.column_stack([length * t, 0 * t, 0 * t])
    swell = np.interp(t, (0, 0.05, 0.25, 0.5, 1), (1.0, 1.15, rng.uniform(0.9, 1.15), 0.8, 0.8))
    section = ellipse(14, 0.8 * stout, stout, 2.4) if rng.random() < 0.5 else ellipse(14, stout, 0.8 * stout)
    wood = texture("wood", rng, (64, 128)).transpose(1, 0, 2).copy()
    rubber = texture("plain", rng, (64, 16), tint(rng, black=4, red=2, blue=1, yellow=2, orange=1, grey=1))
    parts = [(sweep(path, section, (0, 0, 1), swell), wood if rng.random() < 0.55 else rubber)]
    upright = rotation(0, -90)  # from z to y
    if kind == "mallet":
        radius, reach = rng.uniform(0.024, 0.038), rng.uniform(0.085, 0.125)
        picture = (
            texture("plain", rng, 32, tint(rng, black=5, white=1, red=1, orange=1)) if rng.random() < 0.75 else wood
        )
        head = revolve(rounded(radius, -reach / 2, reach / 2, 0.004), 28).turned(upright)
        parts.append((head.moved(x=length - 0.6 * radius), picture))
        return assemble(parts, gloss=rng.uniform(0.1, 0.4))
    steel = texture("metal", rng, 48, colour(rng, (0, 0.1), (0.25, 0.75)))
    radius, reach = rng.uniform(0.012, 0.016), rng.uniform(0.04, 0.055)
    face = [
        (0, reach),
        (0.9 * radius, reach),
        (radius, reach - 0.002),
        (radius, 0.75 * reach),
        (0.7 * radius, 0.6 * reach),
    ]
    parts.append((revolve([*face, (0.7 * radius, 0.2 * reach)][::-1], 20).turned(upright), steel))
    eye = box((2.1 * radius, 0.032, 2.0 * radius), 0.003)
    parts += [(side, steel) for side in eye.values()]
    if kind == "ball":
        bend = np.linspace(0, np.pi, 12)
        knob = np.column_stack([radius * np.sin(bend), -0.8 * reach - radius * np.cos(bend)])[:-2]
        neck = [(0.7 * radius, -0.5 * reach), (0.65 * radius, -0.2 * reach)]
        parts.append((revolve([*knob, *neck], 20).turned(upright), steel))
    else:
        for side in (1, -1):
            s = np.linspace(0, 1, 10)
            prong = np.column_stack([-0.024 * s**2, -0.012 - 1.35 * reach * s, side * (0.0055 + 0.004 * s)])
            size = np.column_stack([np.linspace(1, 0.3, 10), np.linspace(1, 0.75, 10)])
            parts.append((sweep(prong, ellipse(8, 0.9 * radius, 0.0062, 4), (0, 0, 1), size), steel))
    hung = [(part.moved(x=length - 0.9 * radius), picture) for part, picture in parts[1:]]
    return assemble([parts[0], *hung], gloss=rng.uniform(0.3, 0.8))


def banana(rng: np.random.Generator) -> Mesh:
    """A banana of 15 to 22 cm lying on its side: bent, with five ridges, from green to freckled."""
    length, radius = rng.uniform(0.15, 0.215), rng.uniform(0.0155, 0.0205)
    total = np.deg2rad(rng.uniform(45, 105))
    s = np.linspace(0, 1, 30)
    heading = total * (s - 0.5) + 0.25 * rng.normal() * (s - 0.5) ** 2
    path = np.cumsum(np.column_stack([np.cos(heading), np.sin(heading), 0 * s]), axis=0) * length / 30
    stem = rng.uniform(0.14, 0.2)
    thick = np.interp(
        s,
        (0, 0.03, stem * 0.6, stem + 0.09, 0.35, 0.6, 0.85, 0.95, 0.985, 1),
        (0.32, 0.27, 0.28, 0.68, 0.95, 1, 0.82, 0.5, 0.25, 0.2),
    )
    angle = 2 * np.pi * np.arange(30) / 30
    ridge = 1 + rng.uniform(0.02, 0.06) * np.cos(5 * (angle + rng.uniform(0, 1)))
    section = radius * ridge[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    ripe = rng.uniform(0, 1)
    hue = 0.145 + 0.06 * np.clip(0.35 - ripe, 0, 1)
    skin = colour(rng, (0.65, 0.9), (0.75, 0.97), (hue - 0.01, hue + 0.01))
    tall, wide = 192, 96
    along = np.linspace(1, 0, tall)[:, None] * np.ones(wide)  # 0 at the stem, as the sweep runs
    picture = mix(skin, np.float32(skin * (0.85, 0.95, 0.8)), noise(rng, (tall, wide), (3, 5), 3))
    green = colour(rng, (0.5, 0.7), (0.5, 0.75), (0.2, 0.25))
    picture = mix(picture, green, np.clip(1.2 - along / (stem + 0.1), 0, 1) * (1 - 0.6 * ripe))
    brown = colour(rng, (0.5, 0.7), (0.15, 0.35), (0.06, 0.1))
    spots = np.clip((noise(rng, (tall, wide), (24, 12), 2) - (1.0 - 0.35 * max(ripe - 0.3, 0))) * 12, 0, 1)
    picture = mix(
        picture, brown, np.maximum(spots, np.clip((along - 0.955) * 60, 0, 1) + np.clip((0.02 - along) * 90, 0, 1))
    )
    return assemble([(sweep(path, section, (0, 0, 1), thick), finish(picture))], gloss=rng.uniform(0.1, 0.3))


def ball(rng: np.random.Generator) -> Mesh:
    """A ball of 4 to 24 cm across: for football, basketball, tennis, baseball, the beach, or of rubber."""
    sizes = {"football": (0.07, 0.11), "basketball": (0.08, 0.12), "tennis": (0.031, 0.034), "baseball": (0.035, 0.038)}
    sizes |= {"beach": (0.07, 0.12), "rubber": (0.02, 0.09), "marbled": (0.025, 0.1)}
    kind = str(rng.choice(list(sizes)))
    bend = np.linspace(0, np.pi, 25)
    radius = rng.uniform(*sizes[kind])
    surface = revolve(np.column_stack([np.sin(bend), -np.cos(bend)]) * radius, 40)
    turn = rotation(0, rng.uniform(0, 180)) @ rotation(2, rng.uniform(0, 360))
    return assemble(
        [(surface.turned(turn), _ball_print(rng, kind))], gloss=0.05 if kind == "tennis" else rng.uniform(0.2, 0.6)
    )


def _ball_print(rng: np.random.Generator, kind: str) -> np.ndarray:
    """The picture of a ball over longitude and latitude, uint8 [96, 192, 3]."""
    size = (96, 192)
    theta, phi = ((np.indices(size)[k] + 0.5) / size[k] * np.pi * (k + 1) for k in range(2))
    x, y, z = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
    seam = np.abs(x**2 - y**2 - 0.72 * z * (1.35 - np.abs(z)))  # one closed wave round the ball
    white = colour(rng, (0.0, 0.08), (0.88, 0.98))
    if kind == "football":
        golden = (1 + 5**0.5) / 2
        tips = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
        tips = np.vstack([np.roll(tips, k, 1) for k in range(3)]) / np.hypot(1, golden)
        near = np.sort(np.stack([x, y, z], -1) @ tips.T, -1)
        seams = np.abs(near[..., -1] - near[..., -2]) < 0.02
        picture = mix(
            mix(white, white * 0.6, seams * (near[..., -1] < 0.93)),
            colour(rng, (0, 0.9), (0.05, 0.4)),
            near[..., -1] > 0.93,
        )
    elif kind == "basketball":
        lines = (np.abs(x) < 0.025) | (np.abs(y) < 0.025) | (np.abs(np.abs(z) - 0.35 - 0.5 * x**2) < 0.025)
        picture = mix(colour(rng, (0.65, 0.85), (0.55, 0.85), (0.04, 0.08)), np.full(3, 25, np.float32), lines)
    elif kind == "tennis":
        picture = mix(colour(rng, (0.5, 0.75), (0.75, 0.92), (0.17, 0.22)), white, seam < 0.07)
        picture *= (0.8 + 0.4 * noise(rng, size, (40, 80), 2))[..., None]
    elif kind == "baseball":
        red = colour(rng, (0.75, 0.9), (0.5, 0.8), (0.98, 1.01))
        picture = mix(white, red, (np.abs(seam - 0.1) < 0.045) & (np.sin(phi * 40 + theta * 30) > -0.2))
    elif kind == "beach":
        colours = [white, *(tint(rng, red=1, yellow=1, blue=1, green=1, orange=1) for _ in range(5))]
        sector = (phi / (2 * np.pi) * 6).astype(int) % 6
        order = np.array(colours, np.float32)[sector]
        picture = mix(order, white, np.abs(z) > 0.95)
    elif kind == "rubber":
        picture = mix(colour(rng), colour(rng), (np.abs(z) < rng.uniform(0.05, 0.4)) & bool(rng.random() < 0.5))
    else:
        swirl = noise(rng, size, (3, 6), 4)
        picture = mix(colour(rng), colour(rng), np.clip((swirl - 0.5) * rng.uniform(3, 12) + 0.5, 0, 1))
    return finish(picture * (0.94 + 0.1 * noise(rng, size, (4, 8), 3))[..., None])
