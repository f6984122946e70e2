"""What a training tells of itself: each epoch, how far it has come, and what it ends with."""

from dataclasses import asdict, dataclass, field

from trainer.training.networks import Counter
from trainer.training.rules import Fired


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are mean cross-entropies in nats, accuracies and shares 0-1.

    ``majority_share``: of the validation photos, how many got the most frequent answer; ``step_ms``:
    median time of a step; ``data_wait_share``: of the time, how much went by waiting for photos;
    ``seconds``: of its steps, without the scoring.
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


@dataclass
class TrainingResult:
    """A trained counter with the weights of its best epoch (lowest validation loss).

    ``fired``: the rules that did, each once; ``stopped_by``: the rule that ended the training early;
    ``resumed_at``: the epoch in which it went on after an interruption, 0 without one; ``earlier_s``: seconds of
    the steps before it.
    """

    model: Counter
    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    fired: list[Fired] = field(default_factory=list)
    stopped_by: str = ""
    resumed_at: int = 0
    earlier_s: float = 0.0


@dataclass
class LoopState:
    """How far a training has come: ``batch`` batches of ``epoch``, and what they summed up to."""

    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    waited_s: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    fired: list[Fired] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
