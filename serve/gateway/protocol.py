"""Deadlines for slow clients and answers to broken ones, below HTTP.

uvicorn limits how long a connection idles between two requests, but not how long a client takes to send one.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.gateway.schemas import Refusal, error_response

HEAD_S = 10.0
"""Time for the headers, from the connection or from the first byte of a further request."""
DRAIN_S = 10.0
"""Time for reading and dropping the rest of a refused body: a client that is cut off would not see the response."""
MAX_CONNECTIONS = 512


class DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP protocol with deadlines and a limit on connections."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline; close the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self._start_deadline(HEAD_S)

    def data_received(self, data: bytes) -> None:
        """Start a deadline with a further request, and cancel it once the headers are complete."""
        in_headers = self.conn.their_state is h11.IDLE
        if in_headers and self._deadline is None:
            self._start_deadline(HEAD_S)
        super().data_received(data)
        if in_headers and self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()

    def on_response_complete(self) -> None:
        """Limit the time for the rest of a body that no route reads."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._start_deadline(DRAIN_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline with the connection."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with the same JSON as all other errors."""
        refusal = error_response(Refusal(400, "BadRequest", msg))
        headers = [*refusal.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(refusal.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _start_deadline(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
