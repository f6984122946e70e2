"""From photos that were asked about to answers: fetch, decode, count, judge; each photo succeeds or fails by itself.

It travels in every archive.
"""

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar

from serve import counter, payload, photo, verdict
from serve.environment import Numbers
from serve.errors import BusyError, RequestError
from serve.links import Link, PhotoStore
from serve.payload import Asked, Fields

_log = logging.getLogger("binwatch.answers")
PATIENCE_S = 30.0
"""How long a batch is decoded. TorchServe kills a worker that is silent for ``default_response_timeout``, 60 s, and one
request can hold 32 pictures of 50 megapixels in 3 MB, of 3 s each."""

_T = TypeVar("_T")

Answer: TypeAlias = dict[str, Any] | RequestError


@dataclass(frozen=True)
class PhotoOutcome:
    """What came of one photo: the answer or why there is none, and what was seen of it on the way."""

    answer: Answer
    data: bytes = b""
    link: str = ""
    pixels: photo.Pixels | None = None


class Answers:
    """Answers with one model. ``alpha``: the share of right records that may raise the alarm (0-1)."""

    def __init__(self, model: counter.Counter, store: PhotoStore, alpha: float, patience_s: float = PATIENCE_S) -> None:
        self._model, self._store, self._alpha, self._patience_s = model, store, alpha, patience_s

    def of(self, photos: Sequence[Asked | RequestError]) -> list[PhotoOutcome]:
        """One outcome a photo, in order."""
        deadline = time.monotonic() + self._patience_s
        data = self._fetched([each.photo if isinstance(each, Asked) else each for each in photos])
        pixels = [
            each if isinstance(each, RequestError) else catch_errors(partial(self._read, each, deadline))
            for each in data
        ]
        counted = iter(self._counted([each for each in pixels if not isinstance(each, RequestError)]))
        return [
            _outcome(asked, sent, seen, seen if isinstance(seen, RequestError) else self._judged(next(counted), asked))
            for asked, sent, seen in zip(photos, data, pixels, strict=True)
        ]

    def _fetched(self, photos: Sequence[bytes | Link | RequestError]) -> list[bytes | RequestError]:
        links = [each for each in photos if isinstance(each, Link)]
        found = catch_errors(partial(self._store.read, links)) if links else []
        came = iter([found] * len(links) if isinstance(found, RequestError) else found)
        return [next(came) if isinstance(each, Link) else each for each in photos]

    def _read(self, data: bytes, deadline: float) -> photo.Pixels:
        if time.monotonic() > deadline:
            raise BusyError(
                f"the photos before this one took {self._patience_s:g} s to decode; send fewer or smaller ones"
            )
        pixels = self._model.read(data)
        if isinstance(pixels, RequestError):
            raise pixels
        return pixels

    def _counted(self, pixels: Sequence[photo.Pixels]) -> list[Answer]:
        counted: list[Answer] = []
        for start in range(0, len(pixels), counter.BATCH):
            chunk = pixels[start : start + counter.BATCH]
            found = catch_errors(partial(self._model.count, chunk))
            if isinstance(found, RequestError):  # one photo of them, perhaps: each by itself
                counted += [_first(catch_errors(partial(self._model.count, [each]))) for each in chunk]
            else:
                counted += found
        return counted

    def _judged(self, answer: Answer, asked: Asked | RequestError) -> Answer:
        if isinstance(answer, RequestError) or isinstance(asked, RequestError):
            return answer
        return catch_errors(partial(self._with_verdict, answer, asked.fields))

    def _with_verdict(self, answer: dict[str, Any], fields: Fields) -> dict[str, Any]:
        if fields.expected_quantity is not None:
            answer = self._model.judge(answer, fields.expected_quantity, self._alpha)
        if fields.weight is None or fields.expected_weight is None:
            return answer
        scale = verdict.weigh(fields.weight, fields.expected_weight)
        weighed = {
            **answer,
            "weight": {
                "weight": fields.weight,
                "expected_weight": fields.expected_weight,
                "verdict": scale.verdict,
                "reason": scale.reason,
            },
        }
        if fields.expected_quantity is None:
            return weighed
        seen = verdict.Verdict(**{each.name: answer[each.name] for each in dataclasses.fields(verdict.Verdict)})
        return {**weighed, **dataclasses.asdict(verdict.joined(seen, scale))}


def configured(model: counter.Counter, environ: Mapping[str, str]) -> Answers:
    """Answers as the environment sets them.

    BINWATCH_ALPHA: the share of right records (0-1) that may raise the alarm; BINWATCH_S3_BUCKETS: the buckets,
    with commas, that links may name; BINWATCH_S3_ENDPOINT: their store, where it is not S3. Raises SettingsError.
    """
    read = Numbers(environ)
    alpha = read("BINWATCH_ALPHA", verdict.ALPHA, 0, 1)
    read.check()
    buckets = frozenset(filter(None, environ.get("BINWATCH_S3_BUCKETS", "").replace(" ", "").split(",")))
    store = PhotoStore(buckets, environ.get("BINWATCH_S3_ENDPOINT") or None)
    return Answers(model, store, alpha)


def parsed(parts: Mapping[str, bytes], headers: Mapping[str, Any]) -> payload.PredictionRequest:
    """The request; where it makes the code fail, one of which nothing can be answered."""
    found = catch_errors(partial(payload.parse, parts, headers))
    return payload.PredictionRequest((found,)) if isinstance(found, RequestError) else found


def entry(outcome: PhotoOutcome, version: str) -> dict[str, Any]:
    """What the sender is told of one photo, with the version of the model that says so."""
    if isinstance(outcome.answer, RequestError):
        return {"code": outcome.answer.status, "type": outcome.answer.kind, "message": str(outcome.answer)}
    return {**outcome.answer, "model_version": version, "event_id": str(uuid.uuid4())}


def reply(entries: list[dict[str, Any]], listed: bool) -> tuple[HTTPStatus, Any]:
    """HTTP's status and the JSON of a request: of one photo its own, of a list 200 and each photo's in its entry."""
    if listed:
        return HTTPStatus.OK, [{**each, "status": each.get("code", 200)} for each in entries]
    return HTTPStatus(entries[0].get("code", 200)), entries[0]


def catch_errors(work: Callable[[], _T]) -> _T | RequestError:
    """What ``work`` gives, or the error that the sender is told.

    The one place where every error is caught: a photo that makes the code fail must take neither the others of its
    batch with it nor the worker. The log gets the traceback, the sender does not.
    """
    try:
        return work()
    except RequestError as error:
        return error
    except Exception:
        _log.exception("a photo made the server fail")
        return RequestError("the server failed at this photo; its log says why")


def _first(found: Sequence[Answer] | RequestError) -> Answer:
    return found if isinstance(found, RequestError) else found[0]


def _outcome(
    asked: Asked | RequestError,
    data: bytes | RequestError,
    pixels: photo.Pixels | RequestError,
    answer: Answer,
) -> PhotoOutcome:
    link = str(asked.photo) if isinstance(asked, Asked) and isinstance(asked.photo, Link) else ""
    sent = b"" if isinstance(data, RequestError) else data
    return PhotoOutcome(answer, sent, link, None if isinstance(pixels, RequestError) else pixels)
