"""The history of deployments and executions, built from MLflow's records."""

import json
from typing import Any

from trainer.registry.deployments import Deployment
from trainer.registry.entities import RunInfo, Status
from trainer.reporting.history import Facts, execution_summary, serving_periods, serving_table

FACTS = Facts(0.661, (0.6, 0.7), "f" * 64, "r" * 40)


def facts(run_id: str) -> Facts:
    return FACTS if run_id == "known" else Facts()


def deployment(version: str, at_s: float, did: Status = Status.PROMOTED, train_run: str = "known") -> Deployment:
    return Deployment(
        version=version, did=did, reason=f"because of {version}", at_s=at_s, train_run=train_run, run_id="a run"
    )


def run(**fields: Any) -> RunInfo:
    return RunInfo(
        **{
            "id": "e1",
            "name": "execution",
            "status": "FINISHED",
            "parent": "",
            "started_s": 0.0,
            "ended_s": 90.0,
            "tags": {},
            **fields,
        }
    )


def test_each_stretch_ends_where_the_next_begins_and_the_newest_goes_on() -> None:
    deployments = [deployment("1", 200, Status.ROLLED_BACK), deployment("2", 100), deployment("1", 0)]
    periods = serving_periods(deployments, facts, {"2": "e2"})
    assert [(period["version"], period["from"], period["to"], period["did"]) for period in periods] == [
        ("1", "1970-01-01T00:03:20Z", None, "rolled-back"),
        ("2", "1970-01-01T00:01:40Z", "1970-01-01T00:03:20Z", "promoted"),
        ("1", "1970-01-01T00:00:00Z", "1970-01-01T00:01:40Z", "promoted"),
    ]
    assert [period["execution"] for period in periods] == [None, "e2", None]
    second = periods[1]
    assert (second["accuracy"], second["dataset_fingerprint"], second["revision"]) == (0.661, "f" * 64, "r" * 40)
    assert second["reason"] == "because of 2"


def test_what_mlflow_has_forgotten_is_null() -> None:
    (period,) = serving_periods([deployment("1", 0, train_run="gone")], facts, {})
    assert (period["accuracy"], period["accuracy_interval"]) == (None, None)
    assert (period["dataset_fingerprint"], period["revision"]) == (None, None)
    assert json.loads(json.dumps(period)) == period


def test_an_execution_is_told_with_its_steps() -> None:
    steps = [
        {"name": "train", "status": "Succeeded", "seconds": 80.5, "cached": True, "attempts": 1, "run_id": "x"},
        {"name": "promote", "status": "Skipped", "seconds": 0.0},
    ]
    record = {
        "decision": "refused",
        "reasons": ["no better"],
        "why": ["drift"],
        "steps": steps,
        "challenger": {"version": "4"},
    }
    summary = execution_summary(run(), json.dumps(record), 1000.0)
    assert (summary["decision"], summary["reasons"], summary["why"]) == ("refused", ["no better"], ["drift"])
    assert summary["version"] == "4"
    assert (summary["status"], summary["started"], summary["seconds"]) == ("finished", "1970-01-01T00:00:00Z", 90.0)
    assert summary["steps"] == [
        {"name": "train", "status": "Succeeded", "seconds": 80.5, "cached": True},
        {"name": "promote", "status": "Skipped", "seconds": 0.0, "cached": False},
    ]


def test_an_execution_that_runs_or_left_nothing_behind_is_told_too() -> None:
    for text in (None, "", "{", "[]", "3", '{"steps": null, "challenger": null}', '{"steps": [3]}'):
        summary = execution_summary(run(status="RUNNING", ended_s=0.0, tags={"decision": ""}), text, 30.0)
        assert (summary["status"], summary["seconds"]) == ("running", 30.0)
        assert (summary["steps"], summary["version"]) == ([], None)
    assert execution_summary(run(status="KILLED"), None, 0.0)["status"] == "failed"


def test_the_table_has_a_line_for_each_stretch() -> None:
    periods = serving_periods([deployment("12", 100), deployment("1", 0, train_run="gone")], facts, {})
    head, first, second = serving_table(periods).splitlines()
    assert head.split() == ["from", "to", "version", "accuracy", "data", "code", "what"]
    assert first.split()[1:6] == ["now", "12", "66.1%", "f" * 12, "r" * 12]
    assert second.split()[3:6] == ["-", "-", "-"]
    assert second.endswith("promoted: because of 1")
    assert first.index("promoted") == second.index("promoted") == head.index("what")
    assert len(serving_table([]).splitlines()) == 1
