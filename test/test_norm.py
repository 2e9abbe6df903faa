"""ModalityBatchNorm against one torch BatchNorm per modality. Several processes: see test_gather.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmcl_core.errors import UntrainedModalityError
from mmcl_core.nn.norm import ModalityBatchNorm


def batches(number, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [2 + 3 * torch.randn(6, channels, 4, 4, generator=generator) for _ in range(number)]


def trained_norm():
    norm = ModalityBatchNorm(5, ("rgb", "depth"))
    separate = {name: nn.BatchNorm2d(5) for name in ("rgb", "depth")}
    for step, x in enumerate(batches(7)):
        name = "depth" if step % 3 == 0 else "rgb"
        x = x if name == "rgb" else 10 * x
        assert torch.allclose(norm(x, name), separate[name](x), atol=1e-6)
    return norm, separate


def test_each_modality_has_the_statistics_of_a_batchnorm_of_its_own():
    norm, separate = trained_norm()
    norm.eval()
    (x,) = batches(1, seed=9)
    for name, other in separate.items():
        assert torch.allclose(norm.statistics[name].mean, other.running_mean, atol=1e-5)
        assert torch.allclose(norm.statistics[name].var, other.running_var, rtol=1e-5)
        assert norm.statistics[name].count == other.num_batches_tracked
        assert torch.allclose(norm(x, name), other.eval()(x), atol=1e-5)
    assert not torch.allclose(norm(x, "rgb"), norm(x, "depth"), atol=0.1)


def test_affine_weights_are_shared_and_the_only_parameters():
    norm, _ = trained_norm()
    assert {name: p.shape for name, p in norm.named_parameters()} == {"weight": (5,), "bias": (5,)}


def test_evaluation_leaves_the_statistics_alone():
    norm, _ = trained_norm()
    before = copy.deepcopy(norm.state_dict())
    norm.eval()(batches(1)[0], "rgb")
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_untrained_modality_is_refused_in_evaluation_and_named():
    norm = ModalityBatchNorm(5, ("rgb", "depth"))
    (x,) = batches(1)
    with pytest.raises(UntrainedModalityError, match=r"'rgb'.*trained: none"):
        norm.eval()(x, "rgb")
    norm.train()(x, "rgb")
    norm.eval()(x, "rgb")
    with pytest.raises(UntrainedModalityError, match=r"'depth'.*trained: rgb"):
        norm(x, "depth")


@pytest.mark.parametrize("training", [True, False])
def test_unknown_modality_is_refused(training):
    norm, _ = trained_norm()
    with pytest.raises(UntrainedModalityError, match=r"'thermal'.*rgb, depth"):
        norm.train(training)(batches(1)[0], "thermal")


def test_what_is_trained_follows_the_loaded_state():
    trained, _ = trained_norm()
    fresh = ModalityBatchNorm(5, ("rgb", "depth")).eval()
    blank = copy.deepcopy(fresh.state_dict())
    (x,) = batches(1)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x, "rgb"), trained.eval()(x, "rgb"))
    assert fresh.trained_modalities() == ("rgb", "depth")
    fresh.load_state_dict(blank)
    with pytest.raises(UntrainedModalityError):
        fresh(x, "rgb")
    trained.statistics["depth"].reset()
    assert trained.trained_modalities() == ("rgb",)
    fresh = ModalityBatchNorm(5, ("rgb",))
    fresh(x, "rgb")
    assert fresh.trained_modalities() == ("rgb",)  # asked for before it is forgotten
    fresh.forget("rgb")
    assert fresh.trained_modalities() == ()
    assert torch.equal(fresh.statistics["rgb"].mean, torch.zeros(5))
    assert torch.equal(fresh.statistics["rgb"].var, torch.ones(5))
