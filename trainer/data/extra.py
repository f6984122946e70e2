"""Photos with other counts than the ones to tell apart: to learn from, never to be judged by.

A bin with 7 objects says something about bins with 5. Such photos join the training photos alone,
and only where their bin has no photo among validation and test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.data.abid import Skipped
from trainer.data.counts import Counts, all_counts
from trainer.data.duplicates import find_duplicates, merge_bins
from trainer.data.layouts import read_source
from trainer.data.scan import Scanned, scan


def find_extra(
    source: Path, counts: Counts, scanned: Sequence[Scanned], of: Mapping[str, str], size_px: int | None = None
) -> tuple[list[Scanned], tuple[Skipped, ...]]:
    """The photos of ``source`` with other counts than ``counts``, and those that cannot be used.

    ``scanned``: the photos with these counts, and the split ``of`` each. Bins are found among all of them.
    """
    inventory = read_source(source, all_counts(counts), every=False)
    others, unreadable = scan([each for each in inventory.photos if counts.of(each.count) is None], size_px)
    known = {each.photo.id: each for each in (*scanned, *others)}
    photos = [photo for photo in inventory.photos if photo.id in known]
    merged = merge_bins(photos, find_duplicates([known[photo.id].signature for photo in photos]))
    judged = {photo.bin for photo in merged if of.get(photo.id) in ("validation", "test")}
    bins = {photo.id: photo.bin for photo in merged}
    usable = [each for each in others if bins[each.photo.id] not in judged]
    set_aside = tuple(
        Skipped(each.photo.id, "has another count, and shows a bin of validation or test")
        for each in others
        if bins[each.photo.id] in judged
    )
    return usable, (*unreadable, *set_aside)
