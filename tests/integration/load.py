"""Load generators for a server on 127.0.0.1: closed (a number of clients, each waiting for its answer) and open (a rate
of requests, whatever the answers are). Each request has its own connection, as TorchServe closes it after a 503."""

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

TIMEOUT_S = 120.0


class Stop(Protocol):
    """Says when to stop, as a ``threading.Event`` does."""

    def is_set(self) -> bool:
        """Whether to stop."""


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and how long it took, in seconds; its status, or why it has none; the body."""

    sent_s: float
    took_s: float
    status: int
    failure: str
    body: bytes


def large_photo() -> bytes:
    """A PNG that takes some tens of milliseconds to decode: the worker's time, while whoever asks waits."""
    rows, columns = np.mgrid[0:900, 0:1200]
    out = io.BytesIO()
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def closed(url: str, body: bytes, clients: int, duration_s: float) -> list[Answer]:
    """``clients`` at a time, for ``duration_s``."""
    return asyncio.run(_closed(url, body, clients, time.monotonic() + duration_s))


def opened(url: str, body: bytes, rate: float, duration_s: float, stop: Stop | None = None) -> list[Answer]:
    """``rate`` requests a second, for ``duration_s`` or until ``stop``; then it waits for what is out."""
    return asyncio.run(_opened(url, body, rate, duration_s, stop or Event()))


def per_second(answers: Sequence[Answer], duration_s: float) -> float:
    """Answers with status 200 per second."""
    return sum(answer.status == 200 for answer in answers) / duration_s


async def _closed(url: str, body: bytes, clients: int, end_s: float) -> list[Answer]:
    answers: list[Answer] = []

    async def client() -> None:
        while time.monotonic() < end_s:
            answers.append(await _ask(url, body))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def _opened(url: str, body: bytes, rate: float, duration_s: float, stop: Stop) -> list[Answer]:
    begun, waiting = time.monotonic(), []
    for number in range(int(rate * duration_s)):
        if stop.is_set():
            break
        ahead_s = begun + number / rate - time.monotonic()
        await asyncio.sleep(max(0.0, ahead_s))  # also gives the others their turn
        waiting.append(asyncio.create_task(_ask(url, body)))
    return list(await asyncio.gather(*waiting))


async def _ask(url: str, body: bytes) -> Answer:
    sent_s, status, failure, content = time.monotonic(), 0, "", b""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, content = await _exchange(url, body)
    except (OSError, EOFError, ValueError, TimeoutError) as error:
        failure = repr(error)
    return Answer(sent_s, time.monotonic() - sent_s, status, failure, content)


async def _exchange(url: str, body: bytes) -> tuple[int, bytes]:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line.partition(":")[2]) for line in answer.splitlines() if line.startswith("content-length:"))
        return int(answer.split()[1]), await reader.readexactly(length)
    finally:
        writer.close()
