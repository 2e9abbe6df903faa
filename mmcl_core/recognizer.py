"""Crops in, labels out: what a robot needs of this package.

    recognizer = Recognizer.load("runs/demo")
    answers = recognizer.recognize(rgb=[crop, ...])            # a robot with a colour camera
    answers = recognizer.recognize(depth=[crop, ...])          # ... with a depth sensor
    answers = recognizer.recognize(rgb=[...], depth=[...])     # both: fused
    answers.labels, answers.scores, answers.embeddings

How metric depth becomes network input, and every other convention, comes with the model. Of the package this module
needs :mod:`mmcl_core.errors`, :mod:`mmcl_core.crops`, :mod:`mmcl_core.metrics`, :mod:`mmcl_core.models` and one back
end; PyTorch is imported for weights files only, onnxruntime for ``.onnx`` files only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mmcl_core import models
from mmcl_core.crops import UNKNOWN, check_cameras, check_depth, check_rgb, fit, mirrored, uses_camera
from mmcl_core.errors import CheckpointError, ConfigError, InputError, UntrainedModalityError
from mmcl_core.metrics import FUSED, fuse, top_k
from mmcl_core.words import counted

__all__ = ["UNKNOWN", "Recognition", "Recognizer"]

#: The oldest PyTorch that will do, as in pyproject.toml.
_TORCH = (2, 4)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recognition:
    """The answers for N crops, in their order.

    Attributes:
        probabilities: float32 [N, C], rows that sum to 1. Uniform for a crop that could not be looked at.
        labels: N class names; ``unknown`` for a rejected crop, or as the name of a class that the model has.
        scores: float32 [N], probability of the best class; 0 for a crop that could not be looked at.
        top_labels, top_scores: N lists of the ``top_k`` best classes and float32 [N, k] of their probabilities,
            rejected crops included.
        embeddings: float32 [N, R] of length 1, for comparing objects; of fused crops the normalised mean. Zeros for a
            crop that could not be looked at.
        modality: for each crop what the answer stands on: ``rgb``, ``depth``, ``rgbd``, or empty.
        depth_valid: float32 [N], share of the crop's pixels with a depth reading; -1 where depth was not looked at.
        rejected: for each crop why its label is ``unknown``: ``no_picture``, ``no_depth`` (too few readings and no
            colour), ``low_score``; empty where it is not.
    """

    probabilities: Floats
    labels: list[str]
    scores: Floats
    top_labels: list[list[str]]
    top_scores: Floats
    embeddings: Floats
    modality: list[str]
    depth_valid: Floats
    rejected: list[str]

    def __len__(self) -> int:
        return len(self.labels)


class Backend(Protocol):
    """What runs a network. ``metadata`` is that of :mod:`mmcl_core.weights`."""

    name: str
    device: str
    precision: str
    model_id: str
    metadata: dict[str, Any]

    def infer(self, modality: str, images: NDArray[Any], cameras: Floats) -> tuple[NDArray[Any], ...]:
        """Probabilities [N, C] and unit embeddings [N, R] of pictures in the network's size."""


