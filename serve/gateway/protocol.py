"""Connections: a share for each client, deadlines, and answers to what is not HTTP.

uvicorn limits the time between two requests, and nothing else
(docs/decisions/0019-a-share-for-each-client.md). A connection is idle until the headers of a request are
complete, and again after the response. Where there is no room for a new one, the connection that has been idle for the
longest time makes room: idle connections, however many, keep nobody out.
"""

import asyncio
import socket
from collections.abc import Sequence

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.gateway.clients import client_address
from serve.gateway.schemas import Refusal, error_response

PROXY = ("proxy", None)
"""What the ASGI scope of a request has as ``server`` where the TLS proxy sent it."""
MAX_CONNECTIONS = 512
MAX_CLIENT_CONNECTIONS = 128
"""Of one address."""


class DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP protocol with deadlines and limits on connections.

    ``head_s``: time for the headers, from the connection or from the first byte of a further request; ``drain_s``: for
    reading and dropping the rest of a refused body, because a client that is cut off would not see the response;
    ``send_s``: for the client to read the response; ``idle_since``: the time of the connection or of the last response.
    """

    head_s, drain_s, send_s = 10.0, 10.0, 30.0
    address, idle_since = "", 0.0
    _deadline: asyncio.TimerHandle | None = None
    _send_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline; make room if there are too many connections."""
        super().connection_made(transport)
        behind_proxy = transport.get_extra_info("socket").family == socket.AF_UNIX
        if behind_proxy:
            self.server = PROXY
        transport.set_write_buffer_limits(high=0)  # so that resume_writing means that the client has read everything
        self.address, self.idle_since = client_address(self.client), self.loop.time()
        self._start_deadline(self.head_s)
        open_connections = [peer for peer in self._peers() if not peer.transport.is_closing()]
        of_client = [peer for peer in open_connections if peer.address == self.address]
        if len(of_client) > MAX_CLIENT_CONNECTIONS and not behind_proxy:  # its connections are those of many clients
            _longest_idle(of_client).transport.abort()
        elif len(open_connections) > MAX_CONNECTIONS:
            _longest_idle(open_connections).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Start a deadline with a further request, and cancel it once the headers are complete."""
        in_headers = self.conn.their_state is h11.IDLE
        if in_headers and self._deadline is None:
            self._start_deadline(self.head_s)
        super().data_received(data)
        if in_headers and self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()

    def on_response_complete(self) -> None:
        """Limit the time for the rest of a body that no route reads."""
        self.idle_since = self.loop.time()
        super().on_response_complete()  # starts the next request, where the client has sent it already
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self._start_deadline(self.drain_s)

    def pause_writing(self) -> None:
        """Start a deadline: the client does not read what it asked for."""
        super().pause_writing()
        self._send_deadline = self.loop.call_later(self.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel it: the client has read everything."""
        super().resume_writing()
        self._cancel_send_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines with the connection."""
        self._cancel_deadline()
        self._cancel_send_deadline()
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

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _peers(self) -> Sequence["DeadlineProtocol"]:
        return [peer for peer in self.connections if isinstance(peer, DeadlineProtocol)]

    def _start_deadline(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None


def _longest_idle(connections: Sequence[DeadlineProtocol]) -> DeadlineProtocol:
    """The connection that makes room. There is one, since the newest is idle."""
    return min((peer for peer in connections if peer.idle), key=lambda peer: peer.idle_since)
