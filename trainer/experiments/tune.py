"""The hyperparameter search: Optuna chooses the trials, and each trial is a training job.

The space is the report's (docs/background.md): learning rate 0.001-0.1 (log), batch size 16, 32 or 64, and the network.
The objective is the mean validation loss of a trial's best epoch, minimised. Everything is in one folder:

    OUT/study.log          Optuna's journal: every trial and its state
    OUT/trials/<params>/   the job of a trial, with the checkpoint that it resumes from

A killed search is resumed by starting it again: the trials that were running are queued again with the same parameters,
and resume from their checkpoints. Method: TPE; J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from tqdm import tqdm

from serve.errors import BinwatchError, DataError, TrainingError
from serve.files import exclusive_lock
from trainer.experiments import runners
from trainer.experiments.runners import EpochReport, Job, Runner

STUDY = "binwatch"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """The values that a search chooses from."""

    architectures: tuple[str, ...] = ("resnet34", "vgg16", "alexnet")
    batch_sizes: tuple[int, ...] = (16, 32, 64)
    learning_rates: tuple[float, float] = (0.001, 0.1)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's terms."""
        return {
            "learning_rate": FloatDistribution(*self.learning_rates, log=True),
            "batch_size": CategoricalDistribution(self.batch_sizes),
            "architecture": CategoricalDistribution(self.architectures),
        }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial's result. ``loss``: of its best epoch, in nats; None unless it completed. ``reason``: of a failure."""

    number: int
    state: str
    params: Mapping[str, str | float]
    loss: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a search. ``fixed``: hyperparameters that all trials share; ``trials``: how many in total."""

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
        """Run trials until ``trials`` have ended, those of earlier starts included.

        ``warm_start``: the folder of an earlier study to learn from. Raises DataError when another search uses the
        folder, TrainingError when no trial completed.
        """
        with _exclusive(self.out):
            study = self._open_study()
            self._requeue_running(study)
            if warm_start:
                _warm_start(study, warm_start, self.space)
            lock, remaining = Lock(), self.trials - len(ended_trials(study))
            bar = tqdm(total=self.trials, initial=self.trials - remaining, desc="tuning", unit="trial")
            with bar, ThreadPoolExecutor(max(self.parallel, 1)) as pool:
                for future in [pool.submit(self._run_trial, study, lock, bar) for _ in range(remaining)]:
                    future.result()
            trials = summary(study)
            if not any(trial.loss is not None for trial in trials):
                raise TrainingError(f"none of {len(trials)} trials completed; the first: {trials[0].reason}")
            return trials

    def _open_study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _drop_partial_line(self.out / "study.log")
        study = optuna.create_study(
            study_name=STUDY,
            storage=_storage(self.out),
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
        )
        # a resumed search must not draw the random numbers of its first start again
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials), n_startup_trials=3)
        return study

    def _requeue_running(self, study: optuna.Study) -> None:
        """Queue the trials that were running when the search was killed, with the same parameters."""
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if len(trial.params) == len(self.space.distributions()):
                study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)

    def _run_trial(self, study: optuna.Study, lock: Lock, bar: "tqdm[None]") -> None:
        with lock:  # the sampler is not thread-safe
            trial = study.ask(self.space.distributions())
        job = self._job(trial)
        best = float("inf")

        def on_epoch(epoch: EpochReport) -> bool:
            nonlocal best
            best = min(best, epoch.validation_loss)
            trial.report(best, epoch.number)
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


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: without killed ones, which have no reason, and without those of a warm start."""
    return [
        trial
        for trial in study.get_trials(states=ENDED)
        if "warm_start" not in trial.user_attrs and (trial.state != TrialState.FAIL or "reason" in trial.user_attrs)
    ]


def summary(study: optuna.Study) -> list[Trial]:
    """The results of the trials that count."""
    return [
        Trial(
            number=trial.number,
            state=trial.state.name.lower(),
            params=dict(trial.params),
            loss=trial.value if trial.state == TrialState.COMPLETE else None,
            reason=trial.user_attrs.get("reason", ""),
        )
        for trial in ended_trials(study)
    ]


def importance(out: Path) -> dict[str, float]:
    """How much of the loss's variance (0-1) each parameter explains; empty with fewer than two different losses."""
    study = optuna.load_study(study_name=STUDY, storage=_storage(out))
    if len({trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}) < 2:
        return {}
    return dict(optuna.importance.get_param_importances(study))


def _warm_start(study: optuna.Study, folder: Path, space: Space) -> None:
    """Add the completed trials of the study in ``folder``, which the sampler learns from and which do not count."""
    if not (folder / "study.log").is_file():
        raise DataError(f"{folder} is not the folder of a study: it has no study.log")
    if any("warm_start" in trial.user_attrs for trial in study.get_trials()):
        return
    earlier = optuna.load_study(study_name=STUDY, storage=_storage(folder))
    for trial in earlier.get_trials(states=(TrialState.COMPLETE,)):
        try:
            study.add_trial(
                create_trial(
                    params=trial.params,
                    distributions=space.distributions(),
                    value=trial.value,
                    user_attrs={"warm_start": str(folder)},
                )
            )
        except ValueError as error:
            log.warning("trial %d of %s is outside the space and skipped: %s", trial.number, folder, error)


def _storage(out: Path) -> JournalStorage:
    """The journal of a study. Raises DataError if it is damaged."""
    path = out / "study.log"
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        problem = f"{type(error).__name__}: {str(error)[:100]}"
        raise DataError(
            f"{path} is not the journal of a study ({problem}); restore it, or use another folder"
        ) from error


def _drop_partial_line(path: Path) -> None:
    """Remove what a killed search or a full disk left of the last line of a journal: Optuna appends to it otherwise."""
    if not path.is_file():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        log.warning("%s was cut off in a line; its last %d bytes are removed", path, len(data) - end)
        os.truncate(path, end)


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / "lock", wait=False) as acquired:
        if not acquired:
            raise DataError(f"another search is running in {out}; wait for it, or choose another folder")
        yield


def architectures(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Parse ``resnet,vgg,alexnet``; ``resnet`` and ``vgg``, as in the report, are ResNet-34 and VGG-16.

    Raises DataError for an architecture that is not in ``known``.
    """
    aliases = {"resnet": "resnet34", "vgg": "vgg16"}
    names = tuple(aliases.get(name.strip(), name.strip()) for name in text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"there is no model {unknown[0]!r}; choose from {', '.join(known)}")
    return names
