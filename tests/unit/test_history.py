"""What served when: made of MLflow's records."""

import json
from typing import Any

from trainer.registry.deployments import PROMOTED, ROLLED_BACK, Deployment
from trainer.registry.runs import RunInfo
from trainer.reporting.history import Facts, execution, served, table

FACTS = Facts(0.661, (0.6, 0.7), "f" * 64, "r" * 40)


def facts(run_id: str) -> Facts:
    return FACTS if run_id == "known" else Facts()


def deployment(version: str, at_s: float, did: str = PROMOTED, train_run: str = "known") -> Deployment:
    return Deployment(version, did, f"because of {version}", at_s, train_run, "a run")


def run(**how: Any) -> RunInfo:
    return RunInfo(
        **{
            "id": "e1",
            "name": "execution",
            "status": "FINISHED",
            "parent": "",
            "started_s": 0.0,
            "ended_s": 90.0,
            "tags": {},
            **how,
        }
    )


def test_each_stretch_ends_where_the_next_begins_and_the_newest_goes_on() -> None:
    made = served([deployment("1", 200, ROLLED_BACK), deployment("2", 100), deployment("1", 0)], facts, {"2": "e2"})
    assert [(each["version"], each["from"], each["to"], each["did"]) for each in made] == [
        ("1", "1970-01-01T00:03:20Z", None, ROLLED_BACK),
        ("2", "1970-01-01T00:01:40Z", "1970-01-01T00:03:20Z", PROMOTED),
        ("1", "1970-01-01T00:00:00Z", "1970-01-01T00:01:40Z", PROMOTED),
    ]
    assert [each["execution"] for each in made] == [None, "e2", None]
    assert (made[1]["accuracy"], made[1]["dataset_fingerprint"], made[1]["revision"]) == (0.661, "f" * 64, "r" * 40)
    assert made[1]["reason"] == "because of 2"


def test_what_mlflow_has_forgotten_is_null() -> None:
    (one,) = served([deployment("1", 0, train_run="gone")], facts, {})
    assert [one[key] for key in ("accuracy", "accuracy_interval", "dataset_fingerprint", "revision")] == [None] * 4
    assert json.loads(json.dumps(one)) == one


def test_an_execution_is_told_with_its_steps() -> None:
    steps = [
        {"name": "train", "status": "Succeeded", "seconds": 80.5, "cached": True, "attempts": 1, "run_id": "x"},
        {"name": "promote", "status": "Skipped", "seconds": 0.0},
    ]
    said = {
        "decision": "refused",
        "reasons": ["no better"],
        "why": ["drift"],
        "steps": steps,
        "challenger": {"version": "4"},
    }
    made = execution(run(), json.dumps(said), 1000.0)
    assert (made["decision"], made["reasons"], made["why"], made["version"]) == (
        "refused",
        ["no better"],
        ["drift"],
        "4",
    )
    assert (made["status"], made["started"], made["seconds"]) == ("finished", "1970-01-01T00:00:00Z", 90.0)
    assert made["steps"] == [
        {"name": "train", "status": "Succeeded", "seconds": 80.5, "cached": True},
        {"name": "promote", "status": "Skipped", "seconds": 0.0, "cached": False},
    ]


def test_an_execution_that_runs_or_left_nothing_behind_is_told_too() -> None:
    for text in (None, "", "{", "[]", "3", '{"steps": null, "challenger": null}', '{"steps": [3]}'):
        made = execution(run(status="RUNNING", ended_s=0.0, tags={"decision": ""}), text, 30.0)
        assert (made["status"], made["seconds"], made["steps"], made["version"]) == ("running", 30.0, [], None)
    assert execution(run(status="KILLED"), None, 0.0)["status"] == "failed"


def test_the_table_has_a_line_for_each_stretch() -> None:
    made = served([deployment("12", 100), deployment("1", 0, train_run="gone")], facts, {})
    head, first, second = table({"served": made}).splitlines()
    assert head.split() == ["from", "to", "version", "accuracy", "data", "code", "what"]
    assert first.split()[1:6] == ["now", "12", "66.1%", "f" * 12, "r" * 12]
    assert second.split()[3:6] == ["-", "-", "-"]
    assert second.endswith("promoted: because of 1")
    assert first.index("promoted") == second.index("promoted") == head.index("what")
    assert "nothing has served yet" in table({"served": []})
