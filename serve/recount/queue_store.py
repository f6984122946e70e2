"""The store of candidates and recounts, BINWATCH_RECOUNTS: who comes next, what people found, undo.

    queue/<event_id>.json + .jpg        what /verify saw and nobody has settled
    bin-images/, metadata/<event_id>    recounts with a count, in the layout of the dataset
    settled/<event_id>.json (+ .jpg)    the outcome of every settled bin, with the photo unless it is in bin-images/
    leases.json                         who counts which bin

It is a folder or a prefix of a bucket. Every object is replaced atomically, and a photo is written before the JSON that
names it. ``settled/`` decides: where a process was killed between two steps, the next start finishes a recount that is
there; any other is asked again.

A lock on a folder keeps threads and processes apart. Several gateways share a bucket without one: of two that write
``leases.json``, or the same outcome, one is refused by a conditional write, and then reads what the other has written.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from serve.errors import EventError, SettledError, UnavailableError, sentence
from serve.objects.object_store import ObjectStore
from serve.recount import queue_order
from serve.recount.json_index import JsonIndex
from serve.recount.leases import Leases
from serve.recount.recount_entities import (
    Candidate,
    Outcome,
    Recount,
    parse_candidate,
    parse_recount,
    reopen,
    settle,
    to_json,
)
from serve.recount.recount_progress import matches

MAX_CANDIDATES = 2000
QUEUE, SETTLED, METADATA, PHOTOS = "queue", "settled", "metadata", "bin-images"
LEASES = "leases.json"
ORPHAN_S = 600.0
"""A photo whose JSON is not there after this time was left by a process that was killed."""
ATTEMPTS, MAX_WAIT_S = 20, 0.2
"""Of a change of the leases, which other gateways change at the same time."""
log = logging.getLogger("binwatch.recounts")


class RecountStore:
    """Candidates and recounts in ``objects``.

    ``max_candidates``: size of the queue. Times are passed in; all methods may be called by several threads. They raise
    OSError where a folder cannot be written, UnavailableError where a bucket does not answer, and DataError where it
    refuses.
    """

    def __init__(self, objects: ObjectStore, max_candidates: int = MAX_CANDIDATES) -> None:
        self._objects, self._max_candidates = objects, max_candidates
        self._queue = JsonIndex(objects, QUEUE, parse_candidate)
        self._settled = JsonIndex(objects, SETTLED, parse_recount)
        self._is_repaired = False
        try:
            with self._session():
                pass
        except UnavailableError as error:
            log.warning("the recounts are not looked through yet: %s", sentence(error))

    def pending(self) -> list[Candidate]:
        """The candidates that wait, in no order."""
        with self._session():
            return list(self._queue.refresh().values())

    def settled(self) -> list[Recount]:
        """All recounts, in no order."""
        with self._session():
            return list(self._settled.refresh().values())

    def photo(self, event_id: str) -> bytes | None:
        """The photo of a candidate or a recount, None where it was sent as a link. Raises EventError."""
        with self._session():
            for key in (_photo(folder, event_id) for folder in (QUEUE, PHOTOS, SETTLED)):
                if stored := self._objects.read(key):
                    return stored.content
            if event_id not in self._queue.refresh() and event_id not in self._settled.refresh():
                raise _unknown(event_id)
            return None

    def offer(self, candidate: Candidate, photo: bytes) -> bool:
        """Put a candidate into the queue; returns whether it stays. ``photo``: empty where it was sent as a link."""
        with self._session():
            self._objects.check_room()
            pending = self._queue.refresh()
            for older in queue_order.superseded(candidate, pending):
                self._drop(older.event_id)
            self._enqueue(candidate, photo)
            surplus = queue_order.surplus(list(self._queue.refresh().values()), self._max_candidates)
            for least_likely in surplus:
                self._drop(least_likely.event_id)
            return candidate not in surplus

    def lease(
        self, client: str, now: datetime, station: str = "", day: str = "", shown: tuple[str, ...] = ()
    ) -> Candidate | None:
        """The next bin for a client: the one that it has already, or the best one that nobody has.

        ``station``, ``day`` (yyyy-mm-dd, UTC): only of these; ``shown``: event ids that the client has on its screen,
        whose leases are renewed, and which it does not get again.
        """
        now_s = now.timestamp()

        def change(leases: Leases) -> Candidate | None:
            pending = self._queue.refresh()  # read after the leases: a bin that others settled in between is gone
            leases.retain(pending)
            free = [
                candidate
                for candidate in pending.values()
                if matches(candidate, station, day)
                and candidate.event_id not in shown
                and leases.holder(candidate.event_id, now_s) in (None, client)
            ]
            own = [candidate for candidate in free if leases.holder(candidate.event_id, now_s) == client]
            chosen = own[0] if own else queue_order.choose_next(free, leases.handed_out)
            if chosen and not own:
                leases.handed_out += 1
            for event_id in (*shown, *([chosen.event_id] if chosen else [])):
                if event_id in pending and leases.holder(event_id, now_s) in (None, client):
                    leases.grant(event_id, client, now_s)
            return chosen

        with self._session():
            return self._change_leases(change)

    def settle(self, event_id: str, outcome: Outcome, count: int | None, settled_by: str, now: datetime) -> Recount:
        """Store what a person found; the same again gives the stored one. Raises EventError, SettledError.

        A bin of the random share that was not handed out here, but chosen by somebody, no longer counts as random.
        """
        with self._session():
            candidate = self._queue.refresh().get(event_id)
            if candidate is None:
                return self._same_again(event_id, outcome, count)
            self._objects.check_room()
            was_drawn = candidate.random and self._leases()[0].was_handed_out(event_id)
            recount = settle(replace(candidate, random=was_drawn), outcome, count, settled_by, now)
            if not self._copy_photo(recount) and not candidate.link and not self._objects.read(_json(QUEUE, event_id)):
                raise _unknown(event_id)  # another gateway has just dropped it
            if not self._objects.replace(_json(SETTLED, event_id), _text(to_json(recount)), None):
                if stored := self._settled.refresh().get(event_id):
                    self._finish(stored)
                return self._same_again(event_id, outcome, count)
            self._finish(recount)
            for older in queue_order.superseded(candidate, self._queue.refresh()):
                self._drop(older.event_id)
            return recount

    def settle_or_correct(self, event_id: str, count: int, settled_by: str, now: datetime) -> Recount:
        """Settle with a count, which replaces another one of the same person. Raises EventError, SettledError."""
        try:
            return self.settle(event_id, Outcome.COUNT, count, settled_by, now)
        except SettledError:
            previous = next((recount for recount in self.settled() if recount.event_id == event_id), None)
            if previous is None or previous.settled_by != settled_by:
                raise
            self.undo(event_id, settled_by, now)
            return self.settle(event_id, Outcome.COUNT, count, settled_by, now)

    def undo(self, event_id: str, client: str, now: datetime) -> Candidate:
        """Put a settled bin back into the queue, leased to ``client``. Raises EventError."""
        with self._session():
            recount = self._settled.refresh().get(event_id)
            if recount is None:
                raise _unknown(event_id)
            candidate = reopen(recount)
            self._objects.copy(_photo(_photo_folder(recount), event_id), _photo(QUEUE, event_id))
            self._objects.write(_json(QUEUE, event_id), _text(to_json(candidate)))
            photos = [_photo(folder, event_id) for folder in (SETTLED, PHOTOS)]
            self._objects.remove(_json(METADATA, event_id), _json(SETTLED, event_id), *photos)
            self._change_leases(lambda leases: leases.grant(event_id, client, now.timestamp()))
            return candidate

    @contextmanager
    def _session(self) -> Iterator[None]:
        with self._objects.exclusive():
            if not self._is_repaired:
                self._repair()
                self._is_repaired = True
            yield

    def _leases(self) -> tuple[Leases, str | None]:
        stored = self._objects.read(LEASES)
        return (Leases.parse(stored.content), stored.stamp) if stored else (Leases(), None)

    def _change_leases(self, change: Callable[[Leases], Candidate | None]) -> Candidate | None:
        """Change the leases, again where another gateway has changed them meanwhile; returns what ``change`` does."""
        for _ in range(ATTEMPTS):
            leases, stamp = self._leases()
            result = change(leases)
            if self._objects.replace(LEASES, leases.to_json(), stamp):
                return result
            time.sleep(random.uniform(0, MAX_WAIT_S))
        raise UnavailableError(f"{self._objects.place}/{LEASES} changes all the time; try again in a moment")

    def _enqueue(self, candidate: Candidate, photo: bytes) -> None:
        if photo:
            self._objects.write(_photo(QUEUE, candidate.event_id), photo)
        self._objects.write(_json(QUEUE, candidate.event_id), _text(to_json(candidate)))

    def _drop(self, event_id: str) -> None:
        self._objects.remove(_json(QUEUE, event_id), _photo(QUEUE, event_id))

    def _copy_photo(self, recount: Recount) -> bool:
        """Copy the photo out of the queue; returns whether the recount has one."""
        target = _photo(_photo_folder(recount), recount.event_id)
        return self._objects.copy(_photo(QUEUE, recount.event_id), target) or self._objects.read(target) is not None

    def _finish(self, recount: Recount) -> None:
        """Write the label of a recount that is stored, and take it out of the queue."""
        has_photo = self._copy_photo(recount)
        if has_photo and recount.outcome == Outcome.COUNT:
            self._objects.write(_json(METADATA, recount.event_id), _text(recount.to_metadata()))
        self._drop(recount.event_id)

    def _same_again(self, event_id: str, outcome: Outcome, count: int | None) -> Recount:
        recount = self._settled.refresh().get(event_id)
        if recount is None:
            raise _unknown(event_id)
        if (recount.outcome, recount.count) != (outcome, count):
            result = recount.outcome if recount.count is None else f"{recount.outcome} {recount.count}"
            who = f" by {recount.settled_by}" if recount.settled_by else ""
            message = f"the bin of event {event_id} was settled as {result}{who} at {recount.settled_at}"
            raise SettledError(f"{message}; undo that first, with DELETE /recounts/{event_id}")
        return recount

    def _repair(self) -> None:
        """Finish what a process that was killed has left: recounts still in the queue, photos without their JSON."""
        labels = self._objects.entries(METADATA)  # before the outcomes, which are written first
        outcomes, queue = self._objects.entries(SETTLED), self._objects.entries(QUEUE)
        settled, pending = self._settled.refresh(), self._queue.refresh()
        for event_id in settled.keys() & pending.keys():
            self._finish(settled[event_id])
        orphans = [
            f"{QUEUE}/{name}"
            for name, entry in queue.items()
            if name.endswith(".jpg")
            and f"{name.removesuffix('.jpg')}.json" not in queue
            and time.time() - entry.modified_s > ORPHAN_S
        ]
        self._objects.remove(*orphans, *(f"{METADATA}/{name}" for name in labels if name not in outcomes))


def _json(folder: str, event_id: str) -> str:
    return f"{folder}/{event_id}.json"


def _photo(folder: str, event_id: str) -> str:
    return f"{folder}/{event_id}.jpg"


def _photo_folder(recount: Recount) -> str:
    return PHOTOS if recount.outcome == Outcome.COUNT else SETTLED


def _text(content: dict[str, object]) -> bytes:
    return json.dumps(content).encode()


def _unknown(event_id: str) -> EventError:
    message = f"no bin with event id {event_id[:80]!r} waits for a recount or was recounted"
    return EventError(f"{message}; it may have left a queue that was full, or been replaced by a newer photo")
