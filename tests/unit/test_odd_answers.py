"""What MLflow, TorchServe and S3 can answer: each shape is used, or ends as one BinwatchError of the expected kind."""

import json
from collections.abc import Callable

import pytest

from serve.errors import BinwatchError, DataError
from serve.monitoring.drift import checked_reference, compare, reference_confidence
from serve.monitoring.monitor_settings import Thresholds
from trainer.evaluation.evaluate import evaluation_from_json, predictions_from_json
from trainer.evaluation.gate import decision_from_json
from trainer.pipeline.execution import parse_request
from trainer.pipeline.step_outputs import TrainOutput, from_tag
from trainer.registry.artifact_root import check_root
from trainer.registry.entities import RunInfo
from trainer.reporting.history import execution_summary

Call = Callable[[str], object]
Case = tuple[str, Call, str, type[BinwatchError] | None]
"""A name, what reads the answer, the answer, and the error; None where the answer is used, or counts as missing."""

DEEP = "[" * 100_000
NOT_JSON = ("", "null", "5", '"text"', "[]", "{", DEEP, "NaN", '{"\\ud800": 1}', "\x00")
SERVER = "http://mlflow:5000"


def root(uri: str = SERVER) -> Call:
    return lambda place: check_root(place, uri)


PLACES: list[Case] = [
    ("own", root(), "mlflow-artifacts:/1/r/artifacts", None),
    ("own, named", root(), "mlflow-artifacts://mlflow:5000/1/r/artifacts", None),
    ("workspace", root(), "mlflow-artifacts:/workspaces/w/1/r/artifacts", None),
    *[
        (place[:40], root(), place, DataError)
        for place in (
            "gs://stranger/x",
            "wasbs://c@account.blob.core.windows.net/x",
            "s3://stranger/x",
            "r2://x@y.r2.cloudflarestorage.com/x",
            "b2://x",
            "ftp://host/x",
            "sftp://host/x",
            "hdfs://host/x",
            "viewfs://x",
            "dbfs:/x",
            "abfss://c@a.dfs.core.windows.net/x",
            "http://169.254.169.254/latest",
            "https://stranger/x",
            "file:///verifying",
            "/verifying",
            "verifying",
            "",
            "runs:/abc/archive",
            "models:/bin-counter/1",
            "mlflow-artifacts://stranger/1/r/artifacts",
            "mlflow-artifacts://mlflow:5000@stranger/1",
            "mlflow-artifacts:/1/../../etc",
            "mlflow-artifacts:/1/%2e%2e/%2e%2e/etc",
            "mlflow-artifacts:/1/%252e%252e/etc",
            "mlflow-artifacts:/1?path=/etc",
            "mlflow-artifacts:/1#x",
            "mlflow-artifacts://[::1/x",
            "S3://stranger/x",
            " s3://stranger/x",
        )
    ],
    ("embedded", root("sqlite:////srv/mlflow/mlflow.db"), "/srv/mlflow/artifacts/1", None),
    ("embedded folder", root("/srv/mlruns"), "file:///srv/mlruns/1/r", None),
    ("outside of an embedded store", root("sqlite:////srv/mlflow/mlflow.db"), "/etc", DataError),
    ("host of a file", root("/srv/mlruns"), "file://stranger/srv/mlruns/1", DataError),
]


def summary(text: str) -> object:
    run = RunInfo(id="e", name="", status="FINISHED", parent="", started_s=0, ended_s=9e9, tags={})
    return json.dumps(execution_summary(run, text, 0), allow_nan=False)


def reference(text: str) -> object:
    shares = checked_reference(json.loads(text))
    return compare({"1": 5}, {}, shares, Thresholds()), reference_confidence(shares)


TEXTS: list[Case] = [
    *[
        (f"{read.__name__} {text[:12]!r}", read, text, DataError)
        for read in (evaluation_from_json, predictions_from_json, decision_from_json, parse_request)
        for text in NOT_JSON
    ],
    *[(f"step {text[:12]!r}", lambda tag: from_tag(tag, TrainOutput), text, DataError) for text in NOT_JSON],
    *[
        (f"execution {text[:30]!r}", summary, text, None)
        for text in (
            *NOT_JSON,
            '{"steps": 5}',
            '{"steps": {"a": 1}}',
            '{"steps": [5, null, {}]}',
            '{"steps": [{"name": "train", "status": "x", "seconds": "long"}]}',
            '{"steps": [{"name": "train", "status": "x", "seconds": NaN}]}',
            '{"challenger": 5}',
            '{"challenger": {"version": []}}',
            '{"reasons": 7, "why": {"a": 1}}',
            '{"decision": ["promoted"]}',
        )
    ],
    *[
        (f"reference {text[:30]!r}", reference, text, DataError)
        for text in (
            "5",
            "[]",
            '"counts"',
            '{"counts": 5}',
            '{"counts": {"1": "many"}}',
            '{"counts": {"1": NaN}}',
            '{"confidence": "deciles"}',
            '{"confidence": [0.1, 0.2]}',
            '{"brightness": [[], [], [], [], [], [], [], [], [], [], []]}',
            '{"photos": 3}',
            '{"photos": {"counts": "x"}}',
        )
    ],
    ("an old reference", reference, '{"counts": {"1": 1.0}, "note": [1]}', None),
]


def check(call: Callable[[], object], error: type[BinwatchError] | None) -> None:
    if error is None:
        call()
        return
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(("call", "answer", "error"), [pytest.param(*case[1:], id=case[0]) for case in PLACES + TEXTS])
def test_what_mlflow_can_hold_is_used_or_one_error(call: Call, answer: str, error: type[BinwatchError] | None) -> None:
    check(lambda: call(answer), error)


def test_the_table_is_long_enough() -> None:
    assert len(PLACES) + len(TEXTS) > 60
