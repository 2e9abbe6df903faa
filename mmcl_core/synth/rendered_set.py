"""A rendered set: its crops are made by several processes and written in order, so that it does not depend on them.

:mod:`mmcl_core.synth.crops` makes a crop; here is what a set takes beside that: the arguments are checked, objects are
read, what was interrupted goes on, and the index tells what was rendered how.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2

from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.files import refuse_to_write
from mmcl_core.data.runner import SAVE_EVERY_S
from mmcl_core.data.shares import parse_shard, parse_shares
from mmcl_core.data.sheet import contact_sheet
from mmcl_core.data.sources import printable
from mmcl_core.data.summary import next_command
from mmcl_core.data.workers import in_order, start_worker
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.progress import progress_bar
from mmcl_core.synth.crops import Crop, CropMaker
from mmcl_core.synth.scene import VERSION
from mmcl_core.synth.shelf import temporary_shelf
from mmcl_core.synth.stock import FolderStock, HouseholdStock, make_stock
from mmcl_core.words import counted

__all__ = ["render"]

logger = logging.getLogger(__name__)

#: Settings that a set names where they are not as usual.
_USUAL = {"neighbours": 4, "camera_spread": 1.0, "piles": 0.0, "paint_spread": 0.0, "up": "z"}
_CHUNK = 32  # crops that a process makes at a time, about
_maker: CropMaker | None = None  # of a worker process


def render(
    objects: str,
    out: Path,
    count: int,
    seed: int = 0,
    workers: int = 1,
    size: int = 128,
    shard: str = "0/1",
    sensor: str = "xtion",
    split: str = "train=0.8,val=0.1,test=0.1",
    classes: Sequence[str] = (),
    neighbours: int = 4,
    camera_spread: float = 1.0,
    piles: float = 0.0,
    paint_spread: float = 0.0,
    overwrite: bool = False,
    keep_instances: bool = False,
    resume: bool = False,
    up: str = "z",
) -> str:
    """Render a set; the arguments are those of the command.

    Whatever ends the work early, what was done stays in ``<out>.partial``, to go on from.

    Returns:
        A summary and the next command, ready to print.

    Raises:
        ConfigError: an option that makes no sense, or packages for rendering that are not installed.
        DataError: no meshes, too few of a class to keep instances apart, an output folder that is not empty, or a part
            to go on with that was made otherwise.
    """
    shares, (first, step) = parse_shares(split), parse_shard(shard)
    scenes = {"sensor": sensor, "neighbours": neighbours, "piles": piles}
    scenes |= {"camera_spread": camera_spread, "paint_spread": paint_spread}
    _check(count, workers, size, seed, scenes)
    apart, numbers = shares if keep_instances else None, range(first, count, step)
    if not numbers:
        raise ConfigError(f"--shard {shard} of --count {count} holds no crop; take fewer shards")
    refuse_to_write(out.resolve(), overwrite, resume)  # before all meshes are read
    source = {"objects": objects if objects == "household" else printable(Path(objects).resolve().name)}
    with temporary_shelf() as shelf:
        stock = make_stock(objects, seed, classes, apart, up, shelf)
        meshes = stock.check(workers) if isinstance(stock, FolderStock) else ""
        source |= {"meshes": meshes} if meshes else {}
        look = {**scenes, "up": up}
        description = _description({**source, "count": count, "seed": seed}, shares, look, stock.unseen)
        part = {"shard": f"{first}/{step}", "split": [*shares], "keep-instances": keep_instances, "meshes": meshes}
        kinds: dict[str, Any] = {"size": size, "modalities": ("rgb", "depth"), "description": description}
        began = time.monotonic()
        with PreparedWriter(out, classes=stock.classes, **kinds, overwrite=overwrite, resume=resume) as writer:
            made = _fill(writer, (stock, seed, size, shares, scenes), numbers, count, workers, part)
        rate = made / max(time.monotonic() - began, 1e-9)
    return _summary(out, shares, rate, step)


def _description(
    source: Mapping[str, Any], shares: Mapping[str, float], look: Mapping[str, Any], unseen: str
) -> dict[str, Any]:
    """What the index tells of a set's making, the same for all shards."""
    return {
        **{"made_by": "mmcl_core.render", "scenes": VERSION, **source, "sensor": look["sensor"], "shares": shares},
        **{name: look[name] for name, usual in _USUAL.items() if look[name] != usual},
        "unseen_in_other_splits": unseen,
        "crop": "square, 1.2 x box of the visible object, jittered; colour repeats beyond the picture, depth is 0",
    }


