from pathlib import Path

import pytest

from serve.archives.archive import stamp
from serve.errors import ArchiveError
from tests import small_archives as small
from trainer.registry.renewal import without_pickle


def test_an_archive_of_before_is_renewed_without_its_pickle_and_then_taken(tmp_path: Path) -> None:
    old = small.program(**{"data__sample_inputs__model.pt": b"\x80\x04."})
    held = small.contents({**small.FILES, "model.pt2": old})
    path = small.packed(tmp_path / "old.mar", held)
    with pytest.raises(ArchiveError, match="which takes it out"):
        stamp(path, tmp_path / "stored.mar", "1")
    assert without_pickle(path, tmp_path / "new.mar")
    stamp(tmp_path / "new.mar", tmp_path / "stored.mar", "1")
    found = small.unpacked(tmp_path / "stored.mar")
    assert {name: found[name] for name in small.FILES} == small.FILES
    assert not without_pickle(tmp_path / "new.mar", tmp_path / "again.mar")
    assert not (tmp_path / "again.mar").exists()
