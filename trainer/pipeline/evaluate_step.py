"""The steps evaluate and gate: challenger and champion on the same test photos, and the challenger's model version.

Metrics on different photos are never compared: where the test photos have changed, the champion is evaluated again on
the new ones. An evaluation of the same archive on the same photos is read back from MLflow instead of repeated.

    evaluation.json, predictions.json                       in a train run: its archive on its own test photos
    champion_evaluation.json, champion_predictions.json     in an evaluate run: the champion on the challenger's photos
"""

from collections.abc import Callable
from pathlib import Path

from serve.errors import ArchiveError, DataError
from serve.manifest import sha256
from trainer.artifacts import (
    ARCHIVE,
    ARCHIVE_FOLDER,
    ARCHIVE_SHA,
    CACHED_FROM_TAG,
    CHAMPION_KEY_TAG,
    CHAMPION_PREFIX,
    DECISION,
    EVALUATION,
    EVALUATION_KEY_TAG,
    PREDICTIONS,
)
from trainer.data.dataset import Dataset
from trainer.evaluation import gate
from trainer.evaluation.evaluate import (
    Evaluated,
    evaluate,
    evaluation_from_json,
    measure_latency,
    predictions_from_json,
)
from trainer.pipeline import step_cache
from trainer.pipeline.lost_champion import known_answers_run, on_common_photos, wait_for_archive
from trainer.pipeline.step_outputs import EvaluateOutput, StepResult, TrainOutput
from trainer.promotion import decisions
from trainer.registry.entities import CHAMPION, Status, Version
from trainer.registry.mlflow_registry import Registry
from trainer.registry.tracked_run import TrackedRun

ArchiveOf = Callable[[str], Path]
"""Returns the archive of a run, by the run's id."""


def evaluate_both(
    registry: Registry,
    train: TrainOutput,
    data: Dataset,
    archive_of: ArchiveOf,
    run: TrackedRun,
    cache: bool,
    recovery_s: float = 0.0,
) -> StepResult[EvaluateOutput]:
    """Evaluate the archive of the train step and the champion's on the test photos of ``data``.

    ``run``: that of the evaluate step; ``cache``: whether earlier evaluations may be read back; ``recovery_s``: how
    long to wait for a champion's archive that MLflow has lost.
    """
    step = _EvaluateStep(registry, train, data, archive_of, run, cache)
    champion = registry.alias(CHAMPION)
    latency_ms, champion_from, lost = {"challenger": step.evaluate_challenger()}, "", False
    if champion:
        try:
            latency_ms["champion"], champion_from = step.evaluate_champion(champion, recovery_s)
        except ArchiveError as error:
            champion_from, lost = known_answers_run(registry, champion, error), True
        if champion_from:
            metrics = _read(registry, champion_from, champion.run_id).evaluation.metrics()
            run.log_metrics({f"{CHAMPION_PREFIX}{key}": value for key, value in metrics.items()})
    run.log_params(
        {
            "train_run": train.run_id,
            "champion": champion.number if champion else "none",
            "test_fingerprint": train.test_fingerprint,
        }
    )
    cached = not any(latency_ms.values())
    if champion and not cached and not lost:  # both are timed now: a latency from an earlier run cannot be compared
        run_ids = {"challenger": train.run_id, "champion": champion.run_id}
        latency_ms = {
            side: took_ms or measure_latency(archive_of(run_ids[side]), data.test)
            for side, took_ms in latency_ms.items()
        }
    outputs = EvaluateOutput(
        challenger=train.run_id,
        champion=champion.number if champion else "",
        champion_from=champion_from,
        champion_run=champion.run_id if champion else "",
        latency_ms=latency_ms if champion and not cached and not lost else {},
    )
    return StepResult(outputs, cached)


