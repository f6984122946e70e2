"""What is kept of old archives, runs' artifacts, capture and caches, and for how long. ``choose`` decides, and is pure.

    python scripts/prune.py --dry-run      what would go, why, and the bytes that it would free

Never touched, however old: the archive and the artifacts of the champion, of the previous champion, of a challenger
(undecided or approved), and of an execution that is under way. What goes are files: versions, runs, their metrics and
their decisions stay in MLflow, so that the history is whole.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from serve.errors import SettingsError
from trainer.pipeline import disposal, execution_lock
from trainer.pipeline.step_cache import CACHED_FROM
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import RunInfo
from trainer.registry.versions import CHAMPION, PREVIOUS, Status, Version

ARCHIVE, ARTIFACTS, CAPTURE, CACHE, CHECKPOINT = "archive", "artifacts", "capture", "cache", "checkpoint"
DAY_S = 86_400.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetentionPolicy:
    """How much is kept; 0 keeps for ever. ``versions``: of so many newest versions the archive; days, at most: ``days``
    of archives and artifacts, ``capture_days`` of captured answers, ``cache_days`` of decoded photos and checkpoints
    since they were last used."""

    versions: int = 10
    days: float = 90.0
    capture_days: float = 30.0
    cache_days: float = 14.0


DEFAULT = RetentionPolicy()


@dataclass(frozen=True)
class Candidate:
    """Something that can go. ``name``: a run's id, a path or an hour of capture; ``at_s``: its age counts from here.

    ``rank``: 0 for the newest version, None where it is of no version; ``needed``: why it must stay, if it must.
    """

    kind: str
    name: str
    at_s: float
    rank: int | None = None
    needed: str = ""


@dataclass(frozen=True)
class Removal:
    """What goes, and why. ``size_bytes``: what that frees."""

    thing: Candidate
    reason: str
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"kind": self.thing.kind, "name": self.thing.name, "reason": self.reason, "bytes": self.size_bytes}


def choose(things: Sequence[Candidate], policy: RetentionPolicy, now_s: float) -> list[Removal]:
    """What goes of ``things`` at ``now_s``, seconds since 1970, in their order. What is needed never does."""
    reasons = ((thing, _reason(thing, policy, now_s)) for thing in things)
    return [Removal(thing, reason) for thing, reason in reasons if reason and not thing.needed]


def _reason(thing: Candidate, policy: RetentionPolicy, now_s: float) -> str:
    if thing.kind == ARCHIVE and policy.versions and thing.rank is not None and thing.rank >= policy.versions:
        return f"{thing.rank} versions are newer, {policy.versions} are kept"
    days = {CAPTURE: policy.capture_days, CACHE: policy.cache_days, CHECKPOINT: policy.cache_days}
    kept_days, age_days = days.get(thing.kind, policy.days), (now_s - thing.at_s) / DAY_S
    return f"it is {age_days:.1f} days old, {kept_days:g} are kept" if kept_days and age_days > kept_days else ""


def needed(
    versions: Sequence[Version], aliases: Mapping[str, str], runs: Sequence[RunInfo], waiting: str = ""
) -> dict[str, str]:
    """Run id -> why its files must stay.

    ``aliases``: alias -> version; ``runs``: all runs, with their parents; ``waiting``: the token of an execution that
    was cut off and will go on.
    """
    of = {version.number: version.run_id for version in versions}
    going = {run.id for run in runs if run.status in ("RUNNING", "SCHEDULED")}
    going |= {run.id for run in runs if waiting and run.tags.get("binwatch.token") == waiting}
    steps = [run for run in runs if run.parent in going]
    found = dict.fromkeys((*going, *(run.id for run in steps)), "it is under way")
    found |= {run.tags[CACHED_FROM]: "an execution rests on it" for run in steps if CACHED_FROM in run.tags}
    found |= {each.run_id: "it is a challenger" for each in versions if each.status in ("", Status.APPROVED)}
    return found | {of[number]: f"it is {alias}" for alias, number in aliases.items() if number in of}


def of_runs(
    versions: Sequence[Version], aliases: Mapping[str, str], runs: Sequence[RunInfo], waiting: str = ""
) -> list[Candidate]:
    """The archive and the other artifacts of every run that may still have some."""
    why = needed(versions, aliases, runs, waiting)
    ranks: dict[str, int] = {}
    for rank, version in enumerate(sorted(versions, key=lambda each: -int(each.number))):
        ranks.setdefault(version.run_id, rank)  # of two versions of one run the newer counts
    return [
        Candidate(kind, run.id, run.ended_s or run.started_s, ranks.get(run.id), why.get(run.id, ""))
        for run in runs
        for kind in (ARCHIVE, ARTIFACTS)
        if kind not in run.tags.get(disposal.PRUNED, "")
    ]


@dataclass(frozen=True)
class Places:
    """Where things are. ``capture``: a folder or ``s3://bucket/prefix``; ``state``: the pipeline's folder."""

    registry: Registry
    capture: str
    state: Path
    endpoint_url: str | None = None


