"""From the bytes of a photo to the pixels that a model gets: the one implementation for training, evaluation and
serving.

Normalisation is not here: it is the first layer of the exported network (``trainer/training/networks.py``), where it
cannot be forgotten.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from serve.errors import PhotoError

try:
    import cykooz_resizer as resizer
except ImportError:  # it has wheels for x86_64 only
    resizer = None

MAX_PIXELS = 50_000_000
"""Largest photo that is decoded (width x height): above the 48 megapixels of common cameras."""

DRAFT = 4
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as that is still this many times ``size_px``."""

Pixels = NDArray[np.uint8]


def read(data: bytes, size_px: int) -> Pixels:
    """Decode a JPEG or PNG and squash it to a square of ``size_px``.

    The whole photo is squashed (antialiased bilinear), never cropped: an object cut off at the border would not be
    counted. Against a full decode and PIL's ``resize``, a sample differs by at most 1 of 255; where a large photo is
    decoded at a reduced size (DRAFT), by 1 on average.

    Returns uint8 ``(size_px, size_px, 3)``, RGB, 0-255. Raises PhotoError.
    """
    return squash(decode(data, size_px), size_px)


def squash(image: Image.Image, size_px: int) -> Pixels:
    """Squash a decoded photo: uint8 ``(size_px, size_px, 3)``."""
    if resizer is None:
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR), dtype=np.uint8)
    # the same as PIL's to within 1 of 255, in a fifth of the time (SIMD)
    source = resizer.ImageData(*image.size, resizer.PixelType.U8x3, image.tobytes())
    target = resizer.ImageData(size_px, size_px, resizer.PixelType.U8x3)
    convolution = resizer.ResizeAlg.convolution(resizer.FilterType.bilinear)
    options = resizer.ResizeOptions(resize_alg=convolution, use_alpha=False)
    resizer.Resizer().resize(source, target, options)
    return np.frombuffer(target.get_buffer(), dtype=np.uint8).reshape(size_px, size_px, 3)


def statistics(pixels: Pixels) -> tuple[float, float]:
    """Brightness and sharpness of a squashed photo, uint8 ``(S, S, 3)``, for drift monitoring and the inspection page.

    Brightness: mean grey (ITU-R 601), 0-255. Sharpness: variance of the Laplacian of the grey values, >= 0
    (J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000).
    """
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return round(float(grey.mean()), 3), round(float(laplacian.var()), 3)


def decode(data: bytes, size_px: int | None = None) -> Image.Image:
    """Decode a JPEG or PNG to an upright RGB image: full size, or well above ``size_px``. Raises PhotoError."""
    if not data:
        raise PhotoError("the photo is empty (0 bytes); send the bytes of a JPEG or PNG file")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            _check_size(image.size)
            if size_px:
                image.draft(None, (DRAFT * size_px, DRAFT * size_px))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error)
        if "cannot identify" in reason:
            reason = f"it starts with {data[:8]!r}, which is neither JPEG nor PNG"
        message = f"the photo of {len(data)} bytes cannot be read: {reason}; send a JPEG or PNG"
        raise PhotoError(message) from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise PhotoError(f"the photo has {width}x{height} pixels; at most {MAX_PIXELS} are decoded")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per sample: convert() would clip instead of scale
        samples = np.asarray(image, dtype=np.uint32)
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
