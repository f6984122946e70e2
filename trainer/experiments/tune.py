"""The search for hyperparameters: trials are jobs, Optuna says which one is next.

The space is the report's: learning rate 0.001-0.1 (log), batch size 16, 32 or 64, and the network;
what is minimised is the mean validation loss of a trial's best epoch. Everything is in one folder:

    OUT/study.log          Optuna's journal: every trial, and what became of it
    OUT/trials/<params>/   the trial's job; its checkpoint lets it go on where it was

A search that was killed goes on when it is started again: the trials that were under way are
tried again with the same parameters, from their checkpoints. Method: J. Bergstra et al.,
"Algorithms for Hyper-Parameter Optimization", 2011 (TPE).
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from tqdm import tqdm

from serve.errors import BinwatchError, DataError, TrainingError
from trainer.experiments import runners
from trainer.experiments.runners import Job, Runner

STUDY = "binwatch"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """What is searched through."""

    architectures: tuple[str, ...] = ("resnet34", "vgg16", "alexnet")
    batch_sizes: tuple[int, ...] = (16, 32, 64)
    learning_rates: tuple[float, float] = (0.001, 0.1)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna describes it."""
        return {
            "learning_rate": FloatDistribution(*self.learning_rates, log=True),
            "batch_size": CategoricalDistribution(self.batch_sizes),
            "architecture": CategoricalDistribution(self.architectures),
        }


@dataclass(frozen=True)
class Trial:
    """One trial as a report shows it; ``loss``: nats, of its best epoch; None where it failed."""

    number: int
    state: str
    params: dict[str, Any]
    loss: float | None
    reason: str


@dataclass(frozen=True)
class Search:
    """A search: where, what, and how. ``fixed``: hyperparameters that all trials share."""

    out: Path
    data: Path
    fixed: dict[str, str]
    environment: dict[str, str]
    space: Space
    runner: Runner
    trials: int = 5
    parallel: int = 1
    seed: int = 0

    def run(self, warm_start: Path | None = None) -> list[Trial]:
        """Run trials until there are as many as wanted; what an earlier start has done counts.

        Raises DataError where another search works in the folder, TrainingError where no trial ended well.
        """
        with _alone(self.out):
            study = self._study()
            self._take_up(study)
            if warm_start:
                _warm_start(study, warm_start, self.space)
            lock, left = Lock(), self.trials - len(counted(study))
            bar = tqdm(total=self.trials, initial=self.trials - left, desc="tuning", unit="trial")
            with bar, ThreadPoolExecutor(max(self.parallel, 1)) as pool:
                for done in [pool.submit(self._one, study, lock, bar) for _ in range(left)]:
                    done.result()
            found = summary(study)
            if not any(each.loss is not None for each in found):
                raise TrainingError(f"none of {len(found)} trials ended well; the first: {found[0].reason}")
            return found

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=STUDY,
            storage=_storage(self.out),
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
        )
        # a search that goes on must not draw again what it drew at its first start
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials), n_startup_trials=3)
        return study

    def _take_up(self, study: optuna.Study) -> None:
        """Queue again, with the same parameters, what was under way when the search was killed."""
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if len(trial.params) == len(self.space.distributions()):
                study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)

    def _one(self, study: optuna.Study, lock: Lock, bar: "tqdm[None]") -> None:
        with lock:  # the sampler is not made for two at a time
            trial = study.ask(self.space.distributions())
        job = self._job(trial)
        best = float("inf")

        def on_epoch(numbers: dict[str, Any]) -> bool:
            nonlocal best
            best = min(best, numbers["validation_loss"])
            trial.report(best, numbers["number"])
            return not trial.should_prune()

        try:
            if runners.run(self.runner, job, on_epoch):
                study.tell(trial, best)
            else:
                study.tell(trial, state=TrialState.PRUNED)
        except BinwatchError as error:
            trial.set_user_attr("reason", str(error))
            log.warning("trial %d %s: %s", trial.number, trial.params, error)
            study.tell(trial, state=TrialState.FAIL)
        bar.update()

    def _job(self, trial: optuna.Trial) -> Job:
        params = {key: str(value) for key, value in trial.params.items()}
        name = hashlib.sha256(json.dumps({**self.fixed, **params}, sort_keys=True).encode()).hexdigest()[:12]
        environment = {**self.environment, "BINWATCH_RUN_NAME": f"trial {trial.number}"}
        return Job(self.out / "trials" / name, self.data, {**self.fixed, **params, "export": "false"}, environment)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were wanted and have ended: neither killed ones, which left no reason, nor another study's."""
    return [
        each
        for each in study.get_trials(states=ENDED)
        if "warm_start" not in each.user_attrs and (each.state != TrialState.FAIL or "reason" in each.user_attrs)
    ]


def summary(study: optuna.Study) -> list[Trial]:
    """The trials, as a report shows them."""
    return [
        Trial(
            each.number,
            each.state.name.lower(),
            dict(each.params),
            each.value if each.state == TrialState.COMPLETE else None,
            each.user_attrs.get("reason", ""),
        )
        for each in counted(study)
    ]


def importance(out: Path) -> dict[str, float]:
    """How much of the loss's variance each parameter explains (0-1); empty with fewer than two good trials."""
    study = optuna.load_study(study_name=STUDY, storage=_storage(out))
    if len({each.value for each in study.get_trials(states=(TrialState.COMPLETE,))}) < 2:
        return {}
    return dict(optuna.importance.get_param_importances(study))


def parent_run(out: Path) -> str | None:
    """The MLflow run of an earlier start of the search in ``out``."""
    path = out / "mlflow_run"
    return path.read_text().strip() if path.is_file() else None


def _warm_start(study: optuna.Study, folder: Path, space: Space) -> None:
    """Learn from the good trials of an earlier study; they do not count."""
    if not (folder / "study.log").is_file():
        raise DataError(f"{folder} holds no study to start from: it has no study.log")
    if any("warm_start" in each.user_attrs for each in study.get_trials()):
        return
    old = optuna.load_study(study_name=STUDY, storage=_storage(folder))
    for each in old.get_trials(states=(TrialState.COMPLETE,)):
        try:
            study.add_trial(
                create_trial(
                    params=each.params,
                    distributions=space.distributions(),
                    value=each.value,
                    user_attrs={"warm_start": str(folder)},
                )
            )
        except ValueError as error:
            log.warning("trial %d of %s is outside the space and left out: %s", each.number, folder, error)


def _storage(out: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(out / "study.log")))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another search works in {out}; wait for it, or give another folder") from error
        yield


def architectures(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read ``resnet,vgg,alexnet``; the report's names stand for ResNet-34 and VGG-16. Raises DataError."""
    named = {"resnet": "resnet34", "vgg": "vgg16"}
    found = tuple(named.get(each.strip(), each.strip()) for each in text.split(","))
    unknown = [each for each in found if each not in known]
    if unknown:
        raise DataError(f"there is no model {unknown[0]!r}; choose of {', '.join(known)}")
    return found
