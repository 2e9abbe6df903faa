"""Checkpoints of the authors' program, read as weights of this project's encoder and classifier.

The program stores a ``state_dict``, alone or inside a dictionary, with or without the ``module.`` of a
data-parallel wrapper. Its encoder is a flat list of layers; BatchNorms that are switched off are stored
all the same and left out here. It keeps one set of running statistics for both modalities: that set is
copied to every modality. Its encoder for 32 px is refused: it has a unit more than this project's.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_core.errors import CheckpointError
from mmcl_core.weights import UNREADABLE

__all__ = ["convert_authors_state", "load_authors_state"]

_MARK = "layer_list.0.conv.weight"  # the first convolution: where it is found, there is the encoder
_SWITCHED_OFF = re.compile(r"\.bn1\.|\.bn_hid\.")
_BUFFERS = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}
_FIXED_NAMES = {
    **{f"rkhs_block_{level}.conv": f"encoder.heads.{level}.conv" for level in (5, 7)},
    **{f"rkhs_block_{level}.shortcut.": f"encoder.heads.{level}.shortcut." for level in (5, 7)},
    **{f"rkhs_block_{level}.bn_out.bn.": f"encoder.heads.{level}.norm." for level in (5, 7)},
    "block_glb_lin.block_forward.2.": "classifier.linear.",
    "block_glb_mlp.block_forward.2.": "classifier.hidden.",
    "block_glb_mlp.block_forward.3.": "classifier.norm.",
    "block_glb_mlp.block_forward.6.": "classifier.output.",
}


def load_authors_state(path: str | Path, modalities: Sequence[str] = ("rgb", "depth")) -> dict[str, Tensor]:
    """Read a checkpoint of the authors' program (nothing in it is executed).

    Args:
        path: a file written by ``torch.save``.
        modalities: names that get a copy of the running statistics.

    Returns:
        State of a :class:`mmcl_core.nn.model.RecognitionModel`: keys ``encoder. ...`` and, where the file has
        them, ``classifier. ...``.

    Raises:
        CheckpointError: no such file, a damaged one, one not readable without executing it, no weights of the authors'
            encoder, weights that are no finite numbers, or those of an encoder that this project has not (see
            :func:`convert_authors_state`).
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is not a checkpoint of plain tensors; save the state_dict alone") from error
    except (OSError, *UNREADABLE) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged, incomplete, or another kind of file "
            f"({type(error).__name__}); copy it again"
        ) from error
    state = _find_state(loaded)
    if state is None:
        raise CheckpointError(f"{path} holds no encoder of the authors' program (no key ends in {_MARK!r})")
    converted = convert_authors_state(state, modalities)
    broken = [key for key, value in converted.items() if not (isinstance(value, Tensor) and value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path} holds weights that are no finite numbers ({broken[0]}); take another checkpoint")
    return converted


def convert_authors_state(state: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Rename the weights of the authors' program; see :func:`load_authors_state`.

    Raises:
        CheckpointError: the BatchNorms inside the residual units were on, which this project's encoder would
            place differently; or a residual unit follows the first convolution, as in the authors' encoder for 32 px.
    """
    state = _shorten(state)
    if "layer_list.1.conv1.weight" in state:
        raise CheckpointError(
            "the checkpoint is of the authors' encoder for 32 px, with a residual unit after the first convolution "
            "that this project's encoder for 32 px has not; those for 64 and 128 px can be read"
        )
    names = {**_layer_names(state), **_FIXED_NAMES}
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix = next((p for p in names if key.startswith(p)), None)
        if prefix is None or _SWITCHED_OFF.search(key):
            if key.endswith("num_batches_tracked") and value > 0:
                raise CheckpointError(f"the checkpoint was trained with BatchNorm in its units ({key} is {int(value)})")
            continue
        name = names[prefix] + key[len(prefix) :]
        stem, _, leaf = name.rpartition(".")
        if leaf in _BUFFERS:
            converted.update({f"{stem}.statistics.{m}.{_BUFFERS[leaf]}": value.clone() for m in modalities})
        else:
            converted[name] = value
    return converted


def _find_state(loaded: Any) -> Mapping[str, Tensor] | None:
    """The first dictionary, at any depth, that holds the encoder."""
    if not isinstance(loaded, Mapping):
        return None
    if any(str(key).replace("module.", "").endswith(_MARK) for key in loaded):
        return loaded
    return next((found for value in loaded.values() if (found := _find_state(value)) is not None), None)


def _shorten(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop wrappers' prefixes, those before the encoder's layers, and those before the classifiers."""
    plain = {key.replace("module.", ""): value for key, value in state.items()}
    encoder = next(key for key in plain if key.endswith(_MARK))[: -len(_MARK)]
    return {re.sub(r"^.*(?=block_glb_)", "", key.removeprefix(encoder)): value for key, value in plain.items()}


def _layer_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Prefixes of the flat list of layers -> prefixes of the encoder, from the kinds of layers alone."""
    numbers = sorted({int(found[1]) for key in state if (found := re.match(r"layer_list\.(\d+)\.", key))})
    layers = [f"layer_list.{number}." for number in numbers]
    stem = [layer for layer in layers if layer + "conv.weight" in state]
    blocks = [layer for layer in layers if layer + "layer_list.0.conv1.weight" in state]
    names = {f"{layer}conv.": f"encoder.stem.{i}." for i, layer in enumerate(stem)}
    places = [f"to7.{i}" for i in range(len(blocks) - 2)] + ["to5", "to3"]
    names.update({f"{layer}layer_list.": f"encoder.{place}." for layer, place in zip(blocks, places, strict=False)})
    names.update({f"{layer}conv": "encoder.to1.conv" for layer in layers if layer + "conv1.weight" in state})
    # Of the BatchNorms in the list the last is f1's; the one after the 7 x 7 map is switched off with the units'.
    return {**names, f"{layers[-1]}bn.": "encoder.norm."}
