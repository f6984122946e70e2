"""Slow and broken clients, below HTTP: uvicorn bounds how long a connection idles between requests, not how long it
takes to ask.
"""

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.gateway.schemas import Refusal, response

HEAD_S = 10.0
"""From the connection, or the first byte of a further request, to the end of its headers."""
DRAIN_S = 10.0
"""So long a body that was refused is read and forgotten: a client that is cut off does not see the answer."""
MAX_CONNECTIONS = 512


class Connection(H11Protocol):
    """uvicorn's connection with deadlines."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Too many connections are closed at once."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self._within(HEAD_S)

    def data_received(self, data: bytes) -> None:
        """A further request on the same connection has the same time."""
        between = self.conn.their_state is h11.IDLE
        if between and self._deadline is None:
            self._within(HEAD_S)
        super().data_received(data)
        if between and self.conn.their_state is not h11.IDLE:
            self._in_time()

    def on_response_complete(self) -> None:
        """The rest of a body that nobody reads."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._within(DRAIN_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """No deadline outlives it."""
        self._in_time()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP, answered in the form of all errors."""
        refused = response(Refusal(400, "BadRequest", msg))
        headers = [*refused.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=cast("Any", refused.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
