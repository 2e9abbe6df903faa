"""Settings of a training run: frozen dataclasses, read from YAML and overridden by ``a.b=c``.

An unknown key is refused and the nearest known one is named. A value is checked against the type of its field.
:func:`load` is the one way in, :func:`to_dict` the one way out (what a run folder stores as ``config.yaml``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from mmcl_core import method_config
from mmcl_core.errors import ConfigError
from mmcl_core.settings import build, hint, read_file, read_override

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "config_hash",
    "from_dict",
    "load",
    "override",
    "to_dict",
]


@dataclass(frozen=True)
class DataConfig:
    """Which prepared set is used, and how it is split.

    Attributes:
        root: folder of the prepared set (see :mod:`mmcl_core.data.cache`).
        train_split: the split to train on.
        val_split: the split to validate on; ``val_fraction`` is used if it is empty, or ``val`` and the set has none.
        val_fraction: share of the training split held out for validation, in [0, 1), of each class and seeded; whole
            groups where there are enough. 0: no validation.
        label_share: share of the training samples that keep their label, in [0, 1]; the others become -1 (paper,
            Section IV-D). Stratified and seeded; the drawn keys are stored in the run folder.
        unlabelled: what becomes of training samples without a label: ``keep`` them for losses that need none, or
            ``drop`` them, which makes epochs shorter.
        label_repeats: how often a labelled training sample comes in an epoch, the others come once: with few labels
            the classification has more to learn from (beyond the paper). 0: so often that half of a batch is labelled.
        resident: where the pictures are kept while training: in the memory of the training ``device``, on disk
            (``memmap``), or ``auto``: on the device when they take at most 40 % of its free memory.
    """

    root: str = ""
    train_split: str = "train"
    val_split: str = "val"
    val_fraction: float = 0.0
    label_share: float = 1.0
    unlabelled: Literal["keep", "drop"] = "keep"
    label_repeats: int = 1
    resident: Literal["auto", "device", "memmap"] = "auto"


@dataclass(frozen=True)
class ModelConfig:
    """The network and what it is fed.

    Attributes:
        input_size: side of the square network input in pixels: 128, 64 or 32.
        ndf: base width of the encoder (paper: 128).
        nrkhs: width of the embedding (paper: 1024).
        depth: residual units in a block (paper: 8).
        unit_norm: BatchNorm inside the residual units (paper: off).
        head_hidden: hidden width of the MLP classifier (paper: 1024).
        dropout: dropout of the MLP classifier, in [0, 1) (paper: 0.2).
        predict_with: which of the two classifier heads gives the answers.
        depth_encoding: how metric depth becomes three channels, see :mod:`mmcl_core.depth`. ``stored`` takes
            a depth picture that the data set already holds (HHA crops).
        metric_size: whether the metric size of the crop is written into the channels the encoding leaves free.
            Needs the camera intrinsics of the crop; an unknown camera is told to the network as such.
        depth_range_m: nearest and farthest distance in metres that ``replicate`` maps to 0 and 255.
        background_m: readings farther than this many metres behind the object, whose distance is
            :func:`mmcl_core.depth.reference_distance`, count as none; 0 keeps all.
        rgb_mean, rgb_std: normalisation of RGB, three values each, on the scale 0-255.
        depth_mean, depth_std: normalisation of an 8-bit depth picture (``replicate``, ``hha``, ``stored``),
            one or three values each, on the scale 0-255.
        init_from: where the encoder's weights come from: a run folder, a weights file, a model that comes with the
            package (``ycb21``), or a checkpoint of the authors' program; empty: random.
        backbone: the network between picture and embedding: ``encoder`` (the paper's), or torchvision's
            ``resnet18`` or ``resnet50`` with a linear bottleneck to ``nrkhs``, for which ``ndf``, ``depth`` and
            ``unit_norm`` mean nothing. A ResNet has no 7 x 7 and 5 x 5 maps to contrast.
        backbone_weights: a local file with torchvision's ImageNet weights of that ResNet, which the training starts
            from (they expect the default ``rgb_mean`` and ``rgb_std``); empty: random. Nothing is ever downloaded.
    """

    input_size: int = 128
    ndf: int = 128
    nrkhs: int = 1024
    depth: int = 8
    unit_norm: bool = False
    head_hidden: int = 1024
    dropout: float = 0.2
    predict_with: Literal["linear", "mlp"] = "mlp"
    depth_encoding: Literal["replicate", "relative", "normals", "relief", "hha", "stored"] = "relief"
    metric_size: bool = False
    depth_range_m: tuple[float, float] = (0.0, 2.55)
    background_m: float = 0.0
    rgb_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    rgb_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    depth_mean: tuple[float, ...] = (91.094,)
    depth_std: tuple[float, ...] = (61.873,)
    init_from: str = ""
    backbone: Literal["encoder", "resnet18", "resnet50"] = "encoder"
    backbone_weights: str = ""


@dataclass(frozen=True)
class LossConfig:
    """The contrastive and the classification loss (paper, Equations 1-8).

    Attributes:
        level_pairs: source and target feature maps, such as ``1-5``: the 1 x 1 map against the 5 x 5 map.
            Paper: 1-5, 1-7, 5-7; the authors' program: 1-5, 1-7, 5-5.
        direction_weight: factor on the sum over directions: 1 (paper, Eq. 6), or 0.5 (authors' program).
        clip: bound c of the soft clip ``c tanh(score / c)`` of the scores; 0: none.
        regulariser: weight of the mean squared score, taken before the clip.
        contrastive_weight, classification_weight: weights of the two losses.
        logit_clip: bound of the soft clip on class logits; 0: none. As the next, for mmcl, amdim and two_step alone.
        logit_regulariser: weight of the mean squared class logit, taken before the clip.
        label_smoothing: mass spread evenly over all classes, in [0, 1) (paper: 0).
        chunk: most source rows whose scores are held at once; more are worked off in chunks.
        drop_same_class: whether samples of the same known class are left out of the negatives of the contrastive loss
            (beyond the paper). Labels that a semi-supervised run hides stay hidden.
        agreement_weight: weight of the term that draws the answer from each sensor to the fused answer of both, with
            ``train.target: both``; needs no labels (beyond the paper, :mod:`mmcl_core.nn.distillation`).
    """

    level_pairs: tuple[str, ...] = ("1-5", "1-7", "5-7")
    direction_weight: float = 1.0
    clip: float = 20.0
    regulariser: float = 0.05
    contrastive_weight: float = 1.0
    classification_weight: float = 1.0
    logit_clip: float = 10.0
    logit_regulariser: float = 1e-3
    label_smoothing: float = 0.0
    chunk: int = 256
    drop_same_class: bool = False
    agreement_weight: float = 0.0


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training crops (paper, Section III-D).

    Attributes:
        policy: ``paper`` takes the paper's RandAugment ranges and the authors' forms, ``sound`` repairs those that
            destroy the picture, ``none`` leaves RandAugment out.
        flip: probability of the horizontal flip, shared by all modalities of a sample.
        scale, ratio: share of the area, and width over height, of the random resized crop, drawn per modality.
        rgb_ops, rgb_magnitude: N and M (0 to 30) of RandAugment for RGB; N = 0 switches it off.
        rgb_jitter: strength of a random change of exposure, contrast, white balance and saturation of RGB, in 0..1
            (:mod:`mmcl_core.colour`); beyond the paper, for cameras unlike the ones trained with. 0: none.
        rgb_grey: probability that an RGB picture loses its colours.
        depth_set: the depth-safe operations: 1 (Table IV, footnote 1), 2 (footnote 2), 0 none.
        depth_ops, depth_magnitude: N and M (0 to 30) of RandAugment for depth; N = 0 switches it off.
        depth_op: one operation, applied once, in place of ``depth_set`` (Table IV); empty: the set. Those on grey
            levels act on metric depth through ``model.depth_range_m``, see :mod:`mmcl_core.policy`.
        depth_op_probability: share of the training samples that it is applied to. 1 is the paper's fixed
            application: no training picture is left as it is, and test pictures, which are never changed, are of a
            kind that the network never saw. So even an operation that loses nothing, such as Invert, does harm
            (Table IV: 14.0 against 55.3). At random, unchanged pictures stay among those it learns from.
        depth_erase: probability that a rectangle of depth is erased (becomes "no reading").
        depth_holes: about the largest share of depth pixels turned into simulated holes, in [0, 1].
        depth_offset_m: largest shift of the whole crop along the viewing axis, in metres.
        depth_background_m: background farther than this behind the object is dropped for half of the samples; 0: never.
        depth_view_deg: largest angle that a metric depth crop is turned by about its object, by reprojection
            (:mod:`mmcl_core.viewpoint`); beyond the paper. The angle is uniform in 0 to this, in degrees <= 45.
        camera_dropout: probability in [0, 1] that a sample's camera is hidden from a model that uses it.
    """

    policy: Literal["paper", "sound", "none"] = "sound"
    flip: float = 0.5
    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (0.7, 1.4)
    rgb_ops: int = 3
    rgb_magnitude: float = 4.0
    rgb_jitter: float = 0.0
    rgb_grey: float = 0.0
    depth_set: Literal[0, 1, 2] = 2
    depth_ops: int = 3
    depth_magnitude: float = 4.0
    depth_op: Literal[
        "", "Cutout", "Rotate", "TranslateX", "TranslateY", "ShearX", "ShearY", "Sharpness",
        "Brightness", "Contrast", "Invert", "Equalize", "AutoContrast", "Speckle",
    ] = ""  # fmt: skip
    depth_op_probability: float = 0.5
    depth_erase: float = 0.0
    depth_holes: float = 0.0
    depth_offset_m: float = 0.0
    depth_background_m: float = 0.0
    depth_view_deg: float = 0.0
    camera_dropout: float = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule.

    Attributes:
        name: ``adam`` (weight decay coupled, the paper's), ``adamw``, ``muon`` or ``sgd``.
        lr, betas, eps, weight_decay: its settings; ``sgd`` has no betas and eps.
        momentum: of ``sgd`` and ``muon``, in [0, 1).
        warmup_steps: updates over which the rate grows linearly from 0.
        schedule: ``multistep``, ``cosine`` (to 0 at the end of the stage) or ``constant``.
        milestones: epochs at whose start a multi-step rate is multiplied by ``gamma``.
        gamma: factor of the multi-step schedule.
        clip_grad: bound on the global norm of the gradient; 0: none.
        ema: decay of the moving average of the weights, in [0, 1); 0: none. The average is what is evaluated
            and deployed.
    """

    name: Literal["adam", "adamw", "muon", "sgd"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-5
    momentum: float = 0.9
    warmup_steps: int = 500
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: tuple[int, ...] = (31, 46)
    gamma: float = 0.2
    clip_grad: float = 0.0
    ema: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, for how long, and on what.

    Attributes:
        modalities: the modalities the encoder sees; the contrastive loss takes all ordered pairs.
        target: the modality to classify: one of ``modalities``, or ``both``: all, by one model for any of the sensors.
        epochs: epochs of the main stage.
        head_epochs: epochs of the second stage of ``two_step``, heads on a frozen encoder; none without labels.
        batch: samples in an update, over all processes and accumulated parts together.
        accumulate: parts a batch is worked off in; each part has its own negatives and batch statistics, the mean over
            labels is that of the whole batch.
        precision: ``bf16`` autocast, ``float32``, or ``auto`` (bf16 where the device multiplies it faster).
        compile: torch.compile; ``auto`` is on for CUDA and off elsewhere.
        cuda_graph: ``auto`` records an update on a GPU and plays it from then on, which spares the host the work of
            starting each operation, where method and data allow it; ``off`` starts each.
        channels_last: memory format of pictures and weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: CPU threads; 0 leaves the choice to torch.
        log_every: updates between two rows of the log.
        save_every: updates between two saved states, in addition to those after each epoch; 0: none. Left out are those
            that come so soon that saving would take over 5 % of the time.
        validate_every: epochs between validations, besides that after the last epoch of a stage; 0: at the end alone.
        keep: ``best`` deploys the weights with the best validation score in the last stage, ``last`` the last ones.
        probe: epochs of self-supervised stages between two probes (kNN, linear) of the validation split; 0: never.
    """

    modalities: tuple[str, ...] = ("rgb", "depth")
    target: str = "both"
    epochs: int = 130
    head_epochs: int = 30
    batch: int = 140
    accumulate: int = 1
    precision: Literal["auto", "bf16", "float32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    cuda_graph: Literal["auto", "off"] = "auto"
    channels_last: bool = True
    device: str = "auto"
    threads: int = 0
    log_every: int = 20
    save_every: int = 0
    validate_every: int = 1
    keep: Literal["best", "last"] = "last"
    probe: int = 0


@dataclass(frozen=True)
class Config:
    """All settings of a run.

    Attributes:
        method: a name of :data:`mmcl_core.methods.METHODS`.
        seed: the one seed that data order, augmentation, initial weights and dropout follow from.
        out: run folder.
    """

    method: str = "mmcl"
    seed: int = 0
    out: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    amdim: method_config.AmdimConfig = field(default_factory=method_config.AmdimConfig)
    pix2pix: method_config.Pix2PixConfig = field(default_factory=method_config.Pix2PixConfig)
    admd: method_config.AdmdConfig = field(default_factory=method_config.AdmdConfig)
    hallucination: method_config.HallucinationConfig = field(default_factory=method_config.HallucinationConfig)
    cmc: method_config.CmcConfig = field(default_factory=method_config.CmcConfig)
    input_dropout: method_config.InputDropoutConfig = field(default_factory=method_config.InputDropoutConfig)
    moddrop: method_config.ModDropConfig = field(default_factory=method_config.ModDropConfig)


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply overrides.

    Args:
        path: a YAML file; ``None`` starts from the defaults. Its key ``base`` names a file, relative to it, whose
            settings it changes.
        overrides: texts ``section.key=value`` as typed on a command line; the value is read as YAML.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: a missing or unreadable file, a table of runs, an unknown key, or a value of the wrong type.
    """
    values = {} if path is None else read_file(Path(path))
    if {"columns", "rows"} <= values.keys():
        raise ConfigError(f"{path} is a table of runs: python -m mmcl_core.sweep --config {quote(str(path))} runs it")
    config = from_dict(values, "the defaults" if path is None else str(path))
    for text in overrides:
        config = override(config, dict([read_override(text)]), "command line")
    return config


def from_dict(values: Mapping[str, Any], where: str = "settings") -> Config:
    """Build a configuration from nested mappings.

    Args:
        values: settings by section and key; what is missing keeps its default.
        where: named in error messages.

    Raises:
        ConfigError: an unknown key or a value of the wrong type.
    """
    return build(Config, values, where)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain dictionaries and lists, ready for YAML or JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that name the settings, the run folder's place left out.

    Only settings that differ from their defaults count: one that is new in a later version, with the old behaviour as
    its default, leaves the names of earlier runs as they were.
    """
    default = to_dict(Config())
    changed: dict[str, Any] = {}
    for section, values in to_dict(config).items():
        if isinstance(values, dict):
            values = {key: value for key, value in values.items() if value != default[section][key]}
        if section != "out" and values not in ({}, default[section]):
            changed[section] = values
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def override(config: Config, values: Mapping[str, Any], where: str = "settings") -> Config:
    """A configuration with some settings replaced.

    Args:
        config: what is changed.
        values: by ``section.key`` (or ``key`` for those outside any section), as YAML gives them. A section given as a
            mapping changes the settings that it names and no others.
        where: named in error messages.

    Raises:
        ConfigError: an unknown key or a value of the wrong type.
    """
    plain: dict[str, Any] = dataclasses.asdict(config)
    for name, value in values.items():
        name = str(name)  # a key of YAML may be a number
        *sections, key = name.split(".")
        place = plain
        for section in sections:
            inner = place.get(section)
            if not isinstance(inner, dict):
                more = "; it is a setting" if section in place else hint(section, place)
                raise ConfigError(f"{where}: unknown section {section!r} in {name!r}{more}")
            place = inner
        if key not in place:
            raise ConfigError(f"{where}: unknown setting {name!r}{hint(key, place, name.removesuffix(key))}")
        inner = place[key]
        place[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return from_dict(plain, where)
