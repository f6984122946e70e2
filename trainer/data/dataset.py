"""From a source of photos to a dataset: three splits with their pixels and labels.

``scan_and_split`` reads every photo once. Photos with the same image are put into one bin, and the bins are assigned to
splits. ``load`` does this in memory; ``trainer/data/prepare.py`` stores the result on disk.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from serve.errors import DataError
from trainer.data import corrections
from trainer.data.abid import Photo, Skipped
from trainer.data.counts import Counts, all_counts
from trainer.data.recounts import is_recount, number_of_recounts
from trainer.data.scan import PhotoScan, find_extra, scan_and_split
from trainer.data.split import SHARES, Split, keep_train_share, stable_hash

RowIndex = slice | NDArray[np.int64]
Array = NDArray[Any]
"""Pixels are uint8, features of photos float16 or float32."""


@dataclass(frozen=True)
class DataSpec:
    """Which photos are used, and how they are split.

    ``limit``: a stratified subset of at most that many photos of ``source``. ``recounts``: a folder of recounts, which
    are used besides (``trainer/data/recounts.py``); a prepared source has its own. The other options change only the
    training photos: ``train_share`` (0-1] is the share to use, ``drop_suspects`` [0-1) the share to leave out, the most
    suspicious of the audit first, and ``relabel_file`` (CSV: id, count) has corrected counts. Raises DataError for what
    cannot be.
    """

    source: Path
    _: KW_ONLY
    counts: Counts = field(default_factory=Counts)
    limit: int | None = None
    seed: int = 0
    train_share: float = 1.0
    drop_suspects: float = 0.0
    relabel_file: Path | None = None
    recounts: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise DataError(f"LIMIT is {self.limit}; give a number of photos above 0, or leave it out for all photos")
        if not 0 < self.train_share <= 1:
            raise DataError(f"the share of training photos is {self.train_share}; give one above 0 and at most 1")
        if not 0 <= self.drop_suspects < 1:
            raise DataError(f"the share of suspects to drop is {self.drop_suspects}; give a number from 0 to below 1")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"the seed of the data is {self.seed}; give a whole number from 0 to {2**32 - 1}")
        if self.relabel_file:
            corrections.read_relabel_file(self.relabel_file)  # before hours of work, not after


class Pixels(Protocol):
    """Decoded photos, uint8 ``(N, S, S, 3)``, or their features: an array in memory or a memory-mapped file."""

    def __getitem__(self, rows: RowIndex) -> Array:
        """Read some rows into memory."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a larger array, read only when they are needed."""

    whole: Pixels
    index: NDArray[np.int64]

    def __getitem__(self, rows: RowIndex) -> Array:
        """Read some rows into memory."""
        return np.asarray(self.whole[self.index[rows]])


@dataclass(frozen=True)
class Stacked:
    """The ``length`` rows of ``first``, followed by those of ``second``."""

    first: Pixels
    length: int
    second: Pixels

    def __getitem__(self, rows: RowIndex) -> Array:
        """Read some rows into memory; ``rows`` must be an index array."""
        assert not isinstance(rows, slice)
        in_first = rows < self.length
        parts = np.asarray(self.first[rows[in_first]]), np.asarray(self.second[rows[~in_first] - self.length])
        out = np.empty((len(rows), *parts[0].shape[1:]), dtype=parts[0].dtype)
        out[in_first], out[~in_first] = parts
        return out


@dataclass(frozen=True)
class Part:
    """One split: photos, pixels uint8 ``(N, S, S, 3)`` and labels int64 ``(N,)``, indices into the counts.

    ``measures``: of the photos' records, float32 ``(N, M)``, NaN where unknown; None where they are not learned.
    ``taught``: the probabilities of the learned counts by teachers, float32 ``(N, C)``; None where there are none.
    """

    photos: tuple[Photo, ...]
    pixels: Rows
    labels: NDArray[np.int64]
    fingerprint: str
    measures: NDArray[np.float32] | None = None
    taught: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.photos)

    def halves(self, seed: int) -> tuple["Part", "Part"]:
        """Two parts with about half of the photos each and no bin in both; bins alternate by a hash."""
        names = sorted({photo.bin for photo in self.photos}, key=partial(stable_hash, seed))
        first = set(names[::2])
        in_first = np.array([photo.bin in first for photo in self.photos], dtype=bool)
        return self.rows(np.flatnonzero(in_first)), self.rows(np.flatnonzero(~in_first))

    def rows(self, index: NDArray[np.int64]) -> "Part":
        """The part with only the photos at the positions ``index``."""
        return replace(
            self,
            photos=tuple(self.photos[i] for i in index),
            pixels=Rows(self.pixels.whole, self.pixels.index[index]),
            labels=self.labels[index],
            measures=None if self.measures is None else self.measures[index],
            taught=None if self.taught is None else self.taught[index],
        )


class DatasetSummary(TypedDict):
    """What ``dataset.json`` says. The keys of the dictionaries are splits; of ``skipped``, photo id -> reason.

    ``recounts``: how many of the photos are recounts.
    """

    fingerprint: str
    photos: dict[str, int]
    recounts: dict[str, int]
    bins: dict[str, int]
    per_count: dict[str, dict[str, int]]
    skipped: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The three splits, the skipped photos, and a fingerprint of ids, labels, photo bytes and splits.

    ``folder``: the prepared dataset that it was loaded from, if any; ``extra``: photos with other counts to train on,
    whose labels are indices into ``all_counts(counts)`` (``trainer/data/scan.py``).
    """

    counts: Counts
    size_px: int
    train: Part
    validation: Part
    test: Part
    skipped: tuple[Skipped, ...]
    fingerprint: str
    folder: Path | None = None
    extra: Part | None = None

    def summary(self) -> DatasetSummary:
        """Photos, bins and counts per split, and the skipped photos."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.extra:
            parts["extra"] = self.extra
        return {
            "fingerprint": self.fingerprint,
            "photos": {name: len(part) for name, part in parts.items()},
            "recounts": {name: number_of_recounts(part.photos) for name, part in parts.items()},
            "bins": {name: len({photo.bin for photo in part.photos}) for name, part in parts.items()},
            "per_count": {name: _per_count(part.photos) for name, part in parts.items()},
            "skipped": {photo.id: photo.reason for photo in self.skipped},
        }


