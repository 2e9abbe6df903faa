"""How fast a data set is prepared, and how soon training has its first batch. Measured once: later the disk helps."""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.engine.measure import Figures, wait_for

__all__ = ["measure_first_batch", "measure_prepare"]


def measure_prepare(options: argparse.Namespace, out: Path) -> Figures:
    """Prepare a data set and time it.

    Args:
        options: of :func:`mmcl_core.prepare.parse`.
        out: folder of the new set.

    Returns:
        ``crops`` and the ``skipped`` ones; ``plan_seconds`` until it was known what there is to do; ``seconds`` of the
        work itself, the start of the workers among them, ``crops_per_second`` of these, and ``cpu_seconds`` of all
        processes in them; ``bytes_per_crop`` on the disk, all files of the set together; ``peak_memory_mb`` of this
        process, its workers not among it.
    """
    from mmcl_core.data.cache import PreparedSet
    from mmcl_core.data.runner import write_plan
    from mmcl_core.prepare import plan_of

    began = time.perf_counter()
    plan, work = plan_of(options)
    planned, used = time.perf_counter(), _cpu_seconds()
    write_plan(plan, out, options.size, overwrite=options.overwrite, **work)
    done, cpu = time.perf_counter(), _cpu_seconds() - used
    prepared = PreparedSet.open(out, verify=False)
    return {
        "crops": len(prepared),
        "skipped": prepared.index["skipped"]["samples"],
        "workers": options.workers,
        "plan_seconds": planned - began,
        "seconds": done - planned,
        "cpu_seconds": cpu,
        "crops_per_second": len(prepared) / (done - planned),
        "bytes_per_crop": sum(path.stat().st_size for path in out.iterdir()) / len(prepared),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_first_batch(root: Path, batch: int) -> Figures:
    """Time what training does on a prepared set until its first augmented batch, without the start of Python.

    Args:
        root: the set.
        batch: samples; fewer where its largest split has fewer.

    Returns:
        ``open_seconds`` for opening the set and checking its checksums alone; ``first_batch_seconds`` for all, that
        among it; and ``batch``.
    """
    from mmcl_core.config import Config, override
    from mmcl_core.data.cache import PreparedSet
    from mmcl_core.engine.device import train_device
    from mmcl_core.engine.distributed import World
    from mmcl_core.engine.samples import Samples
    from mmcl_core.modality import modality

    began = time.perf_counter()
    prepared = PreparedSet.open(root)
    opened = time.perf_counter()
    split, entry = max(prepared.index["splits"].items(), key=lambda item: item[1]["samples"])
    batch = min(batch, entry["samples"])
    stored = any(image.dtype == np.uint8 for name, image in prepared.images.items() if modality(name).kind == "depth")
    settings: dict[str, Any] = {
        "data": {"root": str(root), "train_split": split, "val_split": ""},
        "train": {"batch": batch, "modalities": prepared.modalities, "target": "both"},
        "optim.warmup_steps": 0,
        "method": "amdim" if len(prepared.modalities) == 1 else "mmcl",
    }
    config = override(Config(), settings | ({"model.depth_encoding": "stored"} if stored else {}))
    samples = Samples(config, World(0, 1), train_device(config.train.device))
    stage = samples.method.stages()[0]
    with samples.epoch(0, 0) as batches:
        samples.views(next(batches), samples.method.augmenter(stage), stage, [(0, 0, 0)])
    wait_for(samples.device)
    # Samples has opened the set once more, and only that counts.
    return {"batch": batch, "open_seconds": opened - began, "first_batch_seconds": time.perf_counter() - opened}


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
