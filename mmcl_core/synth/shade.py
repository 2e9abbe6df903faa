"""From hits to light: textures, lamps with shadows, ambient light with occlusion.

Colours are linear light in float32 unless they are called 8-bit (sRGB). The model is Lambert plus a
Blinn-Phong highlight plus hemispherical ambient light; enough for a recogniser, and cheap. Vectors of many pixels are
[3, N], as in :mod:`mmcl_core.synth.raycast`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.raycast import Camera, Hits, Panel, Placed, blocked, dot

__all__ = ["SRGB_TO_LINEAR", "Lamp", "Lighting", "MeshSkin", "Pyramid", "Surface", "lit", "painted", "srgb", "surface"]

_x = np.arange(256) / 255.0
SRGB_TO_LINEAR = np.where(_x <= 0.04045, _x / 12.92, ((_x + 0.055) / 1.055) ** 2.4).astype(np.float32)
_ROW = 32000  # most columns of a picture that OpenCV's remap takes
_AO_REACH = 0.12  # metres within which something takes ambient light away


class Pyramid:
    """A texture and its halvings, looked up bilinearly in the level that fits the pixel."""

    def __init__(self, texture: np.ndarray) -> None:
        self.levels = [np.ascontiguousarray(texture)]
        while min(self.levels[-1].shape[:2]) >= 8:
            last = self.levels[-1]
            half = (max(last.shape[1] // 2, 1), max(last.shape[0] // 2, 1))
            self.levels.append(cv2.resize(last, half, interpolation=cv2.INTER_AREA))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the texture in pixels."""
        return self.levels[0].shape[1], self.levels[0].shape[0]

    def mean(self) -> np.ndarray:
        """Mean colour, linear light, float32 [3]."""
        colours: np.ndarray = SRGB_TO_LINEAR[self.levels[-1].reshape(-1, 3)].mean(0)
        return colours

    def sample(self, u: np.ndarray, v: np.ndarray, texels: np.ndarray) -> np.ndarray:
        """8-bit colours [N, 3] at (u, v) [N] in repeats of the texture.

        Args:
            u, v: float32 [N]; 1 is one repeat, (0, 0) the top left corner.
            texels: float32 [N], pixels of the texture that one pixel of the picture spans.
        """
        level = np.log2(np.maximum(texels, 1.0)).astype(np.int32)
        np.minimum(level, len(self.levels) - 1, out=level)
        u, v = u - np.floor(u), v - np.floor(v)
        result = np.empty((len(u), 3), np.uint8)
        for k in np.flatnonzero(np.bincount(level)).tolist():
            picture = self.levels[k]
            for at in _runs(np.flatnonzero(level == k)):
                x = u.take(at) * picture.shape[1] - np.float32(0.5)
                y = v.take(at) * picture.shape[0] - np.float32(0.5)
                found = cv2.remap(picture, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
                _set_rows(result, at, found.reshape(-1, 3))
        return result


def _runs(index: np.ndarray) -> list[np.ndarray]:
    """An index in runs of a length that OpenCV takes as one row."""
    return [index[k : k + _ROW] for k in range(0, len(index), _ROW)]


def _set_rows(pictures: np.ndarray, at: np.ndarray, values: np.ndarray) -> None:
    """``pictures[at] = values`` of uint8 [N, 3] and [n, 3], a pixel at a time, not a byte."""
    pictures.reshape(-1).view("V3")[at] = np.ascontiguousarray(values).reshape(-1).view("V3")


class MeshSkin:
    """What shading needs of a mesh: pyramids of its textures and how dense the texture lies on each triangle."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.pyramids = [Pyramid(texture) for texture in (mesh.texture, *mesh.others)]
        corners = mesh.vertices[mesh.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        a, b = mesh.uv[:, 1] - mesh.uv[:, 0], mesh.uv[:, 2] - mesh.uv[:, 0]
        width, height = np.array([pyramid.size for pyramid in self.pyramids])[mesh.shows].T.astype(np.float32)
        texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * width * height
        # [15, F], normal and uv of corner 0, 1 and 2: one gather fetches all
        self.corners = np.ascontiguousarray(np.concatenate([mesh.normals, mesh.uv], axis=2).reshape(-1, 15).T)
        self.density = np.sqrt(texels / np.maximum(area, 1e-12)).astype(np.float32)  # pixels of the texture per metre

    def sample(self, triangle: np.ndarray, u: np.ndarray, v: np.ndarray, texels: np.ndarray) -> np.ndarray:
        """8-bit colours [N, 3] of places on triangles.

        Args:
            triangle: int [N].
            u, v, texels: float32 [N], see :meth:`Pyramid.sample`; the texture is that of the triangle.
        """
        if len(self.pyramids) == 1:
            return self.pyramids[0].sample(u, v, texels)
        shows, result = self.mesh.shows[triangle], np.empty((len(triangle), 3), np.uint8)
        for k in np.unique(shows).tolist():
            at = np.flatnonzero(shows == k)
            _set_rows(result, at, self.pyramids[k].sample(u[at], v[at], texels[at]))
        return result

    def blended(self, triangle: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Normals, not of length one, and texture coordinates at places on triangles, float32 [5, N].

        Args:
            triangle: int [N].
            u, v: float32 [N], barycentric weights of corners 1 and 2.
        """
        first, second, third = self.corners.take(triangle, 1).reshape(3, 5, -1)
        blend: np.ndarray = first * (1 - u - v)
        blend += second * u
        blend += third * v
        return blend


@dataclass
class Lamp:
    """A round lamp. ``colour`` is the light it brings to a surface facing it at the target."""

    position: np.ndarray
    colour: np.ndarray
    radius: float
    shadows: bool


@dataclass
class Lighting:
    """All light of a scene: lamps, and ambient light from above and from below."""

    lamps: list[Lamp]
    above: np.ndarray
    below: np.ndarray


@dataclass
class Surface:
    """What is seen at each of N pixels.

    Attributes:
        points, normals: float32 [3, N], world; normals are unit vectors towards the camera's side.
        colour: uint8 [N, 3], sRGB, of the surface itself.
        gloss: float32 [N].
        facing: float32 [N], cosine between normal and the direction to the camera.
        view: float32 [3, N], unit vectors to the camera.
    """

    points: np.ndarray
    normals: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray
    facing: np.ndarray
    view: np.ndarray


def surface(
    camera: Camera,
    rays: np.ndarray,
    hits: Hits,
    placed: Sequence[Placed],
    skins: Sequence[MeshSkin],
    panels: Sequence[Panel],
    textures: Sequence[Pyramid],
) -> Surface:
    """Look up position, normal and colour of what the rays met.

    Args:
        camera: its focal length says how much a pixel covers.
        rays: float32 [3, N], as they were cast.
        hits: of the same rays; where nothing was met the surface is black and far away.
        placed, skins: the solids and their skins, in order.
        panels, textures: the panels, and the textures they name.
    """
    n = rays.shape[1]
    z = np.minimum(hits.z, np.float32(50.0))
    points = camera.position.astype(np.float32)[:, None] + z * rays
    view = rays * (-1 / np.sqrt(dot(rays, rays)))
    normals, colour = np.zeros((3, n), np.float32), np.zeros((n, 3), np.uint8)
    gloss, facing = np.zeros(n, np.float32), np.ones(n, np.float32)
    pixel = z / np.float32((camera.fx + camera.fy) / 2)  # metres that a pixel spans
    for k in np.flatnonzero(np.bincount(hits.owner + 1)[1:]).tolist():
        at = np.flatnonzero(hits.owner == k)
        u, v = hits.u.take(at), hits.v.take(at)
        if k < len(placed):
            skin, triangle = skins[k], hits.triangle.take(at)
            blend = skin.blended(triangle, u, v)
            normal = _unit(placed[k].rotation.astype(np.float32) @ blend[:3])
            u, v, density = blend[3], blend[4], skin.density.take(triangle)
            gloss[at] = min(skin.mesh.gloss * placed[k].shine, 1.0)
        else:
            panel = panels[k - len(placed)]
            pyramid, gloss[at] = textures[panel.texture], panel.gloss
            u, v = u / np.float32(panel.scale) + panel.offset[0], v / np.float32(panel.scale) + panel.offset[1]
            normal, density = panel.normal.astype(np.float32)[:, None], np.float32(pyramid.size[0] / panel.scale)
        cosine = dot(normal, view.take(at, 1))
        for row, values in zip(normals, normal * np.sign(cosine), strict=True):
            row[at] = values
        facing[at] = cosine = np.abs(cosine)
        texels = density * pixel.take(at) / np.sqrt(np.maximum(cosine, 0.15))
        u, v = u.astype(np.float32), v.astype(np.float32)
        if k < len(placed):
            found, paint = skin.sample(triangle, u, v, texels), placed[k].paint
            _set_rows(colour, at, found if paint is None else painted(found, paint))
        else:
            _set_rows(colour, at, pyramid.sample(u, v, texels))
    return Surface(points, normals, colour, gloss, facing, view)


def lit(
    seen: Surface,
    shape: tuple[int, int],
    lighting: Lighting,
    placed: Sequence[Placed],
    rng: np.random.Generator,
) -> np.ndarray:
    """Light that reaches the camera from each pixel, float32 [height, width, 3].

    Args:
        seen: the surface at N = height * width pixels.
        shape: (height, width) of the grid of pixels.
        lighting: the lamps and the ambient light.
        placed: the solids that throw shadows, on the plane z = 0, which takes ambient light away close to it.
        rng: jitter of soft shadows.
    """
    albedo = SRGB_TO_LINEAR.take(np.ascontiguousarray(seen.colour.T))
    above, below = lighting.above[:, None], lighting.below[:, None]
    diffuse = below + (0.5 + 0.5 * seen.normals[2]) * (above - below)
    diffuse *= _ambient_visibility(seen, shape, placed, rng)
    mirror = np.square(np.square(1 - seen.facing)) * np.float32(0.6) * seen.gloss
    highlight = mirror * above
    for lamp in lighting.lamps:
        to_lamp = lamp.position.astype(np.float32)[:, None] - seen.points
        distance2 = dot(to_lamp, to_lamp)
        inverse = 1 / np.sqrt(distance2)
        cosine = np.maximum(dot(seen.normals, to_lamp) * inverse, 0)
        strength = np.minimum(np.float32(lamp.position @ lamp.position) / distance2, 2.5)
        if lamp.shadows:
            strength *= _lamp_visibility(seen, shape, lamp, to_lamp, cosine, placed, rng)
        diffuse += (cosine * strength) * lamp.colour[:, None]
        # cosine between the normal and the half vector of light l and view v, from |l + v|^2 = 2 + 2 l.v
        between = dot(seen.view, to_lamp) * inverse
        half = np.minimum((cosine + seen.facing) / np.sqrt(np.maximum(2 + 2 * between, 1e-4)), 1)
        sharp = np.exp2(np.log2(np.maximum(half, 1e-3)) * (8 + 60 * seen.gloss))
        highlight += (sharp * seen.gloss * strength * (cosine > 0)) * lamp.colour[:, None]
    light = albedo * diffuse + highlight
    result: np.ndarray = cv2.merge([channel.reshape(shape) for channel in light])
    return result


def srgb(light: np.ndarray) -> np.ndarray:
    """sRGB values of linear light >= 0, of its shape; 1 is 1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def painted(colour: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """Colours as a texture of another exposure and white balance has them.

    Args:
        colour: uint8 [N, 3], sRGB.
        paint: [3], factors on linear light.

    Returns:
        uint8 [N, 3], sRGB.
    """
    tables = (srgb(np.minimum(SRGB_TO_LINEAR[:, None] * paint, 1.0)) * 255 + 0.5).astype(np.uint8)
    result: np.ndarray = cv2.LUT(colour[None], tables[None])[0]
    return result


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [3, N] at length 1."""
    scaled: np.ndarray = vectors * (1 / np.maximum(np.sqrt(dot(vectors, vectors)), 1e-6))
    return scaled


def _drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors [3, count] of standard normal numbers."""
    return np.ascontiguousarray(rng.standard_normal((count, 3), np.float32).T)


def _lamp_visibility(
    seen: Surface,
    shape: tuple[int, int],
    lamp: Lamp,
    to_lamp: np.ndarray,
    cosine: np.ndarray,
    placed: Sequence[Placed],
    rng: np.random.Generator,
) -> np.ndarray:
    """Share of the lamp that each pixel sees: one jittered ray a pixel, then smoothed."""
    spread = lamp.radius / np.sqrt(lamp.position @ lamp.position)
    sigma = 0.6 + 12.0 * spread
    step = 2 if sigma > 1.8 else 1  # a soft shadow needs no ray in every pixel
    grid = np.arange(len(cosine)).reshape(shape)[::step, ::step]
    visible = np.ones(grid.size, np.float32)
    inside = np.flatnonzero(cosine.take(grid.reshape(-1)) > 0)
    at = grid.reshape(-1).take(inside)
    direction = _unit(to_lamp.take(at, 1)) + _drawn(len(at), rng) * np.float32(spread * 0.6)
    visible[inside] = ~blocked(seen.points.take(at, 1), seen.normals.take(at, 1), _unit(direction), placed)
    smooth = cv2.GaussianBlur(visible.reshape(grid.shape), (0, 0), sigma / step)
    if step > 1:
        smooth = cv2.resize(smooth, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return smooth.reshape(-1)


def _ambient_visibility(
    seen: Surface, shape: tuple[int, int], placed: Sequence[Placed], rng: np.random.Generator
) -> np.ndarray:
    """Share of the ambient light that is not taken away by things close by, on every second pixel, then smoothed."""
    rows, columns = np.arange(0, shape[0], 2), np.arange(0, shape[1], 2)
    at = (rows[:, None] * shape[1] + columns).reshape(-1)
    points, normals = seen.points.take(at, 1), seen.normals.take(at, 1)
    # the normal and a point of the unit sphere together are cosine distributed
    direction = _unit(_unit(_drawn(len(at), rng)) + normals * np.float32(1.02))
    hidden = blocked(points, normals, direction, placed, _AO_REACH)
    hidden |= (points[2] > 1e-4) & (direction[2] < 0) & (points[2] < -direction[2] * _AO_REACH)
    share = cv2.GaussianBlur((~hidden).astype(np.float32).reshape(len(rows), len(columns)), (0, 0), 2.0)
    full: np.ndarray = cv2.resize(share, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return 0.25 + 0.75 * full.reshape(-1)
