"""The experiments of the table in docs/results.md: the recipes on one prepared dataset, sized for two cores.

Each experiment is a process with ``scripts/train.py``. An interrupted one is resumed, a finished one is skipped.
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
    """A recipe with options of ``scripts/train.py``; ``name``: what its folder and its row are called."""

    name: str
    recipe: str
    options: tuple[str, ...] = ()

    def is_done(self, out: Path) -> bool:
        """Whether it has been trained and evaluated."""
        return (out / self.name / EVALUATION).is_file()

    def run(self, data: Path, out: Path, options: Sequence[str] = ()) -> None:
        """Train and evaluate, with further ``options``. Raises TrainingError when ``scripts/train.py`` fails."""
        command = [sys.executable, "scripts/train.py", self.recipe, "--data", data, "--out", out / self.name]
        arguments = [str(argument) for argument in (*command, *self.options, *options)]
        result = subprocess.run(arguments, stdout=sys.stderr)
        if result.returncode:
            raise TrainingError(
                f"experiment {self.name} failed with exit code {result.returncode}; the reason is above"
            )


def _seed(number: int) -> tuple[str, ...]:
    return ("--seed", str(number))


# without a network connection, the only ImageNet weights are those of an installed package
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


def run(data: Path, out: Path, names: Sequence[str], options: Sequence[str] = ()) -> list[Path]:
    """Run the experiments in ``names`` (if empty, all) that are not done. Returns the folders of all that are done.

    ``options``: further options of ``scripts/train.py``. Raises SettingsError for an unknown name, TrainingError when
    an experiment fails.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SettingsError(f"there is no experiment {unknown[0]!r}; choose from {', '.join(known)}")
    for experiment in EXPERIMENTS:
        if (not names or experiment.name in names) and not experiment.is_done(out):
            log.info("experiment %s", experiment.name)
            experiment.run(data, out, options)
    return [out / experiment.name for experiment in EXPERIMENTS if experiment.is_done(out)]
