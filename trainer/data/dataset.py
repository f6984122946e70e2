"""From a source of photos to the three splits as arrays.

``scan`` reads every photo once: can it be decoded, what are its bytes and its picture. Photos with
the same picture become one bin, then ``trainer/split.py`` assigns the bins. ``load`` does all of
that in memory; ``trainer/prepared.py`` keeps it on disk, with the decoded photos.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serve.errors import DataError
from trainer.data import corrections, duplicates, split
from trainer.data.abid import Photo, Skipped
from trainer.data.counts import Counts, all_counts
from trainer.data.extra import find_extra
from trainer.data.layouts import read_source
from trainer.data.scan import Scanned, scan


@dataclass(frozen=True)
class DataSpec:
    """Which photos, and how they are divided.

    ``limit`` takes a stratified subset. The others touch training photos alone: ``train_share``
    (0-1] keeps that share of them, ``drop_suspects`` [0-1) leaves that share out which the audit
    doubts most, ``relabel_file`` (CSV: id, count) gives some another count.
    """

    source: Path
    counts: Counts = field(default_factory=Counts)
    limit: int | None = None
    seed: int = 0
    train_share: float = 1.0
    drop_suspects: float = 0.0
    relabel_file: Path | None = None


class Pixels(Protocol):
    """Decoded photos, uint8 ``(N, S, S, 3)``: an array in memory, or a file mapped into it."""

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice or an index array, in memory."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a larger array, read when they are asked for: decoded photos, or features of them."""

    whole: Pixels
    index: NDArray[np.int64]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice or an index array, in memory."""
        return np.asarray(self.whole[self.index[rows]])


@dataclass(frozen=True)
class Stacked:
    """The rows of ``first``, ``length`` of them, and then those of ``second``."""

    first: Pixels
    length: int
    second: Pixels

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of an index array, in memory."""
        of_first = rows < self.length
        some = np.asarray(self.first[rows[of_first]]), np.asarray(self.second[rows[~of_first] - self.length])
        out = np.empty((len(rows), *some[0].shape[1:]), dtype=some[0].dtype)
        out[of_first], out[~of_first] = some
        return out


@dataclass(frozen=True)
class Part:
    """One split: photos, pixels uint8 ``(N, S, S, 3)`` and labels int64 ``(N,)``, indices into the classes."""

    photos: tuple[Photo, ...]
    pixels: Rows
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.photos)

    def halves(self, seed: int) -> tuple["Part", "Part"]:
        """Two parts of about half of the photos each, every bin wholly in one: bins alternate by a hash."""
        names = sorted({photo.bin for photo in self.photos}, key=partial(split.stable_hash, seed))
        first = set(names[::2])
        of_first = np.array([photo.bin in first for photo in self.photos], dtype=bool)
        return self.rows(np.flatnonzero(of_first)), self.rows(np.flatnonzero(~of_first))

    def rows(self, index: NDArray[np.int64]) -> "Part":
        """The photos at those positions."""
        return Part(
            tuple(self.photos[i] for i in index),
            Rows(self.pixels.whole, self.pixels.index[index]),
            self.labels[index],
            self.fingerprint,
        )


@dataclass(frozen=True)
class Dataset:
    """The three splits, what was skipped, and a fingerprint of ids, labels, photo bytes and split.

    ``folder``: the prepared dataset that they come from, if it was prepared; ``extra``: photos with
    other counts to learn from, with labels that are indices into ``wider(counts)`` (``trainer/extra.py``).
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

    def summary(self) -> dict[str, Any]:
        """What a report shows: photos per split and count, bins, and what was skipped, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.extra:
            parts["extra"] = self.extra
        return {
            "fingerprint": self.fingerprint,
            "photos": {name: len(part) for name, part in parts.items()},
            "bins": {name: len({photo.bin for photo in part.photos}) for name, part in parts.items()},
            "per_count": {name: _per_count(part.photos) for name, part in parts.items()},
            "skipped": {each.id: each.reason for each in self.skipped},
        }


