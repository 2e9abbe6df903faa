"""What the benchmark measures: training steps, losses, the data path and recognition, beside plain formulations.

Every measurement is a process of its own, so that its peak memory and processor time are its own, and returns plain
figures; medians over repetitions after a warm-up. See :mod:`mmcl_core.engine.measure_sets` for preparing.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmcl_core.config import Config
from mmcl_core.data.workers import interrupts_deferred, start_alone
from mmcl_core.engine.clock import Clock
from mmcl_core.errors import TrainingError, out_of_memory
from mmcl_core.metrics import FUSED

if TYPE_CHECKING:
    from mmcl_core.engine.samples import Parts
    from mmcl_core.engine.trainer import Trainer

__all__ = [
    "Figures",
    "in_fresh_process",
    "measure_data",
    "measure_infer",
    "measure_loss",
    "measure_product",
    "measure_train",
    "wait_for",
]

Figures = dict[str, float | str]

#: Steps, or products, between two looks at the clock on a GPU.
GPU_STEPS = 10
#: Side of the matrices whose product a GPU is judged by.
PRODUCT = 8192


def in_fresh_process(function: Callable[..., Figures], *arguments: Any) -> Figures:
    """Run a measurement in a fresh process and return its figures, with the ``peak_memory_mb`` of the process.

    Raises:
        TrainingError: it needs more memory than there is, or its process was killed (as Linux does where memory ends).
    """
    less = "a smaller train.batch, model.ndf or model.input_size needs less"
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_alone, (function,)) as pool:
            with interrupts_deferred():
                future = pool.submit(_with_memory, function, *arguments)
            return future.result()
    except BrokenProcessPool as error:
        raise TrainingError(f"{function.__name__}: killed, most likely for want of memory; {less}") from error
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(f"{function.__name__}: out of memory; {less}") from error


def measure_train(config: Config, plain: bool, steps: int) -> Figures:
    """Time training steps of a configuration on random pictures.

    Args:
        config: the settings; ``train.batch`` samples a step.
        plain: the plain formulation (:mod:`mmcl_core.engine.plain`: eager float32, masks, a pool for every skip, Adam
            one parameter after the other) in place of the trainer's step.
        steps: measured repetitions, after two for warming up. One is a step on the CPU, and on a GPU, which training
            does not wait for step by step either, :data:`GPU_STEPS` of them.

    Returns:
        ``stage``, the first of the method, and its ``epochs``; ``seconds`` and ``cpu_seconds`` a step,
        ``images_per_second`` (every picture of every view counts), ``tflops`` (TFLOP/s of products and convolutions,
        counted on the step itself) and ``data_wait``.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder), samples=max(2 * config.train.batch, 64))
        step = _plain_step(trainer) if plain else trainer.train_step
        batches, clock = _endless(trainer), Clock(trainer.device)

        def one() -> None:
            step(clock.take(batches))
            trainer.step += 1

        flops = _count_flops(one)
        if not plain:
            _compile(trainer)
        together = GPU_STEPS if trainer.device.type == "cuda" else 1
        walls, processors, waits = [], [], []
        for number in range(steps + 2):
            used = time.process_time()
            clock.start()
            for _ in range(together):
                one()
            wait_for(trainer.device)
            if number >= 2:
                seconds, share = clock.read()
                walls.append(seconds / together)
                processors.append((time.process_time() - used) / together)
                waits.append(share * seconds / together)
    wall = statistics.median(walls)
    return {
        "stage": trainer.stage.name,
        "epochs": trainer.stage.epochs,
        "seconds": wall,
        "cpu_seconds": statistics.median(processors),
        "images_per_second": len(trainer.method.views(trainer.stage)) * config.train.batch / wall,
        "tflops": flops / wall / 1e12,
        "data_wait": sum(waits) / sum(walls),
        **_device_memory(trainer.device),
    }


def measure_product(config: Config, repetitions: int) -> Figures:
    """Time the product of two large bfloat16 matrices, random ones, on the GPU: what it can do at best.

    Returns:
        ``tflops``.
    """
    from mmcl_core.engine.device import train_device

    device = train_device(config.train.device)
    left, right = (torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))
    walls = []
    for number in range(repetitions + 1):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(GPU_STEPS):
            torch.mm(left, right)
        wait_for(device)
        if number:
            walls.append((time.perf_counter() - start) / GPU_STEPS)
    return {"tflops": 2 * PRODUCT**3 / statistics.median(walls) / 1e12}


