"""Input Dropout: both modalities in one network, one of which is left out now and then.

Source: de Blois et al., "Input Dropout for Spatially Aligned Modalities" (ICIP 2020), as the paper compares it
(Table III): ``input_dropout.drop`` is ``other``, or ``either`` for the row in which RGB is dropped as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_core.augment import Augmenter
from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classification_term, nothing, require_labels, unclipped
from mmcl_core.modality import to_network_input
from mmcl_core.nn.concatenated import ConcatenatedNetwork, pattern_of
from mmcl_core.nn.gather import total_number

__all__ = ["InputDropout"]


class InputDropout(Method):
    """Pictures are concatenated along the channels; the block of what is dropped, or lacking, holds zeros.

    Samples of which the same is left pass the network together, with batch statistics of their own: the network is
    asked about a modality alone, and normalises by the statistics of the samples that had that one alone (a plain
    network, as in the publication, has one set of statistics for all). A pattern that a single sample of the batch has
    is left out. Both pictures show the same crop; RandAugment, where the settings ask for it, acts on each by itself as
    everywhere. Plain cross-entropy on the head that answers.
    """

    name = "input_dropout"
    backbones = ("encoder", "resnet18", "resnet50")
    labels_alone = True

    def check(self) -> None:
        """Refuse other than two modalities, training without labels, and a variant that leaves a target untrained."""
        train = self.config.train
        if len(train.modalities) != 2:
            raise ConfigError(
                f"method {self.name} does without one of two modalities, but train.modalities is "
                f"{list(train.modalities)}; name two"
            )
        if train.target == "both" and self.config.input_dropout.drop == "other":
            raise ConfigError(
                "input_dropout.drop=other drops the modality that is not train.target, but train.target is both; "
                f"choose {' or '.join(train.modalities)}, or input_dropout.drop=either"
            )
        require_labels(self)

    def build(self) -> nn.Module:
        """The network."""
        return ConcatenatedNetwork(self.config.model, self.modalities(), len(self.classes))

    def deployed(self, system: nn.Module) -> ConcatenatedNetwork:
        """The network."""
        assert isinstance(system, ConcatenatedNetwork)
        return system

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality."""
        return {name: name for name in self.modalities()}

    def augmenter(self, stage: Stage) -> Augmenter:
        """As for all methods, but with the same crop for both."""
        model = self.config.model
        return Augmenter(self.config.augment, model.input_size, self.views(stage), model.depth_range_m, aligned=True)

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """What each sample loses: the number of a modality, or -1 for none, int64 [batch]."""
        uniform = torch.rand(batch, generator=generator)
        if self.config.input_dropout.drop == "either":
            return {"dropped": (uniform * 3).long().clamp(max=2) - 1}
        other = 1 - self.modalities().index(self.targets[0])
        return {"dropped": torch.where(uniform < self.config.input_dropout.probability, other, -1)}

    def patterns(self, batch: ViewBatch) -> dict[tuple[str, ...], Tensor]:
        """Which samples, bool [B], are left with what. What a sample has alone is not dropped.

        A sample that has only what is not the target counts nowhere unless that is to be learnt alone, too.
        """
        names, dropped = self.modalities(), batch.draws["dropped"]
        there = [batch.present.get(name, torch.ones_like(dropped, dtype=torch.bool)) for name in names]
        one, other = (there[n] & ~((dropped == n) & there[1 - n]) for n in (0, 1))
        found = {names[:1]: one & ~other, names[1:]: other & ~one, names: one & other}
        if self.config.input_dropout.drop == "other":
            del found[tuple(name for name in names if name not in self.targets)]
        return found

    def groups(self, batch: ViewBatch) -> dict[tuple[str, ...], Tensor]:
        """Of each pattern that at least two samples of the global batch have, the numbers of those here, int64 [n]."""
        found = {pattern: mask.nonzero().squeeze(1) for pattern, mask in self.patterns(batch).items()}
        return {key: rows for key, rows in found.items() if total_number(len(rows), rows.device) >= 2}

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """One term, the mean over all samples."""
        network = self.deployed(system)
        groups, logits = self.groups(batch), []
        for pattern, rows in groups.items():
            seen = {}
            for name in pattern:
                picture = batch.pictures[name]
                seen[name] = to_network_input(picture.image[rows], name, picture.camera[rows], network.inputs)
            logits.append(network.model.logits(network.embed(seen), pattern_of(pattern)))
        if not logits:
            return {"class": nothing(system)}
        labels = batch.labels[torch.cat(list(groups.values()))]
        labelled = batch.mean_labelled(lambda part: labels if part is batch else self.labels(part))
        return {"class": classification_term(torch.cat(logits), labels, unclipped(self.config.loss), labelled)}

    def labels(self, batch: ViewBatch) -> Tensor:
        """The labels of the samples of all groups, int64 [n]."""
        return torch.cat([batch.labels[:0], *(batch.labels[rows] for rows in self.groups(batch).values())])
