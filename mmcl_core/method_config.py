"""Settings of single methods, sections of :class:`mmcl_core.config.Config` named after them.

Numbers of epochs and rates are by default those of the publications. The last stage of each method runs for
``train.epochs``, and stages whose rate is not among these settings take ``optim``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AdmdConfig", "HallucinationConfig", "Pix2PixConfig", "TeacherConfig"]


@dataclass(frozen=True)
class Pix2PixConfig:
    """The method ``pix2pix``: a generated picture in the place of the missing one.

    Attributes:
        gan_epochs: of generator and discriminator (publication: 200 on small sets).
        alone_epochs: in which each stream is trained on real pictures before the two of them are trained on the
            generated ones; 0 leaves the stage out.
        width: base width of generator and discriminator (publication: 64).
        dropout: of the innermost decoder levels, in [0, 1) (publication: 0.5).
        l1_weight: weight of the mean absolute difference beside the adversarial loss (publication: 100).
        lr, betas: of Adam for both adversaries (publication: 2e-4; 0.5, 0.999).
    """

    gan_epochs: int = 200
    alone_epochs: int = 37
    width: int = 64
    dropout: float = 0.5
    l1_weight: float = 100.0
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)


@dataclass(frozen=True)
class TeacherConfig:
    """What the methods share whose hallucination stream has a teacher.

    Attributes:
        alone_epochs: in which each stream is trained alone (authors' program for NYU-D: 20,000 updates of 4 samples).
        together_epochs: in which the mean of their logits is trained (the same number); 0 leaves the stage out.
        hallucinate_epochs: in which the hallucination stream is taught.
    """

    alone_epochs: int = 37
    together_epochs: int = 37
    hallucinate_epochs: int = 37


@dataclass(frozen=True)
class AdmdConfig(TeacherConfig):
    """The method ``admd``: a discriminator in the place of a distance.

    Attributes:
        hallucinate_epochs: of the adversaries (authors' program: 200,000 updates of 4 samples).
        hidden: base width of the discriminator (publication: 1024).
        lr, betas: of Adam for both adversaries (authors' program: 1e-4; 0.9, 0.999).
    """

    hallucinate_epochs: int = 366
    hidden: int = 1024
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class HallucinationConfig(TeacherConfig):
    """The method ``hallucination``: a distance to the teacher's embedding, and its soft answers.

    Attributes:
        distance: ``sigmoid`` compares squashed embeddings (both publications), ``l2`` the embeddings themselves.
        distance_weight: of the squared distance, mean over features. 5 is the weight of the authors of the second
            publication in their program for NYU-D: .01 of the sum over 4 samples of 128 features.
        imitation: share of the soft answers in the classification loss, in [0, 1]: 0 leaves the labels alone
            (Hoffman et al.), 0.5 is Garcia et al.
        temperature: that soft answers are softened by (Garcia et al.: 10).
    """

    distance: Literal["sigmoid", "l2"] = "sigmoid"
    distance_weight: float = 5.0
    imitation: float = 0.5
    temperature: float = 10.0
