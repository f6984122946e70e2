"""A TCP proxy that simulates a bad network, for the benchmark of fetching photos and its tests.

It delays every GET. A seeded random share of them is answered 503 SlowDown, cut in the middle of the answer, or reset.
It assumes that a GET request fits into one read.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_THROTTLED = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_SLOW_DOWN),
    _SLOW_DOWN,
)
CUT_BYTES = 700


@dataclass
class SlowProxy:
    """The proxy and its faults: ``delay_s`` per request, and the shares (0-1) that are throttled, cut and reset.

    ``done``: how many requests met which fate.
    """

    upstream: tuple[str, int]
    delay_s: float = 0.0
    throttled: float = 0.0
    cut: float = 0.0
    reset: float = 0.0
    seed: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """Serve in a background thread, on a free port or on ``port``; yields the address."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", port))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def _draw_fate(self) -> str:
        number = self._random.random()
        for name in ("throttled", "cut", "reset"):
            number -= getattr(self, name)
            if number < 0:
                return name
        return "passed"

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            server, request = await asyncio.open_connection(*self.upstream)
            state = {"left": -1}  # bytes of the answer until the cut; negative for no cut
            back = asyncio.create_task(_pump(server, answer, state))
            try:
                while data := await client.read(1 << 16):
                    if data.startswith((b"GET", b"HEAD")):
                        await asyncio.sleep(self.delay_s)
                        fate = self._draw_fate()
                        self.done[fate] += 1
                        if fate == "reset":
                            _reset(answer)
                            break
                        if fate == "throttled":
                            answer.write(_THROTTLED)
                            continue
                        state["left"] = CUT_BYTES if fate == "cut" else -1
                    request.write(data)
                    await request.drain()
            finally:
                request.close()
                back.cancel()
                answer.close()


async def _pump(server: asyncio.StreamReader, answer: asyncio.StreamWriter, state: dict[str, int]) -> None:
    with suppress(ConnectionError):
        while data := await server.read(1 << 16):
            if 0 <= state["left"] < len(data):
                answer.write(data[: state["left"]])
                await answer.drain()
                answer.close()
                return
            state["left"] -= len(data) if state["left"] >= 0 else 0
            answer.write(data)
            await answer.drain()


def _reset(answer: asyncio.StreamWriter) -> None:
    """Close so that the client sees a connection reset, not an end of file."""
    answer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer.transport.abort()


async def _close(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
