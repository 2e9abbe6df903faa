"""A small SceneNet RGB-D in the true layout."""

from __future__ import annotations

import cv2
import numpy as np

#: Number in the instance pictures, WordNet number, name, kind (1 background, 2 layout, 3 light, 4 random object).
INSTANCES = (
    (0, "", "", 1),
    (1, "04546855", "wall", 2),
    (2, "03221720", "door", 2),
    (7, "04590933", "windsorchair", 4),
    (300, "20000037", "rectangulartable", 4),
    (9, "04223580", "sink", 4),
    (5, "03001627", "chair", 1),
    (8, "03001627", "a chair that no picture shows", 4),
)
#: Rectangle x0, y0, x1, y1 and z in mm, by number.
OBJECTS = {2: (0, 100, 60, 200, 3000), 7: (100, 20, 160, 80, 2000), 300: (200, 120, 300, 180, 1500),
           9: (20, 20, 60, 60, 1000), 5: (220, 20, 300, 80, 2500)}  # fmt: skip
VIEWS = (0, 25, 50, 75)


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    """A field on the wire; fixed-width floats as bytes of length 4."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + np.float32(value).tobytes()
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def protobuf(trajectories):
    """The published messages with all of their parts: layout, instances with poses, views with shutter poses."""
    out = b""
    for path, views, instances in trajectories:
        body = field(1, field(1, 2) + field(2, "bedroom/bedroom1_layout.obj"))
        for number, wnid, name, kind in instances:
            info = field(1, f"{wnid}/68247c73") + field(2, 0.8) + field(3, field(1, -4.5) + field(4, 0.99))
            parts = field(1, number) + (field(2, wnid) + field(3, name) if wnid else b"") + field(4, kind)
            body += field(2, parts + (field(6, info) if kind == 4 else b""))
        for view in views:
            pose = field(1, field(1, 2.5) + field(2, 0.5)) + field(3, view / 25)
            body += field(3, field(1, view) + field(2, pose) + field(3, pose))
        out += field(1, body + field(4, path))
    return out


def write_frame(folder, view, objects=OBJECTS):
    """Rays in 64-bit arithmetic, pixel by pixel, from z."""
    z = np.full((240, 320), 5000.0)
    numbers = np.full((240, 320), 1, np.uint16)
    color = np.full((240, 320, 3), 90, np.uint8)
    for i, (x0, y0, x1, y1, mm) in objects.items():
        z[y0:y1, x0:x1] = mm
        numbers[y0:y1, x0:x1] = i
        color[y0:y1, x0:x1] = (i % 256, 100, 50 + view)
    u, v = np.meshgrid(np.arange(320), np.arange(240))
    x = np.tan(np.pi / 6) * (2 * (u + 0.5) / 320 - 1)
    y = np.tan(np.pi / 8) * (2 * (v + 0.5) / 240 - 1)
    for part, ending, image in (
        ("photo", "jpg", color[..., ::-1]),
        ("depth", "png", np.rint(z * np.sqrt(1 + x * x + y * y)).astype(np.uint16)),
        ("instance", "png", numbers),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"{folder}/{part}/{view}.{ending}", image)


def write_source(root):
    """Train: trajectories 0/12, 0/5, 1/1000; val: 0/223 of two frames."""
    for path in ("0/5", "0/12", "1/1000"):
        for view in VIEWS:
            write_frame(root / "train" / path, view)
    for view in VIEWS[:2]:
        write_frame(root / "val/0/223", view)
    (root / "train_protobufs").mkdir()
    for n, paths in enumerate((("0/12", "0/5"), ("1/1000",))):
        content = protobuf((path, VIEWS, INSTANCES) for path in paths)
        (root / f"train_protobufs/scenenet_rgbd_train_{n}.pb").write_bytes(content)
    (root / "scenenet_rgbd_val.pb").write_bytes(protobuf([("0/223", VIEWS[:2], INSTANCES)]))
    return root
