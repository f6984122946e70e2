"""Keys and signatures."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from serve.errors import ArchiveError, SettingsError
from trainer.registry import signing
from trainer.registry.signing import pair_in, private_key, public_keys, sign, verify


@pytest.fixture
def pair(tmp_path: Path) -> signing.Pair:
    return pair_in(tmp_path / "keys")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "a.mar").write_bytes(b"an archive" * 1000)
    return tmp_path / "a.mar"


def test_the_pair_is_made_once_and_the_private_key_is_its_owners_alone(tmp_path: Path, pair: signing.Pair) -> None:
    assert pair.private.stat().st_mode & 0o777 == 0o600
    assert pair.public.stat().st_mode & 0o777 == 0o644
    before = pair.private.read_bytes(), pair.public.read_bytes()
    assert pair_in(tmp_path / "keys") == pair
    assert (pair.private.read_bytes(), pair.public.read_bytes()) == before
    pair.public.unlink()  # as after a kill between the two
    pair_in(tmp_path / "keys")
    assert pair.public.read_bytes() == before[1]
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [signing.PRIVATE, signing.PUBLIC]


def test_of_many_that_make_the_pair_at_once_all_get_the_same(tmp_path: Path) -> None:
    def made(_: int) -> tuple[bytes, bytes]:
        pair = pair_in(tmp_path / "keys")
        private_key(pair.private)
        return pair.private.read_bytes(), pair.public.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(made, range(32)))) == 1
    assert len(list((tmp_path / "keys").iterdir())) == 2


def test_what_was_signed_here_passes_and_names_its_key(pair: signing.Pair, archive: Path) -> None:
    signature = sign(archive, private_key(pair.private))
    assert (signature.name, signature.stat().st_size) == ("a.mar.sig", 64)
    keys = public_keys(pair.public)
    assert verify(archive, signature, keys) == signing.name_of(keys[0])


def test_another_installations_signature_and_a_changed_archive_are_refused(
    pair: signing.Pair, archive: Path, tmp_path: Path
) -> None:
    keys = public_keys(pair.public)
    foreign = sign(archive, private_key(pair_in(tmp_path / "elsewhere").private))
    with pytest.raises(ArchiveError, match=f"another installation signed it.*{signing.name_of(keys[0])}"):
        verify(archive, foreign, keys)
    signature = sign(archive, private_key(pair.private))
    archive.write_bytes(archive.read_bytes()[:-1] + b"X")
    with pytest.raises(ArchiveError, match="not what was signed"):
        verify(archive, signature, keys)
    archive.write_bytes(b"")
    with pytest.raises(ArchiveError, match="has 0 bytes"):
        verify(archive, signature, keys)
    for damaged in (b"", signature.read_bytes()[:63], signature.read_bytes() + b"x"):
        signature.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=f"has {len(damaged)} bytes, not 64"):
            verify(archive, signature, keys)


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_while_keys_are_changed_the_old_and_the_new_one_are_trusted(
    tmp_path: Path, archive: Path, folder: bool
) -> None:
    pairs = [pair_in(tmp_path / name) for name in ("old", "new")]
    trusted = tmp_path / "trusted.pem"
    if folder:
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / "notes.txt").write_text("not a key")
        for number, each in enumerate(pairs):
            shutil.copy(each.public, trusted / f"{number}.pem")
    else:
        trusted.write_bytes(b"the old one:\n" + b"".join(each.public.read_bytes() for each in pairs))
    assert len(public_keys(trusted)) == 2
    for each in pairs:
        verify(archive, sign(archive, private_key(each.private)), public_keys(trusted))


def test_keys_that_cannot_be_used_say_what_to_do(pair: signing.Pair, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no private key.*scripts/pipeline.py makes a pair"):
        private_key(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="cannot be read"):
        public_keys(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="no private key"):
        private_key(pair.public)
    with pytest.raises(SettingsError, match="there must be none"):
        public_keys(pair.private)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="holds no public key"):
        public_keys(tmp_path / "empty")
    (tmp_path / "bad.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(SettingsError, match="holds no public key"):
        public_keys(tmp_path / "bad.pem")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_private_key_that_others_may_read_is_not_used(pair: signing.Pair, mode: int) -> None:
    pair.private.chmod(mode)
    with pytest.raises(SettingsError, match=f"mode {mode:03o}.*chmod 600"):
        private_key(pair.private)


def test_a_key_of_another_kind_is_not_used(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "ec.pem"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="not Ed25519"):
        private_key(path)
    path.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SettingsError, match="not Ed25519"):
        public_keys(path)


def test_nothing_is_signed_unless_a_key_is_named(pair: signing.Pair) -> None:
    assert signing.signer_from({}) is None
    assert signing.signer_from({"BINWATCH_SIGNING_KEY": str(pair.private)}) is not None
    with pytest.raises(SettingsError):
        signing.signer_from({"BINWATCH_SIGNING_KEY": "/nowhere"})


def test_openssl_agrees(pair: signing.Pair, archive: Path) -> None:
    signature = sign(archive, private_key(pair.private))
    words: list[str | Path] = [
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
    done = subprocess.run([*words, signature], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully")
    archive.write_bytes(b"other")
    assert subprocess.run([*words, signature], capture_output=True).returncode == 1
