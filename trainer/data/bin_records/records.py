"""The records of photos: which products the bin holds, with their quantities, sizes and weights.

The record of a recount has products only where the record that was checked turned out to be right.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from serve.errors import FieldError
from serve.evidence.record import Record, parse_record
from trainer.data.abid import Photo
from trainer.data.counts import Counts
from trainer.data.dataset import digest
from trainer.data.recounts import PREFIX


def records_of(photos: Iterable[Photo]) -> dict[str, Record]:
    """Photo id -> record, for the photos of a source in the dataset's layout, loaded or prepared.

    Photos of other layouts are absent, and so are photos whose record cannot be read, or contradicts itself.
    """
    return {photo.id: record for photo in photos if (record := _read(photo)) is not None}


def read_json(photo: Photo) -> Any:
    """The record of a photo as it is stored, None where the photo has another layout.

    Raises OSError, ValueError and RecursionError for a file that cannot be read.
    """
    folder, name = photo.path.parent, photo.id.removeprefix(PREFIX)
    if folder.name != "bin-images" or photo.path.stem != name:
        return None
    return json.loads((folder.parent / "metadata" / f"{name}.json").read_bytes())


def _read(photo: Photo) -> Record | None:
    try:
        return parse_record(read_json(photo))
    except (FieldError, OSError, ValueError, RecursionError):
        return None


def with_sizes(photos: Sequence[Photo]) -> dict[int, Record]:
    """Row -> record, of the photos whose record has sizes."""
    records = records_of(photos)
    known = {row: records[photo.id] for row, photo in enumerate(photos) if photo.id in records}
    return {row: record for row, record in known.items() if record.has_sizes}


def records_digest(photos: Iterable[Photo]) -> str:
    """SHA-256 of what the records of photos say of products, in any order. It is not in the fingerprint of photos."""
    records = records_of(photos)
    return digest(f"{name} {json.dumps(record.to_products())}" for name, record in records.items())


def right_records(photos: Sequence[Photo], counts: Counts) -> dict[int, Record]:
    """The same, of the photos whose record says their count. One that does not has been corrected, and is wrong."""
    return {
        row: record
        for row, record in with_sizes(photos).items()
        if counts.count_of(record.quantity) == photos[row].count
    }
