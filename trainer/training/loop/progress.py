"""The records of a training: its epochs, its state between two batches, and its result."""

from dataclasses import asdict, dataclass, field

from trainer.training.loop.folds import HeldOut
from trainer.training.loop.precision import ChosenPrecision
from trainer.training.networks import Counter
from trainer.training.rules import FiredRule


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The numbers of one epoch. Losses are mean cross-entropies in nats, accuracies and shares 0-1.

    ``majority_share``: share of the validation photos with the most frequent prediction.
    ``step_ms``: median duration of a step. ``data_wait_share``: share of the time spent waiting for photos.
    ``seconds``: duration of its steps, without scoring.
    """

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    photos_per_second: float
    majority_share: float
    step_ms: float
    data_wait_share: float
    gpu_utilisation: float | None = None
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        return {key: value for key, value in asdict(self).items() if key != "number" and value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A trained counter with the weights of its best epoch (lowest validation loss).

    ``fired``: the rules that fired. ``stopped_by``: the rule that stopped the training early, or "".
    ``resumed_at``: the epoch at which it resumed after an interruption, else 0; ``earlier_s``: duration of the steps
    before that. ``precision``: the number format of its passes. ``held_out``: the photos of the fold, if any.
    """

    model: Counter
    epochs: list[Epoch]
    best_epoch: int
    fired: list[FiredRule]
    stopped_by: str
    resumed_at: int
    earlier_s: float
    precision: ChosenPrecision
    held_out: HeldOut | None = None


@dataclass(kw_only=True)
class LoopState:
    """The position of a training, ``batch`` batches into ``epoch``, and its sums so far. Saved in checkpoints.

    The sums are of the current epoch: ``loss_sum`` in nats, ``correct`` and ``seen`` photos, ``waited_s`` waiting for
    photos, ``steps_s`` per step, ``utilisation`` (0-1) of the GPU at some steps.
    """

    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    waited_s: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    fired: list[FiredRule] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
