"""A small SUN RGB-D in the true layout."""

from __future__ import annotations

import json

import cv2
import numpy as np

FRAMES = (
    "kv1/NYUdata/NYU0001",
    "kv1/NYUdata/NYU0002",
    "realsense/lg/2014-11-01",
    "xtion/sun3ddata/hall_1/hall_1/0001-x",
    "xtion/sun3ddata/hall_1/hall_1/0002-y",
)
#: Name, and polygons as (x0, y0, x1, y1), of the objects of a fake frame.
OBJECTS = (
    ("wall", [(0, 0, 79, 59)]),
    ("night_stand", [(10, 10, 39, 29)]),
    ("chair:occluded", [(50, 5, 59, 24), (50, 35, 69, 44)]),
    (None, []),
    ("cup", [(2, 40, 8, 50)]),
)


def rotate_left(mm):
    mm = mm.astype(np.uint32)
    return (((mm << 3) | (mm >> 13)) & 0xFFFF).astype(np.uint16)


def write_frame(folder, night_stand_mm=1234, objects=OBJECTS):
    depth = np.full((60, 80), 9001, np.uint16)  # beyond 8191 mm the topmost bits wrap around
    depth[10:30, 10:40] = night_stand_mm
    depth[5:45, 50:70] = 2000
    colour = np.full((60, 80, 3), 90, np.uint8)
    colour[10:30, 10:40] = (200, 30, 10)
    for part, values in (("depth", depth), ("depth_bfx", depth + np.uint16(1))):
        (folder / part).mkdir(parents=True)
        cv2.imwrite(str(folder / part / "0001.png"), rotate_left(values))
    (folder / "image").mkdir()
    cv2.imwrite(str(folder / "image" / "0001.jpg"), colour[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    (folder / "intrinsics.txt").write_text("100.0 0 40.0 \n0 110.0 30.0 \n0 0 1 \n")
    polygons = [
        {"object": i, "x": [x0, x1, x1, x0], "y": [y0, y0, y1, y1]}
        for i, (_, boxes) in enumerate(objects)
        for x0, y0, x1, y1 in boxes
    ]
    names = [{"name": name} if name else None for name, _ in objects]
    (folder / "annotation2Dfinal").mkdir()
    content = {"date": "2014", "name": "x", "frames": [{"polygon": polygons}], "objects": names, "conflictList": [None]}
    (folder / "annotation2Dfinal" / "index.json").write_text(json.dumps(content))


def write_source(root):
    for i, frame in enumerate(FRAMES):
        write_frame(root / "SUNRGBD" / frame, 1234 + i)
    return root
