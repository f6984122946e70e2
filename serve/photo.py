"""From the bytes of a photo to the pixels that a model gets: the one implementation for training, evaluation and
serving.

Whatever the bytes are, ``read`` and ``decode`` return pixels or raise PhotoError, and take at most MAX_MB of memory
beyond the interpreter and the bytes themselves (``tests/integration/test_odd_files.py`` measures it).

Normalisation is not here: it is the first layer of the exported network (``trainer/training/networks.py``), where it
cannot be forgotten.
"""

import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from serve.errors import PhotoError

try:
    import cykooz_resizer as resizer
except ImportError:  # it has wheels for x86_64 only
    resizer = None
try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MAX_MB = 512
"""Memory that one photo takes at most, in MB. Photos that would need more are refused, or decoded at a smaller size."""

MAX_PIXELS = 50_000_000
"""Pixels (width x height) that are decoded at most: above the 48 megapixels of common cameras. A larger JPEG is decoded
at 1/2, 1/4 or 1/8 of its size."""

MAX_JPEG_PIXELS = 250_000_000
"""Largest JPEG: above the 200 megapixels of phones."""

MAX_SIDE_PX = 65_500
"""Longest side, the limit of libjpeg too. What a resize takes grows with the sides, whatever the area."""

MAX_CHUNKS, MAX_IDAT, MAX_SCANS = 500, 50_000, 64
"""A photo has fewer: segments of a JPEG, or chunks of a PNG, that are not pixels; chunks of pixels of a PNG; scans of a
JPEG. A decoder takes time for each, and for some the more the more there are."""

DRAFT = 4
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as that is still this many times ``size_px``."""

Pixels = NDArray[np.uint8]

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # neither data nor a restart
_SOI, _EOI, _SOS, _TEM, _APP1 = 0xD8, 0xD9, 0xDA, 0x01, 0xE1
_BARE = frozenset({_SOI, _EOI, _TEM})
"""Markers of segments without content."""
_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}
"""Segments of applications and comments. Of these, decoders need only JFIF's, 0xE0, and Adobe's, 0xEE."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_BAND_PIXELS = 1 << 20
_SPARE_MB = 48  # for what is not pixels: tables, lines, metadata
_ORIENTATION, _ORIENTATION_TYPES = 0x0112, {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TURNS: Mapping[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Segment(NamedTuple):
    """A segment of a JPEG: its marker's code, and the positions of its content, the length included."""

    marker: int
    start: int
    end: int


def read(data: bytes, size_px: int) -> Pixels:
    """Decode a JPEG or PNG and squash it to a square of ``size_px``.

    The whole photo is squashed (antialiased bilinear), never cropped: an object cut off at the border would not be
    counted. Against a full decode and PIL's ``resize``, a sample differs by at most 1 of 255; where a large photo is
    decoded at a reduced size (DRAFT), by 1 on average.

    Returns uint8 ``(size_px, size_px, 3)``, RGB, 0-255. Raises PhotoError.
    """
    with _photo_errors(data):
        image = _open(data, size_px)
        samples = _jpeg_samples(data, image)
        return squash(_load(image), size_px) if samples is None else _squash_samples(samples, size_px)


def squash(image: Image.Image, size_px: int) -> Pixels:
    """Squash a decoded RGB photo: uint8 ``(size_px, size_px, 3)``."""
    if resizer is None:
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR), dtype=np.uint8)
    # the same as PIL's to within 1 of 255, in a fifth of the time (SIMD)
    target = Image.new("RGB", (size_px, size_px))
    resizer.Resizer().resize_pil(image, target, _resize_options())
    return np.asarray(target, dtype=np.uint8)


def _squash_samples(samples: Pixels, size_px: int) -> Pixels:
    """The same as ``squash`` for a photo that is no PIL image: samples ``(H, W, 3)``."""
    height, width, _ = samples.shape
    source = resizer.ImageData(width, height, resizer.PixelType.U8x3, samples.tobytes())
    target = resizer.ImageData(size_px, size_px, resizer.PixelType.U8x3)
    resizer.Resizer().resize(source, target, _resize_options())
    return np.frombuffer(target.get_buffer(), dtype=np.uint8).reshape(size_px, size_px, 3)


def _resize_options() -> "resizer.ResizeOptions":
    convolution = resizer.ResizeAlg.convolution(resizer.FilterType.bilinear)
    return resizer.ResizeOptions(resize_alg=convolution, use_alpha=False)


def statistics(pixels: Pixels) -> tuple[float, float]:
    """Brightness and sharpness of a squashed photo, uint8 ``(S, S, 3)``, for drift monitoring and the inspection page.

    Brightness: mean grey (ITU-R 601), 0-255. Sharpness: variance of the Laplacian of the grey values, >= 0
    (J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000).
    """
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return round(float(grey.mean()), 3), round(float(laplacian.var()), 3)


