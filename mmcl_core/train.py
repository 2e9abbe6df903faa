"""Train a recogniser.

Start one process for each GPU with ``torchrun --nproc-per-node N -m mmcl_core.train ...``.

Exit status: 0 finished; 1 the training failed (loss not finite, out of memory, a lost process); 2 wrong settings, data
or command line; 75 stopped by SIGTERM, SIGUSR1 or Ctrl-C with the state saved: the same run goes on with
``--resume RUN`` (batch systems can requeue on this status).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from mmcl_core.cli import SETTING, add_logging_options, command_parser, run_command
from mmcl_core.config import Config, load, override, to_dict
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.settings import read_override

__all__ = ["main"]

EXAMPLES = """  python -m mmcl_core.train --config config/demo.yaml --data demo/household --out demo/run
  python -m mmcl_core.train --config config/paper_falling_things.yaml --data data_sets/falling_things seed=1
  python -m mmcl_core.train --resume demo/run"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (see the module)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _train(options), options.log_level)


def _train(options: argparse.Namespace) -> None:
    from mmcl_core.engine.report import try_report
    from mmcl_core.engine.runfolder import warn_of_exports
    from mmcl_core.engine.trainer import train
    from mmcl_core.weights import read_metadata

    config, run = settings(options)
    result = train(config, run, resume=bool(options.resume), overwrite=options.overwrite)
    if os.environ.get("RANK", "0") == "0":
        try_report(run)
        for key, value in result.scores.items():
            if key.startswith("accuracy/"):
                print(f"validation accuracy, {key.split('/')[1]}: {value:.4f}  ({result.selection})")
        print(f"weights: {run / 'weights.safetensors'}")
        metadata, without = read_metadata(run), "trained without labels, it recognises nothing"
        if metadata["trained_modalities"]:
            print(f"next: python -m mmcl_core.evaluate {quote(str(run))} --data {_test_set(config)}")
        elif metadata.get("network", {}).get("kind", "recognition") == "recognition":
            print(f"{without} yet; next: train with labels and {quote(f'model.init_from={run}')}")
        else:  # streams
            print(f"{without}, and no training can start from it; train with labels, or take method=mmcl without any")
        if options.overwrite:
            warn_of_exports(run)


def _test_set(config: Config) -> str:
    """What to evaluate on, with the option for it where the set has no split of the default name."""
    from mmcl_core.data.cache import PreparedSet

    try:
        names = PreparedSet.open(config.data.root, verify=False).split_names
    except DataError:  # of a run that was finished before, and whose set has gone since
        return "DIR"
    other = [name for name in names if name != config.data.train_split]
    if not other:
        return "ANOTHER_SET"
    return quote(config.data.root) + (f" --split {quote(other[0])}" if "test" not in names else "")


def settings(options: argparse.Namespace) -> tuple[Config, Path]:
    """Settings and run folder that the command line asks for.

    Raises:
        ConfigError: missing or unknown settings, or a resumed run whose settings or folder were changed.
    """
    from mmcl_core.engine import runfolder

    given = dict(runfolder.flat(dict(map(read_override, options.overrides))))  # also of a section given as a mapping
    _refuse_two_values(options, given)
    data = {"data.root": options.data} if options.data else {}
    resume = Path(options.resume) if options.resume else None
    named = {"--out ": options.out, "out=": given.get("out")}
    for option, folder in named.items():
        if resume is not None and folder and Path(str(folder)).resolve() != resume.resolve():
            raise ConfigError(
                f"--resume {resume} goes on in that folder, and {option}{folder} names another; leave it out, or "
                "resume a copy of the run"
            )
    if resume is not None and (options.config is None or (resume / "config.yaml").exists()):
        saved = runfolder.read_config(resume)
        asked = override(load(options.config or resume / "config.yaml", options.overrides), data, "command line")
        if options.config is not None:  # what may differ is as it was, where the command line does not say otherwise
            before = dict(runfolder.flat(to_dict(saved)))
            asked = override(
                asked, {name: before[name] for name in runfolder.FREE_SETTINGS - given.keys() - data.keys()}
            )
        changed = runfolder.differences(saved, asked)
        if changed:
            raise ConfigError(
                f"{resume} cannot be resumed with other settings ({'; '.join(changed)}); leave them out, or start a "
                "new run (from these weights: model.init_from)"
            )
        return asked, resume
    if options.config is None:
        raise ConfigError("give --config FILE, or --resume RUN")
    config = override(load(options.config, options.overrides), data, "command line")
    if not config.data.root:
        raise ConfigError("no data: give --data DIR (a prepared set) or set data.root")
    out = options.out or config.out
    return config, resume or (Path(out) if out else runfolder.default_folder(config, Path(options.config).stem))


def _refuse_two_values(options: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Refuse an option and a setting that say the same thing in two ways.

    Raises:
        ConfigError: naming both.
    """
    for option, value, name in (("--out", options.out, "out"), ("--data", options.data, "data.root")):
        other = str(given.get(name) or "")
        if value and other and Path(value).resolve() != Path(other).expanduser().resolve():
            raise ConfigError(f"{option} {value} and {name}={other} name two folders; give one of them")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mmcl_core.train", __doc__, EXAMPLES)
    parser.add_argument("overrides", nargs="*", default=[], metavar=SETTING, help="settings that differ from the file")
    parser.add_argument("--config", metavar="FILE", help="settings (YAML)")
    parser.add_argument("--data", metavar="DIR", help="the prepared set: short for data.root=DIR")
    parser.add_argument("--out", metavar="RUN", help="run folder (default: runs/<name of the file>-<hash>)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", metavar="RUN", help="continue this run; with --config, start it if there is none")
    group.add_argument("--overwrite", action="store_true", help="replace a run that is in the folder already")
    add_logging_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
