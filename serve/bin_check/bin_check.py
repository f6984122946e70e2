"""The whole check: asks about every bin that the journal does not have yet, in parallel, in chunks."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from threading import Event

from serve.bin_check.asking import Asker, Question
from serve.bin_check.bin_photos import BinPhotos
from serve.bin_check.bin_records import BinRecords
from serve.bin_check.check_journal import CheckJournal
from serve.bin_check.checked_bin import CheckedBin, from_answer
from serve.errors import RequestError, ServerError

STORED = 50
"""Answers that are stored at a time: a kill loses at most so many for each worker."""

Progress = Callable[[int], object]
"""Is told of each number of bins that are done."""


class BinCheck:
    """Asks about the bins of ``records``, whose photos are in ``photos``, and stores what it learns in ``journal``."""

    def __init__(self, records: BinRecords, photos: BinPhotos, asker: Asker, journal: CheckJournal) -> None:
        self._records, self._photos, self._asker, self._journal = records, photos, asker, journal
        self._stop = Event()

    @property
    def pending(self) -> list[str]:
        """The ids of the bins that are not done."""
        return [bin_id for bin_id in self._records.bin_ids if bin_id not in self._journal.bin_ids]

    def run(self, progress: Progress) -> None:
        """Check all bins that are pending. Raises BinwatchError where no bin can be; what was learned is stored."""
        chunks = _chunks(self.pending, self._asker)
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(self._asker.workers, "check") as threads:
            try:
                for chunk in chunks:
                    running.add(threads.submit(self._check, chunk, progress))
                    if len(running) > self._asker.workers:
                        running = _await_one(running)
                while running:
                    running = _await_one(running)
            finally:
                self._stop.set()

    def _check(self, bin_ids: Sequence[str], progress: Progress) -> None:
        batch: list[CheckedBin] = []
        for item in self._checked(bin_ids):
            batch.append(item)
            if len(batch) >= min(STORED, self._asker.chunk):
                self._store(batch, progress)
                batch = []
            if self._stop.is_set():
                return
        self._store(batch, progress)

    def _store(self, batch: Sequence[CheckedBin], progress: Progress) -> None:
        self._journal.append(batch)
        progress(len(batch))

    def _checked(self, bin_ids: Sequence[str]) -> Iterator[CheckedBin]:
        questions = []
        for bin_id in bin_ids:
            try:
                item = self._records.read(bin_id)
                questions.append(Question(item, self._photos.find(bin_id, item.photo)))
            except RequestError as error:
                yield CheckedBin(bin_id=bin_id, problem=str(error))
        moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for question, answer in zip(questions, self._asker.ask(questions), strict=True):
            yield self._judge(question, answer, moment)

    def _judge(self, question: Question, answer: Mapping[str, object] | RequestError, moment: str) -> CheckedBin:
        item, photo = question.item, question.photo
        if isinstance(answer, RequestError):
            return CheckedBin(bin_id=item.bin_id, photo=photo, problem=str(answer), recorded=item.record.quantity)
        try:
            return from_answer(item, photo, answer, str(answer.get("model_version", self._asker.model)), moment)
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"the answer about bin {item.bin_id} has another shape: {error!r}") from error


def _await_one(running: set[Future[None]]) -> set[Future[None]]:
    """Those that still run, after one has ended. Raises its error."""
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


def _chunks(bin_ids: Sequence[str], asker: Asker) -> Iterator[Sequence[str]]:
    """Chunks of the asker's size, smaller where otherwise some workers would have nothing to do."""
    size = max(1, min(asker.chunk, -(-len(bin_ids) // asker.workers)))
    ids = iter(bin_ids)
    return iter(lambda: list(itertools.islice(ids, size)), [])
