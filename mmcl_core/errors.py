"""The errors that users of the package see.

Every message says what is wrong, where, and what to do about it. All of them derive from
:class:`MmclError`, so that a program around the package can catch one class; those that are about a
value somebody passed are :class:`ValueError` too.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "MmclError",
    "RunInterruptedError",
    "TrainingError",
    "UntrainedModalityError",
    "out_of_memory",
]

#: What PyTorch on a GPU and on the host, what lies below them, ONNX Runtime and OpenCV say where memory is short.
_SHORT = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "insufficient memory"),
    *("alloc_failed", "failed to allocate memory", "is smaller than requested bytes"),
)


class MmclError(Exception):
    """Base class of all errors raised on purpose by this project."""


class ConfigError(MmclError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class DataError(MmclError, ValueError):
    """A data set on disk is missing, truncated, edited, or not in the stated layout."""


class InputError(MmclError, ValueError):
    """A picture or array handed to the recogniser or a network has the wrong shape, type or unit."""


class UntrainedModalityError(MmclError, ValueError):
    """A modality was asked for that the model never saw in training."""


class CheckpointError(MmclError, ValueError):
    """A weights file or training state is missing, corrupt, or made for another model."""


class TrainingError(MmclError, RuntimeError):
    """Training, or an evaluation, cannot go on: non-finite loss, out of memory, or a process that was lost."""


class RunInterruptedError(TrainingError):
    """The run was asked to stop, saved its state, and can be resumed."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the machine or of a GPU, whatever raised it."""
    if isinstance(error, MmclError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _SHORT)
