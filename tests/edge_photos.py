"""Photos at the edges of what decoders take: as large as is allowed and larger, thin, deep, nested, bombs.

They are small as files, however many pixels they claim.

    python -m tests.edge_photos 2000 1    the memory that reading the worst and 2,000 drawn ones takes; 1: the seed
"""

import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

from serve import photo
from serve.errors import PhotoError

PNG_START = b"\x89PNG\r\n\x1a\n"
SHAPES = (
    (7071, 7071),
    (7072, 7072),
    (65_500, 763),
    (763, 65_500),
    (65_500, 1),
    (1, 65_500),
    (65_501, 1),
    (50_000_000, 1),
    (1, 50_000_000),
    (3000, 4000),
    (1, 1),
)
JPEG_SHAPES = (
    *SHAPES[:6],
    (16_320, 12_240),
    (12_000, 9000),
    (8000, 6000),
    (65_500, 3816),
    (15_811, 15_811),
    (20_000, 20_000),
)
COLOURS = tuple((depth, colour) for colour in (0, 3) for depth in (1, 2, 4, 8)) + tuple(
    (depth, colour) for colour in (0, 2, 4, 6) for depth in (8, 16)
)
"""Bit depths and colour types of PNG: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(size: int) -> bytes:
    """``size`` zeros, compressed, without having them in memory."""
    compressor, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [compressor.compress(block[: min(size - at, len(block))]) for at in range(0, size, len(block))]
    return b"".join([*parts, compressor.flush()])


def png(width: int, height: int, depth: int, colour: int, interlace: int = 0, before: bytes = b"") -> bytes:
    """A black PNG; an interlaced one holds as many bytes as one that is not, which suffices or nearly does."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    size = height * (1 + (width * samples * depth + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    if colour == 3:
        before += chunk(b"PLTE", bytes(range(256)) * 3)
    pixels = chunk(b"IDAT", zeros(size + (8 * height if interlace else 0)))
    return PNG_START + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG with its length."""
    return bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data


ONE_BIT = bytes((1, *bytes(15)))
"""The lengths of a Huffman table with one code of one bit: 0."""


def jpeg(
    width: int, height: int, components: int = 3, frame: int = 0xC0, scans: int = 1, wide: int = 2, before: bytes = b""
) -> bytes:
    """A grey JPEG of two bits a block. ``frame``: 0xC0 baseline, 0xC2 progressive; ``wide``: 1 or 2, the first
    component's sampling; ``scans`` over 1 in a baseline JPEG: each component has its own."""
    factors = [(wide if number == 0 else 1) for number in range(components)] if components > 1 else [1]
    layers = b"".join(bytes((number + 1, factor * 17, 0)) for number, factor in enumerate(factors))
    tables = segment(0xDB, bytes((0, *[1] * 64)))
    tables += segment(0xC4, bytes((0,)) + ONE_BIT + b"\0") + segment(0xC4, bytes((16,)) + ONE_BIT + b"\0")
    header = segment(frame, struct.pack(">BHHB", 8, height, width, components) + layers)
    blocks = sum(_blocks(width, height, factor, max(factors)) for factor in factors)
    if frame == 0xC2:
        picture = _progressive(components, blocks, scans)
    elif scans == 1:
        picture = _scan(range(components), blocks // 4 + 64)
    else:
        picture = b"".join(_scan([number], blocks // 4 + 64) for number in range(components))
    return b"\xff\xd8" + before + tables + header + picture + b"\xff\xd9"


def _blocks(width: int, height: int, factor: int, most: int) -> int:
    return (width * factor // most // 8 + 2) * (height * factor // most // 8 + 2)


def _scan(components: "range | list[int]", size: int, spectrum: bytes = b"\0\x3f\0") -> bytes:
    selectors = b"".join(bytes((number + 1, 0)) for number in components)
    return segment(0xDA, bytes((len(selectors) // 2,)) + selectors + spectrum) + bytes(size)


def _progressive(components: int, blocks: int, scans: int) -> bytes:
    """A first scan of one bit a block, then scans that say for 32,767 blocks at a time that nothing changes."""
    run = segment(0xC4, bytes((16,)) + ONE_BIT + b"\xe0")
    further = _scan([0], 2 * (blocks // 16_000 + 2), b"\1\x3f\0")
    return _scan(range(components), blocks // 8 + 64, b"\0\0\0") + run + further * (scans - 1)


def exif(fields: int = 5000, value_bytes: int = 50_000) -> bytes:
    """An EXIF block whose fields all share one value: decoders that read every field need fields x value bytes."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + number, 7, value_bytes, 8) for number in range(fields))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, fields) + entries


def oriented(orientation: int) -> bytes:
    """The segment of an EXIF block with an orientation."""
    return segment(0xE1, b"Exif\0\0" + struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 3, 1, orientation) + bytes(4))


def _metadata(rng: random.Random) -> bytes:
    """Segments that decoders keep, join or unpack."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: segment(0xE1, exif()[:65_000]),
        lambda: segment(0xE1, exif()[:65_000]) * 90,
        lambda: segment(0xE1, b"Exif\0\0" + bytes(10)) * rng.choice((400, 100_000)),
        lambda: b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 90)) + bytes(65_000)) for n in range(1, 91)),
        lambda: segment(0xFE, bytes(65_000)) * 90,
        lambda: segment(0xE5, b"") * rng.choice((490, 1_000_000)),
        lambda: segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000),
        lambda: segment(0xE2, b"MPF\0II*\0" + struct.pack("<IHHHI", 8, 0xFFFF, 0xB001, 4, 1) + bytes(40)),
        lambda: b"",
    )
    return rng.choice(kinds)()


def _chunks(rng: random.Random) -> bytes:
    """Chunks that decoders keep or unpack."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: chunk(b"zTXt", b"a\0\0" + bomb),
        lambda: chunk(b"iCCP", b"a\0\0" + bomb),
        lambda: chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
        lambda: b"".join(chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(1_000_000), 9)) for n in range(200)),
        lambda: chunk(b"tEXt", b"a\0" + b"b" * 5_000_000),
        lambda: b"".join(chunk(b"tEXt", b"%d\0b" % n) for n in range(rng.choice((490, 400_000)))),
        lambda: chunk(b"prIv", b"x") * rng.choice((490, 400_000)),
        lambda: chunk(b"eXIf", exif()[6:]),
        lambda: chunk(b"acTL", struct.pack(">II", 1000, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", *[0] * 9)),
        lambda: chunk(b"tRNS", bytes(256)),
        lambda: chunk(b"tRNS", bytes(6)),
        lambda: chunk(b"IDAT", b"") * rng.choice((490, 400_000)),
        lambda: b"",
    )
    return rng.choice(kinds)()


def edge(rng: random.Random) -> tuple[str, bytes]:
    """A photo at the edge, and what it is."""
    if rng.random() < 0.5:
        width, height = rng.choice(SHAPES[:4] if rng.random() < 0.6 else SHAPES)
        depth, colour = rng.choice(COLOURS)
        interlace, chunks = rng.choice((0, 0, 1)), _chunks(rng) if rng.random() < 0.3 else b""
        name = f"PNG {width}x{height} depth {depth} colour {colour} interlace {interlace} chunks {chunks[:12]!r}"
        data = png(width, height, depth, colour, interlace, chunks)
    else:
        (width, height), components = rng.choice(JPEG_SHAPES), rng.choice((1, 3, 3, 4))
        frame, scans, wide = rng.choice((0xC0, 0xC0, 0xC2)), rng.choice((1, 1, 2, 10, 60, 3000)), rng.choice((1, 2))
        metadata = _metadata(rng) if rng.random() < 0.3 else b""
        name = f"JPEG {width}x{height} {components} of {frame:x}, {scans} scans, {wide}, metadata {metadata[:14]!r}"
        turned = segment(
            0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0" + bytes((rng.randrange(10),)) + bytes(7)
        )
        data = jpeg(width, height, components, frame, scans, wide, metadata or turned)
    if rng.random() < 0.2:
        name, data = f"{name}, cut", data[: rng.randrange(len(data))]
    return name, data


def worst() -> Iterator[tuple[str, bytes]]:
    """The photos that take most of what is allowed, and those that took most before there were limits."""
    yield "RGB with alpha, 16 bits, interlaced", png(7071, 7071, 16, 6, interlace=1)
    yield "CMYK, turned, too thin to be decoded smaller", jpeg(763, 65_500, 4, before=oriented(6))
    yield "CMYK, progressive", jpeg(8000, 6000, 4, 0xC2, 10, wide=1)
    yield "RGB, progressive, too thin to be decoded smaller", jpeg(65_500, 763, 3, 0xC2, 10, wide=1, before=oriented(5))
    yield "200 megapixels", jpeg(16_320, 12_240)
    yield "50 million columns", png(50_000_000, 1, 8, 2)
    yield "3,000 scans", jpeg(7071, 7071, 3, 0xC2, 3000)
    yield "325,000 EXIF segments", jpeg(64, 64, before=segment(0xE1, b"Exif\0\0" + bytes(10)) * 325_000)


def peak_mb() -> float:
    """The most memory that this process has had, in MB. (Across an exec, ru_maxrss keeps the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def outcome(case: tuple[str, bytes]) -> tuple[str, str, float]:
    """The name, what ``photo.read`` says, and the seconds it takes."""
    name, data = case
    start = time.monotonic()
    try:
        photo.read(data, 224)
        return name, "counted", time.monotonic() - start
    except PhotoError:
        return name, "refused", time.monotonic() - start


def main(number: int, seed: int, threads: int = 1) -> None:
    """Read the worst photos and ``number`` drawn ones; print the memory that this took beyond the interpreter's."""
    photo.read(png(100, 100, 8, 2), 224)
    rng, before_mb, peaks = random.Random(seed), peak_mb(), dict[float, str]()
    outcomes: list[tuple[str, str, float]] = []
    with ThreadPoolExecutor(threads) as pool:
        cases = chain(worst(), (edge(rng) for _ in range(number)))
        while batch := list(islice(cases, threads)):
            # like a worker of TorchServe, in the main thread: others get memory back from malloc less readily
            outcomes += map(outcome, batch) if threads == 1 else pool.map(outcome, batch)
            peaks[peak_mb() - before_mb] = " and ".join(name for name, _ in batch)
    slowest_s, slowest = max((seconds, name) for name, _, seconds in outcomes)
    answers = Counter(answer for _, answer, _ in outcomes)
    highest = max(peaks)
    result = {"peak_mb": highest, "of": peaks[highest], "slowest_s": slowest_s, "slowest": slowest, **answers}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