def prune(places: Places, policy: RetentionPolicy, dry_run: bool = False) -> list[Removal]:
    """Remove what goes by ``policy``, or with ``dry_run`` only tell. Raises TrackingError, DataError.

    Whoever calls it holds the lock of the state folder. What a run has is asked for again right before it goes: a
    version may have become the champion meanwhile.
    """
    registry, capture = places.registry, disposal.Capture(places.capture, places.endpoint_url)
    left = execution_lock.read(places.state)
    waiting = left.request.token if left else ""
    things = (
        *of_runs(*_models(registry), waiting),
        *(Candidate(CAPTURE, hour, at_s) for hour, at_s in capture.hours()),
        *(Candidate(kind, str(path), at_s) for kind, path, at_s in disposal.kept_files(places.state)),
    )

    def remove(thing: Candidate) -> int:
        if thing.kind == CAPTURE:
            return capture.remove(thing.name, dry_run)
        if thing.kind in (CACHE, CHECKPOINT):
            return disposal.remove_file(Path(thing.name), dry_run)
        if not dry_run and thing.name in needed(*_models(registry), waiting):
            return 0
        files = disposal.remove_archive if thing.kind == ARCHIVE else disposal.remove_artifacts
        return files(registry, thing.name, dry_run)

    gone = [replace(each, size_bytes=remove(each.thing)) for each in choose(things, policy, time.time())]
    found = [each for each in gone if each.size_bytes]
    if found and not dry_run:
        log.info("pruned %d things, %.1f MB", len(found), sum(each.size_bytes for each in found) / 1e6)
    return found


def _models(registry: Registry) -> tuple[list[Version], dict[str, str], list[RunInfo]]:
    """Versions, aliases and runs. The aliases are asked for last: what is promoted meanwhile is among the versions."""
    versions, runs = registry.versions(), registry.runs()
    named = {name: registry.alias(name) for name in (CHAMPION, PREVIOUS)}
    return versions, {name: version.number for name, version in named.items() if version}, runs


def places_of(registry: Registry, options: Mapping[str, Any], environ: Mapping[str, str]) -> Places:
    """The places that a script's options name."""
    return Places(registry, options["capture"], options["state"], environ.get("BINWATCH_S3_ENDPOINT") or None)


def policy_from(environ: Mapping[str, str]) -> RetentionPolicy:
    """The policy that BINWATCH_KEEP_VERSIONS, _DAYS, _CAPTURE_DAYS and _CACHE_DAYS set. Raises SettingsError."""
    found, problems = asdict(DEFAULT), []
    for each in fields(RetentionPolicy):
        name = f"BINWATCH_KEEP_{each.name.upper()}"
        text = environ.get(name) or str(found[each.name])
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if value != 0 and not 1 <= value <= 100_000:
            problems.append(f"{name} is {text!r}; give a number from 1 to 100000, or 0 to keep for ever")
        found[each.name] = int(value) if each.name == "versions" else value
    if problems:
        raise SettingsError("; ".join(problems))
    return RetentionPolicy(**found)
