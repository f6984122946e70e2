"""Puts what ``/verify`` answered into the folder of recounts: in a thread of its own, so that no answer waits for it.

Where that thread cannot keep up, or the folder cannot be written, a candidate is dropped and counted in /metrics.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Lock

from serve.errors import OUTSIDE, EventError, SettingsError, SettledError, sentence
from serve.gateway.metrics import Metrics
from serve.gateway.parsing import ModelRequest
from serve.gateway.recounts.candidates import photo_of, to_candidate
from serve.gateway.refusal import Refusal
from serve.gateway.settings import GatewaySettings
from serve.recount.base_rate import BaseRate
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import Outcome

MAX_BACKLOG_BYTES = 64 * 1024**2
"""Photos that wait to be written; more are dropped."""
BASE_RATE_S = 60.0
"""The base rate is read from the recounts again after this time."""

_log = logging.getLogger("binwatch.recounts")


class RecountIntake:
    """The recounts of a gateway, off where BINWATCH_RECOUNTS is not set.

    Raises SettingsError for a folder that cannot be used.
    """

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        self._store = _open(settings)
        self._random_share, self._metrics = settings.recount_random, metrics
        self._thread = ThreadPoolExecutor(1, "recounts")
        self._backlog_bytes, self._lock = 0, Lock()
        self._base_rate, self._base_rate_expires_at = BaseRate().mean, 0.0

    @property
    def store(self) -> RecountStore:
        """The folder. Raises Refusal where there is none."""
        if self._store is None:
            message = "there is no list of recounts here; set BINWATCH_RECOUNTS to a folder that the gateway can write"
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
        except OUTSIDE as error:
            _log.warning("the feedback on event %s settles no recount: %s", event_id, sentence(error))
        else:
            self._metrics.recount(Outcome.COUNT)

    def close(self) -> None:
        """Write what waits."""
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
                stays = store.offer(candidate, photo_of(request))
                self._metrics.recount_candidate("queued" if stays else "surplus")
        except Exception as error:
            # whatever it is, the answer was sent, and the next candidates must not suffer
            self._metrics.recount_candidate("failed")
            _log.warning("a candidate for a recount is lost: %s", sentence(error))
        finally:
            with self._lock:
                self._backlog_bytes -= len(request.body)

    def _current_base_rate(self, store: RecountStore) -> float:
        if time.monotonic() >= self._base_rate_expires_at:
            self._base_rate = BaseRate().updated(store.settled()).mean
            self._base_rate_expires_at = time.monotonic() + BASE_RATE_S
        return self._base_rate


def _open(settings: GatewaySettings) -> RecountStore | None:
    if settings.recounts is None:
        return None
    try:
        return RecountStore(settings.recounts, settings.recount_queue)
    except OSError as error:
        raise SettingsError(f"BINWATCH_RECOUNTS is {str(settings.recounts)!r}: {sentence(error)}") from error
