"""What is changed about training photos whose record is doubted: left out, or given another count.

Only training photos are touched, never validation or test: a model is judged by the records as
they are. What is changed is in the dataset's fingerprint, and what is left out is named.
"""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from pathlib import Path

from serve.errors import DataError
from trainer.data.abid import MAX_QUANTITY, Photo, Skipped
from trainer.data.counts import Counts

log = logging.getLogger(__name__)


def drop_suspects(
    share: float, ranked: Sequence[str], of: Mapping[str, str]
) -> tuple[dict[str, str], tuple[Skipped, ...]]:
    """Take the ``share`` (0 to below 1) of the training photos that stand first in ``ranked`` out of ``of``."""
    if not 0 <= share < 1:
        raise DataError(f"the share of suspects to drop is {share}; give a number from 0 to below 1")
    training = [photo_id for photo_id in ranked if of.get(photo_id) == "train"]
    dropped = set(training[: floor(share * len(training))])
    kept = {photo_id: name for photo_id, name in of.items() if photo_id not in dropped}
    return kept, tuple(Skipped(each, "the audit suspects its record") for each in training if each in dropped)


def relabel(
    path: Path, photos: Sequence[Photo], of: Mapping[str, str], counts: Counts
) -> tuple[list[Photo], dict[str, str], tuple[Skipped, ...]]:
    """Give the training photos that ``path`` names the count that it says; without a count they are left out."""
    wanted = read_relabel_file(path)
    unknown = sorted(wanted.keys() - {photo.id for photo in photos})
    if unknown:
        log.warning("%s names %d photos that are not used here, the first is %s", path, len(unknown), unknown[0])
    spared = sorted(each for each in wanted if of.get(each, "train") != "train")
    if spared:
        log.warning(
            "%s names %d photos of validation or test, which keep their record; the first is %s",
            path,
            len(spared),
            spared[0],
        )
    new = {each: quantity for each, quantity in wanted.items() if of.get(each) == "train"}
    classes = {each: None if quantity is None else counts.of(quantity) for each, quantity in new.items()}
    out = tuple(Skipped(each, _reason(new[each])) for each, count in sorted(classes.items()) if count is None)
    kept = {photo_id: name for photo_id, name in of.items() if photo_id not in {each.id for each in out}}
    return [_relabelled(photo, classes.get(photo.id)) for photo in photos], kept, out


def _relabelled(photo: Photo, count: int | None) -> Photo:
    return photo if count is None else replace(photo, count=count)


def _reason(quantity: int | None) -> str:
    return "the relabel file leaves it out" if quantity is None else f"the new count {quantity} is outside COUNTS"


def read_relabel_file(path: Path) -> dict[str, int | None]:
    """Photo id -> count, or None where the photo is to be left out. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if not {"id", "count"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} has the columns {reader.fieldnames}; it needs id and count")
            return {row["id"]: _quantity(path, row) for row in reader}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the relabel file {path} cannot be read: {error}") from error


def _quantity(path: Path, row: Mapping[str, str]) -> int | None:
    text = (row["count"] or "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) > MAX_QUANTITY:
        raise DataError(
            f"{path} gives photo {row['id']} the count {text!r}; write a whole number from 0 to {MAX_QUANTITY}, "
            "or nothing to leave the photo out"
        )
    return int(text)
