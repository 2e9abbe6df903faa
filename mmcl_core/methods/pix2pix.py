"""Pix2pix: the missing picture is generated from the one that is there, and two streams look at both.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017), used in the place
of the sensor that is missing, as the paper compares it (Table III).

What is generated is the network input of the missing modality, the normalised picture that its stream looks at. Its
values span about -2..2, so that the L1 term weighs about twice what it does for pictures in -1..1.

The classifier is trained on pictures that are generated once and kept: some of every training sample, each of another
crop. One of the whole sample, to be cropped afterwards, would not do: an encoding may depend on the crop (distance to
the object) or not be mirrored with the picture (normals), and the deployed network generates from the crop it is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmcl_core.augment import Augmenter, Picture
from mmcl_core.data.batches import Batch
from mmcl_core.methods.base import Stage, Update, ViewBatch
from mmcl_core.methods.generated import GeneratedPictures
from mmcl_core.methods.parts import complete, nothing
from mmcl_core.methods.stand_in import StandIn, answer, plain_adam
from mmcl_core.modality import to_network_input
from mmcl_core.nn.discriminator import PatchDiscriminator, l1_loss, patch_loss
from mmcl_core.nn.generator import Generator
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.streams import Look

__all__ = ["Pix2Pix"]

#: The view that the generator makes.
GENERATED = "generated"


class Pix2Pix(StandIn):
    """A generator from the target to the missing modality, and a stream for each.

    Stages: ``gan``, generator against patch discriminator on registered crops without further augmentation; ``alone``,
    each stream on real pictures (left out for ``pix2pix.alone_epochs: 0``); ``classify``, the mean of the logits of the
    target's stream and of the other one, which looks at generated pictures. The generator is frozen in the last two.
    """

    name = "pix2pix"
    _kept: GeneratedPictures | None = None

    def build(self) -> nn.Module:
        """The streams with their generator, and the discriminator."""
        size, settings = self.config.model.input_size, self.config.pix2pix
        made = {"size": size, "source": self.target, "width": settings.width, "dropout": settings.dropout}
        network = self.make_network(
            {self.target: self.target, self.missing: self.missing},
            [Look(self.target), Look(self.missing, self.generator_name)],
            {self.generator_name: {"kind": "unet", "settings": made}},
        )
        return nn.ModuleDict({"network": network, "discriminator": PatchDiscriminator(size, settings.width)})

    @property
    def generator_name(self) -> str:
        """Such as ``depth_of_rgb``."""
        return f"{self.missing}_of_{self.target}"

    def generator(self, system: nn.Module) -> Generator:
        """The generator."""
        generator = self.deployed(system).generators[self.generator_name]
        assert isinstance(generator, Generator)
        return generator

    def real_stream(self, system: nn.Module) -> RecognitionModel:
        """The stream that looks at generated pictures in the end."""
        return self.deployed(system).stream(self.missing)

    def stages(self) -> tuple[Stage, ...]:
        """The stages; nothing can answer before the second."""
        settings, optim = self.config.pix2pix, self.config.optim
        adversary = plain_adam(optim, settings.lr, settings.betas)
        adversaries = (
            Update(adversary, ("discriminator.",), "discriminator"),
            Update(adversary, ("network.generators.",), "generator"),
        )
        streams = (Update(optim, ("network.streams.",)),)
        stages = (
            Stage("gan", settings.gan_epochs, adversaries, validates=False),
            Stage("alone", settings.alone_epochs, streams),
            Stage("classify", self.config.train.epochs, streams),
        )
        return tuple(stage for stage in stages if stage.epochs)

    def views(self, stage: Stage) -> dict[str, str]:
        """A view of each modality; in the last stage of the target, whose companion is generated."""
        return {self.target: self.target} if stage.name == "classify" else super().views(stage)

    def plain(self, stage: Stage) -> tuple[str, ...]:
        """Whatever generator and discriminator look at."""
        return tuple(self.views(stage)) if stage.name == "gan" else ()

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """In the last stage: which of the kept pictures is looked at."""
        copies = self.config.pix2pix.copies
        return {"copy": torch.randint(copies, (batch,), generator=generator)} if stage.name == "classify" else {}

    def start_stage(self, system: nn.Module, stage: Stage) -> None:
        """What was generated before belongs to another generator."""
        self._kept = None

    def add_views(self, system: nn.Module, samples: Batch, batch: ViewBatch, stage: Stage) -> ViewBatch:
        """In the last stage: the kept pictures, as they were generated of the target."""
        if stage.name != "classify":
            return batch
        if self._kept is None:
            size, copies = self.config.model.input_size, self.config.pix2pix.copies
            self._kept = GeneratedPictures(self.rows, self.samples, copies, size, batch.index.device)
        generated = self._kept.take(batch.index, batch.draws["copy"], self.artist(system, samples))
        pictures = {**batch.pictures, GENERATED: Picture(generated, samples.camera)}
        present = {GENERATED: batch.present[self.target]} if self.target in batch.present else {}
        return replace(batch, pictures=pictures, present={**batch.present, **present})

    def artist(self, system: nn.Module, samples: Batch) -> Callable[[int, int, int], Tensor]:
        """Generates from the n-th sample, cropped and flipped as its row in the set and the number of the copy say."""
        generator, inputs = self.generator(system), self.deployed(system).inputs
        crop = Augmenter(self.config.augment, inputs.size, {self.target: self.target}, plain=(self.target,))

        @torch.no_grad()
        def make(n: int, row: int, copy: int) -> Tensor:
            assert not generator.training
            number = (self.config.seed * self.samples + row) * self.config.pix2pix.copies + copy
            draws = crop.draw(1, torch.Generator().manual_seed(number % 2**63))  # more is no seed for torch
            image, camera = samples.images[self.target][n : n + 1], samples.camera[n : n + 1]
            picture = crop({self.target: image}, camera, draws)[self.target]
            made: Tensor = generator(to_network_input(picture.image, self.target, picture.camera, inputs))
            return made

        return make

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """See the class."""
        if stage.name == "alone":
            return self.alone(system, batch)
        if stage.name == "classify":
            pair = complete(batch, (self.target, GENERATED))
            return {"class": self.classify(system, pair) if pair else nothing(system)}
        pair = complete(batch, tuple(self.views(stage)))
        if pair is None:
            names = ("real", "fake") if update.name == "discriminator" else ("fooling", "l1")
            return dict.fromkeys(names, nothing(system))
        return self.compete(system, pair, update)

    def compete(self, system: nn.Module, pair: ViewBatch, update: Update) -> dict[str, Tensor]:
        """The objective of an adversary; that of the discriminator is halved, as in the publication."""
        source, wanted = self.network_input(system, pair, self.target), self.network_input(system, pair, self.missing)
        discriminator, generator = system.get_submodule("discriminator"), self.generator(system)
        if update.name == "generator":
            generated = generator(source)
            return {
                "fooling": patch_loss(discriminator(source, generated), real=True),
                "l1": self.config.pix2pix.l1_weight * l1_loss(generated, wanted),
            }
        with torch.no_grad():
            generated = generator(source)
        return {
            "real": 0.5 * patch_loss(discriminator(source, wanted), real=True),
            "fake": 0.5 * patch_loss(discriminator(source, generated), real=False),
        }

    def classify(self, system: nn.Module, pair: ViewBatch) -> Tensor:
        """Loss of the mean of the logits."""
        own, _ = answer(self.deployed(system).stream(self.target), pair, self.target)
        other = self.real_stream(system)
        embedding = other.encoder(pair.pictures[GENERATED].image, self.missing, levels=()).f1
        return self.joint([own, other.logits(embedding, self.missing)], pair)

    def network_input(self, system: nn.Module, batch: ViewBatch, view: str) -> Tensor:
        """A view as streams and generator are fed it, float32 [B, 3, S, S]."""
        picture = batch.pictures[view]
        return to_network_input(picture.image, view, picture.camera, self.deployed(system).inputs)
