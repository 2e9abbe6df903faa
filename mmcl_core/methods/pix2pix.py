"""Pix2pix: the missing picture is generated from the one that is there, and two streams look at both.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017), used in the place
of the sensor that is missing, as the paper compares it (Table III).

What is generated is the network input of the missing modality, the normalised picture that its stream looks at. Its
values span about -2..2, so that the L1 term weighs about twice what it does for pictures in -1..1.

Generated pictures are not kept in a cache. Training shows another crop of a picture each time. A cache would hold what
was generated of whole pictures, to be cropped afterwards, which is not what the deployed network makes of a crop. The
frozen generator makes the same picture of the same crop at any time; it costs one of its forward passes a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_core.methods.base import Stage, Update, ViewBatch
from mmcl_core.methods.parts import complete, nothing
from mmcl_core.methods.stand_in import StandIn, answer, constant
from mmcl_core.modality import to_network_input
from mmcl_core.nn.discriminator import PatchDiscriminator, l1_loss, patch_loss
from mmcl_core.nn.generator import Generator
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.streams import Look

__all__ = ["Pix2Pix"]

#: The view of the target that the generator gets: cropped and flipped, as it was trained, and nothing else.
PLAIN = "plain"


class Pix2Pix(StandIn):
    """A generator from the target to the missing modality, and a stream for each.

    Stages: ``gan``, generator against patch discriminator on registered crops without further augmentation; ``alone``,
    each stream on real pictures (left out for ``pix2pix.alone_epochs: 0``); ``classify``, the mean of the logits of the
    target's stream and of the other one, which looks at generated pictures. The generator is frozen in the last two.
    """

    name = "pix2pix"

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
        adversary = constant(optim, settings.lr, settings.betas)
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
        """A view of each modality; in the last stage two of the target, one of them for the generator."""
        return {self.target: self.target, PLAIN: self.target} if stage.name == "classify" else super().views(stage)

    def plain(self, stage: Stage) -> tuple[str, ...]:
        """Whatever generator and discriminator look at."""
        return {"gan": tuple(self.views(stage)), "alone": (), "classify": (PLAIN,)}[stage.name]

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """See the class."""
        if stage.name == "alone":
            return self.alone(system, batch)
        pair = complete(batch, tuple(self.views(stage)))
        if stage.name == "classify":
            return {"class": self.classify(system, pair) if pair else nothing(system)}
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
        with torch.no_grad():
            generated = self.generator(system)(self.network_input(system, pair, PLAIN))
        embedding = other.encoder(generated, self.missing, levels=()).f1
        return self.joint([own, other.logits(embedding, self.missing)], pair.labels)

    def network_input(self, system: nn.Module, batch: ViewBatch, view: str) -> Tensor:
        """A view as streams and generator are fed it, float32 [B, 3, S, S]."""
        picture, modality = batch.pictures[view], self.missing if view == self.missing else self.target
        return to_network_input(picture.image, modality, picture.camera, self.deployed(system).inputs)
