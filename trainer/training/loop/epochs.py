"""The epochs of a training: every batch once, a score, the best weights, the rules, and the checkpoint."""

import copy
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter
from torch import nn
from tqdm import tqdm

from serve.errors import TrainingError
from trainer.data.dataset import Dataset
from trainer.training import checkpoint, distributed, rules
from trainer.training.checkpoint import State
from trainer.training.loop import optimiser, precision
from trainer.training.loop.batches import Batch, batches, learned_counts, soft_labels
from trainer.training.loop.progress import Epoch, LoopState
from trainer.training.loop.step import TrainingStep
from trainer.training.networks import NO_WEIGHTS
from trainer.training.recipes import Recipe
from trainer.training.rules import FiredRule
from trainer.training.scoring import score

STEPS_BETWEEN_CHECKS = 10
"""The rules check gradients and weights every so many steps, and at the first step."""
TERMINATED = 128 + signal.SIGTERM

T = TypeVar("T")


class Training:
    """One training: its step, and the state of the loop around it.

    ``on_epoch`` and ``on_rule`` are called when an epoch ends and when a rule fires. ``stop_on``: rules that stop the
    training early.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        recipe: Recipe,
        device: torch.device,
        *,
        stop_on: frozenset[str],
        on_epoch: Callable[[Epoch], object],
        on_rule: Callable[[FiredRule], object],
    ) -> None:
        self.data, self.recipe, self.device = data, recipe, device
        self.stop_on, self.on_epoch, self.on_rule = stop_on, on_epoch, on_rule
        self.steps = -(-len(data.train) // recipe.batch_size)
        targets = soft_labels(learned_counts(data.counts, recipe), recipe.label_sigma).to(device)
        self.step = TrainingStep(model, recipe, targets, self.steps, device)
        self.state = LoopState()
        self.best_weights = copy.deepcopy(model.state_dict())
        self.stopped_by, self.resumed_at, self.earlier_s = "", 0, 0.0

    def begin(self, checkpoints: Path | None) -> None:
        """Continue from the checkpoint in ``checkpoints``, else choose the number format of a new training.

        Raises TrainingError; see checkpoint.load.
        """
        if checkpoints is None or not self._resume(checkpoints):
            self.step.use(precision.choose(self.step.model, self.data.train, self.recipe, self.device))

    def run(self, checkpoints: Path | None) -> None:
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
                self._check(rules.AT_START, optimiser.layer_statistics(self.step.model, 1.0, only), 0)
            while self.state.epoch <= recipe.epochs and not self.stopped_by:
                if self._train_epoch(bar, stop):
                    if checkpoints:
                        self._save(checkpoints)
                    raise SystemExit(TERMINATED)
                if self.stopped_by:
                    break
                self._end_epoch(bar)
                if checkpoints:
                    self._save(checkpoints)
        if not self.state.epochs:
            reason = self.state.fired[-1].reason
            raise TrainingError(f"{self.stopped_by} stopped the training before an epoch ended: {reason}")
        self.step.model.load_state_dict(self.best_weights)

    def _train_epoch(self, bar: "tqdm[None]", stop: threading.Event) -> bool:
        """Train the rest of the current epoch. Returns True when ``stop`` was set before its end."""
        self.step.network.train()
        state = self.state
        wait_start = time.perf_counter()
        for batch in batches(self.data.train, self.recipe, state.epoch, state.batch):
            start = time.perf_counter()
            state.waited_s += start - wait_start
            self._train_batch(batch.to(self.device))
            wait_start = time.perf_counter()
            state.steps_s.append(wait_start - start)
            bar.update()
            if distributed.any_process(stop.is_set()):
                return True
            if self.stopped_by:
                break
        return False

    def _train_batch(self, batch: Batch) -> None:
        """One step on this process's share of a batch."""
        state = self.state
        state.batch += 1
        loss, logits = self.step.forward(batch, (state.epoch, state.batch))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {state.epoch}, batch {state.batch} of {self.steps}; lower the "
                f"learning rate (now {self.step.learning_rate:.2g})"
            )
        self.step.backward(loss)
        number = (state.epoch - 1) * self.steps + state.batch
        if number == 1 or number % STEPS_BETWEEN_CHECKS == 0:
            layers = optimiser.layer_statistics(self.step.model, self.step.scaler.get_scale())
            self._check(rules.AT_STEP, layers, number)
            state.utilisation += optimiser.gpu_utilisation(self.device)
        self.step.update()
        state.loss_sum += loss.item() * batch.size / distributed.world_size()
        state.correct += int((logits.argmax(1) == batch.labels).sum())
        state.seen += len(batch.labels)

    def _end_epoch(self, bar: "tqdm[None]") -> None:
        """Score the epoch, keep its weights if they are the best so far, and start the next epoch."""
        self._reduce_sums()
        state = self.state
        validation = score(self.step.scored_model, self.data.validation)
        seconds = sum(state.steps_s) + state.waited_s
        epoch = distributed.broadcast_from_rank0(
            Epoch(
                number=state.epoch,
                train_loss=state.loss_sum / state.seen,
                train_accuracy=state.correct / state.seen,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                learning_rate=self.step.learning_rate,
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
            self.best_weights = copy.deepcopy(self.step.scored_model.state_dict())
        self.on_epoch(epoch)
        self._check(rules.AT_EPOCH, state.epochs, state.epoch * self.steps)
        bar.set_postfix(loss=f"{epoch.train_loss:.3f}", val=f"{validation.loss:.3f}", acc=f"{validation.accuracy:.1%}")
        self.state = LoopState(
            epoch=state.epoch + 1,
            epochs=state.epochs,
            fired=state.fired,
            best_epoch=state.best_epoch,
            best_loss=state.best_loss,
        )

    def _check(self, conditions: Mapping[str, Callable[[T], str | None]], values: T, step: int) -> None:
        """Evaluate the rules that have not fired yet."""
        fired = {rule.rule for rule in self.state.fired}
        for name, condition in conditions.items():
            reason = None if name in fired else condition(values)
            if reason:
                rule = FiredRule(name, self.state.epoch, step, reason)
                self.state.fired.append(rule)
                self.on_rule(rule)
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
            **self.step.state(),
            "belongs_to": self._belongs_to(),
            "done": asdict(self.state),
            "best_weights": self.best_weights,
            "random": torch.get_rng_state(),
            "gpu_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        checkpoint.save(folder, state)

    def _resume(self, folder: Path) -> bool:
        """Continue from the checkpoint in ``folder``. Returns False if there is none."""
        first = distributed.rank() == 0
        state = distributed.broadcast_from_rank0(checkpoint.load(folder, self._belongs_to()) if first else None)
        if state is None:
            return False
        self.step.load(state, precision.resumed(state.get("precision"), self.recipe, self.device.type))
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
        return True


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
