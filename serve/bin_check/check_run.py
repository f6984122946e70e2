"""A check from its places to its results, as scripts/check_bins.py runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from serve.bin_check.asking import ArchiveAsker, Asker, ServerAsker
from serve.bin_check.bin_check import BinCheck, Progress
from serve.bin_check.bin_photos import BinPhotos, open_photos
from serve.bin_check.bin_records import BinRecords, open_bins
from serve.bin_check.check_journal import CheckJournal
from serve.bin_check.check_settings import CheckSettings
from serve.bin_check.filing import file_candidates
from serve.bin_check.recount_list import RecountList, Wishes, make_list, write_list
from serve.bin_check.recount_page import write_page
from serve.errors import DataError, LockHeldError
from serve.files import exclusive_lock
from serve.objects.places import open_objects
from serve.recount.base_rate import BaseRate
from serve.recount.queue_store import RecountStore
from serve.settings import without_password

Bar = Callable[[int, int], AbstractContextManager[Progress]]
"""Shows progress: from the number of all bins, and of those that are done already."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """What is checked, and who answers. ``records``: R, with the ``query`` of a database; ``photos``: P, empty where
    the records say; ``archive``: wins over ``url``, which may need a ``key``; ``out``: the folder of the results."""

    records: str
    photos: str
    out: Path
    url: str
    query: str = ""
    archive: Path | None = None
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The list, where it is, and how many of its bins wait for a recount in BINWATCH_RECOUNTS; None without that."""

    bins: RecountList
    table: Path
    page: Path
    queued: int | None

    def to_json(self) -> dict[str, object]:
        """The result for programs."""
        files = {"table": str(self.table), "page": str(self.page), "queued": self.queued}
        return {**self.bins.to_json(), **files}

    def text(self) -> str:
        """The result in sentences."""
        queued = [] if self.queued is None else [f"{self.queued} of them wait in the queue of recounts"]
        problems = [f"what could not be checked is in {self.table.with_name('problems.csv')}"]
        lines = [self.bins.text(), *queued, *(problems if self.bins.problems else []), f"look through {self.page}"]
        return "\n".join(lines)


def run_check(places: Places, settings: CheckSettings, wishes: Wishes, bar: Bar) -> CheckResult:
    """Check all bins, and write the results. Raises BinwatchError."""
    records = open_bins(places.records, places.query)
    photos = open_photos(places.photos, places.records, settings.s3_endpoint)
    store = RecountStore(open_objects(settings.recounts, settings.s3_endpoint)) if settings.recounts else None
    rate = BaseRate().updated(store.settled() if store else ())
    wishes.check()
    asker = _asker(places, photos)
    places.out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(places.out / ".lock", wait=False) as acquired:
        if not acquired:
            raise LockHeldError(f"another check is writing to {places.out}; wait for it, or name another folder")
        journal = CheckJournal(places.out, _source(places, asker))
        check = BinCheck(records, photos, asker, journal)
        with bar(len(records.bin_ids), len(records.bin_ids) - len(check.pending)) as progress:
            check.run(progress)
        return _results(journal, records, photos, rate, wishes, places.out, store, settings.recount_random)


def _results(
    journal: CheckJournal,
    records: BinRecords,
    photos: BinPhotos,
    rate: BaseRate,
    wishes: Wishes,
    out: Path,
    store: RecountStore | None,
    random_share: float,
) -> CheckResult:
    bins = make_list(journal.bins(), records.bin_ids, rate, wishes)
    return CheckResult(
        bins=bins,
        table=write_list(bins, out),
        page=write_page(bins, records, photos, out / "recount.html"),
        queued=file_candidates(bins, records, photos, store, random_share) if store else None,
    )


def _asker(places: Places, photos: BinPhotos) -> Asker:
    if places.archive is None:
        return ServerAsker(places.url, places.key, photos)
    if not places.archive.is_file():
        raise DataError(f"there is no archive {places.archive}")
    return ArchiveAsker(places.archive, photos)


def _source(places: Places, asker: Asker) -> dict[str, str]:
    """What the journal belongs to."""
    source = {"records": without_password(places.records), "query": places.query, "photos": places.photos}
    return {**source, "model": asker.model}
