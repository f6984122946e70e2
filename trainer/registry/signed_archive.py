"""An archive from MLflow's store, which anybody who reaches MLflow can write to: nothing of it is used before its
signature fits.

The signature lies beside the archive in the run. It says that this installation made these bytes, and the archive's
own manifest says for which run, so that archives cannot change places.
"""

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serve.archives.archive import manifest_of, stamp
from serve.archives.safe_zip import MAX_BYTES
from serve.errors import ArchiveError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.registry.renewal import without_pickle
from trainer.registry.runs import TrackedRun
from trainer.registry.versions import Status, Version

SIGNATURE = ARCHIVE + signing.SUFFIX


def fetch(registry: Registry, run_id: str, folder: Path, trusted: Path | None) -> Path:
    """The archive of a run, in ``folder``, signed by one of the keys that ``trusted`` names.

    ``trusted``: as BINWATCH_VERIFY_KEY; None where nobody else can write to MLflow: nothing is checked.
    Raises ArchiveError where there is no such archive, SettingsError where there are no keys, TrackingError.
    """
    if trusted is None:
        return registry.download(run_id, ARCHIVE, folder)
    keys = signing.public_keys(trusted)
    _check_there(registry.artifacts(run_id, str(Path(ARCHIVE).parent)), run_id)
    signature = registry.download(run_id, SIGNATURE, folder)
    archive = registry.download(run_id, ARCHIVE, folder)
    signing.verify(archive, signature, keys)
    _check_own(archive, run_id)
    return archive


def sign_version(registry: Registry, version: Version, key: Ed25519PrivateKey, again: bool) -> str:
    """Sign the archive of a version that somebody vouches for, if it is one that would be served.

    ``again``: let the gate decide anew where the version was rejected. Returns the name of the key.
    Raises ArchiveError, TrackingError.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-sign-") as temporary:
        folder = Path(temporary)
        archive = registry.download(version.run_id, ARCHIVE, folder)
        _check_own(archive, version.run_id)
        renewed = folder / "renewed" / archive.name
        renewed.parent.mkdir()
        if without_pickle(archive, renewed):
            archive = renewed
        stamp(archive, folder / "checked.mar", version.number)
        _log_signed(registry.reopen_run(version.run_id), archive, key)
    if again and version.status == Status.REJECTED:
        registry.mark(version.number, "", "signed by hand since; the gate decides again")
    return signing.name_of(key.public_key())


def _log_signed(run: TrackedRun, archive: Path, key: Ed25519PrivateKey) -> None:
    run.set_tags({"archive_sha256": sha256(archive)})
    for path in (signing.sign(archive, key), archive):
        run.log_file(path, str(Path(ARCHIVE).parent))


def _check_own(archive: Path, run_id: str) -> None:
    found = manifest_of(archive).run_id
    if found != run_id:
        raise ArchiveError(f"the archive of run {run_id} is that of run {found or 'none'}: they changed places")


def _check_there(sizes: dict[str, int], run_id: str) -> None:
    """Refuse before anything is fetched. ``sizes``: bytes of each file."""
    if ARCHIVE not in sizes:
        raise ArchiveError(f"run {run_id} has no {ARCHIVE}: it was deleted, or never logged; run the pipeline again")
    if sizes[ARCHIVE] > MAX_BYTES:
        raise ArchiveError(f"the archive of run {run_id} has {sizes[ARCHIVE]} bytes; at most {MAX_BYTES} are allowed")
    if SIGNATURE not in sizes:
        raise ArchiveError(
            f"the archive of run {run_id} is not signed; was it made before archives were signed, or elsewhere? "
            "Run the pipeline again, or, where you know that it is yours, sign it: python scripts/sign.py VERSION"
        )
    if sizes[SIGNATURE] != signing.SIGNATURE_BYTES:
        raise ArchiveError(f"the signature of run {run_id} has {sizes[SIGNATURE]} bytes: damaged")
