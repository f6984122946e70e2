"""Puts what ``/verify`` answered into the store of recounts: in a thread of its own, so that no answer waits for it.

While a bucket does not answer, candidates wait. Where they become too many, or a folder cannot be written, one is
dropped and counted in /metrics. The photo of a link is fetched, where its bucket is among BINWATCH_S3_BUCKETS.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Lock

from serve import links
from serve.errors import (
    OUTSIDE,
    DataError,
    EventError,
    RequestError,
    SettingsError,
    SettledError,
    sentence,
)
from serve.gateway.metrics import Metrics
from serve.gateway.parsing import ModelRequest
from serve.gateway.recounts.candidates import photo_of, to_candidate
from serve.gateway.refusal import Refusal
from serve.gateway.settings import GatewaySettings
from serve.objects.places import open_objects
from serve.recount.base_rate import BaseRate
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import Candidate, Outcome

MAX_BACKLOG_BYTES = 64 * 1024**2
"""Photos that wait to be written; more are dropped."""
RETRY_S = 3.0
"""Seconds until a bucket that did not answer is tried again."""
BASE_RATE_S = 60.0
"""The base rate is read from the recounts again after this time."""

_log = logging.getLogger("binwatch.recounts")


class RecountIntake:
    """The recounts of a gateway, off where BINWATCH_RECOUNTS is not set.

    Raises SettingsError for a folder or bucket that cannot be used.
    """

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        self._store = _open(settings)
        self._random_share, self._metrics = settings.recount_random, metrics
        self._thread, self._stop = ThreadPoolExecutor(1, "recounts"), Event()
        self._links = links.PhotoStore(settings.link_buckets, settings.s3_endpoint)
        self._backlog_bytes, self._lock = 0, Lock()
        self._base_rate, self._base_rate_expires_at = BaseRate().mean, 0.0

    @property
    def store(self) -> RecountStore:
        """The store. Raises Refusal where there is none."""
        if self._store is None:
            message = "there is no list of recounts here; set BINWATCH_RECOUNTS to a folder or bucket for the gateway"
            raise Refusal(409, "NoRecounts", message)
        return self._store

    def offer(self, request: ModelRequest, answer: Mapping[str, object], bin_id: str | None) -> None:
        """Add the answer to a request, if it belongs into the list. Returns at once, and never fails."""
        if self._store is None:
            return
        size = len(request.body)
        with self._lock:
            if self._backlog_bytes + size > MAX_BACKLOG_BYTES:
                self._metrics.recount_candidate("dropped")
                return
            self._backlog_bytes += size
        self._thread.submit(self._put, self._store, request, dict(answer), bin_id or "", datetime.now(UTC))

    def settle_from_feedback(self, event_id: str, count: int, sender: str) -> None:
        """Settle the bin of an event with its feedback, if it waits for its recount. Never fails."""
        if self._store is None:
            return
        try:
            self._store.settle_or_correct(event_id, count, sender, datetime.now(UTC))
        except (EventError, SettledError):
            return  # most feedback is on bins that are not in the list; and somebody else's recount stands
        except (DataError, *OUTSIDE) as error:
            _log.warning("the feedback on event %s settles no recount: %s", event_id, sentence(error))
        else:
            self._metrics.recount(Outcome.COUNT)

    def close(self) -> None:
        """Write what waits; what waits for a bucket that does not answer is lost."""
        self._stop.set()
        self._thread.shutdown()

    def _put(
        self, store: RecountStore, request: ModelRequest, answer: Mapping[str, object], bin_id: str, now: datetime
    ) -> None:
        try:
            candidate = to_candidate(
                request,
                answer,
                bin_id=bin_id,
                random_share=self._random_share,
                base_rate=self._current_base_rate(store),
                now=now,
            )
            if candidate is not None:
                stays = self._with_retry(store, candidate, photo_of(request) or self._linked_photo(candidate.link))
                self._metrics.recount_candidate("queued" if stays else "surplus")
        except Exception as error:
            # whatever it is, the answer was sent, and the next candidates must not suffer
            self._metrics.recount_candidate("failed")
            _log.warning("a candidate for a recount is lost: %s", sentence(error))
        finally:
            with self._lock:
                self._backlog_bytes -= len(request.body)

    def _with_retry(self, store: RecountStore, candidate: Candidate, photo: bytes) -> bool:
        """Offer a candidate, again while a bucket does not take it; returns whether it stays."""
        while True:
            try:
                return store.offer(candidate, photo)
            except DataError as error:
                _log.warning("a candidate for a recount waits: %s", sentence(error))
                if self._stop.wait(RETRY_S):
                    raise

    def _linked_photo(self, link: str) -> bytes:
        """The photo of a link; empty where there is none, where its bucket is not read, or its store fails."""
        try:
            photo = self._links.read([links.parse(link)])[0] if link and self._links.buckets else b""
        except RequestError:
            return b""
        return photo if isinstance(photo, bytes) else b""

    def _current_base_rate(self, store: RecountStore) -> float:
        if time.monotonic() >= self._base_rate_expires_at:
            self._base_rate_expires_at = time.monotonic() + BASE_RATE_S
            with suppress(DataError):
                self._base_rate = BaseRate().updated(store.settled()).mean
        return self._base_rate


def _open(settings: GatewaySettings) -> RecountStore | None:
    if settings.recounts is None:
        return None
    try:
        return RecountStore(open_objects(settings.recounts, settings.s3_endpoint), settings.recount_queue)
    except (DataError, OSError) as error:
        raise SettingsError(f"BINWATCH_RECOUNTS is {str(settings.recounts)!r}: {sentence(error)}") from error
