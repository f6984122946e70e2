"""Splitting photos into train, validation and test: by bin, stratified by count, deterministic.

Every photo and every bin is in exactly one split. Photos of one bin are almost the same image, so a bin in two splits
would leak test photos into training. Recounts follow the photos of the source: with or without them, these are split
in the same way.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from serve.errors import DataError
from trainer.data.abid import Photo, Skipped, merge_bins
from trainer.data.duplicates import pairs_among


class Split(StrEnum):
    """The part of a dataset that a photo belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


SHARES = {Split.TRAIN: 0.7, Split.VALIDATION: 0.2, Split.TEST: 0.1}


def subset(photos: Sequence[Photo], limit: int | None, seed: int) -> list[Photo]:
    """At most ``limit`` photos, stratified by count, chosen by a hash of the id; in the order of ``photos``."""
    if limit is None or limit >= len(photos):
        return list(photos)
    by_count = _by_count(photos, seed)
    sizes = _apportion(limit, {count: len(group) for count, group in by_count.items()})
    ids = {photo.id for count, group in by_count.items() for photo in group[: sizes[count]]}
    return [photo for photo in photos if photo.id in ids]


@dataclass(frozen=True)
class Splits:
    """``split_of``: photo id -> split; ``set_aside``: new photos that no split can take."""

    split_of: dict[str, Split]
    set_aside: tuple[Skipped, ...] = ()


def split_by_bin(photos: Sequence[Photo], seed: int, before: Mapping[str, Split] | None = None) -> Splits:
    """Assign every photo to a split, all photos of a bin to the same one.

    Greedy: bins, the largest first, go to the split that lacks most photos of their counts. Photos in ``before``
    (id -> split) keep their split, and new photos of the same bin join it; a new photo that connects bins of different
    splits is set aside. New photos that are ``train_only`` are split last, and have no part in where others go.
    Deterministic in photos and seed. Raises DataError if a split has no photo of a count.
    """
    last = [photo for photo in photos if photo.train_only and photo.id not in (before or {})]
    last_ids = {photo.id for photo in last}
    splits = _split_bins([photo for photo in photos if photo.id not in last_ids], seed, before)
    return _add_train_only(photos, last, splits) if last else splits


def _split_bins(photos: Sequence[Photo], seed: int, before: Mapping[str, Split] | None) -> Splits:
    bins: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        bins[photo.bin].append(photo)
    split_of = {photo.id: before[photo.id] for photo in photos if before and photo.id in before}
    set_aside: list[Skipped] = []
    for members in bins.values():
        splits = {split_of[photo.id] for photo in members if photo.id in split_of}
        new = [photo for photo in members if photo.id not in split_of]
        if len(splits) == 1:
            split_of.update(dict.fromkeys((photo.id for photo in new), *splits))
        elif splits:
            reason = f"it connects bins of {' and '.join(sorted(splits))}, which would leak between these splits"
            set_aside += [Skipped(photo.id, reason) for photo in new]
    new_bins = {name: members for name, members in bins.items() if not any(photo.id in split_of for photo in members)}
    split_of |= _distribute(new_bins, [photo for photo in photos if not photo.train_only], split_of, seed)
    _check_each_count(photos, split_of)
    return Splits(split_of, tuple(set_aside))


