"""What a check has been answered so far, in a file of JSON lines: a check that was killed goes on from there.

The first line says which records, photos and model the others belong to. A last line that was cut off is dropped.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from pydantic import TypeAdapter, ValidationError

from serve.bin_check.checked_bin import CheckedBin
from serve.errors import DataError

NAME = "answers.jsonl"
_BIN = TypeAdapter(CheckedBin)


class CheckJournal:
    """The journal of a check in ``folder``. ``source``: the records, photos and model that it is about.

    Raises DataError where the journal belongs to another source, or is damaged.
    """

    def __init__(self, folder: Path, source: Mapping[str, str]) -> None:
        self.path = folder / NAME
        self._lock, self._version = Lock(), ""
        self.bin_ids: set[str] = set()
        """The bins that need not be asked about again."""
        if self.path.exists():
            _drop_partial_line(self.path)
        if not self.path.exists() or not self.path.stat().st_size:
            self._write([json.dumps(dict(source))])
        self._check_source(source)
        for item in self.bins():
            self.bin_ids.add(item.bin_id)
            self._version = item.model or self._version

    def append(self, bins: Sequence[CheckedBin]) -> None:
        """Store bins, each once, so that they outlast a kill. Raises DataError where another model has answered."""
        with self._lock:
            for item in bins:
                if item.model and self._version not in ("", item.model):
                    raise self._other(f"model {self._version}", f"model {item.model}")
                self._version = item.model or self._version
            self._write([json.dumps({name: value for name, value in asdict(item).items() if value}) for item in bins])
            self.bin_ids.update(item.bin_id for item in bins)

    def bins(self) -> Iterator[CheckedBin]:
        """All bins that were checked, in the order of their answers. Raises DataError."""
        with self.path.open(encoding="utf-8") as lines:
            next(lines)
            for number, line in enumerate(lines, 2):
                try:
                    yield _BIN.validate_json(line)
                except ValidationError as error:
                    raise DataError(f"line {number} of {self.path} is damaged: {error}; remove the file") from error

    def _write(self, lines: Sequence[str]) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            out.write("".join(f"{line}\n" for line in lines))
            out.flush()
            os.fsync(out.fileno())

    def _check_source(self, source: Mapping[str, str]) -> None:
        with self.path.open(encoding="utf-8") as lines:
            first = next(lines)
        try:
            stored = dict(json.loads(first))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path} is no journal of a check: {first[:80]!r}; name another folder") from error
        for name, value in source.items():
            if stored.get(name) != value:
                raise self._other(f"{name} {stored.get(name)}", f"{name} {value}")

    def _other(self, stored: str, new: str) -> DataError:
        return DataError(
            f"{self.path} was begun with {stored}, now there is {new}; name another folder, or remove the file to "
            "start again"
        )


def _drop_partial_line(path: Path) -> None:
    with path.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        while content_end:
            content_end -= 1
            file.seek(content_end)
            if file.read(1) == b"\n":
                content_end += 1
                break
        file.truncate(content_end)
