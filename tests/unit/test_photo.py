import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
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


def as_pil(data: bytes, size_px: int) -> NDArray[np.int16]:
    """What PIL makes of a whole decode with its antialiased bilinear resize: the reference."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.int16)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (10, 7), (64, 64), (500, 300)])
@pytest.mark.parametrize("vectorised", [True, False])
def test_squashes_as_pil_does(size: tuple[int, int], vectorised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vectorised:  # as on a processor that the library has no wheel for
        monkeypatch.setattr(photo, "resizer", None)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise))
    assert np.abs(photo.read(data, 64) - as_pil(data, 64)).max() <= 1


@pytest.mark.parametrize(("size_px", "most", "mean"), [(224, 1, 0.2), (160, 1, 0.2), (64, 20, 1.0)])
def test_real_photos_are_within_the_tolerance_of_a_whole_decode(
    full_size: Path, size_px: int, most: int, mean: float
) -> None:
    distances = []
    for path in sorted(full_size.iterdir())[:: rounds(4, 1)]:
        data = path.read_bytes()
        distances.append(np.abs(photo.read(data, size_px) - as_pil(data, size_px)))
    assert max(int(distance.max()) for distance in distances) <= most
    assert max(float(distance.mean()) for distance in distances) <= mean


def test_a_photo_far_larger_than_needed_is_decoded_smaller() -> None:
    big = Image.radial_gradient("L").resize((2000, 1600)).convert("RGB")
    jpeg, png = encode(big, "JPEG", quality=95), encode(big)
    assert photo.decode(jpeg).size == photo.decode(png, 32).size == (2000, 1600)
    assert photo.decode(jpeg, 32).size == (250, 200)
    assert photo.decode(jpeg, 64).size == (500, 400)  # at least four times as large as needed
    distances = np.abs(photo.read(jpeg, 64) - as_pil(jpeg, 64))
    assert distances.mean() < 1
    upright = Image.Exif()
    upright[0x0112] = 6
    turned = photo.decode(encode(big, "JPEG", exif=upright), 64)
    assert turned.size == (400, 500)


def test_statistics_of_a_photo() -> None:
    grey = np.full((8, 8, 3), 100, dtype=np.uint8)
    assert photo.statistics(grey) == pytest.approx((100, 0), abs=1e-3)
    point = np.zeros((5, 5, 3), dtype=np.uint8)
    point[2, 2] = 90
    # of the nine values of the Laplacian one is -360, four are 90 and four are 0
    brightness, sharpness = photo.statistics(point)
    assert brightness == pytest.approx(90 / 25, abs=1e-3)
    assert sharpness == pytest.approx((360**2 + 4 * 90**2) / 9, rel=1e-4)
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert photo.statistics(red)[0] == pytest.approx(0.299 * 255, abs=1e-3)
