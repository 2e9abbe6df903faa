"""Contrastive Multiview Coding: an encoder for each modality, contrasted against memory banks, then a linear probe.

Source: Tian et al., "Contrastive Multiview Coding" (ECCV 2020), as the paper compares it (Table I). Crops are drawn for
each sensor, as for the paper's own method; the publication's views are channels of one crop.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.config import OptimConfig
from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify_alone, encode, require_classifier, require_pairs
from mmcl_core.nn.gather import mean_over_samples
from mmcl_core.nn.memory import MemoryBank
from mmcl_core.nn.streams import Look, StreamsNetwork

__all__ = ["ContrastiveMultiviewCoding"]

#: Shares of either stage after which a multi-step rate falls (publication's program: epochs 120, 160 and 200 of 240,
#: and 30, 40 and 50 of 60), and the factors.
MILESTONES, CONTRAST_GAMMA, PROBE_GAMMA = (Fraction(1, 2), Fraction(2, 3), Fraction(5, 6)), 0.1, 0.2


class ContrastiveMultiviewCoding(Method):
    """``contrast``: each embedding against the memory bank of every other modality. ``probe``: the linear classifier.

    The embedding of a sample is to be told by the entry of the same sample in the other modality's bank, among those
    of other samples. A sample that lacks one of the two is left out of that term; what it has keeps its entry up to
    date. What it lacks has an entry that stays random, and is a negative that is easily told.

    The probe is a linear layer on f1, whose features have unit variance and thus a length of about the square root of
    ``model.nrkhs``: ``cmc.probe_lr`` is divided by that number, which is the same for its weights as to shorten the
    embedding to about length 1. It is what answers, whatever ``model.predict_with`` says.
    """

    name = "cmc"
    version = 2  # 1 let a multi-step rate fall too soon where epochs are few
    pairs = True
    backbones = ("encoder", "resnet18", "resnet50")

    def check(self) -> None:
        """Refuse a single modality, a single sample, and labels that nothing learns from."""
        require_pairs(self.config, self.name)
        require_classifier(self, "cmc.probe_epochs", self.config.cmc.probe_epochs)
        if len(self.rows) == 1:
            raise ConfigError("method cmc tells samples apart and there is one; take a set with more")

    def build(self) -> nn.Module:
        """The streams, and what the contrast alone needs: projections and memory banks."""
        model, cmc = replace(self.config.model, predict_with="linear"), self.config.cmc
        names = self.modalities()
        streams, answers = {name: name for name in names}, {name: [Look(name)] for name in names}
        banks = {name: MemoryBank(self.rows, cmc.width, cmc.momentum, cmc.temperature) for name in names}
        return nn.ModuleDict(
            {
                "network": StreamsNetwork(model, len(self.classes), streams, answers),
                "projections": nn.ModuleDict({name: nn.Linear(model.nrkhs, cmc.width) for name in names}),
                "banks": nn.ModuleDict(banks),
            }
        )

    def deployed(self, system: nn.Module) -> StreamsNetwork:
        """The streams."""
        network = system.get_submodule("network")
        assert isinstance(network, StreamsNetwork)
        return network

    def bank(self, system: nn.Module, modality: str) -> MemoryBank:
        """The memory bank of a modality."""
        bank = system.get_submodule(f"banks.{modality}")
        assert isinstance(bank, MemoryBank)
        return bank

    def stages(self) -> tuple[Stage, ...]:
        """The two stages; without epochs of its own, or without a label, the probe is left out."""
        cmc, train = self.config.cmc, self.config.train
        optim = replace(self.config.optim, momentum=cmc.sgd_momentum)
        contrast = replace(_sgd(optim, cmc.lr, train.epochs, CONTRAST_GAMMA), weight_decay=cmc.weight_decay)
        probe = replace(
            _sgd(optim, cmc.probe_lr / self.config.model.nrkhs, cmc.probe_epochs, PROBE_GAMMA),
            weight_decay=0.0, warmup_steps=0, clip_grad=0.0,
        )  # fmt: skip
        encoders = tuple(f"network.streams.{name}.encoder." for name in self.modalities())
        classifiers = tuple(f"network.streams.{name}.classifier." for name in self.targets)
        first = Stage(
            "contrast", train.epochs, (Update(contrast, (*encoders, "projections.")),),
            validates=False, self_supervised=True,
        )  # fmt: skip
        second = Stage("probe", cmc.probe_epochs, (Update(probe, classifiers),))
        return (first, second) if cmc.probe_epochs and self.labelled else (first,)

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality; of the targets alone for the probe."""
        names = self.modalities() if stage.name == "contrast" else self.targets
        return {name: name for name in names}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """Which entries of others each embedding is told from, where it is not told from all."""
        others, wanted = len(self.rows) - 1, self.config.cmc.negatives
        if stage.name != "contrast" or wanted >= others:
            return {}
        return {name: torch.randint(others, (batch, wanted), generator=generator) for name in self.modalities()}

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """See the class; the banks are updated when all terms are computed."""
        if stage.name == "contrast":
            return self.contrast(system, batch)
        streams = {target: self.deployed(system).stream(target) for target in self.targets}
        return classify_alone(streams, batch, self.config.loss, "linear")

    def contrast(self, system: nn.Module, batch: ViewBatch) -> dict[str, Tensor]:
        """One term for each ordered pair of modalities, and the banks with the new embeddings."""
        network, size = self.deployed(system), len(batch.labels)
        codes, present = {}, {}
        for name in self.modalities():
            part = encode(network.stream(name), batch, {name: name})[name]
            code: Tensor = system.get_submodule(f"projections.{name}")(part.spread(size).f1)
            codes[name] = F.normalize(code.float(), dim=1)
            present[name] = None if part.rows is None else part.mask(batch.labels)
        terms = {
            f"nce {one}->{other}": self.term(self.bank(system, other), batch, other, codes[one], present[one])
            for one in codes
            for other in codes
            if one != other
        }
        for name, code in codes.items():
            self.bank(system, name).update(code, batch.index, present[name])
        return terms

    def term(self, bank: MemoryBank, batch: ViewBatch, other: str, queries: Tensor, present: Tensor | None) -> Tensor:
        """Mean loss of the embeddings [B, width] of the samples that have both modalities."""
        draws, index = batch.draws.get(other), batch.index
        there = batch.present.get(other)
        if present is not None or there is not None:
            both = [mask for mask in (present, there) if mask is not None]
            rows = torch.stack(both).all(0).nonzero().squeeze(1)
            queries, index, draws = queries[rows], index[rows], None if draws is None else draws[rows]
        return mean_over_samples(bank.loss(queries, index, draws))


def _sgd(optim: OptimConfig, lr: float, epochs: int, gamma: float) -> OptimConfig:
    """SGD with the publication's milestones; the kind of schedule is that of the run."""
    milestones = tuple(math.ceil(share * epochs) for share in MILESTONES)  # never before the share is over
    return replace(optim, name="sgd", lr=lr, milestones=milestones, gamma=gamma)
