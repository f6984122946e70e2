"""Signed archives in MLflow. Whoever reaches MLflow can write there, so an archive is used only after its signature is
verified.

The signature is an artifact beside the archive. It proves that this installation made these bytes; the archive's
manifest names its training run, so that the archives of two runs cannot be swapped.
"""

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serve.archives.archive import manifest_of, stamp
from serve.archives.safe_zip import MAX_BYTES
from serve.errors import ArchiveError, DataError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_FOLDER, ARCHIVE_SHA
from trainer.registry import signing
from trainer.registry.entities import Status, Version
from trainer.registry.mlflow_registry import Registry

SIGNATURE = ARCHIVE + signing.SUFFIX


def fetch(registry: Registry, run_id: str, folder: Path, trusted: Path | None) -> Path:
    """Download the archive of a run into ``folder``, and verify its signature.

    ``trusted``: the public keys, as in BINWATCH_VERIFY_KEY; None where nobody else can write to MLflow: nothing is
    verified. Raises ArchiveError where there is no such archive or its signature does not fit, SettingsError where
    there are no keys, TrackingError.
    """
    try:
        _check_files(registry.artifacts(run_id, ARCHIVE_FOLDER), run_id, trusted is not None)
        if trusted is not None:
            registry.download(run_id, SIGNATURE, folder)
        archive = registry.download(run_id, ARCHIVE, folder)
    except DataError as error:
        raise ArchiveError(str(error)) from error
    verify(archive, run_id, trusted)
    return archive


def verify(archive: Path, run_id: str, trusted: Path | None) -> None:
    """Verify the signature beside ``archive``, and that it is the archive of that run; nothing without ``trusted``.

    Raises ArchiveError, SettingsError.
    """
    if trusted is None:
        return
    signature = archive.with_name(archive.name + signing.SUFFIX)
    if not signature.is_file():
        raise ArchiveError(f"there is no signature {signature.name} beside the archive of run {run_id}")
    signing.verify(archive, signature, signing.public_keys(trusted))
    _check_run(archive, run_id)


def sign_version(registry: Registry, version: Version, key: Ed25519PrivateKey, redecide: bool) -> str:
    """Sign the archive of a version that somebody vouches for, if it passes the checks of the model store.

    ``redecide``: let the gate decide again where the version was rejected. Returns the name of the key.
    Raises ArchiveError, TrackingError.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-sign-") as temporary:
        folder = Path(temporary)
        archive = registry.download(version.run_id, ARCHIVE, folder)
        _check_run(archive, version.run_id)
        stamp(archive, folder / "checked.mar", version.number)
        run = registry.reopen_run(version.run_id)
        run.set_tags({ARCHIVE_SHA: sha256(archive)})
        run.log_file(signing.sign(archive, key), ARCHIVE_FOLDER)
    if redecide and version.status == Status.REJECTED:
        registry.mark(version.number, Status.UNDECIDED, "signed by hand; the gate decides again")
    return signing.key_name(key.public_key())


def _check_run(archive: Path, run_id: str) -> None:
    """Refuse an archive whose manifest names another run."""
    manifest_run_id = manifest_of(archive).run_id
    if manifest_run_id != run_id:
        raise ArchiveError(
            f"the archive of run {run_id} is that of run {manifest_run_id or 'none'}: archives were swapped; "
            "run the pipeline again"
        )


def _check_files(sizes: dict[str, int], run_id: str, signed: bool) -> None:
    """Refuse before anything is downloaded. ``sizes``: bytes of each file; ``signed``: a signature is required."""
    if ARCHIVE not in sizes:
        raise ArchiveError(f"run {run_id} has no {ARCHIVE}: it was deleted, or never logged; run the pipeline again")
    if sizes[ARCHIVE] > MAX_BYTES:
        raise ArchiveError(f"the archive of run {run_id} has {sizes[ARCHIVE]} bytes; at most {MAX_BYTES} are allowed")
    if not signed:
        return
    if SIGNATURE not in sizes:
        raise ArchiveError(
            f"the archive of run {run_id} is not signed: it was made before archives were signed, or elsewhere. "
            "Run the pipeline again, or, if you trust the archive, sign it: python scripts/sign.py VERSION"
        )
    if sizes[SIGNATURE] != signing.SIGNATURE_BYTES:
        raise ArchiveError(
            f"the signature of run {run_id} has {sizes[SIGNATURE]} bytes: damaged; run the pipeline again"
        )
