"""Where the model looked, through the handler and SageMaker's functions: on request, and never captured."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from serve import inference
from serve.archives.archive import unpacked
from serve.handler import BinCounterHandler
from serve.payload import ATTRIBUTES
from tests.integration.test_fuzz_handler import context, send
from tests.unit.test_capture import lines, until
from trainer.training.run import Trained


@pytest.fixture(scope="module")
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


@pytest.fixture(scope="module")
def folder(trained: Trained) -> Iterator[Path]:
    with unpacked(trained.archive) as folder:
        yield folder


@pytest.fixture
def handler(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BinCounterHandler]:
    """A worker that captures into ``tmp_path``."""
    monkeypatch.setenv("BINWATCH_CAPTURE", str(tmp_path / "capture"))
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "true")
    handler = BinCounterHandler()
    handler.initialize(context(folder))
    yield handler
    assert handler.capture is not None
    handler.capture.close()


def test_the_handler_shows_it_to_who_asks_and_captures_the_answer_without_it(
    handler: BinCounterHandler, folder: Path, photo: bytes, tmp_path: Path
) -> None:
    text = base64.b64encode(photo).decode()
    entries = [{"image": text, "attention": 1}, {"image": text}, {"image": text, "attention": True}]
    bodies = [("application/json", json.dumps(content).encode()) for content in (*entries, entries)]
    replies = [reply for _, reply in send(handler, folder, bodies)]
    shown, plain, again, listed = replies
    assert shown["attention"]["count"] == str(shown["count"])
    assert shown["attention"]["image"].startswith("data:image/png;base64,")
    assert again["attention"] == shown["attention"] == listed[0]["attention"]
    assert [entry["probabilities"] for entry in (plain, *listed)] == [shown["probabilities"]] * 4
    assert ["attention" in entry for entry in (plain, *listed)] == [False, True, False, True]
    wrong = json.dumps({"image": text, "attention": "x"}).encode()
    ((status, refusal),) = send(handler, folder, [("application/json", wrong)])
    assert (status, refusal["type"]) == (422, "BadField")
    until(lambda: len(lines(tmp_path / "capture")) == 7)
    for line in lines(tmp_path / "capture"):
        assert "data:image/png" not in line["captureData"]["endpointOutput"]["data"]


class Context:
    """What AWS's toolkit passes to its functions: the headers of a request, and a place for the status."""

    def __init__(self, attributes: str = "") -> None:
        self.headers = {ATTRIBUTES: attributes}
        self.system_properties: Mapping[str, Any] = {}
        self.status = 200

    def get_all_request_header(self, idx: int) -> Mapping[str, object]:
        assert idx == 0
        return self.headers

    def set_response_status(self, code: int, phrase: str) -> None:
        assert phrase
        self.status = code


def test_sagemaker_s_functions_show_it_too(folder: Path, photo: bytes) -> None:
    model = inference.model_fn(str(folder), None)
    answers = []
    for attributes in ("attention=1", "expected_quantity=2,attention=true", "attention=0", ""):
        request = Context(attributes)
        body, kind = inference.output_fn(
            inference.predict_fn(inference.input_fn(photo, "image/jpeg", request), model), "*/*", request
        )
        assert (request.status, kind) == (200, "application/json")
        answers.append(json.loads(body))
    assert answers[0]["attention"] == answers[1]["attention"]
    assert "verdict" in answers[1]
    assert ["attention" in answer for answer in answers] == [True, True, False, False]
