"""The recounts that can calibrate: of the random share, with a count, of photos that the network has not learned from.

Only the random share is like all bins; whoever chooses recounts by alarms chooses photos that fit badly. Half of the
recounts, by their bin, calibrate, and the other half judges. A bin stays in its half whatever else is recounted.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.manifest import sha256
from serve.objects.folder_objects import FolderObjects
from serve.recount.json_index import JsonIndex
from serve.recount.queue_store import METADATA, PHOTOS
from serve.recount.recount_entities import Outcome, Recount, parse_recount
from trainer.data.counts import Counts
from trainer.data.mirrors import recount_mirror
from trainer.data.split import stable_hash

SEED = 21
"""Of the halves; another one would mix bins that calibrated with bins that judged."""


@dataclass(frozen=True, kw_only=True)
class RecountPhoto:
    """A photo with its true count. ``bin``: the bin's id, or where it is not known the SHA-256 of the photo.

    ``name``: of its count in the model's answers; ``record``: the bin's record in the dataset's format, None unless it
    was right and lists products.
    """

    event_id: str
    bin: str
    name: str
    path: Path
    record: dict[str, object] | None

    @property
    def calibrates(self) -> bool:
        """Whether its bin is in the half that calibrates, and not in the one that judges."""
        return int(stable_hash(SEED, self.bin)[-1], 16) % 2 == 0


@dataclass(frozen=True, kw_only=True)
class RecountSelection:
    """The photos that can be used, and how many recounts of the random share cannot, by the reason."""

    photos: tuple[RecountPhoto, ...]
    left_out: dict[str, int]


class RecountFolder:
    """The recounts of the random share in BINWATCH_RECOUNTS."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recounts = JsonIndex(FolderObjects(folder), METADATA, parse_recount)

    def poll(self) -> list[Recount]:
        """Those that have a count, by the time at which they were settled; a damaged one is logged and left out.

        Raises UnavailableError where they are in a bucket that does not answer.
        """
        recount_mirror.refresh(self._folder, recount_mirror.POLL_S)
        recounts = filter(_is_random_count, self._recounts.refresh().values())
        return sorted(recounts, key=lambda recount: (recount.settled_at, recount.event_id))


def _is_random_count(recount: Recount) -> bool:
    return recount.random and recount.outcome == Outcome.COUNT and recount.count is not None


def select_photos(
    recounts: Sequence[Recount], folder: Path, counts: Counts, learned_from: Collection[str]
) -> RecountSelection:
    """The photos that can calibrate or judge a model that tells ``counts`` apart.

    ``learned_from``: the event ids of the recounts that the model was trained with; those of the same bin or with the
    same photo are left out with them. Of several recounts of a bin, the first counts.
    """
    digests = {recount.event_id: _digest(folder, recount.event_id) for recount in recounts}
    known = {recount.event_id for recount in recounts if recount.event_id in learned_from}
    known_bins = {recount.bin_id for recount in recounts if recount.event_id in known} - {""}
    known_photos = {digests[event_id] for event_id in known}
    contradicted = _contradicted(recounts, digests)
    photos: dict[str, RecountPhoto] = {}
    left_out: Counter[str] = Counter()
    for recount in recounts:
        digest, value = digests[recount.event_id], counts.count_of(recount.count or 0)
        bin_name = recount.bin_id or digest
        if not digest:
            left_out["their photo is missing"] += 1
        elif recount.event_id in known or digest in known_photos or recount.bin_id in known_bins:
            left_out["the model has learned from their photo or bin"] += 1
        elif value is None:
            left_out["the model does not know their count"] += 1
        elif digest in contradicted:
            left_out["another recount of the same photo has another count"] += 1
        elif bin_name in photos:
            left_out["their bin was recounted before"] += 1
        else:
            photos[bin_name] = RecountPhoto(
                event_id=recount.event_id,
                bin=bin_name,
                name=counts.names[counts.values.index(value)],
                path=folder / PHOTOS / f"{recount.event_id}.jpg",
                record=_right_record(recount),
            )
    return RecountSelection(photos=tuple(photos.values()), left_out=dict(left_out))


def _digest(folder: Path, event_id: str) -> str:
    """The SHA-256 of the photo of a recount; empty where there is none."""
    path = folder / PHOTOS / f"{event_id}.jpg"
    return sha256(path) if path.is_file() else ""


def _contradicted(recounts: Sequence[Recount], digests: dict[str, str]) -> set[str]:
    """The digests of photos that two recounts give different counts."""
    counts = defaultdict[str, set[int | None]](set)
    for recount in recounts:
        counts[digests[recount.event_id]].add(recount.count)
    return {digest for digest, values in counts.items() if len(values) > 1}


def _right_record(recount: Recount) -> dict[str, object] | None:
    if not recount.record_was_right or not recount.products:
        return None
    metadata = recount.to_metadata()
    return {name: metadata[name] for name in ("EXPECTED_QUANTITY", "BIN_FCSKU_DATA")}
