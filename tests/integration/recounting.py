"""The list of recounts of a running gateway, and a model that answers what a test wants."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import requests

from serve.local.servers import gateway_server
from serve.recount.recount_entities import Recount
from tests.integration.upstream import Upstream
from tests.recounting import recount_in

JPEG = b"\xff\xd8\xff photo"
LISTED_S = 30.0
"""Bins get into the list behind their answers."""


def event(number: int) -> str:
    return str(uuid5(UUID(int=7), str(number)))


@dataclass(frozen=True)
class RecountGateway:
    """A gateway with a list of recounts, and the server that it asks."""

    url: str
    upstream: Upstream
    folder: Path

    def answers(self, number: int, verdict: str = "mismatch", quantity: int = 3, **fields: object) -> None:
        """What the model answers from now on."""
        answer = {
            "event_id": event(number),
            "count": 2,
            "expected_count": 2.1,
            "probabilities": {"1": 0.1, "2": 0.7, "3+": 0.2},
            "fit": {"1": 0.1, "2": 1.0, "3+": number / 1000},
            "calibration_photos": 999,
            "probability": 0.2,
            "verdict": verdict,
            "reason": "of right records of 3, only 1.0% fit as badly or worse",
            "expected_quantity": quantity,
            "model_version": "9",
            **fields,
        }
        self.upstream.body = json.dumps(answer).encode()

    def verify(self, number: int, verdict: str = "mismatch", **form: object) -> dict[str, Any]:
        """Send a photo, about which the model says so."""
        self.answers(number, verdict)
        values = {"expected_quantity": 3, **form}
        response = requests.post(f"{self.url}/verify", data=values, files={"photo": JPEG + bytes([number])}, timeout=30)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def get(self, path: str, **query: str) -> dict[str, Any]:
        response = requests.get(f"{self.url}{path}", params=query, timeout=30)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def next(self, client: str = "anna", **query: str) -> str | None:
        """The event id of the bin that a client is handed out."""
        waiting = self.get("/recounts/next", client=client, **query)["bin"]
        return waiting and str(waiting["event_id"])

    def settle(self, number: int, outcome: str = "count", count: int | None = None) -> requests.Response:
        body = {"outcome": outcome, **({} if count is None else {"count": count})}
        return requests.post(f"{self.url}/recounts/{event(number)}", json=body, timeout=30)

    def pending(self, number: int) -> dict[str, Any]:
        """The progress, once so many bins wait: they get into the list behind their answers."""
        deadline = time.monotonic() + LISTED_S
        while (progress := self.get("/recounts"))["pending"] != number and time.monotonic() < deadline:
            time.sleep(0.02)
        assert progress["pending"] == number
        return progress

    def empty(self) -> None:
        """Forget all bins."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                path.unlink()

    def recount(self, number: int) -> Recount:
        return recount_in(self.folder / "settled" / f"{event(number)}.json")

    def metric(self, name: str) -> float:
        lines = requests.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), 0))


@contextmanager
def recount_gateway(
    home: Path, upstream: Upstream, port: int | None = None, **settings: str
) -> Iterator[RecountGateway]:
    """A gateway whose random share is empty. ``settings``: other variables, without BINWATCH_."""
    recounts = home / "recounts"
    defaults = {"BINWATCH_RECOUNTS": str(recounts), "BINWATCH_RECOUNT_RANDOM": "0"}
    environ = defaults | {f"BINWATCH_{name}": value for name, value in settings.items()}
    with gateway_server(home, upstream.url, port, environ) as url:
        yield RecountGateway(url, upstream, recounts)
