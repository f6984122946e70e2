"""Data capture: every answer with what was asked, one JSON line a photo (``serve/event.py``).

    <capture>/bin-counter/AllTraffic/yyyy/mm/dd/hh/<uuid>.jsonl

A prediction only puts an event into a bounded buffer; a thread writes. What does not fit is dropped and counted. At
most the last FLUSH_S seconds are lost by ``kill -9``. Writing stops, with one warning, while the disk is fuller than
BINWATCH_CAPTURE_DISK allows, and goes on by itself; so it does after an unwritable folder. It travels in every archive.
"""

import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from serve import hour_files
from serve.capture_record import Event, record, sampled
from serve.environment import Numbers
from serve.upload import Spool

VARIANT = "bin-counter/AllTraffic"
FLUSH_S = 1.0
REPORT_S = 60.0
MAX_EVENTS = 10_000
MAX_BYTES = 64 * 1024**2
MAX_DISK_USE = 0.75

_log = logging.getLogger("binwatch.capture")


@dataclass(frozen=True)
class Settings:
    """What is captured, and where to.

    ``target``: a folder or ``s3://bucket/prefix``, empty for none; ``share`` of the answers (0-1); whether ``photos``
    are kept with them; ``spool``: where what goes to S3 waits; ``max_disk_use`` (0-1): a fuller disk takes no more.
    """

    target: str = ""
    share: float = 1.0
    photos: bool = True
    spool: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "binwatch-capture")
    endpoint_url: str | None = None
    max_disk_use: float = MAX_DISK_USE


def settings(environ: Mapping[str, str]) -> Settings:
    """The settings BINWATCH_CAPTURE... An unusable number is its default, with a warning: no model fails to load."""
    read, spool = Numbers(environ), environ.get("BINWATCH_CAPTURE_SPOOL")
    found = Settings(
        target=environ.get("BINWATCH_CAPTURE", ""),
        share=read("BINWATCH_CAPTURE_SHARE", 1.0, 0, 1),
        photos=environ.get("BINWATCH_CAPTURE_PHOTOS") != "0",
        spool=Path(spool) if spool else Settings().spool,
        endpoint_url=environ.get("BINWATCH_S3_ENDPOINT") or None,
        max_disk_use=read("BINWATCH_CAPTURE_DISK", MAX_DISK_USE, 0, 1),
    )
    for problem in read.problems:
        _log.warning("%s; until then it has its default", problem)
    return found


class Sink(Protocol):
    """Where lines go."""

    @property
    def folder(self) -> Path:
        """A folder of the file system that is written to."""

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line. Raises OSError."""

    def full(self) -> str:
        """Why nothing more can be taken; empty where it can."""

    def close(self) -> None:
        """End, with what was taken in its place."""


class Folder(hour_files.HourFiles):
    """Files in a folder."""

    def full(self) -> str:
        """Never, as long as the disk has room."""
        return ""


class Capture:
    """Takes events, and writes them in a thread of its own. ``disk_use``: how full a folder's file system is (0-1)."""

    def __init__(
        self,
        sink: Sink,
        share: float = 1.0,
        photos: bool = True,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        disk_use: Callable[[Path], float] = hour_files.disk_use,
        max_disk_use: float = MAX_DISK_USE,
    ) -> None:
        self._sink, self._share, self._photos = sink, share, photos
        self._max_events, self._max_bytes = max_events, max_bytes
        self._disk_use, self._max_disk_use = disk_use, max_disk_use
        self._events: deque[Event] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self.dropped: Tally[str] = Tally()
        self._reported, self._reported_at = 0, time.monotonic()
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Take an event, if it is sampled and there is room; never waits for a disk or a network."""
        if not sampled(event.event_id, self._share):
            return
        with self._lock:
            if len(self._events) < self._max_events and self._size + event.size <= self._max_bytes:
                self._events.append(event)
                self._size += event.size
            else:
                self.dropped["buffer full"] += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is there, and end."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            hour_files.drop_partial_lines(self._sink.folder)
        except OSError as error:
            _log.warning("cut lines in %s could not be taken off: %s", self._sink.folder, error)
        while not self._stop.wait(FLUSH_S):
            self._flush()
        self._flush()
        self._report()
        self._sink.close()

    def _flush(self) -> None:
        try:
            use = self._disk_use(self._sink.folder)
            full = self._sink.full() or (f"its disk is {use:.0%} full" if use > self._max_disk_use else "")
            while self._events and not full:
                event = self._events[0]
                self._sink.append(event.moment, (json.dumps(record(event, self._photos)) + "\n").encode())
                self._taken()
        except OSError as error:  # what is in the buffer stays there for the next time
            self._note("unwritable", f"{self._sink.folder} cannot be written: {error}")
        else:
            self._note("full" if full else "", f"{self._sink.folder} takes no more: {full}")
            while full and self._events:
                self.dropped["disk full"] += 1
                self._taken()
        if time.monotonic() - self._reported_at >= REPORT_S:
            self._report()

    def _taken(self) -> None:
        with self._lock:
            self._size -= self._events.popleft().size

    def _note(self, trouble: str, message: str) -> None:
        """One warning when trouble begins, one line when it is over."""
        if trouble and trouble != self._trouble:
            _log.warning("capture stops, predictions go on: %s", message)
        elif self._trouble and not trouble:
            _log.warning("capture goes on")
            self._report()
        self._trouble = trouble

    def _report(self) -> None:
        total = self.dropped.total()
        if total > self._reported:
            reasons = ", ".join(f"{number} {reason}" for reason, number in self.dropped.items())
            _log.warning("%d captured answers more were dropped; in all: %s", total - self._reported, reasons)
        self._reported, self._reported_at = total, time.monotonic()


def start(given: Settings) -> Capture | None:
    """The capture that the settings ask for."""
    if not given.target or not given.share:
        return None
    if given.target.startswith("s3://"):
        sink: Sink = Spool(given.spool / VARIANT, f"{given.target.rstrip('/')}/{VARIANT}", given.endpoint_url)
    else:
        sink = Folder(Path(given.target) / VARIANT)
    _log.info("process %d captures %g of its answers to %s", os.getpid(), given.share, given.target)
    return Capture(sink, given.share, given.photos, max_disk_use=given.max_disk_use)
