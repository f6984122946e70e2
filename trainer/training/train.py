"""Training: one step, one epoch, and the loop around them that keeps the best weights.

Read ``fit`` first, then ``_Training``. A recipe is a small value; everything random comes from its
seed, the epoch and the batch, so that a training that was interrupted goes on as if it had not been.
"""

import copy
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from serve.errors import TrainingError
from trainer.data.dataset import Dataset
from trainer.training import checkpoint, distributed, optimiser, rules
from trainer.training.batches import batches, join_extra, learned_counts, soft_labels
from trainer.training.features import Head, Stem, Tail, with_features
from trainer.training.networks import NO_WEIGHTS, create
from trainer.training.progress import Epoch, LoopState, TrainingResult
from trainer.training.recipes import Recipe
from trainer.training.rules import Fired
from trainer.training.scoring import score

WATCH_EVERY = 10
"""Steps between two looks at gradients and weights; the first step is looked at too."""
TERMINATED = 128 + signal.SIGTERM


def fit(
    data: Dataset,
    recipe: Recipe,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    *,
    on_rule: Callable[[Fired], object] = lambda _: None,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train ``recipe`` on ``data.train`` and keep the weights with the lowest loss on ``data.validation``.

    ``on_epoch`` and ``on_rule`` are called when an epoch ends and a rule fires, for those of before an
    interruption too. A checkpoint is kept in ``checkpoints`` after each epoch and on SIGTERM, which
    then raises SystemExit; one that is there is resumed. ``stop_on``: rules that end the training
    early. Of several processes (``trainer/distributed.py``) each comes here, and each gets the same
    weights. Raises TrainingError when the loss is not finite.
    """
    device = device or distributed.pick_device()
    torch.manual_seed(recipe.seed)
    counts = learned_counts(data.counts, recipe)
    answers = tuple(counts.values.index(value) for value in data.counts.values)
    model = create(
        recipe.architecture, len(counts.values), recipe.size_px, recipe.weights, recipe.frozen, answers, recipe.mirrored
    )
    model.freeze_early(recipe.frozen_blocks)
    model = model.to(device).to(memory_format=torch.channels_last)
    learning: nn.Module = model
    if recipe.frozen:
        data = with_features(data, nn.Sequential(model.normalise, model.body), recipe.architecture)
        learning = Head(model)
    elif recipe.frozen_blocks:
        data = with_features(data, Stem(model), f"{recipe.architecture}-{recipe.frozen_blocks}-blocks")
        learning = Tail(model)
    if recipe.extra:
        data = replace(data, train=join_extra(data, answers))
    training = _Training(learning, data, recipe, stop_on, device)
    if checkpoints:
        training.resume(checkpoints)
    for epoch in training.done.epochs:
        on_epoch(epoch)
    for fired in training.done.fired:
        on_rule(fired)
    training.run(on_epoch, on_rule, checkpoints)
    done = training.done
    return TrainingResult(
        model, done.epochs, done.best_epoch, done.fired, training.stopped_by, training.resumed_at, training.earlier_s
    )


class _Training:
    """One training: model, optimiser, schedule, and how far it has come."""

    def __init__(
        self, model: nn.Module, data: Dataset, recipe: Recipe, stop_on: frozenset[str], device: torch.device
    ) -> None:
        self.model, self.data, self.recipe, self.stop_on, self.device = model, data, recipe, stop_on, device
        self.network = distributed.wrap_ddp(model)
        if distributed.rank():  # each its own dropout
            torch.manual_seed(recipe.seed + distributed.rank())
        self.steps = -(-len(data.train) // recipe.batch_size)
        self.optimiser = optimiser.optimiser(model, recipe)
        self.schedule = optimiser.schedule(self.optimiser, recipe, self.steps)
        half = optimiser.PRECISION.get((device.type, recipe.precision))
        self.precision = partial(torch.autocast, device.type, half, enabled=half is not None)
        # only what is computed in float16 can become too small for it
        self.scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
        self.done = LoopState()
        # where there is a running mean of the weights, it is what is scored and kept
        self.averaged = (
            AveragedModel(model, multi_avg_fn=partial(optimiser.average, recipe.average), use_buffers=True)
            if recipe.average
            else None
        )
        self.targets = soft_labels(learned_counts(data.counts, recipe), recipe.label_sigma).to(device)
        self.best_weights = copy.deepcopy(model.state_dict())
        self.stopped_by, self.resumed_at, self.earlier_s = "", 0, 0.0

    def run(
        self, on_epoch: Callable[[Epoch], object], on_rule: Callable[[Fired], object], checkpoints: Path | None
    ) -> None:
        """Train to the end, to a rule that stops it, or to SIGTERM."""
        recipe = self.recipe
        at = (self.done.epoch - 1) * self.steps + self.done.batch
        with (
            tqdm(
                total=recipe.epochs * self.steps,
                initial=at,
                desc=f"training {recipe.name}",
                unit="batch",
                disable=distributed.rank() > 0,
            ) as bar,
            _sigterm() as stop,
        ):
            if at == 0:
                only = "" if recipe.weights == NO_WEIGHTS else "head."
                self._fire(rules.AT_START, optimiser.layers(self.model, 1.0, only), 0, on_rule)
            while self.done.epoch <= recipe.epochs and not self.stopped_by:
                if self._train_epoch(bar, on_rule, stop):
                    if checkpoints:
                        self._save(checkpoints)
                    raise SystemExit(TERMINATED)
                if self.stopped_by:
                    break
                self._end_epoch(bar, on_epoch, on_rule)
                if checkpoints:
                    self._save(checkpoints)
        if not self.done.epochs:
            reason = self.done.fired[-1].reason
            raise TrainingError(f"{self.stopped_by} stopped the training before an epoch ended: {reason}")
        self.model.load_state_dict(self.best_weights)

    def _train_epoch(self, bar: "tqdm[None]", on_rule: Callable[[Fired], object], stop: threading.Event) -> bool:
        """The rest of the epoch under way; whether it was told to stop before its end."""
        self.network.train()
        done = self.done
        waiting = time.perf_counter()
        for inputs, labels, whole in batches(self.data.train, self.recipe, done.epoch, done.batch):
            start = time.perf_counter()
            done.waited_s += start - waiting
            inputs, labels = (each.to(self.device, non_blocking=True) for each in (inputs, labels))
            self._step(inputs, labels, whole, on_rule)
            waiting = time.perf_counter()
            done.steps_s.append(waiting - start)
            bar.update()
            if distributed.any_process(stop.is_set()):
                return True
            if self.stopped_by:
                break
        return False

    def _step(self, inputs: Tensor, labels: Tensor, whole: int, on_rule: Callable[[Fired], object]) -> None:
        """One step. ``whole``: photos of the batch, of which this process has its share."""
        done = self.done
        done.batch += 1
        step = (done.epoch - 1) * self.steps + done.batch
        with self.precision():
            targets = self.targets[labels]  # (B, C)
            if self.recipe.mixup:
                inputs, targets = self._mix(inputs, targets)
            logits = self.network(inputs)  # (B, C)
            # the mean over the processes' gradients is then that over the whole batch
            loss = F.cross_entropy(logits, targets, reduction="sum") * distributed.size() / whole
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {done.epoch}, batch {done.batch} of {self.steps}; lower the "
                f"learning rate (now {self.optimiser.param_groups[0]['lr']:.2g})"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if step == 1 or step % WATCH_EVERY == 0:
            self._fire(rules.AT_STEP, optimiser.layers(self.model, self.scaler.get_scale()), step, on_rule)
            done.utilisation += optimiser.utilisation(self.device)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        done.loss_sum += loss.item() * whole / distributed.size()
        done.correct += int((logits.argmax(1) == labels).sum())
        done.seen += len(labels)

    def _mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix photos in pairs. Zhang et al. 2017, https://arxiv.org/abs/1710.09412."""
        rng = np.random.default_rng([self.recipe.seed, self.done.epoch, self.done.batch, distributed.rank()])
        share = rng.beta(self.recipe.mixup, self.recipe.mixup)
        other = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
        return torch.lerp(inputs[other].float(), inputs.float(), share), torch.lerp(targets[other], targets, share)

    def _end_epoch(
        self, bar: "tqdm[None]", on_epoch: Callable[[Epoch], object], on_rule: Callable[[Fired], object]
    ) -> None:
        """Score the epoch, keep its weights if they are the best, and begin the next."""
        self._join_sums()
        done = self.done
        scored = self.averaged.module if self.averaged else self.model
        found = score(scored, self.data.validation)
        seconds = sum(done.steps_s) + done.waited_s
        epoch = distributed.broadcast_from_rank0(
            Epoch(
                done.epoch,
                done.loss_sum / done.seen,
                done.correct / done.seen,
                found.loss,
                found.accuracy,
                self.optimiser.param_groups[0]["lr"],
                done.seen / seconds,
                found.majority_share,
                1000 * statistics.median(done.steps_s),
                done.waited_s / seconds,
                statistics.mean(done.utilisation) if done.utilisation else None,
                seconds,
            )
        )
        done.epochs.append(epoch)
        if found.loss < done.best_loss:
            done.best_loss, done.best_epoch = found.loss, done.epoch
            self.best_weights = copy.deepcopy(scored.state_dict())
        on_epoch(epoch)
        self._fire(rules.AT_EPOCH, done.epochs, done.epoch * self.steps, on_rule)
        bar.set_postfix(loss=f"{epoch.train_loss:.3f}", val=f"{found.loss:.3f}", acc=f"{found.accuracy:.1%}")
        self.done = LoopState(
            done.epoch + 1, epochs=done.epochs, fired=done.fired, best_epoch=done.best_epoch, best_loss=done.best_loss
        )

    def _fire(self, which: Any, numbers: Any, step: int, on_rule: Callable[[Fired], object]) -> None:
        """Evaluate rules that have not fired yet."""
        for name, rule in which.items():
            reason = None if name in {each.rule for each in self.done.fired} else rule(numbers)
            if reason:
                fired = Fired(name, self.done.epoch, step, reason)
                self.done.fired.append(fired)
                on_rule(fired)
                if name in self.stop_on:
                    self.stopped_by = name

    def _belongs_to(self) -> dict[str, Any]:
        return {**asdict(self.recipe), "dataset": self.data.fingerprint}

    def _join_sums(self) -> None:
        """Make the sums of this process those of all."""
        done = self.done
        sums = distributed.all_reduce_sum(
            torch.tensor([done.loss_sum, done.correct, done.seen], dtype=torch.float64)
        ).tolist()
        done.loss_sum, done.correct, done.seen = sums[0], int(sums[1]), int(sums[2])

    def _save(self, folder: Path) -> None:
        self._join_sums()
        if distributed.rank():
            return
        checkpoint.save(
            folder,
            {
                "belongs_to": self._belongs_to(),
                "done": asdict(self.done),
                "best_weights": self.best_weights,
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "averaged": self.averaged.state_dict() if self.averaged else {},
                "random": torch.get_rng_state(),
                "gpu_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            },
        )

    def resume(self, folder: Path) -> None:
        """Take up the training that the checkpoint in ``folder`` interrupted, if there is one."""
        first = distributed.rank() == 0
        state = distributed.broadcast_from_rank0(checkpoint.load(folder, self._belongs_to()) if first else None)
        if state is None:
            return
        for part in ("model", "optimiser", "schedule", "scaler"):
            getattr(self, part).load_state_dict(state[part])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.best_weights = {key: value.to(self.device) for key, value in state["best_weights"].items()}
        if first:
            torch.set_rng_state(state["random"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state_all(state["gpu_random"])
        done = state["done"] if first else {**state["done"], "loss_sum": 0.0, "correct": 0, "seen": 0}
        self.done = LoopState(
            **{
                **done,
                "epochs": [Epoch(**each) for each in done["epochs"]],
                "fired": [Fired(**each) for each in done["fired"]],
            }
        )
        self.resumed_at = self.done.epoch
        self.earlier_s = sum([each.seconds for each in self.done.epochs] + self.done.steps_s) + self.done.waited_s


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """While the context lasts SIGTERM sets the event: what is stopped may end its batch first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