class _EvaluateStep:
    """One evaluate step. Latencies are in ms per photo, None where the evaluation came from the cache."""

    def __init__(
        self,
        registry: Registry,
        train: TrainOutput,
        data: Dataset,
        archive_of: ArchiveOf,
        run: TrackedRun,
        cache: bool,
    ) -> None:
        self._registry, self._train, self._data, self._run = registry, train, data, run
        self._archive_of, self._cache = archive_of, cache

    def evaluate_challenger(self) -> float | None:
        """Evaluate the trained archive; its latency. The result goes to the train run, where the promoter reads it."""
        run = self._registry.reopen_run(self._train.run_id)
        key = step_cache.evaluation_key(self._train.archive_sha256, self._data.test)
        if self._cache and key == self._registry.tags(run.id).get(EVALUATION_KEY_TAG):
            return None
        from trainer.training.run import Trained, run_evaluation  # torch takes seconds to import: only where it is used

        evaluated = run_evaluation(Trained(self._archive_of(run.id), self._data, run))
        run.set_tags({EVALUATION_KEY_TAG: key})
        return evaluated.latency_ms

    def evaluate_champion(self, champion: Version, recovery_s: float) -> tuple[float | None, str]:
        """Evaluate the champion's archive; its latency, and the run that has the result.

        Raises ArchiveError where MLflow has lost the archive.
        """
        wait_for_archive(self._registry, champion, recovery_s)
        tags = self._registry.tags(champion.run_id)
        sha = tags.get(ARCHIVE_SHA) or sha256(self._archive_of(champion.run_id))
        key = step_cache.evaluation_key(sha, self._data.test)
        if self._cache and key == tags.get(EVALUATION_KEY_TAG):
            return None, champion.run_id
        cached_run = step_cache.find_champion_evaluation(self._registry, key) if self._cache else ""
        if cached_run:
            self._run.set_tags({CACHED_FROM_TAG: cached_run})
            return None, cached_run
        from trainer.training.run import columns_of

        evaluated = evaluate(self._archive_of(champion.run_id), self._data.test)
        self._run.log_json(evaluated.evaluation.to_sagemaker(), CHAMPION_PREFIX + EVALUATION)
        self._run.log_table(columns_of(evaluated.predictions), CHAMPION_PREFIX + PREDICTIONS)
        self._run.set_tags({CHAMPION_KEY_TAG: key})
        return evaluated.latency_ms, self._run.id


def read_both(registry: Registry, evaluations: EvaluateOutput) -> tuple[Evaluated, Evaluated | None]:
    """The challenger and the champion, if there is one, as the gate compares them. Raises DataError, TrackingError."""
    latency_ms, challenger_run = evaluations.latency_ms, evaluations.challenger
    challenger = _read(registry, challenger_run, challenger_run, latency_ms.get("challenger"))
    if not evaluations.champion_from:
        return challenger, None
    champion_run = evaluations.champion_run
    champion = _read(registry, evaluations.champion_from, champion_run, latency_ms.get("champion"))
    same_photos = champion.evaluation.fingerprint == challenger.evaluation.fingerprint
    if evaluations.champion_from == champion_run and not same_photos:  # its archive was lost
        return on_common_photos(challenger, champion) or (challenger, champion)
    return challenger, champion


def _read(registry: Registry, run_id: str, archive_run_id: str, latency_ms: float | None = None) -> Evaluated:
    """The evaluation of the archive of ``archive_run_id`` that run ``run_id`` has."""
    prefix = "" if run_id == archive_run_id else CHAMPION_PREFIX
    evaluation = registry.read_text(run_id, prefix + EVALUATION)
    predictions = registry.read_text(run_id, prefix + PREDICTIONS)
    if evaluation is None or predictions is None:
        raise DataError(f"run {run_id} has lost its {prefix}{EVALUATION} or {prefix}{PREDICTIONS}; use --no-cache")
    size = registry.artifacts(archive_run_id, ARCHIVE_FOLDER).get(ARCHIVE)
    return Evaluated(evaluation_from_json(evaluation), predictions_from_json(predictions), latency_ms, size)


def register_challenger(
    registry: Registry, evaluations: EvaluateOutput, decision: gate.Decision, run: TrackedRun
) -> tuple[str, tuple[str, ...]]:
    """Register the challenger with the gate's decision and log the decision to ``run``; its version, and the reasons.

    A challenger that is the champion's own training, taken from the cache, is not registered again.
    """
    if evaluations.champion_run == evaluations.challenger:
        run.log_json(decision.to_json(), DECISION)
        same = f"photos, recipe and code are those of the champion, version {evaluations.champion}"
        return evaluations.champion, (same, *decision.reasons)
    version = _register(registry, evaluations, decision)
    decisions.record(run, decision, version)
    return version.number, decision.reasons


def _register(registry: Registry, evaluations: EvaluateOutput, decision: gate.Decision) -> Version:
    """The version of the challenger's archive with this decision, registered unless it exists.

    This is idempotent: nothing is registered twice after a kill between registering and recording, nor where the same
    archive was decided on in the same way against the same champion before.
    """
    status, reason = decisions.status_and_reason(decision)
    for version in registry.versions():
        same = (version.run_id, version.compared_with) == (evaluations.challenger, evaluations.champion)
        if same and (version.status == Status.REFUSED) == (status == Status.REFUSED):
            return version
    return registry.register(evaluations.challenger, status, reason, evaluations.champion)
