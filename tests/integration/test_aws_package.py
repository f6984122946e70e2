"""model.tar.gz, also for containers that are too old for the archive's own code."""

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from serve import counter
from serve.archives.archive import TORCHSERVE_MANIFEST, golden_photos, manifest_of, unpacked
from serve.aws import inference_torchscript
from serve.errors import ArchiveError, SettingsError
from serve.manifest import GPU_PROGRAM, MANIFEST_FILE
from tests.conftest import need
from tests.small_archives import contents, packed
from trainer.aws.endpoint import torchscript
from trainer.aws.endpoint.choose import choose_version
from trainer.aws.endpoint.images import ModelForm
from trainer.aws.endpoint.package import ModelChoice, archive_in, build
from trainer.training.run import Trained

TOO_OLD = Path(inference_torchscript.__file__)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return packed(tmp_path / "bin-counter.mar", contents())


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_a_package_holds_the_archive_s_files_and_the_code_that_answers(small: Path, tmp_path: Path) -> None:
    package = build(ModelChoice("3", small, 0.4), ModelForm.ONNX, tmp_path / "work")
    content = members(package.path)
    assert content["model.onnx"] == contents()["model.onnx"]
    assert content.keys() >= {"binwatch.json", "code/inference.py", "code/serve/__init__.py", "code/requirements.txt"}
    assert b"openvino==" in content["code/requirements.txt"]
    assert [photo.path.read_bytes() for photo in package.golden] == [contents()["golden/0.jpg"]]


def test_the_same_archive_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    first, second = (build(ModelChoice("3", small, 0.4), ModelForm.ONNX, tmp_path / name) for name in ("one", "two"))
    os.utime(small, (0, 0))
    assert first.sha256 == second.sha256 == build(ModelChoice("3", small, 0.4), ModelForm.ONNX, tmp_path / "one").sha256


def test_an_archive_s_own_code_is_packed(tmp_path: Path) -> None:
    own = {**contents(), "serve/inference.py": b"its = 'own'\n"}
    files = {name: data for name, data in own.items() if name not in (MANIFEST_FILE, TORCHSERVE_MANIFEST)}
    package = build(
        ModelChoice("3", packed(tmp_path / "own.mar", contents(files)), 0.4), ModelForm.ONNX, tmp_path / "work"
    )
    assert members(package.path)["code/inference.py"] == b"its = 'own'\n"
    assert members(package.path)["code/serve/__init__.py"] == own["serve/__init__.py"]


def test_an_archive_of_an_older_release_is_packed(tmp_path: Path) -> None:
    archive = Path(__file__).parents[1] / "data" / "bin-counter-8ed89dd.mar"
    package = build(ModelChoice("3", archive, 0.4), ModelForm.ONNX, tmp_path / "work")
    with unpacked(archive) as content:
        assert members(package.path)["code/inference.py"] == (content / "serve" / "inference.py").read_bytes()


def test_an_archive_without_the_code_for_the_container_is_refused(tmp_path: Path) -> None:
    files = {name: data for name, data in contents().items() if name != "serve/inference.py"}
    files = {name: data for name, data in files.items() if name not in (MANIFEST_FILE, TORCHSERVE_MANIFEST)}
    with pytest.raises(ArchiveError, match=r"serve/inference\.py"):
        build(ModelChoice("3", packed(tmp_path / "old.mar", contents(files)), 0.4), ModelForm.ONNX, tmp_path / "work")


def test_a_damaged_or_foreign_archive_is_not_packed(tmp_path: Path) -> None:
    damaged = packed(tmp_path / "damaged.mar", {**contents(), "model.onnx": b"other"})
    with pytest.raises(ArchiveError, match=r"model\.onnx"):
        build(ModelChoice("3", damaged, 0.4), ModelForm.ONNX, tmp_path / "work")
    with pytest.raises(ArchiveError, match="there is no archive"), archive_in(tmp_path / "none.mar"):
        pass
    (tmp_path / "text.mar").write_text("no zip")
    with pytest.raises(ArchiveError, match="not a whole archive"):
        build(ModelChoice("3", tmp_path / "text.mar", 0.4), ModelForm.ONNX, tmp_path / "work")


