"""API keys: a JSON file of names, dates and hashes, read again when it changes.

    {"keys": [{"name": "dock-3", "sha256": "9f86d0...", "created": "2026-11-24T05:40:00Z", "may": ["recount"]}]}

``may`` lists what a key is allowed beside the rest, and is missing where that is nothing.

A key is 256 random bits from the operating system. Such a key can neither be guessed nor recovered by hashing
candidates, so a plain SHA-256 is stored; slow, salted hashes are for passwords that people choose. Several keys are
valid at the same time: to rotate, add the new key, hand it out, then remove the old one.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serve.errors import SettingsError
from serve.files import atomic_write, exclusive_lock

PREFIX = "bw_"
MAX_NAME = 64
RECOUNT = "recount"
RIGHTS = (RECOUNT,)
"""What a key may be allowed: ``recount``, to send recounts, which become labels."""


@dataclass(frozen=True)
class Key:
    """A valid key. ``sha256``: hex digest of the whole key; ``created``: ISO 8601, UTC; ``may``: its RIGHTS."""

    name: str
    sha256: str
    created: str
    may: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, entry: Mapping[str, object]) -> "Key":
        """Raises ValueError, TypeError."""
        may = entry.get("may", [])
        if not isinstance(may, list):
            raise ValueError(f"may is {may!r}; give a list")
        texts = {name: str(value) for name, value in entry.items() if name != "may"}
        return cls(**texts, may=tuple(map(str, may)))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """Without ``may`` where it is empty, as files were before there were rights."""
        return {name: value for name, value in asdict(self).items() if name != "may" or value}


def hash_token(token: str) -> str:
    """SHA-256 of a key in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find_name(token: str, keys: Sequence[Key]) -> str | None:
    """The name of the key ``token``, None if it is not valid. Takes the same time whichever key it is."""
    digest, name = hash_token(token), None
    for key in keys:
        if hmac.compare_digest(digest, key.sha256):
            name = key.name
    return name


def read(path: Path) -> tuple[Key, ...]:
    """The keys in the file, none if there is no file. Raises SettingsError if the content is invalid."""
    try:
        return tuple(map(Key.from_json, _entries(path)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"{path} is not a valid file of API keys: {error}; create it with scripts/api_key.py"
        ) from error


def _entries(path: Path) -> list[dict[str, object]]:
    return list(json.loads(path.read_text())["keys"]) if path.exists() else []


def add(path: Path, name: str, may: Sequence[str] = ()) -> str:
    """Create a key with these RIGHTS and return it; it cannot be read again later.

    Raises SettingsError for an invalid or taken name.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise SettingsError(f"{name[:MAX_NAME]!r} cannot name a key; give 1 to {MAX_NAME} printable characters")
    token = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    with _locked(path):
        keys = read(path)
        if name in {key.name for key in keys}:
            raise SettingsError(f"there is a key {name!r} in {path} already; choose another name, or remove it first")
        _write(path, (*keys, Key(name, hash_token(token), created, tuple(may))))
    return token


def remove(path: Path, name: str) -> None:
    """Revoke a key. Raises SettingsError if there is no key of that name."""
    with _locked(path):
        keys = read(path)
        remaining = tuple(key for key in keys if key.name != name)
        if len(remaining) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise SettingsError(f"there is no key {name!r} in {path}; existing keys: {known}")
        _write(path, remaining)


def _locked(path: Path) -> AbstractContextManager[bool]:
    """Of two processes that change the keys, one waits for the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return exclusive_lock(path.parent)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file atomically, readable by its owner alone."""
    with atomic_write(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps({"keys": [key.to_json() for key in keys]}, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())


class Keys:
    """The valid keys; the file is read again whenever it changes. Without a ``path`` there are none.

    Once a key has existed, requests need one for as long as the process lives: deleting the file opens nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: tuple[Key, ...] = ()
        self._ever_had_keys = bool(self.names())

    def names(self) -> tuple[str, ...]:
        """The names of the valid keys. Raises SettingsError."""
        return tuple(key.name for key in self._current())

    def required(self) -> bool:
        """Whether a request needs a key. Raises SettingsError."""
        self._ever_had_keys = self._ever_had_keys or bool(self._current())
        return self._ever_had_keys

    def name_of(self, token: str) -> str | None:
        """The name of the key ``token``, None if it is not valid. Raises SettingsError."""
        return find_name(token, self._current())

    def may(self, name: str, right: str) -> bool:
        """Whether the key of that name has one of RIGHTS. Raises SettingsError."""
        return any(key.name == name and right in key.may for key in self._current())

    def _current(self) -> tuple[Key, ...]:
        if self.path is None:
            return ()
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {error}") from error
        if stamp != self._stamp:
            self._keys, self._stamp = read(self.path), stamp
        return self._keys
