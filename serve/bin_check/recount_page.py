"""recount.html: the first bins of the list with their photos, in one file that needs no network."""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from serve import photo
from serve.bin_check.bin_photos import BinPhotos
from serve.bin_check.bin_records import BinRecords
from serve.bin_check.recount_list import Entry, RecountList
from serve.errors import BinwatchError
from serve.files import write_text

SHOWN = 500
SIDE_PX, QUALITY = 240, 70
"""Of a thumbnail, which has about 8 kB."""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bins to recount</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
article { display: flex; gap: 1rem; border-top: 1px solid #bbb; padding: .8rem 0; break-inside: avoid; }
.photo { flex: 0 0 240px; }
img { max-width: 240px; height: auto; }
h2 { font-size: 1rem; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem; margin: .3rem 0 0; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
.chosen { background: #fff6dc; }
@media (max-width: 40rem) { article { flex-direction: column; } }
</style>
</head>
<body>
<h1>Bins to recount</h1>
"""


def write_page(recount_list: RecountList, records: BinRecords, photos: BinPhotos, path: Path) -> Path:
    """Write the page with at most SHOWN bins; returns ``path``."""
    shown = recount_list.entries[:SHOWN]
    summary = "".join(f"<p>{escape(line)}</p>\n" for line in recount_list.text().splitlines())
    rest = len(recount_list.entries) - len(shown)
    more = f"<p>{rest} more bins are in recount.csv.</p>\n" if rest else ""
    articles = "".join(_article(entry, records, photos) for entry in shown)
    return write_text(path, f"{_HEAD}{summary}{articles}{more}</body>\n</html>\n")


def _article(entry: Entry, records: BinRecords, photos: BinPhotos) -> str:
    item = entry.item
    likely = "" if entry.probability_wrong is None else f"{entry.probability_wrong:.0%}"
    rows = [
        ("record", f"{item.recorded}{_products(item.bin_id, records)}"),
        ("seen", "" if item.seen is None else str(item.seen)),
        ("record is wrong", likely),
        ("why", f"{item.verdict} by {item.evidence or 'photo'}: {item.reason}"),
    ]
    title, marked = f"{entry.rank}. bin {item.bin_id}", ' class="chosen"' if entry.chosen else ""
    picture = _picture(item.photo, f"bin {item.bin_id}", photos)
    return (
        f'<article{marked}><div class="photo">{picture}</div><div><h2>{escape(title)}</h2>{_listing(rows)}</div>'
        "</article>\n"
    )


def _listing(rows: Sequence[tuple[str, str]]) -> str:
    parts = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows if text)
    return f"<dl>{''.join(parts)}</dl>"


def _products(bin_id: str, records: BinRecords) -> str:
    with suppress(BinwatchError):
        listed = records.read(bin_id).record.listed
        return "".join(f"; {product.quantity} x {product.name or product.id or product.size}" for product in listed)
    return ""


def _picture(address: str, title: str, photos: BinPhotos) -> str:
    try:
        image = photo.decode(photos.read(address), SIDE_PX)
    except BinwatchError as error:
        return escape(str(error))
    image.thumbnail((SIDE_PX, SIDE_PX))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    data = base64.b64encode(out.getvalue()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(title)}" width="{image.width}" height="{image.height}">'
    )
