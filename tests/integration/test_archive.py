import json
import zipfile
from pathlib import Path

import pytest

from serve.archives.archive import (
    TORCHSERVE_MANIFEST,
    ask,
    golden_photos,
    judges_records,
    manifest_of,
    stamp,
    unpacked,
)
from serve.counter import Counter
from serve.errors import ArchiveError, PhotoError
from serve.manifest import MANIFEST_FILE
from tests.models import TINY
from tests.records import RECORD
from trainer.training.run import Trained


def rewrite(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = changes.get(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name in set(changes) - set(old.namelist()):
            new.writestr(name, changes[name] or b"")
    return target


def test_an_archive_holds_all_that_serving_needs(trained: Trained) -> None:
    manifest = manifest_of(trained.archive)
    assert manifest.classes == (1, 2, 3, 4, 5)
    assert manifest.dataset_fingerprint == trained.data.fingerprint
    assert manifest.recipe["architecture"] == TINY.architecture
    assert "CC BY-NC-SA 3.0" in manifest.licence
    assert len(golden_photos(trained.archive)) == 5
    with zipfile.ZipFile(trained.archive) as content:
        names = set(content.namelist())
    assert names >= {"handler.py", "serve/photo.py", "model.onnx", "binwatch.json"}
    assert names == {*manifest.files, *(photo.file for photo in manifest.golden), MANIFEST_FILE, TORCHSERVE_MANIFEST}
    assert not any(name.endswith((".pt", ".pth", ".pkl", ".pyc")) for name in names)


def test_golden_photos_give_the_answers_promised(trained: Trained) -> None:
    with unpacked(trained.archive) as folder:
        counter = Counter(folder)
        for data, expected in golden_photos(trained.archive):
            (answer,) = counter.answer([data])
            assert not isinstance(answer, PhotoError)
            assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-6)


def test_a_broken_photo_does_not_spoil_the_others(trained: Trained) -> None:
    good = trained.data.test.photos[0].path.read_bytes()
    with unpacked(trained.archive) as folder:
        first, broken, last = Counter(folder).answer([good, b"x", good])
    assert isinstance(broken, PhotoError)
    assert first == last
    assert not isinstance(first, PhotoError)


@pytest.mark.parametrize("name", ["model.onnx", "serve/photo.py", "handler.py", "golden/0.jpg"])
def test_a_changed_file_is_noticed(trained: Trained, tmp_path: Path, name: str) -> None:
    path = rewrite(trained.archive, tmp_path / "a.mar", {name: b"changed"})
    with unpacked(path) as folder, pytest.raises(ArchiveError, match=f"{name}.*damaged"):
        Counter(folder)


def test_a_missing_file_is_noticed(trained: Trained, tmp_path: Path) -> None:
    path = rewrite(trained.archive, tmp_path / "a.mar", {"model.onnx": None})
    with unpacked(path) as folder, pytest.raises(ArchiveError, match="has SHA-256 nothing"):
        Counter(folder)


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b"])
def test_a_path_that_leaves_the_archive_is_refused(trained: Trained, tmp_path: Path, name: str) -> None:
    path = rewrite(trained.archive, tmp_path / "a.mar", {name: b"x"})
    with pytest.raises(ArchiveError, match="leave its folder"), unpacked(path):
        pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "not made by binwatch"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b'{"format": 9}', "format 9"),
        (b'{"format": 1}', "damaged"),
    ],
)
def test_a_foreign_archive_is_refused(trained: Trained, tmp_path: Path, change: bytes | None, reason: str) -> None:
    path = rewrite(trained.archive, tmp_path / "a.mar", {MANIFEST_FILE: change})
    with pytest.raises(ArchiveError, match=reason):
        manifest_of(path)


def test_an_archive_judges_the_records_of_photos(trained: Trained, tmp_path: Path) -> None:
    photos = [photo.path for photo in trained.data.test.photos[:3]]
    (tmp_path / "broken.jpg").write_bytes(b"x")
    paths = [*photos, tmp_path / "broken.jpg"]
    records: dict[Path, object] = {photos[0]: RECORD, photos[1]: [], paths[3]: RECORD}
    judged, refused, plain, broken = ask(trained.archive, paths, records=records)
    (first, _, third, _) = ask(trained.archive, paths)
    assert judges_records(trained.archive)
    assert (judged["expected_quantity"], judged["count"]) == (3, first["count"])
    assert "products is empty" in refused["error"]
    assert plain == third
    assert broken.keys() == {"error"}


def test_an_archive_whose_code_fails_says_so(trained: Trained, tmp_path: Path) -> None:
    path = rewrite(trained.archive, tmp_path / "a.mar", {"model.onnx": b"damaged"})
    with pytest.raises(ArchiveError, match=r"does not run.*damaged"):
        list(ask(path, [trained.data.test.photos[0].path]))


def test_a_truncated_archive_is_refused(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "a.mar"
    path.write_bytes(trained.archive.read_bytes()[:100_000])
    with pytest.raises(ArchiveError, match="not a whole archive"):
        manifest_of(path)
    with pytest.raises(ArchiveError, match="there is no archive"):
        manifest_of(tmp_path / "b.mar")


def test_a_stamped_archive_has_its_version_and_is_whole_or_not_there(trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "store" / "bin-counter-7.mar"
    target.parent.mkdir()
    stamp(trained.archive, target, "7")
    with zipfile.ZipFile(target) as content:
        assert json.loads(content.read(TORCHSERVE_MANIFEST))["model"]["modelVersion"] == "7"
    assert manifest_of(target) == manifest_of(trained.archive)
    assert [path.name for path in target.parent.iterdir()] == ["bin-counter-7.mar"]
    with pytest.raises(ArchiveError):
        stamp(rewrite(trained.archive, tmp_path / "bad.mar", {"../x": b""}), target.with_name("8.mar"), "8")
    assert not target.with_name("8.mar").exists()
