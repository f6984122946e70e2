"""TorchServe's launcher, without TorchServe."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve.torchserve import launch


def test_models_that_a_killed_server_unpacked_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "0f3a" / "serve").mkdir(parents=True)
    (tmp_path / "models" / "0f3a" / "model.onnx").write_bytes(b"x")
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("TEMP", str(tmp_path))
    launch.remove_leftovers()
    launch.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_temporary_folder_of_others_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.chdir(tmp_path)
    launch.remove_leftovers()
    assert (tmp_path / "models").is_dir()


def test_without_torch_no_answer_is_a_tensor_and_none_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    tensor = launch.TorchForMessages("torch").Tensor
    assert isinstance(tensor, type)
    assert not isinstance({"count": 2}, tensor)
    assert "torch" not in sys.modules


def test_where_something_imported_torch_its_tensors_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=int))
    assert launch.TorchForMessages("torch").Tensor is int


CONFIG = """inference_address=http://0.0.0.0:8080
management_address=unix:/management/management.sock
metrics_address=unix:/management/metrics.sock
allowed_urls=file:///models/.*
model_store=/models
"""


def test_on_a_single_machine_the_configuration_stays() -> None:
    assert launch.networked({"BINWATCH_PROMOTER_URL": "http://promoter:8090"}, CONFIG) == CONFIG


def test_the_management_listens_in_its_network_alone_and_archives_come_from_the_promoter_alone() -> None:
    environ = {"BINWATCH_MANAGEMENT_NETWORK": "127.0.0.0/8", "BINWATCH_PROMOTER_URL": "http://10.9.0.2:8090/"}
    assert launch.networked(environ, CONFIG).splitlines() == [
        "inference_address=http://0.0.0.0:8080",
        "model_store=/models",
        "management_address=http://127.0.0.1:8081",
        "metrics_address=http://127.0.0.1:8082",
        "allowed_urls=http://10[.]9[.]0[.]2:8090/archives/.*",
    ]


@pytest.mark.parametrize("text", ["203.0.113.0/24", "management", "10.9.0.1/8"])
def test_a_network_in_which_this_host_has_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.partition("/")[0]):
        launch.networked({"BINWATCH_MANAGEMENT_NETWORK": text}, CONFIG)


def test_archives_that_a_killed_server_had_fetched_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, archive = tmp_path / "config.properties", tmp_path / "models" / "bin-counter-4.mar"
    config.write_text(CONFIG.replace("/models\n", f"{tmp_path}/models\n"))
    archive.parent.mkdir()
    archive.write_bytes(b"x")
    monkeypatch.setattr(sys, "argv", ["launch.py", "--ts-config", str(config)])
    launch.prepare_network()
    assert archive.is_file()
    assert sys.argv[2] == str(config)
    monkeypatch.setenv("BINWATCH_MANAGEMENT_NETWORK", "127.0.0.1/32")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    launch.prepare_network()
    assert not archive.exists()
    assert "management_address=http://127.0.0.1:8081" in Path(sys.argv[2]).read_text()
