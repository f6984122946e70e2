"""A job's results in a bucket, for hosts that share no folder."""

from pathlib import Path

from serve.errors import DataError
from serve.files import atomic_write
from trainer.data.s3 import Missing, S3Store

FOLDERS = ("checkpoints", "output", "model")
"""What a job writes; checkpoints come first, so that none is older than the epochs that the bucket has."""


class JobStore:
    """The folder of a job below ``uri``, s3://bucket/prefix, and its copy in ``folder``."""

    def __init__(self, uri: str, folder: Path, endpoint_url: str | None) -> None:
        self._store, self._folder = S3Store(uri, endpoint_url), folder
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Fetch what an earlier host has left. Raises DataError."""
        try:
            for key in list(self._store.keys("")):
                path = self._folder / key
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as out:
                    out.write(self._store.read(key))
                self._sent[key] = _stamp(path)
        except Missing as error:
            raise DataError(f"{self._store.uri} cannot be read: there is no such bucket, or no right to it") from error

    def send(self) -> None:
        """Send the files that have changed since, and remove those that are gone. Raises DataError."""
        present = {str(path.relative_to(self._folder)): path for path in self._files()}
        for key, path in present.items():
            stamp = _stamp(path)
            if self._sent.get(key) == stamp:
                continue
            try:
                self._store.write(key, path.read_bytes())
            except Missing as error:
                raise DataError(
                    f"{self._store.uri} cannot be written: create the bucket, or give the right to"
                ) from error
            self._sent[key] = stamp
        for key in self._sent.keys() - present.keys():
            self._store.remove(key)
            del self._sent[key]

    def _files(self) -> list[Path]:
        paths = (path for name in FOLDERS for path in sorted((self._folder / name).rglob("*")))
        return [path for path in paths if path.is_file() and not path.name.endswith(".partial")]


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
