import io

import numpy as np
import pytest
from PIL import Image

from serve import photo
from serve.errors import PhotoError
from tests.conftest import rounds


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture
def half() -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (90, 60), (255, 0, 0))
    image.paste((0, 0, 255), (45, 0, 90, 60))
    return image


def test_squashes_the_whole_photo(half: Image.Image) -> None:
    pixels = photo.read(encode(half), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[8, 0]) == (255, 0, 0)
    assert tuple(pixels[8, -1]) == (0, 0, 255)


def test_turns_a_photo_upright(half: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = photo.read(encode(half, "JPEG", exif=exif, quality=95), 16)
    assert pixels[8, 0, 2] > 200 > pixels[8, 0, 0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_accepts_other_colour_modes(half: Image.Image, mode: str) -> None:
    data = encode(half.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert photo.read(data, 16).shape == (16, 16, 3)


def test_scales_sixteen_bits() -> None:
    deep = Image.fromarray(np.full((20, 20), 32768, dtype=np.uint16))
    assert photo.read(encode(deep), 8)[0, 0, 0] == 128


@pytest.mark.parametrize("data", [b"", b"no photo", b"GIF89a", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_says_why_a_photo_cannot_be_read(data: bytes) -> None:
    with pytest.raises(PhotoError, match="send"):
        photo.read(data, 16)


def test_refuses_a_truncated_photo(half: Image.Image) -> None:
    with pytest.raises(PhotoError, match="cannot be read"):
        photo.read(encode(half.resize((400, 400)), "JPEG")[:900], 16)


def test_refuses_a_decompression_bomb() -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)))
    with pytest.raises(PhotoError, match=r"20000|bomb"):
        photo.read(bomb, 16)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_bytes_are_refused_and_never_crash(half: Image.Image, form: str) -> None:
    whole, rng = encode(half, form), np.random.default_rng(0)
    refused = 0
    for _ in range(rounds(300, 20_000)):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            data[place] = rng.integers(0, 256)
        try:
            pixels = photo.read(bytes(data), 8)
        except PhotoError:
            refused += 1
        else:
            assert pixels.shape == (8, 8, 3)
            assert pixels.dtype == np.uint8
    assert refused > 50
