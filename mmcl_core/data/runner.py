"""Works a :class:`~mmcl_core.data.sources.Plan` off: in parallel, in order, with progress; writes or checks.

Results are taken in the order of the tasks, whichever worker made them, so that the set does not depend on the number
of workers. Only a few tasks for each worker are under way at once, so that memory does not grow with the source.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.crops import UNLABELLED
from mmcl_core.data.skips import SkipLog
from mmcl_core.data.sources import NOT_UTF8, Plan, Skip, printable
from mmcl_core.data.workers import in_order, start_worker
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import DataError
from mmcl_core.progress import progress_bar
from mmcl_core.words import counted

__all__ = ["SAVE_EVERY_S", "Findings", "check_plan", "make_samples", "write_plan"]

logger = logging.getLogger(__name__)

#: Median depth of a crop in millimetres that is taken for plausible.
PLAUSIBLE_MM = (100.0, 20_000.0)
#: Seconds between two notes of how far a job is.
SAVE_EVERY_S = 5.0
_CHUNK = 8

Result = Sample | Skip


def make_samples(
    plan: Plan, workers: int, shard: tuple[int, int] = (0, 1), tasks: Iterable[Any] | None = None, done: int = 0
) -> Iterator[tuple[str, list[Result]]]:
    """The key of each task, and its samples and skips, in the order of the tasks.

    Args:
        plan: the work.
        workers: processes; 1 works in this one.
        shard: (i, n): every n-th task, beginning with task i.
        tasks: what is left of these tasks; ``None`` for all.
        done: how many went before, for the progress bar.

    Raises:
        MmclError: a worker process died.
    """
    tasks = iter(filter(plan.wanted, shard_tasks(plan, shard)) if tasks is None else tasks)
    total = None if plan.total is None else len(range(shard[0], plan.total, shard[1]))
    bar = progress_bar(title="prepare", unit=f" {plan.unit}", total=total, done=done, smoothing=0.05, in_logs=True)
    with bar as progress:
        for key, results in _in_order(plan.make, tasks, workers):
            progress.update(1)
            yield key, [result for result in _named_in_utf8(results) if plan.keep(result)]


def _named_in_utf8(results: Iterable[Result]) -> Iterator[Result]:
    """The results of a task; in place of those that are left out for their name, one skip for each file."""
    left_out: set[Skip] = set()
    for result in results:
        names = (result.key, result.group, result.split, result.source) if isinstance(result, Sample) else ()
        if all(name == printable(name) for name in names):
            yield result
        elif isinstance(result, Sample) and (skip := Skip(result.source or result.key, NOT_UTF8)) not in left_out:
            left_out.add(skip)
            yield skip


def shard_tasks(plan: Plan, shard: tuple[int, int]) -> Iterator[Any]:
    """The tasks of a part: every n-th, beginning with task i."""
    return islice(plan.tasks, shard[0], None, shard[1])


def write_plan(
    plan: Plan,
    out: Path,
    size: int,
    *,
    workers: int = 1,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Make the samples of a plan and write them as a prepared set.

    Whatever ends the work early, what was done stays in ``<out>.partial``, to go on from.

    Args:
        plan: the work.
        out: folder of the new set.
        size: side of the crops in pixels.
        workers: processes.
        limit: stop after so many samples.
        shard: (i, n): every n-th task, beginning with task i.
        overwrite: replace a prepared set that is already there.
        resume: go on with what an interrupted run left; the result is what an uninterrupted one gives.

    Raises:
        DataError: not one usable sample; also as for the writer.
    """
    for what, (found, published) in plan.published.items():
        if found != published:
            logger.warning("%s: %d found, the published set has %d", what, found, published)
    report = SkipLog()
    medians: list[float] = []
    with PreparedWriter(
        out,
        classes=plan.classes,
        size=size,
        modalities=plan.modalities,
        stored=plan.stored,
        description=_printable_values(plan.description),
        overwrite=overwrite,
        resume=resume,
    ) as writer:
        try:
            _fill(writer, plan, report, medians, workers, limit, shard)
        except BaseException:
            if writer.saved:
                logger.warning("what was done is kept in %s.partial; the same command with --resume goes on", out)
            raise
        report.close()
        if not len(writer):
            raise DataError(f"nothing usable in the source; {report.summary()}")
    _judge(medians)


