"""What BINWATCH_RECORDS and BINWATCH_RECORDS_QUERY can be. A database is first asked when a bin is looked up."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

DATABASES = ("postgresql", "postgresql+psycopg2", "sqlite")
"""The schemes of SQLAlchemy's addresses whose transactions can be limited to reading, and in time."""
BIN_ID = r"^[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,63}$"
"""A bin's id: no slash and no dot in front, so that it names a file of the folder and nothing else."""
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
"""A parameter of a query as SQLAlchemy's ``text`` finds them: not ``::``, a cast of PostgreSQL."""


def is_database(location: str) -> bool:
    """Whether ``location`` is an address, not a path."""
    return "://" in location


def check_location(location: str) -> str:
    """A path or the address of a database, as it is. Raises ValueError."""
    if not is_database(location):
        return location
    advice = "give a folder, a CSV, or an address postgresql://USER@HOST/DATABASE or sqlite:////PATH"
    try:
        address = urlsplit(location)
        usable = address.scheme in DATABASES and (address.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or (address.scheme == "sqlite" and not address.path.strip("/")):
        raise ValueError(advice)
    return location


def path_problems(path: Path) -> list[str]:
    """Why this process cannot read the files of records at ``path``, a sentence; empty if it seems that it can."""
    try:
        if not path.exists():
            return [f"BINWATCH_RECORDS: there is no file or folder {path}; name one, or leave it out"]
        readable = os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    except OSError:  # a folder above it is closed
        readable = False
    advice = "let everybody read it: chmod -R a+rX PATH"
    return [] if readable else [f"BINWATCH_RECORDS: the user of uid {os.getuid()} cannot read {path}; {advice}"]


def check_query(query: str) -> str:
    """A query that only reads, without a semicolon at its end. Raises ValueError.

    The transaction that it runs in refuses to write, too: a function or a WITH clause could.
    """
    statement = query.strip().removesuffix(";").rstrip()
    if not re.match(r"(?:SELECT|WITH)\b", statement, re.IGNORECASE) or ";" in statement:
        raise ValueError("give one statement that starts with SELECT or WITH, without a semicolon inside")
    if parameters_of(statement) != {"bin_id"}:
        raise ValueError("give a query with :bin_id, the id of the bin, and no other parameter")
    return statement


def parameters_of(statement: str) -> set[str]:
    """The parameters of a query, by name."""
    return set(_PARAMETER.findall(statement))
