"""Challenger and champion on the same test photos, and the version that the challenger becomes.

An old number is never compared with a new one: where the test photos have changed, the champion is evaluated on the
new ones. The evaluation of the same archive on the same photos is read back instead of made again.

    evaluation.json, predictions.json                       on a train run: its own archive on its own test photos
    champion_evaluation.json, champion_predictions.json     on an evaluate run: the champion on the challenger's
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve.errors import DataError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_SHA, EVALUATION, PREDICTIONS
from trainer.data.dataset import Dataset
from trainer.evaluation import gate
from trainer.evaluation.evaluate import Evaluated, evaluate, from_json, milliseconds, predictions_from_json
from trainer.pipeline import step_cache
from trainer.promotion import decisions
from trainer.promotion.promoter import verdict
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import TrackedRun
from trainer.registry.versions import CHAMPION, Status, Version
from trainer.training.run import Trained, columns_of, run_evaluation

CHAMPION_PREFIX = "champion_"
ArchiveOf = Callable[[str], Path]
"""The archive of a run, by its id."""


def evaluate_both(
    registry: Registry, train: Mapping[str, Any], data: Dataset, archive_of: ArchiveOf, run: TrackedRun, cache: bool
) -> dict[str, Any]:
    """Evaluate the archive of the train step and the champion's; says which runs hold the answers.

    ``cached``: nothing had to be evaluated; ``latency_ms``: of each side, timed just now where there are two.
    """
    made = _Judged(registry, train, data, archive_of, run, cache)
    champion = registry.alias(CHAMPION)
    latency_ms = {"challenger": made.challenger()}
    found: dict[str, Any] = {"challenger": train["run_id"], "champion": champion.number if champion else ""}
    if champion:
        latency_ms["champion"], found["champion_from"] = made.champion(champion)
        found["champion_run"] = champion.run_id
        metrics = _read(registry, found["champion_from"], champion.run_id).evaluation.metrics()
        run.log_metrics({f"{CHAMPION_PREFIX}{key}": value for key, value in metrics.items()})
    run.log_params(
        {
            "train_run": train["run_id"],
            "champion": found["champion"] or "none",
            "test_fingerprint": train["test_fingerprint"],
        }
    )
    cached = not any(latency_ms.values())
    if champion and not cached:  # what was known takes no part: an old time says nothing about a new one
        run_ids = {"challenger": train["run_id"], "champion": champion.run_id}
        latency_ms = {
            side: took_ms or milliseconds(archive_of(run_ids[side]), data.test) for side, took_ms in latency_ms.items()
        }
    return {**found, "latency_ms": latency_ms if champion and not cached else {}, "cached": cached}


class _Judged:
    """One evaluation step. What it gives of a side is the latency, ms a photo, None where its answers were known."""

    def __init__(
        self,
        registry: Registry,
        train: Mapping[str, Any],
        data: Dataset,
        archive_of: ArchiveOf,
        run: TrackedRun,
        cache: bool,
    ) -> None:
        self._registry, self._train, self._data, self._run = registry, train, data, run
        self._archive_of, self._cache = archive_of, cache

    def challenger(self) -> float | None:
        """Evaluate the trained archive; the answers go to its own run, from which the promoter reads them."""
        run = self._registry.reopen_run(self._train["run_id"])
        key = step_cache.evaluation_key(self._train["archive_sha256"], self._train["test_fingerprint"])
        if self._cache and key == self._registry.tags(run.id).get(step_cache.EVALUATED):
            return None
        made = run_evaluation(Trained(self._archive_of(run.id), self._data, run))
        run.set_tags({step_cache.EVALUATED: key})
        return made.latency_ms

    def champion(self, champion: Version) -> tuple[float | None, str]:
        """Evaluate the champion's archive; also the run that has its answers."""
        tags = self._registry.tags(champion.run_id)
        sha = tags.get(ARCHIVE_SHA) or sha256(self._archive_of(champion.run_id))
        key = step_cache.evaluation_key(sha, self._train["test_fingerprint"])
        if self._cache and key == tags.get(step_cache.EVALUATED):
            return None, champion.run_id
        found = step_cache.find_champion_evaluation(self._registry, key) if self._cache else ""
        if found:
            self._run.set_tags({step_cache.CACHED_FROM: found})
            return None, found
        made = evaluate(self._archive_of(champion.run_id), self._data.test)
        self._run.log_json(made.evaluation.to_sagemaker(), CHAMPION_PREFIX + EVALUATION)
        self._run.log_table(columns_of(made.predictions), CHAMPION_PREFIX + PREDICTIONS)
        self._run.set_tags({step_cache.CHAMPION_EVALUATED: key})
        return made.latency_ms, self._run.id


def read_both(registry: Registry, judged: Mapping[str, Any]) -> tuple[Evaluated, Evaluated | None]:
    """The challenger and the champion, if there is one, as the gate compares them. Raises DataError, TrackingError."""
    latency_ms = judged["latency_ms"]
    challenger = _read(registry, judged["challenger"], judged["challenger"], latency_ms.get("challenger"))
    if not judged["champion"]:
        return challenger, None
    return challenger, _read(registry, judged["champion_from"], judged["champion_run"], latency_ms.get("champion"))


def _read(registry: Registry, run_id: str, archive_run_id: str, latency_ms: float | None = None) -> Evaluated:
    """The answers that run ``run_id`` keeps of the archive of ``archive_run_id``."""
    prefix = "" if run_id == archive_run_id else CHAMPION_PREFIX
    evaluation = registry.read_text(run_id, prefix + EVALUATION)
    predictions = registry.read_text(run_id, prefix + PREDICTIONS)
    if evaluation is None or predictions is None:
        raise DataError(f"run {run_id} has lost its {prefix}{EVALUATION} or {prefix}{PREDICTIONS}; use --no-cache")
    size = registry.artifacts(archive_run_id, str(Path(ARCHIVE).parent)).get(ARCHIVE)
    return Evaluated(from_json(evaluation), predictions_from_json(predictions), latency_ms, size)


def register_challenger(
    registry: Registry, judged: Mapping[str, Any], decision: gate.Decision, run: TrackedRun
) -> tuple[str, tuple[str, ...]]:
    """Register the challenger with the decision and record it in ``run``; its version's number, and the reasons."""
    if judged.get("champion_run") == judged["challenger"]:
        run.log_json(decision.to_json(), decisions.DECISION)
        same = f"photos, recipe and code are those of the champion, version {judged['champion']}"
        return judged["champion"], (same, *decision.reasons)
    version = _register(registry, judged, decision)
    decisions.record(run, decision, version)
    return version.number, decision.reasons


def _register(registry: Registry, judged: Mapping[str, Any], decision: gate.Decision) -> Version:
    """The version of the challenger's archive with this decision; made where there is none yet.

    Nothing is registered twice: not after a kill between registering and recording it, and not where the same
    archive was decided on in the same way against the same champion before.
    """
    status, reason = verdict(decision)
    for version in registry.versions():
        same = (version.run_id, version.compared_with) == (judged["challenger"], judged["champion"])
        if same and (version.status == Status.REFUSED) == (status == Status.REFUSED):
            return version
    return registry.register(judged["challenger"], status, reason, judged["champion"])