def measure_loss(config: Config, plain: bool, batch: int, repetitions: int) -> Figures:
    """Time the contrastive loss, forward and backward, on random features of two modalities.

    Returns:
        ``seconds`` a call; the peak memory is that of the process (:func:`in_fresh_process`) or of the GPU.
    """
    from mmcl_core.engine.device import pick_precision, prepare_device, train_device
    from mmcl_core.engine.plain import contrast
    from mmcl_core.methods.parts import make_nce
    from mmcl_core.nn.encoder import Features
    from mmcl_core.nn.losses import draw_cells

    device = train_device(config.train.device)
    prepare_device(config.train, device, pick_precision(config.train, device))
    width, loss = config.model.nrkhs, config.loss
    nce = make_nce(loss)
    cells = {view: cell.to(device) for view, cell in draw_cells(batch, ("rgb", "depth")).items()}

    def leaf(*shape: int) -> Tensor:
        return torch.randn(batch, width, *shape, device=device).requires_grad_()

    features = {view: Features(leaf(), leaf(5, 5), leaf(7, 7)) for view in ("rgb", "depth")}
    labels = torch.arange(batch, device=device) % 21 if loss.drop_same_class else None
    weights = loss.clip, loss.regulariser, loss.direction_weight
    walls = []
    for number in range(repetitions + 1):
        start = time.perf_counter()
        if plain:
            terms = contrast(features, cells, loss.level_pairs, *weights, labels=labels)
        else:
            terms = nce(features, cells, labels=labels)
        torch.stack(list(terms.values())).sum().backward()
        wait_for(device)
        if number:
            walls.append(time.perf_counter() - start)
    return {"seconds": statistics.median(walls), **_device_memory(device)}


def measure_data(config: Config, repetitions: int) -> Figures:
    """Time the path from the prepared set to augmented pictures of all views of the method.

    Returns:
        ``crops_per_second``: augmented pictures, every view counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder), samples=max(2 * config.train.batch, 256))
        views = len(trainer.method.views(trainer.stage))
        batches, together = _endless(trainer), GPU_STEPS if trainer.device.type == "cuda" else 1
        walls = []
        for number in range(repetitions + 1):
            start = time.perf_counter()
            for _ in range(together):
                next(batches)
                trainer.step += 1
            wait_for(trainer.device)
            if number:
                walls.append((time.perf_counter() - start) / together)
    return {"crops_per_second": views * config.train.batch / statistics.median(walls)}


def measure_infer(config: Config, crops: int, repetitions: int) -> Figures:
    """Time :meth:`mmcl_core.recognizer.Recognizer.recognize` on the crops of one frame, with random weights.

    The network is that of the method, with all its streams and generators, on ``train.device`` with ``train.threads``.

    Returns:
        ``milliseconds`` a frame for each modality that the network answers for, and for both together.
    """
    from mmcl_core.methods import method_class
    from mmcl_core.modality import modality
    from mmcl_core.recognizer import Recognizer
    from mmcl_core.weights import save_weights

    classes, side = [f"class_{n}" for n in range(21)], config.model.input_size
    method = method_class(config.method)(config, classes, samples=2, rows=range(2))
    model = method.deployed(method.build())
    stored = config.model.depth_encoding == "stored"
    for name in model.modalities:  # one pass in training mode gives every BatchNorm its statistics
        channels = 3 if modality(name).kind == "rgb" or stored else 1
        model.train()(torch.rand(4, channels, side, side) * 255, name)
    generator = np.random.default_rng(0)
    rgb = [generator.integers(0, 256, (120, 100, 3), dtype=np.uint8) for _ in range(crops)]
    depth = rgb if stored else [generator.integers(500, 1500, (120, 100), dtype=np.uint16) for _ in range(crops)]
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, model, {"method": config.method, "classes": classes})
        recognizer = Recognizer.load(path, config.train.device, threads=config.train.threads)
        pictures = {kind: given for kind, given in (("rgb", rgb), ("depth", depth)) if kind in recognizer.modalities}
        asked: dict[str, dict[str, Any]] = {kind: {kind: given} for kind, given in pictures.items()}
        if len(pictures) > 1:
            asked[FUSED] = pictures
        for name, arguments in asked.items():
            walls = []
            for number in range(repetitions + 1):
                start = time.perf_counter()
                recognizer.recognize(**arguments)
                if number:
                    walls.append(time.perf_counter() - start)
            figures[f"{name}_milliseconds"] = 1000 * statistics.median(walls)
    return figures


def _with_memory(function: Callable[..., Figures], *arguments: Any) -> Figures:
    figures = function(*arguments)
    # Kilobytes on Linux. What the libraries take at rest is in it: compare, do not add up.
    figures.setdefault("peak_memory_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return figures


def _device_memory(device: torch.device) -> Figures:
    return {"peak_memory_mb": torch.cuda.max_memory_allocated(device) / 2**20} if device.type == "cuda" else {}


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _count_flops(call: Callable[[], object]) -> float:
    """Multiplications and additions of matrix products and convolutions, forward and backward.

    PyTorch's FlopCounterMode also sorts them by module, at which that of version 2.4 fails.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if count := flop_registry.get(func._overloadpacket):
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    with Counter() as counter:
        call()
    return float(counter.total)


