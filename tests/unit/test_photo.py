import io
import random
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from serve import photo
from serve.errors import PhotoError
from tests import edge_photos
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
    bomb = edge_photos.png(20_000, 20_000, 1, 0)
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


def pixels_or_reason(data: bytes, whole: bool) -> bytes | str:
    """What becomes of a photo; ``whole``: decoded by Pillow, as for people, not for a model."""
    try:
        return (photo.squash(photo.decode(data, 16), 16) if whole else photo.read(data, 16)).tobytes()
    except PhotoError as error:
        return str(error)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_quick_decoder_gives_what_pillow_gives_of_flawless_and_of_damaged_photos(subsampling: int) -> None:
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    flawless = encode(picture, "JPEG", quality=85, subsampling=subsampling, progressive=subsampling == 1)
    random = np.random.default_rng(subsampling)
    photos = [
        flawless,
        flawless + b"more",
        encode(picture.convert("L"), "JPEG"),
        encode(picture.convert("CMYK"), "JPEG"),
    ]
    for _ in range(rounds(150, 3000)):
        damaged = bytearray(flawless[: random.integers(len(flawless) // 2, 2 * len(flawless))])
        damaged[random.integers(len(damaged))] = random.integers(256)
        photos.append(bytes(damaged))
    results = [(pixels_or_reason(data, whole=True), pixels_or_reason(data, whole=False)) for data in photos]
    assert all(pillow == quick for pillow, quick in results)
    assert {type(quick) for _, quick in results} == {bytes, str}


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


def with_exif(block: bytes) -> bytes:
    """A JPEG, red above blue, with an EXIF block."""
    image = Image.new("RGB", (60, 90), (255, 0, 0))
    image.paste((0, 0, 255), (0, 45, 60, 90))
    data = encode(image, "JPEG", quality=95)
    return data[:2] + edge_photos.segment(0xE1, b"Exif\0\0" + block) + data[2:]


def is_upright(data: bytes) -> bool:
    pixels = photo.read(data, 16)
    return bool(pixels[0, 8, 0] > 200 > pixels[-1, 8, 0])


def ifd(*fields: tuple[int, int, int, int], order: str = "<", start: int = 8, number: int | None = None) -> bytes:
    """An EXIF block with fields of tag, type, count and value."""
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
    count = struct.pack(f"{order}H", len(fields) if number is None else number)
    return head + count + b"".join(struct.pack(f"{order}HHII", *field) for field in fields)


TURNED = (0x0112, 4, 1, 3)
HUGE = 0xFFFFFFFF


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"I",
        b"II",
        b"MM",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08",
        b"II*\0\x08\0\0\0\xff\xff",
        b"\0" * 100,
        b"\xff" * 100,
        b"text where a block belongs" * 10,
        b"Exif\0\0" * 5000,
        ifd(),
        ifd(start=0),
        ifd(start=HUGE),
        ifd(number=0xFFFF),
        ifd((0x0112, 3, 1, 0)),
        ifd((0x0112, 3, 1, 9)),
        ifd((0x0112, 3, 1, 0xFFFF)),
        ifd((0x0112, 9, 1, HUGE)),
        ifd((0x0112, 2, 1, 3)),
        ifd((0x0112, 2, HUGE, 8)),
        ifd((0x0112, 3, 0, 3)),
        ifd((0x0112, 3, HUGE, 8)),
        ifd((0x0112, 5, 1, 8)),
        ifd((0x0112, 12, 1, 8)),
        ifd((0x0112, 99, 1, 3)),
        ifd((0x8769, 4, 1, 8), (0x8825, 4, 1, 8)),
        edge_photos.exif()[6:65_000],
    ],
)
def test_a_damaged_exif_block_leaves_the_photo_upright(block: bytes) -> None:
    assert is_upright(with_exif(block))


@pytest.mark.parametrize(
    "block",
    [
        ifd(TURNED),
        ifd(TURNED, order=">"),
        ifd((0x0112, 3, 1, 3)),
        ifd((0x0112, 1, 1, 3)),
        ifd((0x010E, 2, HUGE, HUGE), TURNED),
        ifd((0x0132, 12, 1, 7), (0x011A, 5, 0, 0), TURNED, (0x8769, 4, 1, HUGE)),
        ifd(TURNED, number=500),
        b"Exif\0\0" + ifd(TURNED),
    ],
)
def test_an_orientation_is_found_among_damaged_fields(block: bytes) -> None:
    assert not is_upright(with_exif(block))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_photos_are_turned_as_pillow_turns_them(half: Image.Image, orientation: int, form: str, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta tiff:Orientation="{orientation}"/>'.encode()
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    in_xmp = encode(half, form, pnginfo=texts) if form == "PNG" else encode(half, form, xmp=xmp)
    data = encode(half, form, exif=exif) if kind == "exif" else in_xmp
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(photo.decode(data)), np.asarray(expected))


def test_mutated_exif_blocks_are_never_an_error() -> None:
    whole, rng = with_exif(ifd((0x010E, 2, 9, 60), TURNED, (0x011A, 5, 1, 70)) + bytes(40)), random.Random(0)
    for _ in range(rounds(400, 20_000)):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4, 8))):
            place = rng.randrange(12, 90)
            size = rng.choice((1, 2, 4))
            data[place : place + size] = rng.choice((b"\0", b"\xff", b"\x80", rng.randbytes(1))) * size
        assert photo.read(bytes(data), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 5000, b"\xff\xd8\xff\xda", b"MotionPhoto" * 1000, b"\xff\xd9"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_bytes_after_the_end_do_not_matter(half: Image.Image, tail: bytes, form: str) -> None:
    data = encode(half, form)
    assert photo.is_whole(data + tail)
    assert np.array_equal(photo.read(data + tail, 16), photo.read(data, 16))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_photo_without_its_end_is_not_whole(half: Image.Image, form: str) -> None:
    data = encode(half.resize((200, 200)), form)
    with_thumbnail = with_exif(ifd() + encode(half, "JPEG"))
    assert not any(photo.is_whole(data[:length]) for length in range(len(data) - (2 if form == "JPEG" else 8)))
    assert photo.is_whole(with_thumbnail)
    assert not photo.is_whole(with_thumbnail[:-2])  # the end of the thumbnail is not that of the photo


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (edge_photos.png(50_000_000, 1, 1, 0), "50000000x1"),
        (edge_photos.png(1, 70_000, 8, 2), "1x70000"),
        (edge_photos.png(7072, 7072, 1, 0), "7072x7072"),
        (edge_photos.jpeg(15_812, 15_812), "15812x15812"),
        (edge_photos.jpeg(15_800, 15_800, 3, 0xC2), "baseline"),
        (edge_photos.jpeg(64, 64, 3, 0xC2, scans=100), "scans"),
        (edge_photos.jpeg(64, 64, before=edge_photos.segment(0xE1, b"Exif\0\0") * 600), "segments"),
        (edge_photos.jpeg(64, 64, 3, 0xC2, before=edge_photos.segment(0xFE, b"") * 600), "segments"),
        (edge_photos.png(64, 64, 8, 2, before=edge_photos.chunk(b"tEXt", b"a\0b") * 600), "chunks of metadata"),
        (edge_photos.png(64, 64, 8, 2, before=edge_photos.chunk(b"IDAT", b"") * 60_000), "chunks of pixels"),
    ],
)
def test_refuses_what_would_take_too_much_at_once(data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        photo.read(data, 224)


def test_a_photo_of_several_pictures_is_its_first(half: Image.Image) -> None:
    plain, several = encode(half, "JPEG"), encode(half, "MPO", save_all=True, append_images=[half.rotate(180)])
    animated = encode(half, "PNG", save_all=True, append_images=[half.rotate(180)])
    assert np.array_equal(photo.read(several, 16), photo.read(plain, 16))
    assert np.array_equal(photo.read(animated, 16), photo.read(encode(half), 16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P", "L"])
def test_large_photos_are_converted_in_bands_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA")
    image = Image.fromarray(noise.view(np.uint16)[..., 0].copy()) if mode == "I;16" else image.convert(mode)
    data = encode(image, "PNG", transparency=7) if mode in "PL" else encode(image)
    whole = np.asarray(photo.decode(data))
    monkeypatch.setattr(photo, "_BAND_PIXELS", 500)
    assert np.array_equal(np.asarray(photo.decode(data)), whole)
