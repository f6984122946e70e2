"""Retention: how long archives, artifacts, capture and caches are kept. ``choose`` decides, and is pure.

    python scripts/prune.py --dry-run      what would be removed, why, and how many bytes that would free

Never removed, however old: the archive and the artifacts of the champion, of the previous champion, of a challenger
(undecided or approved), and of an unfinished execution. Only files are removed: versions, runs, their metrics and
their decisions stay in MLflow, so that the history is complete.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serve.errors import DataError
from trainer.artifacts import CACHED_FROM_TAG, PRUNED_TAG, TOKEN_TAG
from trainer.pipeline import disposal, execution_lock
from trainer.pipeline.disposal import Kind
from trainer.pipeline.trainer_settings import RetentionPolicy
from trainer.registry.entities import CHAMPION, PREVIOUS, RunInfo, Status, Version

if TYPE_CHECKING:
    from trainer.registry.mlflow_registry import Registry  # MLflow takes seconds to import

DAY_S = 86_400.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that may be removed. ``name``: a run's id, a path or an hour of capture; ``at_s``: its age counts from
    here, in seconds since 1970.

    ``rank``: how many versions are newer, None where it belongs to no version; ``needed``: why it must stay, or "".
    """

    kind: Kind
    name: str
    at_s: float
    rank: int | None = None
    needed: str = ""


@dataclass(frozen=True)
class Removal:
    """A candidate that is removed, why, and how many bytes that frees."""

    candidate: Candidate
    reason: str
    size_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        candidate = self.candidate
        return {"kind": candidate.kind, "name": candidate.name, "reason": self.reason, "bytes": self.size_bytes}


def choose(candidates: Sequence[Candidate], policy: RetentionPolicy, now_s: float) -> list[Removal]:
    """The candidates to remove at ``now_s``, seconds since 1970, in their order; never one that is needed."""
    reasons = ((candidate, _reason(candidate, policy, now_s)) for candidate in candidates)
    return [Removal(candidate, reason) for candidate, reason in reasons if reason and not candidate.needed]


def _reason(candidate: Candidate, policy: RetentionPolicy, now_s: float) -> str:
    kind, rank = candidate.kind, candidate.rank
    if kind == Kind.ARCHIVE and policy.versions and rank is not None and rank >= policy.versions:
        return f"{rank} versions are newer, {policy.versions} are kept"
    days = {Kind.CAPTURE: policy.capture_days, Kind.CACHE: policy.cache_days, Kind.CHECKPOINT: policy.cache_days}
    max_days, age_days = days.get(kind, policy.days), (now_s - candidate.at_s) / DAY_S
    return f"it is {age_days:.1f} days old, {max_days:g} are kept" if max_days and age_days > max_days else ""


def needed_runs(
    versions: Sequence[Version], aliases: Mapping[str, str], runs: Sequence[RunInfo], token: str = ""
) -> dict[str, str]:
    """The runs whose files must stay: run id -> why.

    ``aliases``: alias -> version number; ``runs``: all runs, nested ones too; ``token``: of the unfinished execution
    that will be resumed, if any.
    """
    run_ids = {version.number: version.run_id for version in versions}
    unfinished = {run.id for run in runs if run.status in ("RUNNING", "SCHEDULED")}
    unfinished |= {run.id for run in runs if token and run.tags.get(TOKEN_TAG) == token}
    steps = [run for run in runs if run.parent in unfinished]
    reasons = dict.fromkeys((*unfinished, *(run.id for run in steps)), "it is unfinished")
    reasons |= {
        run.tags[CACHED_FROM_TAG]: "an unfinished execution uses it" for run in steps if CACHED_FROM_TAG in run.tags
    }
    reasons |= {version.run_id: "it is a challenger" for version in versions if version.status in ("", Status.APPROVED)}
    return reasons | {run_ids[number]: f"it is {alias}" for alias, number in aliases.items() if number in run_ids}


def run_candidates(
    versions: Sequence[Version], aliases: Mapping[str, str], runs: Sequence[RunInfo], token: str = ""
) -> list[Candidate]:
    """The archive and the other artifacts of every run that may still have some; parameters as of ``needed_runs``."""
    reasons = needed_runs(versions, aliases, runs, token)
    ranks: dict[str, int] = {}
    for rank, version in enumerate(sorted(versions, key=lambda version: -int(version.number))):
        ranks.setdefault(version.run_id, rank)  # where two versions share a run, the newer one counts
    return [
        Candidate(
            kind=kind,
            name=run.id,
            at_s=run.ended_s or run.started_s,
            rank=ranks.get(run.id),
            needed=reasons.get(run.id, ""),
        )
        for run in runs
        for kind in (Kind.ARCHIVE, Kind.ARTIFACTS)
        if kind not in run.tags.get(PRUNED_TAG, "")
    ]


@dataclass(frozen=True)
class Places:
    """Where to prune. ``capture``: a folder or ``s3://bucket/prefix``; ``state``: the pipeline's state folder."""

    registry: "Registry"
    capture: str
    state: Path
    endpoint_url: str | None = None


def prune(places: Places, policy: RetentionPolicy, dry_run: bool = False) -> list[Removal]:
    """Remove what ``policy`` does not keep; with ``dry_run`` only list it. Raises TrackingError, DataError.

    The caller holds the lock of the state folder. MLflow is asked again right before a run's files are removed: its
    version may have become the champion in the meantime.
    """
    registry, capture = places.registry, disposal.Capture(places.capture, places.endpoint_url)
    unfinished = execution_lock.read_unfinished(places.state)
    token = unfinished.request.token if unfinished else ""
    candidates = (
        *run_candidates(*_read_registry(registry), token),
        *(Candidate(kind=Kind.CAPTURE, name=hour, at_s=at_s) for hour, at_s in capture.hours()),
        *(
            Candidate(kind=kind, name=str(path), at_s=at_s)
            for kind, path, at_s in disposal.reproducible_files(places.state)
        ),
    )

    def remove(candidate: Candidate) -> int:
        if candidate.kind == Kind.CAPTURE:
            return capture.remove(candidate.name, dry_run)
        if candidate.kind in (Kind.CACHE, Kind.CHECKPOINT):
            return disposal.remove_file(Path(candidate.name), dry_run)
        if not dry_run and candidate.name in needed_runs(*_read_registry(registry), token):
            return 0
        remove_files = disposal.remove_archive if candidate.kind == Kind.ARCHIVE else disposal.remove_artifacts
        try:
            return remove_files(registry, candidate.name, dry_run)
        except DataError as error:
            log.warning("the files of run %s are not pruned: %s", candidate.name, error)
            return 0

    chosen = choose(candidates, policy, time.time())
    removals = [replace(removal, size_bytes=remove(removal.candidate)) for removal in chosen]
    removals = [removal for removal in removals if removal.size_bytes]
    if removals and not dry_run:
        log.info("pruned %d items, %.1f MB", len(removals), sum(removal.size_bytes for removal in removals) / 1e6)
    return removals


def _read_registry(registry: "Registry") -> tuple[list[Version], dict[str, str], list[RunInfo]]:
    """Versions, aliases and runs; the aliases are read last, so that they name what is promoted in the meantime."""
    versions, runs = registry.versions(), registry.runs()
    by_alias = {alias: registry.alias(alias) for alias in (CHAMPION, PREVIOUS)}
    return versions, {alias: version.number for alias, version in by_alias.items() if version}, runs
