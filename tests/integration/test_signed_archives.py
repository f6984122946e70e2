"""Only archives that this installation signed are promoted: a real MLflow, and a server that accepts everything."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.archives import safe_zip
from serve.errors import ArchiveError
from serve.manifest import MANIFEST_FILE, sha256
from tests import small_archives as small
from tests.integration.shelf import Shelf
from trainer.artifacts import ARCHIVE, EVALUATION
from trainer.promotion.promoter import Promoter
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.reporting.lineage import trace_lineage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def keys(tmp_path: Path) -> signing.KeyPair:
    return signing.ensure_key_pair(tmp_path / "keys")


Change = Callable[[Path, Path], object]
"""Changes an archive and its signature before they are logged."""


def logged(registry: Registry, keys: signing.KeyPair, folder: Path, change: Change = lambda *_: None) -> str:
    """A run with a signed archive of its own, to which ``change`` was applied; returns its id."""
    folder.mkdir(exist_ok=True)
    with registry.run("train") as run:
        path = small.packed(folder / Path(ARCHIVE).name, small.contents(run_id=run.id))
        signature = signing.sign(path, signing.private_key(keys.private))
        change(path, signature)
        for file in (signature, path):
            if file.exists():
                run.log_file(file, "archive")
        run.log_json({"binwatch": {}}, EVALUATION)
    return run.id


def unsigned(_: Path, signature: Path) -> None:
    signature.unlink()


def gone(path: Path, _: Path) -> None:
    path.unlink()


def tampered(path: Path, _: Path) -> None:
    files = small.unpacked(path)
    files["handler.py"] = b"import os\n"
    files[MANIFEST_FILE] = small.manifest({name: files[name] for name in (*small.FILES, "model.pt2")})
    small.packed(path, files)


def truncated(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def oversized(path: Path, _: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 1000)


def cut_signature(_: Path, signature: Path) -> None:
    signature.write_bytes(signature.read_bytes()[:-1])


def signed_elsewhere(path: Path, _: Path) -> None:
    signing.sign(path, signing.private_key(signing.ensure_key_pair(path.parent / "elsewhere").private))


WRONG: dict[str, tuple[Change, str]] = {
    "unsigned": (unsigned, "is not signed.*scripts/sign.py"),
    "gone": (gone, "has no archive/bin-counter.mar"),
    "tampered": (tampered, "its signature fits none"),
    "truncated": (truncated, "its signature fits none"),
    "longer": (oversized, "its signature fits none"),
    "signature-cut": (cut_signature, "63 bytes"),
    "elsewhere": (signed_elsewhere, "its signature fits none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_was_not_signed_here_is_rejected_with_its_reason_and_the_old_model_serves_on(
    registry: Registry, keys: signing.KeyPair, tmp_path: Path, case: str
) -> None:
    change, reason = WRONG[case]
    shelf = Shelf(tmp_path / "shelf")
    promoter = Promoter(registry, shelf, tmp_path / "accuracy.json", trusted=keys.public)
    first = registry.register(logged(registry, keys, tmp_path / "one"), Status.APPROVED, "because", "").number
    registry.set_champion(first)
    registry.mark(first, Status.PROMOTED, "because")
    shelf.load(first, lambda: fetch(registry, registry.version(first).run_id, tmp_path / "first", keys.public))
    shelf.switch(first)
    (tmp_path / "accuracy.json").write_text(json.dumps({"accuracy": 0.5, "version": first}))

    bad = registry.register(logged(registry, keys, tmp_path / "two", change), Status.APPROVED, "because", first)
    outcome = promoter.reconcile()
    assert (outcome.did, outcome.version) == ("rejected", bad.number)
    rejected = registry.version(bad.number)
    assert rejected.status == Status.REJECTED
    assert re.search(reason, rejected.reason), rejected.reason
    champion = registry.alias(CHAMPION)
    assert champion is not None
    assert (champion.number, shelf.serving()) == (first, first)
    assert [path.name for path in shelf.folder.glob("*.mar")] == [f"bin-counter-{first}.mar"]
    assert promoter.reconcile().did == "nothing"


def test_archives_that_change_places_are_refused(registry: Registry, keys: signing.KeyPair, tmp_path: Path) -> None:
    first = logged(registry, keys, tmp_path / "one")

    def swapped(path: Path, signature: Path) -> None:
        for file in (path, signature):
            file.write_bytes((tmp_path / "one" / file.name).read_bytes())

    second = logged(registry, keys, tmp_path / "two", swapped)
    assert fetch(registry, first, tmp_path, keys.public).is_file()
    with pytest.raises(ArchiveError, match=f"{second} .*{first}"):
        fetch(registry, second, tmp_path, keys.public)


def test_one_above_the_limit_is_refused_before_it_is_fetched(
    registry: Registry, keys: signing.KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = logged(registry, keys, tmp_path / "one")
    monkeypatch.setattr("trainer.registry.signed_archive.MAX_BYTES", 1000)
    assert safe_zip.MAX_BYTES > 1000
    with pytest.raises(ArchiveError, match="at most 1000"):
        fetch(registry, run, tmp_path / "here", keys.public)
    assert not (tmp_path / "here").exists()


def test_a_version_of_before_is_signed_by_hand_and_its_lineage_says_so(
    registry: Registry, mlflow_url: str, keys: signing.KeyPair, tmp_path: Path
) -> None:
    run = logged(registry, keys, tmp_path / "one", unsigned)
    version = registry.register(run, Status.REJECTED, "not signed", "").number
    environ = {
        **os.environ,
        "BINWATCH_SIGNING_KEY": str(keys.private),
        "BINWATCH_VERIFY_KEY": str(keys.public),
        "MLFLOW_TRACKING_URI": mlflow_url,
    }

    assert "is not signed" in trace_lineage(registry, version, keys.public).signature
    command = [sys.executable, "scripts/sign.py", version, "--again"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert f"version {version}, run {run}, is signed" in done.stdout, done.stderr
    assert registry.version(version).status == ""
    lineage = trace_lineage(registry, version, keys.public)
    archive = fetch(registry, run, tmp_path / "fetched", keys.public)
    assert lineage.signature == "fits a trusted key"
    assert lineage.archive_sha256 == registry.tags(run)["archive_sha256"] == sha256(archive)
    assert lineage.run_id in lineage.address
    assert (lineage.served, lineage.revision) == ((), registry.tags(run)["mlflow.source.git.commit"])
