"""Adversarial discriminative modality distillation.

Source: Garcia, Morerio, Murino, "Learning with Privileged Information via Adversarial Discriminative Modality
Distillation" (PAMI 2019), and for what it leaves open the authors' program for NYU-D.

A discriminator with C + 1 outputs is shown embeddings: those of the teacher, whose class it is to name, and those of
the hallucination stream, which it is to call fake. The hallucination stream is trained until its embeddings are taken
for real ones of the right class; no distance and no weight is involved. Its classifier stays the teacher's.

The streams of the publication are ResNets of 50 layers with a code of 128 numbers (``model.backbone: resnet50``,
``model.nrkhs: 128``). A sample without a label is shown too: its embedding is to be taken for real, of whatever class.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcl_core.method_config import AdmdConfig
from mmcl_core.methods.base import Update, ViewBatch
from mmcl_core.methods.stand_in import HALLUCINATION, TaughtStandIn, embedding, plain_adam
from mmcl_core.nn.discriminator import EmbeddingDiscriminator, class_or_fake_loss

__all__ = ["AdversarialDistillation"]


class AdversarialDistillation(TaughtStandIn):
    """In each step of ``hallucinate`` the discriminator is updated first, then the hallucination stream."""

    name = "admd"
    taught: ClassVar[dict[str, tuple[str, ...]]] = {"discriminator": ("real", "fake"), HALLUCINATION: ("fooling",)}

    @property
    def settings(self) -> AdmdConfig:
        """The method's own section of the settings."""
        return self.config.admd

    def build(self) -> nn.Module:
        """The streams that answer, the teacher, and the discriminator."""
        system = super().build()
        discriminator = EmbeddingDiscriminator(self.config.model.nrkhs, len(self.classes), self.settings.hidden)
        system.add_module("discriminator", discriminator)
        return system

    def hallucinate_updates(self) -> tuple[Update, ...]:
        """The two adversaries; of the hallucination stream the encoder alone."""
        optim = plain_adam(self.config.optim, self.settings.lr, self.settings.betas)
        return (
            Update(optim, ("discriminator.",), "discriminator"),
            Update(optim, (f"network.streams.{HALLUCINATION}.encoder.",), HALLUCINATION),
        )

    def teach(self, system: nn.Module, pair: ViewBatch, update: Update) -> dict[str, Tensor]:
        """Discriminator: real embeddings to their class, fakes to C. Hallucination stream: fakes to their class."""
        discriminator = system.get_submodule("discriminator")
        hallucination = self.deployed(system).stream(HALLUCINATION)
        if update.name == HALLUCINATION:
            fake = embedding(hallucination, pair, self.target)
            return {"fooling": class_or_fake_loss(discriminator(fake), pair.labels)}
        with torch.no_grad():
            real = embedding(self.real_stream(system), pair, self.missing)
            fake = embedding(hallucination, pair, self.target)
        fakes = torch.full_like(pair.labels, len(self.classes))
        return {
            "real": class_or_fake_loss(discriminator(real), pair.labels),
            "fake": class_or_fake_loss(discriminator(fake), fakes),
        }