def _trainer(config: Config, folder: Path, samples: int) -> Trainer:
    """A trainer in its first stage, on random pictures."""
    from mmcl_core.engine.device import pick_precision, prepare_device, train_device
    from mmcl_core.engine.distributed import World
    from mmcl_core.engine.trainer import Trainer

    _random_set(config, folder / "set", samples)
    data = replace(config.data, root=str(folder / "set"), train_split="train", val_split="", val_fraction=0.0)
    if data.unlabelled == "drop":  # what is left has labels, and is as many samples as are asked for
        data = replace(data, label_share=1.0)
    # There is no validation here, to choose or to probe by.
    config = replace(config, train=replace(config.train, keep="last", probe=0))
    # A rate that rises is as much work as one that is there, and the warning of a training too short for it is of none.
    config = replace(config, data=data, optim=replace(config.optim, warmup_steps=0))
    device = train_device(config.train.device)
    precision = pick_precision(config.train, device)
    prepare_device(config.train, device, precision)
    trainer = Trainer(config, folder / "run", World(0, 1), device, precision)
    trainer.enter(0, None)
    return trainer


def _compile(trainer: Trainer) -> None:
    from mmcl_core.engine.device import compiles

    if compiles(trainer.config.train, trainer.device):
        for module in trainer.method.compiled(trainer.system):
            module.compile()


def _random_set(config: Config, root: Path, samples: int) -> None:
    from mmcl_core.data.writer import PreparedWriter, Sample
    from mmcl_core.modality import modality

    side = config.model.input_size
    generator = np.random.default_rng(0)
    names = config.train.modalities
    stored = [name for name in names if modality(name).kind == "depth" and config.model.depth_encoding == "stored"]
    writer = PreparedWriter(
        root,
        classes=[f"class_{n}" for n in range(21)],
        size=side,
        modalities=names,
        stored=stored,
    )
    with writer:
        for number in range(samples):
            images = {}
            for name in names:
                images[name] = (
                    generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    if modality(name).kind == "rgb" or name in stored
                    else generator.integers(500, 1500, (side, side), dtype=np.uint16)
                )
            writer.add(Sample(images=images, label=number % 21, split="train", key=f"{number:06d}"))


def _endless(trainer: Trainer) -> Iterator[Parts]:
    """Batches without end. Whoever takes one counts ``trainer.step`` up."""
    while True:
        with trainer.ready(trainer.step // trainer.steps_per_epoch) as batches:
            yield from batches


def _plain_step(trainer: Trainer) -> Callable[[Parts], None]:
    """The same step as one would write it down first."""
    from mmcl_core.engine import plain
    from mmcl_core.modality import to_network_input
    from mmcl_core.nn.encoder import Encoder
    from mmcl_core.nn.model import RecognitionModel

    model, config = trainer.method.deployed(trainer.system), trainer.config
    assert isinstance(model, RecognitionModel)
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    optim = config.optim
    optimizer = torch.optim.Adam(
        model.parameters(), optim.lr, optim.betas, optim.eps, optim.weight_decay, foreach=False, fused=False
    )
    model.to(memory_format=torch.contiguous_format)
    views = trainer.method.views(trainer.stage)

    def step(parts: Parts) -> None:
        for _, batch in parts:
            features = {}
            for view, modality in views.items():
                picture = batch.pictures[view]
                pixels = to_network_input(picture.image, modality, picture.camera, model.inputs)
                features[view] = plain.encode(encoder, pixels.contiguous())
            cells = {view: batch.draws[view] for view in views}
            loss = config.loss
            weights = loss.clip, loss.regulariser, loss.direction_weight
            labels = batch.labels if loss.drop_same_class else None
            terms = plain.contrast(features, cells, loss.level_pairs, *weights, labels=labels)
            total = torch.stack(list(terms.values())).sum()
            for target in trainer.method.targets:
                for logits in model.classifier(features[target].f1, views[target]):
                    total = total + plain.classify(logits, batch.labels, loss.logit_clip, loss.logit_regulariser)
            (total / len(parts)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