def load(spec: DataSpec, size_px: int, extra: bool = False) -> Dataset:
    """Read, decode and split the photos of ``spec`` at ``size_px``, in memory; ``extra`` ones too if asked.

    Raises DataError.
    """
    if spec.drop_suspects:
        raise DataError(
            f"{spec.source} is not a prepared dataset, so its suspects are not known; run scripts/prepare_data.py "
            "and scripts/audit_labels.py, and train on what they prepared"
        )
    inventory = read_source(spec.source, spec.counts)
    chosen = split.subset(inventory.photos, spec.limit, spec.seed)
    scanned, unreadable = scan(chosen, size_px)
    pairs = duplicates.find_duplicates([each.signature for each in scanned])
    photos = duplicates.merge_bins([each.photo for each in scanned], pairs)
    splits = split.split_by_bin(photos, spec.seed)
    skipped = (*inventory.skipped, *unreadable)
    made = build(spec, size_px, photos, splits.of, _digests(scanned), _pixels(scanned), skipped)
    if not extra:
        return made
    others, left_out = find_extra(spec.source, spec.counts, scanned, splits.of, size_px)
    others = others if spec.limit is None else others[: len(others) * len(photos) // len(inventory.photos)]
    return with_extra(made, [each.photo for each in others], _digests(others), _pixels(others), left_out)


def with_extra(
    made: Dataset, photos: Sequence[Photo], digests: Mapping[str, str], pixels: Pixels, skipped: tuple[Skipped, ...]
) -> Dataset:
    """``made`` with further photos to learn from; ``pixels`` has a row for each, in their order."""
    if not photos:
        return made
    labels = np.array([all_counts(made.counts).values.index(photo.count) for photo in photos], dtype=np.int64)
    part = Part(tuple(photos), Rows(pixels, np.arange(len(photos))), labels, fingerprint(photos, digests))
    whole = digest((made.fingerprint, f"extra:{part.fingerprint}"))
    return replace(made, extra=part, fingerprint=whole, skipped=(*made.skipped, *skipped))


def _digests(scanned: Iterable[Scanned]) -> dict[str, str]:
    return {each.photo.id: each.digest for each in scanned}


def _pixels(scanned: Iterable[Scanned]) -> NDArray[np.uint8]:
    return np.array([each.pixels for each in scanned], dtype=np.uint8)


def build(
    spec: DataSpec,
    size_px: int,
    photos: Sequence[Photo],
    of: Mapping[str, str],
    digests: Mapping[str, str],
    pixels: Pixels,
    skipped: tuple[Skipped, ...],
    suspects: Sequence[str] = (),
) -> Dataset:
    """Put the parts together.

    ``pixels`` has a row for each of ``photos``, in their order; ``suspects``: ids, the most doubted first.
    """
    of, dropped = corrections.drop_suspects(spec.drop_suspects, suspects, of)
    skipped += dropped
    if spec.relabel_file:
        photos, of, dropped = corrections.relabel(spec.relabel_file, photos, of, spec.counts)
        skipped += dropped
    kept = split.keep_train_share(of, spec.train_share, spec.seed)
    parts = {}
    for name in split.SHARES:
        rows = [row for row, photo in enumerate(photos) if kept.get(photo.id) == name]
        part = tuple(photos[row] for row in rows)
        labels = np.array([spec.counts.values.index(photo.count) for photo in part], dtype=np.int64)
        parts[name] = Part(part, Rows(pixels, np.array(rows, dtype=np.int64)), labels, fingerprint(part, digests))
    _refuse_unlearnable(spec, parts["train"])
    whole = digest(f"{name}:{part.fingerprint}" for name, part in parts.items())
    return Dataset(
        spec.counts, size_px, parts["train"], parts["validation"], parts["test"], skipped=skipped, fingerprint=whole
    )


def _refuse_unlearnable(spec: DataSpec, train: Part) -> None:
    seen = set(train.labels.tolist())
    missing = [name for label, name in enumerate(spec.counts.names) if label not in seen]
    if missing:
        raise DataError(
            f"no training photo shows {' or '.join(missing)} objects; {len(train)} training photos of {spec.source} "
            "are left: use more of them, relabel or drop fewer, or give COUNTS without these counts"
        )


def fingerprint(photos: Iterable[Photo], digests: Mapping[str, str]) -> str:
    """SHA-256 over ids, counts and photo bytes, in whatever order."""
    return digest(json.dumps([photo.id, photo.count, digests[photo.id]]) for photo in photos)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, in whatever order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _per_count(photos: Sequence[Photo]) -> dict[str, int]:
    return {str(count): number for count, number in sorted(Counter(photo.count for photo in photos).items())}
