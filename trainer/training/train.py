"""The training loop: one step, one epoch, and the loop around them that keeps the best weights.

Read ``fit`` first, then ``_Training``. All randomness comes from the recipe's seed, the epoch and the batch, so a
resumed training ends with the same weights as one without an interruption.
"""

import copy
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from serve.errors import TrainingError
from trainer.data.dataset import Dataset
from trainer.training import checkpoint, distributed, optimiser, rules
from trainer.training.batches import batches, join_extra, learned_counts, soft_labels
from trainer.training.checkpoint import State
from trainer.training.features import Head, Stem, Tail, with_features
from trainer.training.networks import NO_WEIGHTS, create
from trainer.training.progress import Epoch, LoopState, TrainingResult
from trainer.training.recipes import Recipe
from trainer.training.rules import FiredRule
from trainer.training.scoring import score

STEPS_BETWEEN_CHECKS = 10
"""The rules check gradients and weights every so many steps, and at the first step."""
TERMINATED = 128 + signal.SIGTERM

T = TypeVar("T")


def fit(
    data: Dataset,
    recipe: Recipe,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    *,
    on_rule: Callable[[FiredRule], object] = lambda _: None,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train ``recipe`` on ``data.train`` and keep the weights with the lowest loss on ``data.validation``.

    ``on_epoch`` and ``on_rule`` are called when an epoch ends and when a rule fires; after resuming, also for those
    from before the interruption. ``stop_on``: rules that stop the training early. A checkpoint is written to
    ``checkpoints`` after each epoch and on SIGTERM, which then raises SystemExit; an existing one is resumed. With
    several processes (``trainer/training/distributed.py``) every one calls this and gets the same weights. Raises
    TrainingError when the loss is not finite, or when a rule stops the training before the first epoch ends.
    """
    device = device or distributed.pick_device()
    torch.manual_seed(recipe.seed)
    counts = learned_counts(data.counts, recipe)
    class_indices = tuple(counts.values.index(value) for value in data.counts.values)
    model = create(
        recipe.architecture,
        len(counts.values),
        recipe.size_px,
        recipe.weights,
        recipe.frozen,
        class_indices,
        recipe.mirrored,
    )
    model.freeze_blocks(recipe.frozen_blocks)
    model = model.to(device).to(memory_format=torch.channels_last)
    trainable: nn.Module = model
    if recipe.frozen:
        data = with_features(data, nn.Sequential(model.normalise, model.body), recipe.architecture)
        trainable = Head(model)
    elif recipe.frozen_blocks:
        data = with_features(data, Stem(model), f"{recipe.architecture}-{recipe.frozen_blocks}-blocks")
        trainable = Tail(model)
    if recipe.extra:
        data = replace(data, train=join_extra(data, class_indices))
    training = _Training(trainable, data, recipe, stop_on, device)
    if checkpoints:
        training.resume(checkpoints)
    for epoch in training.state.epochs:
        on_epoch(epoch)
    for rule in training.state.fired:
        on_rule(rule)
    training.run(on_epoch, on_rule, checkpoints)
    return TrainingResult(
        model=model,
        epochs=training.state.epochs,
        best_epoch=training.state.best_epoch,
        fired=training.state.fired,
        stopped_by=training.stopped_by,
        resumed_at=training.resumed_at,
        earlier_s=training.earlier_s,
    )


class _Training:
    """One training: model, optimiser, schedule, and the state of the loop."""

    def __init__(
        self, model: nn.Module, data: Dataset, recipe: Recipe, stop_on: frozenset[str], device: torch.device
    ) -> None:
        self.model, self.data, self.recipe, self.stop_on, self.device = model, data, recipe, stop_on, device
        self.network = distributed.wrap_ddp(model)
        if distributed.rank():  # a different dropout mask in each process
            torch.manual_seed(recipe.seed + distributed.rank())
        self.steps = -(-len(data.train) // recipe.batch_size)
        self.optimiser = optimiser.make_optimiser(model, recipe)
        self.schedule = optimiser.make_schedule(self.optimiser, recipe, self.steps)
        half = optimiser.AUTOCAST_DTYPES.get((device.type, recipe.precision))
        self.autocast = partial(torch.autocast, device.type, half, enabled=half is not None)
        # only float16 gradients can underflow
        self.scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
        self.state = LoopState()
        # with a moving average of the weights, the average is what is scored and kept
        self.averaged = (
            AveragedModel(model, multi_avg_fn=partial(optimiser.update_average, recipe.average), use_buffers=True)
            if recipe.average
            else None
        )
        self.targets = soft_labels(learned_counts(data.counts, recipe), recipe.label_sigma).to(device)
        self.best_weights = copy.deepcopy(model.state_dict())
        self.stopped_by, self.resumed_at, self.earlier_s = "", 0, 0.0

    def run(
        self, on_epoch: Callable[[Epoch], object], on_rule: Callable[[FiredRule], object], checkpoints: Path | None
    ) -> None:
        """Train until the last epoch ends, a rule stops the training, or SIGTERM arrives."""
        recipe = self.recipe
        step = (self.state.epoch - 1) * self.steps + self.state.batch
        with (
            tqdm(
                total=recipe.epochs * self.steps,
                initial=step,
                desc=f"training {recipe.name}",
                unit="batch",
                disable=distributed.rank() > 0,
            ) as bar,
            _sigterm_event() as stop,
        ):
            if step == 0:
                only = "" if recipe.weights == NO_WEIGHTS else "head."
                self._check(rules.AT_START, optimiser.layer_statistics(self.model, 1.0, only), 0, on_rule)
            while self.state.epoch <= recipe.epochs and not self.stopped_by:
                if self._train_epoch(bar, on_rule, stop):
                    if checkpoints:
                        self._save(checkpoints)
                    raise SystemExit(TERMINATED)
                if self.stopped_by:
                    break
                self._end_epoch(bar, on_epoch, on_rule)
                if checkpoints:
                    self._save(checkpoints)
        if not self.state.epochs:
            reason = self.state.fired[-1].reason
            raise TrainingError(f"{self.stopped_by} stopped the training before an epoch ended: {reason}")
        self.model.load_state_dict(self.best_weights)

    def _train_epoch(self, bar: "tqdm[None]", on_rule: Callable[[FiredRule], object], stop: threading.Event) -> bool:
        """Train the rest of the current epoch. Returns True when ``stop`` was set before its end."""
        self.network.train()
        state = self.state
        wait_start = time.perf_counter()
        for inputs, labels, batch_size in batches(self.data.train, self.recipe, state.epoch, state.batch):
            start = time.perf_counter()
            state.waited_s += start - wait_start
            inputs, labels = inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            self._step(inputs, labels, batch_size, on_rule)
            wait_start = time.perf_counter()
            state.steps_s.append(wait_start - start)
            bar.update()
            if distributed.any_process(stop.is_set()):
                return True
            if self.stopped_by:
                break
        return False

    def _step(self, inputs: Tensor, labels: Tensor, batch_size: int, on_rule: Callable[[FiredRule], object]) -> None:
        """One step on this process's share of a batch; ``batch_size``: photos of the whole batch."""
        state = self.state
        state.batch += 1
        step = (state.epoch - 1) * self.steps + state.batch
        with self.autocast():
            targets = self.targets[labels]  # (B, C)
            if self.recipe.mixup:
                inputs, targets = self._mix(inputs, targets)
            logits = self.network(inputs)  # (B, C)
            # the mean over the processes' gradients then equals that over the whole batch
            loss = F.cross_entropy(logits, targets, reduction="sum") * distributed.world_size() / batch_size
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {state.epoch}, batch {state.batch} of {self.steps}; lower the "
                f"learning rate (now {self.optimiser.param_groups[0]['lr']:.2g})"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if step == 1 or step % STEPS_BETWEEN_CHECKS == 0:
            layers = optimiser.layer_statistics(self.model, self.scaler.get_scale())
            self._check(rules.AT_STEP, layers, step, on_rule)
            state.utilisation += optimiser.gpu_utilisation(self.device)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        state.loss_sum += loss.item() * batch_size / distributed.world_size()
        state.correct += int((logits.argmax(1) == labels).sum())
        state.seen += len(labels)

    def _mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix photos in pairs. Zhang et al. 2017, https://arxiv.org/abs/1710.09412."""
        rng = np.random.default_rng([self.recipe.seed, self.state.epoch, self.state.batch, distributed.rank()])
        share = rng.beta(self.recipe.mixup, self.recipe.mixup)
        partner = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
        return torch.lerp(inputs[partner].float(), inputs.float(), share), torch.lerp(targets[partner], targets, share)

    def _end_epoch(
        self, bar: "tqdm[None]", on_epoch: Callable[[Epoch], object], on_rule: Callable[[FiredRule], object]
    ) -> None:
        """Score the epoch, keep its weights if they are the best so far, and start the next epoch."""
        self._reduce_sums()
        state = self.state
        scored = self.averaged.module if self.averaged else self.model
        validation = score(scored, self.data.validation)
        seconds = sum(state.steps_s) + state.waited_s
        epoch = distributed.broadcast_from_rank0(
            Epoch(
                number=state.epoch,
                train_loss=state.loss_sum / state.seen,
                train_accuracy=state.correct / state.seen,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                learning_rate=self.optimiser.param_groups[0]["lr"],
                photos_per_second=state.seen / seconds,
                majority_share=validation.majority_share,
                step_ms=1000 * statistics.median(state.steps_s),
                data_wait_share=state.waited_s / seconds,
                gpu_utilisation=statistics.mean(state.utilisation) if state.utilisation else None,
                seconds=seconds,
            )
        )
        state.epochs.append(epoch)
        if validation.loss < state.best_loss:
            state.best_loss, state.best_epoch = validation.loss, state.epoch
            self.best_weights = copy.deepcopy(scored.state_dict())
        on_epoch(epoch)
        self._check(rules.AT_EPOCH, state.epochs, state.epoch * self.steps, on_rule)
        bar.set_postfix(loss=f"{epoch.train_loss:.3f}", val=f"{validation.loss:.3f}", acc=f"{validation.accuracy:.1%}")
        self.state = LoopState(
            epoch=state.epoch + 1,
            epochs=state.epochs,
            fired=state.fired,
            best_epoch=state.best_epoch,
            best_loss=state.best_loss,
        )

    def _check(
        self,
        conditions: Mapping[str, Callable[[T], str | None]],
        values: T,
        step: int,
        on_rule: Callable[[FiredRule], object],
    ) -> None:
        """Evaluate the rules that have not fired yet."""
        fired = {rule.rule for rule in self.state.fired}
        for name, condition in conditions.items():
            reason = None if name in fired else condition(values)
            if reason:
                rule = FiredRule(name, self.state.epoch, step, reason)
                self.state.fired.append(rule)
                on_rule(rule)
                if name in self.stop_on:
                    self.stopped_by = name

    def _belongs_to(self) -> dict[str, object]:
        return {**asdict(self.recipe), "dataset": self.data.fingerprint}

    def _reduce_sums(self) -> None:
        """Replace this process's sums by those of all processes."""
        state = self.state
        sums = torch.tensor([state.loss_sum, state.correct, state.seen], dtype=torch.float64)
        totals = distributed.all_reduce_sum(sums).tolist()
        state.loss_sum, state.correct, state.seen = totals[0], int(totals[1]), int(totals[2])

    def _save(self, folder: Path) -> None:
        self._reduce_sums()
        if distributed.rank():
            return
        state: State = {
            "belongs_to": self._belongs_to(),
            "done": asdict(self.state),
            "best_weights": self.best_weights,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "random": torch.get_rng_state(),
            "gpu_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        checkpoint.save(folder, state)

    def resume(self, folder: Path) -> None:
        """Continue from the checkpoint in ``folder``, if there is one. Raises TrainingError; see checkpoint.load."""
        first = distributed.rank() == 0
        state = distributed.broadcast_from_rank0(checkpoint.load(folder, self._belongs_to()) if first else None)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.best_weights = {key: value.to(self.device) for key, value in state["best_weights"].items()}
        self.state = TypeAdapter(LoopState).validate_python(state["done"])
        if first:
            torch.set_rng_state(state["random"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state_all(state["gpu_random"])
        else:  # the sums in a checkpoint are those of all processes
            self.state = replace(self.state, loss_sum=0.0, correct=0, seen=0)
        self.resumed_at = self.state.epoch
        seconds = [epoch.seconds for epoch in self.state.epochs]
        self.earlier_s = sum(seconds + self.state.steps_s) + self.state.waited_s


@contextmanager
def _sigterm_event() -> Iterator[threading.Event]:
    """An event that SIGTERM sets during the context, so that the current batch can end first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread can install a signal handler
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
