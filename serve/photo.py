"""From the bytes of a photo to the pixels a model sees: once, for training, evaluation and serving.

This module travels inside every model archive, so a model is always fed by the code it was
trained with. Normalisation is not here: it is the first layer of the exported network
(``trainer/model.py``), where it cannot be forgotten.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from serve.errors import PhotoError

try:
    import cykooz_resizer as fast
except ImportError:  # it has wheels for x86_64 alone
    fast = None

MAX_PIXELS = 50_000_000
"""Largest photo that is decoded (width x height); a camera's 48 megapixels pass."""

DRAFT = 4
"""A JPEG is decoded at a half, a quarter or an eighth of its size where that still leaves so many times ``size_px``."""

Pixels = NDArray[np.uint8]


def read(data: bytes, size_px: int) -> Pixels:
    """Decode a JPEG or PNG and squash it to a square of ``size_px``.

    The whole photo is squashed (antialiased bilinear), never cropped: an object cut off at the border
    is a count lost. Against a full decode and PIL's ``resize`` a sample is at most 1 of 255 off; where
    a photo is so large that it is decoded smaller (DRAFT), samples are 1 off in the mean.

    Returns uint8 ``(size_px, size_px, 3)``, RGB, 0-255. Raises PhotoError.
    """
    return squash(decode(data, size_px), size_px)


def squash(image: Image.Image, size_px: int) -> Pixels:
    """Squash a decoded photo: uint8 ``(size_px, size_px, 3)``."""
    if fast is None:
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR), dtype=np.uint8)
    # what PIL computes, at most 1 of 255 off, with the processor's vector instructions: a fifth of the time
    source = fast.ImageData(*image.size, fast.PixelType.U8x3, image.tobytes())
    target = fast.ImageData(size_px, size_px, fast.PixelType.U8x3)
    bilinear = fast.ResizeOptions(resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear), use_alpha=False)
    fast.Resizer().resize(source, target, bilinear)
    return np.frombuffer(target.get_buffer(), dtype=np.uint8).reshape(size_px, size_px, 3)


def statistics(pixels: Pixels) -> tuple[float, float]:
    """Brightness and sharpness of a squashed photo, uint8 ``(S, S, 3)``, for drift and for the inspection report.

    Brightness: mean grey (ITU-R 601), 0-255. Sharpness: variance of the Laplacian of the grey values, >= 0
    (J. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000).
    """
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return round(float(grey.mean()), 3), round(float(laplacian.var()), 3)


def decode(data: bytes, size_px: int | None = None) -> Image.Image:
    """Decode a JPEG or PNG to an upright RGB image, of full size or well above ``size_px``. Raises PhotoError."""
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
    if image.mode.startswith("I"):  # 16 bits a sample: convert() would clip instead of scale
        samples = np.asarray(image, dtype=np.uint32)
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
