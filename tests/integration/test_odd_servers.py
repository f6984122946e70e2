"""What TorchServe and S3 can answer: each shape is used, or ends as one BinwatchError of the expected kind."""

import http.server
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from serve.errors import BinwatchError, DataError, ServerError
from serve.monitoring.reader import BucketSource
from serve.rollout.torchserve_client import Inference, Management, Metrics
from tests.http_server import serving
from tests.unit.test_odd_answers import DEEP, NOT_JSON, check


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
        self.send_header("Connection", "close")
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
    assert len(TORCHSERVE) > 45
