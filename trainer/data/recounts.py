"""Recounts as a second source of photos: what people counted in bins that the server had been asked about.

    RECOUNTS/bin-images/<event_id>.jpg    the photo
    RECOUNTS/metadata/<event_id>.json     its record, with what was counted as EXPECTED_QUANTITY, and "binwatch": the
                                          bin's id, and whether the event is in the random share

The gateway writes this folder (``serve/recount/``). All photos of one bin's id are one bin. A recount that does not
come from the random share comes from an alarm, where a model erred or a record was wrong: accuracy on such photos says
nothing about all bins, so they are ``train_only``.

A count that a person took at the bin is right where it contradicts the record of the same image in the first source.
Recounts of the same image that contradict each other are all left out.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError
from trainer.data import tables
from trainer.data.abid import Inventory, Photo, Skipped, merge_bins, read_photo
from trainer.data.counts import Counts
from trainer.data.mirrors import recount_mirror
from trainer.data.split import Split

PREFIX = "recount/"
"""What the ids of recounts begin with, followed by the event's id."""
METADATA = "metadata"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """What a record says of its recount. ``bin_id``: empty where unknown; ``random``: in the random share."""

    bin_id: str = ""
    random: bool = False


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    binwatch: _Origin


_METADATA = TypeAdapter(_Metadata)


def is_recount(photo_id: str) -> bool:
    """Whether a photo comes from a recount."""
    return photo_id.startswith(PREFIX)


def number_of_recounts(photos: Iterable[Photo]) -> int:
    """How many of the photos come from recounts."""
    return sum(is_recount(photo.id) for photo in photos)


def read_recounts(folder: Path | None, counts: Counts, bin_of: Mapping[str, str]) -> Inventory:
    """The recounted photos whose count is one of ``counts``, sorted by id; none where ``folder`` is None or not there.

    ``bin_of``: photo id -> bin in the first source, whose bin a recount joins if its bin's id is that photo's id.
    A copy of a bucket is brought up to date first. Raises DataError if the folder, or the bucket, cannot be read.
    """
    if folder is not None:
        recount_mirror.refresh(folder)
    if folder is None or not (folder / METADATA).is_dir():
        if folder and not folder.is_dir():
            log.warning("there is no folder %s, so there are no recounts yet", folder)
        return Inventory(folder or Path(), (), ())
    with tables.reading(folder / METADATA):
        names = sorted(path.name for path in (folder / METADATA).iterdir())
    event_ids = [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]
    entries = [_read(folder, event_id, counts, bin_of) for event_id in event_ids]
    photos = tuple(entry for entry in entries if isinstance(entry, Photo))
    return Inventory(folder, photos, tuple(entry for entry in entries if isinstance(entry, Skipped)))


def _read(folder: Path, event_id: str, counts: Counts, bin_of: Mapping[str, str]) -> Photo | Skipped:
    photo = read_photo(folder, event_id, counts)
    if isinstance(photo, Skipped):
        return Skipped(PREFIX + photo.id, photo.reason)
    photo_id = PREFIX + event_id
    try:
        origin = _METADATA.validate_python(tables.read_json(folder / METADATA / f"{event_id}.json")).binwatch
    except DataError as error:  # settled again in this moment
        return Skipped(photo_id, str(error))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        return Skipped(photo_id, f"the record does not say where the recount comes from: {place}: {problem['msg']}")
    bin_id = origin.bin_id.strip()
    return replace(photo, id=photo_id, bin=bin_of.get(bin_id, bin_id) or photo_id, train_only=not origin.random)


def contradictory(photos: Sequence[Photo], pairs: Iterable[tuple[int, int]]) -> tuple[Skipped, ...]:
    """The recounts of the same image that have different counts. ``pairs``: positions of photos with the same image."""
    skipped = []
    for _, recounts in _by_image(photos, pairs):
        if not _agree(recounts):
            counts = " and ".join(f"{photo.id} says {photo.count}" for photo in recounts)
            reason = f"recounts of the same image contradict each other: {counts}"
            skipped += [Skipped(photo.id, reason) for photo in recounts]
    return tuple(skipped)


def overruled(
    photos: Sequence[Photo], pairs: Iterable[tuple[int, int]], split_of: Mapping[str, Split]
) -> tuple[Skipped, ...]:
    """The photos in ``split_of`` whose count a recount of the same image contradicts.

    A recount that may not be in the photo's split contradicts nothing: recounts from alarms correct training photos
    alone, because a test split without the errors that a model found would flatter that model.
    """
    skipped = []
    for others, recounts in _by_image(photos, pairs):
        for photo in (photo for photo in others if photo.id in split_of and _agree(recounts)):
            allowed = [it for it in recounts if split_of[photo.id] == Split.TRAIN or not it.train_only]
            if allowed and allowed[0].count != photo.count:
                reason = f"its record says {photo.count}, but {allowed[0].id}, of the same image, {allowed[0].count}"
                skipped.append(Skipped(photo.id, reason))
    return tuple(skipped)


def _agree(recounts: Sequence[Photo]) -> bool:
    return len({photo.count for photo in recounts}) == 1


def _by_image(photos: Sequence[Photo], pairs: Iterable[tuple[int, int]]) -> list[tuple[list[Photo], list[Photo]]]:
    """Photos with the same image, if a recount is among them: those of the first source, and the recounts."""
    groups: dict[str, tuple[list[Photo], list[Photo]]] = defaultdict(lambda: ([], []))
    images = merge_bins([replace(photo, bin=photo.id) for photo in photos], pairs)
    for image, photo in zip(images, photos, strict=True):
        groups[image.bin][is_recount(photo.id)].append(photo)
    return [(others, recounts) for others, recounts in groups.values() if recounts and len(others) + len(recounts) > 1]
