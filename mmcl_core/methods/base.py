"""What a method is: its networks, its stages, the pictures it needs, and its losses.

The trainer knows nothing else. A method is one module with one class; it is made known by one line in
:data:`mmcl_core.methods.METHODS`. The simplest method gives :meth:`Method.views` and :meth:`Method.losses` and one
stage. Those with more to them find room here as well:

* several networks: :meth:`Method.build` returns a module that holds all, :meth:`Method.deployed` the one to be used:
  any :class:`mmcl_core.nn.network.Network`. Where several answer together, that is a
  :class:`mmcl_core.nn.streams.StreamsNetwork`; what only training needs (discriminators, teachers, memory) stands
  beside it in the module, and is not deployed;
* a ResNet in the place of the encoder: a method that can do with f1 alone says so in :attr:`Method.backbones`;
* memory banks: buffers of that module, addressed by :attr:`ViewBatch.index`; they are saved and resumed with it;
* adversaries: a stage with several :class:`Update` s, each with its parameters, optimiser settings and losses;
* pictures that training makes itself: :meth:`Method.add_views`;
* stages that start from one another: :meth:`Method.start_stage`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmcl_core.augment import Augmenter, Picture
from mmcl_core.config import Config, OptimConfig
from mmcl_core.data.batches import Batch
from mmcl_core.errors import ConfigError
from mmcl_core.nn.gather import total
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.network import Network
from mmcl_core.nn.resnet import ResNetEncoder

__all__ = ["Method", "Stage", "Update", "ViewBatch", "parts_of_one_step"]


@dataclass(frozen=True)
class Update:
    """One optimiser and what it changes; a step of a stage works off its updates in order.

    Attributes:
        optim: settings of optimiser and schedule.
        trainable: beginnings of the names of the parameters it changes; ``""`` is all of them.
        name: tells several updates of a stage apart.
    """

    optim: OptimConfig
    trainable: tuple[str, ...] = ("",)
    name: str = "main"

    def selects(self, parameter: str) -> bool:
        """Whether the parameter of this name is changed."""
        return parameter.startswith(self.trainable)


@dataclass(frozen=True)
class Stage:
    """A part of the training with optimisers and a schedule of its own.

    Attributes:
        name: as it appears in the log.
        epochs: passes over the training samples.
        updates: at least one. Networks that none of them changes are frozen: no gradient, and BatchNorm takes its
            running statistics and leaves them alone.
        validates: whether predictions mean something in this stage and are validated.
        self_supervised: whether the embeddings are probed (``train.probe``).
    """

    name: str
    epochs: int
    updates: tuple[Update, ...]
    validates: bool = True
    self_supervised: bool = False


@dataclass
class ViewBatch:
    """The samples of one (part of a) step on this process, augmented.

    Attributes:
        pictures: by view; each holds all B samples, those without the modality as blanks.
        present: by view, bool [B]: samples that have the modality. A view that all samples of the data set have is
            absent here, which spares the selection.
        labels: int64 [B]; -1 is unlabelled.
        index: int64 [B], row of each sample in the prepared set.
        draws: the method's own random numbers, see :meth:`Method.draw`; leading dimension B.
        parts: all parts of the step, this one among them, without their pictures; empty where it is the only one.
    """

    pictures: dict[str, Picture]
    present: dict[str, Tensor]
    labels: Tensor
    index: Tensor
    draws: dict[str, Tensor] = field(default_factory=dict)
    parts: tuple[ViewBatch, ...] = ()

    def rows(self, view: str) -> Tensor | None:
        """Numbers of the samples that have the view, int64 [n]; ``None`` for all."""
        mask = self.present.get(view)
        return None if mask is None else mask.nonzero().squeeze(1)

    def mean_labelled(self, labels_of: Callable[[ViewBatch], Tensor] = lambda part: part.labels) -> Tensor:
        """Labelled samples of a part, on average; a classification loss summed over a part is divided by it.

        The mean of the parts' quotients is then the mean over all labels of the step, however unevenly they are spread.

        Args:
            labels_of: gives the labels, int64, of the samples of a part that the loss is about; default: all.

        Returns:
            The mean over the parts of the number of samples with a label, of all processes, > 0.
        """
        parts = self.parts or (self,)
        return total(torch.stack([(labels_of(part) >= 0).sum() for part in parts]).sum()).clamp(min=1) / len(parts)


def parts_of_one_step(parts: Sequence[ViewBatch]) -> list[ViewBatch]:
    """The parts of a step, each knowing all of them."""
    if len(parts) == 1:
        return list(parts)
    known = tuple(replace(part, pictures={}) for part in parts)
    return [replace(part, parts=known) for part in parts]


class Method(ABC):
    """One way to train a recogniser.

    Args:
        config: all settings.
        classes: names of the classes.
        samples: number of samples in the prepared set.
        rows: those of them that are trained on, rows in the set (for memory banks).
        labelled: whether any of these has a label in the set.

    Attributes:
        name: as in :data:`mmcl_core.methods.METHODS`.
        backbones: choices of ``model.backbone`` that it works with.
        labels_alone: whether samples without a label teach it nothing.
        pairs: whether what it does beside classification needs samples that have several of its modalities.
        contrasts: whether it has the contrastive loss that ``loss`` is about.
        version: raised when the same settings train something else than before, so that no sweep takes an earlier run
            for one of today.
        labelled: whether any training sample has a label in this run; if not, there is no classifier to train.
        recordable: whether :meth:`losses` starts the same operations at every step of a stage with one update, on
            complete samples, whatever the values are (:mod:`mmcl_core.engine.recording`).

    Raises:
        ConfigError: see :meth:`check`, or a ``model.backbone`` that is not among ``backbones``.
    """

    name: ClassVar[str]
    backbones: ClassVar[tuple[str, ...]] = ("encoder",)
    labels_alone: ClassVar[bool] = False
    pairs: ClassVar[bool] = False
    contrasts: ClassVar[bool] = False
    version: ClassVar[int] = 1
    recordable: ClassVar[bool] = False

    def __init__(
        self,
        config: Config,
        classes: Sequence[str],
        samples: int = 0,
        rows: Sequence[int] | NDArray[np.int64] = (),
        labelled: bool = True,
    ) -> None:
        self.config = config
        self.labelled = labelled and config.data.label_share > 0
        self.classes = tuple(classes)
        self.samples = samples
        self.rows = rows
        if config.model.backbone not in self.backbones:
            raise ConfigError(
                f"method {self.name} needs the feature maps of the project's encoder and model.backbone is "
                f"{config.model.backbone}; choose model.backbone=encoder, or a method that uses the embedding alone "
                "(such as supervised)"
            )
        self.check()

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities that are classified: ``train.target``, all of ``train.modalities`` for ``both``."""
        train = self.config.train
        return train.modalities if train.target == "both" else (train.target,)

    def check(self) -> None:  # noqa: B027 - a hook, empty by default
        """Refuse settings that this method cannot work with.

        Raises:
            ConfigError: with the setting to change.
        """

    def modalities(self) -> tuple[str, ...]:
        """The modalities that training reads and the network keeps statistics for."""
        return self.config.train.modalities

    def build(self) -> nn.Module:
        """All networks of the method in one module; random numbers come from the global generator."""
        return RecognitionModel(self.config.model, self.modalities(), len(self.classes), self.feature_heads())

    def feature_heads(self) -> tuple[int, ...]:
        """Levels whose embedding heads the losses use: those in ``loss.level_pairs``; none if f1 alone will do."""
        if self.backbones != Method.backbones:
            return ()
        return tuple(sorted({int(level) for pair in self.config.loss.level_pairs for level in pair.split("-")} - {1}))

    def load_start(self, system: nn.Module) -> None:
        """Take over the weights that training starts from: ``model.init_from`` and ``model.backbone_weights``.

        Raises:
            CheckpointError: no such file, or one that does not fit.
            ConfigError: a network that cannot start from another's encoder.
        """
        model = self.config.model
        if model.init_from:
            self.deployed(system).init_from(model.init_from)
        if model.backbone_weights:
            for module in system.modules():
                if isinstance(module, ResNetEncoder):
                    module.load_torchvision(model.backbone_weights)

    def stages(self) -> tuple[Stage, ...]:
        """The stages, in order; by default one that trains everything."""
        return (Stage("train", self.config.train.epochs, (Update(self.config.optim),)),)

    @abstractmethod
    def views(self, stage: Stage) -> dict[str, str]:
        """The pictures a stage needs of every sample: name of the view -> modality it is drawn from."""

    def augmenter(self, stage: Stage) -> Augmenter:
        """How these views are made."""
        model = self.config.model
        return Augmenter(self.config.augment, model.input_size, self.views(stage), model.depth_range_m)

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """Random numbers of the losses for a global batch: tensors [batch, ...], on the CPU."""
        return {}

    def add_views(self, system: nn.Module, samples: Batch, batch: ViewBatch, stage: Stage) -> ViewBatch:
        """Called with every (part of a) step: adds pictures that the method itself makes of the samples."""
        return batch

    @abstractmethod
    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """Loss terms of an update, scalars by name; their sum is minimised. The names do not depend on the batch."""

    def start_stage(self, system: nn.Module, stage: Stage) -> None:  # noqa: B027 - a hook, empty by default
        """Called when a stage starts (not when it is resumed): copy weights between networks, reset heads.

        What it leaves behind must be in the system, whose weights and buffers are saved.
        """

    def deployed(self, system: nn.Module) -> Network:
        """The network that is saved and used for recognition."""
        assert isinstance(system, Network)
        return system

    def compiled(self, system: nn.Module) -> tuple[nn.Module, ...]:
        """The parts worth compiling."""
        return self.deployed(system).encoders()

    def predict(self, system: nn.Module, picture: Picture, modality: str) -> Tensor:
        """Class logits [B, C] of test pictures of one modality."""
        logits: Tensor = self.deployed(system)(picture.image, modality, picture.camera)[0]
        return logits

    def embed(self, system: nn.Module, picture: Picture, modality: str) -> Tensor:
        """Embeddings [B, R] of test pictures of one modality, which a self-supervised stage is probed by."""
        return self.deployed(system).features(picture.image, modality, picture.camera, levels=()).f1