def decode(data: bytes, size_px: int | None = None) -> Image.Image:
    """Decode a JPEG or PNG to an upright RGB image: full size, or well above ``size_px``. Raises PhotoError.

    Of EXIF and XMP only the orientation is read; where it cannot be read, the photo counts as upright.
    """
    with _photo_errors(data):
        return _load(_open(data, size_px))


@contextmanager
def _photo_errors(data: bytes) -> Iterator[None]:
    if not data:
        raise PhotoError("the photo is empty (0 bytes); send the bytes of a JPEG or PNG file")
    try:
        yield
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make the decoders raise nearly everything
        raise _unreadable(data, str(error)) from error


def _open(data: bytes, size_px: int | None) -> ImageFile:
    """A photo whose header is within the limits, and whose pixels are not decoded yet."""
    if data.startswith(_JPEG):
        return _open_jpeg(data, size_px)
    if data.startswith(_PNG):
        return _open_png(data)
    raise _unreadable(data, f"it starts with {data[:8]!r}, which is neither JPEG nor PNG")


def _jpeg_samples(data: bytes, image: ImageFile) -> Pixels | None:
    """The samples ``(H, W, 3)`` of an upright RGB JPEG at its full size: Pillow's, without its copies.

    None for all other photos, and for those that are not flawless: Pillow decodes these, and judges them.
    """
    if resizer is None or simplejpeg is None or not isinstance(image, JpegImageFile) or image.mode != "RGB":
        return None
    if image.decoderconfig[:1] != (1,) or _orientation(image.info) in _TURNS:
        return None
    with suppress(ValueError):
        return np.asarray(simplejpeg.decode_jpeg(data, strict=True), dtype=np.uint8)
    return None


def _load(image: ImageFile) -> Image.Image:
    """Decode an opened photo to an upright RGB image."""
    image.load()
    turn = _TURNS.get(_orientation(image.info))
    rgb = _to_rgb(image)
    if rgb is not image:
        image.close()  # frees its pixels before the turned image takes as much
    return rgb if turn is None else rgb.transpose(turn)


def _unreadable(data: bytes, reason: str) -> PhotoError:
    return PhotoError(f"the photo of {len(data)} bytes cannot be read: {reason}; send a JPEG or PNG")


def _open_png(data: bytes) -> ImageFile:
    kinds = list(islice(_png_chunks(data), MAX_IDAT + MAX_CHUNKS))
    pictures = kinds.count(b"IDAT")
    _check_number(data, "chunks of metadata", len(kinds) - pictures, MAX_CHUNKS)
    _check_number(data, "chunks of pixels", pictures, MAX_IDAT)
    image = PngImageFile(io.BytesIO(data))
    _check_size(image.size, MAX_PIXELS)
    return image


