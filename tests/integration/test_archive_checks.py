"""Archives that are not what they should be: each is refused with its reason, and nothing of it is stored."""

import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.archives import contents, safe_zip
from serve.archives.archive import TORCHSERVE_MANIFEST, stamp, unpacked
from serve.errors import ArchiveError
from serve.manifest import GPU_PROGRAM, MANIFEST_FILE
from tests import small_archives as small
from tests.conftest import rounds
from trainer.registry import signing
from trainer.training.run import Trained


def stored(path: Path, folder: Path) -> Path:
    """What the model store gets of an archive."""
    folder.mkdir(exist_ok=True)
    stamp(path, folder / "bin-counter-7.mar", "7")
    return folder / "bin-counter-7.mar"


def refused(path: Path, tmp_path: Path, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        stored(path, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return small.packed(tmp_path / "good.mar", small.contents())


def entry(name: str, **attributes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def directory(data: bytes | bytearray) -> int:
    """Where the list of a zip's entries begins."""
    return int(struct.unpack("<L", data[-6:-2])[0])


def test_what_is_stored_is_what_was_checked_and_the_version(good: Path, tmp_path: Path) -> None:
    files = small.unpacked(stored(good, tmp_path / "store"))
    manifest = json.loads(files.pop(TORCHSERVE_MANIFEST))
    assert manifest.pop("model")["modelVersion"] == "7"
    assert manifest == {"runtime": "python", "archiverVersion": "0.12.0"}
    expected = small.contents()
    del expected[TORCHSERVE_MANIFEST]
    assert files == expected


def test_a_real_archive_passes_and_holds_no_pickle(trained: Trained, tmp_path: Path) -> None:
    files = small.unpacked(stored(trained.archive, tmp_path / "store"))
    with zipfile.ZipFile(trained.archive) as content, content.open(GPU_PROGRAM) as program:
        inside = {part.filename: part.file_size for part in zipfile.ZipFile(program).infolist()}
    assert [size for name, size in inside.items() if name.endswith(".pt")] == [0]
    assert not [name for name, data in files.items() if data.startswith((b"\x80\x02", b"\x80\x04"))]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.py", "leave its folder"),
        ("/etc/passwd", "leave its folder"),
        ("serve/../../x", "leave its folder"),
        ("..\\evil.py", "leave its folder"),
        ("C:/evil.py", "leave its folder"),
        ("golden/./0.jpg", "not a valid file name"),
        ("serve//x.py", "not a valid file name"),
        ("serve/", "not a valid file name"),
        ("a b", "not a valid file name"),
        ("x" * 300, "not a valid file name"),
        ("s\u00e9rve.py", "not a valid file name"),
        ("weights.pkl", "may be a pickle"),
        ("model.pt", "may be a pickle"),
        ("serve/weights.pth", "may be a pickle"),
        ("serve/extra.py", "does not list"),
        ("golden/9.jpg", "does not list"),
        ("setup.py", "does not belong in an archive"),
        ("other/handler.py", "does not belong in an archive"),
        ("requirements.txt", "does not belong in an archive"),
        ("serve/native.so", "does not belong in an archive"),
        ("model.onnx/x", "both as a file and as a folder"),
    ],
)
def test_a_file_too_many_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    refused(small.packed(tmp_path / "bad.mar", {**small.contents(), name: b"x"}), tmp_path, reason)


def test_a_pickle_that_the_manifest_lists_is_refused_all_the_same(tmp_path: Path) -> None:
    held = small.contents({**small.FILES, "weights.pkl": b"\x80\x04."})
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, "pickles are never loaded")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data__sample_inputs__model.pt": b"\x80\x04."}, "pickles are never loaded"),
        ({"data__constants__custom_obj_0": b"\x80\x04."}, "pickles are never loaded"),
        ({"data__weights__model.pt": b"x"}, "pickles are never loaded"),
        ({"data__aotinductor__model__x.so": b"\x7fELF"}, "compiled code"),
        (
            {"data__weights__model_weights_config.json": b'{"config": {"a": {"use_pickle": true}}}'},
            "weights are pickles",
        ),
        ({"data__weights__model_weights_config.json": b'{"config": {"a": {}}}'}, "weights are pickles"),
        ({"data__weights__model_weights_config.json": b"[" * 100_000}, "not a whole torch program"),
        ({"data__weights__model_weights_config.json": b"{"}, "not a whole torch program"),
    ],
)
def test_a_program_in_which_torch_would_find_a_pickle_is_refused(
    tmp_path: Path, changes: dict[str, bytes], reason: str
) -> None:
    held = small.contents({**small.FILES, "model.pt2": small.program(**changes)})
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, reason)


