"""Networks as ONNX files, one a modality, each compared with PyTorch after it was written."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcl_core.atomic import named
from mmcl_core.backend_onnx import METADATA_KEY, OnnxBackend
from mmcl_core.backend_torch import Deployed, TorchBackend
from mmcl_core.crops import fit
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.files import temporary_folder
from mmcl_core.data.splits import TRAINING, split_named
from mmcl_core.engine.runfolder import settings_of
from mmcl_core.errors import ConfigError, DataError, UntrainedModalityError
from mmcl_core.modality import modality

__all__ = ["export"]

logger = logging.getLogger(__name__)

CALIBRATION_SAMPLES = 256
OLDEST_TORCH = (2, 8)  # the exporter of those before it, with whichever onnxscript, fails on these networks
Feed = dict[str, np.ndarray]


def export(
    run: Path, out: Path, modalities: Sequence[str] = (), data: Path | None = None, int8: bool = False
) -> list[tuple[Path, str]]:
    """Write the ONNX files of a run and compare each with PyTorch.

    Args:
        run: run folder or weights file.
        out: a file with the ending ``.onnx`` for one modality, or a folder that gets ``<modality>.onnx``.
        modalities: names; empty: all that the model recognises.
        data: prepared set for the calibration of ``int8``; not looked at without it.
        int8: whether to quantise.

    Returns:
        Each file, and how far its answers are from those of PyTorch.

    Raises:
        ConfigError: packages that are missing or too old, or options that do not fit together.
        UntrainedModalityError: a modality the model does not recognise, or none that it does.
        CheckpointError, DataError: a damaged model or set.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"export needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        raise ConfigError(
            f"writing ONNX files needs PyTorch {needed} or newer, and this is {torch.__version__}: export on another "
            "computer, or let the robot run the weights with PyTorch"
        )
    backend = TorchBackend(run, "cpu", "float32")
    names = _names(backend, run, out, modalities)
    if int8 and data is None:
        raise ConfigError("--int8 needs --data DIR: pictures to measure the ranges of the network's values on")
    prepared = PreparedSet.open(data) if int8 and data is not None else None
    split = _calibration_split(run, prepared) if prepared else ""
    places = [out] if out.suffix == ".onnx" else [out / f"{name}.onnx" for name in names]
    if taken := next((place for place in places if place.is_dir()), None):
        raise ConfigError(f"{taken} is a folder; name another --out")
    room = places[0].parent
    room.mkdir(parents=True, exist_ok=True)
    with named(out), temporary_folder(room, ".export-") as folder:
        made = [folder / f"{name}.onnx" for name in names]  # all of them, before any is where it is looked for
        notes = [_write(backend, name, path, prepared, split) for name, path in zip(names, made, strict=True)]
        for path, place in zip(made, places, strict=True):
            os.replace(path, place)
    return list(zip(places, notes, strict=True))


def _names(backend: TorchBackend, run: Path, out: Path, modalities: Sequence[str]) -> list[str]:
    """The modalities to export: those asked for, each once, or all that the model recognises; see :func:`export`."""
    trained = backend.metadata["trained_modalities"]
    names = list(dict.fromkeys(modalities)) or trained
    if not trained:
        raise UntrainedModalityError(f"the model in {run} was not trained to classify any modality: nothing to export")
    if unknown := [name for name in names if name not in trained]:
        raise UntrainedModalityError(f"the model recognises {', '.join(trained)}, not {unknown[0]}")
    others = [name for name in names if modality(name).kind != "depth"]
    if backend.metadata["input"]["depth_encoding"] == "hha" and others != names:
        remedy = "run this model with PyTorch" + (f", or export --modality {' '.join(others)}" if others else "")
        raise ConfigError(f"depth_encoding hha solves for gravity, which ONNX cannot; {remedy}")
    if out.suffix == ".safetensors":
        raise ConfigError(f"{out} would be a folder of ONNX files; name another, or add --format safetensors")
    if out.suffix == ".onnx" and len(names) > 1:
        raise ConfigError(f"{out} is one file for {' and '.join(names)}; give a folder, or one --modality")
    return names


def _calibration_split(run: Path, prepared: PreparedSet) -> str:
    """The split that the run was trained on; where its settings are not beside it, the one that is likeliest.

    Raises:
        DataError: the set has no split of the name that the settings give.
    """
    config = settings_of(run)
    if config is None:
        split = split_named(prepared.split_names, TRAINING) or prepared.split_names[0]
        words = (
            "calibrated on the split %r of %s: what the model was trained on is not known, its settings are not there"
        )
        logger.info(words, split, prepared.path)
        return split
    split = config.data.train_split
    if split not in prepared.split_names:
        raise DataError(
            f"{prepared.path} has no split {split!r}, by which --int8 is calibrated; it has "
            f"{', '.join(prepared.split_names)}: give the set that the model was trained on"
        )
    return split


