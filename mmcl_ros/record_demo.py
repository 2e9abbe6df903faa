"""Record a small bag of rendered scenes: pictures of both sensors, camera infos, detections, and the truth beside it.

Writes ``OUT/bag`` (rosbag2) and ``OUT/truth.csv``. No running ROS is needed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcl_core.atomic import named, write_text
from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.progress import progress_bar
from mmcl_ros.bagfile import require_rosbags, typestore
from mmcl_ros.message_types import IMAGE_TYPE, INFO_TYPE, REGIONS_TYPE
from mmcl_ros.truth import TRUTH_COLUMNS

# The one module of the ROS side that imports the renderer of the core, and only when it is run: a robot that recognises
# never does.
if TYPE_CHECKING:
    from mmcl_core.synth.stock import FolderStock, HouseholdStock

__all__ = ["DEMO_TOPICS", "RenderedFrame", "main", "record", "render_views"]

WIDTH, HEIGHT = 640, 480
FRAME_ID = "camera_color_optical_frame"
START_NS = 1_700_000_000_000_000_000
LEAST_PIXELS, LEAST_SIDE = 500, 20
EXAMPLES = """\
  python -m mmcl_ros.record_demo --out demo/ros
  python -m mmcl_ros.record_demo --out demo/mugs --classes mug bowl --frames 60 --seed 1
  python -m mmcl_ros.record_demo --out demo/own --objects my_meshes"""
DEMO_TOPICS = {
    "rgb": "/camera/color/image_raw",
    "rgb_info": "/camera/color/camera_info",
    "depth": "/camera/aligned_depth_to_color/image_raw",
    "depth_info": "/camera/aligned_depth_to_color/camera_info",
    "detections": "/detections",
}


@dataclass(frozen=True)
class RenderedFrame:
    """One moment.

    Attributes:
        rgb: uint8 [H, W, 3]. depth: uint16 [H, W], millimetres.
        camera: (fx, fy, cx, cy) in pixels.
        boxes: (x, y, width, height) of the visible part of each object. labels: their classes.
    """

    rgb: np.ndarray
    depth: np.ndarray
    camera: tuple[float, float, float, float]
    boxes: tuple[tuple[int, int, int, int], ...]
    labels: tuple[str, ...]


def render_views(objects: str, frames: int, seed: int, classes: Sequence[str] = ()) -> Iterator[RenderedFrame]:
    """Scenes of one to five objects, seen by a colour camera and a depth camera that is registered to it.

    Household objects are instances of their own, found in no rendered training set. ``classes``: these alone, if any.
    Objects that cannot be rendered are refused, and warned of, here and not at the first view.
    """
    from mmcl_core.synth.stock import FolderStock, make_stock

    stock = make_stock(objects, seed, classes)
    if isinstance(stock, FolderStock):
        stock.check()
    return _views(stock, frames, seed)


def _views(stock: FolderStock | HouseholdStock, frames: int, seed: int) -> Iterator[RenderedFrame]:
    from mmcl_core.synth.background import TexturePool
    from mmcl_core.synth.crops import render_scene
    from mmcl_core.synth.scene import compose

    pool = TexturePool(seed, 16)
    for number in range(frames):
        rng = np.random.default_rng([seed, number])

        def draw(source: np.random.Generator, window: int = number // 8) -> Any:
            return stock.item(int(source.integers(len(stock.classes))), "demo", window, source)

        scene = compose(rng, draw(rng), draw, pool)
        boxes, labels = _visible_boxes(scene)
        # The renderer makes square windows; the square around the picture holds the picture in its middle rows.
        margin = (WIDTH - HEIGHT) // 2
        whole = dataclasses.replace(scene, left=0.0, top=float(-margin), side=float(WIDTH))
        rgb, depth, camera = render_scene(whole, WIDTH, "xtion", rng)
        rows = slice(margin, margin + HEIGHT)
        intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy - margin)
        rgb, depth = np.ascontiguousarray(rgb[rows]), np.ascontiguousarray(depth[rows])
        yield RenderedFrame(rgb, depth, intrinsics, boxes, labels)


def _visible_boxes(scene: Any) -> tuple[tuple, tuple]:
    """Boxes of the objects of which enough can be seen, and their classes."""
    from mmcl_core.synth.raycast import cast

    rays = scene.camera.rays(WIDTH, HEIGHT)
    owner = cast(scene.camera.position, rays, scene.placed, scene.panels).owner.reshape(HEIGHT, WIDTH)
    boxes, labels = [], []
    for index, item in enumerate(scene.items):
        seen = owner == index
        if not item.name or seen.sum() < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        width, height = int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
        if min(width, height) >= LEAST_SIDE:
            boxes.append((int(columns[0]), int(rows[0]), width, height))
            labels.append(item.name)
    return tuple(boxes), tuple(labels)


def record(out: Path, views: Iterator[RenderedFrame], rate: float = 10.0, storage: str = "mcap") -> tuple[Path, Path]:
    """Write views as a bag and a table of truth; where that fails or is interrupted, all is as it was before.

    Args:
        out: folder, made if need be; must not hold a ``bag`` yet.
        views: what to record.
        rate: views per second.
        storage: ``mcap`` or ``sqlite3``.

    Returns:
        The bag and the table.

    Raises:
        ConfigError: rosbags is not installed, or the package is without its messages.
        DataError: there is such a bag already.
    """
    require_rosbags()
    from rosbags.rosbag2 import StoragePlugin, Writer

    bag, table = out / "bag", out / "truth.csv"
    if bag.exists():
        raise DataError(f"{bag} is there already; remove it or choose another folder")
    if REGIONS_TYPE not in typestore().fielddefs:
        raise ConfigError(
            "a recording needs the definitions of the messages of mmcl_ros, and this copy was installed without them: "
            "run the command in a clone of the repository, or install with ROS 2 present (docs/ros.md, Installing)"
        )
    part = out / "bag.partial"
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    part.mkdir(parents=True)
    try:
        with named(bag), Writer(part / "bag", version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
            rows = _write(writer, views, rate)
        (part / "bag").rename(bag)
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow((*TRUTH_COLUMNS, "id"))
        lines.writerows(rows)
        write_text(table, text.getvalue())
    except BaseException:
        shutil.rmtree(bag, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return bag, table


def _write(writer: Any, views: Iterator[RenderedFrame], rate: float) -> list[tuple[Any, ...]]:
    """Write views to an open bag; returns the lines of the table of truth."""
    store, rows = typestore(), []
    types = {"rgb": IMAGE_TYPE, "depth": IMAGE_TYPE, "rgb_info": INFO_TYPE, "depth_info": INFO_TYPE}
    types["detections"] = REGIONS_TYPE
    channels = {name: writer.add_connection(DEMO_TOPICS[name], kind, typestore=store) for name, kind in types.items()}
    for number, view in enumerate(views):
        stamp = START_NS + round(number * 1e9 / rate)
        for name, message in _messages(store, view, stamp).items():
            raw = store.serialize_cdr(message, types[name])
            # A detector answers later than the camera; a bag of one camera has its pictures first.
            writer.write(channels[name], stamp + (20_000_000 if name == "detections" else 0), raw)
        for index, ((x, y, width, height), label) in enumerate(zip(view.boxes, view.labels, strict=True)):
            rows.append((stamp, x, y, x + width, y + height, label, f"object_{index}"))
    return rows


def _messages(store: Any, view: RenderedFrame, stamp: int) -> dict[str, Any]:
    types = store.types
    time = types["builtin_interfaces/msg/Time"](stamp // 1_000_000_000, stamp % 1_000_000_000)
    header = types["std_msgs/msg/Header"](time, FRAME_ID)
    height, width = view.depth.shape

    def image(values: np.ndarray, encoding: str) -> Any:
        data = values.reshape(-1).view(np.uint8)
        return types[IMAGE_TYPE](header, height, width, encoding, 0, data.size // height, data)

    fx, fy, cx, cy = view.camera
    info = types[INFO_TYPE](
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0]),
        r=np.eye(3).reshape(-1),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=_roi(types, (0, 0, 0, 0)),
    )
    region = types["mmcl_ros/msg/Region"]
    regions = [region(f"object_{index}", _roi(types, box)) for index, box in enumerate(view.boxes)]
    return {
        "rgb": image(view.rgb, "rgb8"),
        "depth": image(view.depth, "16UC1"),
        "rgb_info": info,
        "depth_info": info,
        "detections": types[REGIONS_TYPE](header, width, height, regions),
    }


def _roi(types: Any, box: tuple[int, int, int, int]) -> Any:
    x, y, width, height = box
    return types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=x, y_offset=y, height=height, width=width, do_rectify=False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_parser("mmcl_ros.record_demo", __doc__, EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, help="folder for bag/ and truth.csv")
    parser.add_argument("--objects", default="household", help="household (built in), or a folder of meshes")
    parser.add_argument("--classes", nargs="+", default=(), metavar="NAME", help="only these classes (default: all)")
    parser.add_argument("--frames", type=int, default=30, help="scenes, one a frame (default: 30)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of recorded time (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="what scenes and objects follow from (default: 0)")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="of the bag (default: mcap)")
    add_logging_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), options.log_level)


def _run(options: argparse.Namespace) -> None:
    if options.frames < 1 or not 0 < options.rate < math.inf or options.seed < 0:
        raise ConfigError("--frames must be at least 1, --rate above 0 and --seed at least 0")
    scenes = render_views(options.objects, options.frames, options.seed, options.classes)
    views = progress_bar(scenes, title="render", unit=" frames", total=options.frames, in_logs=True)
    bag, table = record(options.out, views, options.rate, options.storage)
    print(f"{bag}\n{table}")


if __name__ == "__main__":
    raise SystemExit(main())