def test_a_program_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    held = small.contents({**small.FILES, "model.pt2": b"\x80\x04."})
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, "not a whole torch program")


@pytest.mark.parametrize("name", ["model.onnx", "handler.py", "serve/__init__.py", "golden/0.jpg", "model.pt2"])
def test_a_file_that_was_changed_or_left_out_is_refused(tmp_path: Path, name: str) -> None:
    held = small.contents()
    changed = small.program(byteorder=b"big") if name == "model.pt2" else b"changed"
    bad = small.packed(tmp_path / "bad.mar", {**held, name: changed})
    refused(bad, tmp_path, f"{name} in the archive has SHA-256 .* damaged")
    del held[name]
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, f"has no {name}, which its manifest lists")


@pytest.mark.parametrize("name", [MANIFEST_FILE, TORCHSERVE_MANIFEST])
def test_an_archive_without_a_manifest_is_refused(tmp_path: Path, name: str) -> None:
    held = small.contents()
    del held[name]
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, "not made by binwatch")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (small.for_torchserve(requirementsFile="requirements.txt"), "asks for more"),
        (small.for_torchserve(handler="/models/evil.py"), "asks for more"),
        (small.for_torchserve(handler="image_classifier"), "asks for more"),
        (small.for_torchserve(serializedFile="x.pt"), "asks for more"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b'{"model": 3}', "damaged"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_torchserve_is_told_to_load_nothing_else(tmp_path: Path, text: bytes, reason: str) -> None:
    held = {**small.contents(), TORCHSERVE_MANIFEST: text}
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": None},
        {"golden": 3},
        {"cpu_model": "other.onnx"},
        {"classes": 5},
        {"golden": [{"file": "../x", "probabilities": []}]},
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    refused(small.packed(tmp_path / "bad.mar", small.contents(**changes)), tmp_path, "damaged")


def test_a_manifest_nested_without_end_is_refused(tmp_path: Path) -> None:
    held = {**small.contents(), MANIFEST_FILE: b"[" * 100_000}
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, "damaged")


