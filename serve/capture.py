"""Data capture: every request with its answer, one JSON line per photo (``serve/capture_record.py``).

    <capture>/bin-counter/AllTraffic/yyyy/mm/dd/hh/<uuid>.jsonl

A prediction only puts an event into a bounded buffer; a background thread writes it. Events that do not fit are dropped
and counted. ``kill -9`` loses at most the last FLUSH_S seconds. While the disk is fuller than BINWATCH_CAPTURE_DISK or
the folder is not writable, capture pauses with one warning, and resumes by itself.
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
from serve.capture_record import Event, is_sampled, record
from serve.environment import Variables, folder_or_bucket, web_address

VARIANT = "bin-counter/AllTraffic"
FLUSH_S = 1.0
REPORT_S = 60.0
MAX_EVENTS = 10_000
MAX_BYTES = 64 * 1024**2
MAX_DISK_USE = 0.75

_log = logging.getLogger("binwatch.capture")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is captured, and where to.

    ``target``: a folder or ``s3://bucket/prefix``, empty for no capture; ``share``: of the answers (0-1); ``photos``:
    whether their bytes are stored, too; ``spool``: the local folder from which files are uploaded to S3;
    ``max_disk_use``: capture pauses while the disk is fuller than this (0-1).
    """

    target: str = ""
    share: float = 1.0
    photos: bool = True
    spool: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "binwatch-capture")
    endpoint_url: str | None = None
    max_disk_use: float = MAX_DISK_USE


def read_settings(read: Variables) -> Settings:
    """The settings BINWATCH_CAPTURE...; ``read`` collects what cannot be used, in place of which the default counts."""
    spool = Path(read.parsed("BINWATCH_CAPTURE_SPOOL", "", str) or Settings().spool)
    return Settings(
        target=read.parsed("BINWATCH_CAPTURE", "", folder_or_bucket),
        share=read.number("BINWATCH_CAPTURE_SHARE", 1.0, 0, 1),
        photos=read.switch("BINWATCH_CAPTURE_PHOTOS", True),
        spool=spool,
        endpoint_url=read.parsed("BINWATCH_S3_ENDPOINT", "", web_address) or None,
        max_disk_use=read.number("BINWATCH_CAPTURE_DISK", MAX_DISK_USE, 0, 1),
    )


def settings_from(environ: Mapping[str, str]) -> Settings:
    """The settings BINWATCH_CAPTURE... of the environment.

    A bad value is replaced by its default, with a warning: capture must not keep a model from loading.
    """
    read = Variables(environ)
    settings = read_settings(read)
    for problem in read.problems:
        _log.warning("%s; until then the default is used", problem)
    return settings


class Sink(Protocol):
    """A destination of captured lines."""

    @property
    def folder(self) -> Path:
        """The folder that is written to."""

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line. Raises OSError."""

    def full_reason(self) -> str:
        """Why no more lines are accepted; empty if they are."""

    def close(self) -> None:
        """Finish writing the lines that were appended."""


class Folder(hour_files.HourFiles):
    """Files in a folder."""

    def full_reason(self) -> str:
        """Always empty: only the disk's size is a limit."""
        return ""


class Capture:
    """Buffers events and writes them every ``flush_s`` in a background thread.

    ``disk_use``: how full a folder's file system is (0-1).
    """

    def __init__(
        self,
        sink: Sink,
        share: float = 1.0,
        photos: bool = True,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        disk_use: Callable[[Path], float] = hour_files.disk_use,
        max_disk_use: float = MAX_DISK_USE,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._sink, self._share, self._photos = sink, share, photos
        self._max_events, self._max_bytes = max_events, max_bytes
        self._disk_use, self._max_disk_use, self._flush_s = disk_use, max_disk_use, flush_s
        self._events: deque[Event] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self.dropped: Tally[str] = Tally()
        self._reported, self._reported_at = 0, time.monotonic()
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Buffer an event, if it is sampled and there is room. Never waits for a disk or a network."""
        if not is_sampled(event.event_id, self._share):
            return
        with self._lock:
            if len(self._events) < self._max_events and self._size + event.size <= self._max_bytes:
                self._events.append(event)
                self._size += event.size
            else:
                self.dropped["buffer full"] += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Write the buffered events and stop the thread."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            hour_files.drop_partial_lines(self._sink.folder)
        except OSError as error:
            _log.warning("partial lines in %s could not be removed: %s", self._sink.folder, error)
        while not self._stop.wait(self._flush_s):
            self._flush()
        self._flush()
        self._report()
        self._sink.close()

    def _flush(self) -> None:
        try:
            use = self._disk_use(self._sink.folder)
            full = self._sink.full_reason() or (f"its disk is {use:.0%} full" if use > self._max_disk_use else "")
            while self._events and not full:
                event = self._events[0]
                self._sink.append(event.moment, (json.dumps(record(event, self._photos)) + "\n").encode())
                self._pop()
        except OSError as error:  # the events stay in the buffer until the next flush
            self._log_transition("unwritable", f"{self._sink.folder} cannot be written: {error}")
        else:
            self._log_transition("full" if full else "", f"{self._sink.folder} is full: {full}")
            while full and self._events:
                self.dropped["disk full"] += 1
                self._pop()
        if time.monotonic() - self._reported_at >= REPORT_S:
            self._report()

    def _pop(self) -> None:
        with self._lock:
            self._size -= self._events.popleft().size

    def _log_transition(self, problem: str, message: str) -> None:
        """One log line when a problem starts, one when it is over. ``problem``: its kind, empty for none."""
        if problem and problem != self._problem:
            _log.warning("capture pauses, predictions continue: %s", message)
        elif self._problem and not problem:
            _log.warning("capture resumes")
            self._report()
        self._problem = problem

    def _report(self) -> None:
        total = self.dropped.total()
        if total > self._reported:
            reasons = ", ".join(f"{number} {reason}" for reason, number in self.dropped.items())
            _log.warning("%d more captured answers were dropped; in total: %s", total - self._reported, reasons)
        self._reported, self._reported_at = total, time.monotonic()


def start(settings: Settings) -> Capture | None:
    """Start the capture that the settings describe; None where they ask for none."""
    if not settings.target or not settings.share:
        return None
    if settings.target.startswith("s3://"):
        target = f"{settings.target.rstrip('/')}/{VARIANT}"
        sink: Sink = hour_files.Spool(settings.spool / VARIANT, target, settings.endpoint_url)
    else:
        sink = Folder(Path(settings.target) / VARIANT)
    _log.info("process %d captures %g of its answers to %s", os.getpid(), settings.share, settings.target)
    return Capture(sink, settings.share, settings.photos, max_disk_use=settings.max_disk_use)
