"""Export a run for a robot: ``python -m mmcl_core.export RUN [--modality rgb] [--int8 --data DIR] --out FILE|FOLDER``.

ONNX: one file a modality. The graph takes pictures as they are (``image``: uint8 [N, S, S, 3] RGB, or float32
[N, S, S] depth in mm with 0 = no reading; ``camera``: float32 [N, 4], zeros = unknown) and gives ``probabilities``
[N, C] and unit ``embeddings`` [N, R]: normalisation, depth encoding and temperature are inside. ``Recognizer.load``
runs a file, or the folder of several. ``--int8`` quantises convolutions and products with statistics of samples of a
prepared set.

``--format safetensors``: one file for PyTorch with all modalities, without the heads that only training needs and in
half precision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError

__all__ = ["main"]

EXAMPLES = """\
  python -m mmcl_core.export demo/run --out demo/run/onnx
  python -m mmcl_core.export demo/run --modality rgb --int8 --data demo/household --out rgb.onnx
  python -m mmcl_core.export demo/run --format safetensors --out demo.safetensors"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, see :mod:`mmcl_core.cli`."""
    parser = command_parser("mmcl_core.export", __doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, weights file, or ycb21")
    parser.add_argument(
        "--format", choices=("onnx", "safetensors"), default="onnx", help="of the files (default: %(default)s)"
    )
    parser.add_argument(
        "--modality", nargs="+", default=[], help="what to export (default: all that the model recognises)"
    )
    parser.add_argument("--int8", action="store_true", help="quantise; needs --data")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="prepared set of the training, whose training split calibrates --int8"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="FILE.onnx for one modality, a folder for several; FILE.safetensors"
    )
    add_logging_options(parser)
    options = parser.parse_args(arguments)

    def action() -> None:
        if options.format == "safetensors":
            return _compact(options)
        from mmcl_core.engine.onnx import export

        if options.data and not options.int8:
            raise ConfigError("--data is for the calibration of --int8; give both, or leave it out")
        for path, note in export(options.run, options.out, options.modality, options.data, options.int8):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; {note}")

    return run_command(action, options.log_level)


def _compact(options: argparse.Namespace) -> None:
    from mmcl_core.weights import save_compact, weights_file

    if options.modality or options.int8 or options.data:
        raise ConfigError("--modality, --int8 and --data are for ONNX; a file of weights holds all modalities")
    if options.out.suffix != ".safetensors":
        raise ConfigError(f"--out {options.out}: a file that ends in .safetensors is expected")
    if options.out.resolve() == weights_file(options.run).resolve():
        raise ConfigError(
            f"--out {options.out} is the model itself, and training could not go on from it; name another"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_compact(options.run, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
