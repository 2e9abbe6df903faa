"""The training loop, one for every method.

A run is stages, a stage is epochs, an epoch is steps, a step is the updates of the method over all parts of a batch.
Everything random in a step is drawn from a seed made of (seed, stage, step); the learning rate is a function of the
step. So the saved state is weights, optimisers and a position, and a resumed run repeats the interrupted one bit for
bit (on one kind of CPU; a GPU's reductions are not reproducible to the last bit).

The loop does not wait for the device inside a step: loss terms stay there and are looked at every ``train.log_every``
updates, before a state is saved, and at the end of an epoch. A loss that is not finite is named then by step and term,
and nothing saved after it. Only where samples lack a sensor, or a method drops one, the host waits for their number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from mmcl_core.augment import Picture
from mmcl_core.config import Config, config_hash
from mmcl_core.data.batches import BatchSource
from mmcl_core.engine import device as devices
from mmcl_core.engine import runfolder
from mmcl_core.engine.checkpoint import StateWriter, load_state, restoring, snapshot
from mmcl_core.engine.checks import check_settings, check_taught
from mmcl_core.engine.clock import Clock, Neighbours
from mmcl_core.engine.distributed import World, average_gradients, world
from mmcl_core.engine.interrupt import StopSignals
from mmcl_core.engine.optim import MovingAverage, make_optimizer, require_finite, select, set_mode
from mmcl_core.engine.probe import probe
from mmcl_core.engine.recording import RecordedPass, can_record
from mmcl_core.engine.runlog import Row, RunLog, environment
from mmcl_core.engine.samples import Parts, Samples, check_state
from mmcl_core.engine.schedule import learning_rate, step_seed
from mmcl_core.engine.validation import Outputs, collect, fit_temperatures, scores
from mmcl_core.engine.window import TermWindow, first_not_finite
from mmcl_core.errors import RunInterruptedError, TrainingError
from mmcl_core.methods.base import Update, ViewBatch, parts_of_one_step
from mmcl_core.progress import progress_bar
from mmcl_core.weights import WEIGHTS_NAME, save_weights

__all__ = ["RunResult", "Trainer", "train"]

logger = logging.getLogger(__name__)

Question = Callable[[nn.Module, Picture, str], Tensor]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        run: its folder.
        scores: validation scores of the deployed weights, see :func:`mmcl_core.engine.validation.scores`; empty
            without validation.
        selection: in words, which weights are deployed.
    """

    run: Path
    scores: dict[str, float]
    selection: str


