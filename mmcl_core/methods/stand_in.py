"""What the methods share in which a second stream stands in for a modality that is missing at test time.

Two modalities are trained with and one, the target, is answered for: from the logits of its own stream and of a stream
that looks at a generated picture (:mod:`mmcl_core.methods.pix2pix`), or that was taught to see in the picture of the
target what another stream sees in the missing one (:mod:`mmcl_core.methods.admd`,
:mod:`mmcl_core.methods.hallucination`). The answer is the mean of the two logits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmcl_core.augment import Augmenter, Picture
from mmcl_core.config import OptimConfig
from mmcl_core.errors import ConfigError
from mmcl_core.method_config import TeacherConfig
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classification_term, classify_alone, complete, nothing, require_labels, unclipped
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.streams import Look, StreamsNetwork, copy_stream

__all__ = ["HALLUCINATION", "StandIn", "TaughtStandIn", "answer", "embedding", "plain_adam"]

#: Name of the stream that is taught to see what is missing.
HALLUCINATION = "hallucination"
#: Stages whose pictures of a sample must show the same crop.
REGISTERED = ("gan", "hallucinate")


class StandIn(Method):
    """Two streams for one modality. Plain cross-entropy on the head that answers (``model.predict_with``)."""

    backbones = ("encoder", "resnet18", "resnet50")
    pairs = True

    def check(self) -> None:
        """Refuse other than two modalities, several targets, and training without labels."""
        train = self.config.train
        if len(train.modalities) != 2:
            raise ConfigError(
                f"method {self.name} hallucinates one modality from another, but train.modalities is "
                f"{list(train.modalities)}; name two"
            )
        if train.target == "both":
            raise ConfigError(
                f"method {self.name} trains for one modality at test time and hallucinates the other, but train.target "
                f"is both; choose {' or '.join(train.modalities)} (for the other a run of its own)"
            )
        require_labels(self)

    @property
    def target(self) -> str:
        """The modality that is there at test time."""
        return self.config.train.target

    @property
    def missing(self) -> str:
        """The modality that is there in training only."""
        return next(name for name in self.config.train.modalities if name != self.target)

    def make_network(
        self,
        streams: Mapping[str, str],
        looks: Sequence[Look],
        generators: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> StreamsNetwork:
        """The network that answers for the target."""
        return StreamsNetwork(self.config.model, len(self.classes), streams, {self.target: looks}, generators)

    def deployed(self, system: nn.Module) -> StreamsNetwork:
        """The streams that answer, and what they need."""
        network = system.get_submodule("network")
        assert isinstance(network, StreamsNetwork)
        return network

    @abstractmethod
    def real_stream(self, system: nn.Module) -> RecognitionModel:
        """The stream that is trained on real pictures of the missing modality."""

    def predict(self, system: nn.Module, picture: Picture, modality: str) -> Tensor:
        """Class logits [B, C]; of the target's own stream alone until its companion was trained."""
        network = self.deployed(system)
        alone = modality not in network.trained_modalities()
        answering = network.stream(self.target) if alone else network
        logits: Tensor = answering(picture.image, modality, picture.camera)[0]
        return logits

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality."""
        return {self.target: self.target, self.missing: self.missing}

    def plain(self, stage: Stage) -> tuple[str, ...]:
        """Views that are cropped and flipped and not augmented further."""
        return ()

    def augmenter(self, stage: Stage) -> Augmenter:
        """As for all methods, but where one modality is learnt from the other, both show the same crop."""
        model, views = self.config.model, self.views(stage)
        return Augmenter(
            self.config.augment,
            model.input_size,
            views,
            model.depth_range_m,
            aligned=stage.name in REGISTERED,
            plain=self.plain(stage),
        )

    def alone(self, system: nn.Module, batch: ViewBatch) -> dict[str, Tensor]:
        """Each stream classifies the pictures of its modality: one term for each. They share nothing."""
        streams = {self.target: self.deployed(system).stream(self.target), self.missing: self.real_stream(system)}
        return classify_alone(streams, batch, self.config.loss, self.config.model.predict_with)

    def joint(self, scores: Sequence[Tensor], pair: ViewBatch) -> Tensor:
        """Classification loss of the mean of several streams' logits [B, C]."""
        mean = torch.stack([one.float() for one in scores]).mean(0)
        return classification_term(mean, pair.labels, unclipped(self.config.loss), pair.mean_labelled())


