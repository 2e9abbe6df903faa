"""What .obj and .mtl files may hold beyond what trimesh takes in, put in words that it understands.

These are text that is not UTF-8, tabs, comments behind numbers, numbers of points that count backwards from where they
stand, colours of points in 0..255, polygons that are not convex, and options before the name of a picture.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["materials_of", "obj_text", "plain_text", "without_options"]

_BACKWARDS = re.compile(r"\nf [^-\n]*-\d")
_POLYGON = re.compile(r"\nf +[^ \n]+ +[^ \n]+ +[^ \n]+ +[^ \n]")
_BYTE = re.compile(r"\nv(?: +[^ \n]+){3,5} +(?:[2-9]|\d{2,3})(?:\.\d*)?(?= |\n)")  # a colour above 1
_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
#: Options of map_Kd, section 5 of the description of .mtl files.
_OPTION = re.compile(
    rf"-(?:(?:blend[uv]|cc|clamp)\s+(?:on|off)|(?:[ost]\s+{_NUMBER}(?:\s+{_NUMBER}){{0,2}})|mm\s+{_NUMBER}\s+{_NUMBER}"
    rf"|(?:boost|texres|bm)\s+{_NUMBER}|(?:imfchan|type)\s+\w+)\s+",
    re.IGNORECASE,
)


def plain_text(content: bytes) -> str:
    """The text of an .obj or .mtl file without comments, tabs and spaces before keywords.

    Bytes that are not UTF-8 stay what they are in names of files (``surrogateescape``).
    """
    text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    text = "\n" + text.replace("\\\n", " ").replace("\t", " ")
    if "\n " in text:
        text = re.sub(r"\n +", "\n", text)
    if "#" in text:
        text = re.sub(r"\n#[^\n]*", "\n", text)
    if "#" in text:
        text = re.sub(r"(\n(?:v|vt|vn|f|[Kk]d) [^#\n]*)#[^\n]*", r"\1", text)
    return re.sub(r"\n(?:use|new)mtl [^\n]*", lambda found: "\n" + " ".join(found[0].split()), text)


def without_options(value: str) -> tuple[str, str]:
    """The name of a picture without the options of ``map_Kd`` before it, and those that put it in another place."""
    name, moved = value.strip(), []
    while option := _OPTION.match(name):
        if option[0][2].isspace():  # -o, -s or -t
            moved.append(" ".join(option[0].split()))
        name = name[option.end() :]
    return name, " ".join(moved)


def materials_of(path: str | Path, resolver: Any) -> tuple[str, list[tuple[str, str]]]:
    """What the material file of an .obj file gives to the faces.

    Args:
        path: the .obj file.
        resolver: finds the files that it names.

    Returns:
        Why faces will be plain, though they name a material: a short phrase, or empty; and the pictures of the
        materials that are used: (name of the material file, what follows ``map_Kd``).
    """
    lines = re.findall(rb"^(?:\xef\xbb\xbf)?[ \t]*(?:mtllib|usemtl)[ \t].*", Path(path).read_bytes(), re.MULTILINE)
    text = plain_text(b"\n".join(lines))  # not of all the numbers beside them
    library = re.search(r"^mtllib (.+)", text, re.MULTILINE)
    used = {name.strip() for name in re.findall(r"^usemtl (.+)", text, re.MULTILINE)}
    if library is None or not used:
        return "", []
    file = library[1].strip()
    try:
        content = resolver.get(file)
    except (OSError, ValueError):  # not there, or not below the folder of the mesh
        return f"its material file {file} is not there", []
    given = (content if isinstance(content, str) else plain_text(content)).splitlines()
    material, known, pictures = "", set(), []
    for key, value in (line.split(None, 1) for line in given if len(line.split(None, 1)) == 2):
        if key.lower() == "newmtl":
            material = value.strip()
            known.add(material)
        elif key.lower() == "map_kd" and material in used:
            pictures.append((file, value))
    strange = sorted(used - known)
    return (f"its material file {file} has no material {strange[0]}" if strange else ""), pictures


def obj_text(content: bytes) -> str:
    """The text of an .obj file as trimesh reads it rightly (see the module)."""
    text = plain_text(content)
    bytes_for_colours = _BYTE.search(text) is not None
    if not bytes_for_colours and not _BACKWARDS.search(text) and not _POLYGON.search(text):
        return text
    lines = text.split("\n")
    try:
        _rewrite(lines, bytes_for_colours)
    except (ValueError, IndexError):  # no numbers, or of points that are not there: left to who reads it
        return text
    return "\n".join(lines)


def _rewrite(lines: list[str], bytes_for_colours: bool) -> None:
    """Count points from the first one, split polygons that are not convex, and bring colours to 0..1; in place."""
    counts = {"v": 0, "vt": 0, "vn": 0}
    points: list[list[str]] = []
    polygons: dict[int, list[tuple[int, list[str]]]] = defaultdict(list)  # by their number of corners
    for number, line in enumerate(lines):
        word, *values = line.split() or [""]
        if word in counts:
            counts[word] += 1
        if word == "v":
            points.append(values[:3])
            if bytes_for_colours and len(values) >= 6:
                shades = [f"{float(value) / 255:.6f}" for value in values[3:6]]
                lines[number] = " ".join(["v", *values[:3], *shades])
        elif word == "f":
            corners = [_forwards(corner, counts) for corner in values]
            lines[number] = " ".join(["f", *corners])
            if len(corners) > 3:
                polygons[len(corners)].append((number, corners))
    places = np.array(points, np.float64) if polygons else np.empty((0, 3))
    for alike in polygons.values():
        _split(lines, alike, places)


def _forwards(corner: str, counts: Mapping[str, int]) -> str:
    """A corner of a face with numbers from the first point of the file, not back from the last one so far."""
    if "-" not in corner:
        return corner
    numbers = [int(number) if number else 0 for number in corner.split("/")]
    pairs = zip(numbers, counts.values(), strict=False)
    return "/".join(str(number + total + 1 if number < 0 else number or "") for number, total in pairs)


def _split(lines: list[str], polygons: Sequence[tuple[int, list[str]]], places: np.ndarray) -> None:
    """Put triangles for those polygons that are not convex; the others are left to trimesh.

    Args:
        lines: of the file, changed in place.
        polygons: the number of the line and the corners of each, all with as many corners.
        places: of the points [V, 3].
    """
    points = np.array([[int(corner.partition("/")[0]) for corner in corners] for _, corners in polygons]) - 1
    if points.min() < 0:
        raise IndexError("there is no point 0")
    flat, bays = _flattened(places[points])
    for row in np.flatnonzero(bays).tolist():
        number, corners = polygons[row]
        lines[number] = "\n".join(f"f {corners[a]} {corners[b]} {corners[c]}" for a, b, c in _triangles(flat[row]))


def _flattened(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polygons [P, N, 3] in their planes, counter-clockwise [P, N, 2], and whether each is not convex, bool [P]."""
    following = np.roll(polygons, -1, axis=1)
    first = polygons[:, :1]
    normal = np.cross(polygons - first, following - first).sum(axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    aside = np.cross(normal, np.eye(3)[np.abs(normal).argmin(axis=1)])
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-300)
    axes = np.stack([aside, np.cross(normal, aside)], axis=2)
    flat = (polygons - first) @ axes
    way, ahead = flat - np.roll(flat, 1, axis=1), np.roll(flat, -1, axis=1) - flat
    turn = way[..., 0] * ahead[..., 1] - way[..., 1] * ahead[..., 0]
    size = np.square(np.ptp(flat, axis=1)).sum(axis=1, keepdims=True)
    return flat, (turn < -1e-6 * size).any(axis=1)


def _triangles(flat: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles that fill a polygon [N, 2], counter-clockwise, by cutting off one ear after the other."""
    left, found = list(range(len(flat))), []
    while len(left) > 3:
        ears = (k for k in range(len(left)) if _is_ear(flat, left, k))
        k = next(ears, 0)  # none where edges cross: as a fan
        found.append((left[k - 1], left[k], left[(k + 1) % len(left)]))
        del left[k]
    return [*found, (left[0], left[1], left[2])]


def _is_ear(flat: np.ndarray, left: list[int], k: int) -> bool:
    """Whether the triangle of the corner ``left[k]`` and its neighbours holds none of the others."""
    a, b, c = (flat[left[(k + step) % len(left)]] for step in (-1, 0, 1))
    if _cross(b - a, c - a) <= 0:
        return False
    others = flat[left]
    others = others[~((others == a).all(1) | (others == b).all(1) | (others == c).all(1))]
    sides = [_cross(end - start, others - start) for start, end in ((a, b), (b, c), (c, a))]
    return not bool((np.min(sides, axis=0) >= 0).any()) if len(others) else True


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product: np.ndarray = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product
