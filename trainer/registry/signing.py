"""Signatures of archives: Ed25519 over the file's bytes, signed by the trainer, verified by the promoter.

    bin-counter.mar        the archive
    bin-counter.mar.sig    its signature, 64 bytes, an artifact beside it

    BINWATCH_SIGNING_KEY   file with the private key (PEM, mode 0600); if it is set, archives are signed
    BINWATCH_VERIFY_KEY    trusted public keys: a PEM file with one or more of them, or a folder of *.pem files

Any tool that knows Ed25519 can verify one:

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
from pydantic import Field

from serve.archives.safe_zip import MAX_BYTES
from serve.errors import ArchiveError, SettingsError
from serve.settings import read
from serve.settings.common import VerifySettings

SUFFIX = ".sig"
SIGNATURE_BYTES = 64
PRIVATE, PUBLIC = "signing.key", "verify.pem"
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_HOW_TO_MAKE = "scripts/pipeline.py makes a key pair at its first use; in containers the service `secrets` does"


class SigningSettings(VerifySettings):
    """Which keys sign archives, and which are trusted."""

    signing_key: Path | None = Field(
        default=None, description="private key that signs archives; without, a pair is made in STATE/keys"
    )


@dataclass(frozen=True)
class KeyPair:
    """The files of an installation's two keys."""

    private: Path
    public: Path


def ensure_key_pair(folder: Path) -> KeyPair:
    """The key pair in ``folder``, generated at first use; the private key has mode 0600.

    Processes that call it at the same time get the same pair, and a kill leaves each file complete or absent.
    """
    pair = KeyPair(folder / PRIVATE, folder / PUBLIC)
    folder.mkdir(parents=True, exist_ok=True)
    if not pair.private.exists():
        key = Ed25519PrivateKey.generate()
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # another process was first, and its key counts
            _create(pair.private, text, 0o600)
    if not pair.public.exists():
        public = private_key(pair.private).public_key()
        with suppress(FileExistsError):
            _create(pair.public, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return pair


def _create(path: Path, content: bytes, mode: int) -> None:
    """Create a file atomically. Raises FileExistsError where there is one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # created with mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), mode)
        os.link(file.name, path)


def ensure_local_keys(state: Path, environ: MutableMapping[str, str] = os.environ) -> Path:
    """Make this process and its children sign archives, without BINWATCH_SIGNING_KEY with a pair below ``state``.

    Returns the trusted keys, as ``trusted_keys`` does.
    """
    if not read(SigningSettings, environ).signing_key:
        environ["BINWATCH_SIGNING_KEY"] = str(ensure_key_pair(state / "keys").private)
    return trusted_keys(state, environ)


def trusted_keys(state: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The path of the trusted public keys: BINWATCH_VERIFY_KEY, or else the key of the pair below ``state``."""
    return read(SigningSettings, environ).verify_key or state / "keys" / PUBLIC


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key. Raises SettingsError where it is unusable, or the file is readable by other users."""
    try:
        mode = path.stat().st_mode & 0o777
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"there is no private key to sign archives with in {path}: {error}; {_HOW_TO_MAKE}"
        ) from error
    if mode & 0o077:
        raise SettingsError(
            f"others may read the private key {path}, which has mode {mode:03o}; `chmod 600` it, or make a new pair"
        )
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} contains a key that is not Ed25519; {_HOW_TO_MAKE}")
    return key


def public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """Read the public keys of a file, or of the *.pem files of a folder. Raises SettingsError where there is none."""
    try:
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        keys = tuple(_public_key(block, file) for file in files for block in _PEM_BLOCK.finditer(file.read_bytes()))
    except OSError as error:
        raise SettingsError(f"the public keys cannot be read: {error}; {_HOW_TO_MAKE}") from error
    if not keys:
        raise SettingsError(f"{path} contains no public key to verify archives with; {_HOW_TO_MAKE}")
    return keys


def _public_key(block: "re.Match[bytes]", file: Path) -> Ed25519PublicKey:
    if b"PRIVATE" in block[1]:
        raise SettingsError(
            f"{file} contains a private key, which must not be where archives are only verified; use the public key"
        )
    try:
        key = load_pem_public_key(block[0])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{file} contains no public key: {error}; {_HOW_TO_MAKE}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{file} contains a key that is not Ed25519; {_HOW_TO_MAKE}")
    return key


def signing_key(environ: Mapping[str, str]) -> Ed25519PrivateKey | None:
    """The private key that BINWATCH_SIGNING_KEY names; None without it. Raises SettingsError where it is unusable."""
    path = read(SigningSettings, environ).signing_key
    return private_key(path) if path else None


def key_name(key: Ed25519PublicKey) -> str:
    """A short name of a key: the first 12 digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:12]


def sign(archive: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature of ``archive`` to a file beside it, and return its path."""
    signature = archive.with_name(archive.name + SUFFIX)
    with _bytes_of(archive) as content:
        signature.write_bytes(key.sign(content))
    return signature


def verify(archive: Path, signature: Path, keys: Sequence[Ed25519PublicKey]) -> str:
    """Return the name of the key that signed ``archive``. Raises ArchiveError where none of ``keys`` did."""
    signed = signature.read_bytes()
    if len(signed) != SIGNATURE_BYTES:
        raise ArchiveError(f"the signature of the archive has {len(signed)} bytes, not {SIGNATURE_BYTES}: damaged")
    with _bytes_of(archive) as content:
        for key in keys:
            with suppress(InvalidSignature):
                key.verify(signed, content)
                return key_name(key)
    names = ", ".join(map(key_name, keys))
    raise ArchiveError(
        f"the archive was changed after it was signed, or another installation signed it: its signature fits none of "
        f"the trusted keys ({names})"
    )


@contextmanager
def _bytes_of(archive: Path) -> Iterator[memoryview]:
    """A file's bytes, memory-mapped. Raises ArchiveError."""
    size = archive.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise ArchiveError(f"the archive has {size} bytes; 1 to {MAX_BYTES} are allowed")
    with (
        archive.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        yield content
