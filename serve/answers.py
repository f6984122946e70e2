"""From the photos of a request to answers: download, decode, count, judge. Each photo succeeds or fails by itself."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias, TypeVar

from serve import counter, links, payload, photo, verdict
from serve.counter import Answer, CountedPhoto
from serve.environment import Variables
from serve.errors import BusyError, ModelError, RequestError
from serve.evidence import Evidence
from serve.evidence.fields import Fields
from serve.evidence.record import shorten_notes
from serve.evidence.scale import Weighing, weigh
from serve.links import Link, PhotoStore
from serve.payload import PhotoInput

_log = logging.getLogger("binwatch.answers")
PATIENCE_S = 30.0
"""Time limit for decoding a batch. TorchServe kills a worker that is silent for ``default_response_timeout``, 60 s, and
one request of 3 MB can hold 32 pictures of 50 megapixels, which take 3 s each."""

_T = TypeVar("_T")

Result: TypeAlias = Answer | RequestError
Content: TypeAlias = Answer | list[Answer]
"""The JSON of a response: one answer, or a list of them."""


class ServerContext(Protocol):
    """What TorchServe (https://pytorch.org/serve/custom_service.html) and AWS's inference toolkit tell a worker."""

    @property
    def system_properties(self) -> Mapping[str, Any]:
        """``model_dir``: the unpacked archive; ``gpu_id``: the worker's GPU, or None."""

    def get_all_request_header(self, idx: int) -> Mapping[str, object]:
        """The headers of one request of the batch."""

    def set_response_status(self, code: int, phrase: str) -> None:
        """Set the HTTP status of the response."""


@dataclass(frozen=True)
class DecodedPhoto:
    """One photo of a request with its bytes and pixels, or the reason why there are none."""

    entry: PhotoInput | RequestError
    content: bytes | RequestError
    pixels: photo.Pixels | RequestError


@dataclass(frozen=True)
class PhotoOutcome:
    """The result for one photo, with its bytes, link and pixels where the processing got that far."""

    result: Result
    data: bytes = b""
    link: str = ""
    pixels: photo.Pixels | None = None


class Predictor:
    """Answers requests with one model.

    ``alpha``: the share of right records that may raise an alarm (0-1); ``novelty_limit``: the share of bins that may
    be taken for something else, 0 for none.
    """

    def __init__(
        self,
        model: counter.Counter,
        store: PhotoStore,
        alpha: float,
        patience_s: float = PATIENCE_S,
        novelty_limit: float = verdict.NOVELTY_LIMIT,
    ) -> None:
        self._model, self._store, self._alpha, self._patience_s = model, store, alpha, patience_s
        self._novelty_limit = novelty_limit

    def predict(self, photos: Sequence[PhotoInput | RequestError]) -> list[PhotoOutcome]:
        """One outcome per photo, in order."""
        return self.answer(self.decode(photos))

    def decode(self, photos: Sequence[PhotoInput | RequestError]) -> list[DecodedPhoto]:
        """Download and decode the photos. How long it takes, and whether it succeeds, is up to the sender."""
        deadline = time.monotonic() + self._patience_s
        contents = self._download([entry.photo if isinstance(entry, PhotoInput) else entry for entry in photos])
        return [
            DecodedPhoto(entry, content, self._decode(content, deadline))
            for entry, content in zip(photos, contents, strict=True)
        ]

    def answer(self, photos: Sequence[DecodedPhoto]) -> list[PhotoOutcome]:
        """Count and judge. How long it takes is up to the model, and what fails is a ModelError."""
        counts = iter(self._count([item.pixels for item in photos if not isinstance(item.pixels, RequestError)]))
        results = [item.pixels if isinstance(item.pixels, RequestError) else next(counts) for item in photos]
        return [_outcome(item, self._judge(result, item.entry)) for item, result in zip(photos, results, strict=True)]

    def _download(self, photos: Sequence[bytes | Link | RequestError]) -> list[bytes | RequestError]:
        """``photos`` with every link replaced by the bytes that it leads to."""
        links = [photo for photo in photos if isinstance(photo, Link)]
        objects = catch_errors(partial(self._store.read, links)) if links else []
        downloads = iter([objects] * len(links) if isinstance(objects, RequestError) else objects)
        return [next(downloads) if isinstance(photo, Link) else photo for photo in photos]

    def _decode(self, content: bytes | RequestError, deadline: float) -> photo.Pixels | RequestError:
        if isinstance(content, RequestError):
            return content
        if time.monotonic() > deadline:
            return BusyError(
                f"the photos before this one took {self._patience_s:g} s to decode; send fewer or smaller ones"
            )
        return catch_errors(partial(self._model.read, content))

    def _count(self, photos: Sequence[photo.Pixels]) -> list[CountedPhoto | RequestError]:
        results: list[CountedPhoto | RequestError] = []
        for start in range(0, len(photos), counter.BATCH):
            batch = photos[start : start + counter.BATCH]
            counted = catch_errors(partial(self._model.count, batch), ModelError)
            if isinstance(counted, RequestError):  # perhaps because of a single photo: count them one by one
                results += [_first(catch_errors(partial(self._model.count, [pixels]), ModelError)) for pixels in batch]
            else:
                results += counted
        return results

    def _judge(self, result: CountedPhoto | RequestError, entry: PhotoInput | RequestError) -> Result:
        if isinstance(result, RequestError):
            return result
        if isinstance(entry, RequestError):
            return result.answer
        return catch_errors(partial(self._with_verdict, result, entry.fields), ModelError)

    def _with_verdict(self, counted: CountedPhoto, fields: Fields) -> Answer:
        """The answer to a photo with the verdicts on what ``fields`` has: the quantity, the weight, or both combined.

        It has a picture of where the model looked, too, if ``fields`` asks for that.
        """
        if fields.attention:
            counted = replace(counted, answer=self._model.with_attention(counted))
        answer = counted.answer
        if fields.expected_quantity is not None:
            answer = self._model.with_verdict(
                counted, fields.expected_quantity, self._alpha, fields.record, self._novelty_limit
            )
        weighing = weigh(fields)
        return answer if weighing is None else _with_weight(answer, weighing)


def _with_weight(answer: Answer, weighing: Weighing) -> Answer:
    """``answer`` with what the scale says, combined with its verdict where it has one."""
    weighed = {**answer, "weight": weighing.content}
    if "verdict" not in answer:
        return weighed
    if notes := [*answer.get("notes", ()), *weighing.notes]:
        weighed["notes"] = shorten_notes(notes)
    if weighing.verdict.verdict != verdict.VerdictKind.UNSURE:
        weighed["evidence"] = Evidence(answer["evidence"]).and_weight
    of_photo = verdict.Verdict(**{name: answer[name] for name in verdict.Verdict.__dataclass_fields__})
    return {**weighed, **asdict(verdict.combine(of_photo, weighing.verdict))}


def predictor_from(model: counter.Counter, environ: Mapping[str, str]) -> Predictor:
    """A predictor with the settings of the environment. Raises SettingsError.

    BINWATCH_ALPHA: the share of right records (0-1) that may raise an alarm; BINWATCH_NOVELTY: the share of bins
    (0-0.1) that may be taken for something else; BINWATCH_S3_BUCKETS: the buckets that links may name, separated by
    commas; BINWATCH_S3_ENDPOINT: the URL of their store, if it is not AWS's.
    """
    read = Variables(environ)
    alpha, limit, store = verdict.read_alpha(read), verdict.read_novelty_limit(read), links.read_store(read)
    read.check()
    return Predictor(model, store, alpha, novelty_limit=limit)


def parse_request(parts: Mapping[str, bytes], headers: Mapping[str, object]) -> payload.PredictionRequest:
    """The request; if parsing crashes, a request whose only photo is that error."""
    request = catch_errors(partial(payload.parse, parts, headers))
    return payload.PredictionRequest((request,)) if isinstance(request, RequestError) else request


def response_entry(outcome: PhotoOutcome, version: str, form: str = "") -> Answer:
    """The JSON for one photo: the answer with model version and a new event id, or the error's code and message.

    ``form``: of the network, for health checks, which compare the answer with the one that the archive promises for it.
    """
    if isinstance(outcome.result, RequestError):
        return {"code": outcome.result.status, "type": outcome.result.kind, "message": str(outcome.result)}
    identity = {"model_version": version, "event_id": str(uuid.uuid4())}
    return {**outcome.result, **identity, **({"form": form} if form else {})}


def http_response(entries: list[Answer], listed: bool) -> tuple[HTTPStatus, Content]:
    """Status and JSON of a response. A single photo has its own status; a list is 200, with a status in each entry."""
    if listed:
        return HTTPStatus.OK, [{**entry, "status": entry.get("code", 200)} for entry in entries]
    return HTTPStatus(entries[0].get("code", 200)), entries[0]


def catch_errors(work: Callable[[], _T], error_type: type[RequestError] = RequestError) -> _T | RequestError:
    """The result of ``work``, or its error as one that may be shown to the client: where it crashed, an ``error_type``.

    The only place where every exception is caught: a photo that crashes the code must break neither the rest of its
    batch nor the worker. The traceback goes to the log, never to the client.
    """
    try:
        return work()
    except RequestError as error:
        return error
    except Exception:
        _log.exception("a photo made the server fail")
        return error_type("the server failed at this photo; its log says why")


def _first(results: Sequence[CountedPhoto | RequestError] | RequestError) -> CountedPhoto | RequestError:
    return results if isinstance(results, RequestError) else results[0]


def _outcome(decoded: DecodedPhoto, result: Result) -> PhotoOutcome:
    entry, content, pixels = decoded.entry, decoded.content, decoded.pixels
    link = str(entry.photo) if isinstance(entry, PhotoInput) and isinstance(entry.photo, Link) else ""
    data = b"" if isinstance(content, RequestError) else content
    return PhotoOutcome(result, data, link, None if isinstance(pixels, RequestError) else pixels)