def test_a_training_job_s_output_is_taken_too(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.tar.gz"
    with tarfile.open(output, "w:gz") as tar:
        tar.add(small, "bin-counter.mar")
        tar.add(small, "evaluation.json")
    with archive_in(output) as archive:
        assert archive.read_bytes() == small.read_bytes()
    with tarfile.open(output, "w:gz") as tar:
        tar.add(small, "something-else")
    with pytest.raises(ArchiveError, match="holds 0 archives"), archive_in(output):
        pass


def test_a_local_archive_needs_its_evaluation(small: Path, tmp_path: Path) -> None:
    options = {"archive": small, "evaluation": None, "version": None, "dry_run": False}
    with pytest.raises(SettingsError, match="--evaluation"), choose_version(options, tmp_path):
        pass
    with (
        pytest.raises(SettingsError, match="cannot be read"),
        choose_version({**options, "evaluation": tmp_path / "no"}, tmp_path),
    ):
        pass


def test_what_runs_on_python_3_6_can_be_parsed_by_it() -> None:
    ast.parse(TOO_OLD.read_text(), feature_version=(3, 6))
    imported = {
        node.module or "" for node in ast.walk(ast.parse(TOO_OLD.read_text())) if isinstance(node, ast.ImportFrom)
    }
    assert not [name for name in imported if name.split(".")[0] in ("serve", "trainer", "dataclasses", "__future__")]


class Squares(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = torch.special.erfcx(pixels.float()).sum((1, 2))
        return logits


def test_a_network_that_torch_1_5_1_cannot_run_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(Squares(), (torch.zeros((2, 4, 4, 3), dtype=torch.uint8),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(ArchiveError, match="special_erfcx"):
        torchscript.write(tmp_path / "model.pt2", tmp_path / "model.pt")
    with pytest.raises(ArchiveError, match="export again"):
        torchscript.write(tmp_path / "none.pt2", tmp_path / "model.pt")


@pytest.fixture(scope="module")
def aged(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained archive for Elastic Inference, unpacked."""
    work = tmp_path_factory.mktemp("aged")
    package = build(ModelChoice("3", trained.archive, 0.4), ModelForm.TORCHSCRIPT, work)
    with tarfile.open(package.path) as tar:
        tar.extractall(work / "model", filter="data")
    return work


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_torchscript_answers_as_the_program_does_in_torch_1_5_1_s_format(trained: Trained, aged: Path) -> None:
    with unpacked(trained.archive) as content:
        run = counter.torch_runner(content / GPU_PROGRAM, "cpu")
        pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        expected = run(pixels)
    logits = torch.jit.load(aged / "model" / "model.pt")(torch.tensor(pixels))  # type: ignore[no-untyped-call]
    assert np.abs(logits.detach().numpy() - expected.logits).max() < 1e-5
    with zipfile.ZipFile(aged / "model" / "model.pt") as content:
        assert content.read("model/version") == b"2\n"
        code = [content.read(name) for name in content.namelist() if name.endswith(".py")]
    assert code
    assert b"__buffers__" not in b"".join(code)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_its_inference_gives_the_answers_that_the_archive_promises(
    trained: Trained, aged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_MODEL_VERSION", "3")
    model = inference_torchscript.model_fn(str(aged / "model"))
    manifest = manifest_of(trained.archive)
    for number, (photo, _) in enumerate(golden_photos(trained.archive)):
        decoded = inference_torchscript.input_fn(photo, "image/jpeg")
        body, content_type = inference_torchscript.output_fn(inference_torchscript.predict_fn(decoded, model), "*/*")
        answer = json.loads(body)
        off = np.abs(np.array(list(answer["probabilities"].values())) - manifest.for_gpu().golden[number].probabilities)
        assert off.max() < manifest.tolerance
        assert (answer["model_version"], content_type) == ("3", "application/json")
    for decoded, status in (((200, b"no photo"), 400), (inference_torchscript.input_fn(b"{}", "text/csv"), 415)):
        assert inference_torchscript.predict_fn(decoded, model)[0] == status


IN_OLD_PYTHON = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1] + "/code")
import inference
model = inference.model_fn(sys.argv[1])
for name in sys.argv[2:]:
    decoded = inference.input_fn(open(name, "rb").read(), "image/jpeg")
    print(inference.output_fn(inference.predict_fn(decoded, model), "application/json")[0])
"""


def test_it_runs_on_python_3_6_with_torch_1_5_1(trained: Trained, aged: Path) -> None:
    """BINWATCH_PYTHON36 names such a Python, with torch 1.5.1, numpy and Pillow."""
    python = os.environ.get("BINWATCH_PYTHON36", "")
    need("python36", bool(python), "BINWATCH_PYTHON36 names no Python 3.6 with torch 1.5.1")
    photos = sorted((aged / "3").glob("golden-*"))
    command = [python, "-c", IN_OLD_PYTHON, str(aged / "model"), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    manifest = manifest_of(trained.archive).for_gpu()
    for line, golden in zip(done.stdout.splitlines(), manifest.golden, strict=True):
        probabilities = np.array(list(json.loads(line)["probabilities"].values()))
        assert np.abs(probabilities - golden.probabilities).max() < manifest.tolerance


AS_IN_THE_CONTAINER = """
import sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
class Context:
    system_properties = {}
    def get_all_request_header(self, index): return {}
    def set_response_status(self, code, phrase): raise SystemExit(f"{code} {phrase}")
context = Context()
model = inference.model_fn(sys.argv[1], context)
for name in sys.argv[2:]:
    decoded = inference.input_fn(open(name, "rb").read(), "image/jpeg", context)
    print(inference.output_fn(inference.predict_fn(decoded, model), "application/json", context)[0])
"""


def test_the_package_answers_by_itself_as_its_archive_promises(trained: Trained, tmp_path: Path) -> None:
    """In a process that can import nothing of this project but what is in the package."""
    package = build(ModelChoice("3", trained.archive, 0.4), ModelForm.ONNX, tmp_path / "work")
    with tarfile.open(package.path) as tar:
        tar.extractall(tmp_path / "model", filter="data")
    command = [
        sys.executable,
        "-c",
        AS_IN_THE_CONTAINER,
        str(tmp_path / "model"),
        *(str(photo.path) for photo in package.golden),
    ]
    environ = {**os.environ, "BINWATCH_MODEL_VERSION": "3", "PYTHONSAFEPATH": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=300)
    assert done.returncode == 0, done.stderr
    for line, golden in zip(done.stdout.splitlines(), package.golden, strict=True):
        probabilities = np.array(list(json.loads(line)["probabilities"].values()))
        assert min(np.abs(probabilities - row).max() for row in golden.promised) <= package.tolerance
        assert json.loads(line)["model_version"] == "3"
