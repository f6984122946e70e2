"""Photos and bodies damaged in many ways, seeded: the requests of the fuzz tests of the handler."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from tests.records import PRODUCTS, RECORD

PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, data: bytes, before: bytes = b"", interlace: int = 0
) -> bytes:
    """A PNG file with an arbitrary header, whatever the data is."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return PNG_START + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def whole(photo: bytes) -> list[bytes]:
    """Undamaged files: every mode and format that decoders know, six times, and oddities."""
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((96, 64))
    odd = Image.Exif()
    odd[0x0112] = 6
    odd[0x010E] = "x" * 300
    jpegs = [
        _saved(image, "JPEG", quality=80, progressive=progressive, subsampling=subsampling, exif=odd)
        for progressive in (False, True)
        for subsampling in (0, 2)
    ]
    jpegs += [_saved(image.convert(mode), "JPEG") for mode in ("CMYK", "L")]
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    pngs = [_saved(image.convert("L").convert(mode), "PNG") for mode in modes]
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    animated = _saved(image, "PNG", **frames)
    return [photo, *jpegs, *pngs, animated, _saved(image, "PNG", exif=odd)] * 6 + oddities()


def oddities() -> list[bytes]:
    """Small files that claim to be large, or are nothing."""
    row = b"\0" + b"\xff" * 24
    return [
        *(png(width, height, 8, 2, row * 8) for width, height in ((0, 0), (0, 8), (8, 0), (8, 8), (2**31 - 1, 1))),
        png(2**31 - 1, 2**31 - 1, 16, 6, row),  # a bomb of 2**65 bytes by its header
        png(7071, 7071, 8, 0, bytes(100)),  # as large as is allowed, with nothing in it
        *(png(8, 8, depth, colour, row * 8) for depth in (1, 2, 3, 4, 8, 16, 32) for colour in (0, 1, 2, 3, 4, 6, 7)),
        png(8, 8, 8, 2, row * 8, interlace=1),
        png(8, 8, 8, 3, row * 8, before=chunk(b"PLTE", b"\1\2\3") + chunk(b"tRNS", bytes(300))),
        png(
            8, 8, 8, 2, row * 8, before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff") + chunk(b"iCCP", b"x\0\0" + b"y" * 50)
        ),
        png(8, 8, 8, 2, row * 8, before=chunk(b"tEXt", b"a\0" + b"b" * 5000) + chunk(b"zTXt", b"a\0\0" + b"?" * 50)),
        png(8, 8, 8, 2, row * 8, before=chunk(b"acTL", bytes(8)) + chunk(b"fcTL", bytes(26))),
        png(8, 8, 8, 2, row * 8, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))),
        PNG_START,
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" + b"\xff\xd9",
        b"GIF89a" + bytes(20),
        b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(20),
        b"II*\0\x08\0\0\0" + bytes(50),
        b"BM" + bytes(60),
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"",
    ]


def _flip(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    place, filler = rng.randrange(len(data)), rng.choice((b"\0", b"\xff", b"\x80", rng.randbytes(1)))
    number = rng.choice((1, 2, 4, 64))
    return data[:place] + filler * number + data[place + number :]


def _truncate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    tail = rng.choice(others)
    return data[: rng.randrange(len(data))] + tail[rng.randrange(len(tail) + 1) :]


def _repeat(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    end = rng.randrange(start, min(len(data), start + 2000)) + 1
    return data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]


def _cut_out(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 2, 4, 100)) :]


def _header(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Another value in a field of a JPEG's segment or a PNG's chunk: lengths, sizes, tables."""
    if data.startswith(PNG_START) and len(data) > 33 and rng.random() < 0.6:
        header = bytearray(data[16:29])
        place = rng.randrange(13)
        header[place] = rng.choice((0, 1, 2, 3, 7, 8, 16, 32, 127, 255))
        return PNG_START + chunk(b"IHDR", bytes(header)) + data[33:]
    starts = [place for place in range(len(data) - 5) if data[place] == 0xFF and 0xC0 <= data[place + 1] <= 0xFE]
    place = rng.choice(starts) + 2 if starts else rng.randrange(len(data))
    place += rng.randrange(8)
    return data[:place] + rng.choice((b"\0\0", b"\0\1", b"\xff\xff", b"\0\x02", rng.randbytes(2))) + data[place + 2 :]


def _polyglot(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return rng.choice((data + rng.choice(others), b"PK\3\4" + data, data + b"<script>", b"%PDF-1.7\n" + data, data * 2))


_WAYS: tuple[Callable[[random.Random, bytes, list[bytes]], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _truncate,
    _splice,
    _repeat,
    _cut_out,
    _header,
    _header,
    _polyglot,
)


def photo_of(rng: random.Random, files: list[bytes]) -> bytes:
    """A damaged photo; now and then a whole one."""
    data = rng.choice(files)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        data = rng.choice(_WAYS)(rng, data, files) if data else data
    return data


def body_of(rng: random.Random, files: list[bytes]) -> tuple[str, bytes]:
    """A damaged JSON body or link, and its content type."""
    if rng.random() < 0.2:
        link = rng.choice(
            (b"s3://bins/a.jpg", b"https://bins.s3.amazonaws.com/%C3%A9", b"http://127.0.0.1/", b"s3://\0/")
        )
        return "string/url", rng.choice(_WAYS)(rng, link, [b"s3://private/x", b"\xff"])
    content = [_object(rng, files) for _ in range(rng.choice((1, 1, 2, 3)))]
    wrapped = rng.choice((content[0], content, {"instances": content}, {"instances": content[0]}, [content]))
    text = json.dumps(wrapped).encode()
    damaged = rng.choice(_WAYS)(rng, text, [text, b"[" * 5000, b"\xff\xfe"])
    return "application/json", rng.choice((text, damaged))


def _with_damage(rng: random.Random, content: Any, odd: Sequence[object]) -> Any:
    """``content`` with something in it replaced, or left out; or as it is."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.1:
        return rng.choice((*odd, content, content, content))
    copy: Any = content.copy()
    key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    if rng.random() < 0.1:
        del copy[key]
    else:
        copy[key] = _with_damage(rng, content[key], odd)
    return copy


def _object(rng: random.Random, files: list[bytes]) -> object:
    odd: tuple[object, ...] = (
        None,
        True,
        -1,
        0,
        3,
        99999,
        10**30,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "3",
        "x" * 50,
        "\ud800",
        [],
        {},
    )
    image = base64.b64encode(photo_of(rng, files)[:20_000]).decode()
    content: dict[str, object] = {
        rng.choice(("image", "image", "uri", "Image")): rng.choice((image, image, image, *odd))
    }
    for name in ("expected_quantity", "weight", "expected_weight", "weight_unit", "uri", "instances", "\0"):
        if rng.random() < 0.2:
            content[name] = rng.choice(odd)
    for name, record in (("record", RECORD), ("products", PRODUCTS)):
        if rng.random() < 0.2:
            content[name] = _with_damage(rng, record, odd)
            content.pop("expected_quantity", None)
    return rng.choice((content, content, content, content, rng.choice(odd)))
