"""A ResNet over two processes (gloo) against one, where one process holds a single sample.

The last maps of a picture of 32 pixels are one pixel, so that process normalises single rows. All is in float64: in
float32 rounding alone turns a ReLU on or off now and then, and gradients differ.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmcl_core.engine.distributed import average_gradients
from mmcl_core.nn.norm import ModalityBatchNorm
from mmcl_core.nn.resnet import ResNetEncoder

pytest.importorskip("torchvision")

WORLD, BATCH, BOUND = 2, 16, 0.5
PARTS = {0: slice(0, BATCH - 1), 1: slice(BATCH - 1, BATCH)}


def step(rows):
    """Loss, clipped gradients and statistics of an update whose parts are the same samples twice."""
    torch.manual_seed(0)
    encoder = ResNetEncoder("resnet18", 32, 8, ("rgb",)).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    wanted = torch.randn(BATCH, 8, generator=generator, dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    size = dist.get_world_size() if dist.is_initialized() else 1
    for _ in range(2):
        part = (encoder(x[rows], "rgb").f1 * wanted[rows]).sum() * size / BATCH
        part.backward()
        loss = loss + part.detach()
    parameters = list(encoder.parameters())
    average_gradients(parameters, size)
    norm = torch.nn.utils.clip_grad_norm_(parameters, BOUND)
    return loss, norm, {name: p.grad for name, p in encoder.named_parameters()}, dict(encoder.named_buffers())


def added(rows):
    """Gradients of the biases of two layers whose outputs are added."""
    layers = [ModalityBatchNorm(3, ("rgb",)) for _ in range(2)]
    x = torch.randn(BATCH, 3, 1, 1, generator=torch.Generator().manual_seed(2))[rows]
    (sum(layer(x, "rgb") for layer in layers) * torch.linspace(-1, 1, 3).view(3, 1, 1)).sum().backward()
    return [layer.bias.grad for layer in layers]


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    first, second = added(PARTS[rank])
    shared = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    torch.save((shared, *step(PARTS[rank])), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def test_no_two_gradients_share_their_memory(both):
    assert [shared for shared, *_ in both] == [False, False]


def test_two_processes_equal_one(both):
    loss, norm, grads, buffers = step(slice(None))
    assert norm > 2 * BOUND, "the bound bites"
    (_, ours, our_norm, first, our_buffers), (_, theirs, _, second, their_buffers) = both
    torch.testing.assert_close((ours + theirs) / 2, loss, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(our_norm, norm, rtol=1e-8, atol=0)
    whole = torch.cat([grad.flatten() for grad in grads.values()])
    flat = torch.cat([grad.flatten() for grad in first.values()])
    assert (flat - whole).norm() < 1e-8 * whole.norm()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert (value - grads[name]).norm() < 1e-8 * grads[name].norm() + 1e-9 * whole.norm(), name
    for name, value in buffers.items():
        torch.testing.assert_close(our_buffers[name], value, rtol=1e-8, atol=1e-9)
        assert torch.equal(our_buffers[name], their_buffers[name]), name
