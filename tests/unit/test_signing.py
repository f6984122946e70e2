"""Keys and signatures."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from serve.errors import ArchiveError, SettingsError
from trainer.registry import signing
from trainer.registry.signing import ensure_key_pair, private_key, public_keys, sign, verify


@pytest.fixture
def pair(tmp_path: Path) -> signing.KeyPair:
    return ensure_key_pair(tmp_path / "keys")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "a.mar").write_bytes(b"an archive" * 1000)
    return tmp_path / "a.mar"


def test_the_pair_is_made_once_and_the_private_key_is_its_owners_alone(tmp_path: Path, pair: signing.KeyPair) -> None:
    assert pair.private.stat().st_mode & 0o777 == 0o600
    assert pair.public.stat().st_mode & 0o777 == 0o644
    before = pair.private.read_bytes(), pair.public.read_bytes()
    assert ensure_key_pair(tmp_path / "keys") == pair
    assert (pair.private.read_bytes(), pair.public.read_bytes()) == before
    pair.public.unlink()  # as after a kill between the two
    ensure_key_pair(tmp_path / "keys")
    assert pair.public.read_bytes() == before[1]
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [signing.PRIVATE, signing.PUBLIC]


def test_of_many_that_make_the_pair_at_once_all_get_the_same(tmp_path: Path) -> None:
    def key_files(_: int) -> tuple[bytes, bytes]:
        pair = ensure_key_pair(tmp_path / "keys")
        private_key(pair.private)
        return pair.private.read_bytes(), pair.public.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(key_files, range(32)))) == 1
    assert len(list((tmp_path / "keys").iterdir())) == 2


def test_what_was_signed_here_passes_and_names_its_key(pair: signing.KeyPair, archive: Path) -> None:
    signature = sign(archive, private_key(pair.private))
    assert (signature.name, signature.stat().st_size) == ("a.mar.sig", 64)
    keys = public_keys(pair.public)
    assert verify(archive, signature, keys) == signing.key_name(keys[0])


def test_another_installations_signature_and_a_changed_archive_are_refused(
    pair: signing.KeyPair, archive: Path, tmp_path: Path
) -> None:
    keys = public_keys(pair.public)
    foreign = sign(archive, private_key(ensure_key_pair(tmp_path / "elsewhere").private))
    with pytest.raises(ArchiveError, match=signing.key_name(keys[0])):
        verify(archive, foreign, keys)
    signature = sign(archive, private_key(pair.private))
    archive.write_bytes(archive.read_bytes()[:-1] + b"X")
    with pytest.raises(ArchiveError, match=signing.key_name(keys[0])):
        verify(archive, signature, keys)
    archive.write_bytes(b"")
    with pytest.raises(ArchiveError, match="0 bytes"):
        verify(archive, signature, keys)
    for damaged in (b"", signature.read_bytes()[:63], signature.read_bytes() + b"x"):
        signature.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=f"{len(damaged)} bytes, not 64"):
            verify(archive, signature, keys)


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_while_keys_are_changed_the_old_and_the_new_one_are_trusted(
    tmp_path: Path, archive: Path, folder: bool
) -> None:
    pairs = [ensure_key_pair(tmp_path / name) for name in ("old", "new")]
    trusted = tmp_path / "trusted.pem"
    if folder:
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / "notes.txt").write_text("not a key")
        for number, pair in enumerate(pairs):
            shutil.copy(pair.public, trusted / f"{number}.pem")
    else:
        trusted.write_bytes(b"the old one:\n" + b"".join(pair.public.read_bytes() for pair in pairs))
    assert len(public_keys(trusted)) == 2
    for pair in pairs:
        verify(archive, sign(archive, private_key(pair.private)), public_keys(trusted))


def test_keys_that_cannot_be_used_say_what_to_do(pair: signing.KeyPair, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.pem.*scripts/pipeline\.py"):
        private_key(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"none\.pem.*scripts/pipeline\.py"):
        public_keys(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=signing.PUBLIC):
        private_key(pair.public)
    with pytest.raises(SettingsError, match=rf"{signing.PRIVATE} .*private key"):
        public_keys(pair.private)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"empty .*scripts/pipeline\.py"):
        public_keys(tmp_path / "empty")
    (tmp_path / "bad.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(SettingsError, match=r"bad\.pem .*scripts/pipeline\.py"):
        public_keys(tmp_path / "bad.pem")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_private_key_that_others_may_read_is_not_used(pair: signing.KeyPair, mode: int) -> None:
    pair.private.chmod(mode)
    with pytest.raises(SettingsError, match=f"mode {mode:03o}.*chmod 600"):
        private_key(pair.private)


def test_a_key_of_another_kind_is_not_used(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "ec.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="Ed25519"):
        private_key(path)
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SettingsError, match="Ed25519"):
        public_keys(path)


def test_nothing_is_signed_unless_a_key_is_named(pair: signing.KeyPair) -> None:
    assert signing.signing_key({}) is None
    assert signing.signing_key({"BINWATCH_SIGNING_KEY": str(pair.private)}) is not None
    with pytest.raises(SettingsError):
        signing.signing_key({"BINWATCH_SIGNING_KEY": "/nowhere"})
