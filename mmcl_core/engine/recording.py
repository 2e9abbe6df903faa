"""The forward and backward pass of an update, recorded once on a GPU and played from then on (CUDA graphs).

A pass starts some thousand operations, which takes one thread of the host longer than they take the GPU. Played back
they are started at once. What is recorded reads and writes the same memory each time: the batch is copied to where the
recording looks for it, and gradients and loss terms are where it left them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from mmcl_core.augment import Picture
from mmcl_core.config import Config
from mmcl_core.errors import TrainingError, out_of_memory
from mmcl_core.methods.base import Method, Stage, ViewBatch

__all__ = ["RecordedPass", "batch_tensors", "can_record"]

#: Passes before the recording: compilers and the search for the fastest convolution have their say first.
WARM_UP = 3


def can_record(
    config: Config, method: Method, stage: Stage, incomplete: Collection[str], device: torch.device, processes: int
) -> bool:
    """Whether every step of a stage starts the same operations on a GPU and waits for none of their results.

    Args:
        config: of the run.
        method: of the run.
        stage: one of its stages.
        incomplete: modalities that some samples lack, so that batches differ in what they hold.
        device: where training happens.
        processes: that train together.
    """
    train = config.train
    return (
        (train.cuda_graph == "auto" and device.type == "cuda" and processes == 1)
        and (method.recordable and len(stage.updates) == 1 and train.accumulate == 1)
        and set(method.views(stage).values()).isdisjoint(incomplete)
        and config.model.depth_encoding != "hha"  # its eigenvectors are checked by the host
        and train.batch <= config.loss.chunk  # else parts of the loss are computed twice, each in its own time
    )


class RecordedPass:
    """Calls a function as it is a few times, then records and plays it.

    Args:
        run: from a batch to the loss terms, by name; leaves the gradients in the parameters, which have none before.
            What it does on the device must not depend on values that are there, nor wait for them.
        parameters: those whose gradients it leaves.
    """

    def __init__(self, run: Callable[[ViewBatch], dict[str, Tensor]], parameters: Sequence[nn.Parameter]) -> None:
        self._run, self._parameters = run, parameters
        self._calls = 0
        self._graph = torch.cuda.CUDAGraph()
        self._batch: ViewBatch
        self._terms: dict[str, Tensor]
        self._gradients: list[Tensor | None]

    def __call__(self, batch: ViewBatch) -> dict[str, Tensor]:
        """The loss terms of a batch of the shape of all others, good until the next call.

        Raises:
            TrainingError: the function cannot be recorded.
        """
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._run(batch)
        if self._calls == WARM_UP + 1:
            self._record(batch)
        for mine, theirs in zip(batch_tensors(self._batch), batch_tensors(batch), strict=True):
            mine.copy_(theirs)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._terms

    def _record(self, batch: ViewBatch) -> None:
        """Record the function; nothing is computed yet."""
        self._batch = _copied(batch)
        try:
            # The thread that augments goes on allocating memory meanwhile, which is none of the recording's business.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._terms = self._run(self._batch)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise TrainingError(
                f"an update could not be recorded as a CUDA graph ({str(error).splitlines()[0]}); "
                "set train.cuda_graph=off to start each operation by itself"
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]


def batch_tensors(batch: ViewBatch) -> Iterator[Tensor]:
    """All tensors of a batch, in a fixed order."""
    for view in batch.pictures:
        yield from (batch.pictures[view].image, batch.pictures[view].camera)
    yield from batch.present.values()
    yield from (batch.labels, batch.index)
    yield from batch.draws.values()


def _copied(batch: ViewBatch) -> ViewBatch:
    return ViewBatch(
        {view: Picture(picture.image.clone(), picture.camera.clone()) for view, picture in batch.pictures.items()},
        {view: mask.clone() for view, mask in batch.present.items()},
        batch.labels.clone(),
        batch.index.clone(),
        {name: value.clone() for name, value in batch.draws.items()},
    )
