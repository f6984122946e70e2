"""Asks about bins: a server, or an archive that runs here. Both may be asked by several threads at the same time."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serve.archives.archive import ask
from serve.bin_check.bin_photos import S3, BinPhotos, open_photo
from serve.bin_check.bin_records import ListedBin
from serve.errors import OverloadedError, RequestError
from serve.manifest import sha256
from serve.rollout.torchserve_client import Inference

ATTEMPTS, FIRST_WAIT_S, MAX_WAIT_S = 8, 0.25, 15.0
THREADS = 8
"""Requests to a server at the same time."""
DOWNLOADS = 16
"""Photos that are fetched for an archive at the same time."""


@dataclass(frozen=True)
class Question:
    """A bin and the address of its photo."""

    item: ListedBin
    photo: str


class Asker(Protocol):
    """Who answers. ``model``: which model that is, as far as it is known beforehand; ``workers``: threads that may ask
    at the same time; ``chunk``: bins to ask about at once."""

    model: str
    workers: int
    chunk: int

    def ask(self, questions: Sequence[Question]) -> Iterator[Mapping[str, object] | RequestError]:
        """One answer for each question, in order, with a verdict; or why there is none.

        Raises ServerError, ArchiveError, UnavailableError where no question can be answered.
        """


class ServerAsker:
    """The gateway or TorchServe at ``url``. A server that is busy is asked again, with exponential backoff."""

    workers, chunk = THREADS, 8

    def __init__(self, url: str, key: str, photos: BinPhotos) -> None:
        self.model, self._url, self._key, self._photos = url, url, key, photos
        self._own = threading.local()

    def ask(self, questions: Sequence[Question]) -> Iterator[Mapping[str, object] | RequestError]:
        """See Asker."""
        for question in questions:
            try:
                yield self._verify(self._photos.read(question.photo), question.item.content)
            except RequestError as error:
                yield error

    def _verify(self, photo: bytes, content: object) -> Mapping[str, object]:
        for attempt in range(ATTEMPTS - 1):
            try:
                return self._client().verify(photo, content)
            except OverloadedError:
                time.sleep(min(MAX_WAIT_S, FIRST_WAIT_S * 2**attempt))
        return self._client().verify(photo, content)

    def _client(self) -> Inference:
        """One session for each thread."""
        if not hasattr(self._own, "client"):
            self._own.client = Inference(self._url, key=self._key)
        client: Inference = self._own.client
        return client


class ArchiveAsker:
    """A model archive, in one process for each core. Every chunk gets a new process, so that memory stays flat."""

    chunk = 1000

    def __init__(self, archive: Path, photos: BinPhotos, workers: int = 0) -> None:
        self.model = sha256(archive)
        self.workers = workers or len(os.sched_getaffinity(0))
        self._archive, self._photos = archive, photos

    def ask(self, questions: Sequence[Question]) -> Iterator[Mapping[str, object] | RequestError]:
        """See Asker."""
        with tempfile.TemporaryDirectory(prefix="binwatch-check-") as folder:
            targets = [Path(folder, str(row)) for row in range(len(questions))]
            with ThreadPoolExecutor(DOWNLOADS, "photos") as threads:
                results = list(threads.map(self._fetch, questions, targets))
            paths = [result for result in results if isinstance(result, Path)]
            pairs = zip(questions, results, strict=True)
            records = {path: question.item.content for question, path in pairs if isinstance(path, Path)}
            answers = ask(self._archive, paths, 1, records) if paths else iter(())
            for result in results:
                yield _answer(next(answers)) if isinstance(result, Path) else result

    def _fetch(self, question: Question, path: Path) -> Path | RequestError:
        """The photo at ``path``: bins can share one, and each needs its own."""
        try:
            if question.photo.startswith(S3):
                path.write_bytes(self._photos.read(question.photo))
            else:
                with open_photo(question.photo):
                    pass
                path.symlink_to(Path(question.photo).resolve())
        except RequestError as error:
            return error
        return path


def _answer(answer: Mapping[str, object]) -> Mapping[str, object] | RequestError:
    return RequestError(str(answer["error"])) if "error" in answer else answer
