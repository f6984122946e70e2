"""Whether the champion answers: TorchServe's own /ping says Healthy without a worker, so it is asked to count."""

import asyncio
import struct
import time
import zlib

from serve.gateway.parsing import Question
from serve.gateway.schemas import Refusal
from serve.gateway.upstream import TorchServe

KEPT_S = 3.0
"""So long an outcome counts, so that probes, however many, ask at most once in it."""
MAX_WAIT_S = 10.0
PROBE = "probe=1"


class Health:
    """The last outcome, asked for again when it is old."""

    def __init__(self, torchserve: TorchServe, timeout_s: float) -> None:
        self._torchserve, self._timeout_s = torchserve, min(timeout_s, MAX_WAIT_S)
        self._lock = asyncio.Lock()
        self._outcome: str | Refusal = ""
        self._until = 0.0

    async def version(self) -> str:
        """The version that answers. Raises Refusal where none does."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._outcome = await self._ask()
                self._until = time.monotonic() + KEPT_S
        if isinstance(self._outcome, Refusal):
            raise Refusal(503, self._outcome.kind, self._outcome.message, self._outcome.headers)
        return self._outcome

    async def _ask(self) -> str | Refusal:
        try:
            question = Question(drawn_png(), "image/png", also=PROBE)
            answer = await self._torchserve.predict(question, self._timeout_s)
        except Refusal as refusal:
            return Refusal(503, refusal.kind, refusal.message, {"Retry-After": "5", **refusal.headers})
        return str(answer.get("model_version", ""))


def drawn_png(size_px: int = 32) -> bytes:
    """A photo of nothing in particular: a PNG with a gradient, made without an image library."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(size_px) for value in (x * 8 % 256, y * 8 % 256, 90)) for y in range(size_px)
    )
    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
