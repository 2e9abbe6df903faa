"""Which processor, which number format, and how one step is made fast on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from mmcl_core.backend_torch import pick_device, set_float32
from mmcl_core.config import TrainConfig
from mmcl_core.errors import ConfigError, TrainingError, UntrainedModalityError, out_of_memory

__all__ = [
    "compiles",
    "multiplies_bf16",
    "pick_precision",
    "prepare_device",
    "tell_of_memory",
    "train_device",
    "translate_errors",
    "uncompiled",
]


def train_device(name: str) -> torch.device:
    """The device of ``train.device``: ``auto`` is this process's GPU where there is one, else the CPU.

    Raises:
        ConfigError: not a device torch knows, a GPU that is not there, or a single one for several processes.
    """
    local, processes = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and name.startswith("cuda:"):
        raise ConfigError(f"train.device is {name!r}, one GPU for {processes} processes; take cuda or auto")
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return pick_device(name, "train.device")
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} found); "
            "lower --nproc-per-node"
        )
    return torch.device("cuda", local)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products, so that they are faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def pick_precision(train: TrainConfig, device: torch.device) -> str:
    """``bf16`` or ``float32``: what is asked for, or for ``auto`` what the device multiplies faster."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if multiplies_bf16(device) else "float32"


def compiles(train: TrainConfig, device: torch.device) -> bool:
    """Whether networks are compiled: as asked, or for ``auto`` on GPUs (on a CPU it costs more than it saves)."""
    return train.compile == "on" or (train.compile == "auto" and device.type == "cuda")


def uncompiled(train: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compiled networks answer as they are, in a ``with`` block: compiling them once more for that takes longer."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return stance("force_eager") if stance and compiles(train, device) else contextlib.nullcontext()


def prepare_device(train: TrainConfig, device: torch.device, precision: str) -> None:
    """Set the process up: threads on the CPU; convolution search and, beside bf16 alone, TF32 on the GPU."""
    if train.threads > 0:
        torch.set_num_threads(train.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        set_float32(precision)


@contextlib.contextmanager
def tell_of_memory(batch: int) -> Iterator[None]:
    """Turn running out of memory in an evaluation, of so many samples at once, into an error with advice.

    Raises:
        TrainingError: there was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        text = str(error)
        raise TrainingError(
            f"out of memory with {batch} sample(s) at once: evaluate with a lower --batch, end what else uses the "
            f"memory of that device, or take another --device [{text.splitlines()[0] if text else 'host memory'}]"
        ) from error


@contextlib.contextmanager
def translate_errors(train: TrainConfig, size: int) -> Iterator[None]:
    """Turn what a user can do something about into a :class:`TrainingError` with advice.

    That is running out of memory, a lost process, what was not taught, and a compiler that is missing or fails.
    """
    try:
        yield
    except UntrainedModalityError as error:
        raise TrainingError(
            f"a stage needs what was not taught before it: {str(error).partition(';')[0]}. A batch teaches from two "
            "samples of it on: raise train.batch, train on a set in which more samples have it, or start from weights "
            "that know it (model.init_from)"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, TrainingError):
            raise
        text = str(error)
        if out_of_memory(error):
            raise TrainingError(
                f"out of memory with train.batch={train.batch}, train.accumulate={train.accumulate} on {size} "
                "process(es). Raise train.accumulate (each part then has fewer negatives) or lower train.batch; "
                "smaller models (model.ndf, model.depth, model.input_size), train.precision=bf16, a lower loss.chunk "
                f"and data.resident=memmap need less too. [{text.splitlines()[0] if text else 'host memory'}]"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            why = text.splitlines()[0] if text else type(error).__name__
            raise TrainingError(
                f"torch.compile failed ({why}); install a C++ compiler that this PyTorch works with, or start again "
                "with train.compile=off, which is slower"
            ) from error
        lost = ("connection closed by peer", "connection reset", "timed out waiting", "nccl", "gloo")
        if size > 1 and any(words in text.lower() for words in lost):
            raise TrainingError(
                f"a process of the run was lost ({text.splitlines()[0]}); start all {size} again with --resume"
            ) from error
        raise