def _printable_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _printable_values(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_printable_values(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def _fill(
    writer: PreparedWriter,
    plan: Plan,
    report: SkipLog,
    medians: list[float],
    workers: int,
    limit: int | None,
    shard: tuple[int, int],
) -> None:
    """Write what the tasks give, and now and then how far it is."""
    tasks, done, saved = shard_tasks(plan, shard), 0, time.monotonic()
    listed, seen = _Seen(plan.tasks if isinstance(plan.tasks, Sequence) else ()), _Seen()
    if writer.saved:
        if limit is not None and len(writer) > limit:
            raise DataError(
                f"{writer.out}.partial holds {counted(len(writer), 'sample')} already, and --limit is {limit}; give a "
                "greater one, or none, to go on, or --overwrite to begin anew"
            )
        done = _go_on(plan, tasks, writer, shard, listed, seen)
    else:
        for skip in plan.skipped if shard[0] == 0 else ():
            report.note(skip, writer)
    begun = _Begun(plan, tasks, done, seen)
    results = make_samples(plan, workers, shard, begun, done)
    try:
        for key, some in results:
            for result in some:
                if limit is not None and len(writer) >= limit:
                    return
                refused = _add(result, writer)
                if refused is not None:
                    report.note(refused, writer)
                elif isinstance(result, Sample):
                    medians += _medians(result)
            done, passed = begun.places.popleft()
            if len(writer) and time.monotonic() - saved >= SAVE_EVERY_S:
                saved = time.monotonic()
                place = {"task": key, "tasks": done, "shard": list(shard)}
                writer.save({**place, "keys": passed, "listed": listed.digest()})
    finally:
        results.close()  # type: ignore[attr-defined]


def _go_on(
    plan: Plan, tasks: Iterator[Any], writer: PreparedWriter, shard: tuple[int, int], listed: _Seen, seen: _Seen
) -> int:
    """Pass over the tasks that were done, and tell the plan what came of them; returns how many they were.

    Args:
        listed: all tasks that are known beforehand.
        seen: takes in the tasks that are passed.

    Raises:
        DataError: the tasks are not the same any more, or they were those of another shard.
    """
    last, done, part = writer.saved["task"], writer.saved["tasks"], tuple(writer.saved["shard"])
    for task in islice(tasks, done):
        seen.add(task)
    same = (seen.digest(), listed.digest()) == (writer.saved.get("keys"), writer.saved.get("listed"))
    if part != shard or not same:
        raise DataError(
            f"{writer.out}.partial ends at {last} of shard {part[0]}/{part[1]}, and that shard or the list of tasks is "
            "not the same now: the source or the options have changed; --overwrite begins anew"
        )
    for key, split, label in writer.rows():
        plan.keep(Sample({}, label, split, key))
    logger.info("going on after %s with %s", counted(int(done), "task"), counted(len(writer), "sample"))
    return int(done)


class _Begun:
    """The tasks that a plan wants.

    Attributes:
        places: of those that were begun and are not done, first to last: the number of tasks up to each, those that
            were not wanted among them, and the checksum of these.
    """

    def __init__(self, plan: Plan, tasks: Iterable[Any], done: int, seen: _Seen) -> None:
        self._wanted, self._tasks, self._done, self._seen = plan.wanted, tasks, done, seen
        self.places: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[Any]:
        for place, task in enumerate(self._tasks, self._done + 1):
            self._seen.add(task)
            if self._wanted(task):
                self.places.append((place, self._seen.digest()))
                yield task


class _Seen:
    """A checksum of tasks, in their order: of all that they say, such as the split and the camera of a crop."""

    def __init__(self, tasks: Iterable[Any] = ()) -> None:
        self._hash = hashlib.sha256()
        for task in tasks:
            self.add(task)

    def add(self, task: Any) -> None:
        self._hash.update(repr(task).encode("utf-8", "surrogatepass") + b"\n")

    def digest(self) -> str:
        return self._hash.hexdigest()


def _add(result: Result, writer: PreparedWriter) -> Skip | None:
    """Write a sample; returns the skip that it is, or has become because the writer refused it."""
    if isinstance(result, Skip):
        return result
    try:
        writer.add(result)
    except DataError as error:
        return Skip(result.key, str(error))
    return None


@dataclass
class Findings:
    """What a check found.

    Attributes:
        samples: by split and class.
        skipped: all that could not be used.
        implausible: samples whose depth cannot be in the stated unit.
        empty_depth: samples whose depth has no reading at all.
    """

    samples: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: list[Skip] = field(default_factory=list)
    implausible: list[Skip] = field(default_factory=list)
    empty_depth: int = 0

    @property
    def bad(self) -> list[Skip]:
        """Everything that is wrong, in order of kind."""
        return [*self.skipped, *self.implausible]


def check_plan(plan: Plan, *, workers: int = 1, limit: int | None = None, shard: tuple[int, int] = (0, 1)) -> Findings:
    """Read all of a source without writing anything: counts, sizes, and whether depth is plausible in its unit.

    Args:
        plan: the work.
        workers, limit, shard: as for :func:`write_plan`.
    """
    found = Findings(skipped=[*plan.skipped, *plan.doubtful])
    keys: set[str] = set()
    for result in (result for _, some in make_samples(plan, workers, shard) for result in some):
        if isinstance(result, Skip):
            found.skipped.append(result)
            continue
        if limit is not None and len(keys) >= limit:
            break
        if result.key in keys:
            found.skipped.append(Skip(result.key, "this key was there before"))
            continue
        keys.add(result.key)
        found.samples[result.split, plan.classes[result.label] if result.label >= 0 else UNLABELLED] += 1
        for median in _medians(result):
            found.empty_depth += np.isnan(median)
            if not np.isnan(median) and not PLAUSIBLE_MM[0] <= median <= PLAUSIBLE_MM[1]:
                reason = f"median depth {median / 1000:.3g} m; 0.1 to 20 m is plausible: is the depth unit right?"
                found.implausible.append(Skip(result.source or result.key, reason))
    return found


def _medians(sample: Sample) -> list[float]:
    """Median depth in mm of each metric depth picture, NaN without a reading."""
    found = []
    for image in sample.images.values():
        if image.dtype == np.uint16:
            readings = image[image > 0]
            found.append(float(np.median(readings)) if len(readings) else float("nan"))
    return found


def _judge(medians: list[float]) -> None:
    known = [median for median in medians if not np.isnan(median)]
    if medians and not known:
        logger.warning("no depth picture has a single reading")
    elif known and not PLAUSIBLE_MM[0] <= (middle := float(np.median(known))) <= PLAUSIBLE_MM[1]:
        logger.warning(
            "in half of the crops the median depth is %.3g m or %s; 0.1 to 20 m is plausible: is the depth unit right?",
            middle / 1000, "less" if middle < PLAUSIBLE_MM[0] else "more",
        )  # fmt: skip


def _in_order(
    make: Callable[[Any], Iterable[Result]], tasks: Iterator[Any], workers: int
) -> Iterator[tuple[str, list[Result]]]:
    if workers <= 1:
        yield from (_make_one(make, task) for task in tasks)
        return
    chunks = iter(lambda: list(islice(tasks, _CHUNK)), [])
    yield from in_order(partial(_make_chunk, make), chunks, workers, start_worker)


def _make_chunk(make: Callable[[Any], Iterable[Result]], tasks: list[Any]) -> list[tuple[str, list[Result]]]:
    return [_make_one(make, task) for task in tasks]


def _make_one(make: Callable[[Any], Iterable[Result]], task: Any) -> tuple[str, list[Result]]:
    try:
        return _key(task), list(make(task))
    except Exception as error:  # one bad file must not end a job of hours
        return _key(task), [Skip(_key(task), f"{type(error).__name__}: {error}")]


def _key(task: Any) -> str:
    """The name of a task."""
    return str(getattr(task, "key", None) or str(task)[:200])
