"""The bins to check, with their records: a folder of JSON files, a CSV, or a database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serve.errors import DataError, FieldError, SettingsError
from serve.evidence.record import Record
from serve.gateway.records.bin_record import COLUMNS, KEY, BinRecord, from_rows
from serve.gateway.records.location import is_database
from serve.gateway.records.record_files import TABLE_NAME, RecordFiles, parse_table
from serve.gateway.refusal import Refusal

PHOTO = "photo"
"""The column that says where the photo is."""


@dataclass(frozen=True)
class ListedBin:
    """A bin with its record. ``content``: its JSON, as an archive reads it; ``photo``: empty where R does not say."""

    bin_id: str
    record: Record
    content: object
    photo: str = ""


class BinRecords(Protocol):
    """The bins to check."""

    bin_ids: Sequence[str]
    """Each once, in order."""

    def read(self, bin_id: str) -> ListedBin:
        """A bin with its record. Raises FieldError where the record cannot be used, DataError where nothing can."""


def open_bins(place: str, query: str = "") -> BinRecords:
    """The bins at ``place``; ``query``: of a database, lists them. Raises SettingsError, DataError."""
    if is_database(place):
        if not query:
            raise SettingsError(
                "--records is a database; give --query, a SELECT with bin_id, quantity and more columns"
            )
        from serve.bin_check.bin_listing import read_rows  # needs SQLAlchemy, half a second to import

        return RowBins(read_rows(place, query), "the query")
    path = Path(place)
    if not path.exists():
        raise DataError(f"there are no records at {path}; name a folder of JSON files, a CSV or a database")
    if path.is_dir() and not (path / TABLE_NAME).exists():
        return FolderBins(path)
    table = path / TABLE_NAME if path.is_dir() else path
    try:
        rows = parse_table(table.read_bytes(), (*COLUMNS, PHOTO))
    except ValueError as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    return RowBins([row for bin_id in rows.cells for row in rows.rows_of(bin_id)], str(table))


class FolderBins:
    """A folder with one file ``<bin_id>.json`` a bin, in the dataset's format."""

    def __init__(self, folder: Path) -> None:
        self._files = RecordFiles(folder)
        self.bin_ids: Sequence[str] = sorted(path.stem for path in folder.glob("*.json"))
        if not self.bin_ids:
            raise DataError(f"the folder {folder} holds no .json file and no {TABLE_NAME}")

    def read(self, bin_id: str) -> ListedBin:
        """See BinRecords."""
        try:
            record = self._files.find(bin_id)
        except Refusal as error:
            raise FieldError(error.message) from error
        if record is None:
            raise FieldError(f"the record {bin_id}.json has been removed")
        return _listed(bin_id, record, "")


class RowBins:
    """Rows of a table, each a product of a bin. ``source``: what they are from, for messages."""

    def __init__(self, rows: Sequence[Mapping[str, object]], source: str) -> None:
        missing = [name for name in (KEY, "quantity") if rows and name not in rows[0]]
        if missing or not rows:
            columns = f"the columns {', '.join(rows[0])[:200]}" if rows else "no rows"
            raise DataError(f"{source} has {columns}; it needs one row for each product, with {KEY} and quantity")
        self._rows: dict[str, list[dict[str, object]]] = {}
        self._photos: dict[str, str] = {}
        for row in rows:
            if bin_id := _text(row[KEY]):
                record = {name: value for name, value in row.items() if name in COLUMNS}
                self._rows.setdefault(bin_id, []).append(record)
                if photo := _text(row.get(PHOTO)):
                    self._photos.setdefault(bin_id, photo)
        self.bin_ids: Sequence[str] = list(self._rows)

    def read(self, bin_id: str) -> ListedBin:
        """See BinRecords."""
        try:
            record = from_rows(bin_id, self._rows[bin_id])
        except Refusal as error:
            raise FieldError(error.message) from error
        return _listed(bin_id, record, self._photos.get(bin_id, ""))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _listed(bin_id: str, record: BinRecord, photo: str) -> ListedBin:
    content = record.fields.get("record", record.fields.get("products"))
    if content is None:
        content = {"EXPECTED_QUANTITY": record.record.quantity}
    return ListedBin(bin_id, record.record, content, photo)
