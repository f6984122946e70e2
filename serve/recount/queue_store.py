"""The folder of candidates and recounts, BINWATCH_RECOUNTS: who comes next, what people found, undo.

    queue/<event_id>.json + .jpg        what /verify saw and nobody has settled
    bin-images/, metadata/<event_id>    recounts with a count, in the layout of the dataset
    settled/<event_id>.json (+ .jpg)    the outcome of every settled bin, with the photo unless it is in bin-images/
    leases.json                         who counts which bin

Every file is replaced atomically, and a photo is written before the JSON that names it. ``settled/`` decides: where a
process was killed between two steps, the next start finishes a recount that is there; any other is asked again. One
lock on the folder keeps threads and processes apart.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from serve.errors import EventError, SettledError
from serve.files import atomic_write, exclusive_lock, write_text
from serve.hour_files import disk_use
from serve.recount import queue_order
from serve.recount.json_index import JsonIndex
from serve.recount.leases import Leases
from serve.recount.recount_entities import (
    Candidate,
    Outcome,
    Recount,
    read_candidate,
    read_recount,
    reopen,
    settle,
    to_json,
)
from serve.recount.recount_progress import matches

MAX_DISK_USE = 0.95
MAX_CANDIDATES = 2000
QUEUE, SETTLED, METADATA, PHOTOS = "queue", "settled", "metadata", "bin-images"


class RecountStore:
    """Candidates and recounts below ``folder``. Raises OSError where it cannot be written.

    ``max_candidates``: size of the queue; ``max_disk_use``: how full the disk may be (0-1). Times are passed in; all
    methods may be called by several threads.
    """

    def __init__(self, folder: Path, max_candidates: int = MAX_CANDIDATES, max_disk_use: float = MAX_DISK_USE) -> None:
        self.folder, self._max_candidates, self._max_disk_use = folder, max_candidates, max_disk_use
        for name in (QUEUE, SETTLED, METADATA, PHOTOS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._queue = JsonIndex(folder / QUEUE, read_candidate)
        self._settled = JsonIndex(folder / SETTLED, read_recount)
        with self._lock():
            self._repair()

    def pending(self) -> list[Candidate]:
        """The candidates that wait, in no order."""
        with self._lock():
            return list(self._queue.refresh().values())

    def settled(self) -> list[Recount]:
        """All recounts, in no order."""
        with self._lock():
            return list(self._settled.refresh().values())

    def photo(self, event_id: str) -> bytes | None:
        """The photo of a candidate or a recount, None where it was sent as a link. Raises EventError."""
        paths = [self._photo_path(folder, event_id) for folder in (QUEUE, PHOTOS, SETTLED)]
        with self._lock():
            if event_id not in self._queue.refresh() and event_id not in self._settled.refresh():
                raise _unknown(event_id)
            return next((path.read_bytes() for path in paths if path.is_file()), None)

    def offer(self, candidate: Candidate, photo: bytes) -> bool:
        """Put a candidate into the queue; returns whether it stays. ``photo``: empty where it was sent as a link."""
        with self._lock():
            self._check_room()
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
        with self._lock():
            pending, leases = self._queue.refresh(), Leases.read(self._leases_path)
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
            leases.write(self._leases_path)
            return chosen

    def settle(self, event_id: str, outcome: Outcome, count: int | None, settled_by: str, now: datetime) -> Recount:
        """Store what a person found; the same again gives the stored one. Raises EventError, SettledError.

        A bin of the random share that was not handed out here, but chosen by somebody, no longer counts as random.
        """
        with self._lock():
            candidate = self._queue.refresh().get(event_id)
            if candidate is None:
                return self._same_again(event_id, outcome, count)
            self._check_room()
            was_drawn = candidate.random and Leases.read(self._leases_path).was_handed_out(event_id)
            recount = settle(replace(candidate, random=was_drawn), outcome, count, settled_by, now)
            self._write_recount(recount)
            for older in (candidate, *queue_order.superseded(candidate, self._queue.refresh())):
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
        with self._lock():
            recount = self._settled.refresh().get(event_id)
            if recount is None:
                raise _unknown(event_id)
            candidate = reopen(recount)
            self._enqueue(candidate, self._settled_photo(recount) or b"")
            photos = [self._photo_path(folder, event_id) for folder in (SETTLED, PHOTOS)]
            for path in (self._metadata_path(event_id), self._settled_path(event_id), *photos):
                path.unlink(missing_ok=True)
            leases = Leases.read(self._leases_path)
            leases.grant(event_id, client, now.timestamp())
            leases.write(self._leases_path)
            return candidate

    @property
    def _leases_path(self) -> Path:
        return self.folder / "leases.json"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with exclusive_lock(self.folder):
            yield

    def _metadata_path(self, event_id: str) -> Path:
        return self.folder / METADATA / f"{event_id}.json"

    def _settled_path(self, event_id: str) -> Path:
        return self.folder / SETTLED / f"{event_id}.json"

    def _photo_path(self, folder: str, event_id: str) -> Path:
        return self.folder / folder / f"{event_id}.jpg"

    def _check_room(self) -> None:
        share = disk_use(self.folder)
        if share > self._max_disk_use:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({share:.0%} full)", str(self.folder))

    def _enqueue(self, candidate: Candidate, photo: bytes) -> None:
        if photo:
            _write_bytes(self._photo_path(QUEUE, candidate.event_id), photo)
        write_text(self.folder / QUEUE / f"{candidate.event_id}.json", json.dumps(to_json(candidate)))

    def _drop(self, event_id: str) -> None:
        for suffix in ("json", "jpg"):
            (self.folder / QUEUE / f"{event_id}.{suffix}").unlink(missing_ok=True)

    def _settled_photo(self, recount: Recount) -> bytes | None:
        path = self._photo_path(PHOTOS if recount.outcome == Outcome.COUNT else SETTLED, recount.event_id)
        return path.read_bytes() if path.is_file() else None

    def _write_recount(self, recount: Recount) -> None:
        """The photo, the label that needs it, then the outcome."""
        name, source = recount.event_id, self._photo_path(QUEUE, recount.event_id)
        is_count = recount.outcome == Outcome.COUNT
        if source.is_file():
            _write_bytes(self._photo_path(PHOTOS if is_count else SETTLED, name), source.read_bytes())
        if is_count and self._photo_path(PHOTOS, name).is_file():
            write_text(self._metadata_path(name), json.dumps(recount.to_metadata()))
        write_text(self._settled_path(name), json.dumps(to_json(recount)))

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
        settled, pending = self._settled.refresh(), self._queue.refresh()
        for event_id in settled.keys() & pending.keys():
            self._write_recount(settled[event_id])
            self._drop(event_id)
        photos = [path for path in (self.folder / QUEUE).glob("*.jpg") if not path.with_suffix(".json").exists()]
        labels = [
            path for path in (self.folder / METADATA).glob("*.json") if not self._settled_path(path.stem).exists()
        ]
        for path in (*photos, *labels):
            path.unlink(missing_ok=True)


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as out:
        out.write(content)


def _unknown(event_id: str) -> EventError:
    message = f"no bin with event id {event_id[:80]!r} waits for a recount or was recounted"
    return EventError(f"{message}; it may have left a queue that was full, or been replaced by a newer photo")
