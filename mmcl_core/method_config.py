"""Settings of single methods, sections of :class:`mmcl_core.config.Config` named after them.

Numbers of epochs and rates are by default those of the publications. The stage that a method is about runs for
``train.epochs``, and stages whose rate is not among these settings take ``optim``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AdmdConfig",
    "AmdimConfig",
    "CmcConfig",
    "HallucinationConfig",
    "InputDropoutConfig",
    "ModDropConfig",
    "Pix2PixConfig",
    "TeacherConfig",
]


@dataclass(frozen=True)
class AmdimConfig:
    """The method ``amdim``: two augmentations of one picture, contrasted.

    Attributes:
        classify_both: classify both of them (mean of the two losses), which shows the classifier twice as many views;
            the authors' program classifies the first alone.
    """

    classify_both: bool = False


@dataclass(frozen=True)
class Pix2PixConfig:
    """The method ``pix2pix``: a generated picture in the place of the missing one.

    Attributes:
        gan_epochs: epochs of generator and discriminator, in batches of ``train.batch`` (publication: 200 on small
            sets, an update for each picture).
        alone_epochs: epochs in which each stream is trained alone, on real pictures, before both are trained together
            with generated pictures in the place of the missing ones; 0 leaves the stage out.
        copies: generated pictures of each training sample, each of another crop, that are kept for the last stage, on
            the training device: 6 bytes for every pixel, 0.1 MB for a picture of 128 pixels a side.
        width: base width of generator and discriminator (publication: 64).
        dropout: of the innermost decoder levels, in [0, 1) (publication: 0.5).
        l1_weight: weight of the mean absolute difference beside the adversarial loss (publication: 100).
        lr, betas: of Adam for both adversaries (publication: 2e-4; 0.5, 0.999).
    """

    gan_epochs: int = 200
    alone_epochs: int = 37
    copies: int = 4
    width: int = 64
    dropout: float = 0.5
    l1_weight: float = 100.0
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)


@dataclass(frozen=True)
class TeacherConfig:
    """What ``admd`` and ``hallucination`` share: a hallucination stream that a teacher stream teaches.

    It is taught for ``train.epochs``; the settings below are about the stages before and after. The defaults are those
    of ADMD's authors for NYU-D, which has 2,186 training samples.

    Attributes:
        alone_epochs: epochs in which each stream is trained alone (2,000 updates of 64 samples).
        together_epochs: epochs in which the mean of the logits of the target's stream and of the teacher is trained
            (1,000 updates of 32 samples); 0 leaves the stage out.
        finetune_epochs: epochs, after the teaching, in which the mean of the logits of the target's stream and of the
            hallucination stream is trained, which is what answers; 0 leaves the stage out.
        finetune_rate: rate of the stages ``together`` and ``finetune``, as a share of ``optim.lr`` (1e-6 of 1e-4).
    """

    alone_epochs: int = 59
    together_epochs: int = 15
    finetune_epochs: int = 0
    finetune_rate: float = 0.01


@dataclass(frozen=True)
class AdmdConfig(TeacherConfig):
    """The method ``admd``: a discriminator in the place of a distance.

    The authors teach for 146 epochs (5,000 updates of 64 samples), and do not train afterwards what will answer.

    Attributes:
        hidden: base width of the discriminator (publication: 1024).
        lr, betas: of Adam for both adversaries (authors: 1e-6; 0.9, 0.999). With streams that started from random and
            not from ImageNet weights, more is needed.
    """

    hidden: int = 1024
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class HallucinationConfig(TeacherConfig):
    """The method ``hallucination``: a distance to the teacher's embedding, and its soft answers.

    Attributes:
        distance: ``sigmoid`` compares squashed embeddings (both publications), ``l2`` the embeddings themselves.
        distance_weight: of the squared distance, mean over features. 20 beside half of each classification loss is
            what the program of Garcia et al. has for NYU-D: .01 of the sum over 32 samples of 128 features beside the
            whole of them.
        imitation: share of the soft answers in the classification loss, in [0, 1]: 0 leaves the labels alone
            (Hoffman et al.), 0.5 is Garcia et al.
        temperature: that soft answers are softened by (Garcia et al.: 10).
    """

    distance: Literal["sigmoid", "l2"] = "sigmoid"
    finetune_epochs: int = 15
    distance_weight: float = 20.0
    imitation: float = 0.5
    temperature: float = 10.0


@dataclass(frozen=True)
class CmcConfig:
    """The method ``cmc``: ``train.epochs`` of contrast against a memory bank, then a linear probe. Both with SGD.

    Attributes:
        width: of the embedding of length 1 that is contrasted (publication: 128).
        temperature: what cosines are divided by (publication: 0.07).
        momentum: share of the old entry that the memory bank keeps when its sample is seen, in [0, 1).
        negatives: entries of other samples that an embedding is told from, drawn with replacement (publication: 16384).
            Where there are not that many others, it is told from each of them.
        lr, weight_decay: of the contrast (publication: 0.03, 1e-4). Warm-up, clip and kind of schedule are those of
            ``optim``; a multi-step rate falls to a tenth after 1/2, 2/3 and 5/6 of the epochs (publication).
        sgd_momentum: of both optimisers (publication: 0.9), in [0, 1).
        probe_epochs: of the linear classifiers on the frozen encoders (publication: 60).
        probe_lr: their rate, for embeddings of length 1 (publication: 30); multi-step, it falls to a fifth each time.
    """

    width: int = 128
    temperature: float = 0.07
    momentum: float = 0.5
    negatives: int = 16384
    lr: float = 0.03
    weight_decay: float = 1e-4
    sgd_momentum: float = 0.9
    probe_epochs: int = 60
    probe_lr: float = 30.0


@dataclass(frozen=True)
class InputDropoutConfig:
    """The method ``input_dropout``: one network for both modalities, one of which it does without now and then.

    Attributes:
        drop: ``other`` drops the modality that is not ``train.target``, with ``probability``; ``either`` drops the one,
            the other or none, a third each.
        probability: of a sample to lose the other modality, in [0.05, 1].
    """

    drop: Literal["other", "either"] = "other"
    probability: float = 0.5


@dataclass(frozen=True)
class ModDropConfig:
    """The method ``moddrop``: streams trained alone, then for ``train.epochs`` together while some are dropped.

    Attributes:
        alone_epochs: epochs in which each stream is trained alone; 0 leaves the stage out.
        modality_keep: probability of a sample to keep a modality, for each of them by itself (publication: 0.9).
        input_keep: probability of a single value of the network input to be kept (publication: 0.8). What is kept is
            divided by it.
    """

    alone_epochs: int = 37
    modality_keep: float = 0.9
    input_keep: float = 0.8
