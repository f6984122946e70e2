"""An archive exported before the modules moved into folders: it is verified, answers, loads and serves as it did."""

import base64
import json
import zipfile
from pathlib import Path

import pytest
import requests

from serve.archives.archive import TORCHSERVE_MANIFEST, ask, golden_photos, judges_records, manifest_of, stamp
from serve.errors import ArchiveError, ServerError
from serve.local.servers import gateway_server
from tests.conftest import Served
from tests.records import RECORD

ARCHIVE = Path(__file__).parents[1] / "data" / "bin-counter-8ed89dd.mar"
VERSION = "7"


def test_it_carries_the_modules_of_its_own_time() -> None:
    assert {"serve/archive.py", "serve/zips.py", "serve/vetting.py"} < set(manifest_of(ARCHIVE).files)


def test_it_passes_verification_and_is_stamped_with_a_version(tmp_path: Path) -> None:
    stamp(ARCHIVE, tmp_path / "stamped.mar", VERSION)
    assert manifest_of(tmp_path / "stamped.mar") == manifest_of(ARCHIVE)
    with zipfile.ZipFile(tmp_path / "stamped.mar") as content:
        assert json.loads(content.read(TORCHSERVE_MANIFEST))["model"]["modelVersion"] == VERSION


def test_its_own_code_gives_the_promised_answers_for_its_golden_photos(tmp_path: Path) -> None:
    golden = golden_photos(ARCHIVE)
    paths = [tmp_path / f"{number}.jpg" for number in range(len(golden))]
    for path, (photo, _) in zip(paths, golden, strict=True):
        path.write_bytes(photo)
    answers = [list(answer["probabilities"].values()) for answer in ask(ARCHIVE, paths)]
    assert answers == [pytest.approx(promised, abs=manifest_of(ARCHIVE).tolerance) for _, promised in golden]


def test_it_says_that_it_reads_no_records(tmp_path: Path) -> None:
    assert not judges_records(ARCHIVE)
    path = tmp_path / "0.jpg"
    path.write_bytes(golden_photos(ARCHIVE)[0][0])
    with pytest.raises(ArchiveError, match=ARCHIVE.name):
        list(ask(ARCHIVE, [path], records={path: RECORD}))


def test_torchserve_loads_it_and_answers_a_photo(served: Served, tmp_path: Path) -> None:
    served.rollout.load(VERSION, lambda: ARCHIVE)
    served.rollout.canary(VERSION)
    served.rollout.switch(VERSION)
    served.rollout.retire_others(VERSION)
    assert served.rollout.serving() == VERSION
    manifest, (photo, promised) = manifest_of(ARCHIVE), golden_photos(ARCHIVE)[0]
    response = requests.post(f"{served.inference.url}/predictions/bin-counter", data=photo, timeout=30)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model_version"] == VERSION
    assert answer["count"] in manifest.classes
    assert list(answer["probabilities"]) == list(manifest.names)
    assert list(answer["probabilities"].values()) == pytest.approx(promised, abs=manifest.tolerance)
    with pytest.raises(ServerError, match="records"):
        served.inference.verify(photo, RECORD)
    with gateway_server(tmp_path, served.inference.url) as url:
        content = {"image": base64.b64encode(photo).decode(), "record": RECORD, "station": "dock 3"}
        verified = requests.post(f"{url}/verify", json=content, timeout=30).json()
    assert (verified["expected_quantity"], verified["evidence"]) == (3, "photo")
