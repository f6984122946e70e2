"""One step of a training: forward pass, backward pass, and the update of the weights."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from trainer.training import distributed
from trainer.training.checkpoint import State
from trainer.training.loop import optimiser
from trainer.training.loop.batches import Batch
from trainer.training.loop.precision import ChosenPrecision
from trainer.training.recipes import Recipe


class TrainingStep:
    """Model, optimiser, schedule and moving average of the weights, in a number format that ``use`` sets.

    ``targets``: the target distribution of each count, ``(C, C)``. ``steps``: per epoch.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, targets: Tensor, steps: int, device: torch.device) -> None:
        self.model, self.recipe, self.targets, self.device = model, recipe, targets, device
        self.network = distributed.wrap_ddp(model)
        if distributed.rank():  # a different dropout mask in each process
            torch.manual_seed(recipe.seed + distributed.rank())
        self.optimiser = optimiser.make_optimiser(model, recipe)
        self.schedule = optimiser.make_schedule(self.optimiser, recipe, steps)
        # with a moving average of the weights, the average is what is scored and kept
        self.averaged = (
            AveragedModel(model, multi_avg_fn=partial(optimiser.update_average, recipe.average), use_buffers=True)
            if recipe.average
            else None
        )
        self.use(ChosenPrecision("float32", "nothing else was chosen yet"))

    def use(self, precision: ChosenPrecision) -> None:
        """Compute in ``precision`` from now on; weights and updates stay float32."""
        self.precision, half = precision, precision.dtype
        self.autocast = partial(torch.autocast, self.device.type, half, enabled=half is not None)
        # only float16 gradients can underflow
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)

    @property
    def scored_model(self) -> nn.Module:
        """The network that is scored and kept."""
        return self.averaged.module if self.averaged else self.model

    @property
    def learning_rate(self) -> float:
        """The current one."""
        return float(self.optimiser.param_groups[0]["lr"])

    def forward(self, batch: Batch, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The loss of this process's share of a batch, and its logits ``(B, C)``.

        ``place``: epoch and batch, which seed the mixing of photos.
        """
        with self.autocast():
            inputs, targets, measures = batch.inputs, self._targets(batch), batch.measures
            if self.recipe.mixup:
                inputs, targets, measures = self._mix(inputs, targets, measures, place)
            outputs = self.network(inputs)
            logits, measured = outputs.split((targets.shape[1], measures.shape[1]), 1)
            loss = F.cross_entropy(logits, targets, reduction="sum")
            if measures.shape[1]:
                loss = loss + self.recipe.auxiliary * measures_loss(measured, measures)
            # the mean over the processes' gradients then equals that over the whole batch
            loss = loss * distributed.world_size() / batch.size
        return loss, logits

    def _targets(self, batch: Batch) -> Tensor:
        """The target distribution of each photo ``(B, C)``: of its label, and what teachers say of it."""
        targets = self.targets[batch.labels]
        return torch.lerp(targets, batch.taught, self.recipe.teacher_share) if batch.taught.shape[1] else targets

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of ``loss``, multiplied by the scaler's factor."""
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Update weights, learning rate and moving average from the gradients."""
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)

    def _mix(
        self, inputs: Tensor, targets: Tensor, measures: Tensor, place: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix photos in pairs. Zhang et al. 2017, https://arxiv.org/abs/1710.09412."""
        rng = np.random.default_rng([self.recipe.seed, *place, distributed.rank()])
        share = rng.beta(self.recipe.mixup, self.recipe.mixup)
        partner = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
        mixed = [torch.lerp(item[partner].float(), item.float(), share) for item in (inputs, targets, measures)]
        return mixed[0], mixed[1], mixed[2]

    def state(self) -> State:
        """Its part of a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "precision": self.precision.name,
        }

    def load(self, state: State, precision: ChosenPrecision) -> None:
        """Continue from a checkpoint in ``precision``."""
        self.use(precision)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])


def measures_loss(predicted: Tensor, measures: Tensor) -> Tensor:
    """The sum over a batch of the mean smooth L1 loss of the known measures; both ``(B, M)``, unknown ones are NaN."""
    known = ~measures.isnan()
    losses = F.smooth_l1_loss(predicted, measures.nan_to_num(), reduction="none")
    return (losses * known).sum() / measures.shape[1]
