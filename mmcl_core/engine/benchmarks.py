"""The benchmarks: what each of them measures, and in which relation. Every line is its name and its figures.

Lines come as soon as they are measured. See :mod:`mmcl_core.engine.measure` for a single measurement.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmcl_core.config import Config
from mmcl_core.engine import measure
from mmcl_core.engine.device import train_device
from mmcl_core.engine.measure import Figures
from mmcl_core.errors import TrainingError
from mmcl_core.words import counted

__all__ = ["data", "infer", "loss", "prepare", "train"]

Line = tuple[str, Figures]

#: Pairs at once in the loss.
BATCHES = (140, 512, 1024)
#: Samples of the first batch of a prepared set: the paper's on Falling Things.
FIRST_BATCH = 140
#: Training pairs of the authors' crops of Falling Things.
FALLING_THINGS = 18_640


def train(config: Config, steps: int) -> Iterator[Line]:
    """Training steps, what a run of the paper's size would take, and the plain formulation where there is one."""
    share: Figures = {}
    ours = measure.in_fresh_process(measure.measure_train, config, False, steps)
    pairs, epochs = FALLING_THINGS, int(ours["epochs"])
    hours = pairs // config.train.batch * epochs * float(ours["seconds"]) / 3600
    if train_device(config.train.device).type == "cuda":  # no one product says what a processor can do
        best = float(measure.in_fresh_process(measure.measure_product, config, steps)["tflops"])
        share = {"product_tflops": best, "share_of_product": float(ours["tflops"]) / best}
    yield "train", {"formulation": "ours", "batch": config.train.batch, **ours, **share}
    work = f"{counted(epochs, 'epoch')} of {counted(pairs, 'sample')}"
    yield "train", {"projected": f"stage {ours['stage']}: {work}", "hours": hours}
    if config.method == "mmcl" and config.model.backbone == "encoder":
        yield from _beside("train", config.train.batch, ours, measure.measure_train, config, True, steps)
    else:
        left_out = "there is one of method=mmcl with model.backbone=encoder alone"
        yield "train", {"formulation": "plain", "left_out": left_out}


def loss(config: Config, steps: int) -> Iterator[Line]:
    """The loss at several sizes of the batch, each beside its plain formulation."""
    for batch in BATCHES:
        ours = measure.in_fresh_process(measure.measure_loss, config, False, batch, steps)
        yield "loss", {"formulation": "ours", "batch": batch, **ours}
        yield from _beside("loss", batch, ours, measure.measure_loss, config, True, batch, steps)


def data(config: Config, steps: int) -> Iterator[Line]:
    """The data path."""
    yield (
        "data",
        {"size": config.model.input_size, **measure.in_fresh_process(measure.measure_data, config, steps)},
    )


def infer(config: Config, crops: int, steps: int) -> Iterator[Line]:
    """Recognition of frames with so many crops."""
    yield "infer", {"crops": crops, **measure.in_fresh_process(measure.measure_infer, config, crops, steps)}


def prepare(options: argparse.Namespace) -> Iterator[Line]:
    """Preparing a data set, and the first batch of a training on it.

    Args:
        options: of :func:`mmcl_core.prepare.parse`; without ``out`` the set is thrown away.
    """
    from mmcl_core.engine.measure_sets import measure_first_batch, measure_prepare

    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "set"
        yield "prepare", {"set": options.what, "size": options.size, **measure_prepare(options, out)}
        first = measure.in_fresh_process(measure_first_batch, out, FIRST_BATCH)
        yield "first_batch", {"set": options.what, **first}


def _beside(what: str, batch: int, ours: Figures, function: Callable[..., Figures], *arguments: Any) -> Iterator[Line]:
    """The plain formulation, and ours in relation to it. That it needs too much memory is a result, too."""
    try:
        plain = measure.in_fresh_process(function, *arguments)
    except TrainingError as error:
        yield what, {"formulation": "plain", "batch": batch, "failed": str(error)}
        return
    yield what, {"formulation": "plain", "batch": batch, **plain}
    keys = [key for key in ("seconds", "cpu_seconds", "peak_memory_mb") if key in plain]
    ratios: Figures = {key: float(ours[key]) / float(plain[key]) for key in keys}
    yield what, {"ratio": "ours/plain", "batch": batch, **ratios}
