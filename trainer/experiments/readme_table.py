"""The experiments of the README's table: every recipe on one prepared dataset, as far as two cores go.

Each is a call of ``scripts/train.py`` in a process of its own; one that was interrupted goes on where it was, and
one that is done is not done again.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.errors import SettingsError, TrainingError
from trainer.artifacts import EVALUATION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A recipe, and what is said differently of it; ``name``: its folder, and its row of the table."""

    name: str
    recipe: str
    words: tuple[str, ...] = ()

    def done(self, out: Path) -> bool:
        """Whether it has been trained and evaluated."""
        return (out / self.name / EVALUATION).is_file()

    def run(self, data: Path, out: Path) -> None:
        """Train and evaluate. Raises TrainingError where ``scripts/train.py`` fails."""
        words = [sys.executable, "scripts/train.py", self.recipe, "--data", data, "--out", out / self.name, *self.words]
        done = subprocess.run([str(word) for word in words], stdout=sys.stderr)
        if done.returncode:
            raise TrainingError(f"the experiment {self.name} ended with {done.returncode}; its reason stands above")


def _seed(number: int) -> tuple[str, ...]:
    return ("--seed", str(number))


# without a network ImageNet's weights are those that come as a package
INSTALLED = ("--architecture", "efficientnet-lite0")
SCRATCH = ("--weights", "none")
HALF = ("--precision", "bfloat16")
EXPERIMENTS = (
    Experiment("best", "best"),
    Experiment("best-seed1", "best", _seed(1)),
    Experiment("best-without-suspects", "best", ("--drop-suspects", "0.05")),
    Experiment("lite0-finetune", "lite0-finetune"),
    Experiment("hpo-frozen-lite0", "hpo-frozen", INSTALLED),
    Experiment("resnet34-pipeline-lite0", "resnet34-pipeline", INSTALLED),
    Experiment("resnet34-scratch-160px", "resnet34-scratch", ("--size-px", "160", *HALF)),
    Experiment(
        "vgg11-finetune-112px", "vgg-finetune", ("--architecture", "vgg11", "--size-px", "112", *SCRATCH, *HALF)
    ),
    Experiment("resnet34-scratch-1-epoch", "resnet34-scratch", ("--epochs", "1", *HALF)),
    Experiment("resnet34-benchmark-1-epoch", "resnet34-benchmark", ("--epochs", "1", *HALF)),
    Experiment("vgg16-finetune-1-epoch", "vgg-finetune", ("--epochs", "1", *SCRATCH, *HALF)),
)


def run(data: Path, out: Path, wanted: Sequence[str], words: Sequence[str] = ()) -> list[Path]:
    """Run the ``wanted`` experiments, all without any, that are not done; the folders of all that are.

    ``words``: what ``scripts/train.py`` is told besides. Raises SettingsError for an unknown one.
    """
    unknown = sorted(set(wanted) - {each.name for each in EXPERIMENTS})
    if unknown:
        names = ", ".join(each.name for each in EXPERIMENTS)
        raise SettingsError(f"there is no experiment {unknown[0]!r}; there are {names}")
    for each in EXPERIMENTS:
        if (not wanted or each.name in wanted) and not each.done(out):
            log.info("experiment %s", each.name)
            Experiment(each.name, each.recipe, (*each.words, *words)).run(data, out)
    return [out / each.name for each in EXPERIMENTS if each.done(out)]
