"""Which photo is in which split: by bin, stratified by count, deterministic.

Every photo is in exactly one of train, validation and test, and so is every bin: photos of one
bin are near copies of each other, and a model that has seen one has seen the answer.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from serve.errors import DataError
from trainer.data.abid import Photo, Skipped

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def subset(photos: Sequence[Photo], limit: int | None, seed: int) -> list[Photo]:
    """At most ``limit`` photos with the counts in the same proportions, chosen by a hash of the id."""
    if limit is None or limit >= len(photos):
        return list(photos)
    if limit < 1:
        raise DataError(f"LIMIT is {limit}; give a number of photos above 0, or leave it away for all")
    by_count = _by_count(photos, seed)
    wanted = _shares_of(limit, {count: len(group) for count, group in by_count.items()})
    kept = {photo.id for count, group in by_count.items() for photo in group[: wanted[count]]}
    return [photo for photo in photos if photo.id in kept]


@dataclass(frozen=True)
class Splits:
    """Photo id -> split, and the new photos that fit nowhere."""

    of: dict[str, str]
    set_aside: tuple[Skipped, ...] = ()


def split_by_bin(photos: Sequence[Photo], seed: int, before: Mapping[str, str] | None = None) -> Splits:
    """Assign every photo to ``train``, ``validation`` or ``test``, each bin wholly to one.

    Greedy: bins, the largest first, go where the photos of their counts are most lacking. A photo
    that ``before`` knows (id -> split) stays where it was, and new photos of its bin join it; a new
    photo that joins bins of different splits is set aside. Deterministic in the photos and the
    seed. Raises DataError where a split lacks a count.
    """
    bins: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        bins[photo.bin].append(photo)
    of = {photo.id: before[photo.id] for photo in photos if before and photo.id in before}
    set_aside: list[Skipped] = []
    for members in bins.values():
        places = {of[photo.id] for photo in members if photo.id in of}
        new = [photo for photo in members if photo.id not in of]
        if len(places) == 1:
            of.update(dict.fromkeys((photo.id for photo in new), *places))
        elif places:
            reason = (
                f"it joins bins of {' and '.join(sorted(places))}: what one is tested on, the other would have seen"
            )
            set_aside += [Skipped(photo.id, reason) for photo in new]
    fresh = {name: members for name, members in bins.items() if not any(photo.id in of for photo in members)}
    of |= _distribute(fresh, photos, of, seed)
    _refuse_missing(photos, of)
    return Splits(of, tuple(set_aside))


def _distribute(
    bins: Mapping[str, list[Photo]], photos: Sequence[Photo], of: Mapping[str, str], seed: int
) -> dict[str, str]:
    totals = Counter(photo.count for photo in photos)
    lacking = {name: {count: share * total for count, total in totals.items()} for name, share in SHARES.items()}
    for photo in photos:
        if photo.id in of:
            lacking[of[photo.id]][photo.count] -= 1
    splits: dict[str, str] = {}
    for name in sorted(bins, key=lambda name: (-len(bins[name]), stable_hash(seed, name))):
        counts = Counter(photo.count for photo in bins[name])
        place = max(SHARES, key=lambda split: _need(lacking[split], counts, SHARES[split], totals))
        for count, number in counts.items():
            lacking[place][count] -= number
        splits.update({photo.id: place for photo in bins[name]})
    return splits


def _need(lacking: dict[int, float], counts: Counter[int], share: float, totals: Counter[int]) -> float:
    return sum(number * lacking[count] / (share * totals[count]) for count, number in counts.items())


def _refuse_missing(photos: Sequence[Photo], splits: dict[str, str]) -> None:
    found = Counter((splits[photo.id], photo.count) for photo in photos if photo.id in splits)
    for count in {photo.count for photo in photos}:
        for name in SHARES:
            if not found[name, count]:
                raise DataError(
                    f"the {name} split has no photo with {count} objects, of {len(photos)} photos in all; "
                    "add photos of that count, raise LIMIT or narrow COUNTS"
                )


def keep_train_share(splits: Mapping[str, str], share: float, seed: int) -> dict[str, str]:
    """Drop all but ``share`` of the training photos, chosen by a hash of the id; the rest stays."""
    if not 0 < share <= 1:
        raise DataError(f"the share of training photos is {share}; give a number above 0 and at most 1")
    train = sorted((i for i, name in splits.items() if name == "train"), key=partial(stable_hash, seed))
    dropped = set(train[math.ceil(share * len(train)) :])
    return {photo_id: name for photo_id, name in splits.items() if photo_id not in dropped}


def _by_count(photos: Sequence[Photo], seed: int) -> dict[int, list[Photo]]:
    by_count: dict[int, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: stable_hash(seed, photo.id)):
        by_count[photo.count].append(photo)
    return by_count


def _shares_of(limit: int, sizes: dict[int, int]) -> dict[int, int]:
    """``limit`` divided like ``sizes``, by largest remainder."""
    exact = {count: limit * size / sum(sizes.values()) for count, size in sizes.items()}
    whole = {count: math.floor(value) for count, value in exact.items()}
    for count in sorted(exact, key=lambda count: whole[count] - exact[count])[: limit - sum(whole.values())]:
        whole[count] += 1
    return whole


def stable_hash(seed: int, text: str) -> str:
    """A hash that is the same on every machine and in every run, to order things at random."""
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
