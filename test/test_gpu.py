"""What only a GPU shows: the same pictures and losses as on the CPU, half precision, compiling, answers. Skipped
without one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mmcl_core.augment import Augmenter
from mmcl_core.config import AugmentConfig
from mmcl_core.engine.distributed import World
from mmcl_core.engine.muon import orthogonalised
from mmcl_core.engine.recording import WARM_UP
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.trainer import Trainer, train
from mmcl_core.errors import RunInterruptedError
from mmcl_core.methods import METHODS, method_class
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import load_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FLOAT32 = ("train.precision=float32", "train.compile=off")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("gpu") / "set")


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch):
    """Training beside half precision allows shorter factors for the rest of the process."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("policy", ["paper", "sound"])
@pytest.mark.parametrize("kind", ["rgb", "depth"])
def test_pictures_are_those_of_the_cpu(policy, kind):
    config = AugmentConfig(
        policy=policy, rgb_ops=3, rgb_magnitude=9, depth_ops=3, depth_set=1, depth_magnitude=9, depth_holes=0.2,
        depth_erase=0.5, depth_offset_m=0.05, depth_background_m=1.2, depth_view_deg=20, camera_dropout=0.3,
    )  # fmt: skip
    augmenter = Augmenter(config, 32, {"a": kind, "b": kind})
    rng = np.random.default_rng(0)
    shape, most = ((64, 48, 48, 3), 256) if kind == "rgb" else ((64, 48, 48), 1500)
    image = torch.from_numpy(rng.integers(0, most, shape).astype(np.uint8 if kind == "rgb" else np.int32))
    camera = torch.tensor([[50.0, 50.0, 24.0, 24.0]]).repeat(64, 1)
    draws = augmenter.draw(64, torch.Generator().manual_seed(1))
    host = augmenter({kind: image}, camera, draws)
    device = augmenter({kind: image.cuda()}, camera.cuda(), draws)
    for view, picture in host.items():
        assert device[view].image.device.type == "cuda"
        # A pixel whose source lies on the border of two may come from either; nothing else differs.
        away = (device[view].image.cpu().float() - picture.image.float()).abs() > 1
        assert away.float().mean() < 0.005
        torch.testing.assert_close(device[view].camera.cpu(), picture.camera, rtol=1e-4, atol=1e-2)


def test_views_made_ahead_are_those_of_their_update(data, tmp_path):
    config = tiny.settings(data, "train.device=cuda", *FLOAT32)
    trainer = Trainer(config, tmp_path, World(0, 1), torch.device("cuda", 0), "float32")
    trainer.enter(0, None)
    trainer.step = 1
    with trainer.ready(0) as ready:
        ahead = list(ready)
    assert len(ahead) == trainer.steps_per_epoch - 1
    with trainer.samples.epoch(0, 1) as batches:
        for step, (raw, made) in enumerate(zip(batches, ahead, strict=True), start=1):
            ((batch, views),) = made
            (expected,) = trainer.samples.views(raw, trainer.augmenter, trainer.stage, [(0, step, 0)])
            assert torch.equal(batch.index, raw[0].index)
            for name, picture in expected.pictures.items():
                # Several updates are augmented at a time, by products of another size, which may round otherwise.
                away = (views.pictures[name].image.float() - picture.image.float()).abs() > 1
                assert away.float().mean() < 1e-3


def loss_rows(data, run, *overrides):
    train(tiny.settings(data, "train.log_every=1", *overrides), run)
    return [row["loss"] for row in read_rows(run, "train")]


def test_losses_are_those_of_the_cpu(data, tmp_path):
    host = loss_rows(data, tmp_path / "cpu", *FLOAT32)
    device = loss_rows(data, tmp_path / "gpu", "train.device=cuda", *FLOAT32)
    assert device[0] == pytest.approx(host[0], rel=2e-3)  # some pixels are taken from the neighbour, see above
    # The first update of Adam moves every weight by the rate, also where the sign of its gradient is that of rounding.
    assert device[:3] == pytest.approx(host[:3], rel=1e-2)


