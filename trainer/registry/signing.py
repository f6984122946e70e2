"""Signatures of archives: Ed25519 over a file's bytes, made by whoever trains, checked by whoever promotes.

    bin-counter.mar        the archive
    bin-counter.mar.sig    its signature, 64 bytes, beside it in the run

    BINWATCH_SIGNING_KEY   file of the private key (PEM, for its owner alone); archives are signed where it is set
    BINWATCH_VERIFY_KEY    the public keys that are trusted: a file (PEM, one or more in it), or a folder of files *.pem

Any tool that knows Ed25519 can check one:

    openssl pkeyutl -verify -pubin -inkey verify.pem -rawin -in bin-counter.mar -sigfile bin-counter.mar.sig
"""

import hashlib
import mmap
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from serve.archives.safe_zip import MAX_BYTES
from serve.errors import ArchiveError, SettingsError

SUFFIX = ".sig"
SIGNATURE_BYTES = 64
PRIVATE, PUBLIC = "signing.key", "verify.pem"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_MAKE = "scripts/pipeline.py makes a pair at its first use, and in containers the service `secrets` does"


@dataclass(frozen=True)
class Pair:
    """Where the two keys of an installation lie."""

    private: Path
    public: Path


def pair_in(folder: Path) -> Pair:
    """The pair in ``folder``, made at first use: the private key mode 0600, each whole or not there."""
    pair = Pair(folder / PRIVATE, folder / PUBLIC)
    folder.mkdir(parents=True, exist_ok=True)
    if not pair.private.exists():
        made = Ed25519PrivateKey.generate()
        text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # another process was first; its key is the one
            _write(pair.private, text, 0o600)
    if not pair.public.exists():
        public = private_key(pair.private).public_key()
        with suppress(FileExistsError):
            _write(pair.public, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return pair


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, whole or not at all. Raises FileExistsError where there is one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # made with mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), mode)
        os.link(file.name, path)


def ensure_local_keys(state: Path, environ: MutableMapping[str, str] = os.environ) -> Path:
    """Make this process and the jobs that it starts sign, where no key is named with a pair below ``state``.

    Gives the keys that are trusted, as ``trusted`` does.
    """
    if not environ.get("BINWATCH_SIGNING_KEY"):
        environ["BINWATCH_SIGNING_KEY"] = str(pair_in(state / "keys").private)
    return trusted(state, environ)


def trusted(state: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The public keys that BINWATCH_VERIFY_KEY names, or the one of the pair below ``state``."""
    return Path(environ.get("BINWATCH_VERIFY_KEY") or state / "keys" / PUBLIC)


def private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file that nobody else may read. Raises SettingsError."""
    try:
        mode = path.stat().st_mode & 0o777
        found = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} is no private key to sign archives with: {error}; {_MAKE}") from error
    if mode & 0o077:
        raise SettingsError(f"others may read {path}, which has mode {mode:03o}; `chmod 600` it, or make a new pair")
    if not isinstance(found, Ed25519PrivateKey):
        raise SettingsError(f"{path} holds a key that is not Ed25519; {_MAKE}")
    return found


def public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """The public keys of a file, or of the files ``*.pem`` of a folder. Raises SettingsError where there is none."""
    try:
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        found = tuple(_public_key(block, file) for file in files for block in _BLOCK.finditer(file.read_bytes()))
    except OSError as error:
        raise SettingsError(f"the keys to check archives with cannot be read: {error}; {_MAKE}") from error
    if not found:
        raise SettingsError(f"{path} holds no public key to check archives with; {_MAKE}")
    return found


def _public_key(block: "re.Match[bytes]", file: Path) -> Ed25519PublicKey:
    if b"PRIVATE" in block[1]:
        raise SettingsError(f"{file} holds a private key; where archives are only checked there must be none")
    try:
        found = load_pem_public_key(block[0])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{file} holds no public key: {error}; {_MAKE}") from error
    if not isinstance(found, Ed25519PublicKey):
        raise SettingsError(f"{file} holds a key that is not Ed25519; {_MAKE}")
    return found


def signer_from(environ: Mapping[str, str]) -> Ed25519PrivateKey | None:
    """The key that BINWATCH_SIGNING_KEY names, if it names one. Raises SettingsError where that cannot be used."""
    path = environ.get("BINWATCH_SIGNING_KEY")
    return private_key(Path(path)) if path else None


def name_of(key: Ed25519PublicKey) -> str:
    """A short name of a key: the first figures of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:12]


def sign(archive: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature of ``archive`` beside it, and return its path."""
    signature = archive.with_name(archive.name + SUFFIX)
    with _bytes_of(archive) as content:
        signature.write_bytes(key.sign(content))
    return signature


def verify(archive: Path, signature: Path, keys: Sequence[Ed25519PublicKey]) -> str:
    """The name of the key that signed ``archive``. Raises ArchiveError where none of ``keys`` did."""
    found = signature.read_bytes()
    if len(found) != SIGNATURE_BYTES:
        raise ArchiveError(f"the signature of the archive has {len(found)} bytes, not {SIGNATURE_BYTES}: damaged")
    with _bytes_of(archive) as content:
        for key in keys:
            with suppress(InvalidSignature):
                key.verify(found, content)
                return name_of(key)
    known = ", ".join(map(name_of, keys))
    raise ArchiveError(
        f"the archive is not what was signed, or another installation signed it: its signature fits none of the keys "
        f"that are trusted here ({known})"
    )


@contextmanager
def _bytes_of(archive: Path) -> Iterator[memoryview]:
    """A file's bytes, not read into memory. Raises ArchiveError."""
    size = archive.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise ArchiveError(f"the archive has {size} bytes; more than 0 and at most {MAX_BYTES} are allowed")
    with (
        archive.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        yield content
