"""Ask a model about picture files: ``python -m mmcl_core.recognize MODEL --rgb FILE ... [--depth FILE ...]``.

Each picture shows one object, cut as crops are: a square of 1.2 times its longer side, with what surrounds it.
``--box`` cuts that window out of whole frames. With colour and depth the files go in pairs, depth seen from the colour
camera. Prints one line a picture: its best classes and their probabilities.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.crops import CROP_SIZE, LEAST_PLAUSIBLE_MM
from mmcl_core.data.crops import Camera, CropRule, parse_box, parse_camera, part_inside
from mmcl_core.data.pictures import FARTHEST_USUAL_M, alike, depth_millimetres, depth_scale, in_parts, read_rgb
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.recognizer import Recognizer
from mmcl_core.words import counted

__all__ = ["main"]

#: Pictures that are read before their answers are printed, and about the most bytes of them; one alone may have more.
AT_ONCE, AT_ONCE_BYTES = 64, 1 << 26

logger = logging.getLogger(__name__)

EXAMPLES = """\
  python -m mmcl_core.recognize ycb21 --rgb mug.jpg banana.png
  python -m mmcl_core.recognize ycb21 --rgb frame.png --box 310,120,90,140
  python -m mmcl_core.recognize runs/mine --rgb a_rgb.png b_rgb.png --depth a_depth.png b_depth.png"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, see :mod:`mmcl_core.cli`."""
    parser = command_parser("mmcl_core.recognize", __doc__, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="run folder, weights or .onnx file, or ycb21")
    parser.add_argument("--rgb", nargs="+", type=Path, default=[], metavar="FILE", help="colour pictures")
    parser.add_argument("--depth", nargs="+", type=Path, default=[], metavar="FILE", help="depth pictures, 16 bit")
    parser.add_argument("--depth-unit", default="mm", metavar="UNIT", help="mm, 0.1mm, m/5000, ... (default: mm)")
    parser.add_argument("--box", metavar="X,Y,WIDTH,HEIGHT", help="the object in every picture (default: all of it)")
    parser.add_argument(
        "--camera",
        metavar="FX,FY,CX,CY",
        help="intrinsics in pixels of the pictures, of colour where there are both; for models that know metric size",
    )
    parser.add_argument("--top-k", type=int, default=3, metavar="N", help="classes to list (default: 3)")
    parser.add_argument("--mirror", action="store_true", help="look at mirror images, too: twice the work")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_logging_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _recognize(options), options.log_level)


def _recognize(options: argparse.Namespace) -> None:
    box, files = parse_box(options.box), {kind: paths for kind in ("rgb", "depth") if (paths := getattr(options, kind))}
    if not files:
        raise ConfigError("no pictures: name colour files with --rgb, depth files with --depth")
    if len({len(paths) for paths in files.values()}) > 1:
        raise ConfigError(
            f"{counted(len(options.rgb), 'file')} with --rgb and {len(options.depth)} with --depth: they go in pairs"
        )
    if options.top_k < 1:
        raise ConfigError(f"--top-k is {options.top_k}; 1 or more is expected")
    scale, camera = depth_scale(options.depth_unit), parse_camera(options.camera)
    recognizer = Recognizer.load(options.model, options.device, mirror=options.mirror, warm_up=False)
    goes_by_camera = "depth" in files and recognizer.uses_camera
    if goes_by_camera and camera is None:
        logger.warning("in depth this model goes by the camera; without --camera its answers are worth less")
    elif camera is not None and not goes_by_camera:
        logger.warning(
            "--camera makes no difference: %s",
            "it is for depth" if recognizer.uses_camera else "this model does not go by the camera",
        )
    pictures = [dict(zip(files, paths, strict=True)) for paths in zip(*files.values(), strict=True)]
    width = max(len(str(next(iter(paths.values())))) for paths in pictures)
    answered = 0
    objects = ((paths, *_crops(paths, recognizer, scale, box, camera)) for paths in pictures)
    usable = (one for one in objects if one[1])
    for part in in_parts(usable, lambda one: sum(crop.nbytes for crop in one[1].values()), AT_ONCE, AT_ONCE_BYTES):
        rgb, depth = ([crops.get(kind) for _, crops, _ in part] if kind in files else None for kind in ("rgb", "depth"))
        found = recognizer.recognize(rgb, depth, [moved for *_, moved in part], top_k=options.top_k)
        answered += len(part)
        for (paths, *_), modality, labels, scores, rejected in zip(
            part, found.modality, found.top_labels, found.top_scores, found.rejected, strict=True
        ):
            best = "  ".join(f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True))
            print(f"{next(iter(paths.values()))!s:{width}}  {modality or '-':5}  {rejected or best}")
    if not answered:
        raise DataError("none of the pictures can be used; the lines above say why")


def _crops(
    paths: Mapping[str, Path],
    recognizer: Recognizer,
    scale: float,
    box: Sequence[float] | None,
    camera: Camera | None,
) -> tuple[dict[str, Any], Camera | None]:
    """The crops of one object by kind, and their camera; files that cannot be used are warned of and left out."""
    images = {}
    for kind, path in paths.items():
        try:
            if kind == "rgb" or not recognizer.takes_distances:
                images[kind] = read_rgb(path)
            elif (depth := depth_millimetres(path, scale)).max() < LEAST_PLAUSIBLE_MM and depth.any():
                raise DataError(f"has no reading beyond {depth.max():g} mm: is --depth-unit right?")
            else:
                images[kind] = depth
                if (median := np.median(depth[depth > 0]) / 1000 if depth.any() else 0) > FARTHEST_USUAL_M:
                    logger.warning("%s: most of it is %.1f m away and more: is --depth-unit right?", path, median)
        except DataError as error:
            logger.warning("left out: %s %s", path, error)
    sizes = sorted({image.shape[1::-1] for image in images.values()})
    shapes = " and ".join(f"{width} x {height}" for width, height in sizes)
    if len(sizes) > 1 and box is None and not alike(*sizes):
        logger.warning("left out: %s: of other proportions, no pair: %s", ", ".join(map(str, paths.values())), shapes)
        return {}, None
    if box is None or not images:
        return images, _of_depth(camera, images)
    rule = CropRule(recognizer.crop_size or CROP_SIZE, margin=0.1, context=True)
    width, height = sizes[0]
    cut = rule(images, camera, part_inside(box, height=height, width=width)) if len(sizes) == 1 else None
    if cut is None:
        why = "the box shows less than a pixel of them" if len(sizes) == 1 else "for a box both have to be of one size"
        logger.warning("left out: %s: %s pixels, %s", ", ".join(map(str, paths.values())), shapes, why)
        return {}, None
    return cut


def _of_depth(camera: Camera | None, images: Mapping[str, Any]) -> Camera | None:
    """The camera in pixels of depth, which the recogniser goes by, where it is given in those of a larger colour."""
    if camera is None or set(images) != {"rgb", "depth"}:
        return camera
    (height, width), (to_height, to_width) = images["rgb"].shape[:2], images["depth"].shape[:2]
    fx, fy, cx, cy = camera
    sx, sy = to_width / width, to_height / height
    return fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5


if __name__ == "__main__":
    sys.exit(main())
