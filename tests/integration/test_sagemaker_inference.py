"""code/inference.py in AWS's PyTorch inference server, from a model.tar.gz, compared with the project's TorchServe."""

import base64
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serve import links
from serve.local.servers import s3_server
from serve.payload import ATTRIBUTES
from tests.conftest import Served, need
from tests.integration.sagemaker import inference_server, namespaces_work
from tests.records import PRODUCTS, RECORD
from trainer.aws.endpoint import images, package
from trainer.training.run import Trained

VERSION = "7"
Body = bytes | str
DRIVER = Path(__file__).with_name("transformer.py")


@pytest.fixture(scope="module")
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


@pytest.fixture(scope="module")
def base(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An /opt/ml with an unpacked model.tar.gz."""
    folder = tmp_path_factory.mktemp("ml")
    built = package.build(package.ModelChoice(VERSION, trained.archive, 0.3), images.ModelForm.ONNX, folder / "built")
    with tarfile.open(built.path) as tar:
        tar.extractall(folder / "model", filter="data")
    return folder


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        client = links.s3_client(url, 20, 1)
        client.create_bucket(Bucket="bins")
        client.put_object(Bucket="bins", Key="a b/é.jpg", Body=photo)
        client.put_object(Bucket="bins", Key="text.jpg", Body=b"no photo")
        yield url


@pytest.fixture(scope="module")
def url(toolkits: Path, base: Path, s3: str) -> Iterator[str]:
    """The address for invocations."""
    need("sagemaker", namespaces_work(), "this user may not create namespaces")
    settings = {"BINWATCH_MODEL_VERSION": VERSION, "BINWATCH_S3_BUCKETS": "bins", "BINWATCH_S3_ENDPOINT": s3}
    with inference_server(toolkits, base, settings) as address:
        wait_until_healthy(address, base)
        yield f"{address}/invocations"
    assert "Traceback" not in (base / "logs" / "model_log.log").read_text()


def wait_until_healthy(address: str, base: Path, timeout_s: float = 120) -> None:
    """Poll /ping, as SageMaker does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{address}/ping", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail(f"no answer from {address}: {(base / 'server.log').read_text()[-2000:]}")


def ask(url: str, body: Body, content_type: str, **attributes: object) -> requests.Response:
    header = {ATTRIBUTES: ",".join(f"{name}={value}" for name, value in attributes.items())} if attributes else {}
    return requests.post(url, data=body, headers={"Content-Type": content_type, **header}, timeout=120)


def comparable(answer: dict[str, object]) -> dict[str, object]:
    """An answer without its id, and without the server's version."""
    return {name: value for name, value in answer.items() if name not in ("event_id", "model_version", "status")}


def encoded(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@pytest.fixture
def torchserve_url(served: Served, trained: Trained) -> str:
    """The address of the project's TorchServe with the same archive."""
    served.rollout.load("1", lambda: trained.archive)
    served.rollout.switch("1")
    return f"{served.inference.url}/predictions/bin-counter"


def test_fifty_real_photos_get_the_answers_of_our_torchserve(url: str, torchserve_url: str, abid: Path) -> None:
    paths = sorted((abid / "bin-images").glob("*.jpg"))[::7][:50]
    assert len(paths) == 50
    for number, path in enumerate(paths):
        answers = [
            ask(address, path.read_bytes(), "image/jpeg", expected_quantity=number % 7)
            for address in (url, torchserve_url)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        sagemaker, torchserve = (answer.json() for answer in answers)
        assert comparable(sagemaker) == comparable(torchserve)
        assert sagemaker["model_version"] == VERSION


def test_errors_are_those_of_our_torchserve(url: str, torchserve_url: str, photo: bytes) -> None:
    invalid: list[tuple[Body, str]] = [
        (photo[:900], "image/jpeg"),
        (b"no photo", "image/png"),
        (b"", "image/jpeg"),
        (photo, "application/json"),
        (b"[1", "application/json"),
        (b'{"image": "%"}', "application/json"),
        (b'{"uri": 1, "expected_quantity": "x"}', "application/json"),
        (b"{}", "application/json"),
        (b"1,2,3", "text/csv"),
        (b"http://127.0.0.1/a.jpg", "string/url"),
        (b"s3://private/a.jpg", "string/url"),
    ]
    for body, content_type in invalid:
        sagemaker, torchserve = (ask(address, body, content_type) for address in (url, torchserve_url))
        assert sagemaker.status_code == torchserve.status_code, (content_type, sagemaker.text)
        assert sagemaker.json()["type"] == torchserve.json()["type"], (content_type, sagemaker.text)
        assert 400 <= sagemaker.status_code < 500
        assert "Traceback" not in sagemaker.text
    refusals = [ask(address, photo, "image/jpeg", expected_quantity="three") for address in (url, torchserve_url)]
    assert [refusal.status_code for refusal in refusals] == [422, 422]
    assert refusals[0].json() == refusals[1].json()


def test_jpeg_link_and_json_get_the_same_answer(url: str, photo: bytes) -> None:
    expected = ask(url, photo, "image/jpeg", expected_quantity=2).json()
    assert expected["expected_quantity"] == 2
    link = "s3://bins/a b/é.jpg"
    forms: list[tuple[Body, str]] = [
        (link.encode(), "string/url"),
        (b"https://bins.s3.amazonaws.com/a%20b/%C3%A9.jpg", "string/url"),
        (json.dumps({"uri": link}), "application/json"),
        (json.dumps({"image": encoded(photo)}), "application/json; charset=utf-8"),
        (photo, "application/octet-stream"),
    ]
    for body, content_type in forms:
        answer = ask(url, body, content_type, expected_quantity=2)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/json"
        assert comparable(answer.json()) == comparable(expected)


def test_a_record_gets_the_answer_of_our_torchserve(url: str, torchserve_url: str, photo: bytes) -> None:
    image = encoded(photo)
    contents: list[dict[str, object]] = [
        {"image": image, "attention": 1},
        {"image": image, "record": RECORD},
        {"image": image, "products": PRODUCTS, "weight": 0.6, "weight_unit": "lb"},
        {"image": image, "record": RECORD, "expected_quantity": 4},
        {"instances": [{"image": image, "record": RECORD}, {"image": image, "products": []}]},
    ]
    for content in contents:
        body = json.dumps(content)
        sagemaker, torchserve = (ask(address, body, "application/json") for address in (url, torchserve_url))
        assert sagemaker.status_code == torchserve.status_code
        entries = [answer.json() if "instances" in content else [answer.json()] for answer in (sagemaker, torchserve)]
        assert [comparable(entry) for entry in entries[0]] == [comparable(entry) for entry in entries[1]]
    assert [entry.get("expected_quantity") for entry in entries[0]] == [3, None]


def test_a_list_succeeds_or_fails_photo_by_photo(url: str, photo: bytes) -> None:
    instances = [
        {"image": encoded(photo)},
        {"uri": "s3://bins/text.jpg"},
        {"uri": "s3://bins/none.jpg"},
        {"uri": "s3://b/x"},
    ]
    answer = ask(url, json.dumps({"instances": instances}), "application/json")
    assert answer.status_code == 200
    assert [result["status"] for result in answer.json()] == [200, 400, 404, 422]


def test_the_transformer_alone_gives_the_same(
    toolkits: Path, base: Path, photo: bytes, url: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo)
    done = subprocess.run(
        [toolkits / "python", DRIVER, base / "model", tmp_path / "a.jpg"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"SAGEMAKER_BASE_DIR": str(base), "PYTHONPATH": str(base / "model" / "code"), "PATH": str(toolkits)},
    )
    assert done.returncode == 0, done.stderr
    answered, broken = map(json.loads, done.stdout.splitlines()[-2:])
    assert answered["status"] == 200
    assert answered["content_type"] == "application/json"
    assert comparable(json.loads(answered["body"])) == comparable(
        ask(url, photo, "image/jpeg", expected_quantity=3).json()
    )
    assert (broken["status"], json.loads(broken["body"])["type"]) == (400, "BadPhoto")