def train(config: Config, run: Path, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Train a method from the first step, or from the saved state, to the end.

    Args:
        config: all settings.
        run: run folder, see :mod:`mmcl_core.engine.runfolder`.
        resume: continue what the folder holds.
        overwrite: replace the run that the folder holds.

    Raises:
        ConfigError: settings that contradict each other, the data or the machine; raised before any work.
        DataError: the prepared set is missing or damaged, or another process trains in the folder.
        CheckpointError: the saved state is damaged or belongs to other data.
        TrainingError: a loss that is not finite, no memory left, a lost process.
        RunInterruptedError: a signal asked for the end; the state is saved.
    """
    device = devices.train_device(config.train.device)
    precision = devices.pick_precision(config.train, device)
    with world(device.type == "cuda") as processes, devices.translate_errors(config.train, processes.size):
        check_settings(config, processes.size)
        with runfolder.locked(run, processes.main):
            if resume and runfolder.is_finished(run):
                logger.info("%s is finished already", run)
                metadata = runfolder.close_finished(run)
                return RunResult(run, metadata.get("validation", {}), metadata.get("selection", ""))
            devices.prepare_device(config.train, device, precision)
            state = load_state(run / "state.pt") if resume and (run / "state.pt").exists() else None
            trainer = Trainer(config, run, processes, device, precision, fresh=state is None)
            if processes.main and state is None and not (resume and (run / "config.yaml").exists()):
                runfolder.start_folder(run, config, overwrite)
            return trainer.fit(state)


class Trainer:
    """A run in the making: data, networks and position.

    Args:
        config: all settings, checked.
        run: run folder.
        world: this process among others.
        device: where to train.
        precision: ``bf16`` or ``float32``.
        fresh: take over the weights that training starts from; a saved state has them and needs no file of them.
    """

    def __init__(
        self, config: Config, run: Path, world: World, device: torch.device, precision: str, fresh: bool = True
    ) -> None:
        self.config, self.run, self.world, self.device, self.precision = config, run, world, device, precision
        self.samples = Samples(config, world, device)
        self.method, self.steps_per_epoch = self.samples.method, self.samples.steps_per_epoch
        torch.manual_seed(step_seed(config.seed, "weights"))
        self.system: nn.Module = self.method.build()
        if fresh:
            self.method.load_start(self.system)
        layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.system.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.stages = self.method.stages()
        self.index, self.step = 0, 0  # stage, and updates done in it
        self.average: MovingAverage | None = None
        self.best: dict[str, Any] | None = None
        self.window, self.writer = TermWindow(device), StateWriter(run / "state.pt")
        self.signals, self.stopping = StopSignals(), False  # whether to stop is agreed on by all processes
        self.clock, self.seen = Clock(device), 0  # of the window: time, samples
        self.neighbours = Neighbours(torch.get_num_threads())

    def fit(self, state: dict[str, Any] | None = None) -> RunResult:
        """Train from a saved state, or from the start, to the end."""
        with restoring(self.writer.path, state):
            if state is not None:
                check_state(state, self.run, self.samples, self.world.size, self.precision)
                self.index, self.step = state["stage"], state["step"]
            self.log = RunLog(self.run, state and state["log"], self.world.main)
        if self.world.main:
            runfolder.remove_leftovers(self.run)
            if not (self.run / "config.yaml").exists():  # lost; the state says that these are the run's settings
                runfolder.write_config(self.run, self.config)
            keys = self.samples.labelled_keys() if self.config.data.label_share < 1 else None
            runfolder.write_facts(self.run, environment(self.device, self.precision, self.world.size), keys)
        if devices.compiles(self.config.train, self.device):
            for module in self.method.compiled(self.system):
                module.compile()
        with self.log, self.writer, self.signals:
            for index in range(self.index, len(self.stages)):
                self.enter(index, state)
                state = None
                for epoch in range(self.step // self.steps_per_epoch, self.stage.epochs):
                    self._train_epoch(epoch)
                    self._end_epoch(epoch)
                self._leave()
        return self._finish()

    def enter(self, index: int, state: dict[str, Any] | None) -> None:
        """Begin a stage, or take it up where the saved state left it."""
        self.index, self.stage = index, self.stages[index]
        self.first_epoch = sum(stage.epochs for stage in self.stages[:index])
        self.augmenter = self.method.augmenter(self.stage)
        if state is None:
            self.step, self.best = 0, None
            self.window = TermWindow(self.device)
            torch.manual_seed(step_seed(self.config.seed, "stage", index))
            self.method.start_stage(self.system, self.stage)
        self.optimizers = [make_optimizer(self.system, update, self.device) for update in self.stage.updates]
        ema = self.config.optim.ema
        self.average = MovingAverage(self.system, ema) if ema > 0 else None
        if state is not None:
            with restoring(self.writer.path, state):
                self.system.load_state_dict(state["system"])
                for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                    optimizer.load_state_dict(saved)
                if self.average is not None:
                    self.average.system.load_state_dict(state["average"])
                self.best = state["best"]
                self.window.restore(state["window"])
        set_mode(self.system, self.stage)
        self.parameters = [select(self.system, update) for update in self.stage.updates]
        alike = can_record(self.config, self.method, self.stage, self.samples.incomplete, self.device, self.world.size)
        first = partial(self._pass, self.stage.updates[0])
        self.recorded = RecordedPass(first, self.parameters[0]) if alike else None

    def _train_epoch(self, epoch: int) -> None:
        """All steps of an epoch that are not done yet."""
        stage, first, settings = self.stage, epoch * self.steps_per_epoch, self.config.train
        title, total = f"{stage.name} {epoch + 1}/{stage.epochs}", stage.epochs * self.steps_per_epoch
        bar = progress_bar(title=title, unit=" steps", total=total, done=self.step, leave=False)
        self.seen = 0
        self.clock.start()
        with bar, self.ready(epoch) as batches:
            while self.step < first + self.steps_per_epoch:
                self.train_step(self.clock.take(batches))
                self.step, self.seen = self.step + 1, self.seen + settings.batch
                bar.update()
                if (self.step - first) % self.steps_per_epoch == 0:
                    break  # _end_epoch logs, validates and saves
                if self.step % settings.log_every == 0:
                    self._log(epoch, bar)
                alone = self.world.size == 1 and self.signals.asked
                if alone or self.stopping or (settings.save_every and self.step % settings.save_every == 0):
                    self._save()
                self._stop_if_asked()

    def ready(self, epoch: int) -> AbstractContextManager[Iterator[Parts]]:
        """What is left of an epoch of the stage, augmented."""
        done = self.step - epoch * self.steps_per_epoch
        return self.samples.ready(self.first_epoch + epoch, done, self.augmenter, self.stage, self.index, self.step)

    def train_step(self, parts: Parts) -> None:
        """One pass over the updates of the stage; their loss terms go into the window."""
        batches = parts_of_one_step([self.method.add_views(self.system, *part, self.stage) for part in parts])
        record: dict[str, Tensor] = {}
        several = len(self.stage.updates) > 1
        for number, (update, optimizer) in enumerate(zip(self.stage.updates, self.optimizers, strict=True)):
            parameters = select(self.system, update) if several else self.parameters[number]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, update.optim, self.steps_per_epoch, self.stage.epochs)
            prefix = f"{update.name}/" if several else ""
            for part, batch in enumerate(batches):
                for name, value in self._backward(part, update, batch).items():
                    record[prefix + name] = record.get(prefix + name, 0) + value
            average_gradients(parameters, self.world.size)
            if update.optim.clip_grad > 0:
                record[f"{prefix}grad_norm"] = nn.utils.clip_grad_norm_(parameters, update.optim.clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.system, self.step)
        self.window.add(record, self.signals.asked)

    def _backward(self, part: int, update: Update, batch: ViewBatch) -> dict[str, Tensor]:
        """Add the gradient of one part of the batch; returns its share of the loss terms."""
        # Dropout draws from the global generator, on each process for its own samples.
        torch.manual_seed(step_seed(self.config.seed, "net", self.index, self.step, part, update.name, self.world.rank))
        return self.recorded(batch) if self.recorded else self._pass(update, batch)

    def _pass(self, update: Update, batch: ViewBatch) -> dict[str, Tensor]:
        """Forward and backward."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            terms = self.method.losses(self.system, batch, self.stage, update)
        terms = {name: value / self.config.train.accumulate for name, value in terms.items()}
        torch.stack(list(terms.values())).sum().backward()
        return {name: value.detach() for name, value in terms.items()}

    def _end_epoch(self, epoch: int) -> None:
        """Log, validate, probe, save."""
        self._log(epoch)
        train = self.config.train
        if self.world.main and self.samples.validation is not None:
            taught = self.samples.labelled  # if not, there is no classifier to validate
            if taught and self.stage.validates and self._due(train.validate_every, epoch):
                self._validate(epoch, self.samples.validation)
            if (self.stage.self_supervised or not taught) and self._due(train.probe, epoch):
                self._probe(epoch, self.samples.validation)
            set_mode(self.system, self.stage)
        self._save()
        self._stop_if_asked()

    def _due(self, every: int, epoch: int) -> bool:
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.stage.epochs)

    def _leave(self) -> None:
        """End a stage with the weights it is to hand on: the average, or the best of the last stage."""
        # The main process alone validates and knows the best, which no other stage starts from.
        self.system.load_state_dict(self._judged.state_dict() if self.best is None else self.best["system"])

    def _finish(self) -> RunResult:
        """Calibrate and write what is deployed."""
        selection = f"best validation accuracy, epoch {self.best['epoch'] + 1}" if self.best else "last epoch"
        selection += f" of {self.stage.epochs}" + (", average of the weights" if self.average else "")
        result = RunResult(self.run, {}, selection)
        if self.world.main:
            require_finite(self.system, self._done)
            targets, source, model = self.method.targets, self.samples.validation, self.method.deployed(self.system)
            if taught := self.samples.labelled:
                check_taught(model.trained_modalities(), self.config, targets)
            predictions = self._ask(self.method.predict, self.system, source) if source and taught else None
            result.scores.update(scores(predictions, targets) if predictions else {})
            metadata = {
                "method": self.config.method,
                **self.samples.described(),
                "temperature": fit_temperatures(predictions, targets),
                "seed": self.config.seed,
                "config_hash": config_hash(self.config),
                "selection": selection,
                "validation": result.scores,
            }
            if not taught:
                model.forget_classifier()
            save_weights(self.run / WEIGHTS_NAME, model, metadata)
            (self.run / "state.pt").unlink(missing_ok=True)  # larger than all the rest, and of no more use
        return result

    def _settle(self) -> Tensor:
        """The terms of the window in host memory [updates, terms], checked. Waits for the device."""
        values = self.window.values()
        self.stopping = self.stopping or bool((values[:, -1] > 0).any())
        bad = first_not_finite(values)
        if bad is not None:
            back = len(values) - bad[0]
            raise TrainingError(
                f"loss term {self.window.names[bad[1]]!r} became {values[bad].item()} in update {self._done - back} "
                f"(stage {self.stage.name}, epoch {(self.step - back) // self.steps_per_epoch}, both from 0); the run "
                "stops, its last saved state is from before. Lower optim.lr, set optim.clip_grad, lengthen "
                "optim.warmup_steps, or take train.precision=float32"
            )
        return values[:, :-1]

    @property
    def _done(self) -> int:
        return self.first_epoch * self.steps_per_epoch + self.step

    def _log(self, epoch: int, bar: Any = None) -> None:
        """Write the means of the window and start a new one."""
        if not len(values := self._settle()):
            return
        means = dict(zip(self.window.names, values.double().mean(0).tolist(), strict=True))
        self.window.clear()
        rate = self.optimizers[0].param_groups[0]["lr"]
        place: Row = {"stage": self.stage.name, "epoch": epoch, "step": self._done}
        loss = sum(value for name, value in means.items() if not name.endswith("grad_norm"))
        self.log.row({**place, "split": "train", "lr": rate, "loss": loss, **means})
        seconds, wait = self.clock.read()
        speed = self.seen / seconds
        timing: Row = {**place, "seconds": seconds, "images_per_second": speed, "data_wait": wait}
        if self.device.type == "cuda":
            timing = {**timing, "peak_memory_mb": torch.cuda.max_memory_allocated(self.device) / 2**20}
        self.log.timing(timing)
        if bar is not None:
            bar.set_postfix_str(f"loss {loss:.3f}, {speed:.1f} img/s, data wait {wait:.1%}")
        if self.device.type == "cpu":
            self.neighbours.look()
        self.seen = 0
        self.clock.start()

    @property
    def _judged(self) -> nn.Module:
        """The networks that count: the average where there is one."""
        return self.average.system if self.average else self.system

    def _ask(self, question: Question, system: nn.Module, source: BatchSource) -> Outputs:
        size, bf16 = self.config.model.input_size, self.precision == "bf16"
        with devices.uncompiled(self.config.train, self.device):
            return collect(partial(question, system.eval()), source, self.method.targets, size, self.device, bf16)

    def _validate(self, epoch: int, source: BatchSource) -> None:
        """Score the validation split, and remember the weights if they are the best of those that may be deployed."""
        found = scores(self._ask(self.method.predict, self._judged, source), self.method.targets)
        self.log.row({"stage": self.stage.name, "epoch": epoch, "step": self._done, "split": "val", **found})
        text = ", ".join(f"{key.split('/')[1]} {value:.3f}" for key, value in found.items() if "accuracy/" in key)
        logger.info("%s epoch %d: validation accuracy %s", self.stage.name, epoch + 1, text)
        choose = self.config.train.keep == "best" and self.stage is self.stages[-1] and found
        score = sum(value for key, value in found.items() if "accuracy/" in key) / len(self.method.targets)
        if choose and score > (self.best or {"score": -1})["score"]:
            self.best = {"score": score, "epoch": epoch, "system": snapshot(self._judged.state_dict())}

    def _probe(self, epoch: int, source: BatchSource) -> None:
        """What the embeddings tell about the classes."""
        known, asked = (self._ask(self.method.embed, self._judged, one) for one in (self.samples.probing, source))
        found = probe(known, asked, self.method.targets, len(self.samples.prepared.classes))
        self.log.row({"stage": self.stage.name, "epoch": epoch, "step": self._done, "split": "probe", **found})

    def _save(self) -> None:
        """Save the state: at any price before a stop, else when it is worth it."""
        self._settle()
        if not self.world.main or not (self.stopping or self.writer.due()):
            return
        require_finite(self.system, self._done)
        state = {
            **self.samples.identity(),
            "processes": self.world.size,
            "precision": self.precision,
            "stage": self.index,
            "step": self.step,
            "system": self.system.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.system.state_dict(),
            "best": self.best,
            "window": self.window.state(),
            "log": self.log.offsets(),
        }
        self.writer.save(state, wait=self.stopping)

    def _stop_if_asked(self) -> None:
        if self.stopping:
            self.writer.join()
            raise RunInterruptedError(
                f"stopped by a signal after update {self._done}; the state is saved. To go on: "
                f"python -m mmcl_core.train --resume {quote(str(self.run))}"
            )