def _write(backend: TorchBackend, name: str, path: Path, prepared: PreparedSet | None, split: str) -> str:
    """Write and check the file of a modality; returns how far its answers are from those of PyTorch."""
    metadata = backend.metadata | {"modality": name, "model_id": backend.model_id + ("-int8" if prepared else "")}
    size = int(metadata["input"]["size"])
    stored = backend.metadata["input"]["depth_encoding"] == "stored"
    side = int(backend.metadata.get("crop_size", 0))
    samples = _samples(prepared, name, size, side, stored, split) if prepared else _noise(backend, name, size)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "model.onnx"
        _trace(backend.deployed(name), samples, written)
        if prepared:
            written = _quantise(written, samples)
        _stamp(written, metadata)
        note = _compared(backend, OnnxBackend(written, "cpu", 0), name, samples)
        os.replace(written, path)
    return note


def _trace(network: Deployed, samples: Feed, path: Path) -> None:
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    batch = torch.export.Dim("batch")
    example = tuple(torch.from_numpy(samples[key][:2]) for key in ("image", "camera"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, example, path, dynamo=True, external_data=False, verbose=False,
            input_names=["image", "camera"], output_names=["probabilities", "embeddings"],
            dynamic_shapes={"image": {0: batch}, "camera": {0: batch}},
        )  # fmt: skip


def _quantise(path: Path, samples: Feed) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Iterator[Feed]) -> None:
            self.feeds = feeds

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    ready, out = path.with_name("ready.onnx"), path.with_name("int8.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    count = len(samples["image"])
    feeds = ({key: value[at : at + 16] for key, value in samples.items()} for at in range(0, count, 16))
    quantize_static(
        str(ready), str(out), Reader(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )  # fmt: skip
    return out


def _stamp(path: Path, metadata: dict[str, Any]) -> None:
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    onnx.save(model, str(path))


def _compared(backend: TorchBackend, exported: OnnxBackend, name: str, samples: Feed) -> str:
    (ours, _), (theirs, _) = (one.infer(name, samples["image"], samples["camera"]) for one in (backend, exported))
    same = (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()
    return f"largest difference of a probability {np.abs(ours - theirs).max():.1e}, same label for {same:.1%}"


def _noise(backend: TorchBackend, name: str, size: int) -> Feed:
    generator = np.random.default_rng(0)
    picture = modality(name).kind == "rgb" or backend.metadata["input"]["depth_encoding"] == "stored"
    image = generator.integers(0, 256, (8, size, size, 3), np.uint8)
    depth = generator.uniform(500, 1500, (8, size, size)).astype(np.float32)
    camera = np.tile(np.array([size * 4, size * 4, size / 2, size / 2], np.float32), (8, 1))
    return {"image": image if picture else depth, "camera": camera}


def _samples(prepared: PreparedSet, name: str, size: int, side: int, stored: bool, split: str) -> Feed:
    """Pictures of a split, evenly spread, as the network takes them; ``stored``: depth as pictures.

    ``side``: of the crops of training, as of :func:`mmcl_core.crops.fit`.
    """
    if name not in prepared.modalities:
        raise DataError(f"{prepared.path} has no {name} to calibrate with; it has {', '.join(prepared.modalities)}")
    if modality(name).kind == "depth" and (prepared.images[name].ndim == 4) != stored:
        here, there = ("distances", "pictures") if stored else ("pictures", "distances")
        raise DataError(f"{name} in {prepared.path} is {here}, and the model takes {there}: calibrate with another set")
    rows = prepared.select(split)
    rows = rows[prepared.present[rows, prepared.modalities.index(name)]]
    if not len(rows):
        raise DataError(f"the split {split!r} of {prepared.path} has no sample with {name} to calibrate with")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION_SAMPLES)).astype(int)]
    pictures, cameras = [], []
    for row in rows:
        image = np.asarray(prepared.images[name][row])
        picture, camera = fit(image.astype(np.float32) if image.ndim == 2 else image, size, prepared.camera[row], side)
        pictures.append(picture)
        cameras.append(camera)
    return {"image": np.stack(pictures), "camera": np.stack(cameras)}
