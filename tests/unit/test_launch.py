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
