"""Records in files: a folder with one JSON file a bin, ``<bin_id>.json``, or a CSV with one row a product.

A folder that holds ``records.csv`` stands for that file. Files are read when a bin is looked up, so changes count at
once; a CSV is read again when it has changed.
"""

import csv
import io
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from serve.evidence import csv_text
from serve.evidence.record import unique_names
from serve.gateway.records.bin_record import COLUMNS, KEY, MAX_ROWS, BinRecord, broken_record, from_json, from_rows
from serve.gateway.refusal import retry_later

TABLE_NAME = "records.csv"
MAX_RECORD_BYTES = 512 * 1024
MAX_TABLE_BYTES = 16 * 1024**2
"""About 150,000 products, which take some 200 MB of memory; more belong in a database."""
_RETRY_S = 60


class RecordFiles:
    """The records at ``path``, a folder or a CSV, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table, self._version, self._lock = Table((), {}), (0, 0, 0), Lock()

    def find(self, bin_id: str) -> BinRecord | None:
        """The record of a bin; ``bin_id`` matches location.BIN_ID. Raises Refusal."""
        table = self._path / TABLE_NAME
        try:
            if self._path.is_dir() and not table.exists():
                return _find_file(self._path / f"{bin_id}.json", bin_id)
            rows = self._current(table if self._path.is_dir() else self._path).rows_of(bin_id)
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            message = f"the records cannot be read: {reason}; is BINWATCH_RECORDS right?"
            raise retry_later("RecordsUnreadable", message, _RETRY_S) from error
        return from_rows(bin_id, rows) if rows else None

    def _current(self, path: Path) -> "Table":
        """The table as it is now. Raises OSError, ValueError."""
        with self._lock:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version != self._version:
                self._table = parse_table(_read(path, MAX_TABLE_BYTES))
                self._version = version
            return self._table

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Table:
    """A CSV: its columns among COLUMNS, and the cells of each bin's rows."""

    columns: tuple[str, ...]
    cells: Mapping[str, list[tuple[str, ...]]]

    def rows_of(self, bin_id: str) -> list[dict[str, object]]:
        """The rows of a bin: column -> text."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.cells.get(bin_id, [])[:MAX_ROWS]]


def parse_table(data: bytes, read_columns: Sequence[str] = COLUMNS) -> Table:
    """Read these columns of a CSV, also of a spreadsheet's, as far as it has them. Raises ValueError."""
    try:
        text = csv_text.decode(data)
    except UnicodeError as error:
        raise ValueError("it is not UTF-8; save it as 'CSV UTF-8'") from error
    delimiter, names = _header(text)
    columns = {name: names.index(name) for name in read_columns if name in names}
    cells: dict[str, list[tuple[str, ...]]] = {}
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = (row for row in lines if any(map(str.strip, row)))
    try:
        next(rows)
        for row in rows:
            padded = [cell.strip() for cell in row] + [""] * (len(names) - len(row))
            if bin_id := padded[columns[KEY]]:
                cells.setdefault(bin_id, []).append(tuple(padded[place] for place in columns.values()))
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}; is a quote missing?") from error
    return Table(tuple(columns), cells)


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter of a table and the names of its columns, in small letters. Raises ValueError."""
    try:
        header = csv_text.read_header(text, (KEY, "quantity"))
    except csv.Error as error:
        raise ValueError(f"its first line cannot be read: {error}") from error
    if header is None:
        first = text.strip().partition("\n")[0][:200].strip()
        raise ValueError(f"its first line is {first!r}; it needs the columns {KEY} and quantity")
    repeated = [name for name in COLUMNS if header[1].count(name) > 1]
    if repeated:
        raise ValueError(f"it has two columns {repeated[0]}; rename one of them")
    return header


def _find_file(path: Path, bin_id: str) -> BinRecord | None:
    """The record in a file of the folder. Raises OSError, Refusal."""
    try:
        content = json.loads(_read(path, MAX_RECORD_BYTES), object_pairs_hook=unique_names)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise broken_record(bin_id, f"{path.name} is no JSON file: {error}") from error
    return from_json(bin_id, content)


def _read(path: Path, max_bytes: int) -> bytes:
    """The content of a file. Raises OSError, and ValueError for a pipe, where a reader waits, and for a large file."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_size > max_bytes:
            raise ValueError(f"it has {status.st_size} bytes, the limit is {max_bytes}; a database can be larger")
        return file.read(max_bytes)
