"""A prepared dataset in a bucket: uploaded once, fetched on another machine, checked against its fingerprint."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from serve.errors import DataError
from serve.links import s3_client
from tests.conftest import proof
from tests.recounting import picture, put_recount
from tests.unit.test_recount_store import files
from trainer.data import prepared, transfer
from trainer.data.bin_records.records import read_json
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.prepare import prepare
from trainer.options import data_spec

SIZE_PX = 32


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    """Drawn bins that can be moved, and some recounts beside them."""
    shutil.copytree(drawn, tmp_path / "source")
    for number in range(4):
        put_recount(tmp_path / "recounts", f"event-{number}", picture(100 + number), number + 1)
    return tmp_path / "source"


@proof
def test_a_training_elsewhere_reads_what_was_prepared_here(
    source: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", s3)
    client = s3_client(s3, 20, 1)
    client.create_bucket(Bucket="prepared")
    uri = "s3://prepared/bins"
    here = prepare(source, tmp_path / "out", Counts(), extra=True, recounts=tmp_path / "recounts")
    pixels = np.array(prepared.decoded(here, SIZE_PX))
    sent, present = transfer.upload(tmp_path / "out", uri, s3)
    assert sent > 2 * 200
    assert present == 0
    assert transfer.upload(tmp_path / "out", uri, s3) == (0, sent)
    for name in ("source", "recounts", "out"):
        (tmp_path / name).rename(tmp_path / f"{name}-of-the-first-machine")

    folder = transfer.mirror(uri, tmp_path / "cache")
    there = prepared.read(folder)
    assert (there.fingerprint, len(there.rows)) == (here.fingerprint, len(here.rows))
    data = prepared.load_any(DataSpec(folder), SIZE_PX, extra=True)
    assert data.fingerprint
    assert (np.asarray(prepared.decoded(there, SIZE_PX)) == pixels).all()
    assert all(read_json(photo)["EXPECTED_QUANTITY"] for photo in there.photos())
    assert data_spec({"data": uri}, tmp_path / "cache2" / "drawn").counts == Counts()

    before = files(folder)
    (photo,) = sorted((folder / "photos" / "bin-images").iterdir())[:1]
    photo.write_bytes(b"cut off")
    (folder / "prepared.json").unlink()  # as if it had been killed
    assert transfer.mirror(uri, tmp_path / "cache") == folder
    assert files(folder) == before
    prepared.load_any(DataSpec(folder), SIZE_PX)

    client.put_object(Bucket="prepared", Key=f"bins/photos/bin-images/{photo.name}", Body=b"another")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=photo.name):
        transfer.mirror(uri, tmp_path / "cache")
    assert not (folder / "prepared.json").exists()
