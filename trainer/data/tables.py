"""Reading what people and their programs write: tables, records, folders. What cannot be read is a DataError that names
the file and the reason; nothing else may come out of an odd file.

Tables come from spreadsheets too: with a byte order mark, as UTF-16, with semicolons or tabs, with capitals, spaces and
quotes in the header, with empty lines, and with counts such as ``3.0``.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serve.errors import DataError
from serve.evidence import csv_text

_WHOLE_NUMBER = re.compile(r"\+?(\d{1,9})(?:[.,]0*)?")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise DataError for what odd files and folders raise."""
    try:
        yield
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{printable(str(path))} cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What is wrong with a file, in words."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8; save it as UTF-8, in a spreadsheet as 'CSV UTF-8'"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return printable(str((isinstance(error, OSError) and error.strerror) or error))


def printable(text: str) -> str:
    """``text`` without what cannot be printed: the bytes of names that are not UTF-8, and line breaks."""
    encoded = text.encode(errors="backslashreplace").decode()
    return encoded if encoded.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in encoded)


def name_problem(name: str) -> str | None:
    """Why a file of that name cannot be used, or None: lists of paths have one in a line, and are UTF-8."""
    if len(name.splitlines()) > 1 or name != name.rstrip("\r\n"):
        return "its name has a line break"
    try:
        name.encode()
    except UnicodeError:
        return "its name is not UTF-8"
    return "its name has a null character" if "\0" in name else None


def read_text(path: Path) -> str:
    """The text of a table, in UTF-8, or as its byte order mark says. Raises DataError."""
    with reading(path):
        return csv_text.decode(path.read_bytes())


def read_json(path: Path) -> object:
    """The content of a JSON file. Raises DataError."""
    with reading(path):
        return json.loads(path.read_bytes())


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file with the columns ``required`` and ``optional``: column -> text, "" where there is none.

    Empty lines and other columns are left out. Raises DataError.
    """
    text = read_text(path)
    delimiter, names = _header(path, text, required)
    columns = {name: names.index(name) for name in (*required, *optional) if name in names}
    repeated = [name for name in columns if names.count(name) > 1]
    if repeated:
        raise DataError(f"{path} has two columns {repeated[0]}; remove or rename one of them")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"line {lines.line_num} of {path} cannot be read: {error}; is a quote missing?") from error
    cells = [{name: row[place] if place < len(row) else "" for name, place in columns.items()} for row in rows[1:]]
    return [{**dict.fromkeys(optional, ""), **row} for row in cells]


def _header(path: Path, text: str, required: Sequence[str]) -> tuple[str, list[str]]:
    """The delimiter of a table, and the names of its columns in small letters. Raises DataError."""
    with reading(path):
        header = csv_text.read_header(text, required)
    if header:
        return header
    columns = printable(text.strip().partition("\n")[0][:200].strip())
    raise DataError(f"{path} has the columns {columns!r}; it needs {' and '.join(required)}, in the first line")


def whole_number(text: str) -> int | None:
    """The number in a cell of a table, such as ``3``, `` 3 `` or ``3.0``; None if it is no whole number from 0 up."""
    match = _WHOLE_NUMBER.fullmatch(text.strip())
    return int(match[1]) if match else None
