"""A tiny prepared set, settings that train on it in seconds, and processes that run, or are killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl_core import train
from mmcl_core.config import Config, load
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine.onnx import OLDEST_TORCH

SIDE = 32
CLASSES = ("bar", "disc", "frame")


def needs_onnx() -> None:
    """Skip a test, or a module of tests, where no ONNX file can be written and read."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"the onnx back end needs {name}: pip install 'mmcl_ros[onnx]'")
    oldest = ".".join(map(str, OLDEST_TORCH))
    pytest.importorskip("torch", minversion=oldest, reason=f"writing ONNX files needs PyTorch {oldest} or newer")


def picture(label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 [S, S, 3] and depth uint16 [S, S] of a shape that both show, with its own colour and distance."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-3, 3, (2, 1, 1))
    inside = (np.abs(y) < 5, np.hypot(x, y) < 10, np.maximum(abs(x), abs(y)) > 9)[label]
    colour = np.array(((200, 60, 60), (60, 200, 60), (60, 60, 200))[label])
    rgb = np.where(inside[..., None], colour, 100) + rng.normal(0, 12, (SIDE, SIDE, 3))
    depth = np.where(inside, (600, 750, 900)[label], 1050) + rng.normal(0, 4, (SIDE, SIDE))
    return rgb.clip(0, 255).astype(np.uint8), depth.astype(np.uint16)


def make_set(root: Path, samples: int = 40, missing: bool = False, unlabelled: int = 0) -> Path:
    """A set with splits train and test; with ``missing`` every third sample lacks depth, every fifth RGB."""
    rng = np.random.default_rng(0)
    with PreparedWriter(root, classes=CLASSES, size=SIDE, modalities=("rgb", "depth"), description={}) as writer:
        for number in range(samples + 12):
            label = number % len(CLASSES)
            rgb, depth = picture(label, rng)
            images = {"rgb": rgb, "depth": depth}
            if missing and number % 3 == 0:
                del images["depth"]
            elif missing and number % 5 == 0:
                del images["rgb"]
            split = "train" if number < samples else "test"
            label = -1 if number < unlabelled else label
            writer.add(Sample(images, label, split, f"s{number:03d}", camera=(30.0, 30.0, 15.5, 15.5)))
    return root


def settings(root: Path, *overrides: str) -> Config:
    """Settings of a network of some thousand weights, in float32 on one thread."""
    basic = (
        f"data.root={root}",
        "data.val_fraction=0.2",
        "model.input_size=32",
        "model.ndf=8",
        "model.nrkhs=32",
        "model.depth=1",
        "model.head_hidden=16",
        "model.depth_encoding=replicate",
        "model.depth_range_m=[0.5, 1.2]",
        "augment.rgb_ops=1",
        "augment.depth_ops=1",
        "augment.scale=[0.6, 1.0]",
        "optim.warmup_steps=4",
        "optim.lr=1e-3",
        "train.epochs=2",
        "train.batch=8",
        "train.device=cpu",
        "train.threads=1",
        "train.precision=float32",
        "train.log_every=3",
    )
    return load(None, [*basic, *overrides])


@contextlib.contextmanager
def stopped_after_an_epoch() -> Iterator[None]:
    """Trainings in the block are asked to stop when their first epoch is over."""
    from mmcl_core.engine.trainer import Trainer

    def stop(trainer: Any, epoch: int, end_epoch: Any = Trainer._end_epoch) -> None:
        trainer.stopping = True
        end_epoch(trainer, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", stop)
        yield


def start(target, *arguments, **environment):
    """Run ``target(*arguments)`` in a process of its own, forked from one that has imported torch but run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcl_core.engine.trainer", "mmcl_core.augment", "tqdm", "safetensors.torch"])
    process = context.Process(target=_child, args=(target, arguments, environment))
    process.start()
    return process


def _child(target, arguments, environment):
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", **environment})
    status = target(*arguments)
    raise SystemExit(status if isinstance(status, int) else 0)


def free_port() -> int:
    """A TCP port that nobody uses at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


RESULTS = ("weights.safetensors", "metrics.jsonl", "metrics.csv")


def run_command(*arguments, until=None, do=None):
    """Exit status of the command in a process of its own; ``do(process)`` when ``until()`` holds."""
    process = start(train.main, [str(argument) for argument in arguments])
    while until is not None and process.exitcode is None and not until():
        time.sleep(0.002)
    if do is not None and process.exitcode is None:
        do(process)
    process.join()
    return process.exitcode


def read(run):
    """What two trainings that are the same have in common, by the name of the file."""
    return {name: (run / name).read_bytes() for name in RESULTS}


def length(path):
    """Bytes of a file, 0 where there is none yet."""
    return path.stat().st_size if path.exists() else 0


def workers_of(parent):
    """Process ids of the spawned workers of a process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"PPid:\t{parent}\n" in (place / "status").read_text()
                and b"spawn_main" in (place / "cmdline").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def alive(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_for(condition, seconds=120.0):
    """Whether something is so, now or some time later."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def start_and_kill(words, ready, number=signal.SIGKILL, count=2):
    """Start a python command, kill it as soon as ``ready()``, and see that its ``count`` workers end, too."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, *map(str, words)], env=environment, stderr=subprocess.DEVNULL)
    workers = []
    try:
        assert wait_for(lambda: process.poll() is not None or ready())
        workers = workers_of(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=60) == -number
        assert len(workers) == count
        assert wait_for(lambda: not any(map(alive, workers)), 30), "workers outlive the process that was killed"
    finally:
        process.kill()
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)
