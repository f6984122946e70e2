"""At most one execution at a time in a state folder, and the request of the one that is unfinished.

STATE/pipeline.lock         locked while an execution or a pruning runs; the kernel frees it when its process dies
STATE/underway.json         the request of the execution that runs, or that ran when its process died: it is resumed
STATE/unended.json          the tokens of executions that gave up while MLflow was away: their runs are not ended yet
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError, LockHeldError
from serve.files import exclusive_lock, write_text
from trainer.pipeline.execution import ExecutionRequest, parse_request

LOCK, FILE, UNENDED = "pipeline.lock", "underway.json", "unended.json"
PRUNING, RETRY_S = "the pruning", 0.2
_TOKENS = TypeAdapter(list[str])
log = logging.getLogger(__name__)


@contextmanager
def lock_state(state: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of the state folder. Raises LockHeldError, which names its holder and the holder's purpose.

    An execution may take hours, so who meets one is told; a pruning ends soon, so an execution waits for it.
    """
    state.mkdir(parents=True, exist_ok=True)
    path, waits = state / LOCK, False
    while True:
        with exclusive_lock(path, wait=False) as acquired:
            if acquired:
                started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                # in place: a file that replaces this one would not be locked
                path.write_text(f"{purpose}, process {os.getpid()} on {socket.gethostname()} since {started},")
                yield
                return
        holder = path.read_text().strip()
        if purpose == PRUNING or not holder.startswith(f"{PRUNING},"):
            raise LockHeldError(
                f"{holder or 'another process'} holds {path}; wait until it ends, or use another --state"
            )
        if not waits:
            log.info("waiting for %s that holds %s", holder.removesuffix(","), path)
            waits = True
        time.sleep(RETRY_S)  # the name is read again: a holder writes its own only after it has the lock


@dataclass(frozen=True)
class UnfinishedExecution:
    """An execution that has started and not ended. ``starts``: how often a process has started it."""

    request: ExecutionRequest
    starts: int


def read_unfinished(state: Path) -> UnfinishedExecution | None:
    """The execution that is running or was cut off, if any. Raises DataError where the file is damaged."""
    try:
        content = json.loads((state / FILE).read_text())
        return UnfinishedExecution(parse_request(content["request"]), int(content["starts"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state / FILE} is damaged: {error!r}; remove it") from error


def mark_started(state: Path, request: ExecutionRequest) -> UnfinishedExecution:
    """Record that ``request`` is started, before any work is done for it."""
    previous = read_unfinished(state)
    starts = previous.starts if previous and previous.request.token == request.token else 0
    unfinished = UnfinishedExecution(request, starts + 1)
    state.mkdir(parents=True, exist_ok=True)
    _write(state, unfinished)
    return unfinished


def mark_interrupted(state: Path) -> None:
    """Record that the process was asked to stop: the execution is resumed, and this start is not counted as a crash."""
    unfinished = read_unfinished(state)
    if unfinished:
        _write(state, replace(unfinished, starts=unfinished.starts - 1))


def _write(state: Path, unfinished: UnfinishedExecution) -> None:
    content = {"request": unfinished.request.to_json(), "starts": unfinished.starts}
    write_text(state / FILE, json.dumps(content))


def clear(state: Path) -> None:
    """Record that no execution is unfinished."""
    (state / FILE).unlink(missing_ok=True)


def read_unended(state: Path) -> list[str]:
    """The tokens of executions whose runs are still to be ended; none where the file is missing or damaged."""
    try:
        return _TOKENS.validate_json((state / UNENDED).read_bytes())
    except (OSError, ValidationError):
        return []


def write_unended(state: Path, tokens: list[str]) -> None:
    """Store the tokens of executions whose runs are still to be ended."""
    if tokens:
        write_text(state / UNENDED, json.dumps(tokens))
    else:
        (state / UNENDED).unlink(missing_ok=True)
