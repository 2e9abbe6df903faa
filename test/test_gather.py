"""Two processes (gloo) against one: losses, gradients and statistics of the same global batch.

Not tested here: NCCL, and the trainer around it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmcl_core.nn.distillation import agreement_loss
from mmcl_core.nn.encoder import Encoder, Features
from mmcl_core.nn.gather import gather_with_grad, total
from mmcl_core.nn.heads import Classifier
from mmcl_core.nn.losses import CrossModalNCE, classification_loss
from mmcl_core.nn.norm import ModalityBatchNorm

WORLD, BATCH, VIEWS = 2, 8, ("rgb", "depth")
PAIRS = ("1-5", "1-7", "5-7")
CASES = [(chunk, masked, drop) for chunk in (100, 3) for masked in (False, True) for drop in (False, True)]


def problem():
    """Pictures and labels of a global batch; the labelled and the complete samples are spread unevenly."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": {view: torch.randn(BATCH, 3, 32, 32, generator=generator) for view in VIEWS},
        "cells": {view: torch.randint(25, (BATCH,), generator=generator) for view in VIEWS},
        "valid": {"rgb": torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]).bool(), "depth": torch.arange(BATCH) != 1},
        "labels": torch.tensor([0, 1, 2, 0, -1, -1, 2, -1]),
    }


def network():
    torch.manual_seed(0)
    encoder = Encoder(32, 4, 12, 2, True, VIEWS)
    for name, parameter in encoder.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    return torch.nn.ModuleDict({"encoder": encoder, "classifier": Classifier(12, 3, 8, 0.0, VIEWS)})


def whole_step(rows, chunk, masked, drop=False):
    """Losses, gradients and statistics of the rows that this process holds."""
    model, given = network(), problem()
    features = {view: model["encoder"](given["x"][view][rows], view) for view in VIEWS}
    cells, valid = ({view: given[key][view][rows] for view in VIEWS} for key in ("cells", "valid"))
    nce = CrossModalNCE(PAIRS, chunk=chunk, drop_same_class=drop)
    terms = nce(features, cells, valid if masked else None, given["labels"][rows])
    logits = model["classifier"](features["rgb"].f1, "rgb")
    for name, values in logits._asdict().items():
        terms[name] = classification_loss(values, given["labels"][rows])
    views = [model["classifier"].linear(features[view].f1) for view in VIEWS]
    terms["agreement"] = agreement_loss(views, list(valid.values()), 2.0)
    sum(terms.values()).backward()
    return (
        {name: value.detach() for name, value in terms.items()},
        {name: p.grad for name, p in model.named_parameters()},
        dict(model.named_buffers()),
    )


def loss_alone(rows):
    """The contrastive loss of given embeddings, with their gradients."""
    generator = torch.Generator().manual_seed(1)
    maps = [[torch.randn(BATCH, 6, *size, generator=generator) for size in ((), (5, 5), (7, 7))] for _ in VIEWS]
    leaves = [[f[rows].clone().requires_grad_() for f in each] for each in maps]
    features = {view: Features(*each) for view, each in zip(VIEWS, leaves, strict=True)}
    cells = {view: problem()["cells"][view][rows] for view in VIEWS}
    loss = sum(CrossModalNCE(PAIRS, chunk=3)(features, cells).values())
    loss.backward()
    return loss.detach(), [f.grad for each in leaves for f in each]


def uneven_norm(rows):
    """BatchNorm of processes that hold different numbers of rows."""
    norm = ModalityBatchNorm(3, ("rgb",))
    x = 50 + torch.randn(BATCH, 3, 4, generator=torch.Generator().manual_seed(2))
    weights = torch.linspace(-1, 1, x.numel()).view_as(x)
    x = x[rows].clone().requires_grad_()
    y = norm(x, "rgb")
    (y * weights[rows]).sum().backward()
    return y.detach(), x.grad, norm.statistics["rgb"].mean, norm.statistics["rgb"].var


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    rows = slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)
    x = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = gather_with_grad(x)
    (gathered * torch.arange(12.0).view(4, 3) * (rank + 1)).sum().backward()
    results = {
        "gathered": gathered.detach(),
        "gathered grad": x.grad,
        "total": total(torch.tensor(rank + 1.0)),
        "steps": [whole_step(rows, *case) for case in CASES],
        "loss": loss_alone(rows),
        "norm": uneven_norm(slice(0, 3) if rank == 0 else slice(3, BATCH)),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, (str(tmp_path),), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    check_gather(first, second)
    check_steps(first, second)
    check_loss(first, second)
    check_norm(first, second)


def check_gather(first, second):
    for rank, got in enumerate((first, second)):
        assert torch.equal(got["gathered"], torch.tensor([[0.0] * 3] * 2 + [[1.0] * 3] * 2))
        # both processes use every row, with weights 1 and 2
        assert torch.equal(got["gathered grad"], 3 * torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2])
        assert got["total"] == 3


def check_steps(first, second):
    for (_, masked, drop), ours, theirs in zip(CASES, first["steps"], second["steps"], strict=True):
        terms, grads, buffers = whole_step(slice(None), 100, masked, drop)
        for name, value in terms.items():
            torch.testing.assert_close((ours[0][name] + theirs[0][name]) / 2, value, rtol=1e-5, atol=1e-6)
        largest = max(g.norm() for g in grads.values())
        for name, value in grads.items():
            difference = (ours[1][name] + theirs[1][name]) / 2 - value
            assert difference.norm() < 1e-4 * value.norm() + 1e-6 * largest, name
        for name, value in buffers.items():
            torch.testing.assert_close(ours[2][name], value, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(theirs[2][name], ours[2][name], rtol=0, atol=0)


def check_loss(first, second):
    loss, grads = loss_alone(slice(None))
    torch.testing.assert_close((first["loss"][0] + second["loss"][0]) / 2, loss)
    for ours, theirs, grad in zip(first["loss"][1], second["loss"][1], grads, strict=True):
        torch.testing.assert_close(torch.cat((ours, theirs)) / 2, grad, rtol=1e-5, atol=1e-7)


def check_norm(first, second):
    y, grad, mean, var = uneven_norm(slice(None))
    torch.testing.assert_close(torch.cat((first["norm"][0], second["norm"][0])), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat((first["norm"][1], second["norm"][1])), grad, rtol=1e-3, atol=1e-4)
    for got in (first, second):
        torch.testing.assert_close(got["norm"][2], mean)
        torch.testing.assert_close(got["norm"][3], var, rtol=1e-4, atol=1e-6)
