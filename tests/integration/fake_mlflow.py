"""An MLflow that answers its REST routes at random: wrong types, missing keys, errors, silence, half of a body. Seeded.

It starts from the answers of a real MLflow (``truths``) and spoils them, so that some reach deep into the callers.
"""

import copy
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import serving

Json = object
ODD: tuple[Json, ...] = (
    None,
    True,
    -1,
    0,
    7,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "champion",
    "' OR 1=1",
    "../../etc/passwd",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "gs://stranger/x",
    "s3://stranger/x",
    "file:///etc",
    "mlflow-artifacts://stranger:1/x",
)
CODES = (
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "INTERNAL_ERROR",
    "BAD_REQUEST",
    "PERMISSION_DENIED",
    "no code",
    7,
)
STATUSES = (200, 201, 204, 301, 400, 401, 403, 404, 409, 413, 429, 500, 502, 503)
BODIES = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"<html>",
    b"\xff\xfe\x00",
    b"{" * 3000,
    b"[" * 100_000,
    b'"text"',
    b"1e999",
    b"NaN",
)


def spoiled(rng: random.Random, answer: Json) -> Json:
    """The answer with one of its values replaced, dropped, or repeated."""
    answer = copy.deepcopy(answer)
    places = list(_places(answer))
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        holder[key] = rng.choice(ODD)
    elif action < 0.8:
        del holder[key]
    elif isinstance(holder, list):
        holder.extend(copy.deepcopy(holder) * rng.choice((1, 5)))
    else:
        holder[f"{key}_"] = holder.pop(key)
    return answer


def _places(value: Json) -> Iterator[tuple[Any, int | str]]:
    """The lists and objects in an answer, with each of their keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


class FakeMlflow:
    """The state of the fake: how much it lies (0-1), and how often it has answered.

    ``truths``: the true answer by path, for a listing of artifacts with the folder after a question mark; ``slow_s``:
    how long a slow answer takes.
    """

    def __init__(self, seed: int, truths: Mapping[str, Json], slow_s: float) -> None:
        self._rng, self.truths, self._slow_s = random.Random(seed), truths, slow_s
        self.answers = 0
        self.lies = 0.5
        self._lock = threading.Lock()

    def answer(self, path: str) -> tuple[int, bytes, bool, float]:
        """Status and body, whether only half of the body is sent, and how many seconds later."""
        with self._lock:
            self.answers += 1
            rng, truth = self._rng, self.truths.get(path, {})
            body = truth if isinstance(truth, bytes) else json.dumps(truth).encode()
            kind = rng.random() / self.lies if self.lies else 1.0
            if kind >= 1:
                return 200, body, False, 0.0
            if kind < 0.5:
                if isinstance(truth, bytes):
                    return 200, rng.choice((*BODIES, truth[: len(truth) // 2])), False, 0.0
                return 200, json.dumps(spoiled(rng, truth)).encode(), False, 0.0
            if kind < 0.75:
                error = {"error_code": rng.choice(CODES), "message": rng.choice(ODD)}
                return rng.choice(STATUSES), json.dumps(error).encode(), False, 0.0
            if kind < 0.9:
                return rng.choice(STATUSES), rng.choice(BODIES), False, 0.0
            return 200, body, kind < 0.98, self._slow_s if kind >= 0.995 else 0.0


@contextmanager
def fake_mlflow(seed: int, truths: Mapping[str, Json], slow_s: float = 1.5) -> Iterator[tuple[str, FakeMlflow]]:
    """The address of a fake MLflow on this machine, and its state."""
    fake = FakeMlflow(seed, truths, slow_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = urlsplit(self.path)
            folder = parse_qs(place.query).get("path")  # of a listing of artifacts
            status, body, half, wait_s = fake.answer(place.path + (f"?{folder[0]}" if folder else ""))
            time.sleep(wait_s)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(0 if status == 204 else len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body[: len(body) // 2] if half else body)
            self.close_connection = half

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    with serving(Handler) as url:
        yield url, fake
