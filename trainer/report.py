"""The inspection report of a prepared dataset: one HTML page, pictures first, nothing loaded from elsewhere.

Photos per count and split, photo sizes, brightness and sharpness, bins, sample photos of each
count, pictures that occur twice, and what was left out.
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
from trainer.prepared import Prepared, Row
from trainer.split import SHARES, stable_hash

SAMPLES, SAMPLE_PX = 8, 128
MOST_LISTED = 200

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } table { border-collapse: collapse; }
td, th { border: 1px solid #999; padding: .2rem .6rem; text-align: left; }"""


def write_report(prepared: Prepared, path: Path) -> Path:
    """Write the report of ``prepared`` to ``path``, whole or not at all, and return it."""
    rows = prepared.rows
    sections = [
        _picture(_counts(rows), "Photos of each count, by split"),
        _picture(_sizes(rows), "Width and height of the photos as they came, in pixels"),
        _picture(
            _light(rows), "Mean brightness (0-255), and sharpness (variance of the Laplacian): far left is out of focus"
        ),
        _picture(_bins(rows), "How many photos show the same bin"),
        *(_samples(prepared, count) for count in prepared.counts),
        _twins(prepared),
        _left_out(prepared),
    ]
    title = f"Dataset {prepared.fingerprint[:12]}"
    splits = Counter(row.split for row in rows)
    shares = ", ".join(f"{splits[name]} {name}" for name in SHARES)
    lead = f"{len(rows)} photos ({shares}) of {len({row.bin for row in rows})} bins; {len(prepared.skipped)} left out."
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{lead} Source: {html.escape(str(prepared.source))}</p>{''.join(sections)}</html>\n"
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)


def _counts(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    counts = sorted({row.count for row in rows})
    below = [0] * len(counts)
    for name in SHARES:
        found = Counter(row.count for row in rows if row.split == name)
        heights = [found[count] for count in counts]
        axes.bar(list(map(str, counts)), heights, bottom=below, label=name)
        below = [a + b for a, b in zip(below, heights, strict=True)]
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


def _light(rows: Sequence[Row]) -> Figure:
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


def _samples(prepared: Prepared, count: int) -> str:
    rows = sorted((row for row in prepared.rows if row.count == count), key=lambda row: stable_hash(0, row.id))[
        :SAMPLES
    ]
    sheet = _sheet([prepared.root / row.path for row in rows])
    return _embed(sheet, f"Photos with {count} recorded: {', '.join(row.id for row in rows)}")


def _twins(prepared: Prepared) -> str:
    """Pictures that occur more than once, side by side."""
    same = Counter(row.picture for row in prepared.rows)
    rows = sorted((row for row in prepared.rows if same[row.picture] > 1), key=lambda row: row.picture)
    if not rows:
        return "<p>No two photos have the same pixels.</p>"
    sheet = _sheet([prepared.root / row.path for row in rows[:SAMPLES]])
    return _embed(sheet, f"{len(rows)} photos have pixels that occur twice; the first: "
                  f"{', '.join(row.id for row in rows[:SAMPLES])}")  # fmt: skip


def _sheet(paths: Sequence[Path]) -> Image.Image:
    sheet = Image.new("RGB", (SAMPLE_PX * max(len(paths), 1), SAMPLE_PX), "white")
    for column, path in enumerate(paths):
        pixels = photos_io.read(path.read_bytes(), SAMPLE_PX)
        sheet.paste(Image.fromarray(pixels), (SAMPLE_PX * column, 0))
    return sheet


def _left_out(prepared: Prepared) -> str:
    if not prepared.skipped:
        return "<p>No photo was left out.</p>"
    lines = "".join(
        f"<tr><td>{html.escape(each.id)}<td>{html.escape(each.reason)}" for each in prepared.skipped[:MOST_LISTED]
    )
    more = f"the first {MOST_LISTED} of " if len(prepared.skipped) > MOST_LISTED else ""
    return f"<h2>Left out: {more}{len(prepared.skipped)}</h2><table><tr><th>photo<th>why{lines}</table>"


def _picture(figure: Figure, caption: str) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return _figure(out.getvalue(), "png", caption)


def _embed(image: Image.Image, caption: str) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return _figure(out.getvalue(), "jpeg", caption)


def _figure(data: bytes, kind: str, caption: str) -> str:
    text = html.escape(caption, quote=True)
    encoded = base64.b64encode(data).decode()
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{encoded}"><figcaption>{text}</figcaption></figure>'
    )
