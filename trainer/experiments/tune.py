"""The hyperparameter search: Optuna chooses the trials, and each trial is a training job.

The space is the report's (docs/background.md): learning rate 0.001-0.1 (log), batch size 16, 32 or 64, and the network.
The objective is the mean validation loss of a trial's best epoch, minimised. Everything is in one folder:

    OUT/study.log          Optuna's journal: every trial and its state; a database may take its place
    OUT/trials/<params>/   the job of a trial, with the checkpoint that it resumes from

A killed search is resumed by starting it again: the trials that were running are queued again with the same parameters,
and resume from their checkpoints. Several searches, on several hosts, may share a study in a database.
Method: TPE; J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from serve.errors import BinwatchError, DataError, TrainingError
from serve.files import exclusive_lock
from trainer.experiments import runners
from trainer.experiments.runners import EpochReport, Job, Runner
from trainer.experiments.study_store import DatabaseStore, JournalStore, StudyStore, read_journal

STUDY = "binwatch"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
WAIT_S = 0.5
"""How often a driver that has nothing to start looks whether another one has left a trial."""
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
    """The settings of a search. ``fixed``: hyperparameters that all trials share; ``trials``: how many in total.

    ``random_trials``: how many are drawn at random before the sampler learns from results. ``database``: the address of
    a PostgreSQL with the study, which is named ``study`` there; without, it is a journal in ``out``.
    """

    out: Path
    data: Path
    fixed: dict[str, str]
    environment: dict[str, str]
    space: Space
    runner: Runner
    trials: int = 5
    parallel: int = 1
    seed: int = 0
    random_trials: int = 3
    database: str = ""
    study: str = STUDY

    def run(self, warm_start: Path | None = None) -> list[Trial]:
        """Run trials until ``trials`` have ended, those of earlier starts and of other drivers included.

        ``warm_start``: the folder of an earlier study to learn from. Raises DataError when another search uses the
        folder, TrainingError when no trial completed.
        """
        with _exclusive(self.out), _reported(), closing(self._store()) as store:
            study = self._open_study(store)
            if warm_start:
                with store.lock():
                    _warm_start(study, warm_start, self.space)
            self._run_trials(study, store)
            trials = summary(study)
            if not any(trial.loss is not None for trial in trials):
                raise TrainingError(f"none of {len(trials)} trials completed; the first: {trials[0].reason}")
            return trials

    def importance(self) -> dict[str, float]:
        """How much of the loss's variance (0-1) each parameter explains; empty with fewer than two different losses."""
        with _reported(), closing(self._store()) as store:
            study = optuna.load_study(study_name=self.study, storage=store.storage)
            if len({trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}) < 2:
                return {}
            return dict(optuna.importance.get_param_importances(study))

    def _store(self) -> StudyStore:
        return DatabaseStore(self.database, self.study) if self.database else JournalStore(self.out)

    def _open_study(self, store: StudyStore) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with store.lock():
            return optuna.create_study(
                study_name=self.study,
                storage=store.storage,
                load_if_exists=True,
                direction="minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
            )

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of trial ``number``, whose own seed no restart and no other driver uses for another trial."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.random_trials)

    def _run_trials(self, study: optuna.Study, store: StudyStore) -> None:
        """Run trials in ``parallel`` threads. What ends one of them, SIGTERM included, interrupts the others."""
        stop = Event()
        bar = tqdm(total=self.trials, initial=len(ended_trials(study)), desc="tuning", unit="trial")
        with bar, ThreadPoolExecutor(max(self.parallel, 1)) as pool:
            threads = [pool.submit(self._run_thread, study, store, stop, bar) for _ in range(max(self.parallel, 1))]
            try:
                for thread in wait(threads, return_when=FIRST_EXCEPTION).done:
                    thread.result()
            finally:
                stop.set()

    def _run_thread(self, study: optuna.Study, store: StudyStore, stop: Event, bar: "tqdm[None]") -> None:
        while not stop.is_set():
            with store.lock():
                ended = len(ended_trials(study))
                trial = self._next_trial(study, store) if ended < self.trials else None
            bar.update(ended - bar.n)
            if ended >= self.trials:
                return
            if trial:
                self._run_trial(study, trial, stop)
            else:
                stop.wait(WAIT_S)

    def _next_trial(self, study: optuna.Study, store: StudyStore) -> optuna.Trial | None:
        """A new trial, or one that a killed driver has left; None if those that run are enough. Needs the lock."""
        running = 0
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if store.is_alive(trial.user_attrs.get("driver", "")):
                running += 1
                continue
            if len(trial.params) == len(self.space.distributions()):
                study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)
        if len(ended_trials(study)) + running >= self.trials:
            return None
        study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
        new = study.ask(self.space.distributions())
        new.set_user_attr("driver", store.driver)
        return new

    def _run_trial(self, study: optuna.Study, trial: optuna.Trial, stop: Event) -> None:
        job = self._job(trial)
        best = float("inf")

        def on_epoch(epoch: EpochReport) -> bool:
            nonlocal best
            best = min(best, epoch.validation_loss)
            trial.report(best, epoch.number)
            return not trial.should_prune()

        try:
            if runners.run(self.runner, job, on_epoch, stop.is_set):
                study.tell(trial, best, skip_if_finished=True)
            else:
                study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except BinwatchError as error:
            trial.set_user_attr("reason", str(error))
            log.warning("trial %d %s: %s", trial.number, trial.params, error)
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        except UpdateFinishedTrialError:
            log.warning("trial %d was taken over by another driver while the database was away", trial.number)

    def _job(self, trial: optuna.Trial) -> Job:
        """The job of a trial; the same parameters have the same folder, so that one which was killed resumes."""
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


def _warm_start(study: optuna.Study, folder: Path, space: Space) -> None:
    """Add the completed trials of the study in ``folder``, which the sampler learns from and which do not count."""
    if not (folder / "study.log").is_file():
        raise DataError(f"{folder} is not the folder of a study: it has no study.log")
    if any("warm_start" in trial.user_attrs for trial in study.get_trials()):
        return
    earlier = optuna.load_study(study_name=STUDY, storage=read_journal(folder))
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


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / "lock", wait=False) as acquired:
        if not acquired:
            raise DataError(f"another search is running in {out}; wait for it, or choose another folder")
        yield


@contextmanager
def _reported() -> Iterator[None]:
    """Errors of a study's database as DataError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DataError(f"the study's database failed ({reason}); run the search again to resume it") from error


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
