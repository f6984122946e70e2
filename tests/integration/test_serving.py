import hashlib
import io
import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image

from serve.archives.archive import ask, manifest_of, unpacked
from serve.counter import Counter
from serve.errors import ArchiveError, CanaryError, PhotoError
from serve.manifest import FP32_MODEL, INT8_MODEL, MANIFEST_FILE, Form
from serve.rollout.torchserve_client import Inference
from serve.runtime import processor
from tests.conftest import Served
from tests.models import SURE, TINY
from trainer.data.dataset import DataSpec
from trainer.evaluation.evaluate import predict
from trainer.training.export import write_archive
from trainer.training.networks import create
from trainer.training.run import Trained, run_training


def deploy(served: Served, path: Path, version: str) -> None:
    served.rollout.load(version, lambda: path)
    served.rollout.canary(version)
    served.rollout.switch(version)
    served.rollout.retire_others(version)


def altered(path: Path, target: Path, name: str, changes: dict[bytes, bytes]) -> Path:
    """A copy of an archive with bytes of one file replaced and its checksum updated."""
    with zipfile.ZipFile(path) as source:
        files = {member: source.read(member) for member in source.namelist()}
    for old, new in changes.items():
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    manifest = json.loads(files[MANIFEST_FILE])
    manifest["files"] = {member: hashlib.sha256(files[member]).hexdigest() for member in manifest["files"]}
    files[MANIFEST_FILE] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as copy:
        for member, data in files.items():
            copy.writestr(member, data)
    return target


def test_the_server_answers_what_the_evaluation_found(served: Served, trained: Trained) -> None:
    deploy(served, trained.archive, "3")
    photos = trained.data.test.photos
    for photo, prediction in zip(photos, predict(trained.archive, photos), strict=True):
        answer = served.inference.predict(photo.path.read_bytes())
        assert answer["count"] == prediction.count
        assert answer["expected_count"] == pytest.approx(prediction.expected_count, abs=1e-4)
        assert list(answer["probabilities"].values()) == pytest.approx(prediction.probabilities, abs=1e-5)
        assert answer["model_version"] == "3"
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_recorded_quantity_gets_a_verdict(served: Served, trained: Trained) -> None:
    deploy(served, trained.archive, "4")
    photo = trained.data.test.photos[0].path.read_bytes()
    url = f"{served.inference.url}/predictions/bin-counter"
    plain = requests.post(url, data=photo, timeout=30).json()
    assert "verdict" not in plain
    assert set(plain["fit"]) == set(plain["probabilities"])
    judged = post(url, photo, plain["count"]).json()
    # 300 drawn bins leave too few calibration photos for alpha 5 %, and the answer says so
    assert judged["verdict"] == "unsure"
    assert "too few for alpha 0.05; it takes 19" in judged["reason"]
    assert judged["probability"] == plain["probabilities"][str(plain["count"])]
    unknown = post(url, photo, 7).json()
    assert unknown["reason"].startswith("the model does not know 7 objects")
    for wrong in ("-1", "2.5", "many", "", "9" * 30):
        response = post(url, photo, wrong)
        assert (response.status_code, response.json()["type"]) == (422, "BadField"), wrong


def post(url: str, photo: bytes, quantity: object) -> requests.Response:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": f"station=7, expected_quantity={quantity}"}
    return requests.post(url, data=photo, headers=headers, timeout=30)


def test_full_size_photos_get_the_evaluation_s_answer_and_nearly_that_of_their_small_twins(
    served: Served, abid: Path, full_size: Path, tmp_path: Path
) -> None:
    archive = run_training(DataSpec(abid, limit=600), replace(SURE, size_px=64), tmp_path, None).archive
    deploy(served, archive, "1")
    with unpacked(archive) as folder:
        counter = Counter(folder)
        distances = []
        for path in sorted(full_size.iterdir()):
            data = path.read_bytes()
            (evaluated,) = counter.answer([data])
            assert not isinstance(evaluated, PhotoError)
            answer = served.inference.predict(data)
            assert list(answer["probabilities"].values()) == pytest.approx(
                list(evaluated["probabilities"].values()), abs=1e-5
            )
            (twin,) = counter.answer([(abid / "bin-images" / path.name).read_bytes()])
            assert not isinstance(twin, PhotoError)
            distances.append(abs(evaluated["expected_count"] - twin["expected_count"]))
    assert len(distances) == 200
    print(f"full size against 224 px: expected counts differ by {max(distances):.3f} at most")
    assert sorted(distances)[190] < 0.1


@pytest.mark.parametrize("body", [b"", b"no photo", b"GIF89a....", b'{"uri": "s3://bucket/key"}', b"\xff\xd8\xff"])
def test_a_bad_photo_is_400_with_a_reason(served: Served, trained: Trained, body: bytes) -> None:
    deploy(served, trained.archive, "1")
    response = requests.post(f"{served.inference.url}/predictions/bin-counter", data=body, timeout=30)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["code"] == 400
    assert "send" in response.json()["message"]
    assert "Traceback" not in response.text


def test_a_json_body_says_which_field_is_bad(served: Served, trained: Trained) -> None:
    deploy(served, trained.archive, "1")
    response = requests.post(f"{served.inference.url}/predictions/bin-counter", json={"image": "x"}, timeout=30)
    assert (response.status_code, response.json()["type"]) == (422, "BadField")


def test_a_png_is_answered_like_a_jpeg(served: Served, trained: Trained) -> None:
    deploy(served, trained.archive, "1")
    data = trained.data.test.photos[0].path.read_bytes()
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "PNG")
    png, jpeg = served.inference.predict(out.getvalue()), served.inference.predict(data)
    assert png.pop("event_id") != jpeg.pop("event_id")
    assert png == jpeg


