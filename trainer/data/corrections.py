"""Corrections of training photos whose record is doubtful: they are left out, or get another count.

Photos of validation and test stay as they are, because models are evaluated on the recorded counts. Corrections
change the fingerprint of the dataset, and photos that are left out are listed among the skipped ones.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from pathlib import Path

from serve.errors import DataError
from trainer.data import tables
from trainer.data.abid import MAX_QUANTITY, Photo, Skipped
from trainer.data.counts import Counts
from trainer.data.split import Split

log = logging.getLogger(__name__)


def drop_suspects(
    share: float, ranked: Sequence[str], split_of: Mapping[str, Split]
) -> tuple[dict[str, Split], tuple[Skipped, ...]]:
    """Remove the first ``share`` (0 to below 1) of the training photos in ``ranked`` from ``split_of``.

    ``ranked``: photo ids, the most suspicious first.
    """
    train = [photo_id for photo_id in ranked if split_of.get(photo_id) == Split.TRAIN]
    dropped = tuple(
        Skipped(photo_id, "the audit suspects its record") for photo_id in train[: floor(share * len(train))]
    )
    return _without(split_of, dropped), dropped


def relabel(
    path: Path, photos: Sequence[Photo], split_of: Mapping[str, Split], counts: Counts
) -> tuple[list[Photo], dict[str, Split], tuple[Skipped, ...]]:
    """Give training photos the counts in the relabel file ``path``.

    A photo without a count there, or with one outside ``counts``, is removed from ``split_of`` and skipped.
    """
    quantity_of = read_relabel_file(path)
    _warn_of_unused(path, quantity_of, photos, split_of)
    train = {photo_id: value for photo_id, value in quantity_of.items() if split_of.get(photo_id) == Split.TRAIN}
    count_of = {photo_id: None if value is None else counts.count_of(value) for photo_id, value in train.items()}
    skipped = tuple(
        Skipped(photo_id, _reason(train[photo_id])) for photo_id, count in sorted(count_of.items()) if count is None
    )
    return [_relabelled(photo, count_of.get(photo.id)) for photo in photos], _without(split_of, skipped), skipped


def _warn_of_unused(
    path: Path, quantity_of: Mapping[str, int | None], photos: Sequence[Photo], split_of: Mapping[str, Split]
) -> None:
    unknown = sorted(quantity_of.keys() - {photo.id for photo in photos})
    if unknown:
        log.warning("%s lists %d photos that are not in the dataset, the first is %s", path, len(unknown), unknown[0])
    held_out = sorted(photo_id for photo_id in quantity_of if split_of.get(photo_id, Split.TRAIN) != Split.TRAIN)
    if held_out:
        log.warning(
            "%s lists %d photos of validation or test, which keep their record; the first is %s",
            path,
            len(held_out),
            held_out[0],
        )


def _without(split_of: Mapping[str, Split], skipped: Sequence[Skipped]) -> dict[str, Split]:
    ids = {photo.id for photo in skipped}
    return {photo_id: split for photo_id, split in split_of.items() if photo_id not in ids}


def _relabelled(photo: Photo, count: int | None) -> Photo:
    return photo if count is None else replace(photo, count=count)


def _reason(quantity: int | None) -> str:
    return "the relabel file leaves it out" if quantity is None else f"the new count {quantity} is outside COUNTS"


def read_relabel_file(path: Path) -> dict[str, int | None]:
    """Photo id -> count, or None if the photo is to be left out. Raises DataError."""
    quantity_of: dict[str, int | None] = {}
    for row in tables.read_table(path, ("id", "count")):
        photo_id, quantity = row["id"].strip(), _quantity(path, row)
        if quantity_of.setdefault(photo_id, quantity) != quantity:
            raise DataError(f"{path} lists {photo_id} twice, with different counts; remove one of the two")
    return quantity_of


def _quantity(path: Path, row: Mapping[str, str]) -> int | None:
    if not row["count"].strip():
        return None
    quantity = tables.whole_number(row["count"])
    if quantity is None or quantity > MAX_QUANTITY:
        raise DataError(
            f"{path} gives photo {row['id']} the count {row['count']!r}; write a whole number from 0 to "
            f"{MAX_QUANTITY}, or nothing to leave the photo out"
        )
    return quantity