def _add_train_only(photos: Sequence[Photo], last: Sequence[Photo], splits: Splits) -> Splits:
    """Add the photos ``last`` to training, but for those of bins that validation or test have."""
    held_out: dict[str, Split] = {
        photo.bin: splits.split_of[photo.id]
        for photo in photos
        if splits.split_of.get(photo.id, Split.TRAIN) != Split.TRAIN
    }
    split_of = {photo.id: Split.TRAIN for photo in last if photo.bin not in held_out}
    reason = "it comes from an alarm, so it can only be trained on, but its bin is in"
    set_aside = [Skipped(photo.id, f"{reason} {held_out[photo.bin]}") for photo in last if photo.bin in held_out]
    return Splits({**splits.split_of, **split_of}, (*splits.set_aside, *set_aside))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a version of a dataset has a photo."""

    split: Split
    bin: str


@dataclass(frozen=True, kw_only=True)
class PlacedPhotos:
    """Photos with their bins, in the order in which they came, and the splits of those that are not set aside."""

    photos: tuple[Photo, ...]
    splits: Splits


def place(
    photos: Sequence[Photo],
    pairs: Sequence[tuple[int, int]],
    seed: int,
    before: Mapping[str, Placement] | None = None,
    followers: Collection[str] = frozenset(),
) -> PlacedPhotos:
    """Merge the bins of ``pairs``, positions of photos with the same image, and split them by bin.

    ``before``: photo id -> its place in the previous version, which it keeps, also if the photo is gone in between.
    ``followers``: ids of photos that join the bins and splits of the others, which they do not change. Raises
    DataError.
    """
    places = dict(before or {})
    leaders = [row for row, photo in enumerate(photos) if photo.id in places or photo.id not in followers]
    if len(leaders) < len(photos):
        leading = _place_together([photos[row] for row in leaders], pairs_among(leaders, pairs), seed, places)
        split_of = leading.splits.split_of
        places |= {
            photo.id: Placement(split=split_of[photo.id], bin=photo.bin)
            for photo in leading.photos
            if photo.id in split_of
        }
    return _place_together(photos, pairs, seed, places)


def _place_together(
    photos: Sequence[Photo], pairs: Sequence[tuple[int, int]], seed: int, before: Mapping[str, Placement]
) -> PlacedPhotos:
    merged = merge_bins(photos, pairs)
    splits = split_by_bin(merged, seed, _splits_before(merged, before))
    _refuse_divided_pairs([(photos[a].id, photos[b].id) for a, b in pairs], splits.split_of)
    return PlacedPhotos(photos=tuple(_with_old_bins(merged, before)), splits=splits)


def _splits_before(photos: Sequence[Photo], before: Mapping[str, Placement]) -> dict[str, Split]:
    """Photo id -> the split before, also of a new photo of a bin whose old photos are all gone."""
    split_of = {photo_id: placement.split for photo_id, placement in before.items()}
    split_of_bin = {placement.bin: placement.split for placement in before.values()}
    present = {photo.bin for photo in photos if photo.id in split_of}
    returning = (photo for photo in photos if photo.bin in split_of_bin and not photo.train_only)
    return split_of | {photo.id: split_of_bin[photo.bin] for photo in returning if photo.bin not in present}


def _refuse_divided_pairs(pairs: Sequence[tuple[str, str]], split_of: Mapping[str, Split]) -> None:
    for first, second in pairs:
        if first in split_of and second in split_of and split_of[first] != split_of[second]:
            raise DataError(
                f"photos {first} ({split_of[first]}) and {second} ({split_of[second]}) show the same image, but were "
                "split before; remove one of them, or prepare into a new folder"
            )


def _with_old_bins(photos: Sequence[Photo], before: Mapping[str, Placement]) -> list[Photo]:
    """Give old photos the bin of the previous version, and new ones the bin of the old photos that they join."""
    joined_bins = {photo.bin: before[photo.id].bin for photo in photos if photo.id in before}
    return [
        replace(photo, bin=before[photo.id].bin if photo.id in before else joined_bins.get(photo.bin, photo.bin))
        for photo in photos
    ]


def _distribute(
    bins: Mapping[str, list[Photo]], photos: Sequence[Photo], split_of: Mapping[str, Split], seed: int
) -> dict[str, Split]:
    """Photo id -> split for the photos of ``bins``; ``split_of`` has those that are split already."""
    totals = Counter(photo.count for photo in photos)
    lacking = {split: {count: share * total for count, total in totals.items()} for split, share in SHARES.items()}
    for photo in photos:
        if photo.id in split_of:
            lacking[split_of[photo.id]][photo.count] -= 1
    new_splits: dict[str, Split] = {}
    for name in sorted(bins, key=lambda name: (-len(bins[name]), stable_hash(seed, name))):
        counts = Counter(photo.count for photo in bins[name])
        neediest = max(SHARES, key=lambda split: _need(lacking[split], counts, SHARES[split], totals))
        for count, number in counts.items():
            lacking[neediest][count] -= number
        new_splits.update({photo.id: neediest for photo in bins[name]})
    return new_splits


def _need(lacking: dict[int, float], counts: Counter[int], share: float, totals: Counter[int]) -> float:
    return sum(number * lacking[count] / (share * totals[count]) for count, number in counts.items())


def _check_each_count(photos: Sequence[Photo], split_of: Mapping[str, Split]) -> None:
    present = {(split_of[photo.id], photo.count) for photo in photos if photo.id in split_of}
    for count in {photo.count for photo in photos}:
        for split in SHARES:
            if (split, count) not in present:
                raise DataError(
                    f"the {split} split has no photo with {count} objects, of {len(photos)} photos in all; "
                    "add photos of that count, raise LIMIT or narrow COUNTS"
                )


def keep_train_share(split_of: Mapping[str, Split], share: float, seed: int) -> dict[str, Split]:
    """Drop all but ``share`` of the training photos, chosen by a hash of the id; the other splits stay."""
    ids = (photo_id for photo_id, split in split_of.items() if split == Split.TRAIN)
    train = sorted(ids, key=partial(stable_hash, seed))
    dropped = set(train[math.ceil(share * len(train)) :])
    return {photo_id: split for photo_id, split in split_of.items() if photo_id not in dropped}


def _by_count(photos: Sequence[Photo], seed: int) -> dict[int, list[Photo]]:
    by_count: dict[int, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: stable_hash(seed, photo.id)):
        by_count[photo.count].append(photo)
    return by_count


def _apportion(limit: int, sizes: Mapping[int, int]) -> dict[int, int]:
    """Divide ``limit`` in proportion to ``sizes``, by largest remainder."""
    exact = {count: limit * size / sum(sizes.values()) for count, size in sizes.items()}
    whole = {count: math.floor(value) for count, value in exact.items()}
    for count in sorted(exact, key=lambda count: whole[count] - exact[count])[: limit - sum(whole.values())]:
        whole[count] += 1
    return whole


def stable_hash(seed: int, text: str) -> str:
    """A hash that is the same on every machine and in every run, to order things pseudorandomly."""
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
