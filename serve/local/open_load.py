"""Open-loop load on a server of this machine: so many requests a second, whatever the answers are.

A request's time begins when it is due, also where the sender is late, so that a server that stalls is not asked less.
Each request has a connection of its own, as from many clients.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve.errors import ServerError

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Load:
    """What came of the requests. ``seconds``: how long each with status 200 took; ``failed``: how many had none.

    ``duration_s``: from the first request to the last answer.
    """

    seconds: tuple[float, ...]
    failed: int
    duration_s: float

    @property
    def answered(self) -> float:
        """Answers with status 200 per second."""
        return len(self.seconds) / self.duration_s

    def quantile_ms(self, share: float) -> float:
        """The time in milliseconds within which this share of all requests was answered; infinite if it was not."""
        rank = max(0, round(share * (len(self.seconds) + self.failed)) - 1)
        return 1000 * sorted(self.seconds)[rank] if rank < len(self.seconds) else float("inf")


def send(url: str, bodies: Sequence[bytes], rate: float, requests: int) -> Load:
    """POST that many ``requests`` at ``rate`` a second, cycling through ``bodies``, and wait for all answers."""
    return asyncio.run(_send(url, bodies, rate, requests))


async def _send(url: str, bodies: Sequence[bytes], rate: float, requests: int) -> Load:
    start, tasks = time.monotonic(), []
    for number in range(requests):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(_seconds(url, bodies[number % len(bodies)], due)))
    seconds = [taken for taken in await asyncio.gather(*tasks) if taken is not None]
    return Load(tuple(seconds), requests - len(seconds), time.monotonic() - start)


async def _seconds(url: str, body: bytes, due: float) -> float | None:
    """From ``due`` to the answer with status 200; None without one."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _post(url, body)
    except (OSError, EOFError, TimeoutError, ServerError):
        return None
    return time.monotonic() - due if status == 200 else None


async def _post(url: str, body: bytes) -> int:
    """The status of one request whose answer has arrived."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
        length = next((line.partition(":")[2] for line in answer if line.startswith("content-length:")), None)
        if length is None:
            raise ServerError(f"{url} does not say how long its answer is: {answer[0]}")
        await reader.readexactly(int(length))
        return int(answer[0].split()[1])
    finally:
        writer.close()