def test_the_worker_runs_the_code_of_the_archive(served: Served, trained: Trained, tmp_path: Path) -> None:
    marked = altered(trained.archive, tmp_path / "a.mar", "serve/counter.py", {b'"count": ': b'"marked": 1, "count": '})
    deploy(served, marked, "1")
    photo = trained.data.test.photos[0].path
    assert served.inference.predict(photo.read_bytes())["marked"] == 1
    (answer,) = ask(marked, [photo])
    assert answer["marked"] == 1


def test_a_model_that_breaks_its_promise_does_not_pass_the_canary(
    served: Served, trained: Trained, tmp_path: Path
) -> None:
    deploy(served, trained.archive, "1")
    broken = altered(
        trained.archive, tmp_path / "broken.mar", "serve/counter.py", {b"softmax(logits / ": b"softmax(-logits / "}
    )
    served.rollout.load("2", lambda: broken)
    with pytest.raises(CanaryError, match="answers golden photo"):
        served.rollout.canary("2")
    assert served.rollout.serving() == "1"


def with_int8_first(trained: Trained, out: Path) -> Path:
    """An archive whose workers try int8 first, wherever it was faster."""
    torch.manual_seed(0)
    network = create("small", 5, 32)
    network.head.bias.data[2] = 3.0  # always the same count, so that int8 is accepted
    selection, calibration = trained.data.validation.halves(0)
    export = write_archive(
        network, trained.data, TINY, out, run_id="", metrics={}, selection=selection, calibration=calibration
    )
    by_form, manifest = {item.form: item for item in export.forms}, manifest_of(export.archive)
    forms = by_form[Form.INT8], by_form[Form.FP32]
    target = out / "int8-first.mar"
    text = replace(manifest, forms=forms, exact=forms[1].calibration).to_json().encode()
    with zipfile.ZipFile(export.archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, text if name == MANIFEST_FILE else source.read(name))
    return target


def description(served: Served, version: str) -> dict[str, object]:
    """How TorchServe's worker describes the model."""
    management = served.management
    response = management._session.get(f"{management.url}/models/bin-counter/{version}?customized=true", timeout=30)
    return dict(response.json()[0]["customizedMetadata"])


def test_the_server_runs_the_form_that_the_manifest_names(served: Served, trained: Trained, tmp_path: Path) -> None:
    archive = with_int8_first(trained, tmp_path)
    deploy(served, archive, "1")
    photo = trained.data.test.photos[0].path.read_bytes()
    with unpacked(archive) as folder:
        (int8,), (fp32,) = Counter(folder).answer([photo]), Counter(folder, device="cpu:0").answer([photo])
    assert not isinstance(int8, PhotoError)
    assert not isinstance(fp32, PhotoError)
    answer = served.inference.predict(photo)
    assert answer["probabilities"] == pytest.approx(int8["probabilities"], abs=1e-6)
    assert answer["probabilities"] != pytest.approx(fp32["probabilities"], abs=1e-6)
    assert "form" not in answer
    assert served.inference.predict(photo, probe=True)["form"] == Form.INT8
    assert description(served, "1") == {"form": "int8", "processor": processor(), "refusals": {}}


def test_a_worker_that_falls_back_passes_its_canary_and_says_why(
    served: Served, trained: Trained, tmp_path: Path
) -> None:
    archive = with_int8_first(trained, tmp_path)
    with zipfile.ZipFile(archive) as content:
        int8 = content.read(INT8_MODEL)
    deploy(served, altered(archive, tmp_path / "a.mar", INT8_MODEL, {int8: b"damaged"}), "1")
    photo = trained.data.test.photos[0].path.read_bytes()
    assert served.inference.predict(photo, probe=True)["form"] == Form.FP32
    described = description(served, "1")
    assert described["form"] == Form.FP32
    assert INT8_MODEL in str(described["refusals"])


def test_photos_that_wait_together_are_answered_together_and_alike(served: Served, trained: Trained) -> None:
    deploy(served, trained.archive, "1")
    photos = [photo.path.read_bytes() for photo in trained.data.test.photos[:12]]
    alone = [served.inference.predict(photo)["probabilities"] for photo in photos]
    with ThreadPoolExecutor(12) as pool:
        together = [answer["probabilities"] for answer in pool.map(Inference(served.inference.url).predict, photos)]
    for single, batched in zip(alone, together, strict=True):
        assert single == pytest.approx(batched, abs=1e-5)
    assert [version.pending for version in served.management.loaded()] == [0]


def test_a_damaged_model_does_not_load(served: Served, trained: Trained, tmp_path: Path) -> None:
    deploy(served, trained.archive, "1")
    path, relisted = tmp_path / "damaged.mar", tmp_path / "relisted.mar"
    with zipfile.ZipFile(trained.archive) as source, zipfile.ZipFile(path, "w") as copy:
        models = {name: source.read(name) for name in source.namelist() if name.endswith(".onnx")}
        for name in source.namelist():
            copy.writestr(name, b"damaged" if name == FP32_MODEL else source.read(name))
    with pytest.raises(ArchiveError, match=FP32_MODEL):
        served.rollout.load("2", lambda: path)
    shutil.copy(trained.archive, relisted)
    for model, whole in models.items():
        altered(relisted, relisted, model, {whole: b"damaged"})  # its checksum is right again
    with pytest.raises(CanaryError, match="does not load"):
        served.rollout.load("2", lambda: relisted)
    served.rollout.discard("2")
    assert [version.version for version in served.management.loaded()] == ["1"]
    assert served.inference.predict(trained.data.test.photos[0].path.read_bytes())["model_version"] == "1"