def _fill(
    writer: PreparedWriter,
    arguments: tuple[Any, ...],
    numbers: range,
    count: int,
    workers: int,
    part: dict[str, Any],
) -> int:
    """Write the crops that the set does not hold yet, and note now and then how far it is.

    Args:
        arguments: of :func:`_start_worker`.
        numbers, count: of the crops of this shard, and how many the whole set has.
        part: what must be the same to go on, beside what the writer compares.

    Returns:
        How many crops those were.

    Raises:
        DataError: the part to go on with is another one.
    """
    other = [name for name, value in part.items() if writer.saved and writer.saved.get(name) != value]
    if other:
        names = " and ".join(
            "meshes (or read by another version)" if name == "meshes" else f"--{name}" for name in other
        )
        raise DataError(
            f"{writer.out}.partial was made with other {names}; give the same to go on, or --overwrite to begin anew"
        )
    done = len(writer)
    left, saved = numbers[done:], time.monotonic()
    crops = _all_crops(arguments, left, min(workers, len(left)))
    bar = progress_bar(crops, title="render", unit=" crops", total=len(numbers), done=done, in_logs=True)
    try:
        for number, crop in zip(left, bar, strict=True):
            writer.add(_sample(number, count, crop))
            if time.monotonic() - saved >= SAVE_EVERY_S:
                saved = time.monotonic()
                writer.save(part)
    except BaseException:
        if writer.saved:
            logger.warning("what was done is kept in %s.partial; the same command with --resume goes on", writer.out)
        raise
    return len(left)


def _summary(out: Path, shares: Mapping[str, float], rate: float, step: int) -> str:
    """What was made and what comes next.

    Args:
        out: the set.
        shares: its splits.
        rate: crops a second.
        step: how many shards there are.
    """
    sheet, prepared = contact_sheet(out, out / "sheet.png"), PreparedSet.open(out, verify=False)
    made = {name: int((prepared.splits == name).sum()) for name in shares}
    if step == 1 and (empty := [name for name, number in made.items() if not number]):
        logger.warning("--split: %s got no crop at all; a greater --count gives some to each", " and ".join(empty))
    splits = ", ".join(f"{name} {number}" for name, number in made.items())
    what = f"{counted(len(prepared), 'crop')} of {counted(len(prepared.classes), 'class')}"
    head = f"{what} in {out} ({splits}); {rate:.0f} crops/s"
    following = (
        f"python -m mmcl_core.prepare merge --source SHARD ... --out DIR   (all {step} shards)"
        if step > 1 else next_command(prepared)
    )  # fmt: skip
    return f"{head}\nlook at: {sheet}\nnext: {following}"


def _check(count: int, workers: int, size: int, seed: int, scenes: Mapping[str, Any]) -> None:
    """Refuse numbers that make no sense."""
    if min(count, workers) < 1 or not 16 <= size <= 1024 or seed < 0:
        raise ConfigError("--count and --workers must be at least 1, --seed at least 0, --size 16 to 1024")
    for name, most in {"neighbours": 4, "camera_spread": 4, "piles": 1, "paint_spread": 4}.items():
        if not 0 <= scenes[name] <= most:
            raise ConfigError(f"--{name.replace('_', '-')} must be 0 to {most}, got {scenes[name]:g}")


def _all_crops(arguments: tuple[Any, ...], numbers: range, workers: int) -> Iterator[Crop]:
    """The crops of some numbers, in order; those that share objects which have to be built are left to one process.

    Args:
        arguments: of :func:`_start_worker`.
        numbers: of the crops.
        workers: processes.
    """
    if workers <= 1:
        threads = cv2.getNumThreads()
        _start_worker(*arguments)
        try:
            yield from map(_make, numbers)
        finally:
            cv2.setNumThreads(threads)
        return
    size = max(1, min(_CHUNK, len(numbers) // (workers * 4)))
    together = arguments[0].together
    span = max(1, size * numbers.step // together) * together
    parts = (list(part) for _, part in groupby(numbers, key=lambda number: number // span))
    yield from in_order(_make_part, parts, workers, _start_worker, arguments)


def _start_worker(
    stock: FolderStock | HouseholdStock, seed: int, size: int, shares: dict[str, float], scenes: Mapping[str, Any]
) -> None:
    global _maker
    if multiprocessing.parent_process() is not None:
        start_worker()
    cv2.setNumThreads(1)
    _maker = CropMaker(stock, seed, size, shares, **scenes)


def _make_part(numbers: list[int]) -> list[Crop]:
    return [_make(number) for number in numbers]


def _make(number: int) -> Crop:
    assert _maker is not None
    return _maker(number)


def _sample(number: int, count: int, crop: Crop) -> Sample:
    return Sample(
        images={"rgb": crop.rgb, "depth": crop.depth},
        label=crop.label,
        split=crop.split,
        key=f"{number:0{max(6, len(str(count - 1)))}d}",
        group=crop.group,
        source=crop.source,
        camera=crop.camera,
    )
