"""Drift breaks the promise about false alarms, and recounts mend it without training."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.archives.archive import manifest_of
from serve.errors import DataError, LockHeldError
from serve.manifest import MANIFEST_FILE
from tests.conftest import Served
from tests.integration.drifting import POLICY, calibrated_champion, write_recounts
from tests.integration.mortal import promoting
from tests.models import TINY
from tests.small_archives import unpacked
from trainer.artifacts import LEARNED_RECOUNTS, RECALIBRATION, REFERENCE
from trainer.data.dataset import DataSpec
from trainer.evaluation.recalibration import FalseAlarms
from trainer.pipeline import execution_lock
from trainer.pipeline.execution import ExecutionRequest
from trainer.pipeline.pipeline import ExecutionOptions
from trainer.pipeline.recalibration.promise import read_last_look
from trainer.pipeline.recalibration.promise_keeper import PromiseKeeper
from trainer.pipeline.recalibration.recalibrate import RecalibrationOptions, recalibrate
from trainer.pipeline.recalibration.recalibration_report import RecalibrationReport
from trainer.pipeline.triggers import Limits
from trainer.pipeline.watcher import PipelineWatcher
from trainer.promotion import decisions
from trainer.promotion.promoter import Promoter
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.reporting.history import HistoryExporter
from trainer.reporting.lineage import trace_lineage
from trainer.training.run import Trained


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> signing.KeyPair:
    pair = signing.ensure_key_pair(tmp_path / "keys")
    monkeypatch.setenv("BINWATCH_SIGNING_KEY", str(pair.private))
    return pair


@pytest.fixture
def first(registry: Registry, trained: Trained, drawn: Path, tmp_path: Path, keys: signing.KeyPair) -> str:
    """The first version, which the promoter has not deployed yet."""
    return calibrated_champion(registry, trained, drawn, tmp_path / "calibrated", keys)


@pytest.fixture
def options(drawn: Path, tmp_path: Path, keys: signing.KeyPair) -> Iterator[RecalibrationOptions]:
    """Recounts of all drawn bins, whose photos have lost contrast."""
    write_recounts(drawn, tmp_path / "recounts")
    yield RecalibrationOptions(recounts=tmp_path / "recounts", policy=POLICY, trusted=keys.public)
    shutil.rmtree(tmp_path / "recounts")


def alarms_of(report: RecalibrationReport) -> FalseAlarms:
    assert report.recalibration.alarms
    return report.recalibration.alarms


def test_drift_breaks_the_promise_and_recounts_mend_it_by_the_ordinary_way(
    registry: Registry, served: Served, first: str, tmp_path: Path, options: RecalibrationOptions, keys: signing.KeyPair
) -> None:
    promoter = Promoter(registry, served.rollout, served.store / "accuracy.json", POLICY, keys.public)
    assert promoter.promote(first).did == Status.PROMOTED

    planned = recalibrate(registry, options, promoter.promote, dry_run=True)
    assert (planned.status, planned.version, len(registry.versions())) == ("planned", "", 1)

    report = recalibrate(registry, options, promoter.promote)
    assert report.status == "promoted", report.in_words()
    alarms = alarms_of(report)
    assert alarms == alarms_of(planned)
    assert alarms.records > 100
    assert alarms.old_share > 3 * POLICY.alpha
    assert alarms.p_value > POLICY.guard_level
    assert alarms.new_share <= 2.5 * POLICY.alpha

    second = registry.version(report.version)
    assert registry.alias(CHAMPION) == second
    assert served.rollout.serving() == second.number
    assert_only_scores_differ(registry, first, second.number, tmp_path, keys)
    assert_records_tell_where_it_comes_from(registry, first, second.number, keys)

    again = recalibrate(registry, options, promoter.promote)
    assert (again.status, again.version, len(registry.versions())) == ("nothing", "", 2)


def assert_only_scores_differ(registry: Registry, first: str, second: str, folder: Path, keys: signing.KeyPair) -> None:
    old, new = (
        fetch(registry, registry.version(number).run_id, folder / number, keys.public) for number in (first, second)
    )
    before, after = unpacked(old), unpacked(new)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {MANIFEST_FILE}
    contents = [json.loads(files[MANIFEST_FILE]) for files in (before, after)]
    assert {name for name in contents[0] if contents[0][name] != contents[1][name]} <= {
        "run_id",
        "scores",
        "forms",
        "exact",
    }
    assert manifest_of(new).scores != manifest_of(old).scores
    assert manifest_of(new).golden == manifest_of(old).golden


def assert_records_tell_where_it_comes_from(registry: Registry, first: str, second: str, keys: signing.KeyPair) -> None:
    version = registry.version(second)
    assert version.compared_with == first
    assert f"version {first} with scores from" in version.reason
    decision, text = decisions.find_and_explain(registry, second)
    assert decision.recalibration
    assert (decision.promote, decision.recalibration.version) == (True, first)
    assert f"network of version {first}" in " ".join(text.split())
    lineage = trace_lineage(registry, second, keys.public)
    assert f"recalibrated from version {first} with" in lineage.recalibrated
    assert lineage.signature == "fits a trusted key"
    assert lineage.recipe == trace_lineage(registry, first, keys.public).recipe
    event_ids = json.loads(registry.read_text(version.run_id, RECALIBRATION) or "")["event_ids"]
    assert len(event_ids["calibration"]) == decision.recalibration.recounts
    periods = HistoryExporter(registry.uri).read()["served"]
    assert [period["version"] for period in periods[:2]] == [second, first]
    assert periods[0]["accuracy"] == periods[1]["accuracy"]
    assert version.reason == periods[0]["reason"]


def test_the_watcher_s_keeper_recalibrates_once_where_the_promise_is_broken(
    registry: Registry, first: str, drawn: Path, tmp_path: Path, options: RecalibrationOptions
) -> None:
    state, promote = tmp_path / "state", promoting(registry)
    keeper = PromiseKeeper(registry, options, promote, state=state, after=200)
    assert keeper.poll() is None  # no champion yet: the first version still waits for the promoter
    promote(first)
    write_recounts(drawn, options.recounts, version=first)
    with execution_lock.lock_state(state, "an execution"), pytest.raises(LockHeldError, match="an execution"):
        keeper.poll()
    watcher = PipelineWatcher(
        registry,
        ExecutionRequest(DataSpec(drawn), TINY),
        promote,
        ExecutionOptions(state=state),
        limits=Limits(new_photos=0, new_share=0, drift=False),
        check_promise=keeper.poll,
    )
    assert watcher.poll() is None
    newest = registry.versions()[0]
    assert (newest.status, newest.compared_with, registry.alias(CHAMPION)) == (Status.PROMOTED, first, newest)
    assert read_last_look(state).version == first
    assert keeper.poll() is None
    again = PromiseKeeper(registry, options, promote, state=state, after=200)
    assert again.poll() is None  # the new champion has answered none of these photos
    assert len(registry.versions()) == 2


def test_recounts_that_the_champion_learned_from_are_left_out_and_too_few_change_nothing(
    registry: Registry, first: str, options: RecalibrationOptions
) -> None:
    promote = promoting(registry)
    with pytest.raises(DataError, match="no champion"):
        recalibrate(registry, options, promote)
    promote(first)
    registry.mark(first, Status.APPROVED, "on probation")
    with pytest.raises(DataError, match=f"version {first} waits"):
        recalibrate(registry, options, promote)
    registry.mark(first, Status.PROMOTED, "because")
    recounts = sorted(path.stem for path in (options.recounts / "metadata").glob("*.json"))
    run = registry.reopen_run(registry.version(first).run_id)
    run.log_json(recounts[30:], LEARNED_RECOUNTS)
    run.log_json({"anything": 1}, REFERENCE)
    report = recalibrate(registry, options, promote)
    assert (report.status, report.version, len(registry.versions())) == ("nothing", "", 1)
    assert report.left_out["the model has learned from their photo or bin"] == len(recounts) - 30
    assert sum(count.recounts for count in report.recalibration.photo) < 30