def _open_jpeg(data: bytes, size_px: int | None) -> ImageFile:
    segments = list(islice(jpeg_segments(data, header_only=True), MAX_CHUNKS))
    _check_number(data, "segments", len(segments), MAX_CHUNKS)
    image = JpegImageFile(io.BytesIO(_without_metadata(data, segments)))
    _check_size(image.size, MAX_JPEG_PIXELS)
    coefficients_mb = 0.0
    scan = segments[-1].start  # a JPEG without a scan cannot be opened
    if "progressive" in image.info or data[scan + 2] < image.layers:
        coefficients_mb = _coefficients_mb(data, image)
    width, height = image.size
    scale = _scale(width, height, size_px, coefficients_mb)
    image.draft(None, (max(width // scale, 1), max(height // scale, 1)))
    image.info |= _jpeg_metadata(data, segments)
    return image


def _without_metadata(data: bytes, segments: Sequence[Segment]) -> bytes:
    """A JPEG without what its pixels do not depend on: Pillow fails at some of it, and takes memory for the rest."""
    header = [data[part.start - 2 : part.end] for part in segments[:-1] if part.marker not in _METADATA]
    return b"".join([b"\xff\xd8", *header, data[segments[-1].start - 2 :]])


def _jpeg_metadata(data: bytes, segments: Sequence[Segment]) -> dict[str | tuple[int, int], bytes]:
    """EXIF, which may be divided among segments, and XMP, under Pillow's names."""
    texts = [data[part.start + 2 : part.end] for part in segments if part.marker == _APP1]
    exif = [text[len(_EXIF) :] for text in texts if text.startswith(_EXIF)]
    xmp = [text[len(_XMP) :] for text in texts if text.startswith(_XMP)]
    return {**({"exif": b"".join(exif)} if exif else {}), **({"xmp": xmp[-1]} if xmp else {})}


def _coefficients_mb(data: bytes, image: JpegImageFile) -> float:
    """The memory that a JPEG of several scans takes at full size, whatever size it is decoded at. Raises PhotoError."""
    segments = list(islice(jpeg_segments(data), MAX_SCANS + MAX_CHUNKS))
    scans = sum(part.marker == _SOS for part in segments)
    _check_number(data, "scans", scans, MAX_SCANS)
    _check_number(data, "segments", len(segments) - scans, MAX_CHUNKS)
    factors = [(across, down) for _, across, down, _ in image.layer[-image.layers :]]
    most_across, most_down = (max(values) for values in zip(*factors, strict=True))
    share = sum(across * down for across, down in factors) / (most_across * most_down)
    return 2e-6 * float(share) * image.width * image.height


def _scale(width: int, height: int, size_px: int | None, coefficients_mb: float) -> int:
    """1, 2, 4 or 8: the part of its size that a JPEG is decoded at. Raises PhotoError if that needs too much memory."""
    ratio = min(width, height) // (DRAFT * size_px) if size_px else 1
    smallest = next(scale for scale in (8, 4, 2, 1) if ratio >= scale or scale == 1)
    for scale in (1, 2, 4, 8):
        pixels = width * height / scale**2
        if scale >= smallest and pixels <= MAX_PIXELS and coefficients_mb + 4e-6 * pixels <= MAX_MB - _SPARE_MB:
            return scale
    raise PhotoError(
        f"the progressive JPEG of {width}x{height} pixels needs {coefficients_mb:.0f} MB, and a photo gets {MAX_MB}; "
        "save it as a baseline JPEG"
    )


def jpeg_segments(data: bytes, header_only: bool = False) -> Iterator[Segment]:
    """The segments of a JPEG up to the end of the picture; what follows does not belong to it.

    ``header_only``: up to the first scan.
    """
    position = 2
    while match := _MARKER.search(data, position):
        marker, start = match[1][0], match.end()
        position = start if marker in _BARE else start + int.from_bytes(data[start : start + 2], "big")
        yield Segment(marker, start, position)
        if marker == _EOI or (header_only and marker == _SOS):
            return


def is_whole(data: bytes) -> bool:
    """Whether ``data`` starts with a JPEG or PNG that has its end; what follows does not matter. It is not decoded."""
    if data.startswith(_JPEG):
        return any(part.marker == _EOI for part in jpeg_segments(data))
    return data.startswith(_PNG) and b"IEND" in _png_chunks(data)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """The kinds of the chunks of a PNG."""
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind
        position += 12 + length


def _check_number(data: bytes, what: str, number: int, limit: int) -> None:
    if number >= limit:
        raise _unreadable(data, f"it has {limit} {what} or more, which nothing needs")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if max(size) > MAX_SIDE_PX:
        raise PhotoError(f"the photo has {width}x{height} pixels; a side may have at most {MAX_SIDE_PX}")
    if width * height > max_pixels:
        raise PhotoError(f"the photo has {width}x{height} pixels; at most {max_pixels} are decoded")


def _to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as RGB: band by band, so that steps in between take little memory."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if not transparent and not image.mode.startswith("I"):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgb, rows = Image.new("RGB", image.size), max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_band_to_rgb(band), (0, top))
    return rgb


def _band_to_rgb(band: Image.Image) -> Image.Image:
    if band.mode.startswith("I"):  # 16 bits per sample: convert() would clip instead of scale
        samples = np.asarray(band, dtype=np.uint32)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    white = Image.new("RGBA", band.size, "white")
    return Image.alpha_composite(white, band.convert("RGBA")).convert("RGB")


def _orientation(info: Mapping[str | tuple[int, int], object]) -> int | None:
    """The EXIF orientation (1-8), from EXIF or XMP."""
    exif = info.get("exif")
    profile = info.get("Raw profile type exif")
    if exif is None and isinstance(profile, str):
        with suppress(ValueError):
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    number = _exif_orientation(exif) if isinstance(exif, bytes) else None
    if number is not None:
        return number
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    match = _XMP_ORIENTATION.search(xmp if isinstance(xmp, bytes) else str(xmp).encode(errors="replace"))
    return int(match[1]) if match else None


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF block; None if it has none, or is damaged.

    Pillow fails at some blocks, and copies every field first: 300 MB for a block of 64 kB whose fields overlap.
    """
    while exif.startswith(_EXIF):
        exif = exif[len(_EXIF) :]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or exif[2:4] not in (b"*\0", b"\0*"):
        return None
    value = None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (fields,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * fields, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == _ORIENTATION:
                code = _ORIENTATION_TYPES.get(kind) if number == 1 else None
                value = struct.unpack_from(f"{order}{code}", exif, place + 8)[0] if code else None
    except struct.error:  # the block ends early
        pass
    return value
