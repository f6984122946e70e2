"""From a version back to where it came from: run, data, code, decision, and when it served.

python scripts/lineage.py VERSION
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve.errors import ArchiveError, DataError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_SHA
from trainer.promotion import decisions
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.registry.versions import Version
from trainer.reporting import history

_DATA = "data_"


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from.

    ``data``: what was chosen of the source and how it was split; ``archive_sha256``: of the run's archive, before the
    promoter puts the version in; ``signature``: whether it fits; ``served``: from, to and why, newest first.
    """

    version: str
    status: str
    reasons: tuple[str, ...]
    compared_with: str
    run_id: str
    address: str
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    dataset_fingerprint: str | None
    data: Mapping[str, str]
    recipe: Mapping[str, str]
    revision: str | None
    archive_sha256: str | None
    signature: str
    served: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def lineage(registry: Registry, number: str, trusted: Path | None) -> Lineage:
    """The lineage of a version; ``trusted``: the keys that its signature is checked with.

    Raises TrackingError, SettingsError.
    """
    version = registry.version(number)
    params, tags = registry.params(version.run_id), registry.tags(version.run_id)
    runs = registry.runs(f"attributes.run_id = '{version.run_id}'")
    facts = history.facts_of(registry, runs[0]) if runs else history.Facts()
    sha, signature = _archive(registry, version, trusted)
    mine = [
        each
        for each in history.served(registry.deployments(), lambda _: facts, {})
        if (each["version"], each["run_id"]) == (number, version.run_id)
    ]
    return Lineage(
        number,
        version.status,
        _reasons(registry, version),
        version.compared_with,
        version.run_id,
        registry.address(version.run_id),
        facts.accuracy,
        facts.accuracy_interval,
        facts.dataset_fingerprint,
        {name.removeprefix(_DATA): value for name, value in params.items() if name.startswith(_DATA)},
        {name: value for name, value in params.items() if not name.startswith(_DATA)},
        facts.revision,
        sha or tags.get(ARCHIVE_SHA),
        signature,
        tuple({key: each[key] for key in ("from", "to", "did", "reason")} for each in mine),
    )


def _reasons(registry: Registry, version: Version) -> tuple[str, ...]:
    try:
        return decisions.find(registry, version).reasons
    except DataError:  # decided by an older version, or by hand: what the registry says
        return (version.reason,) if version.reason else ()


def _archive(registry: Registry, version: Version, trusted: Path | None) -> tuple[str | None, str]:
    """The archive's SHA-256 in hexadecimal, None where it is not to be had, and what its signature says."""
    if ARCHIVE not in registry.artifacts(version.run_id, str(Path(ARCHIVE).parent)):
        return None, "the archive is gone: pruned, or never logged"
    with tempfile.TemporaryDirectory(prefix="binwatch-lineage-") as folder:
        try:
            found = fetch(registry, version.run_id, Path(folder), trusted)
        except ArchiveError as error:
            return None, str(error)
        return sha256(found), "fits a key that is trusted here" if trusted else "not checked"


def text(found: Lineage) -> str:
    """The same for people."""
    accuracy = "unknown"
    if found.accuracy is not None and found.accuracy_interval:
        low, high = found.accuracy_interval
        accuracy = f"{found.accuracy:.1%} (95 %: {low:.1%} to {high:.1%})"
    rows = [
        ("version", f"{found.version}, {found.status or 'undecided'}"),
        ("accuracy", accuracy),
        ("compared with", f"version {found.compared_with}" if found.compared_with else "nothing"),
        *(("decision", each) for each in found.reasons),
        *(("served", _stretch(each)) for each in found.served or ({},)),
        ("run", found.run_id),
        ("MLflow", found.address),
        ("data", found.dataset_fingerprint or "unknown"),
        *((f"  {name}", value) for name, value in found.data.items()),
        ("code", found.revision or "unknown"),
        ("recipe", ", ".join(f"{name}={value}" for name, value in found.recipe.items()) or "unknown"),
        ("archive", f"SHA-256 {found.archive_sha256 or 'unknown'}"),
        ("signature", found.signature),
    ]
    return "\n".join(f"{name:14}{value}" for name, value in rows)


def _stretch(each: Mapping[str, Any]) -> str:
    return f"{each['from']} to {each['to'] or 'now'}, {each['did']}: {each['reason']}" if each else "never"
