"""What MLflow, TorchServe and S3 can answer: each shape is used, or ends as one BinwatchError of the expected kind."""

import http.server
import json
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from serve.errors import BinwatchError, DataError, ServerError
from serve.monitoring.drift import Thresholds, checked_reference, compare, reference_confidence
from serve.monitoring.reader import BucketSource
from serve.rollout.torchserve_client import Inference, Management, Metrics
from tests.http_server import serving
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


class OddServer(http.server.BaseHTTPRequestHandler):
    """Answers every request with ``answer``: a status, a slash, and the body."""

    protocol_version = "HTTP/1.1"
    answer: ClassVar[str] = ""

    def _do(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, _, text = self.answer.partition("/")
        body = text.encode("utf-8", "surrogateescape")
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body) + (10 if text.endswith("half") else 0)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _do


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(OddServer) as url:
        yield url


WORKER = '{"id": "1", "status": "READY", "pid": 5}'
LISTS = (
    *NOT_JSON,
    "[{}]",
    '[{"modelVersion": "1"}]',
    '[{"modelVersion": "1", "workers": 5, "modelUrl": "a"}]',
    '[{"modelVersion": "1", "workers": [5], "modelUrl": "a"}]',
    '[{"modelVersion": "1", "workers": [], "modelUrl": "a", "jobQueueStatus": []}]',
    '[{"modelVersion": "1", "workers": [], "modelUrl": "a", "jobQueueStatus": {"pendingRequests": "x"}}]',
    "[half",
)
WHOLE = f'[{{"modelVersion": "1", "workers": [{WORKER}], "modelUrl": "a"}}]'
FAILURES = ("301/", "401/{}", "404/{}", "500/{}", "503/[]", '503/{"type": 5}', f"500/{DEEP}", "507/\udcff\udcfe")

TORCHSERVE: list[tuple[str, str, str, type[BinwatchError] | None]] = [
    *[("loaded", f"{text[:30]!r}", f"200/{text}", ServerError) for text in LISTS if text != "[]"],
    ("loaded", "a whole answer", f"200/{WHOLE}", None),
    ("loaded", "no model", "404/{}", None),
    *[("scale", f"{text[:30]!r}", f"200/{text}", ServerError) for text in ("[]", "{}", "5", '[{"workers": 5}]', DEEP)],
    *[("predict", f"{text[:30]!r}", f"200/{text}", ServerError) for text in ("", "5", '"text"', "[1]", DEEP, "{half")],
    *[("predict", failure[:20], failure, ServerError) for failure in FAILURES],
    *[("work", f"{text[:30]!r}", f"200/{text}", ServerError) for text in ("", "{}", "a b c d", "ts{ 5", "x 1e999999")],
    *[
        ("bucket", f"{text[:30]!r}", f"{status}/{text}", DataError)
        for status, text in (
            (200, "<html>"),
            (200, "{}"),
            (200, "<a><b></a>"),
            (200, "<ListBucketResult><Contents/></ListBucketResult>"),
            (200, "<ListBucketResult><Contents><Key>a.jsonl</Key><Size>x</Size></Contents></ListBucketResult>"),
            (200, "<ListBucketResult><Contents><Key>a.jsonl</Key></Contents></ListBucketResult>"),
            (403, ""),
            (404, "<Error>"),
            (400, "\udcff"),
        )
    ],
]


def reader_of(name: str, address: str) -> Callable[[], object]:
    return {
        "loaded": Management(address).loaded,
        "scale": lambda: Management(address, 0.2).scale("1", 1),
        "predict": lambda: Inference(address).predict(b"photo"),
        "work": Metrics(address).work,
        "bucket": lambda: BucketSource("s3://bins/x", address, 2.0).files("f"),
    }[name]


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


@pytest.mark.parametrize(
    ("name", "answer", "error"),
    [pytest.param(name, answer, error, id=f"{name} {label}") for name, label, answer, error in TORCHSERVE],
)
def test_what_servers_can_answer_is_used_or_one_error(
    address: str, monkeypatch: pytest.MonkeyPatch, name: str, answer: str, error: type[BinwatchError] | None
) -> None:
    monkeypatch.setattr(OddServer, "answer", answer)
    check(reader_of(name, address), error)


def test_the_table_is_long_enough() -> None:
    assert len(PLACES) + len(TEXTS) + len(TORCHSERVE) > 60
