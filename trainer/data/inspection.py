"""The inspection report of a prepared dataset: one self-contained HTML page.

It shows photos per count and split, photo sizes, brightness and sharpness, bins, sample photos of each count,
duplicates, and the photos that were left out.
"""

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from serve import photo as photos_io
from serve.files import write_text
from trainer.data import tables
from trainer.data.prepared import Prepared, Row
from trainer.data.recounts import is_recount
from trainer.data.split import SHARES, stable_hash

SAMPLES, SAMPLE_PX = 8, 128
MAX_LISTED = 200

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } table { border-collapse: collapse; }
td, th { border: 1px solid #999; padding: .2rem .6rem; text-align: left; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; }
.card { margin: 0; font-size: .9rem; } input[type=number] { width: 4rem; }"""


def write_report(prepared: Prepared, path: Path) -> Path:
    """Write the report of ``prepared`` to ``path`` and return ``path``."""
    rows = prepared.rows
    sections = [
        picture(_counts(rows), "Photos of each count, by split"),
        picture(_sizes(rows), "Width and height of the original photos, in pixels"),
        picture(
            _brightness_and_sharpness(rows),
            "Mean brightness (0-255), and sharpness (variance of the Laplacian; the lowest values are out of focus)",
        ),
        picture(_bins(rows), "Photos per bin"),
        *(
            _samples(prepared, count, name)
            for count, name in zip(prepared.counts.values, prepared.counts.names, strict=True)
        ),
        _duplicates(prepared),
        _skipped(prepared),
    ]
    title = f"Dataset {prepared.fingerprint[:12]}"
    sizes = Counter(row.split for row in rows)
    shares = ", ".join(f"{sizes[split]} {split}" for split in SHARES)
    lead = f"{len(rows)} photos ({shares}) of {len({row.bin for row in rows})} bins; {len(prepared.skipped)} left out."
    lead += f" Source: {html.escape(str(prepared.source))}"
    lead += _recounts(prepared)
    return write_text(path, page(title, lead, "".join(sections)))


def _recounts(prepared: Prepared) -> str:
    """How many recounts are in which split, and where they are from; empty without."""
    if prepared.recounts is None:
        return ""
    sizes = Counter(row.split for row in prepared.rows if is_recount(row.id))
    shares = ", ".join(f"{sizes[split]} {split}" for split in SHARES)
    return f". {sizes.total()} of the photos are recounts ({shares}): {html.escape(str(prepared.recounts))}"


def page(title: str, lead: str, body: str) -> str:
    """A whole HTML page; the parameters are HTML too."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{lead}</p>{body}</html>\n"
    )


def _counts(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    counts = sorted({row.count for row in rows})
    bottoms = [0] * len(counts)
    for split in SHARES:
        number_of = Counter(row.count for row in rows if row.split == split)
        heights = [number_of[count] for count in counts]
        axes.bar(list(map(str, counts)), heights, bottom=bottoms, label=split)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set(xlabel="recorded count", ylabel="photos")
    axes.legend()
    return figure


def _sizes(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    sizes = Counter((row.width, row.height) for row in rows)
    axes.scatter(
        [w for w, _ in sizes], [h for _, h in sizes], s=[8 + 200 * n / len(rows) for n in sizes.values()], alpha=0.5
    )
    axes.set(xlabel="width (px)", ylabel="height (px)")
    return figure


def _brightness_and_sharpness(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist([row.brightness for row in rows], bins=40)
    left.set(xlabel="brightness (0-255)", ylabel="photos")
    right.hist([row.sharpness for row in rows], bins=40)
    right.set(xlabel="sharpness", ylabel="photos")
    return figure


def _bins(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    sizes = Counter(Counter(row.bin for row in rows).values())
    axes.bar(list(sizes), list(sizes.values()))
    axes.set(xlabel="photos of one bin", ylabel="bins", yscale="log")
    return figure


def _samples(prepared: Prepared, count: int, name: str) -> str:
    rows = sorted((row for row in prepared.rows if row.count == count), key=lambda row: stable_hash(0, row.id))[
        :SAMPLES
    ]
    sheet = _sheet([prepared.path_of(row) for row in rows])
    return _embed(sheet, f"Photos with {name} recorded: {', '.join(row.id for row in rows)}")


def _duplicates(prepared: Prepared) -> str:
    """Photos that show the same image, side by side."""
    by_id = {row.id: row for row in prepared.rows}
    pairs = [(by_id[row.twin], row) for row in prepared.rows if row.twin in by_id]
    if not pairs:
        return "<p>No two photos show the same image.</p>"
    shown = pairs[: SAMPLES // 2]
    sheet = _sheet([prepared.path_of(row) for pair in shown for row in pair])
    names = "; ".join(f"{first.id} ({first.count}) and {second.id} ({second.count})" for first, second in shown)
    return _embed(sheet, f"{len(pairs)} photos show the same image as another, counts in brackets: {names}")


def _sheet(paths: Sequence[Path]) -> Image.Image:
    sheet = Image.new("RGB", (SAMPLE_PX * max(len(paths), 1), SAMPLE_PX), "white")
    for column, path in enumerate(paths):
        with tables.reading(path):
            pixels = photos_io.read(path.read_bytes(), SAMPLE_PX)
        sheet.paste(Image.fromarray(pixels), (SAMPLE_PX * column, 0))
    return sheet


def _skipped(prepared: Prepared) -> str:
    if not prepared.skipped:
        return "<p>No photo was left out.</p>"
    lines = "".join(
        f"<tr><td>{html.escape(photo.id)}<td>{html.escape(photo.reason)}" for photo in prepared.skipped[:MAX_LISTED]
    )
    more = f"the first {MAX_LISTED} of " if len(prepared.skipped) > MAX_LISTED else ""
    return f"<h2>Left out: {more}{len(prepared.skipped)}</h2><table><tr><th>photo<th>why{lines}</table>"


def picture(figure: Figure, caption: str) -> str:
    """A plot as an HTML figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return _figure(out.getvalue(), "png", caption)


def _embed(image: Image.Image, caption: str) -> str:
    return _figure(_jpeg(image), "jpeg", caption)


def embed_photo(path: Path, text: str, side_px: int = 200) -> str:
    """A photo, squashed to a square, as an HTML image; ``text`` is its alternative text."""
    with tables.reading(path):
        pixels = photos_io.read(path.read_bytes(), side_px)
    return _image(_jpeg(Image.fromarray(pixels)), "jpeg", text)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _figure(data: bytes, kind: str, caption: str) -> str:
    return f"<figure>{_image(data, kind, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _image(data: bytes, kind: str, text: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(text, quote=True)}" src="data:image/{kind};base64,{encoded}">'
