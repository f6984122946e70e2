"""One execution at a time below a state folder, and which one it is: what a kill leaves, the next start finds.

STATE/pipeline.lock         held while an execution or a pruning runs; the kernel frees it when its holder dies
STATE/underway.json         the request of the execution that is under way, or was when its process died
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from serve.errors import DataError, HeldError
from serve.files import write_text
from trainer.pipeline.execution import ExecutionRequest, request_from

LOCK, FILE = "pipeline.lock", "underway.json"


@contextmanager
def exclusive_lock(state: Path, what: str) -> Iterator[None]:
    """Hold the state folder while ``what`` is done. Raises HeldError, which says who holds it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise HeldError(f"{holder} holds {state / LOCK}; wait for its end, or give another --state") from error
        lock.truncate(0)
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lock.write(f"{what}, process {os.getpid()} on {socket.gethostname()} since {started},")
        lock.flush()
        yield


@dataclass(frozen=True)
class Underway:
    """An execution that was started and not ended. ``starts``: how often, with the first."""

    request: ExecutionRequest
    starts: int


def read(state: Path) -> Underway | None:
    """The execution that was under way, if one was. Raises DataError where the file is damaged."""
    try:
        content = json.loads((state / FILE).read_text())
        return Underway(request_from(content["request"]), int(content["starts"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state / FILE} is damaged: {error!r}; remove it") from error


def mark_started(state: Path, request: ExecutionRequest) -> Underway:
    """Write down that ``request`` is under way, before anything of it is done."""
    before = read(state)
    again = before is not None and before.request.token == request.token
    made = Underway(request, before.starts + 1 if before and again else 1)
    state.mkdir(parents=True, exist_ok=True)
    _write(state, made)
    return made


def mark_interrupted(state: Path) -> None:
    """It was told to stop, and goes on at the next start: that is no death to count."""
    found = read(state)
    if found:
        _write(state, replace(found, starts=found.starts - 1))


def _write(state: Path, found: Underway) -> None:
    write_text(state / FILE, json.dumps({"request": found.request.to_json(), "starts": found.starts}))


def clear(state: Path) -> None:
    """The execution has come to an end."""
    (state / FILE).unlink(missing_ok=True)