def load(spec: DataSpec, size_px: int, extra: bool = False) -> Dataset:
    """Read, decode and split the photos of ``spec`` at ``size_px``, in memory; with ``extra``, the extra photos too.

    Raises DataError.
    """
    if spec.drop_suspects:
        raise DataError(
            f"{spec.source} is not a prepared dataset, so its suspects are not known; run scripts/prepare_data.py "
            "and scripts/audit_labels.py, and train on the prepared dataset"
        )
    split = scan_and_split(
        spec.source, spec.counts, spec.seed, recounts=spec.recounts, limit=spec.limit, size_px=size_px
    )
    photos = split.photos
    dataset = build(spec, size_px, photos, split.split_of, _digests(split.scans), _pixels(split.scans), split.skipped)
    if not extra:
        return dataset
    extra_scans, left_out = find_extra(spec.source, spec.counts, split, size_px)
    if spec.limit is not None:
        first = number_of_recounts(scan.photo for scan in extra_scans)
        read = len(photos) - number_of_recounts(photos)
        extra_scans = extra_scans[: first + (len(extra_scans) - first) * read // split.usable]
    extra_photos = [scan.photo for scan in extra_scans]
    return with_extra(dataset, extra_photos, _digests(extra_scans), _pixels(extra_scans), left_out)


def with_extra(
    dataset: Dataset, photos: Sequence[Photo], digests: Mapping[str, str], pixels: Pixels, skipped: tuple[Skipped, ...]
) -> Dataset:
    """``dataset`` with extra photos to train on; ``pixels`` has a row for each of ``photos``, in the same order."""
    if not photos:
        return dataset
    labels = np.array([all_counts(dataset.counts).values.index(photo.count) for photo in photos], dtype=np.int64)
    part = Part(tuple(photos), Rows(pixels, np.arange(len(photos))), labels, fingerprint(photos, digests))
    whole = digest((dataset.fingerprint, f"extra:{part.fingerprint}"))
    return replace(dataset, extra=part, fingerprint=whole, skipped=(*dataset.skipped, *skipped))


def _digests(scanned: Iterable[PhotoScan]) -> dict[str, str]:
    return {scan.photo.id: scan.digest for scan in scanned}


def _pixels(scanned: Iterable[PhotoScan]) -> NDArray[np.uint8]:
    return np.array([scan.pixels for scan in scanned], dtype=np.uint8)


def build(
    spec: DataSpec,
    size_px: int,
    photos: Sequence[Photo],
    split_of: Mapping[str, Split],
    digests: Mapping[str, str],
    pixels: Pixels,
    skipped: tuple[Skipped, ...],
    suspects: Sequence[str] = (),
) -> Dataset:
    """Apply the corrections of ``spec`` and divide the photos by ``split_of`` (id -> split).

    ``digests``: id -> SHA-256 of the photo's bytes; ``pixels`` has a row for each of ``photos``, in the same order;
    ``suspects``: photo ids, the most suspicious first; recounts, which people have counted, are not dropped. Raises
    DataError if a count has no training photo left.
    """
    records = [photo_id for photo_id in suspects if not is_recount(photo_id)]
    split_of, dropped = corrections.drop_suspects(spec.drop_suspects, records, split_of)
    skipped += dropped
    if spec.relabel_file:
        photos, split_of, dropped = corrections.relabel(spec.relabel_file, photos, split_of, spec.counts)
        skipped += dropped
    split_of = keep_train_share(split_of, spec.train_share, spec.seed)
    parts = {}
    for split in SHARES:
        rows = [row for row, photo in enumerate(photos) if split_of.get(photo.id) == split]
        members = tuple(photos[row] for row in rows)
        labels = np.array([spec.counts.values.index(photo.count) for photo in members], dtype=np.int64)
        index = np.array(rows, dtype=np.int64)
        parts[split] = Part(members, Rows(pixels, index), labels, fingerprint(members, digests))
    _check_each_count(spec, parts[Split.TRAIN])
    return Dataset(
        counts=spec.counts,
        size_px=size_px,
        train=parts[Split.TRAIN],
        validation=parts[Split.VALIDATION],
        test=parts[Split.TEST],
        skipped=skipped,
        fingerprint=digest(f"{split}:{part.fingerprint}" for split, part in parts.items()),
    )


def _check_each_count(spec: DataSpec, train: Part) -> None:
    present = set(train.labels.tolist())
    missing = [name for label, name in enumerate(spec.counts.names) if label not in present]
    if missing:
        raise DataError(
            f"no training photo shows {' or '.join(missing)} objects; {len(train)} training photos of {spec.source} "
            "are left: use more of them, relabel or drop fewer, or give COUNTS without these counts"
        )


def fingerprint(photos: Iterable[Photo], digests: Mapping[str, str]) -> str:
    """SHA-256 over ids, counts and photo bytes, in any order."""
    return digest(json.dumps([photo.id, photo.count, digests[photo.id]]) for photo in photos)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, in any order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _per_count(photos: Sequence[Photo]) -> dict[str, int]:
    return {str(count): number for count, number in sorted(Counter(photo.count for photo in photos).items())}
