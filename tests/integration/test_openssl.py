"""Signatures that other programs understand."""

import subprocess
from pathlib import Path

from trainer.registry.signing import ensure_key_pair, private_key, sign


def test_openssl_agrees(tmp_path: Path) -> None:
    pair, archive = ensure_key_pair(tmp_path / "keys"), tmp_path / "a.mar"
    archive.write_bytes(b"an archive" * 1000)
    signature = sign(archive, private_key(pair.private))
    command: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        pair.public,
        "-rawin",
        "-in",
        archive,
        "-sigfile",
    ]
    done = subprocess.run([*command, signature], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully")
    archive.write_bytes(b"other")
    assert subprocess.run([*command, signature], capture_output=True).returncode == 1
