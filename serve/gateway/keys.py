"""API keys: a JSON file of names, dates and hashes, read again when it changes.

    {"keys": [{"name": "dock-3", "sha256": "9f86d0...", "created": "2026-11-24T05:40:00Z"}]}

A key is 256 bits from the system's random numbers. Nobody can guess such a key or find it by trying
hashes, however fast they are, so its SHA-256 is what is kept; a slow, salted hash is for what people make
up. Several keys are valid at once: to rotate, add the new one, hand it out, remove the old one.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serve.errors import SettingsError

PREFIX = "bw_"
MAX_NAME = 64


@dataclass(frozen=True)
class Key:
    """A key that is valid: ``sha256`` in hex of all of its text, ``created`` in ISO 8601, UTC."""

    name: str
    sha256: str
    created: str


def fingerprint(token: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def match(token: str, keys: Sequence[Key]) -> str | None:
    """The name of the key that ``token`` is, None where it is none. Takes as long whichever key it is."""
    found, name = fingerprint(token), None
    for key in keys:
        if hmac.compare_digest(found, key.sha256):
            name = key.name
    return name


def read(path: Path) -> tuple[Key, ...]:
    """The keys of the file, none without a file. Raises SettingsError where it is not such a file."""
    try:
        return tuple(Key(**{name: str(value) for name, value in each.items()}) for each in _entries(path))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"{path} is no file of API keys: {error}; make it with scripts/api_key.py") from error


def _entries(path: Path) -> list[dict[str, str]]:
    return list(json.loads(path.read_text())["keys"]) if path.exists() else []


def add(path: Path, name: str) -> str:
    """Make a key and return it: the only time that it is seen. Raises SettingsError for a name that is taken."""
    keys = read(path)
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise SettingsError(f"{name[:MAX_NAME]!r} is no name for a key; give 1 to {MAX_NAME} printable characters")
    if name in {key.name for key in keys}:
        raise SettingsError(f"there is a key {name!r} in {path}; choose another name, or remove it first")
    token = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    _write(path, (*keys, Key(name, fingerprint(token), created)))
    return token


def remove(path: Path, name: str) -> None:
    """Make a key invalid. Raises SettingsError where there is none of that name."""
    keys = read(path)
    kept = tuple(key for key in keys if key.name != name)
    if len(kept) == len(keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise SettingsError(f"there is no key {name!r} in {path}; there is {known}")
    _write(path, kept)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Whole or not at all, and for the owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump({"keys": [asdict(key) for key in keys]}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


class Keys:
    """The file's keys as they are now. ``path`` None: there are none.

    Once keys were seen they are demanded as long as this lives: a file that vanishes opens nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: tuple[Key, ...] = ()
        self.seen = bool(self.names())

    def names(self) -> tuple[str, ...]:
        """The names of the valid keys. Raises SettingsError."""
        return tuple(key.name for key in self._current())

    def demanded(self) -> bool:
        """Whether a request needs a key. Raises SettingsError."""
        self.seen = self.seen or bool(self._current())
        return self.seen

    def name_of(self, token: str) -> str | None:
        """The name of the key that ``token`` is, None where it is none. Raises SettingsError."""
        return match(token, self._current())

    def _current(self) -> tuple[Key, ...]:
        if self.path is None:
            return ()
        try:
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {error}") from error
        if stamp != self._stamp:
            self._keys, self._stamp = read(self.path), stamp
        return self._keys
