"""Render a prepared set of RGB-D crops: ``python -m mmcl_core.render --objects household|DIR --out DIR``.

The set is the same, byte for byte, whatever the number of worker processes; ``--shard I/N`` renders every
N-th sample, and ``python -m mmcl_core.prepare merge`` puts the shards together to what one run would have made. What
was interrupted or killed goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.synth.rendered_set import render
from mmcl_core.synth.sensor import DEPTH_CAMERAS

__all__ = ["main"]

_EXAMPLES = """  python -m mmcl_core.render --objects household --out demo/household --count 4000
  python -m mmcl_core.render --objects meshes/ycb --out data_sets/ycb0 --count 20000 --shard 0/4"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: command line without the program; None reads ``sys.argv``.

    Returns:
        The exit status.
    """
    options = vars(_parser().parse_args(arguments))
    level = options.pop("log_level")
    return run_command(lambda: print(render(**options)), level)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mmcl_core.render", __doc__, _EXAMPLES)
    add = parser.add_argument
    add(
        "--objects",
        required=True,
        help="household (built in), or a folder with a sub-folder for each class that holds its meshes, each of them "
        "an instance of the class, in metres",
    )
    add(
        "--up",
        choices=("z", "y"),
        default="z",
        help="the axis that is up in the meshes; in .glb and .gltf, by their standard, always y (default: %(default)s)",
    )
    add("--out", required=True, type=Path, help="folder of the prepared set")
    add("--count", type=int, default=2000, help="crops of the whole set, over all shards (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, another set (default: %(default)s)")
    cores = len(os.sched_getaffinity(0))  # that this process may use
    add("--workers", type=int, default=cores, help="processes (default: one for each core)")
    add("--size", type=int, default=128, help="side of the crops in pixels (default: %(default)s)")
    add("--shard", default="0/1", metavar="I/N", help="only samples I, I + N, ... (default: all)")
    add("--classes", nargs="+", default=(), metavar="NAME", help="only these classes (default: all)")
    add(
        "--split",
        default="train=0.8,val=0.1,test=0.1",
        metavar="NAME|NAME=SHARE,...",
        help="a split, or splits and their shares; all but train (or the first, if none has that name) see a wider "
        "range of light and fewer background textures (default: %(default)s)",
    )
    add(
        "--keep-instances",
        action="store_true",
        help="show each mesh in one split alone, so that val and test hold instances that training never saw; each "
        "class needs as many meshes as there are splits (household: always so)",
    )
    add("--overwrite", action="store_true", help="replace the set that is in the output folder")
    add(
        "--resume",
        action="store_true",
        help="go on with what an interrupted run of the same command left in <out>.partial; the set is the same",
    )
    _add_scene_options(parser.add_argument_group("scenes and cameras").add_argument)
    add_logging_options(parser)
    return parser


def _add_scene_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "--neighbours", type=int, default=4, metavar="N",
        help="objects beside the target, at most; 0 to 4 (default: %(default)s)",
    )  # fmt: skip
    add(
        "--piles", type=float, default=0.0, metavar="P",
        help="share of scenes in which an object lies on the target or on a neighbour, or the target lies on it "
        "(default: %(default)s)",
    )  # fmt: skip
    add(
        "--paint-spread", type=float, default=0.0, metavar="X",
        help="change brightness and colours of every object, at 1 by what scanned textures may be off (default: "
        "%(default)s)",
    )  # fmt: skip
    add(
        "--sensor",
        choices=(*DEPTH_CAMERAS, "any", "none"),
        default="xtion",
        help="depth camera: structured light (xtion), stereo, time of flight (tof), any: one of these drawn for each "
        "crop, or none: exact depth (default: %(default)s)",
    )
    add(
        "--camera-spread",
        type=float,
        default=1.0,
        metavar="X",
        help="draw exposure, colours, noise, holes and the like of both cameras from a range X times as wide: to "
        "validate, or train, for sensors unlike the modelled ones (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
