"""Checks whether the champion answers, by asking it to count: TorchServe's /ping says Healthy even without a worker."""

import asyncio
import struct
import time
import zlib

from serve.gateway.parsing import ModelRequest
from serve.gateway.schemas import Refusal
from serve.gateway.upstream import TorchServe

CACHE_S = 3.0
"""A result is cached for this time, so that any number of probes causes at most one prediction in it."""
MAX_WAIT_S = 10.0
PROBE = "probe=1"


class Health:
    """The cached result of the last probe."""

    def __init__(self, torchserve: TorchServe, timeout_s: float) -> None:
        self._torchserve, self._timeout_s = torchserve, min(timeout_s, MAX_WAIT_S)
        self._lock = asyncio.Lock()
        self._result: str | Refusal = ""
        self._expires_at = 0.0

    async def version(self) -> str:
        """The model version that answers. Raises Refusal (503) if none does."""
        async with self._lock:
            if time.monotonic() >= self._expires_at:
                self._result = await self._probe()
                self._expires_at = time.monotonic() + CACHE_S
        if isinstance(self._result, Refusal):
            raise Refusal(503, self._result.kind, self._result.message, self._result.headers)
        return self._result

    async def _probe(self) -> str | Refusal:
        try:
            answer = await self._torchserve.ask_champion(PROBE_REQUEST, self._timeout_s)
        except Refusal as refusal:
            return Refusal(503, refusal.kind, refusal.message, {"Retry-After": "5", **refusal.headers})
        return str(answer.get("model_version", ""))


def gradient_png(size_px: int = 32) -> bytes:
    """A photo for the probe: a PNG with a colour gradient, built without an image library.

    Its bytes are always the same, also with another zlib: serve/handler.py recognises health checks by their hash.
    """
    rows = b"".join(
        b"\0" + bytes(value for x in range(size_px) for value in (x * 8 % 256, y * 8 % 256, 90)) for y in range(size_px)
    )
    stored = struct.pack("<BHH", 1, len(rows), len(rows) ^ 0xFFFF) + rows  # one block without compression
    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 2, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


PROBE_REQUEST = ModelRequest(gradient_png(), "image/png", extra_attribute=PROBE)
"""What asks a server whether it counts. Its answer is not captured."""