class TaughtStandIn(StandIn):
    """A hallucination stream that is fed the target and taught by a stream that is fed the missing modality.

    Stages: ``alone``, each stream on its own; ``together``, the mean of the two streams' logits, at a lower rate;
    ``hallucinate``, for ``train.epochs``, the hallucination stream, which starts as a copy of its teacher, while all
    other streams are frozen; ``finetune``, the mean of the logits that will answer, at the lower rate. In
    ``hallucinate`` the pictures of a sample show the same crop, and the teacher's is not augmented further: what the
    teacher sees must be there to be seen.

    Attributes:
        taught: names of the loss terms of each update of ``hallucinate``.
    """

    taught: ClassVar[dict[str, tuple[str, ...]]]

    def check(self) -> None:
        """Refuse a teacher that was not taught."""
        super().check()
        if self.settings.alone_epochs + self.settings.together_epochs < 1:
            raise ConfigError(
                f"method {self.name} needs a trained teacher, and {self.name}.alone_epochs and together_epochs are 0; "
                "set one of them"
            )

    @property
    @abstractmethod
    def settings(self) -> TeacherConfig:
        """The method's own section of the settings."""

    @abstractmethod
    def hallucinate_updates(self) -> tuple[Update, ...]:
        """What is trained in the stage ``hallucinate``."""

    @abstractmethod
    def teach(self, system: nn.Module, pair: ViewBatch, update: Update) -> dict[str, Tensor]:
        """Loss terms of the stage ``hallucinate`` on samples that have both modalities."""

    def build(self) -> nn.Module:
        """The streams that answer, and the teacher."""
        streams = {self.target: self.target, HALLUCINATION: self.target}
        return nn.ModuleDict(
            {
                "network": self.make_network(streams, [Look(self.target), Look(HALLUCINATION)]),
                "teacher": RecognitionModel(self.config.model, (self.missing,), len(self.classes), ()),
            }
        )

    def load_start(self, system: nn.Module) -> None:
        """The teacher starts as the other streams do."""
        super().load_start(system)
        if self.config.model.init_from:
            self.real_stream(system).init_from(self.config.model.init_from)

    def real_stream(self, system: nn.Module) -> RecognitionModel:
        """The teacher."""
        teacher = system.get_submodule("teacher")
        assert isinstance(teacher, RecognitionModel)
        return teacher

    def stages(self) -> tuple[Stage, ...]:
        """The stages; those of no epochs are left out."""
        settings, optim = self.settings, self.config.optim
        gentle = replace(optim, lr=settings.finetune_rate * optim.lr)
        real = (f"network.streams.{self.target}.", "teacher.")
        stages = (
            Stage("alone", settings.alone_epochs, (Update(optim, real),)),
            Stage("together", settings.together_epochs, (Update(gentle, real),)),
            Stage("hallucinate", self.config.train.epochs, self.hallucinate_updates()),
            Stage("finetune", settings.finetune_epochs, (Update(gentle, ("network.streams.",)),)),
        )
        return tuple(stage for stage in stages if stage.epochs)

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality; of the target alone where both streams look at it."""
        return {self.target: self.target} if stage.name == "finetune" else super().views(stage)

    def plain(self, stage: Stage) -> tuple[str, ...]:
        """What a teacher looks at."""
        return (self.missing,) if stage.name == "hallucinate" else ()

    def start_stage(self, system: nn.Module, stage: Stage) -> None:
        """The hallucination stream starts as a copy of its teacher."""
        if stage.name == "hallucinate":
            copy_stream(self.real_stream(system), self.deployed(system).stream(HALLUCINATION))

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """See :class:`TaughtStandIn`; samples that lack a modality count where theirs is enough."""
        if stage.name == "alone":
            return self.alone(system, batch)
        network = self.deployed(system)
        pair = complete(batch, tuple(self.views(stage)))
        if stage.name == "hallucinate":
            terms = self.taught[update.name]
            return self.teach(system, pair, update) if pair else dict.fromkeys(terms, nothing(system))
        if pair is None:
            return {"class": nothing(system)}
        own, _ = answer(network.stream(self.target), pair, self.target)
        if stage.name == "together":
            other, _ = answer(self.real_stream(system), pair, self.missing)
        else:
            other, _ = answer(network.stream(HALLUCINATION), pair, self.target)
        return {"class": self.joint([own, other], pair)}


def answer(stream: RecognitionModel, batch: ViewBatch, view: str) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and embeddings [B, R] of a stream that looks at a view."""
    picture = batch.pictures[view]
    logits, embedding = stream(picture.image, stream.modalities[0], picture.camera)
    return logits, embedding


def embedding(stream: RecognitionModel, batch: ViewBatch, view: str) -> Tensor:
    """Embeddings [B, R] of a stream that looks at a view."""
    picture = batch.pictures[view]
    return stream.features(picture.image, stream.modalities[0], picture.camera, levels=()).f1


def plain_adam(optim: OptimConfig, lr: float, betas: tuple[float, float]) -> OptimConfig:
    """Adam at a constant rate, as the publications of adversarial methods use; averaging of weights stays as set."""
    return replace(optim, name="adam", lr=lr, betas=betas, weight_decay=0.0, warmup_steps=0, schedule="constant")