@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if method_class(name).recordable])
def test_a_recorded_pass_is_the_pass(data, tmp_path, method):
    words = ("train.device=cuda", f"method={method}", "train.head_epochs=1", "model.dropout=0.2", *FLOAT32)
    trainer = Trainer(tiny.settings(data, *words), tmp_path, World(0, 1), torch.device("cuda", 0), "float32")
    for stage in range(len(trainer.stages)):
        trainer.enter(stage, None)
        recorded, update = trainer.recorded, trainer.stage.updates[0]
        with trainer.ready(0) as ready:
            batches = [views for ((_, views),) in ready]
        for number in range(WARM_UP + 3):
            batch, found = batches[number % len(batches)], []
            for run in (recorded, lambda batch: trainer._pass(update, batch)):  # noqa: B023 - called in this round
                torch.manual_seed(number)
                terms = {name: value.item() for name, value in run(batch).items()}
                found.append((terms, [None if p.grad is None else p.grad.clone() for p in trainer.parameters[0]]))
                for optimizer in trainer.optimizers:
                    optimizer.zero_grad(set_to_none=True)
            assert found[0][0] == pytest.approx(found[1][0], rel=1e-4, abs=1e-6)
            for mine, other in zip(found[0][1], found[1][1], strict=True):
                assert (mine is None) == (other is None)
                if mine is not None:
                    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
        assert recorded._graph is not None


def test_losses_that_ask_the_gpu_cannot_be_recorded(data, tmp_path):
    """In a process of its own: torch does not get over it."""
    code = f"""
import sys, tiny
from pathlib import Path
from mmcl_core.engine.trainer import train
from mmcl_core.methods import method_class
kind = method_class("mmcl")
losses = kind.losses
def asking(*arguments):
    terms = losses(*arguments)
    assert all(value.isfinite().item() for value in terms.values())
    return terms
kind.losses = asking
train(tiny.settings({str(data)!r}, "train.device=cuda", *sys.argv[2:]), Path(sys.argv[1]))
"""
    command = [sys.executable, "-c", code]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])}
    refused = subprocess.run(
        [*command, str(tmp_path / "a"), *FLOAT32], env=here, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "train.cuda_graph=off" in refused.stderr.splitlines()[-1]
    subprocess.run([*command, str(tmp_path / "b"), *FLOAT32, "train.cuda_graph=off"], env=here, check=True)


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_half_precision_learns_the_same(data, tmp_path, compiled):
    host = loss_rows(data, tmp_path / "cpu", *FLOAT32)
    words = ("train.device=cuda", "train.precision=bf16", f"train.compile={compiled}")
    device = loss_rows(data, tmp_path / "gpu", *words)
    assert device[:4] == pytest.approx(host[:4], rel=0.05)
    assert device[-1] < device[0]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_to_its_end_and_answers(data, tmp_path, method):
    short = [
        "train.epochs=1", "train.head_epochs=1", "cmc.probe_epochs=1", "moddrop.alone_epochs=1", "pix2pix.gan_epochs=1",
        "pix2pix.alone_epochs=1", "pix2pix.width=4", "admd.alone_epochs=1", "hallucination.alone_epochs=1",
    ]  # fmt: skip
    target = "both" if method in ("mmcl", "cmc") else "rgb"
    run = tmp_path / "run"
    words = ("train.device=cuda", "train.precision=bf16", "train.compile=off", f"method={method}")
    train(tiny.settings(data, *words, f"train.target={target}", *short), run)
    assert load_weights(run)[1]["method"] == method
    rgb = [tiny.picture(0, np.random.default_rng(3))[0]]
    here, there = (Recognizer.load(run, device=name).recognize(rgb=rgb) for name in ("cpu", "cuda"))
    np.testing.assert_allclose(here.probabilities, there.probabilities, atol=0.02)


def test_matrices_are_turned_as_on_the_cpu():
    torch.manual_seed(0)
    several = torch.randn(3, 64, 288)
    host, device = orthogonalised(several), orthogonalised(several.cuda()).cpu()  # in half precision there
    assert (device - host).norm() < 0.1 * host.norm()


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_gpu_run_goes_on_where_it_stopped(data, tmp_path, optimizer):
    words = ("train.device=cuda", "train.save_every=1", f"optim.name={optimizer}", *FLOAT32)
    whole = loss_rows(data, tmp_path / "whole", *words)
    config = tiny.settings(data, "train.log_every=1", *words)
    end_epoch = Trainer._end_epoch

    def stop(trainer, epoch):
        end_epoch(trainer, epoch)
        trainer.stopping = True
        trainer._save()
        trainer._stop_if_asked()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", stop)
        with pytest.raises(RunInterruptedError):
            train(config, tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    parts = [row["loss"] for row in read_rows(tmp_path / "parts", "train")]
    assert parts == pytest.approx(whole, rel=1e-2)
