"""Damaged photos and bodies: every request gets an answer in JSON, none is a 500, and the worker survives."""

import json
import random
import re
import traceback
import warnings
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.answers import Content, Predictor
from serve.archives.archive import golden_photos
from serve.archives.archive import unpacked as unpacked_archive
from serve.counter import CountedPhoto, Counter
from serve.errors import BusyError, ModelError, PhotoError
from serve.evidence.fields import Fields
from serve.handler import BinCounterHandler
from serve.links import PhotoStore
from serve.local.servers import free_port
from serve.payload import ATTRIBUTES, PhotoInput, PredictionRequest
from serve.photo import Pixels
from tests.conftest import rounds
from tests.integration.damage import body_of, photo_of, png, whole
from tests.integration.serving import deployed
from tests.unit.test_capture import lines, until
from trainer.training.run import Trained

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it leaves a file of its own open
    from ts.context import Context, RequestProcessor
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

pytestmark = [  # Pillow warns of what it reads in spite of all
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
BATCH = 8
STATUSES = {200, 400, 403, 404, 413, 422}


@pytest.fixture(scope="module")
def unpacked(trained: Trained) -> Iterator[Path]:
    with unpacked_archive(trained.archive) as folder:
        yield folder


@pytest.fixture(scope="module")
def files(trained: Trained) -> list[bytes]:
    return whole(trained.data.test.photos[0].path.read_bytes())


def context(folder: Path) -> Context:
    """TorchServe's own context, as its worker makes it."""
    return Context("bin-counter", str(folder), {"model": {"modelVersion": "1"}}, BATCH, None, "0")


@pytest.fixture(scope="module")
def handler(unpacked: Path) -> Iterator[BinCounterHandler]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BINWATCH_S3_BUCKETS", "")
        patch.delenv("BINWATCH_CAPTURE", raising=False)
        patch.setenv("TS_DECODE_INPUT_REQUEST", "true")  # the handler changes it: put back at the end
        handler = BinCounterHandler()
        handler.initialize(context(unpacked))
        yield handler


def send(handler: BinCounterHandler, folder: Path, requests: list[tuple[str, bytes]]) -> list[tuple[int, Any]]:
    """Status and answer of each request, all in one batch."""
    batch = context(folder)
    batch.request_processor = [RequestProcessor({"body": {"content-type": kind}}) for kind, _ in requests]
    replies = handler.handle([{"body": bytearray(body)} for _, body in requests], batch)
    statuses = [batch.get_response_status(index)[0] for index in range(len(requests))]
    return list(zip(statuses, replies, strict=True))


def check(status: int, content: Content) -> None:
    assert status in STATUSES
    assert "Traceback" not in json.dumps(content, allow_nan=False)
    for entry in content if isinstance(content, list) else [content]:
        assert entry.get("code", 200) in STATUSES
        assert ("probabilities" in entry) != ("message" in entry)
    assert not isinstance(content, list) or {entry["status"] for entry in content} <= STATUSES


def drawn(files: list[bytes], number: int, seed: int) -> list[tuple[str, bytes]]:
    """Three of four are photos, the others bodies of JSON or links."""
    rng = random.Random(seed)
    return [body_of(rng, files) if index % 4 == 3 else ("", photo_of(rng, files)) for index in range(number)]


def test_damaged_photos_and_bodies_get_an_answer_and_no_500(
    handler: BinCounterHandler, unpacked: Path, files: list[bytes]
) -> None:
    tally: Tally[int] = Tally()
    sent = drawn(files, rounds(800, 28_000), seed=1)  # of them 21,000 photos
    for start in range(0, len(sent), BATCH):
        batch = sent[start : start + BATCH]
        answers = send(handler, unpacked, batch)
        for (status, answer), (kind, body) in zip(answers, batch, strict=True):
            try:
                check(status, answer)
            except AssertionError:
                pytest.fail(f"{kind!r} {body[:2000]!r} got {status} {answer!r:.500}\n{traceback.format_exc()}")
            tally[status] += 1
    print(f"{len(sent)} damaged requests in process: {dict(sorted(tally.items()))}")
    assert tally[200] > len(sent) / 20
    assert tally[400] > len(sent) / 10
    assert tally[422] > len(sent) / 20


def test_a_photo_s_answer_does_not_depend_on_its_neighbours(
    handler: BinCounterHandler, unpacked: Path, files: list[bytes]
) -> None:
    ((status, alone),) = send(handler, unpacked, [("image/jpeg", files[0])])
    assert status == 200
    for start in range(0, rounds(40, 800), BATCH - 1):
        batch = [("image/jpeg", files[0]), *drawn(files, BATCH - 1, seed=start)]
        status, beside = send(handler, unpacked, batch)[0]
        assert status == 200
        assert list(beside["probabilities"].values()) == pytest.approx(list(alone["probabilities"].values()), abs=1e-5)


def test_damaged_requests_leave_torchserve_s_worker_alive(trained: Trained, files: list[bytes], tmp_path: Path) -> None:
    sent = drawn(files, rounds(200, 3000), seed=2)
    tally: Tally[int] = Tally()
    with deployed(tmp_path, trained.archive, {"BINWATCH_CAPTURE": str(tmp_path / "capture")}) as server:
        workers = server.workers()

        def ask(request: tuple[str, bytes]) -> requests.Response:
            headers = {"Content-Type": request[0]} if request[0] else {}
            return requests.post(server.url, data=request[1], headers=headers, timeout=60)

        with ThreadPoolExecutor(4) as pool:
            for (kind, body), response in zip(sent, pool.map(ask, sent), strict=True):
                assert response.headers["Content-Type"] == "application/json", (kind, body)
                check(response.status_code, response.json())
                tally[response.status_code] += 1
        assert ask(("", files[0])).status_code == 200
        assert server.workers() == workers
        assert "Traceback" not in server.log()
        until(lambda: len(lines(tmp_path / "capture")) > len(sent))  # a list has a line a photo
    print(f"{len(sent)} damaged requests through TorchServe: {dict(sorted(tally.items()))}")


ROOT = Path(__file__).parents[2]
COUNTED = re.compile(
    r"\[METRICS\]binwatch_photos_total\.Count:(\d+)\|#ModelName:bin-counter,ModelVersion:1,Outcome:(\w+)"
)


def counts_of(
    handler: BinCounterHandler,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    data: dict[str, bytes],
    **headers: object,
) -> tuple[int, dict[str, int]]:
    """The status of one request, and what the handler counts for it."""
    caplog.clear()
    batch = context(folder)
    batch.request_processor = [RequestProcessor(headers)]
    with suppress(ZeroDivisionError):
        handler.handle([data], batch)
    found = [COUNTED.match(record.getMessage()) for record in caplog.records]
    return batch.get_response_status(0)[0] or 200, {match[2]: int(match[1]) for match in found if match}


def test_the_handler_counts_what_the_model_did_and_nothing_else(
    unpacked: Path,
    trained: Trained,
    files: list[bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = MetricsCacheYamlImpl(str(ROOT / "serve" / "torchserve" / "metrics.yaml"))
    metrics.initialize_cache()
    loaded = context(unpacked)
    loaded.metrics = metrics
    monkeypatch.setenv("BINWATCH_S3_BUCKETS", "bins")
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # a store that is away
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "true")
    monkeypatch.delenv("BINWATCH_CAPTURE", raising=False)
    handler = BinCounterHandler()
    handler.initialize(loaded)
    count = partial(counts_of, handler, unpacked, caplog)
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    golden, link = golden_photos(trained.archive)[0][0], {"content-type": "string/url"}
    nothing = {"answered": 0, "failed": 0}
    assert count({"body": files[0]}) == (200, {"answered": 1, "failed": 0})
    assert count({"body": files[0]}, **{ATTRIBUTES: "probe=1"}) == (200, {"answered": 1, "failed": 0})
    assert count({"body": golden}, **{ATTRIBUTES: "probe=1"}) == (200, nothing)
    assert count({"body": b"no photo"}) == (400, nothing)
    assert count({"body": b"s3://bins/a.jpg"}, body=link) == (502, nothing)
    assert count({"body": b"s3://private/a.jpg"}, body=link) == (403, nothing)
    assert count({"body": files[0]}, Origin="http://evil.example") == (403, nothing)
    assert count({"body": files[0], "expected_quantity": b"x"}) == (422, nothing)
    handler.predictor = Predictor(Fragile(unpacked), PhotoStore(frozenset()), alpha=0.05)
    white = png(20, 20, 8, 2, (b"\0" + b"\xff" * 60) * 20)
    assert count({"body": white}) == (500, {"answered": 0, "failed": 1})

    class Crashing(BinCounterHandler):
        def _is_captured(self, request: PredictionRequest) -> bool:
            raise ZeroDivisionError

    handler.__class__ = Crashing
    monkeypatch.setattr(handler, "capture", object())
    assert count({"body": files[0]})[1] == {"answered": 0, "failed": 1}


class Fragile(Counter):
    """A counter whose model fails at white photos."""

    def count(self, photos: Sequence[Pixels | PhotoError]) -> list[CountedPhoto | PhotoError]:
        if any(not isinstance(pixels, PhotoError) and pixels.mean() > 250 for pixels in photos):
            raise ZeroDivisionError("white")
        return super().count(photos)


def test_a_photo_that_makes_the_code_fail_is_a_500_and_costs_no_other(
    unpacked: Path, files: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    white = png(20, 20, 8, 2, (b"\0" + b"\xff" * 60) * 20)
    predictor = Predictor(Fragile(unpacked), PhotoStore(frozenset()), alpha=0.05)
    photos = [PhotoInput(files[0]), PhotoInput(white), PhotoInput(files[0], Fields(3))]
    first, failure, last = [outcome.result for outcome in predictor.predict(photos)]
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert last["expected_quantity"] == 3
    assert type(failure) is ModelError
    assert (failure.status, "white" in str(failure)) == (500, False)
    assert "ZeroDivisionError: white" in caplog.text


def test_photos_that_take_too_long_are_not_waited_for(unpacked: Path, files: list[bytes]) -> None:
    predictor = Predictor(Counter(unpacked), PhotoStore(frozenset()), alpha=0.05, patience_s=0.0)
    outcomes = predictor.predict([PhotoInput(files[0])] * 2)
    assert [type(outcome.result) for outcome in outcomes] == [BusyError, BusyError]
    assert BusyError.status == 503
