"""What a run writes down while it goes.

``metrics.jsonl`` has one JSON object a line, a pure function of settings and data (bit-identical after a resume):

====================  ================================================================================================
``stage``             name of the stage
``epoch``             epoch within the stage, from 0
``step``              updates done since the start of the run
``split``             ``train`` (means since the last row), ``val`` (whole validation split) or ``probe``
``lr``                train: learning rate of the last update
``loss``              train: sum of all terms, those of all updates where a step has several
*a term*              train: one key a loss term, such as ``1-5 rgb->depth`` or ``class rgb``, weights included;
                      ``<update>/<term>`` where a step has several updates, such as ``discriminator/fake``
``grad_norm``         train, with ``optim.clip_grad``: norm before clipping; ``<update>/grad_norm`` likewise
``accuracy/rgb``      val: top-1 by modality, in [0, 1]; ``accuracy`` is the mean over the target modalities
``loss/rgb``          val: mean cross-entropy of the predicted probabilities, in nats
``knn/rgb``           probe: accuracy of nearest neighbours on the embeddings
``linear/rgb``        probe: accuracy of a linear classifier on the embeddings
====================  ================================================================================================

``timings.jsonl`` holds what differs from run to run: wall-clock ``seconds``, ``images_per_second``, ``data_wait``
(share of the time spent waiting for data, see :class:`mmcl_core.engine.clock.Clock`) and ``peak_memory_mb``, by
``step``. ``metrics.csv`` is ``metrics.jsonl`` as a table. With TensorBoard installed the same numbers go to
``tensorboard/``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from mmcl_core.atomic import named, write_text
from mmcl_core.errors import CheckpointError, DataError

__all__ = ["Row", "RunLog", "environment", "read_rows"]

Row = Mapping[str, "str | int | float"]


class RunLog:
    """The log files of one run; as a context manager it closes them.

    Args:
        run: run folder, which exists.
        offsets: lengths in bytes of the log files at the saved state; what follows is cut off. ``None``: start anew.
        active: only the process that writes is; the others log nothing.

    Raises:
        CheckpointError: a log file is shorter than at the saved state.
        DataError: one was edited.
    """

    names = ("metrics.jsonl", "timings.jsonl")

    def __init__(self, run: Path, offsets: Mapping[str, int] | None, active: bool = True) -> None:
        self.run = run
        self.active = active
        self._files: dict[str, BinaryIO] = {}
        self._board: Any = None
        if not active:
            return
        for name in self.names:
            length = 0 if offsets is None else int(offsets[name])
            path = run / name
            if (path.stat().st_size if path.exists() else 0) < length:
                raise CheckpointError(f"{path} is shorter than when the state was saved; the run cannot be resumed")
            file = path.open("ab")
            file.truncate(length)
            file.seek(length)  # opening put the position at the old end, which the next saved state would record
            self._files[name] = file
            read_rows(path)  # now rather than at the end, when the table is made of it
        self._board = _tensorboard(run)

    def row(self, values: Row) -> None:
        """Write one row of ``metrics.jsonl``; see the module for its keys."""
        if not self.active:
            return
        self._write("metrics.jsonl", values)
        if self._board is not None:
            with named(self.run / "tensorboard"):
                for key, value in values.items():
                    if isinstance(value, float):
                        self._board.add_scalar(f"{values['split']}/{key}", value, values["step"])

    def timing(self, values: Row) -> None:
        """Write one row of ``timings.jsonl``."""
        if self.active:
            self._write("timings.jsonl", values)

    def offsets(self) -> dict[str, int]:
        """Lengths of the files, which are on the disk when this returns."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Close the files and write ``metrics.csv``."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            with named(self.run / "tensorboard"):
                self._board.close()
        if self.active:
            write_table(self.run)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """:meth:`close`, also where the run failed; an error of it then does not hide the one that ended the run."""
        with contextlib.suppress(*(() if kind is None else (OSError, DataError))):
            self.close()

    def _write(self, name: str, values: Row) -> None:
        file = self._files[name]
        with named(self.run / name):
            file.write(json.dumps(values, allow_nan=True).encode() + b"\n")
            file.flush()


def read_rows(path: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl`` or ``timings.jsonl``; a last line that was cut off is left out.

    Args:
        path: the file, or a run folder for its ``metrics.jsonl``.
        split: keep the rows of this split only.

    Raises:
        DataError: a line that no run wrote.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise DataError(f"{path} is damaged in line {number}: {error}") from error
    if wrong := [row for row in rows if not isinstance(row, dict) or "step" not in row]:
        raise DataError(f"{path} was edited: rows with a step are expected, found {wrong[0]!r:.80}")
    return [row for row in rows if split is None or row.get("split") == split]


def write_table(run: Path) -> None:
    """Write ``metrics.csv`` from ``metrics.jsonl``: one column a key, in the order of first use."""
    rows = read_rows(run)
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run / "metrics.csv", text.getvalue())


def environment(device: torch.device, precision: str, processes: int) -> dict[str, Any]:
    """Machine and versions of a run, for ``environment.json``."""
    import numpy as np

    import mmcl_core

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": sys.argv,
        "mmcl_core": getattr(mmcl_core, "__version__", "unknown"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "gpu": gpu,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": str(device),
        "precision": precision,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _tensorboard(run: Path) -> Any:
    """A writer of the curves, in which what ``metrics.jsonl`` does not hold (any more) is forgotten."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    rows = read_rows(run)
    with named(run / "tensorboard"):
        return SummaryWriter(str(run / "tensorboard"), purge_step=rows[-1]["step"] + 1 if rows else 0)
