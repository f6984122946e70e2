"""The lineage of a version: its run, data, code, decision, and when it served.

python scripts/lineage.py VERSION
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.errors import ArchiveError, DataError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_FOLDER, ARCHIVE_SHA, LINEAGE_TAG
from trainer.promotion import decisions
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.reporting.history import Facts, read_facts, serving_periods

_DATA = "data_"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a version comes from.

    ``address``: of the run's page in MLflow; ``data``: the selection and the split of the photos; ``archive_sha256``:
    of the run's archive, before the promoter stamps the version into it; ``signature``: whether it fits; ``served``:
    from, to, did and reason of each period, newest first; ``recalibrated``: of a version that was not trained, but has
    the network of another one, from which one and with how many recounts.
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
    served: tuple[Mapping[str, str | None], ...]
    recalibrated: str = ""

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        return asdict(self)


def trace_lineage(registry: Registry, number: str, trusted: Path | None) -> Lineage:
    """The lineage of a version; ``trusted``: the keys that its signature is verified with, None to skip that.

    Raises TrackingError, SettingsError.
    """
    version = registry.version(number)
    params, tags = registry.params(version.run_id), registry.tags(version.run_id)
    runs = registry.runs(f"attributes.run_id = '{version.run_id}'")
    facts = read_facts(registry, runs[0]) if runs else Facts()
    sha, signature = _archive(registry, version, trusted)
    periods = [
        period
        for period in serving_periods(registry.deployments(), lambda _: facts, {})
        if (period["version"], period["run_id"]) == (number, version.run_id)
    ]
    return Lineage(
        version=number,
        status=version.status,
        reasons=_reasons(registry, version),
        compared_with=version.compared_with,
        run_id=version.run_id,
        address=registry.address(version.run_id),
        accuracy=facts.accuracy,
        accuracy_interval=facts.accuracy_interval,
        dataset_fingerprint=facts.dataset_fingerprint,
        data={name.removeprefix(_DATA): value for name, value in params.items() if name.startswith(_DATA)},
        recipe={name: value for name, value in params.items() if not name.startswith(_DATA)},
        revision=facts.revision,
        archive_sha256=sha or tags.get(ARCHIVE_SHA),
        signature=signature,
        served=tuple(
            {"from": period["from"], "to": period["to"], "did": period["did"], "reason": period["reason"]}
            for period in periods
        ),
        recalibrated=tags.get(LINEAGE_TAG, ""),
    )


def _reasons(registry: Registry, version: Version) -> tuple[str, ...]:
    try:
        return decisions.find(registry, version).reasons
    except DataError:  # decided by an older version, or by hand: use the version's reason
        return (version.reason,) if version.reason else ()


def _archive(registry: Registry, version: Version, trusted: Path | None) -> tuple[str | None, str]:
    """The archive's SHA-256 in hexadecimal, None where it cannot be fetched, and the state of its signature."""
    if ARCHIVE not in registry.artifacts(version.run_id, ARCHIVE_FOLDER):
        return None, "the archive is gone: pruned, or never logged"
    with tempfile.TemporaryDirectory(prefix="binwatch-lineage-") as folder:
        try:
            archive = fetch(registry, version.run_id, Path(folder), trusted)
        except ArchiveError as error:
            return None, str(error)
        return sha256(archive), "fits a trusted key" if trusted else "not verified"


def lineage_text(lineage: Lineage) -> str:
    """The lineage as text, for people."""
    accuracy = "unknown"
    if lineage.accuracy is not None and lineage.accuracy_interval:
        low, high = lineage.accuracy_interval
        accuracy = f"{lineage.accuracy:.1%} (95 %: {low:.1%} to {high:.1%})"
    rows = [
        ("version", f"{lineage.version}, {lineage.status or 'undecided'}"),
        ("accuracy", accuracy),
        ("compared with", f"version {lineage.compared_with}" if lineage.compared_with else "nothing"),
        *(("decision", reason) for reason in lineage.reasons),
        *(("served", _period_text(period)) for period in lineage.served or ({},)),
        *([("origin", lineage.recalibrated)] if lineage.recalibrated else []),
        ("run", lineage.run_id),
        ("MLflow", lineage.address),
        ("data", lineage.dataset_fingerprint or "unknown"),
        *((f"  {name}", value) for name, value in lineage.data.items()),
        ("code", lineage.revision or "unknown"),
        ("recipe", ", ".join(f"{name}={value}" for name, value in lineage.recipe.items()) or "unknown"),
        ("archive", f"SHA-256 {lineage.archive_sha256 or 'unknown'}"),
        ("signature", lineage.signature),
    ]
    return "\n".join(f"{name:14}{value}" for name, value in rows)


def _period_text(period: Mapping[str, str | None]) -> str:
    return f"{period['from']} to {period['to'] or 'now'}, {period['did']}: {period['reason']}" if period else "never"
