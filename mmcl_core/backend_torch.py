"""The PyTorch back end of the recogniser, and the network as it is deployed: probabilities and a unit embedding."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmcl_core.errors import ConfigError
from mmcl_core.modality import to_raw
from mmcl_core.nn.network import Network
from mmcl_core.weights import build_model, model_id

__all__ = ["Deployed", "TorchBackend", "pick_device", "set_float32", "set_threads"]


class Deployed(nn.Module):
    """A trained network with one modality fixed, from pictures as they are stored to answers.

    Args:
        model: the network, in evaluation mode.
        modality: name of the modality.
        temperature: what class scores are divided by.
    """

    def __init__(self, model: Network, modality: str, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.modality = modality
        self.temperature = temperature

    def forward(self, image: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        """Recognise a batch.

        Args:
            image: uint8 [N, S, S, 3] (colour, stored depth pictures), or depth in mm, float32 [N, S, S].
            camera: float32 [N, 4], rows of zeros where unknown.

        Returns:
            Probabilities [N, C] and embeddings of length 1 [N, R], float32.
        """
        logits, embedding = self.model(to_raw(image, self.modality), self.modality, camera)
        return F.softmax(logits.float() / self.temperature, dim=1), F.normalize(embedding.float(), dim=1)


class TorchBackend:
    """Runs a weights file.

    Args:
        path: run folder or weights file.
        device: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        precision: ``float32`` or ``bf16`` (autocast).

    Raises:
        CheckpointError: see :func:`mmcl_core.weights.load_weights`.
        ConfigError: a device that is not there.
    """

    name = "torch"

    def __init__(self, path: Path, device: str, precision: str) -> None:
        self._device = pick_device(device)
        set_float32(precision)
        self.device = str(self._device)
        self.precision = precision
        model, self.metadata = build_model(path, self._device)
        model.to(memory_format=torch.channels_last)
        self.model_id = model_id(path)
        self._turn = threading.Lock()  # a ResNet is told between calls whose statistics to use
        self._parts = {
            name: Deployed(model, name, float(self.metadata["temperature"][name]))
            for name in self.metadata["trained_modalities"]
        }

    def deployed(self, modality: str) -> Deployed:
        """The network of a modality it was trained for."""
        return self._parts[modality]

    def infer(self, modality: str, images: NDArray[Any], cameras: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Probabilities and unit embeddings of a batch; arguments and results as of :class:`Deployed`."""
        with (
            self._turn,
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            tensors = (torch.from_numpy(array).to(self._device) for array in (images, cameras))
            probabilities, embeddings = self._parts[modality](*tensors)
            return probabilities.cpu().numpy(), embeddings.cpu().numpy()


def set_float32(precision: str) -> None:
    """Have GPUs multiply float32 as such, or as TF32 where the rest is ``bf16``, for the whole process.

    The default of torch is TF32 in convolutions, ten bits of mantissa: not the float32 that was asked for.
    """
    torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "bf16"


def set_threads(threads: int) -> None:
    """Limit torch to so many CPU threads, for the whole process."""
    torch.set_num_threads(threads)


def pick_device(name: str, setting: str = "device") -> torch.device:
    """The device of a name; ``auto`` is the GPU where there is one, else the CPU.

    Args:
        name: ``auto``, or as for :class:`torch.device`.
        setting: where the name comes from, for the message.

    Raises:
        ConfigError: not a device torch knows, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choice = f"{setting} is {name!r}; choose auto, cpu, cuda or cuda:<number>"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(choice) from error
    if device.type not in ("cpu", "cuda"):
        try:
            torch.ones(1, device=device).cpu()
        except (RuntimeError, AssertionError, ImportError) as error:  # meta holds no numbers, others are not there
            raise ConfigError(choice) from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigError(f"{setting} is {name!r}, torch finds {found} usable GPUs; take auto or cpu")
    return device