def test_a_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    held = {**small.contents(), "model.onnx": bytes(10_000_000)}
    bomb = small.packed(tmp_path / "bomb.mar", held, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 50_000
    refused(bomb, tmp_path, "is compressed")
    with pytest.raises(ArchiveError, match="is compressed"), unpacked(bomb):
        pass


def test_a_size_that_a_header_invents_is_refused(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    at = directory(data)
    data[at + 20 : at + 28] = struct.pack("<2L", 2**31, 2**31)
    (tmp_path / "bad.mar").write_bytes(data)
    refused(tmp_path / "bad.mar", tmp_path, "lies outside")


def test_entries_that_lie_on_one_another_are_refused(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as content:
        largest = max(content.infolist(), key=lambda info: info.file_size)
        entries = len(content.infolist())
    at = directory(data)
    for _ in range(entries):  # each entry says that it is the largest one
        data[at + 20 : at + 28] = struct.pack("<2L", largest.file_size, largest.file_size)
        at = data.find(b"PK\x01\x02", at + 4)
    (tmp_path / "bad.mar").write_bytes(data)
    refused(tmp_path / "bad.mar", tmp_path, "outside the archive|entries overlap|not a whole archive")


def test_too_many_entries_are_refused_before_they_are_read(tmp_path: Path) -> None:
    held = {f"golden/{number}.jpg": b"" for number in range(safe_zip.MAX_ENTRIES + 1)}
    refused(small.packed(tmp_path / "many.mar", held), tmp_path, "201 entries")


def test_an_archive_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.mar"
    with huge.open("wb") as file:
        file.truncate(safe_zip.MAX_BYTES + 1)  # takes no room on the disk
    refused(huge, tmp_path, "2147483648 bytes; at most 2147483647")
    (tmp_path / "huge.mar.sig").write_bytes(bytes(64))
    with pytest.raises(ArchiveError, match="2147483648 bytes"):
        signing.verify(huge, tmp_path / "huge.mar.sig", ())


def test_a_text_above_the_limit_is_not_read_into_memory(tmp_path: Path) -> None:
    held = {**small.contents(), MANIFEST_FILE: b" " * (contents.MAX_TEXT + 1)}
    refused(small.packed(tmp_path / "bad.mar", held), tmp_path, "bytes; at most 16777216 are read")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "not a regular file"), (stat.S_IFDIR, "not a reg")],
)
def test_a_link_is_refused(tmp_path: Path, kind: int, reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.mar", "w") as out:
        for name, data in small.contents().items():
            out.writestr(entry(name, external_attr=(kind if name == "model.onnx" else stat.S_IFREG) << 16), data)
    refused(tmp_path / "bad.mar", tmp_path, reason)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.mar", "w") as out:
        for name, data in small.contents().items():
            out.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("handler.py", b"evil")
    refused(tmp_path / "bad.mar", tmp_path, "'handler.py' more than once")


@pytest.mark.parametrize("bit", [0x1, 0x8, 0x20, 0x40, 0x800])
def test_an_encrypted_or_unusual_entry_is_refused(good: Path, tmp_path: Path, bit: int) -> None:
    data = bytearray(good.read_bytes())
    at = directory(data) + 8
    data[at : at + 2] = struct.pack("<H", bit)
    (tmp_path / "bad.mar").write_bytes(data)
    refused(tmp_path / "bad.mar", tmp_path, "encrypted")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"more",
        lambda data: b"before" + data,
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"PK",
        lambda data: data[-22:],
        lambda data: data[:-22] + b"PK\x06\x07" + bytes(16) + data[-22:],
    ],
)
def test_a_zip_that_was_cut_or_joined_is_refused(good: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    (tmp_path / "bad.mar").write_bytes(change(good.read_bytes()))
    refused(tmp_path / "bad.mar", tmp_path, "not a whole archive")


def mutated(data: bytes, dice: random.Random) -> bytes:
    """``data`` with a few bytes changed, cut off, doubled, or its parts in another order."""
    copy = bytearray(data)
    start, end = sorted(dice.sample(range(len(copy)), 2))
    kind = dice.randrange(5)
    if kind == 0:
        for _ in range(dice.randint(1, 8)):
            copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
    elif kind == 1:
        del copy[start:]
    elif kind == 2:
        del copy[start:end]
    elif kind == 3:
        copy[start:start] = copy[start:end]
    else:
        copy = copy[end:] + copy[start:end] + copy[:start]
    return bytes(copy)


def swapped(held: dict[str, bytes], dice: random.Random) -> dict[str, bytes]:
    """The same names with two contents exchanged."""
    first, second = dice.sample(sorted(held), 2)
    return {**held, first: held[second], second: held[first]}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_mutation_passes_the_signature_and_none_that_passes_the_checks_has_other_contents(
    good: Path, tmp_path: Path
) -> None:
    """Every mutation is refused for its signature. Without one, what would be stored is what the manifest lists."""
    keys = signing.ensure_key_pair(tmp_path / "keys")
    signature = signing.sign(good, signing.private_key(keys.private))
    trusted, whole, dice = signing.public_keys(keys.public), good.read_bytes(), random.Random(7)
    bad, refusals = tmp_path / "bad.mar", 0
    before = everything(tmp_path)
    for number in range(rounds(300, 20_000)):
        if number % 10 == 0:
            small.packed(bad, swapped(small.contents(), dice))
        else:
            bad.write_bytes(mutated(whole, dice))
        if bad.read_bytes() == whole:
            continue
        with pytest.raises(ArchiveError):
            signing.verify(bad, signature, trusted)
        try:
            files = small.unpacked(stored(bad, tmp_path / "store"))
            assert {name: files[name] for name in small.FILES} == small.FILES
            assert set(files) == set(small.contents())
        except ArchiveError:
            refusals += 1
            assert list((tmp_path / "store").iterdir()) == []
        (tmp_path / "store" / "bin-counter-7.mar").unlink(missing_ok=True)
        (tmp_path / "bad.mar").unlink()
        assert everything(tmp_path) == before
    assert refusals > 0.7 * rounds(300, 20_000)


names = st.text(st.sampled_from("a./\\:\n\u2215~ \u00e9"), min_size=1, max_size=12)


@settings(
    max_examples=rounds(60, 5000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.dictionaries(names, st.binary(max_size=20), max_size=5))
def test_whatever_a_zip_is_called_and_holds_nothing_leaves_the_target(tmp_path: Path, added: dict[str, bytes]) -> None:
    bad = small.packed(tmp_path / "bad.mar", {**small.contents(), **added})
    outside = {path.name for path in tmp_path.iterdir()} | {"store"}
    try:
        stored(bad, tmp_path / "store")
        with unpacked(bad) as folder:
            assert set(everything(folder)) == set(small.contents())
    except ArchiveError:
        pass
    assert {path.name for path in tmp_path.iterdir()} <= outside
    assert {path.name for path in (tmp_path / "store").iterdir()} <= {"bin-counter-7.mar"}
    archive = tmp_path / "store" / "bin-counter-7.mar"
    assert not archive.exists() or not added
    archive.unlink(missing_ok=True)
