"""The ONNX back end of the recogniser: one exported file a modality, run without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_core.errors import CheckpointError, ConfigError
from mmcl_core.metadata import check_metadata

__all__ = ["METADATA_KEY", "OnnxBackend"]

#: Key of an ONNX file's custom metadata that holds the JSON of the weights file, with ``modality`` and ``model_id``.
METADATA_KEY = "mmcl_core"


class OnnxBackend:
    """Runs what :mod:`mmcl_core.export` wrote.

    Args:
        path: an ``.onnx`` file, or a folder with one for each modality.
        device: ``auto`` (the GPU where onnxruntime can use it), ``cpu`` or ``cuda``.
        threads: CPU threads; 0 leaves the choice to onnxruntime.

    Raises:
        CheckpointError: no such file, a damaged one, one of another program, files of different models, or two
            of one modality.
        ConfigError: onnxruntime is not installed, or has no such device.
    """

    name = "onnx"
    precision = "float32"

    def __init__(self, path: Path, device: str, threads: int) -> None:
        files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise CheckpointError(f"no .onnx file at {path}; write one with python -m mmcl_core.export RUN --out FILE")
        self._sessions: dict[str, Any] = {}
        self._inputs: dict[str, set[str]] = {}
        self.metadata: dict[str, Any] = {}
        for file in files:
            session = _session(file, device, threads)
            metadata = _metadata(file, session)
            if self.metadata and metadata["model_id"] != self.metadata["model_id"]:
                raise CheckpointError(
                    f"{file} was exported from {metadata['model_id']}, {files[0]} from {self.metadata['model_id']}; "
                    "keep the files of one model in a folder"
                )
            self.metadata = self.metadata or metadata
            modality = metadata["modality"]
            if modality in self._sessions:
                raise CheckpointError(f"{file}: {path} holds another file for {modality}; keep one for each modality")
            self._sessions[modality] = session
            self._inputs[modality] = {value.name for value in session.get_inputs()}
        self.metadata["trained_modalities"] = list(self._sessions)
        self.model_id = str(self.metadata["model_id"])
        self.device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"

    def infer(self, modality: str, images: NDArray[Any], cameras: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Probabilities and unit embeddings of a batch, as :class:`mmcl_core.backend_torch.Deployed` gives them."""
        values = {"image": images, "camera": cameras}
        fed = {name: values[name] for name in self._inputs[modality]}
        probabilities, embeddings = self._sessions[modality].run(["probabilities", "embeddings"], fed)
        return probabilities, embeddings


def _session(file: Path, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "the onnx back end needs onnxruntime (pip install onnxruntime); weights files run with backend='torch'"
        ) from error
    known = onnxruntime.get_available_providers()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and "CUDAExecutionProvider" not in known):
        offered = ", ".join(name.removesuffix("ExecutionProvider") for name in known)
        usable = "auto or cpu"
        if "CUDA" in offered:
            usable = "auto, cpu or cuda, and one GPU of several by CUDA_VISIBLE_DEVICES"
        raise ConfigError(f"device is {device!r}, but this onnxruntime offers {offered}; choose {usable}")
    wanted = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[name for name in wanted if name in known])
    except Exception as error:  # onnxruntime raises classes of its own, which are not public
        why = str(error).splitlines()[0]
        older = (
            f"; onnxruntime {onnxruntime.__version__} is older than the file: 1.18 or newer"
            if "IR version" in why
            else ""
        )
        raise CheckpointError(f"{file} cannot be read as an ONNX file: {why}{older}") from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():  # it falls back without an error
        raise ConfigError(
            "device is 'cuda', but onnxruntime could not use the GPU, most often for want of the CUDA and cuDNN that "
            "it was built for (its own log says which); install them, or choose auto or cpu"
        )
    return session


def _metadata(file: Path, session: Any) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    try:
        metadata = json.loads(text) if text else None
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{file} is an ONNX file of another program; write one with python -m mmcl_core.export")
    check_metadata(metadata, file)
    stated: dict[str, Any] = {"probabilities": len(metadata["classes"]), "embeddings": metadata["model"]["nrkhs"]}
    found = {value.name: value.shape[-1] for value in session.get_outputs() if value.name in stated}
    if found != stated or not {value.name for value in session.get_inputs()} <= {"image", "camera"}:
        raise CheckpointError(f"{file} does not fit its metadata: widths {found} of the answers, {stated} expected")
    if metadata.get("modality") not in metadata["trained_modalities"] or not isinstance(metadata.get("model_id"), str):
        raise CheckpointError(
            f"{file}: in the metadata modality is {metadata.get('modality')!r} and model_id "
            f"{metadata.get('model_id')!r}; write the file again with python -m mmcl_core.export"
        )
    return metadata
