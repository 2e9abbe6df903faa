"""The model as the ROS side sees it: what is used of it, and how it is loaded."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["RecognizerLike", "free_gpu", "load_model"]


class RecognizerLike(Protocol):
    """What is used of :class:`mmcl_core.recognizer.Recognizer`."""

    model_id: str

    @property
    def backend(self) -> str:
        """What runs the network."""

    @property
    def device(self) -> str:
        """Where it runs."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""

    @property
    def modalities(self) -> Sequence[str]:
        """``rgb``, ``depth``, or both."""

    @property
    def takes_distances(self) -> bool:
        """Whether depth is what a sensor gives, and not a picture prepared from it."""

    @property
    def uses_camera(self) -> bool:
        """Whether answers from depth differ with its camera."""

    def recognize(self, rgb: Any = None, depth: Any = None, camera: Any = None, top_k: int = 5) -> Any:
        """Probabilities and embeddings of a batch of crops."""


def free_gpu() -> None:
    """Give back to other processes what memory of the GPU nothing uses any more."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def load_model(path: str, **settings: Any) -> RecognizerLike:
    """Load a model; PyTorch is imported only now.

    Args:
        path: as of :meth:`mmcl_core.recognizer.Recognizer.load`, as are ``settings``.

    Raises:
        MmclError: there is no model that can be used, or it cannot be run that way.
    """
    from mmcl_core.recognizer import Recognizer

    return Recognizer.load(path, **settings)
