"""Several streams, each a network of one modality, that answer together.

Methods that train one stream for each sensor, or a stream that stands in for a missing sensor, deploy this network.
Which streams look at what when a modality is asked about is a rule of plain values, stored with the weights:

====================  ================================================================================================
modality on its own   ``{"rgb": [Look("rgb")], "depth": [Look("depth")]}``
missing one zeroed    ``{"rgb": [Look("rgb"), Look("depth", ZERO)], ...}``
hallucination         ``{"rgb": [Look("rgb"), Look("hallucination")]}``, both streams made for the modality rgb
generated picture     ``{"rgb": [Look("rgb"), Look("depth", "depth_of_rgb")]}`` and the generator ``depth_of_rgb``
====================  ================================================================================================
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmcl_core.config import ModelConfig
from mmcl_core.errors import CheckpointError, UntrainedModalityError
from mmcl_core.modality import InputSpec, to_network_input
from mmcl_core.nn.encoder import LEVELS, Features
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.network import Network

__all__ = ["GENERATORS", "OWN", "ZERO", "Look", "StreamsNetwork", "copy_stream"]

OWN, ZERO = "own", "zero"
"""What a stream looks at: the picture that is asked about, or zeros in the place of its network input."""

#: Kind of a generator -> where its class is, ``module:class``. Its settings are its keyword arguments; it turns
#: network input [B, 3, S, S] of one modality into that of another.
GENERATORS: dict[str, str] = {"unet": "mmcl_core.nn.generator:Generator"}


class Look(NamedTuple):
    """One stream's part in an answer.

    Attributes:
        stream: its name.
        sees: :data:`OWN`, :data:`ZERO`, or the name of the generator whose picture it looks at.
    """

    stream: str
    sees: str = OWN


class StreamsNetwork(Network):
    """Streams, generators, and a rule for each modality; the answer is the mean of the logits of those that look.

    The embedding is that of the first stream that sees the picture itself.

    Args:
        config: settings, the same for all streams.
        classes: number C of classes.
        streams: by name, the modality each is made for, whose network input it gets.
        answers: by modality that can be asked about, who looks at what; at least one looks at the picture itself.
        generators: by name, ``{"kind": key of GENERATORS, "settings": {...}}``.

    Attributes:
        streams: by name, a :class:`RecognitionModel` without feature heads.
        generators: by name.

    Raises:
        ConfigError: a setting that no network can be made of.
        CheckpointError: an unknown kind of generator.
        ValueError: an answer that names a stream or generator that is not there, or a picture that none reads.
    """

    kind = "streams"

    def __init__(
        self,
        config: ModelConfig,
        classes: int,
        streams: Mapping[str, str],
        answers: Mapping[str, Sequence[Look]],
        generators: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.inputs = InputSpec.from_config(config)
        self.streams = nn.ModuleDict(
            {name: RecognitionModel(config, (modality,), classes, ()) for name, modality in streams.items()}
        )
        self._made_of = {name: dict(made) for name, made in (generators or {}).items()}
        self.generators = nn.ModuleDict({name: _make_generator(made) for name, made in self._made_of.items()})
        self.answers = {modality: tuple(Look(*look) for look in looks) for modality, looks in answers.items()}
        self.modalities = tuple(self.answers)
        for modality, looks in self.answers.items():
            if OWN not in {look.sees for look in looks}:
                raise ValueError(f"nobody looks at the picture when {modality} is asked about")
            unknown = {look.stream for look in looks} - set(self.streams)
            unknown |= {look.sees for look in looks} - {OWN, ZERO, *self.generators}
            if unknown:
                raise ValueError(f"the rule for {modality} names {', '.join(sorted(unknown))}, which is not there")

    @classmethod
    def from_description(
        cls,
        config: ModelConfig,
        modalities: Sequence[str],
        classes: int,
        feature_heads: Collection[int],
        description: Mapping[str, Any],
    ) -> StreamsNetwork:
        """See :class:`Network`."""
        return cls(config, classes, description["streams"], description["answers"], description["generators"])

    def description(self) -> dict[str, Any]:
        """The streams, the rules and what the generators are made of."""
        return {
            "kind": self.kind,
            "streams": {name: self.stream(name).modalities[0] for name in self.streams},
            "answers": {modality: [list(look) for look in looks] for modality, looks in self.answers.items()},
            "generators": self._made_of,
        }

    def stream(self, name: str) -> RecognitionModel:
        """The stream of a name."""
        found = self.streams[name]
        assert isinstance(found, RecognitionModel)
        return found

    def features(
        self, picture: Tensor, modality: str, camera: Tensor | None = None, levels: Collection[int] = LEVELS
    ) -> Features:
        """The embedding f1 of raw pictures; streams have no maps."""
        stream = self.stream(next(look.stream for look in self._looks(modality) if look.sees == OWN))
        own = to_network_input(picture, modality, camera, self.inputs)
        embedded: Features = stream.encoder(own, stream.modalities[0], levels=())
        return embedded

    def forward(self, image: Tensor, modality: str, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean of the streams' class scores [B, C], unclipped, and the embedding f1 [B, R] of raw pictures.

        Args:
            image: [B, C, size, size], see :func:`mmcl_core.modality.to_network_input` for units and ranges.
            modality: its name.
            camera: [B, 4] intrinsics of these very pictures, or ``None`` where they are unknown.

        Raises:
            UntrainedModalityError: no rule for the modality or, in evaluation, a stream that was never trained.
        """
        looks = self._looks(modality)
        own = to_network_input(image, modality, camera, self.inputs)
        embeddings, scores = [], []
        for look in looks:
            stream = self.stream(look.stream)
            f1 = stream.encoder(self._seen(look.sees, own), stream.modalities[0], levels=()).f1
            scores.append(stream.logits(f1, stream.modalities[0]))
            if look.sees == OWN:
                embeddings.append(f1)
        logits = scores[0]
        for other in scores[1:]:
            logits = logits + other
        return logits / len(scores), embeddings[0]

    def _looks(self, modality: str) -> tuple[Look, ...]:
        if modality not in self.answers:
            known = ", ".join(self.answers)
            raise UntrainedModalityError(f"the model has no modality {modality!r}; it was made for {known}")
        return self.answers[modality]

    def _seen(self, sees: str, own: Tensor) -> Tensor:
        if sees == OWN:
            return own
        if sees == ZERO:  # outside of training all zeros give the same answer: one is enough
            return torch.zeros_like(own if self.training else own[:1])
        made: Tensor = self.generators[sees](own)
        return made

    def encoders(self) -> tuple[nn.Module, ...]:
        """The encoders of all streams, and the generators."""
        return (*(self.stream(name).encoder for name in self.streams), *self.generators.values())

    def encoded_modalities(self) -> tuple[str, ...]:
        """Those whose embedding comes from a stream that was trained."""
        looked = {m: next(look.stream for look in looks if look.sees == OWN) for m, looks in self.answers.items()}
        return tuple(modality for modality, name in looked.items() if self.stream(name).encoded_modalities())

    def trained_modalities(self) -> tuple[str, ...]:
        """Those whose streams were all trained to classify."""
        trained = {name for name in self.streams if self.stream(name).trained_modalities()}
        return tuple(m for m, looks in self.answers.items() if all(look.stream in trained for look in looks))

    def forget_classifier(self) -> None:
        """Count the classifiers of all streams as never trained."""
        for name in self.streams:
            self.stream(name).forget_classifier()

    def init_from(self, path: str | Path) -> tuple[str, ...]:
        """Start every stream from the encoder of one run, see :meth:`RecognitionModel.init_from`."""
        return tuple(f"streams.{name}.{key}" for name in self.streams for key in self.stream(name).init_from(path))


def copy_stream(source: RecognitionModel, target: RecognitionModel) -> None:
    """Copy all weights and running statistics of a stream to another, which may be made for another modality."""
    theirs, ours = source.modalities[0], target.modalities[0]
    old, new = f".statistics.{theirs}.", f".statistics.{ours}."
    target.load_state_dict({key.replace(old, new): value for key, value in source.state_dict().items()})


def _make_generator(made: Mapping[str, Any]) -> nn.Module:
    kind = made["kind"]
    if kind not in GENERATORS:
        raise CheckpointError(f"unknown kind of generator {kind!r}; this program knows {', '.join(GENERATORS)}")
    module, _, name = GENERATORS[kind].partition(":")
    generator: nn.Module = getattr(importlib.import_module(module), name)(**made["settings"])
    return generator
