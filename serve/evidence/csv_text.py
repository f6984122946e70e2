"""Tables as people and spreadsheets write them: encodings, delimiters, headers. The trainer and the gateway read such.

With a byte order mark, as UTF-16, with semicolons or tabs, with a line ``sep=;``, with capitals and spaces in a header.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection

DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # it starts with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATOR_LINE = re.compile(r'\A\s*"?sep=."?\r?\n', re.IGNORECASE)  # for a spreadsheet, not a row


def decode(data: bytes) -> str:
    """The text of a table, in UTF-8, or as its byte order mark says. Raises UnicodeError."""
    marked = ((mark, encoding) for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark))
    mark, encoding = next(marked, (b"", "utf-8"))
    return _SEPARATOR_LINE.sub("", data[len(mark) :].decode(encoding))


def read_header(text: str, required: Collection[str]) -> tuple[str, list[str]] | None:
    """The delimiter of a table, and the names of its columns in small letters; None without the ``required`` ones.

    Raises csv.Error.
    """
    for delimiter in DELIMITERS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        row = next((row for row in lines if any(map(str.strip, row))), [])
        names = [name.strip().casefold() for name in row]
        if set(required) <= set(names):
            return delimiter, names
    return None