class Recognizer:
    """A loaded model. Made by :meth:`load`.

    A call of :meth:`recognize` changes nothing; threads may share one, which answers them in turn.

    Attributes:
        classes: names, in the order of ``probabilities``.
        modalities: what can be recognised: ``rgb``, ``depth``, or both.
        model_id: names settings and weights; equal for all back ends.
        input_size: side of the network's input in pixels.
        crop_size: side of the crops that it was trained on, in pixels; 0 where that is not known.
        metadata: what is stored with the model, see :mod:`mmcl_core.weights`.
        max_batch: crops that pass the network at once; more are worked off in parts.
        mirror: whether every crop is looked at twice, as it is and mirrored.
    """

    def __init__(self, backend: Backend, max_batch: int = 64, mirror: bool = False) -> None:
        self._backend = backend
        self.metadata = backend.metadata
        self.classes: tuple[str, ...] = tuple(self.metadata["classes"])
        self.model_id = backend.model_id
        self.input_size = int(self.metadata["input"]["size"])
        self.crop_size = int(self.metadata.get("crop_size", 0))
        self.max_batch, self.mirror = max_batch, mirror
        self._names: dict[str, str] = {}  # "rgb" or "depth" -> the model's name for it, such as rgb_right
        for name in sorted(self.metadata["trained_modalities"]):
            self._names.setdefault(name.partition("_")[0], name)
        self.modalities: tuple[str, ...] = tuple(kind for kind in ("rgb", "depth") if kind in self._names)
        self._stored = self.metadata["input"]["depth_encoding"] == "stored"
        self._width = int(self.metadata["model"]["nrkhs"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        backend: Literal["auto", "torch", "onnx"] = "auto",
        *,
        precision: Literal["float32", "bf16"] = "float32",
        threads: int = 0,
        max_batch: int = 64,
        mirror: bool = False,
        warm_up: bool = True,
    ) -> Recognizer:
        """Load a model.

        Args:
            path: a run folder, ``weights.safetensors``, an ``.onnx`` file, a folder of these, one a modality, or the
                name of a model of :mod:`mmcl_core.models`. A leading ``~`` is the home folder, as parameter files of a
                robot have it.
            device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
            backend: ``auto`` goes by the file.
            precision: ``bf16`` is faster where the processor multiplies it (torch only).
            threads: CPU threads, for PyTorch of the whole process; 0 leaves the choice to the back end.
            max_batch: crops that pass the network at once.
            mirror: look at every crop and at its mirror image. Answers are the mean of both log-probabilities,
                embeddings the normalised mean: twice the work, for models whose training flipped (``augment.flip``).
            warm_up: run each modality once, so that the first frame is not slower than the others.

        Raises:
            CheckpointError: no model there, a damaged one, or one of another format.
            ConfigError: an unknown back end, precision or device, a back end that is not installed or too old, or no
                crops at once.
            UntrainedModalityError: the model was never trained to classify.
        """
        if max_batch < 1:
            raise ConfigError(f"max_batch is {max_batch}; 1 or more crops pass the network at once")
        path = models.located(os.path.expanduser(path))  # pathlib's raises where there is no such home
        chosen = _backend_of(path) if backend == "auto" else backend
        loaded = _load_backend(path, device, chosen, precision, threads)
        recognizer = cls(loaded, max_batch, mirror)
        if not recognizer.modalities:
            raise UntrainedModalityError(f"the model in {path} was not trained to classify any modality")
        if warm_up:
            recognizer._warm_up()
        return recognizer

    @property
    def backend(self) -> str:
        """``torch`` or ``onnx``."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where the network runs, such as ``cpu`` or ``cuda:0``."""
        return self._backend.device

    @property
    def takes_distances(self) -> bool:
        """Whether depth is what a sensor gives; not where the model was trained on prepared depth pictures (HHA)."""
        return not self._stored

    @property
    def uses_camera(self) -> bool:
        """Whether answers from depth differ with its camera (metric size, surface normals, HHA)."""
        return uses_camera(self.metadata["input"])

    def recognize(
        self,
        rgb: Sequence[NDArray[Any] | None] | None = None,
        depth: Sequence[NDArray[Any] | None] | None = None,
        camera: Sequence[Sequence[float] | None] | NDArray[Any] | None = None,
        top_k: int = 5,
        min_score: float = 0.0,
        min_depth_valid: float = 0.0,
    ) -> Recognition:
        """Recognise N crops, all in one batch a modality.

        With both modalities each crop is answered from what it has: from both (mean of log-probabilities), or from one
        where the other is ``None`` or has too few depth readings.

        Args:
            rgb: crops uint8 [H, W, 3] in the order R, G, B, of any sizes; ``None`` for a crop without.
            depth: crops [H, W], uint16 in mm (0 = no reading) or float in m (NaN, infinite, <= 0, > 65.535 = no
                reading), of any sizes; ``None`` for a crop without. A model of stored depth pictures takes uint8
                [H, W, 3] instead.
            camera: (fx, fy, cx, cy) of each depth crop in pixels of its own grid; ``None`` or zeros where unknown. Used
                by models whose answers differ with it, see :attr:`uses_camera`.
            top_k: number of ``top_labels``.
            min_score: crops with a lower best probability get the label ``unknown``, in [0, 1].
            min_depth_valid: share of pixels with a reading below which the depth of a crop is not used, in [0, 1].
                Depth without any reading is never used.

        Raises:
            InputError: no crops, lists of different lengths, an array of the wrong type, shape or unit, or a share
                outside [0, 1].
            UntrainedModalityError: the model was not trained for a modality that is given.
        """
        for name, share in (("min_score", min_score), ("min_depth_valid", min_depth_valid)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; a share in [0, 1] is expected, such as 0.8")
        given = {kind: _listed(kind, crops) for kind, crops in (("rgb", rgb), ("depth", depth)) if crops is not None}
        count = self._check(given)
        cameras = check_cameras(camera, count)
        probabilities = np.full((count, len(self.classes)), 1 / len(self.classes), np.float32)
        embeddings = np.zeros((count, self._width), np.float32)
        depth_valid = np.full(count, -1, np.float32)
        used: list[str] = [""] * count
        for kind, crops in given.items():
            rows, pictures, moved = self._pictures(kind, crops, cameras, depth_valid, min_depth_valid)
            if not rows:
                continue
            both = [n for n, row in enumerate(rows) if used[row]]
            answers, embedded = self._infer(kind, np.stack(pictures), np.stack(moved))
            if both:
                seen = [rows[n] for n in both]
                answers[both] = fuse([probabilities[seen], answers[both]], self.metadata["temperature"].get(FUSED, 1.0))
                embedded[both] = _unit(embedded[both] + embeddings[seen])
            probabilities[rows], embeddings[rows] = answers, embedded
            for row in rows:
                used[row] = FUSED if used[row] else kind
        return self._answer(probabilities, embeddings, used, depth_valid, top_k, min_score)

    def _check(self, given: dict[str, list[Any]]) -> int:
        if not given:
            raise InputError("nothing to recognise: give rgb=[crops], depth=[crops], or both")
        for kind in given:
            if kind not in self.modalities:
                known, files = " and ".join(self.modalities), self._backend.name == "onnx"  # one for each modality
                made, remedy = ("exported", "export it, too") if files else ("trained", "train with it")
                raise UntrainedModalityError(
                    f"the model {self.model_id} was {made} for {known}, not for {kind}; leave it out or {remedy}"
                )
        counts = {kind: len(crops) for kind, crops in given.items()}
        if len(set(counts.values())) > 1:
            rgb, depth = (counted(counts[kind], f"{kind} crop") for kind in ("rgb", "depth"))
            raise InputError(f"{rgb}, {depth}; give None for a missing one")
        count = next(iter(counts.values()))
        if not count:
            raise InputError("the list of crops is empty; ask only when there is something to recognise")
        return count

    def _pictures(
        self, kind: str, crops: list[Any], cameras: Floats, depth_valid: Floats, least: float
    ) -> tuple[list[int], list[NDArray[Any]], list[Floats]]:
        """The usable crops of a modality in the network's size: their rows, pictures and cameras."""
        rows, pictures, moved = [], [], []
        for row, crop in enumerate(crops):
            if crop is None:
                continue
            name = f"{kind}[{row}]"
            if kind == "depth" and self._stored and not _is_picture(crop):
                given = f"{getattr(crop, 'dtype', type(crop).__name__)} of shape {np.shape(crop)}"
                raise InputError(
                    f"{name} is {given}; this model was trained on prepared depth pictures, uint8 [H, W, 3] made as "
                    "those of its data set, and takes no distances"
                )
            if kind == "rgb" or self._stored:
                array = check_rgb(crop, name)
            else:
                array = check_depth(crop, name)
                depth_valid[row] = share = np.count_nonzero(array) / array.size
                if share == 0 or share < least:  # not as rounded to float32, which may lie below a share it equals
                    continue
            picture, camera = fit(array, self.input_size, cameras[row], self.crop_size)
            if picture.ndim == 2 and not picture.any():  # what readings there are lie outside of what is looked at
                continue
            rows.append(row)
            pictures.append(picture)
            moved.append(camera)
        return rows, pictures, moved

    def _infer(self, kind: str, images: NDArray[Any], cameras: Floats) -> tuple[Floats, Floats]:
        probabilities, embeddings = self._pass(kind, images, cameras)
        if self.mirror:
            images, cameras = mirrored(images, cameras)
            others, turned = self._pass(kind, images, cameras)
            probabilities = fuse([probabilities, others]).astype(np.float32)
            embeddings = _unit(embeddings + turned)
        return probabilities, embeddings

    def _pass(self, kind: str, images: NDArray[Any], cameras: Floats) -> tuple[Floats, Floats]:
        parts = [
            self._backend.infer(self._names[kind], images[at : at + self.max_batch], cameras[at : at + self.max_batch])
            for at in range(0, len(images), self.max_batch)
        ]
        probabilities, embeddings = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return probabilities, embeddings

    def _answer(
        self, probabilities: Floats, embeddings: Floats, used: list[str], valid: Floats, k: int, min_score: float
    ) -> Recognition:
        best = top_k(probabilities, max(1, k))
        top_scores = np.take_along_axis(probabilities, best, axis=1)
        seen = np.array([bool(name) for name in used])
        scores = np.where(seen, top_scores[:, 0], np.float32(0))
        rejected = []
        for row, name in enumerate(used):
            reason = "low_score" if name and scores[row] < min_score else ""
            if not name:
                reason = "no_depth" if valid[row] >= 0 else "no_picture"
            rejected.append(reason)
        top_labels = [[self.classes[n] for n in row] for row in best]
        labels = [UNKNOWN if why else names[0] for why, names in zip(rejected, top_labels, strict=True)]
        return Recognition(probabilities, labels, scores, top_labels, top_scores, embeddings, used, valid, rejected)

    def _warm_up(self) -> None:
        for kind in self.modalities:
            shape = (1, self.input_size, self.input_size)
            picture = kind == "rgb" or self._stored
            image = np.full((*shape, 3), 127, np.uint8) if picture else np.full(shape, 1000, np.float32)
            self._infer(kind, image, np.zeros((1, 4), np.float32))


def _is_picture(crop: Any) -> bool:
    return isinstance(crop, np.ndarray) and crop.dtype == np.uint8 and crop.ndim == 3 and crop.shape[2] == 3


def _listed(kind: str, crops: Sequence[Any]) -> list[Any]:
    if isinstance(crops, np.ndarray) and (crops.ndim < 3 or (kind == "rgb" and crops.ndim == 3) or _is_picture(crops)):
        raise InputError(f"{kind} is a single picture of shape {crops.shape}; give a list: {kind}=[crop]")
    if isinstance(crops, (str, bytes)) or not isinstance(crops, Iterable):
        raise InputError(f"{kind} is a {type(crops).__name__}; give a list of numpy arrays: {kind}=[crop]")
    return list(crops)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _backend_of(path: Path) -> str:
    if path.is_dir() and not (path / "weights.safetensors").exists() and any(path.glob("*.onnx")):
        return "onnx"
    return "onnx" if path.suffix == ".onnx" else "torch"


def _require_torch() -> None:
    """Refuse a PyTorch that is too old before it fails in words that nobody understands."""
    advice = f"{_TORCH[0]}.{_TORCH[1]} or newer is needed: pip install torch in a virtual environment (docs/ros.md)"
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"PyTorch cannot be imported ({error}); {advice}, or export the model to ONNX") from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _TORCH:
        raise ConfigError(f"PyTorch {torch.__version__} is too old; {advice}, or export the model to ONNX")


def _load_backend(path: Path, device: str, backend: str, precision: str, threads: int) -> Backend:
    if precision not in ("float32", "bf16"):
        raise ConfigError(f"precision is {precision!r}; choose float32 or bf16")
    if not path.exists():
        known = " or ".join(models.names())
        raise CheckpointError(f"no model at {path}; give a run folder, a .safetensors or .onnx file, or {known}")
    if backend == "onnx":
        from mmcl_core.backend_onnx import OnnxBackend

        if precision != "float32":
            raise ConfigError("the onnx back end computes in float32; leave precision out, or load the weights file")
        return OnnxBackend(path, device, threads)
    if backend != "torch":
        raise ConfigError(f"backend is {backend!r}; choose auto, torch or onnx")
    _require_torch()
    from mmcl_core.backend_torch import TorchBackend, set_threads

    if threads > 0:
        set_threads(threads)
    return TorchBackend(path, device, precision)
