"""The weights file: a network and everything needed to use it, in one safetensors file without pickle.

The header of the file holds one JSON text under the key ``mmcl_core``:

=======================  ==============================================================================================
``version``              version of this format
``package_version``      version of mmcl_core that wrote the file
``modalities``           by name: ``kind``, ``unit`` and ``invalid`` value of a raw picture
``trained_modalities``   modalities that the encoder and the classifier saw in training: those that can be recognised
``encoded_modalities``   modalities that the encoder saw: those that have embeddings
``input``                :class:`mmcl_core.modality.InputSpec`
``model``                :class:`mmcl_core.config.ModelConfig`
``network``              which class it is, a key ``kind`` of :data:`NETWORKS`, and what that class needs besides;
                         without this entry it is a :class:`mmcl_core.nn.model.RecognitionModel`
``feature_heads``        levels whose embedding heads are in the file
``classes``              names, in the order of the outputs
``crop_size``            side of the crops of the training set; files of earlier versions lack it
``temperature``          by modality: what class scores are divided by before the softmax; ``rgbd``: of the fusion
``config_hash``          of the training's settings, see :func:`mmcl_core.config.config_hash`
``seed``, ``method``     of the training
=======================  ==============================================================================================

The writer may add keys of its own; they come back as they were.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import mmcl_core
from mmcl_core import models
from mmcl_core.atomic import write_atomically
from mmcl_core.config import from_dict
from mmcl_core.errors import CheckpointError
from mmcl_core.metadata import check_metadata
from mmcl_core.modality import modality
from mmcl_core.words import counted

if TYPE_CHECKING:
    from mmcl_core.nn.network import Network

__all__ = [
    "FORMAT_VERSION",
    "NETWORKS",
    "UNREADABLE",
    "WEIGHTS_NAME",
    "build_model",
    "load_weights",
    "model_id",
    "network_class",
    "read_metadata",
    "save_compact",
    "save_weights",
    "weights_file",
]

FORMAT_VERSION = 1
WEIGHTS_NAME = "weights.safetensors"
_REMEDY = "copy it again from the run; if it is the run's own, remove that folder and train anew"
#: What ``torch.load`` raises where a file is damaged or none of its own; it takes any bytes for instructions.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
_KEY = "mmcl_core"
_HEADS = "encoder.heads."
_STATISTICS = ".statistics."
#: Kind of a network -> where its class is, ``module:class``. It is imported when a file of that kind is read.
NETWORKS: dict[str, str] = {
    "recognition": "mmcl_core.nn.model:RecognitionModel",
    "streams": "mmcl_core.nn.streams:StreamsNetwork",
    "concatenated": "mmcl_core.nn.concatenated:ConcatenatedNetwork",
}


def save_weights(path: str | Path, model: Network, metadata: Mapping[str, Any]) -> None:
    """Write a network to a file, which holds the old or the new content at any moment, never a part of it.

    Args:
        path: the file, by custom ``weights.safetensors`` in the run folder; its folder must exist.
        model: the network, on any device.
        metadata: at least ``classes``, a list of names. ``temperature`` (by modality), ``config_hash``, ``seed`` and
            ``method`` get defaults; what describes the network itself is filled in here.

    Raises:
        CheckpointError: the number of classes is not the network's, or the file cannot be written.
    """
    tensors = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    _write(Path(path), tensors, _describe(model, metadata))


def save_compact(run: str | Path, out: str | Path) -> None:
    """Write the weights of a run for a robot: without the heads that only training needs, in half precision.

    Running statistics keep their float32, and computing is done in float32 after :func:`load_weights`.

    Args:
        run: run folder, weights file, or the name of a model of :mod:`mmcl_core.models`.
        out: the file; its folder must exist.

    Raises:
        CheckpointError: as for :func:`load_weights` and :func:`save_weights`.
    """
    state, metadata = load_weights(run, feature_heads=False)
    halves = {
        name: value.half()
        for name, value in state.items()
        if value.dtype == torch.float32 and _STATISTICS not in name and value.abs().max() < torch.finfo(torch.half).max
    }
    _write(Path(out), state | halves, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    content = save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(f"cannot write the weights {path}: {error.strerror}") from error


def load_weights(path: str | Path, feature_heads: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a run.

    Args:
        path: a run folder or a weights file.
        feature_heads: whether to read the heads of the 5 x 5 and 7 x 7 maps, which only training needs.

    Returns:
        The state of a :class:`mmcl_core.nn.network.Network` on the CPU, real numbers in float32 whatever the file
        holds, and the metadata (see the module).

    Raises:
        CheckpointError: no such file, a damaged one, or one of another format.
    """
    file = weights_file(path)
    with _opened(file) as reader:
        metadata = _metadata(file, reader)
        wanted = [name for name in reader.keys() if feature_heads or not name.startswith(_HEADS)]  # noqa: SIM118
        state = {name: reader.get_tensor(name) for name in wanted}
        state |= {name: value.float() for name, value in state.items() if value.is_floating_point()}
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{file} holds weights that are no finite numbers ({broken[0]}); {_REMEDY}")
    if not feature_heads:
        metadata["feature_heads"] = []
    return state, metadata


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a run folder or weights file, without its weights.

    Raises:
        CheckpointError: as for :func:`load_weights`.
    """
    file = weights_file(path)
    with _opened(file) as reader:
        return _metadata(file, reader)


def build_model(
    path: str | Path, device: torch.device | str = "cpu", feature_heads: bool = False
) -> tuple[Network, dict[str, Any]]:
    """The network of a run, ready for recognition: evaluation mode, no gradients.

    Args:
        path: a run folder or a weights file.
        device: where its weights are put.
        feature_heads: whether it has the heads that only training needs.

    Returns:
        The network and the metadata.

    Raises:
        CheckpointError: as for :func:`load_weights`, or weights that do not fit the settings stored with them.
    """
    state, metadata = load_weights(path, feature_heads)
    description = metadata.get("network", {"kind": "recognition"})
    try:
        config = from_dict({"model": metadata["model"]}, str(path)).model
        with torch.device("meta"):  # nothing is drawn or allocated for weights that are replaced at once
            model = network_class(str(description["kind"])).from_description(
                config, list(metadata["modalities"]), len(metadata["classes"]), metadata["feature_heads"], description
            )
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights in {path} do not fit the settings stored with them: {error}") from error
    return model.to(device).eval().requires_grad_(False), metadata


def network_class(kind: str) -> type[Network]:
    """The class of a kind of network, see :data:`NETWORKS`.

    Raises:
        CheckpointError: no such kind.
    """
    if kind not in NETWORKS:
        raise CheckpointError(f"unknown kind of network {kind!r}; this program knows {', '.join(NETWORKS)}")
    module, _, name = NETWORKS[kind].partition(":")
    found: type[Network] = getattr(importlib.import_module(module), name)
    return found


def weights_file(path: str | Path) -> Path:
    """The weights file of a run folder or of a model of :mod:`mmcl_core.models`; a file is returned as it is.

    Raises:
        CheckpointError: there is none.
    """
    path = models.located(path)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if path.suffix == ".onnx" or (not file.is_file() and any(path.glob("*.onnx"))):
        raise CheckpointError(
            f"{path} is an exported model, which mmcl_core.recognize, Recognizer.load and the node run; "
            "here give the run that it was exported from"
        )
    if file.is_file():
        return file
    if (path / "state.pt").is_file():
        raise CheckpointError(
            f"{path} is an unfinished run, without {WEIGHTS_NAME}: `python -m mmcl_core.train --resume "
            f"{quote(str(path))}` goes on with it"
        )
    if path.is_dir():
        raise CheckpointError(f"the folder {path} holds no {WEIGHTS_NAME}: not a run, or one that has not saved yet")
    raise CheckpointError(
        f"no weights at {path}; give a run folder, a .safetensors file, or {' or '.join(models.names())}"
    )


def model_id(path: str | Path) -> str:
    """Name of a trained network: hash of its settings, then the first 8 digits of the SHA-256 of its file.

    Raises:
        CheckpointError: as for :func:`load_weights`.
    """
    file = weights_file(path)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"{read_metadata(file).get('config_hash') or 'unknown'}-{digest.hexdigest()[:8]}"


def _describe(model: Network, metadata: Mapping[str, Any]) -> dict[str, Any]:
    classes = list(metadata["classes"])
    if len(classes) != model.classes or len(set(classes)) != len(classes):
        raise CheckpointError(
            f"the network has {counted(model.classes, 'class')}, the metadata names {len(set(classes))}"
        )
    trained = list(model.trained_modalities())
    temperature = {name: 1.0 for name in trained} | dict(metadata.get("temperature", {}))
    return {
        "config_hash": "",
        "seed": None,
        "method": "",
        **metadata,
        "version": FORMAT_VERSION,
        "package_version": mmcl_core.__version__,
        "modalities": {
            name: {"kind": modality(name).kind, "unit": modality(name).unit, "invalid": modality(name).invalid}
            for name in model.modalities
        },
        "trained_modalities": trained,
        "encoded_modalities": list(model.encoded_modalities()),
        "input": model.inputs.to_dict(),
        "model": dataclasses.asdict(model.config),
        "network": model.description(),
        "feature_heads": list(model.feature_levels()),
        "classes": classes,
        "temperature": temperature,
    }


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read as a weights file: it is damaged, incomplete, or not safetensors ({error}); "
            f"{_REMEDY}"
        ) from error


def _metadata(file: Path, reader: Any) -> dict[str, Any]:
    text = (reader.metadata() or {}).get(_KEY)
    try:
        metadata = json.loads(text) if text else None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file}: the metadata is not valid JSON ({error}); the file was edited") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{file} is a safetensors file of another program: it has no {_KEY} metadata")
    if metadata.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has weights format {metadata.get('version')!r}, this program reads {FORMAT_VERSION}; "
            f"it was written by mmcl_core {metadata.get('package_version', 'of unknown version')}"
        )
    check_metadata(metadata, file)
    return metadata
